//! A request body in pieces, sent as they lie in memory or on the disk.
//!
//! Owns: their order, and their sum, which is the Content-Length. Must never do: hold more of what
//! lies on the disk than one piece.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use awc::body::{BodySize, MessageBody};
use bytes::Bytes;

use crate::spool::Spooled;

/// awc asks whether its write buffer is full only between pieces, and copies each into it whole:
/// a body of megabytes in one piece would be held twice.
const MAX_PIECE: usize = 64 << 10;

/// A part of a body.
#[derive(Debug, Clone)]
pub(super) enum Piece {
    /// In memory.
    Memory(Bytes),
    /// On the disk, at this place.
    Disk(Spooled, Range<u64>),
}

impl Piece {
    fn length(&self) -> u64 {
        match self {
            Piece::Memory(bytes) => bytes.len() as u64,
            Piece::Disk(_, place) => place.end - place.start,
        }
    }
}

impl From<Bytes> for Piece {
    fn from(bytes: Bytes) -> Self {
        Piece::Memory(bytes)
    }
}

type Reading = Pin<Box<dyn Future<Output = io::Result<Bytes>>>>;

/// The pieces, in order.
pub(super) struct Pieces {
    size: u64,
    left: VecDeque<Piece>,
    reading: Option<Reading>,
}

impl Pieces {
    pub(super) fn new(pieces: Vec<Piece>) -> Self {
        let size = pieces.iter().map(Piece::length).sum();
        Pieces { size, left: pieces.into(), reading: None }
    }

    /// The next bytes in memory, or the reading of those on the disk.
    fn next(&mut self) -> Option<Result<Bytes, Reading>> {
        let first = self.left.front_mut()?;
        let next = match first {
            Piece::Memory(bytes) => Ok(bytes.split_to(bytes.len().min(MAX_PIECE))),
            Piece::Disk(spooled, place) => {
                let at = place.start;
                place.start = place.end.min(at + MAX_PIECE as u64);
                let length = usize::try_from(place.start - at).unwrap_or(MAX_PIECE);
                Err(Box::pin(spooled.clone().read(at, length)) as Reading)
            }
        };
        if first.length() == 0 {
            self.left.pop_front();
        }
        Some(next)
    }
}

impl MessageBody for Pieces {
    type Error = io::Error;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.size)
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, io::Error>>> {
        if self.reading.is_none() {
            match self.next() {
                None => return Poll::Ready(None),
                Some(Ok(bytes)) => return Poll::Ready(Some(Ok(bytes))),
                Some(Err(reading)) => self.reading = Some(reading),
            }
        }
        let Some(reading) = &mut self.reading else { return Poll::Ready(None) };
        let read = ready!(reading.as_mut().poll(cx));
        self.reading = None;
        Poll::Ready(Some(read))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::spool::Spool;
    use std::future::poll_fn;

    #[actix_rt::test]
    async fn large_pieces_leave_in_small_ones_and_no_byte_is_lost() {
        let large = Bytes::from((0..200_000u32).map(|n| n.to_le_bytes()[0]).collect::<Vec<u8>>());
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::create(dir.path().to_owned()).await.unwrap();
        spool.push(&large).await.unwrap();
        let spooled = spool.finish().await.unwrap();
        let sent = vec![
            Bytes::from_static(b"{").into(),
            large.clone().into(),
            Bytes::new().into(),
            Piece::Disk(spooled.clone(), 0..70_000),
            Bytes::from_static(b"}").into(),
            Piece::Disk(spooled, 70_003..200_000),
        ];
        let mut body = Pieces::new(sent);
        assert_eq!(body.size(), BodySize::Sized(399_999));
        let mut got = Vec::new();
        while let Some(piece) = poll_fn(|cx| Pin::new(&mut body).poll_next(cx)).await {
            let piece = piece.unwrap();
            assert!(piece.len() <= MAX_PIECE);
            got.extend_from_slice(&piece);
        }
        let want = [b"{", &large[..], &large[..70_000], b"}", &large[70_003..]].concat();
        assert!(got == want);
    }
}
