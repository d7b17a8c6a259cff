//! Requests that still come to a daemon that has handed over: clients keep their connections.
//!
//! They are passed on to the successor, which takes whatever comes to the listening socket, and answered
//! with `connection: close`: the next one goes there by itself. With HTTPS they are refused, to be sent again at
//! once: the successor would have to be spoken to in a name that only the client knows.
//!
//! Owns: passing on, unseen. Must never do: judge a request; the successor does.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use actix_web::body::{BodyStream, BoxBody, SizedStream};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::http::header::{self, HeaderMap, HeaderName};
use actix_web::{HttpRequest, HttpResponse};
use chat_proxy_core::{ApiError, Code};
use futures_util::TryStreamExt;

use super::error;
use crate::life::{Life, Running};

/// A successor that serves takes a connection at once.
const CONNECT: Duration = Duration::from_secs(30);
/// Of one connection alone (RFC 9110, 7.6.1), and what the client library says itself.
const OF_A_CONNECTION: [HeaderName; 5] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::CONTENT_LENGTH,
    header::UPGRADE,
    header::TE,
];

/// Has the successor answer; that counts as a running request.
pub(super) async fn answer(
    request: ServiceRequest,
    successor: SocketAddr,
    request_id: &str,
    life: &Arc<Life>,
) -> ServiceResponse<BoxBody> {
    let (request, payload) = request.into_parts();
    let answered = tokio::select! {
        answered = pass_on(&request, payload, successor, request_id, life.enter()) => answered,
        // Its socket takes connections all the same, for nobody.
        () = life.until_bereft() => Err("it does not serve".to_owned()),
    };
    let response = answered.unwrap_or_else(|why| {
        tracing::warn!(why, "a request could not be passed on to the new daemon");
        let message = "the proxy hands over to a new one, which did not answer";
        error::respond(&ApiError::new(Code::Draining, message))
    });
    ServiceResponse::new(request, response)
}

async fn pass_on(
    request: &HttpRequest,
    payload: Payload,
    successor: SocketAddr,
    request_id: &str,
    running: Running,
) -> Result<HttpResponse, String> {
    // Never where an absolute address in the request's line might lead.
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let url = format!("http://{}{path}", reachable(successor));
    let connector = awc::Connector::new().timeout(CONNECT);
    let client = awc::Client::builder()
        .connector(connector)
        .disable_timeout()
        .disable_redirects()
        .no_default_headers()
        .finish();
    let mut sent = client.request(request.method().clone(), url).no_decompress();
    for (name, value) in passed(request.headers()) {
        sent = sent.append_header((name.clone(), value.clone()));
    }
    sent = sent.insert_header(("x-request-id", request_id));
    let length = length(request.headers());
    let payload = payload.map_err(|error| Box::new(error) as Box<dyn std::error::Error>);
    let sent = match length {
        Some(0) => sent.send(),
        Some(length) => sent.send_body(SizedStream::new(length, payload)),
        None if request.headers().contains_key(header::TRANSFER_ENCODING) => {
            sent.send_body(BodyStream::new(payload))
        }
        None => sent.send(),
    };
    let answer = sent.await.map_err(|error| error.to_string())?;
    let mut builder = HttpResponse::build(answer.status());
    for (name, value) in passed(answer.headers()) {
        builder.append_header((name.clone(), value.clone()));
    }
    let length = self::length(answer.headers());
    let body = answer.map_err(std::io::Error::other).inspect_ok(move |_| {
        // It runs until its last byte has gone.
        let _ = &running;
    });
    Ok(match length {
        Some(length) => builder.body(SizedStream::new(length, body)),
        None => builder.streaming(body),
    })
}

fn passed(headers: &HeaderMap) -> impl Iterator<Item = (&HeaderName, &header::HeaderValue)> {
    headers.iter().filter(|(name, _)| !OF_A_CONNECTION.contains(name))
}

fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Where somebody on this machine reaches a socket that listens there.
fn reachable(listening: SocketAddr) -> SocketAddr {
    let ip = match listening.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listening.port())
}
