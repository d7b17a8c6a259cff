//! Ollama's own protocol, as far as we speak it ourselves: what it has, what it has loaded, load
//! and unload.
//!
//! Owns: the calls, each with its bound, and what their failures mean. Must never do: try again;
//! whoever calls knows whether that helps.

use std::io::ErrorKind;
use std::time::Duration;

use awc::error::{ConnectError, SendRequestError};
use awc::http::header;
use bytes::Bytes;
use chat_proxy_core::chat::ollama::{Loaded, Tag, parse_abilities, parse_ps, parse_tags};
use chat_proxy_core::chat::unary;
use chat_proxy_core::registry::Endpoint;
use chat_proxy_core::registry::ollama::native;

use crate::client::{Clients, key_of};

/// An Ollama that works answers simple questions within this.
pub(super) const ASK: Duration = Duration::from_secs(5);
/// The longest answer that is read.
const MAX_ANSWER: usize = 16 << 20;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Trouble {
    /// Nobody listens there.
    #[error("nothing listens at {0}")]
    Refused(String),
    /// It was not reached, or broke off.
    #[error("{address} cannot be asked: {why}")]
    Broken {
        /// Where.
        address: String,
        /// The words of the connection.
        why: String,
    },
    /// It took too long.
    #[error("{address} did not answer within {} s", .limit.as_secs_f64())]
    Late {
        /// Where.
        address: String,
        /// The bound.
        limit: Duration,
    },
    /// It answered with an error.
    #[error("{message}")]
    Status {
        /// HTTP status.
        status: u16,
        /// Its words.
        message: String,
    },
    /// It answered something that Ollama does not say.
    #[error("{address} does not speak Ollama's protocol: {why}")]
    Nonsense {
        /// Where.
        address: String,
        /// What it said instead.
        why: String,
    },
}

impl Trouble {
    /// Nobody is there who could have a model loaded, or be started.
    pub(super) fn is_absence(&self) -> bool {
        matches!(self, Trouble::Refused(_))
    }
}

/// What is loaded.
pub(super) async fn ps(clients: &Clients, server: &Endpoint) -> Result<Vec<Loaded>, Trouble> {
    let body = get(clients, server, "/api/ps").await?;
    parse_ps(&body).map_err(|error| nonsense(server, error.to_string()))
}

/// What it has.
pub(super) async fn tags(clients: &Clients, server: &Endpoint) -> Result<Vec<Tag>, Trouble> {
    let body = get(clients, server, "/api/tags").await?;
    parse_tags(&body).map_err(|error| nonsense(server, error.to_string()))
}

/// What a model can do, if it says so.
pub(super) async fn abilities(
    clients: &Clients,
    server: &Endpoint,
    name: &str,
) -> Result<Option<Vec<String>>, Trouble> {
    let body = Bytes::from(serde_json::json!({ "model": name }).to_string());
    let body = post(clients, server, "/api/show", body, Some(ASK)).await?;
    parse_abilities(&body).map_err(|error| nonsense(server, error.to_string()))
}

async fn get(clients: &Clients, server: &Endpoint, path: &str) -> Result<Bytes, Trouble> {
    call(clients, server, path, None, Some(ASK)).await
}

/// Sends an order such as a load; `limit`: none means none.
pub(super) async fn post(
    clients: &Clients,
    server: &Endpoint,
    path: &str,
    body: Bytes,
    limit: Option<Duration>,
) -> Result<Bytes, Trouble> {
    call(clients, server, path, Some(body), limit).await
}

async fn call(
    clients: &Clients,
    server: &Endpoint,
    path: &str,
    body: Option<Bytes>,
    limit: Option<Duration>,
) -> Result<Bytes, Trouble> {
    let asking = exchange(clients, server, path, body);
    let Some(limit) = limit else { return asking.await };
    let late = Trouble::Late { address: server.origin().to_owned(), limit };
    tokio::time::timeout(limit, asking).await.unwrap_or(Err(late))
}

async fn exchange(
    clients: &Clients,
    server: &Endpoint,
    path: &str,
    body: Option<Bytes>,
) -> Result<Bytes, Trouble> {
    let broken = |why: String| Trouble::Broken { address: server.origin().to_owned(), why };
    let client = clients.get(server).map_err(|error| broken(error.to_string()))?;
    let url = native(server, path);
    let request = if body.is_some() { client.post(url) } else { client.get(url) };
    let mut request = request.no_decompress().insert_header((header::ACCEPT_ENCODING, "identity"));
    if let Some(name) = &server.api_key_env {
        request = request.bearer_auth(key_of(name).map_err(|error| broken(error.message))?);
    } else if let Some(user) = &server.userinfo {
        request = request.basic_auth(&user.user, &user.password);
    }
    let sent = match body {
        Some(body) => request.content_type("application/json").send_body(body),
        None => request.send(),
    };
    let mut response = sent.await.map_err(|error| unsent(server, &error))?;
    let length = response.headers().get(header::CONTENT_LENGTH).cloned();
    let body =
        response.body().limit(MAX_ANSWER).await.map_err(|error| broken(error.to_string()))?;
    let promised = length.and_then(|value| value.to_str().ok()?.trim().parse::<usize>().ok());
    if promised.is_some_and(|promised| promised != body.len()) {
        return Err(broken("its answer broke off".to_owned()));
    }
    let status = response.status().as_u16();
    if response.status().is_success() {
        return Ok(body);
    }
    let message = unary::server_error(status, &body).message;
    Err(Trouble::Status { status, message })
}

fn unsent(server: &Endpoint, error: &SendRequestError) -> Trouble {
    let address = server.origin().to_owned();
    match error {
        SendRequestError::Connect(ConnectError::Io(io)) if is_absence(io.kind()) => {
            Trouble::Refused(address)
        }
        // A container that is stopped has no name.
        SendRequestError::Connect(ConnectError::Resolver(_) | ConnectError::NoRecords) => {
            Trouble::Refused(address)
        }
        other => Trouble::Broken { address, why: other.to_string() },
    }
}

/// Nobody can be there.
fn is_absence(kind: ErrorKind) -> bool {
    use ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
    matches!(kind, ConnectionRefused | HostUnreachable | NetworkUnreachable)
}

pub(super) fn nonsense(server: &Endpoint, why: String) -> Trouble {
    Trouble::Nonsense { address: server.origin().to_owned(), why }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_where_nobody_can_be_is_an_absence() {
        let absent = |error: ConnectError| {
            unsent(&Endpoint::loopback(9), &SendRequestError::Connect(error)).is_absence()
        };
        let io = |kind: ErrorKind| ConnectError::Io(kind.into());
        for kind in [
            ErrorKind::ConnectionRefused,
            ErrorKind::HostUnreachable,
            ErrorKind::NetworkUnreachable,
        ] {
            assert!(absent(io(kind)), "{kind}");
        }
        // A container that is stopped has no name.
        assert!(absent(ConnectError::NoRecords));
        assert!(absent(ConnectError::Resolver("no such name".into())));
        // Somebody is there, or may be.
        assert!(!absent(io(ErrorKind::ConnectionReset)));
        assert!(!absent(ConnectError::Timeout));
    }
}
