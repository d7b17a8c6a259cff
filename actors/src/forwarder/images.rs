//! Images that a request names by address, fetched for a backend that cannot (SPEC 5.3).
//!
//! Owns: the fetching and its limits: number, size, time, redirects, and whom it asks. Must never
//! do: ask a private address unless the settings say so. Names are resolved here, once, and the
//! connection goes to the very address that was looked at: a name cannot mean another one later.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use awc::http::header;
use bytes::{Bytes, BytesMut};
use chat_proxy_core::ApiError;
use chat_proxy_core::chat::remote::is_private;
use futures_util::StreamExt;
use url::Url;

use crate::client;

/// As many images of one request are fetched.
const MAX_IMAGES: usize = 16;
/// An image moves at most so often.
const MAX_REDIRECTS: usize = 3;
/// All of them together take no longer.
const TIME: Duration = Duration::from_secs(30);

/// What the settings allow.
#[derive(Debug, Clone, Copy)]
pub struct ImageRules {
    /// Fetch at all.
    pub fetch: bool,
    /// Also from private addresses.
    pub private: bool,
    /// All images of a request together, in bytes.
    pub max_bytes: u64,
}

/// Fetches all.
pub(super) async fn fetch_all(
    urls: &[String],
    rules: &ImageRules,
) -> Result<HashMap<String, Bytes>, ApiError> {
    if urls.len() > MAX_IMAGES {
        let message = format!("{} remote images; at most {MAX_IMAGES} are fetched", urls.len());
        return Err(refuse(message));
    }
    let inside: Inside = if rules.private { |_| false } else { is_private };
    let fetching = async {
        let mut fetched = HashMap::new();
        let mut left = rules.max_bytes;
        for url in urls {
            let bytes = fetch(url, rules, left, inside).await?;
            left -= bytes.len() as u64;
            fetched.insert(url.clone(), bytes);
        }
        Ok(fetched)
    };
    let late =
        || Err(refuse(format!("the remote images did not come within {} s", TIME.as_secs())));
    tokio::time::timeout(TIME, fetching).await.unwrap_or_else(|_| late())
}

fn refuse(message: String) -> ApiError {
    // Addresses of images are a part of the conversation.
    ApiError::invalid("messages", message).quoting().hint("send images as data: URIs")
}

/// Whether an address is one that is not asked.
type Inside = fn(IpAddr) -> bool;

async fn fetch(url: &str, rules: &ImageRules, max: u64, inside: Inside) -> Result<Bytes, ApiError> {
    let mut at =
        Url::parse(url).map_err(|e| refuse(format!("{} is no address: {e}", shown(url))))?;
    for _ in 0..=MAX_REDIRECTS {
        match get(&at, rules, max, inside).await? {
            Got::Image(bytes) => return Ok(bytes),
            Got::Moved(to) => {
                at = at
                    .join(&to)
                    .map_err(|e| refuse(format!("{} moved to no address: {e}", shown(url))))?;
            }
        }
    }
    Err(refuse(format!("{} moved more than {MAX_REDIRECTS} times", shown(url))))
}

/// Addresses may be long, and may hold tokens behind a question mark.
fn shown(url: &str) -> String {
    url.split(['?', '#']).next().unwrap_or_default().chars().take(100).collect()
}

enum Got {
    Image(Bytes),
    Moved(String),
}

