//! A request on its way to a backend, and back if nobody took it.
//!
//! Owns: the shapes, and the pieces that a body is sent in. Must never do: send.

use std::any::Any;

use bytes::Bytes;
use chat_proxy_core::ApiError;
use chat_proxy_core::chat::request::ChatRequest;
use chat_proxy_core::registry::Endpoint;
use chat_proxy_core::relay::{Dialect, Edit, Found};

use super::body::Piece;
use super::messages::Content;
use super::reply::Reply;
use crate::permits::Permit;

/// What is sent, and what is held while it is.
pub(super) struct Cargo {
    pub(super) request: Outgoing,
    pub(super) share: Box<dyn Any + Send>,
    /// The request before it was made fit for its model, where it may have to be for another one.
    pub(super) as_it_came: Option<Outgoing>,
}

/// A request that can be sent, and sent again: its clones share the bytes.
#[derive(Debug, Clone)]
pub(super) enum Outgoing {
    /// A chat request over the client's own bytes.
    Chat(ChatRequest),
    /// A chat request in Ollama's words.
    Native(Bytes),
    /// Anything else: as it came, but for the model.
    Relay(Relay),
}

/// A request that is passed on.
#[derive(Debug, Clone)]
pub(super) struct Relay {
    pub(super) dialect: Dialect,
    pub(super) found: Box<Found>,
    pub(super) content_type: String,
    pub(super) content: Content,
}

impl Outgoing {
    /// What is sent to a backend that knows the model by this id.
    pub(super) fn pieces(&self, served_id: &str) -> Vec<Piece> {
        match self {
            Outgoing::Chat(chat) => {
                chat.upstream_body(served_id).into_iter().map(Piece::Memory).collect()
            }
            Outgoing::Native(body) => vec![Piece::Memory(body.clone())],
            Outgoing::Relay(relay) => {
                relay.content.spliced(relay.found.edits(relay.dialect, served_id))
            }
        }
    }

    /// Its content type.
    pub(super) fn content_type(&self) -> &str {
        match self {
            Outgoing::Chat(_) | Outgoing::Native(_) => "application/json",
            Outgoing::Relay(relay) => &relay.content_type,
        }
    }
}

impl Content {
    fn piece(&self, place: std::ops::Range<u64>) -> Piece {
        match self {
            Content::Memory(bytes) => {
                let at = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).min(bytes.len());
                Piece::Memory(bytes.slice(at(place.start)..at(place.end)))
            }
            Content::Disk(spooled) => Piece::Disk(spooled.clone(), place),
        }
    }

    fn length(&self) -> u64 {
        match self {
            Content::Memory(bytes) => bytes.len() as u64,
            Content::Disk(spooled) => spooled.length(),
        }
    }

    /// The body with places (sorted, not overlapping) replaced.
    fn spliced(&self, edits: Vec<Edit>) -> Vec<Piece> {
        let mut pieces = Vec::with_capacity(edits.len() * 2 + 1);
        let mut at = 0;
        for Edit { place, text } in edits {
            if place.start > at {
                pieces.push(self.piece(at..place.start));
            }
            pieces.push(Piece::Memory(Bytes::from(text)));
            at = place.end;
        }
        if at < self.length() {
            pieces.push(self.piece(at..self.length()));
        }
        pieces
    }
}

/// Where it is sent.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) endpoint: &'a Endpoint,
    /// The whole address.
    pub(super) url: &'a str,
    /// What the model is called there.
    pub(super) served_id: &'a str,
    /// A request that was not answered a byte comes back, to be sent again.
    pub(super) may_return: bool,
    /// The turn at the GPU.
    pub(super) permit: Option<&'a Permit>,
}

/// A request that its backend refused or dropped before it answered a byte, with all that is needed
/// to send it once more.
pub(super) struct Unsent {
    pub(super) reply: Reply,
    pub(super) error: ApiError,
    /// The backend was not reached at all.
    pub(super) unreachable: bool,
    pub(super) cargo: Box<Cargo>,
}
