//! Reading a request body whole, within the limits of one request and of all together.
//!
//! Owns: the budget of bytes that waiting requests may hold. Must never do: begin to read what it
//! already knows to be too much.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actix_web::error::PayloadError;
use actix_web::http::header::{self, HeaderMap};
use actix_web::web::Payload;
use bytes::{Bytes, BytesMut};
use chat_proxy_core::{ApiError, Code};
use futures_util::StreamExt;

/// Bytes that all requests together may hold.
#[derive(Clone)]
pub(super) struct Budget {
    used: Arc<AtomicU64>,
    max: u64,
    /// What clients are told when it is used up.
    full: &'static str,
}

/// A request's part of the budget; given back when dropped.
pub(super) struct Share {
    budget: Budget,
    bytes: u64,
}

impl Budget {
    /// Of memory.
    pub(super) fn new(max: u64) -> Self {
        let full = "too many request bodies are waiting in memory (max_buffered_bytes)";
        Budget { used: Arc::default(), max, full }
    }

    /// Of the disk.
    pub(super) fn of_disk(max: u64) -> Self {
        let full = "too many large request bodies are waiting on the disk (max_spooled_bytes)";
        Budget { used: Arc::default(), max, full }
    }

    fn full(&self) -> ApiError {
        ApiError::new(Code::QueueFull, self.full).hint("try again in a moment")
    }

    fn has_room_for(&self, bytes: u64) -> Result<(), ApiError> {
        if self.used.load(Ordering::Relaxed).saturating_add(bytes) <= self.max {
            return Ok(());
        }
        Err(self.full())
    }

    pub(super) fn share(&self) -> Share {
        Share { budget: self.clone(), bytes: 0 }
    }
}

impl Share {
    /// Whether so much more could be taken.
    pub(super) fn room_for(&self, bytes: u64) -> Result<(), ApiError> {
        self.budget.has_room_for(bytes)
    }

    /// Nothing is held in memory any more.
    pub(super) fn give_back(&mut self) {
        self.budget.used.fetch_sub(std::mem::take(&mut self.bytes), Ordering::Relaxed);
    }

    /// Takes more, or refuses.
    pub(super) fn grow(&mut self, bytes: u64) -> Result<(), ApiError> {
        let before = self.budget.used.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
        if before + bytes <= self.budget.max {
            return Ok(());
        }
        Err(self.budget.full())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// Why there is no body.
#[derive(Debug)]
pub(super) enum NoBody {
    /// The client left while it was sending.
    Gone,
    /// It cannot be taken.
    Refused(ApiError),
}

impl From<ApiError> for NoBody {
    fn from(error: ApiError) -> Self {
        NoBody::Refused(error)
    }
}

/// Reads the body. `stall`: longest wait for its next piece. Its promised length is checked
/// against the budget, but only what has come is counted: a promise holds no memory.
pub(super) async fn read(
    payload: &mut Payload,
    headers: &HeaderMap,
    max: u64,
    stall: Option<Duration>,
    budget: &Budget,
) -> Result<(Bytes, Share), NoBody> {
    let mut share = budget.share();
    let promised = promised(headers, max)?;
    if let Some(length) = promised {
        share.room_for(length)?;
    }
    let mut body = BytesMut::new();
    while let Some(chunk) = next(payload, stall).await? {
        let length = (body.len() + chunk.len()) as u64;
        within(length, max)?;
        share.grow(chunk.len() as u64)?;
        if body.is_empty() && promised == Some(length) {
            return Ok((chunk, share)); // the usual case: one piece, nothing copied
        }
        body.extend_from_slice(&chunk);
    }
    Ok((body.freeze(), share))
}

/// The length that a head promises, if it can be taken.
pub(super) fn promised(headers: &HeaderMap, max: u64) -> Result<Option<u64>, ApiError> {
    refuse_encoded(headers)?;
    let length = content_length(headers);
    within(length.unwrap_or(0), max)?;
    Ok(length)
}

/// Refuses what is too much.
pub(super) fn within(length: u64, max: u64) -> Result<(), ApiError> {
    if length > max { Err(too_large(length, max)) } else { Ok(()) }
}

/// The next piece of a body; `stall`: how long it is waited for.
pub(super) async fn next(
    payload: &mut Payload,
    stall: Option<Duration>,
) -> Result<Option<Bytes>, NoBody> {
    let next = payload.next();
    let chunk = match stall {
        None => next.await,
        Some(stall) => tokio::time::timeout(stall, next).await.map_err(|_| {
            let message =
                format!("the request body stopped arriving for {} s", stall.as_secs_f64());
            ApiError::invalid("", message)
        })?,
    };
    match chunk {
        None => Ok(None),
        Some(Ok(bytes)) => Ok(Some(bytes)),
        Some(Err(PayloadError::Incomplete(_))) => Err(NoBody::Gone),
        Some(Err(error)) => {
            let message = format!("the request body could not be read: {error}");
            Err(ApiError::invalid("", message).into())
        }
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}

fn refuse_encoded(headers: &HeaderMap) -> Result<(), ApiError> {
    match headers.get(header::CONTENT_ENCODING).map(|value| value.as_bytes().to_ascii_lowercase()) {
        None => Ok(()),
        Some(encoding) if encoding == b"identity" || encoding.is_empty() => Ok(()),
        Some(encoding) => {
            let shown = String::from_utf8_lossy(&encoding).into_owned();
            Err(ApiError::invalid("", format!("content-encoding {shown:?} is not taken"))
                .hint("send the body as it is"))
        }
    }
}

fn too_large(length: u64, max: u64) -> ApiError {
    let message = format!("the request body has {length} bytes or more; the limit is {max} bytes");
    ApiError::new(Code::PayloadTooLarge, message).hint("send less, or raise max_body_bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_bounded_together_and_given_back() {
        let budget = Budget::new(100);
        let mut first = budget.share();
        assert!(first.grow(60).is_ok());
        let mut second = budget.share();
        assert_eq!(second.grow(60).map_err(|e| e.code), Err(Code::QueueFull));
        drop(second);
        drop(first);
        assert!(budget.share().grow(100).is_ok());
    }
}
