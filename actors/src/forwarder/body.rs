//! A request body in pieces, sent as they lie in memory.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use awc::body::{BodySize, MessageBody};
use bytes::Bytes;

/// The pieces, in order; their sum is the Content-Length.
pub(super) struct Pieces {
    size: u64,
    pieces: std::vec::IntoIter<Bytes>,
}

impl Pieces {
    pub(super) fn new(pieces: Vec<Bytes>) -> Self {
        let size = pieces.iter().map(|piece| piece.len() as u64).sum();
        Pieces { size, pieces: pieces.into_iter() }
    }
}

impl MessageBody for Pieces {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.size)
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Infallible>>> {
        Poll::Ready(self.pieces.next().map(Ok))
    }
}
