//! Owns the reading side of one connection: heads, bodies, and the news that the client went.
//!
//! Must never write.

use std::io;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use tokio::net::TcpStream;

/// The longest head that is taken.
const MAX_HEAD: usize = 64 * 1024;
/// The longest body that is taken.
pub(crate) const MAX_BODY: usize = 256 * 1024 * 1024;
/// How far is read ahead while a request is being answered.
const MAX_AHEAD: usize = 256 * 1024;
/// How many headers are taken.
const MAX_HEADERS: usize = 128;

/// A head that was read.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) method: String,
    /// The path without its query.
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) content_type: String,
    pub(crate) keep_alive: bool,
    pub(crate) http_1_0: bool,
    pub(crate) expects_go_on: bool,
    length: Length,
    /// The head's bytes as they came.
    pub(crate) raw: Bytes,
}

#[derive(Debug, Clone, Copy)]
enum Length {
    Known(usize),
    Chunked,
}

/// Why a request could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadRequest {
    /// The connection ended.
    Gone,
    /// It is no HTTP that is understood here.
    Invalid,
    /// The body is longer than is taken.
    TooLarge,
}

impl From<io::Error> for BadRequest {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

/// The reading side.
#[derive(Debug)]
pub(crate) struct Reader {
    stream: Arc<TcpStream>,
    buffer: BytesMut,
}

impl Reader {
    /// Wraps a connected socket.
    pub(crate) fn new(stream: Arc<TcpStream>) -> Self {
        Self { stream, buffer: BytesMut::with_capacity(8 * 1024) }
    }

    /// The next request's head.
    pub(crate) async fn head(&mut self) -> Result<Head, BadRequest> {
        loop {
            // Empty lines before a request are to be passed over.
            while self.buffer.starts_with(b"\r\n") {
                self.buffer.advance(2);
            }
            if let Some(head) = parse_head(&mut self.buffer)? {
                return Ok(head);
            }
            if self.buffer.len() > MAX_HEAD {
                return Err(BadRequest::Invalid);
            }
            self.more().await?;
        }
    }

    /// The body that belongs to `head`.
    pub(crate) async fn body(&mut self, head: &Head) -> Result<Bytes, BadRequest> {
        match head.length {
            Length::Known(length) => {
                if length > MAX_BODY {
                    return Err(BadRequest::TooLarge);
                }
                self.have(length).await?;
                Ok(self.buffer.split_to(length).freeze())
            }
            Length::Chunked => self.chunked().await,
        }
    }

    /// Whether the body has begun to arrive, so that nobody waits to be told to go on.
    pub(crate) fn has_bytes(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Returns when the client has gone. What arrives meanwhile is kept, up to a bound.
    pub(crate) async fn departure(&mut self) {
        while self.buffer.len() < MAX_AHEAD {
            if self.more().await.is_err() {
                return;
            }
        }
        std::future::pending::<()>().await;
    }

    async fn chunked(&mut self) -> Result<Bytes, BadRequest> {
        let mut body = BytesMut::new();
        loop {
            let line = self.line().await?;
            let size = line.split(|&b| b == b';').next().unwrap_or_default();
            let size = std::str::from_utf8(size).map_err(|_| BadRequest::Invalid)?;
            let size = usize::from_str_radix(size.trim(), 16).map_err(|_| BadRequest::Invalid)?;
            if size > MAX_BODY - body.len() {
                return Err(BadRequest::TooLarge);
            }
            if size == 0 {
                break;
            }
            self.have(size + 2).await?;
            body.extend_from_slice(&self.buffer[..size]);
            if &self.buffer[size..size + 2] != b"\r\n" {
                return Err(BadRequest::Invalid);
            }
            self.buffer.advance(size + 2);
        }
        // Trailers, up to the empty line.
        while !self.line().await?.is_empty() {}
        Ok(body.freeze())
    }

    async fn line(&mut self) -> Result<Bytes, BadRequest> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|w| w == b"\r\n") {
                let line = self.buffer.split_to(end).freeze();
                self.buffer.advance(2);
                return Ok(line);
            }
            if self.buffer.len() > MAX_HEAD {
                return Err(BadRequest::Invalid);
            }
            self.more().await?;
        }
    }

    async fn have(&mut self, length: usize) -> io::Result<()> {
        while self.buffer.len() < length {
            self.buffer.reserve((length - self.buffer.len()).min(1024 * 1024));
            self.more().await?;
        }
        Ok(())
    }

    /// Reads some more; the end of the stream is an error.
    async fn more(&mut self) -> io::Result<()> {
        loop {
            self.buffer.reserve(4 * 1024);
            match self.stream.try_read_buf(&mut self.buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.stream.readable().await?,
                Err(e) => return Err(e),
            }
        }
    }
}

