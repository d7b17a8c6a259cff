//! The running daemon, asked over HTTP.
//!
//! Owns: requests, their bounds, what a failed one means. Must never do: wait without a bound.

use std::io;
use std::time::Duration;

use awc::error::{ConnectError, SendRequestError};
use awc::http::header::{ACCEPT, AUTHORIZATION, USER_AGENT};
use awc::{Client, ClientRequest, ClientResponse};
use bytes::Bytes;
use chat_proxy_actors::client;
use futures_util::{Stream, StreamExt};
use serde_json::Value;

use super::error::{CliError, Refusal};
use super::place::Address;

/// A list of many thousand models is some megabytes.
const LARGEST_ANSWER: usize = 64 << 20;

/// See the module. Clones share their connections.
#[derive(Clone)]
pub(super) struct Daemon {
    client: Client,
    address: Address,
    timeout: Duration,
}

/// A body that comes piece by piece.
pub(super) type Pieces = std::pin::Pin<Box<dyn Stream<Item = Result<Bytes, CliError>>>>;

impl Daemon {
    pub(super) fn new(address: Address, timeout: Duration) -> Self {
        let client = match &address.certificate {
            Some(file) => client::fresh_for_own(file),
            None => client::fresh(address.base.starts_with("https:")),
        };
        Daemon { client, address, timeout }
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value, CliError> {
        self.within(self.timeout, self.answer(self.request("GET", path), None)).await?
    }

    /// An order whose answer comes when it is done.
    pub(super) async fn post(
        &self,
        path: &str,
        body: &Value,
        within: Duration,
    ) -> Result<Value, CliError> {
        let request = self.request("POST", path);
        self.within(within, self.answer(request, Some(body))).await?
    }

    /// The same with a header.
    pub(super) async fn post_with(
        &self,
        path: &str,
        header: (&'static str, &'static str),
        body: &Value,
        within: Duration,
    ) -> Result<Value, CliError> {
        let request = self.request("POST", path).insert_header(header);
        self.within(within, self.answer(request, Some(body))).await?
    }

    /// An order whose answer is short and soon.
    pub(super) async fn order(&self, path: &str, body: &Value) -> Result<Value, CliError> {
        self.post(path, body, self.timeout).await
    }

    /// An answer that is a text.
    pub(super) async fn text(&self, path: &str) -> Result<String, CliError> {
        let read = async {
            let response = self.send(self.request("GET", path), None).await?;
            let bytes = self.body(response).await?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        self.within(self.timeout, read).await?
    }

    /// An answer that goes on; each piece comes within `silence`, or it is an error.
    pub(super) async fn open(&self, path: &str, silence: Duration) -> Result<Pieces, CliError> {
        let response = self.within(self.timeout, self.send(self.request("GET", path), None));
        let response = response.await??;
        let pieces = futures_util::stream::unfold(
            (Some(response), self.clone()),
            move |(response, daemon)| async move {
                let mut response = response?;
                let piece = match tokio::time::timeout(silence, response.next()).await {
                    Ok(None) => return None,
                    Ok(Some(Ok(piece))) => return Some((Ok(piece), (Some(response), daemon))),
                    Ok(Some(Err(error))) => {
                        Err(daemon.unreachable(format!("it broke off: {error}")))
                    }
                    Err(_) => Err(daemon.unreachable("it is silent")),
                };
                Some((piece, (None, daemon)))
            },
        );
        Ok(Box::pin(pieces))
    }

    fn request(&self, method: &str, path: &str) -> ClientRequest {
        let url = format!("{}{path}", self.address.base);
        let method = if method == "GET" { awc::http::Method::GET } else { awc::http::Method::POST };
        let request = self
            .client
            .request(method, url)
            .insert_header((ACCEPT, "application/json, text/plain, text/event-stream"))
            .insert_header((USER_AGENT, concat!("imageworks-models/", env!("CARGO_PKG_VERSION"))));
        match &self.address.key {
            Some(key) => request.insert_header((AUTHORIZATION, format!("Bearer {key}"))),
            None => request,
        }
    }

    async fn within<T>(
        &self,
        bound: Duration,
        work: impl Future<Output = T>,
    ) -> Result<T, CliError> {
        let late = || self.unreachable(format!("no answer within {} s", bound.as_secs_f64()));
        tokio::time::timeout(bound, work).await.map_err(|_| late())
    }

    async fn answer(
        &self,
        request: ClientRequest,
        body: Option<&Value>,
    ) -> Result<Value, CliError> {
        let response = self.send(request, body).await?;
        let status = response.status().as_u16();
        let bytes = self.body(response).await?;
        serde_json::from_slice(&bytes).map_err(|_| self.stranger(status))
    }

    /// A response that is no refusal.
    async fn send(
        &self,
        request: ClientRequest,
        body: Option<&Value>,
    ) -> Result<ClientResponse, CliError> {
        let sent = match body {
            Some(body) => request.send_json(body).await,
            None => request.send().await,
        };
        let response = sent.map_err(|error| self.unsent(&error))?;
        let status = response.status().as_u16();
        if status < 400 {
            return Ok(response);
        }
        let bytes = self.body(response).await?;
        let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let refusal = Refusal::read(status, &body).ok_or_else(|| self.stranger(status))?;
        Err(CliError::Refused(refusal))
    }

    async fn body(&self, mut response: ClientResponse) -> Result<Bytes, CliError> {
        let read = response.body().limit(LARGEST_ANSWER).await;
        read.map_err(|error| self.unreachable(format!("its answer broke off: {error}")))
    }

    fn unsent(&self, error: &SendRequestError) -> CliError {
        match error {
            SendRequestError::Connect(ConnectError::Io(error))
                if error.kind() == io::ErrorKind::ConnectionRefused =>
            {
                CliError::NotRunning { url: self.address.base.clone() }
            }
            error => self.unreachable(error.to_string()),
        }
    }

    fn unreachable(&self, why: impl Into<String>) -> CliError {
        CliError::Unreachable { url: self.address.base.clone(), why: why.into() }
    }

    fn stranger(&self, status: u16) -> CliError {
        CliError::Stranger { url: self.address.base.clone(), status }
    }
}

/// A name as a part of a path.
pub(super) fn in_path(name: &str) -> String {
    let as_it_is = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/:".contains(&byte);
    name.bytes()
        .map(
            |byte| {
                if as_it_is(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }
            },
        )
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_their_way_into_a_path() {
        assert_eq!(in_path("qwen2.5vl_7b_(Q4_K_M)"), "qwen2.5vl_7b_%28Q4_K_M%29");
        assert_eq!(in_path("org/q:7b é?#%"), "org/q:7b%20%C3%A9%3F%23%25");
    }
}
