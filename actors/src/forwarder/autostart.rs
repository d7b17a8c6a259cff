//! A request whose backend is not there, and a service that would be.
//!
//! Owns: asking for the service, and what the client is told. Must never do: start anything; that
//! is the `AutostartActor`'s, once for all who ask.

use chat_proxy_core::registry::Endpoint;
use chat_proxy_core::{ApiError, Code};
use tokio::sync::oneshot;

use super::patience;
use super::reply::Reply;
use super::task::Request;
use crate::autostart::messages::EnsureStarted;
use crate::transcript::Transcript;

/// Waits until the service is there; `None`: the request has ended. `error`: what the request met.
pub(super) async fn start(
    request: &Request<'_>,
    service: &str,
    endpoint: &Endpoint,
    error: ApiError,
    mut reply: Reply,
    transcript: &mut Transcript,
) -> Option<Reply> {
    let began = std::time::Instant::now();
    let (answer, outcome) = oneshot::channel();
    let order = EnsureStarted {
        service: service.to_owned(),
        probe: Some(endpoint.clone()),
        by_request: true,
        reply: answer,
    };
    if request.shared.turns.services.tell(order).is_err() {
        reply.refuse(error, transcript);
        return None;
    }
    let (shared, stream) = (request.shared, request.prepared.stream);
    let state = format!("the service {service} is starting");
    let waited = patience::wait(shared, stream, &state, outcome, &mut reply, transcript).await;
    transcript.waited(std::time::Duration::ZERO, began.elapsed());
    match waited {
        Err(why) => reply.interrupted(why, transcript),
        Ok(Ok(Ok(()))) => return Some(reply),
        Ok(Ok(Err(refusal))) => reply.refuse(refusal, transcript),
        // The actor died over it; the next request finds its successor.
        Ok(Err(_)) => {
            let message =
                format!("the service {service} was not started: a part of the proxy failed");
            reply.refuse(ApiError::new(Code::BackendUnavailable, message), transcript);
        }
    }
    None
}
