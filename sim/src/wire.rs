//! Owns one accepted socket and every byte that leaves through it.
//!
//! All faults that concern bytes (cutting after exactly N of them, breaking writes into pieces)
//! are decided here and nowhere else; everything above speaks in heads, chunks and bodies.
//! Must never know what an answer means.

use std::io;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpStream;

use crate::fault::{Fault, Framing, How};
use crate::head::{Face, head_start, push_header};

/// How long a connection that was ended on purpose is kept, so that its last bytes are read.
const LINGER: Duration = Duration::from_secs(2);

/// So many writes and bytes a kernel sends at once on a new connection, whatever the peer does.
const ALWAYS_SENT: (u64, u64) = (8, 8 * 1024);

/// Why an answer ended before its last byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The client went away.
    Gone,
    /// A fault cut the connection.
    Cut,
    /// A fault ended the answer early, but cleanly: the connection may go on.
    Ended,
}

/// A whole answer that is not a stream.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    /// The status code.
    pub(crate) status: u16,
    /// Absent only where the body is empty.
    pub(crate) content_type: Option<String>,
    /// Headers that stand before `content-length`, as `allow` does.
    pub(crate) extra: Vec<(&'static str, String)>,
    /// The body.
    pub(crate) body: Vec<u8>,
    /// Whether `vary: Origin` is sent; an unhandled error of the engine lacks it.
    pub(crate) vary: bool,
}

impl Reply {
    /// An answer with this JSON text.
    pub(crate) fn json(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            content_type: Some("application/json".to_owned()),
            ..Self::empty(status).with_body(body)
        }
    }

    /// An answer without a body.
    pub(crate) fn empty(status: u16) -> Self {
        Self { status, content_type: None, extra: Vec::new(), body: Vec::new(), vary: true }
    }

    fn with_body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }
}

/// The writing side of one connection.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: Arc<TcpStream>,
    face: Face,
    /// Bytes of the present answer that were written, head included.
    sent: u64,
    cut_at: Option<u64>,
    how: How,
    split: Option<usize>,
    framing: Option<Framing>,
    /// The request was HTTP/1.0: chunks cannot be sent.
    old_client: bool,
    /// The request was a HEAD: its answer has no body.
    no_body: bool,
    /// The connection ends with the present answer.
    close: bool,
    /// The present answer's body goes out in HTTP chunks.
    chunked: bool,
    /// The connection was told to end with a reset.
    reset: bool,
    /// Writes on this connection.
    writes: u64,
    scratch: Vec<u8>,
}

impl Wire {
    /// Wraps a connected socket.
    pub(crate) fn new(stream: Arc<TcpStream>, face: Face) -> Self {
        Self {
            stream,
            face,
            sent: 0,
            cut_at: None,
            how: How::Fin,
            split: None,
            framing: None,
            old_client: false,
            no_body: false,
            close: false,
            chunked: false,
            reset: false,
            writes: 0,
            scratch: Vec::with_capacity(1024),
        }
    }

    /// Starts a new answer: the counter at zero, no faults.
    pub(crate) fn begin(&mut self, keep_alive: bool, old_client: bool, no_body: bool) {
        self.no_body = no_body;
        self.sent = 0;
        self.cut_at = None;
        self.split = None;
        self.framing = None;
        self.close = !keep_alive;
        self.old_client = old_client;
    }

    /// Takes over those faults that concern bytes.
    pub(crate) fn arm(&mut self, fault: &Fault) {
        self.split = fault.split_writes.filter(|&m| m > 0);
        self.framing = fault.no_content_length;
        if let Some(cut) = &fault.cut {
            self.how = cut.how;
            self.cut_at = cut.at_byte;
        }
    }

    /// Whether the connection must end after the present answer.
    pub(crate) fn must_close(&self) -> bool {
        self.close
    }

    /// Writes a whole answer.
    pub(crate) async fn reply(&mut self, reply: &Reply) -> Result<(), Stop> {
        let framing = match self.framing {
            Some(Framing::Chunked) if self.old_client => Some(Framing::Close),
            other => other,
        };
        let mut head = head_start(reply.status, self.face);
        for (name, value) in &reply.extra {
            push_header(&mut head, name, value);
        }
        if framing.is_none() {
            push_header(&mut head, "content-length", &reply.body.len().to_string());
        }
        if let Some(kind) = &reply.content_type {
            push_header(&mut head, "content-type", kind);
        }
        if reply.vary && self.face == Face::Vllm {
            push_header(&mut head, "vary", "Origin");
        }
        match framing {
            Some(Framing::Chunked) => {
                push_header(&mut head, "transfer-encoding", "chunked");
                self.end_head(&mut head);
                self.raw(head.as_bytes()).await?;
                self.chunked = true;
                self.chunk(&reply.body).await?;
                self.end_stream().await
            }
            framing => {
                self.close |= framing == Some(Framing::Close);
                self.end_head(&mut head);
                // One write for head and body, as a real server's transport does.
                let mut all = head.into_bytes();
                if !self.no_body {
                    all.extend_from_slice(&reply.body);
                }
                self.raw(&all).await
            }
        }
    }

    /// Writes the head of a stream.
    pub(crate) async fn stream_head(&mut self, content_type: &str) -> Result<(), Stop> {
        let mut head = head_start(200, self.face);
        push_header(&mut head, "content-type", content_type);
        if self.face == Face::Vllm {
            push_header(&mut head, "vary", "Origin");
        }
        self.chunked = !self.old_client && self.framing != Some(Framing::Close);
        if self.chunked {
            push_header(&mut head, "transfer-encoding", "chunked");
        } else {
            self.close = true;
        }
        self.end_head(&mut head);
        self.raw(head.as_bytes()).await
    }

