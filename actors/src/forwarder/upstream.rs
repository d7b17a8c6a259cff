//! One request to a backend, and its answer as events.
//!
//! Owns: the request's head (SPEC 6.3), the connection, and what its failures are called. Must
//! never do: judge whether an answer is complete. awc reports a cut body as a clean end (all but
//! a reset), so [`Event::End`] promises nothing. Dropping an `Upstream` closes the connection at
//! once; that is how the backend learns that nobody listens any more.

use std::any::Any;
use std::io::ErrorKind;
use std::pin::Pin;
use std::task::{Context, Poll};

use actix_http::error::ParseError;
use actix_http::{HttpMessage, Payload};
use awc::error::{ConnectError, SendRequestError};
use awc::http::StatusCode;
use awc::http::header::{self, HeaderName};
use awc::{ClientResponse, FrozenClientRequest, SendClientRequest};
use bytes::Bytes;
use chat_proxy_core::{ApiError, Code};
use futures_core::Stream;

use super::body::Pieces;
use super::cargo::{Cargo, Target};
use super::messages::RequestMeta;
use crate::permits::{Permit, Pulse};

/// What comes from a backend.
pub(super) enum Event {
    /// The response's head.
    Head(Head),
    /// Bytes of its body.
    Chunk(Bytes),
    /// The body has ended, or was cut.
    End,
    /// The connection failed.
    Failed(ApiError),
    /// It was refused or dropped before a byte of an answer came; what was sent can be sent again.
    Unsent(Box<Returned>),
}

/// A request that came back.
pub(super) struct Returned {
    pub(super) error: ApiError,
    /// No connection was made at all.
    pub(super) unreachable: bool,
    pub(super) cargo: Box<Cargo>,
}

/// What matters of a response's head.
#[derive(Debug, Clone)]
pub(super) struct Head {
    pub(super) status: StatusCode,
    pub(super) content_type: String,
    pub(super) content_length: Option<u64>,
    pub(super) retry_after: Option<String>,
    pub(super) location: Option<String>,
}

enum State {
    Sending(SendClientRequest),
    Flowing(Payload),
    Over,
}

/// See the module.
pub(super) struct Upstream {
    state: State,
    address: String,
    /// Given back when the head has come.
    held: Option<Held>,
    /// Of a supervised engine: beats with every piece.
    pulse: Option<Pulse>,
}

/// What is held while a request is sent.
enum Held {
    /// Its share of the memory for waiting bodies.
    Share { _share: Box<dyn Any + Send> },
    /// All of it: it may have to be sent again.
    Again(Box<Cargo>),
}

impl Upstream {
    /// Sends a request with this head; nothing happens until it is polled.
    pub(super) fn send(
        head: &FrozenClientRequest,
        target: &Target<'_>,
        meta: &RequestMeta,
        cargo: Box<Cargo>,
    ) -> Upstream {
        // The pieces are slices of the client's body: keeping that copies nothing.
        let body = cargo.request.pieces(target.served_id);
        let content_type = cargo.request.content_type();
        let mut request = head.extra_header((REQUEST_ID, meta.upstream_id.as_str()));
        if content_type != JSON {
            request = request.extra_header((header::CONTENT_TYPE, content_type));
        }
        if let Some(user_agent) = &meta.user_agent {
            request = request.extra_header((header::USER_AGENT, user_agent.as_str()));
        }
        if let Some(traceparent) = &meta.traceparent {
            request = request.extra_header((TRACEPARENT, traceparent.as_str()));
        }
        let held = if target.may_return {
            Held::Again(cargo)
        } else {
            Held::Share { _share: cargo.share }
        };
        Upstream {
            state: State::Sending(request.send_body(Pieces::new(body))),
            address: target.endpoint.base().to_owned(),
            held: Some(held),
            pulse: target.permit.map(Permit::pulse),
        }
    }

    /// The next event; safe to drop and call again.
    pub(super) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        match &mut self.state {
            State::Sending(sending) => {
                let outcome = std::task::ready!(Pin::new(sending).poll(cx));
                let held = self.held.take();
                Poll::Ready(self.begun(outcome, held))
            }
            State::Flowing(body) => {
                let next = std::task::ready!(Pin::new(body).poll_next(cx));
                Poll::Ready(match next {
                    Some(Ok(bytes)) => {
                        if let Some(pulse) = &self.pulse {
                            pulse.beat();
                        }
                        Event::Chunk(bytes)
                    }
                    None => self.over(Event::End),
                    Some(Err(error)) => {
                        let message = format!("the connection to {} broke: {error}", self.address);
                        self.over(Event::Failed(ApiError::new(Code::BackendUnavailable, message)))
                    }
                })
            }
            State::Over => Poll::Ready(Event::End),
        }
    }

    fn begun(
        &mut self,
        outcome: Result<ClientResponse, SendRequestError>,
        held: Option<Held>,
    ) -> Event {
        match outcome {
            Ok(mut response) => {
                let head = head_of(&response);
                if let Some(encoding) = encoding_of(&response) {
                    let address = &self.address;
                    let message = format!(
                        "{address} answered in content-encoding {encoding:?}, which was not asked for"
                    );
                    return self
                        .over(Event::Failed(ApiError::new(Code::BackendUnavailable, message)));
                }
                // Without the rest of the response: its table of headers takes some kilobytes.
                self.state = State::Flowing(response.take_payload());
                Event::Head(head)
            }
            Err(error) => {
                let told = explain(&error, &self.address);
                match held {
                    Some(Held::Again(cargo)) if is_unanswered(&error) => {
                        let unreachable = is_unreachable(&error);
                        let returned = Returned { error: told, unreachable, cargo };
                        self.over(Event::Unsent(Box::new(returned)))
                    }
                    _ => self.over(Event::Failed(told)),
                }
            }
        }
    }

    fn over(&mut self, event: Event) -> Event {
        self.state = State::Over;
        event
    }

    /// Whether the backend has begun to answer.
    pub(super) fn has_head(&self) -> bool {
        !matches!(self.state, State::Sending(_))
    }

    /// The backend's address without credentials, for messages.
    pub(super) fn address(&self) -> &str {
        &self.address
    }
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// What a prepared head says of the body.
const JSON: &str = "application/json";

