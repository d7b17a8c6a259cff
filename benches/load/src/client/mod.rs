//! The generator's HTTP/1.1 client: one connection, kept alive, that reads an answer as it comes.
//! It must never retry: what a peer does wrong is a finding.

mod chunked;
mod events;

use std::net::SocketAddr;
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Fault;
use crate::upstream::wire::ANSWER;
use chunked::Chunked;
pub(crate) use events::Events;

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
        let sent = self.send(request).await?;
        self.answer(|part| events.feed(part)).await?;
        events.check(contents)?;
        Ok((sent, events))
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

    /// Writes a request; the moment before the first byte went.
    pub(crate) async fn send(&mut self, request: &[u8]) -> Result<Instant, Fault> {
        if self.closing {
            self.stream = open(self.address).await?;
            self.closing = false;
        }
        let now = Instant::now();
        self.stream.write_all(request).await?;
        Ok(now)
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

/// A chat request for `host`, with the harness's knobs in `bench`.
pub(crate) fn chat(host: SocketAddr, stream: bool, bench: &serde_json::Value) -> Vec<u8> {
    let body = serde_json::json!({
        "model": "bench",
        "messages": [
            {"role": "system", "content": "You are a helpful assistant. Answer in one sentence."},
            {"role": "user", "content": "hello, who are you, and what can you do for me today?"},
        ],
        "temperature": 0,
        "stream": stream,
        "bench": bench,
    })
    .to_string();
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n\
         accept: */*\r\nauthorization: Bearer bench\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// A GET request.
pub(crate) fn get(host: SocketAddr, path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: {host}\r\naccept: */*\r\n\r\n").into_bytes()
}
