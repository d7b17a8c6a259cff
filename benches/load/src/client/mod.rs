//! The generator's HTTP/1.1 client: one connection, kept alive, that reads an answer as it comes.
//! It must never retry: what a peer does wrong is a finding.

mod chunked;
mod events;
mod target;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Fault;
use crate::upstream::wire::ANSWER;
use chunked::Chunked;
pub(crate) use events::Events;
pub(crate) use target::Target;

const READ: usize = 64 * 1024;
const MOST_HEADERS: usize = 64;

/// A connection to a peer.
pub(crate) struct Client {
    address: SocketAddr,
    stream: TcpStream,
    buffer: Vec<u8>,
    /// The peer has said that it closes after this answer.
    closing: bool,
}

enum Framing {
    Length(usize),
    Chunked,
}

impl Client {
    /// Connects.
    pub(crate) async fn connect(address: SocketAddr) -> Result<Self, Fault> {
        let stream = open(address).await?;
        Ok(Self { address, stream, buffer: Vec::with_capacity(READ), closing: false })
    }

    /// One chat that is not streamed, whole and right, or an error.
    pub(crate) async fn unary(&mut self, request: &[u8]) -> Result<(), Fault> {
        let body = self.exchange(request).await?;
        match memchr::memmem::find(&body, ANSWER.as_bytes()) {
            Some(_) => Ok(()),
            None => Err(format!("a wrong answer: {}", String::from_utf8_lossy(&body)).into()),
        }
    }

    /// Any request with a short answer: its body.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> Result<Vec<u8>, Fault> {
        self.send(request).await?;
        let mut body = Vec::with_capacity(1024);
        self.answer(|part| {
            body.extend_from_slice(part);
            Ok(())
        })
        .await?;
        Ok(body)
    }

    /// One streamed chat of `contents` content events, checked. When it was sent, and what came.
    pub(crate) async fn stream(
        &mut self,
        request: &[u8],
        contents: usize,
    ) -> Result<(Instant, Events), Fault> {
        let mut events = Events::new();
        let sent = self.stream_into(request, &mut events).await?;
        events.check(contents)?;
        Ok((sent, events))
    }

    /// The same into `events`, which keep what has come if the caller does not wait for the end.
    pub(crate) async fn stream_into(
        &mut self,
        request: &[u8],
        events: &mut Events,
    ) -> Result<Instant, Fault> {
        let sent = self.send(request).await?;
        self.answer(|part| events.feed(part)).await?;
        Ok(sent)
    }

    /// Sends a chat and reads until its first content event; the rest is for whoever leaves.
    pub(crate) async fn stream_to_first(&mut self, request: &[u8]) -> Result<(), Fault> {
        self.send(request).await?;
        let framing = self.head().await?;
        let (mut events, mut decoder) = (Events::new(), Chunked::new());
        if !matches!(framing, Framing::Chunked) {
            return Err("a stream that never ends came with a Content-Length".into());
        }
        loop {
            let used = decoder.feed(&self.buffer, |part| events.feed(part))?;
            self.buffer.drain(..used);
            if events.contents > 0 {
                return Ok(());
            }
            self.fill().await?;
        }
    }

    /// Writes a request; the moment before the first byte went. A peer may close a connection between
    /// two answers, as Node does after five idle seconds; then this is on a new one.
    pub(crate) async fn send(&mut self, request: &[u8]) -> Result<Instant, Fault> {
        if self.closing || self.was_closed()? {
            self.stream = open(self.address).await?;
            self.closing = false;
        }
        let now = Instant::now();
        self.stream.write_all(request).await?;
        Ok(now)
    }

    /// Has the peer closed since its last answer?
    fn was_closed(&self) -> Result<bool, Fault> {
        match self.stream.try_read(&mut [0]) {
            Ok(0) => Ok(true),
            Ok(_) => Err("the peer sent something that nobody had asked for".into()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    async fn answer(
        &mut self,
        mut sink: impl FnMut(&[u8]) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        match self.head().await? {
            Framing::Length(length) => self.body_of_length(length, sink).await,
            Framing::Chunked => {
                let mut decoder = Chunked::new();
                loop {
                    let used = decoder.feed(&self.buffer, &mut sink)?;
                    self.buffer.drain(..used);
                    if decoder.is_done() {
                        return Ok(());
                    }
                    self.fill().await?;
                }
            }
        }
    }

    async fn body_of_length(
        &mut self,
        mut left: usize,
        mut sink: impl FnMut(&[u8]) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        loop {
            let now = left.min(self.buffer.len());
            sink(&self.buffer[..now])?;
            self.buffer.drain(..now);
            left -= now;
            if left == 0 {
                return Ok(());
            }
            self.fill().await?;
        }
    }

    /// Reads a response head; anything but 200 is an error.
    async fn head(&mut self) -> Result<Framing, Fault> {
        loop {
            if let Some((used, framing, closing)) = parse_head(&self.buffer)? {
                self.buffer.drain(..used);
                self.closing = closing;
                return Ok(framing);
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> Result<(), Fault> {
        self.buffer.reserve(READ / 4);
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err("the peer closed in the middle of an answer".into()),
            _ => Ok(()),
        }
    }
}

async fn open(address: SocketAddr) -> Result<TcpStream, Fault> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn parse_head(buffer: &[u8]) -> Result<Option<(usize, Framing, bool)>, Fault> {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(used) = head.parse(buffer)? else {
        return Ok(None);
    };
    if head.code != Some(200) {
        return Err(format!("not 200: {}", String::from_utf8_lossy(buffer)).into());
    }
    let (mut framing, mut closing) = (None, false);
    for header in head.headers.iter() {
        let value = std::str::from_utf8(header.value)?.trim();
        if header.name.eq_ignore_ascii_case("content-length") {
            framing = Some(Framing::Length(value.parse()?));
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            framing = Some(Framing::Chunked);
        } else if header.name.eq_ignore_ascii_case("connection") {
            closing = value.eq_ignore_ascii_case("close");
        }
    }
    let framing = framing.ok_or("an answer with neither a length nor chunks")?;
    Ok(Some((used, framing, closing)))
}
