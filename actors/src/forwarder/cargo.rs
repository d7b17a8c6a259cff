//! A request on its way to a backend, and back if nobody took it.
//!
//! Owns: the shapes. Must never do: send.

use std::any::Any;

use chat_proxy_core::ApiError;
use chat_proxy_core::chat::request::ChatRequest;
use chat_proxy_core::registry::Endpoint;

use super::reply::Reply;
use crate::permits::Permit;

/// What is sent, and what is held while it is.
pub(super) struct Cargo {
    pub(super) request: ChatRequest,
    pub(super) share: Box<dyn Any + Send>,
}

/// Where it is sent.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) endpoint: &'a Endpoint,
    /// What the model is called there.
    pub(super) served_id: &'a str,
    /// A request that was not answered a byte comes back, to be sent again.
    pub(super) may_return: bool,
    /// The turn at a supervised engine.
    pub(super) permit: Option<&'a Permit>,
}

/// A request that its backend refused or dropped before it answered a byte, with all that is needed
/// to send it once more.
pub(super) struct Unsent {
    pub(super) reply: Reply,
    pub(super) error: ApiError,
    pub(super) cargo: Cargo,
}