/// Takes one head off the buffer, if it is complete.
fn parse_head(buffer: &mut BytesMut) -> Result<Option<Head>, BadRequest> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let length = match request.parse(buffer) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(BadRequest::Invalid),
    };
    let target = request.path.unwrap_or("/");
    // A target may be a whole URL, as a proxy is asked.
    let target = match target.split_once("://") {
        Some((_, rest)) if !target.starts_with('/') => rest.find('/').map_or("/", |at| &rest[at..]),
        _ => target,
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let old = request.version == Some(0);
    let mut head = Head {
        method: request.method.unwrap_or_default().to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        content_type: String::new(),
        keep_alive: !old,
        http_1_0: old,
        expects_go_on: false,
        length: Length::Known(0),
        raw: Bytes::new(),
    };
    for header in request.headers.iter() {
        let value = String::from_utf8_lossy(header.value);
        head.header(header.name, value.trim())?;
    }
    head.raw = buffer.split_to(length).freeze();
    Ok(Some(head))
}

impl Head {
    fn header(&mut self, name: &str, value: &str) -> Result<(), BadRequest> {
        if name.eq_ignore_ascii_case("content-length") {
            let length = value.parse().map_err(|_| BadRequest::Invalid)?;
            if !matches!(self.length, Length::Chunked) {
                self.length = Length::Known(length);
            }
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            if !value.eq_ignore_ascii_case("chunked") {
                return Err(BadRequest::Invalid);
            }
            self.length = Length::Chunked;
        } else if name.eq_ignore_ascii_case("content-type") {
            self.content_type = value.to_ascii_lowercase();
        } else if name.eq_ignore_ascii_case("connection") {
            for word in value.split(',').map(str::trim) {
                if word.eq_ignore_ascii_case("close") {
                    self.keep_alive = false;
                } else if word.eq_ignore_ascii_case("keep-alive") {
                    self.keep_alive = true;
                }
            }
        } else if name.eq_ignore_ascii_case("expect") {
            self.expects_go_on = value.eq_ignore_ascii_case("100-continue");
        }
        Ok(())
    }

    /// Whether a body is to come.
    pub(crate) fn has_body(&self) -> bool {
        !matches!(self.length, Length::Known(0))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_from_the_buffer() {
        let text = b"POST /a/b?c=d HTTP/1.1\r\nContent-Type: Application/JSON\r\nContent-Length: 3\r\nConnection: Close\r\n\r\nabc";
        let mut buffer = BytesMut::from(&text[..]);
        let head = parse_head(&mut buffer).unwrap().unwrap();
        assert_eq!((head.path.as_str(), head.query.as_str()), ("/a/b", "c=d"));
        assert_eq!(head.content_type, "application/json");
        assert!(!head.keep_alive && head.has_body() && !head.http_1_0);
        assert_eq!(&buffer[..], b"abc");
        let mut part = BytesMut::from(&text[..20]);
        assert!(parse_head(&mut part).unwrap().is_none());
        let mut bad = BytesMut::from(&b"\x16\x03\x01\x02\x00\x01"[..]);
        assert_eq!(parse_head(&mut bad).unwrap_err(), BadRequest::Invalid);
    }
}
