//! A client that sees every byte, and sends what it is told.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;
use sim_engine::{Engine, Handle, Options, Stats};

/// Longer than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn engine(options: Options) -> Handle {
    Engine::start(options).unwrap()
}

/// What a connection gave before it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// It is still open.
    Open,
    Fin,
    Rst,
}

#[derive(Debug, Clone)]
pub(crate) struct Response {
    pub(crate) status_line: String,
    pub(crate) headers: Vec<(String, String)>,
    /// Without its chunks.
    pub(crate) body: Vec<u8>,
    /// The sizes of the chunks.
    pub(crate) chunks: Vec<usize>,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The data lines.
    pub(crate) fn events(&self) -> Vec<String> {
        let text = self.text();
        text.lines().filter_map(|l| l.strip_prefix("data: ")).map(str::to_owned).collect()
    }

    /// The text that a stream of a chat adds up to.
    pub(crate) fn content(&self) -> String {
        let events = self.events();
        let chunks = events.iter().filter_map(|e| serde_json::from_str::<Value>(e).ok());
        chunks
            .filter_map(|c| Some(c.pointer("/choices/0/delta/content")?.as_str()?.to_owned()))
            .collect()
    }
}

pub(crate) struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    pub(crate) fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new() }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub(crate) fn post(&mut self, path: &str, body: &str) {
        self.send(&request("POST", path, "application/json", body));
    }

    /// Forgets what was read so far.
    pub(crate) fn skip(&mut self) {
        self.buffer.clear();
    }

    /// Reads until there is no more; how it ended is told.
    pub(crate) fn rest(&mut self) -> (Vec<u8>, End) {
        loop {
            match self.more() {
                End::Open => {}
                end => return (std::mem::take(&mut self.buffer), end),
            }
        }
    }

    /// Reads until so many bytes are there, or it ends.
    pub(crate) fn until(&mut self, enough: impl Fn(&[u8]) -> bool) -> &[u8] {
        while !enough(&self.buffer) && self.more() == End::Open {}
        &self.buffer
    }

    /// Whether nothing arrives for so long.
    pub(crate) fn is_silent(&mut self, time: Duration) -> bool {
        self.stream.set_read_timeout(Some(time)).unwrap();
        let mut byte = [0];
        let silent = matches!(self.stream.read(&mut byte),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut));
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        silent
    }

    /// Reads one response by its framing.
    pub(crate) fn response(&mut self) -> Response {
        self.until(|b| find(b, b"\r\n\r\n").is_some());
        let end = find(&self.buffer, b"\r\n\r\n").expect("a whole head");
        let head = String::from_utf8(self.buffer.drain(..end + 4).collect()).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status_line = lines.next().unwrap().to_owned();
        let headers = lines
            .map(|l| l.split_once(": ").unwrap())
            .map(|(n, v)| (n.to_owned(), v.to_owned()))
            .collect();
        let mut response = Response { status_line, headers, body: Vec::new(), chunks: Vec::new() };
        if response.header("transfer-encoding") == Some("chunked") {
            while self.chunk(&mut response) {}
        } else if let Some(length) = response.header("content-length") {
            let length: usize = length.parse().unwrap();
            self.until(|b| b.len() >= length);
            response.body = self.buffer.drain(..length).collect();
        } else {
            response.body = self.rest().0;
        }
        response
    }

    fn chunk(&mut self, response: &mut Response) -> bool {
        self.until(|b| find(b, b"\r\n").is_some());
        let end = find(&self.buffer, b"\r\n").expect("a line");
        let line: Vec<u8> = self.buffer.drain(..end + 2).collect();
        let size = usize::from_str_radix(std::str::from_utf8(&line[..end]).unwrap(), 16).unwrap();
        self.until(|b| b.len() >= size + 2);
        response.body.extend(self.buffer.drain(..size));
        assert_eq!(self.buffer.drain(..2).collect::<Vec<_>>(), b"\r\n");
        if size > 0 {
            response.chunks.push(size);
        }
        size > 0
    }

    fn more(&mut self) -> End {
        let mut block = [0; 16 * 1024];
        match self.stream.read(&mut block) {
            Ok(0) => End::Fin,
            Ok(n) => {
                self.buffer.extend_from_slice(&block[..n]);
                End::Open
            }
            Err(e) if e.kind() == ErrorKind::ConnectionReset => End::Rst,
            Err(e) => panic!("{e}; so far: {}", String::from_utf8_lossy(&self.buffer)),
        }
    }
}

pub(crate) fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|w| w == what)
}

pub(crate) fn request(method: &str, path: &str, kind: &str, body: &str) -> Vec<u8> {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: sim\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// A chat whose last message is `text`, with faults.
pub(crate) fn chat(text: &str, stream: bool, sim: &Value) -> String {
    serde_json::json!({
        "messages": [{"role": "user", "content": text}], "stream": stream, "sim": sim,
    })
    .to_string()
}

/// One chat on a connection of its own.
pub(crate) fn ask(engine: &Handle, text: &str, stream: bool, sim: &Value) -> Response {
    let mut client = Client::connect(engine.addr());
    client.post("/v1/chat/completions", &chat(text, stream, sim));
    client.response()
}

/// Waits for the counters to be as they should.
pub(crate) fn wait_for(engine: &Handle, what: &str, is: impl Fn(&Stats) -> bool) -> Stats {
    let start = Instant::now();
    loop {
        let stats = engine.stats();
        if is(&stats) {
            return stats;
        }
        assert!(start.elapsed() < PATIENCE, "never: {what}; {stats:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
