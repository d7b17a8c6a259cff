//! The bodies of answers: both count as running until they have been written.
//!
//! Owns: turning frames into bytes on the wire, and the last word when the pump died. Must never
//! do: end a response cleanly that the pump did not end.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, MessageBody};
use bytes::Bytes;
use chat_proxy_actors::forwarder::channel::{Received, Receiver};
use chat_proxy_core::relay::Dialect;
use chat_proxy_core::{ApiError, Code};

use crate::life::Running;

/// See the module.
pub(super) struct StreamBody {
    /// `None` once the end has been seen.
    frames: Option<Receiver>,
    dialect: Dialect,
    /// Counts the response as running until it has been written.
    _running: Running,
}

impl StreamBody {
    pub(super) fn new(frames: Receiver, dialect: Dialect, running: Running) -> Self {
        StreamBody { frames: Some(frames), dialect, _running: running }
    }
}

impl MessageBody for StreamBody {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Infallible>>> {
        let Some(frames) = &mut self.frames else {
            return Poll::Ready(None);
        };
        match std::task::ready!(frames.poll_recv(cx)) {
            Received::Data(bytes) => Poll::Ready(Some(Ok(bytes))),
            Received::End => {
                self.frames = None;
                Poll::Ready(None)
            }
            Received::Died => {
                self.frames = None;
                let message = "the proxy failed while it streamed this answer";
                let event = self.dialect.error_event(&ApiError::new(Code::Internal, message));
                Poll::Ready(Some(Ok(Bytes::from(event))))
            }
        }
    }
}

/// An answer in one piece.
pub(super) struct WholeBody {
    bytes: Bytes,
    _running: Running,
}

/// actix-web copies a piece into its write buffer whole; in small ones the buffer's own limit
/// bounds what a slow client makes us hold twice.
pub(super) const PIECE: usize = 64 << 10;

impl WholeBody {
    pub(super) fn new(bytes: Bytes, running: Running) -> Self {
        WholeBody { bytes, _running: running }
    }
}

impl MessageBody for WholeBody {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.bytes.len() as u64)
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Infallible>>> {
        if self.bytes.is_empty() {
            return Poll::Ready(None);
        }
        let length = self.bytes.len().min(PIECE);
        Poll::Ready(Some(Ok(self.bytes.split_to(length))))
    }
}
