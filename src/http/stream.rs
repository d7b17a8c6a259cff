//! The bodies of answers: both count as running until they have been written.
//!
//! Owns: turning frames into bytes on the wire, and the last word when the pump died. Must never
//! do: end a response cleanly that the pump did not end.
//!
//! A stream's body travels beside its response until all middleware is behind it ([`StreamBody::send`],
//! [`put_in_place`]): each layer of middleware would take its part of every piece, and the one that
//! enters the request's span took a tenth of all that an event costs (230 instructions of 2,040).

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::ServiceResponse;
use actix_web::{HttpResponse, HttpResponseBuilder};
use bytes::Bytes;
use chat_proxy_actors::forwarder::channel::{Received, Receiver};
use chat_proxy_core::relay::Dialect;
use chat_proxy_core::{ApiError, Code};
use tracing::Span;

use crate::life::Running;

/// See the module.
pub(super) struct StreamBody {
    /// `None` once the end has been seen.
    frames: Option<Receiver>,
    dialect: Dialect,
    /// Counts the response as running until it has been written.
    _running: Running,
    /// The request's: it lasts until then too.
    _span: Span,
}

impl StreamBody {
    pub(super) fn new(frames: Receiver, dialect: Dialect, running: Running) -> Self {
        StreamBody { frames: Some(frames), dialect, _running: running, _span: Span::current() }
    }

    /// A response that will have this body.
    pub(super) fn send(self, mut head: HttpResponseBuilder) -> HttpResponse {
        let mut response = head.body(OnItsWay);
        response.extensions_mut().insert(self);
        response
    }
}

/// Gives a response the body that travels beside it, if it has one. For the outermost middleware.
pub(super) fn put_in_place(mut response: ServiceResponse<BoxBody>) -> ServiceResponse<BoxBody> {
    let body = response.response_mut().extensions_mut().remove::<StreamBody>();
    match body {
        Some(body) => response.map_body(|_, _| BoxBody::new(body)),
        None => response,
    }
}

/// Stands for a body that is put in place later. It has no end: where it should ever be sent, the
/// answer is cut.
struct OnItsWay;

impl MessageBody for OnItsWay {
    type Error = io::Error;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, io::Error>>> {
        Poll::Ready(Some(Err(io::Error::other("a stream was not put in its place: a defect"))))
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