    /// Writes a part of a stream's body, as one HTTP chunk unless writes are to be split.
    pub(crate) async fn chunk(&mut self, payload: &[u8]) -> Result<(), Stop> {
        if payload.is_empty() {
            return Ok(());
        }
        if !self.chunked {
            return self.raw(payload).await;
        }
        let size = self.split.unwrap_or(payload.len());
        for piece in payload.chunks(size) {
            let mut framed = std::mem::take(&mut self.scratch);
            framed.clear();
            push_chunk(&mut framed, piece);
            let written = self.once(&framed).await;
            self.scratch = framed;
            written?;
            if self.split.is_some() {
                tokio::task::yield_now().await; // so that the pieces are seen apart
            }
        }
        Ok(())
    }

    /// Ends a stream's body cleanly.
    pub(crate) async fn end_stream(&mut self) -> Result<(), Stop> {
        if self.chunked { self.once(b"0\r\n\r\n").await } else { Ok(()) }
    }

    /// Cuts the connection now.
    pub(crate) async fn cut(&mut self, how: How) -> Stop {
        match how {
            How::Fin => end_writing(&self.stream),
            How::Rst => {
                self.reset = true;
                // Closing with a reset discards what the kernel still holds.
                if self.writes > ALWAYS_SENT.0 || self.sent > ALWAYS_SENT.1 {
                    let arrived = tokio::time::timeout(LINGER, arrival(&self.stream));
                    let _ = arrived.await;
                }
                // A failure leaves an ordinary close, which is all that can be done then.
                let _ = SockRef::from(&*self.stream).set_linger(Some(Duration::ZERO));
            }
        }
        Stop::Cut
    }

    /// Whether the connection was reset, not ended.
    pub(crate) fn is_reset(&self) -> bool {
        self.reset
    }

    /// Interim answer to `Expect: 100-continue`; it belongs to no answer and is not counted.
    pub(crate) async fn go_on(&mut self) -> Result<(), Stop> {
        write_all(&self.stream, b"HTTP/1.1 100 Continue\r\n\r\n").await.map_err(|_| Stop::Gone)
    }

    /// Writes bytes, in pieces if writes are to be split.
    async fn raw(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        let Some(size) = self.split else {
            return self.once(bytes).await;
        };
        for piece in bytes.chunks(size) {
            self.once(piece).await?;
            tokio::task::yield_now().await;
        }
        if bytes.is_empty() { self.once(bytes).await } else { Ok(()) }
    }

    /// The one place where bytes are counted, limited and written.
    async fn once(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        // A stream without any delay must leave room for its neighbours, and for the news
        // that its client went away.
        tokio::task::coop::consume_budget().await;
        let left = self.cut_at.map(|at| at.saturating_sub(self.sent));
        let reached = left.filter(|&left| left <= bytes.len() as u64);
        let part = reached.and_then(|n| usize::try_from(n).ok()).map_or(bytes, |n| &bytes[..n]);
        write_all(&self.stream, part).await.map_err(|_| Stop::Gone)?;
        self.sent += part.len() as u64;
        self.writes += 1;
        if reached.is_some() { Err(self.cut(self.how).await) } else { Ok(()) }
    }

    fn end_head(&self, head: &mut String) {
        if self.close {
            push_header(head, "connection", "close");
        }
        head.push_str("\r\n");
    }
}

/// Says "no more bytes from here" and reads on until the client has gone too.
///
/// Closing while unread bytes wait would send a reset instead of the end.
pub(crate) async fn linger(stream: &TcpStream) {
    end_writing(stream);
    let drain = async {
        let mut sink = [0; 4096];
        while stream.readable().await.is_ok() {
            match stream.try_read(&mut sink) {
                Ok(0) => break,
                Err(e) if e.kind() != io::ErrorKind::WouldBlock => break,
                _ => {}
            }
        }
    };
    let _ = tokio::time::timeout(LINGER, drain).await;
}

/// Returns when the peer has acknowledged every byte; where that cannot be seen, soon.
async fn arrival(stream: &TcpStream) {
    loop {
        match unacknowledged(stream) {
            Some(0) => return,
            Some(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            // The longest time for which a peer may hold back its acknowledgement.
            None => return tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Bytes that were written and not acknowledged, from the table of sockets of this process.
fn unacknowledged(stream: &TcpStream) -> Option<u64> {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", stream.as_raw_fd())).ok()?;
    let inode = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
    for table in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
        let table = std::fs::read_to_string(table).unwrap_or_default();
        for line in table.lines().skip(1) {
            let mut fields = line.split_whitespace();
            let queues = fields.nth(4);
            if fields.nth(4) == Some(inode) {
                return u64::from_str_radix(queues?.split(':').next()?, 16).ok();
            }
        }
    }
    None
}

fn end_writing(stream: &TcpStream) {
    // Fails only if the peer closed first, which is the same to the peer.
    let _ = SockRef::from(stream).shutdown(std::net::Shutdown::Write);
}

async fn write_all(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.try_write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => bytes = &bytes[n..],
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => stream.writable().await?,
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn push_chunk(out: &mut Vec<u8>, piece: &[u8]) {
    out.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
    out.extend_from_slice(piece);
    out.extend_from_slice(b"\r\n");
}
