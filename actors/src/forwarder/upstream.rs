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
use awc::error::{ConnectError, SendRequestError};
use awc::http::{StatusCode, header};
use awc::{Client, ClientResponse, SendClientRequest};
use bytes::Bytes;
use chat_proxy_core::{ApiError, Code};
use futures_core::Stream;

use super::body::Pieces;
use super::cargo::{Cargo, Outgoing, Target};
use super::messages::RequestMeta;
use crate::client::key_of;
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
    pub(super) cargo: Cargo,
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
    Flowing(ClientResponse),
    Over,
}

/// See the module.
pub(super) struct Upstream {
    state: State,
    address: String,
    /// The share of the memory for waiting bodies; given back when the head has come. And the body,
    /// where it may have to be sent again.
    held: Option<Held>,
    /// Of a supervised engine: beats with every piece.
    pulse: Option<Pulse>,
}

/// See [`Upstream::held`].
struct Held {
    share: Box<dyn Any + Send>,
    /// The request, and how it was before it was made fit for its model, if it may return.
    again: Option<(Outgoing, Option<Outgoing>)>,
}

impl Upstream {
    /// Sends a request; nothing happens until it is polled.
    pub(super) fn send(
        client: &Client,
        target: &Target<'_>,
        stream: bool,
        meta: &RequestMeta,
        cargo: Cargo,
    ) -> Result<Upstream, ApiError> {
        let (endpoint, Cargo { request: asked, share, as_it_came }) = (target.endpoint, cargo);
        // The pieces are slices of the client's body: keeping that copies nothing.
        let body = asked.pieces(target.served_id);
        let content_type = asked.content_type().to_owned();
        let again = target.may_return.then_some((asked, as_it_came));
        let accept = if stream { "text/event-stream" } else { "application/json" };
        let mut request = client
            .post(target.url)
            .no_decompress()
            .insert_header((header::CONTENT_TYPE, content_type))
            .insert_header((header::ACCEPT, accept))
            .insert_header((header::ACCEPT_ENCODING, "identity"))
            .insert_header(("x-request-id", meta.upstream_id.as_str()))
            .insert_header((header::USER_AGENT, meta.user_agent.as_deref().unwrap_or(OUR_NAME)));
        if let Some(traceparent) = &meta.traceparent {
            request = request.insert_header(("traceparent", traceparent.as_str()));
        }
        if let Some(name) = &endpoint.api_key_env {
            request = request.bearer_auth(key_of(name)?);
        } else if let Some(user) = &endpoint.userinfo {
            request = request.basic_auth(&user.user, &user.password);
        }
        Ok(Upstream {
            state: State::Sending(request.send_body(Pieces::new(body))),
            address: endpoint.base().to_owned(),
            held: Some(Held { share, again }),
            pulse: target.permit.map(Permit::pulse),
        })
    }

    /// The next event; safe to drop and call again.
    pub(super) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        match &mut self.state {
            State::Sending(sending) => {
                let outcome = std::task::ready!(Pin::new(sending).poll(cx));
                let held = self.held.take();
                Poll::Ready(self.begun(outcome, held))
            }
            State::Flowing(response) => {
                let next = std::task::ready!(Pin::new(response).poll_next(cx));
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
            Ok(response) => {
                let head = head_of(&response);
                if let Some(encoding) = encoding_of(&response) {
                    let address = &self.address;
                    let message = format!(
                        "{address} answered in content-encoding {encoding:?}, which was not asked for"
                    );
                    return self
                        .over(Event::Failed(ApiError::new(Code::BackendUnavailable, message)));
                }
                self.state = State::Flowing(response);
                Event::Head(head)
            }
            Err(error) => {
                let told = explain(&error, &self.address);
                match held {
                    Some(Held { share, again: Some((request, as_it_came)) })
                        if is_unanswered(&error) =>
                    {
                        let (unreachable, cargo) =
                            (is_unreachable(&error), Cargo { request, share, as_it_came });
                        self.over(Event::Unsent(Box::new(Returned {
                            error: told,
                            unreachable,
                            cargo,
                        })))
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

const OUR_NAME: &str = concat!("imageworks-chat-proxy/", env!("CARGO_PKG_VERSION"));

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
