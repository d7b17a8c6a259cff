//! A request body in pieces, sent as they lie in memory.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use awc::body::{BodySize, MessageBody};
use bytes::Bytes;

/// awc asks whether its write buffer is full only between pieces, and copies each into it whole:
/// a body of megabytes in one piece would be held twice.
const MAX_PIECE: usize = 64 << 10;

/// The pieces, in order; their sum is the Content-Length.
pub(super) struct Pieces {
    size: u64,
    pieces: VecDeque<Bytes>,
}

impl Pieces {
    pub(super) fn new(pieces: Vec<Bytes>) -> Self {
        let size = pieces.iter().map(|piece| piece.len() as u64).sum();
        Pieces { size, pieces: pieces.into() }
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
        let Some(first) = self.pieces.front_mut() else { return Poll::Ready(None) };
        let piece = first.split_to(first.len().min(MAX_PIECE));
        if first.is_empty() {
            self.pieces.pop_front();
        }
        Poll::Ready(Some(Ok(piece)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix_rt::test]
    async fn large_pieces_leave_in_small_ones_and_no_byte_is_lost() {
        let large = Bytes::from((0..200_000u32).map(|n| n.to_le_bytes()[0]).collect::<Vec<u8>>());
        let sent =
            vec![Bytes::from_static(b"{"), large.clone(), Bytes::new(), Bytes::from_static(b"}")];
        let mut body = Pieces::new(sent);
        let mut got = Vec::new();
        let next = |body: &mut Pieces| {
            let mut cx = Context::from_waker(std::task::Waker::noop());
            Pin::new(body).poll_next(&mut cx)
        };
        assert_eq!(body.size(), BodySize::Sized(200_002));
        while let Poll::Ready(Some(Ok(piece))) = next(&mut body) {
            assert!(piece.len() <= MAX_PIECE);
            got.extend_from_slice(&piece);
        }
        assert_eq!(got, [b"{", large.as_ref(), b"}"].concat());
    }
}
