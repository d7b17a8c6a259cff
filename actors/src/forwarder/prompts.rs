//! The conversation of a request, for the log that was asked to keep it.
//!
//! Owns: where that is read: large bodies off the request's thread. Must never do: be called where
//! nobody asked for it, or hold a body for longer than it takes to read it.

use bytes::Bytes;
use chat_proxy_core::telemetry::prompt::prompt;
use serde_json::{Value, json};

use super::messages::{Content, RequestBody};

/// A body of this size is read and hashed in well under a millisecond.
const SMALL: usize = 64 << 10;

/// What a request says; `None`: nothing that is a conversation, or no JSON.
pub(super) async fn of(body: &RequestBody) -> Option<Value> {
    let bytes: Bytes = match body {
        RequestBody::Chat(bytes) | RequestBody::Relay { content: Content::Memory(bytes), .. } => {
            bytes.clone()
        }
        // It is too large for memory, and so it is for the log.
        RequestBody::Relay { content: Content::Disk(spooled), .. } => {
            return Some(json!({"omitted_bytes": spooled.length()}));
        }
    };
    if bytes.len() <= SMALL {
        return prompt(&bytes);
    }
    let read = tokio::task::spawn_blocking(move || prompt(&bytes)).await;
    read.unwrap_or_else(|error| {
        tracing::error!(%error, "a conversation could not be kept: a defect");
        None
    })
}