fn head_of(response: &ClientResponse) -> Head {
    let text = |name: header::HeaderName| {
        response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned)
    };
    Head {
        status: response.status(),
        content_type: text(header::CONTENT_TYPE).unwrap_or_default(),
        content_length: text(header::CONTENT_LENGTH).and_then(|n| n.trim().parse().ok()),
        retry_after: text(header::RETRY_AFTER),
        location: text(header::LOCATION),
    }
}

/// An encoding that was not asked for: its bytes mean nothing to the client.
fn encoding_of(response: &ClientResponse) -> Option<String> {
    let value = response.headers().get(header::CONTENT_ENCODING)?;
    let text = String::from_utf8_lossy(value.as_bytes()).trim().to_ascii_lowercase();
    (!text.is_empty() && text != "identity").then_some(text)
}

/// Whether the backend refused or dropped the connection without an answer's head.
fn is_unanswered(error: &SendRequestError) -> bool {
    match error {
        SendRequestError::Connect(
            ConnectError::Io(_)
            | ConnectError::Disconnected
            | ConnectError::Timeout
            | ConnectError::Resolver(_)
            | ConnectError::NoRecords,
        )
        | SendRequestError::Send(_) => true,
        // A process that is killed with a request unread resets its connections.
        SendRequestError::Response(ParseError::Io(e)) => e.kind() == ErrorKind::ConnectionReset,
        _ => false,
    }
}

/// Whether no connection was made: nobody is there.
fn is_unreachable(error: &SendRequestError) -> bool {
    matches!(
        error,
        SendRequestError::Connect(
            ConnectError::Io(_)
                | ConnectError::Timeout
                | ConnectError::Resolver(_)
                | ConnectError::NoRecords
        )
    )
}

/// A failure before the head, in words that say what to do.
fn explain(error: &SendRequestError, address: &str) -> ApiError {
    let unavailable = |message: String| ApiError::new(Code::BackendUnavailable, message);
    let refused = |e: &std::io::Error| e.kind() == ErrorKind::ConnectionRefused;
    match error {
        SendRequestError::Connect(ConnectError::Io(e)) if refused(e) => {
            unavailable(format!("nothing listens at {address}"))
                .hint("start the backend, or correct the entry's base_url, host or port")
        }
        SendRequestError::Connect(ConnectError::Disconnected)
        | SendRequestError::Send(_)
        | SendRequestError::Response(ParseError::Io(_)) => {
            unavailable(format!("{address} closed the connection before it answered"))
        }
        SendRequestError::Connect(ConnectError::Timeout) => {
            unavailable(format!("cannot connect to {address}: no answer in time"))
        }
        SendRequestError::Connect(e) => unavailable(format!("cannot connect to {address}: {e}")),
        SendRequestError::Response(e) => {
            unavailable(format!("{address} answered something that is not HTTP: {e}"))
        }
        other => unavailable(format!("the request to {address} failed: {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_ends_before_the_head_is_unanswered_however_it_ends() {
        let io = |kind: ErrorKind| std::io::Error::from(kind);
        let unanswered = [
            SendRequestError::Connect(ConnectError::Io(io(ErrorKind::ConnectionRefused))),
            SendRequestError::Connect(ConnectError::Disconnected),
            SendRequestError::Send(io(ErrorKind::BrokenPipe)),
            SendRequestError::Response(ParseError::Io(io(ErrorKind::ConnectionReset))),
        ];
        for error in unanswered {
            assert!(is_unanswered(&error), "{error:?}");
            let told = explain(&error, "http://b");
            assert_eq!(told.code, Code::BackendUnavailable, "{error:?}");
            assert!(!told.message.contains("not HTTP"), "{}", told.message);
        }
        let answered = [SendRequestError::Timeout, SendRequestError::Response(ParseError::Status)];
        assert!(!answered.iter().any(is_unanswered));
    }
}
