//! What the forwarder is told and what it answers.

use std::any::Any;

use actix::Message;
use bytes::Bytes;
use chat_proxy_core::ApiError;
use chat_proxy_core::error::Retry;
use chat_proxy_core::gpu::{Asker, Class};
use chat_proxy_core::relay::{Dialect, Found};
use send_wrapper::SendWrapper;
use tokio::sync::oneshot;

use super::channel::Receiver;
use crate::spool::Spooled;
use crate::transcript::Transcript;

/// A request, its body read whole.
///
/// `reply` gets exactly one [`Answer`]; when its other end is dropped, the client has gone and the
/// request ends, wherever it is.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Forward {
    /// The client's body.
    pub body: RequestBody,
    /// Held until the backend has the body: the share of the memory for waiting bodies.
    pub share: Box<dyn Any + Send>,
    /// What goes upstream of the client's head.
    pub meta: RequestMeta,
    /// The request's story, told to the log when the request ends.
    pub transcript: Transcript,
    /// Counts the request as running until it has ended.
    pub running: Box<dyn Any + Send>,
    /// Where the answer goes. Sender and receiver live on one thread.
    pub reply: oneshot::Sender<SendWrapper<Answer>>,
    /// The request's span; tasks do not inherit it.
    pub span: tracing::Span,
}

/// What a client sent.
#[derive(Debug, Clone)]
pub enum RequestBody {
    /// A chat request.
    Chat(Bytes),
    /// A request that is passed on.
    Relay {
        /// Which endpoint it came to.
        dialect: Dialect,
        /// What was found in it.
        found: Box<Found>,
        /// Its content type.
        content_type: String,
        /// The body.
        content: Content,
    },
}

impl RequestBody {
    /// How it speaks.
    pub fn dialect(&self) -> Dialect {
        match self {
            RequestBody::Chat(_) => Dialect::Chat,
            RequestBody::Relay { dialect, .. } => *dialect,
        }
    }
}

/// A body, wherever it waits.
#[derive(Debug, Clone)]
pub enum Content {
    /// In memory.
    Memory(Bytes),
    /// On the disk.
    Disk(Spooled),
}

/// What is said of an answer in its head.
#[derive(Debug, Clone, Default)]
pub struct Labels {
    /// The logical name of the model, for `x-imageworks-model`.
    pub model: String,
    /// What was changed or lost on the way, for `x-imageworks-policy`.
    pub policy: Option<String>,
}

/// The parts of the client's request head that go upstream (SPEC 6.3).
#[derive(Debug, Clone, Default)]
pub struct RequestMeta {
    /// The request's id, as its client knows it.
    pub request_id: String,
    /// Who asks, by the request's head. Its class is decided by `class`, else by its metadata.
    pub who: Asker,
    /// What its head says of its class.
    pub class: Option<Class>,
    /// Our own id of the request, for the backend.
    pub upstream_id: String,
    /// `user-agent`.
    pub user_agent: Option<String>,
    /// `traceparent`.
    pub traceparent: Option<String>,
    /// Images are passed on as to a model that sees, whatever its entry says.
    pub probes_vision: bool,
}

/// What the client gets.
pub enum Answer {
    /// An answer in one piece.
    Whole(WholeAnswer),
    /// A stream that has begun.
    Stream(StreamAnswer),
    /// An error before anything was sent.
    Refused(ApiError),
}

/// An answer in one piece: the backend's own, whole.
pub struct WholeAnswer {
    /// HTTP status.
    pub status: u16,
    /// Content type.
    pub content_type: String,
    /// The backend's own `Retry-After`.
    pub retry_after: Option<String>,
    /// Retry advice by status.
    pub retry: Retry,
    /// The body.
    pub body: Bytes,
    /// What its head says.
    pub labels: Labels,
}

/// A stream: its head is 200 and `text/event-stream`.
pub struct StreamAnswer {
    /// What to write.
    pub frames: Receiver,
    /// What its head says.
    pub labels: Labels,
}
