//! A backend's connection that makes answers without a length readable.
//!
//! RFC 9112, 6.3: a response with neither Content-Length nor Transfer-Encoding ends with its
//! connection. actix-http reads such a body only from HTTP/1.0 servers and takes it for empty from
//! HTTP/1.1 ones. So the version in such a head is changed to 1.0, which says the same about its
//! end. Owns: the first bytes of each response. Must never do: touch or hold anything behind the
//! head; a chunk of a stream passes through a single comparison.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use actix_rt::net::{ActixStream, Ready, TcpStream};
use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A head that is longer passes as it is, and is judged by the parser behind us.
const MAX_HEAD: usize = 64 << 10;
const VERSION: &[u8] = b"HTTP/1.1 ";

/// See the module.
#[derive(Debug)]
pub(super) struct Framed {
    stream: TcpStream,
    /// A request has been written since the last head: what is read next begins a head.
    awaits_head: bool,
    /// Bytes of a head, until it is whole and then until they are taken.
    held: BytesMut,
}

impl Framed {
    pub(super) fn new(stream: TcpStream) -> Self {
        Framed { stream, awaits_head: false, held: BytesMut::new() }
    }

    fn give(&mut self, out: &mut ReadBuf<'_>) {
        let length = self.held.len().min(out.remaining());
        out.put_slice(&self.held[..length]);
        self.held.advance(length);
    }

    /// Reads where the reader wants it. A head nearly always comes whole in its first piece: then it
    /// is looked at where it lies.
    fn poll_first(&mut self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = out.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, out))?;
        let came = &mut out.filled_mut()[before..];
        let ended = came.is_empty();
        match mend(came) {
            Head::Partial if !ended => {
                self.held.extend_from_slice(came);
                out.set_filled(before);
                self.poll_head(cx)
            }
            Head::Interim => Poll::Ready(Ok(())),
            Head::Whole | Head::Partial => {
                self.awaits_head = false;
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Reads on until the head is whole; then it can be given out.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut space = [0; 8 << 10];
            let mut read = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
            self.held.extend_from_slice(read.filled());
            match mend(&mut self.held) {
                Head::Partial if !read.filled().is_empty() && self.held.len() < MAX_HEAD => {}
                // An interim response (100, 103): the real head is still to come.
                Head::Interim => return Poll::Ready(Ok(())),
                Head::Whole | Head::Partial => {
                    self.awaits_head = false;
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Head {
    /// More of it is to come.
    Partial,
    /// It has been looked at, and mended if it had to be; or it is no HTTP/1.1 head.
    Whole,
    /// Another head follows without a request.
    Interim,
}

/// Changes the version of a whole head that says nothing about its body's length. Interim ones may
/// stand before it, as many as are sent.
fn mend(mut bytes: &mut [u8]) -> Head {
    loop {
        let begins_alike = bytes.len().min(VERSION.len());
        if bytes[..begins_alike] != VERSION[..begins_alike] {
            return Head::Whole;
        }
        let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") else { return Head::Partial };
        let status = bytes.get(VERSION.len()..VERSION.len() + 3).unwrap_or_default();
        if status.first() == Some(&b'1') {
            bytes = &mut bytes[end + 4..];
            if bytes.is_empty() {
                return Head::Interim;
            }
            continue;
        }
        let bodyless = status == b"204" || status == b"304";
        if !bodyless && !tells_length(&bytes[..end]) {
            bytes[VERSION.len() - 2] = b'0';
        }
        return Head::Whole;
    }
}

fn tells_length(head: &[u8]) -> bool {
    head.split(|byte| *byte == b'\n').skip(1).any(|line| {
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default().trim_ascii();
        name.eq_ignore_ascii_case(b"content-length")
            || name.eq_ignore_ascii_case(b"transfer-encoding")
    })
}

impl AsyncRead for Framed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.awaits_head {
            if self.held.is_empty() {
                ready!(self.poll_first(cx, out))?;
            } else {
                ready!(self.poll_head(cx))?;
            }
        } else if self.held.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, out);
        }
        self.give(out);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Framed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.awaits_head = true;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl ActixStream for Framed {
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        ActixStream::poll_read_ready(&self.stream, cx)
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        ActixStream::poll_write_ready(&self.stream, cx)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    #[test]
    fn only_heads_without_a_length_are_changed() {
        let cases: &[(&str, &str, Head)] = &[
            ("HTTP/1.1 200 OK\r\na: b\r\n\r\nx", "HTTP/1.0", Head::Whole),
            ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", "HTTP/1.1", Head::Whole),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "HTTP/1.1", Head::Whole),
            ("HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1", Head::Whole),
            ("HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1", Head::Interim),
            ("HTTP/1.1 200 OK\r\na: b\r\n", "HTTP/1.1", Head::Partial),
            ("HTTP/1.0 200 OK\r\n\r\n", "HTTP/1.0", Head::Whole),
            ("HTT", "HTT", Head::Partial),
            ("data: HTTP/1.1 ", "data: HT", Head::Whole),
        ];
        for (text, begins, want) in cases {
            let mut bytes = text.as_bytes().to_vec();
            assert_eq!(mend(&mut bytes), *want, "{text:?}");
            assert!(bytes.starts_with(begins.as_bytes()), "{text:?}");
            assert_eq!(bytes.len(), text.len());
        }
    }

    /// As many as fit; the stack does not grow with them.
    #[test]
    fn any_number_of_interim_heads_is_looked_over() {
        let many = "HTTP/1.1 100\r\n\r\n".repeat(MAX_HEAD);
        assert_eq!(mend(&mut many.clone().into_bytes()), Head::Interim);
        let mut last = (many + "HTTP/1.1 200 OK\r\n\r\n").into_bytes();
        assert_eq!(mend(&mut last), Head::Whole);
        assert!(last.ends_with(b"HTTP/1.0 200 OK\r\n\r\n"));
    }

    #[actix_rt::test]
    async fn the_bytes_behind_the_head_pass_as_they_are_however_they_come() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = actix_rt::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4];
            stream.read_exact(&mut request).await.unwrap();
            stream.set_nodelay(true).unwrap();
            for piece in
                ["HTTP/1.1 1", "00 C\r\n\r", "\nHTTP/1.1 200 OK\r\n", "\r\nHTTP/1.1 body", " end"]
            {
                stream.write_all(piece.as_bytes()).await.unwrap();
                stream.flush().await.unwrap();
                actix_rt::task::yield_now().await;
            }
        });
        let mut framed = Framed::new(TcpStream::connect(address).await.unwrap());
        framed.write_all(b"GET ").await.unwrap();
        let mut text = String::new();
        framed.read_to_string(&mut text).await.unwrap();
        server.await.unwrap();
        assert_eq!(text, "HTTP/1.1 100 C\r\n\r\nHTTP/1.0 200 OK\r\n\r\nHTTP/1.1 body end");
    }
}