async fn get(url: &Url, rules: &ImageRules, max: u64, inside: Inside) -> Result<Got, ApiError> {
    let name = shown(url.as_str());
    let fail = |why: String| refuse(format!("{name} cannot be fetched: {why}"));
    if !matches!(url.scheme(), "http" | "https") {
        return Err(fail(format!("{} is not http or https", url.scheme())));
    }
    let address = resolve(url, inside).await.map_err(fail)?;
    let client = client::fresh(url.scheme() == "https");
    let request = client
        .get(url.as_str())
        .no_decompress()
        .address(address)
        .insert_header((header::ACCEPT, "image/*"))
        .insert_header((header::ACCEPT_ENCODING, "identity"));
    let mut response = request.send().await.map_err(|e| fail(e.to_string()))?;
    let status = response.status();
    if status.is_redirection() {
        let to = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
        return to
            .map(|to| Got::Moved(to.to_owned()))
            .ok_or_else(|| fail("it moved to nowhere".into()));
    }
    if !status.is_success() {
        return Err(fail(format!("HTTP {}", status.as_u16())));
    }
    let length = response.headers().get(header::CONTENT_LENGTH).cloned();
    let length = length.and_then(|value| value.to_str().ok()?.trim().parse::<u64>().ok());
    let mut bytes = BytesMut::new();
    while let Some(chunk) = response.next().await {
        let chunk = chunk.map_err(|e| fail(e.to_string()))?;
        if (bytes.len() + chunk.len()) as u64 > max {
            return Err(fail(format!("images of one request may have {} bytes", rules.max_bytes))
                .hint("raise max_image_bytes, or send smaller images"));
        }
        bytes.extend_from_slice(&chunk);
    }
    if bytes.is_empty() || length.is_some_and(|length| length != bytes.len() as u64) {
        return Err(fail("the answer broke off".to_owned()));
    }
    Ok(Got::Image(bytes.freeze()))
}

/// The address to connect to: all that the name means must be allowed.
async fn resolve(url: &Url, inside: Inside) -> Result<SocketAddr, String> {
    let port = url.port_or_known_default().unwrap_or(80);
    let host = url.host_str().ok_or("it names no host")?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let found = tokio::net::lookup_host((host, port)).await.map_err(|e| e.to_string())?;
    let found: Vec<SocketAddr> = found.collect();
    if found.iter().any(|address| inside(address.ip())) {
        return Err(
            "its address is private (fetch_remote_images_private = true allows that)".into()
        );
    }
    found.first().copied().ok_or_else(|| "its name has no address".to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::Ipv4Addr;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// Another address of this machine, which is taken for one outside.
    const OUTSIDE: &str = "127.0.0.2:0";

    /// Answers everybody so; how many have asked.
    async fn serve(addr: &str, answer: String) -> (SocketAddr, Arc<AtomicUsize>) {
        let listener = TcpListener::bind(addr).await.unwrap();
        let (addr, asked) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let count = asked.clone();
        actix_rt::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        (addr, asked)
    }

    fn moved(to: &str) -> String {
        format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n")
    }

    #[actix_rt::test]
    async fn whoever_is_asked_leads_nobody_inside() {
        let inside: Inside = |address| address == IpAddr::V4(Ipv4Addr::LOCALHOST);
        let rules = ImageRules { fetch: true, private: false, max_bytes: 1000 };
        let ok = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecret";
        let (secret, asked) = serve("127.0.0.1:0", ok.to_owned()).await;
        let port = secret.port();
        for to in [
            format!("http://127.0.0.1:{port}/"),
            format!("//127.0.0.1:{port}/"),
            format!("http://localhost:{port}/"),
            format!("http://0x7f000001:{port}/"),
            format!("https://127.1:{port}/"),
        ] {
            let (there, _) = serve(OUTSIDE, moved(&to)).await;
            let error = fetch(&format!("http://{there}/"), &rules, 1000, inside).await.unwrap_err();
            assert!(error.message.contains("private"), "{to}: {}", error.message);
        }
        let (there, _) = serve(OUTSIDE, moved("file:///etc/passwd")).await;
        let error = fetch(&format!("http://{there}/"), &rules, 1000, inside).await.unwrap_err();
        assert!(error.message.contains("not http"), "{}", error.message);
        assert_eq!(asked.load(Ordering::SeqCst), 0);
        let (there, _) = serve(OUTSIDE, ok.to_owned()).await;
        let image = fetch(&format!("http://{there}/"), &rules, 1000, inside).await;
        assert_eq!(image.ok().as_deref(), Some(&b"secret"[..]), "an address outside is asked");
    }
}
