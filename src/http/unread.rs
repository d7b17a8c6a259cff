//! Bodies that nobody reads to their end.
//!
//! actix-http drains what is left of a chunked body once its reader has dropped it, and sets no time
//! for that: a client that stops in the middle would hold its connection for ever. Where the reader
//! still lives when the answer ends, it hangs up. So readers of chunked bodies live as long as their
//! answers. Owns: that. Must never do: hold bytes of a body.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use actix_web::HttpMessage;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::error::PayloadError;
use actix_web::http::header;
use bytes::Bytes;
use futures_util::Stream;

/// The reader of one body, for the handler and for us.
#[derive(Clone)]
pub(super) struct Reader(Rc<RefCell<Payload>>);

impl Reader {
    /// Takes the reader of a request with a chunked body, and gives the request one that shares it.
    pub(super) fn of(request: &mut ServiceRequest) -> Option<Self> {
        if !request.headers().contains_key(header::TRANSFER_ENCODING) {
            return None;
        }
        let reader = Reader(Rc::new(RefCell::new(request.take_payload())));
        let shared: Pin<Box<dyn Stream<Item = Result<Bytes, PayloadError>>>> =
            Box::pin(reader.clone());
        request.set_payload(Payload::Stream { payload: shared });
        Some(reader)
    }

    /// Keeps it until the answer has been written.
    pub(super) fn keep(self, response: ServiceResponse<BoxBody>) -> ServiceResponse<BoxBody> {
        response.map_body(|_, body| BoxBody::new(Answer { body, _reader: self }))
    }
}

impl Stream for Reader {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_next(cx)
    }
}

/// The body of an answer to a request whose reader lives.
struct Answer {
    body: BoxBody,
    _reader: Reader,
}

impl MessageBody for Answer {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        self.body.as_pin_mut().poll_next(cx)
    }
}
