//! A raw HTTP/1.1 client: it keeps the chunks as they came, reads the framing strictly, and can
//! leave at any moment.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use serde_json::Value;

use super::BOUND;

/// A request to be sent.
#[derive(Clone)]
pub struct Ask {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
}

impl Ask {
    pub fn new(method: &str, path: &str) -> Self {
        Ask { method: method.into(), path: path.into(), headers: Vec::new(), body: None }
    }

    pub fn get(path: &str) -> Self {
        Ask::new("GET", path)
    }

    /// A chat request with this body.
    pub fn chat(body: impl Into<Vec<u8>>) -> Self {
        let mut ask =
            Ask::new("POST", "/v1/chat/completions").header("content-type", "application/json");
        ask.body = Some(body.into());
        ask
    }

    /// An order in JSON.
    pub fn post(path: &str, body: &Value) -> Self {
        let mut ask = Ask::new("POST", path).header("content-type", "application/json");
        ask.body = Some(body.to_string().into_bytes());
        ask
    }

    /// A body in JSON, said to be so.
    pub fn json_body(self, body: &Value) -> Self {
        self.body(&body.to_string()).header("content-type", "application/json")
    }

    pub fn body(mut self, body: &str) -> Self {
        self.body = Some(body.as_bytes().to_vec());
        self
    }

    /// A body that need be no text.
    pub fn raw_body(mut self, body: &[u8]) -> Self {
        self.body = Some(body.to_vec());
        self
    }

    /// Adds a header; `host` replaces the usual one, an empty `host` leaves it out.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The bytes on the wire.
    pub fn bytes(&self, addr: SocketAddr) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.path);
        let named = |name: &str| self.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
        if !named("host") {
            head.push_str(&format!("host: {addr}\r\n"));
        }
        for (name, value) in self.headers.iter().filter(|(n, v)| n != "host" || !v.is_empty()) {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let body = self.body.clone().unwrap_or_default();
        if self.body.is_some() && !named("content-length") && !named("transfer-encoding") {
            head.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        [head.as_bytes(), b"\r\n", &body].concat()
    }

    /// Sends it over a connection of its own.
    pub fn open(&self, addr: SocketAddr) -> Client {
        let mut client = Client::connect(addr);
        client.send(&self.bytes(addr));
        client
    }

    /// Sends it and reads the whole answer.
    pub fn reply(&self, addr: SocketAddr) -> Reply {
        self.open(addr).reply()
    }
}

/// A response's head.
#[derive(Debug, Clone)]
pub struct Head {
    pub status: u16,
    headers: Vec<(String, String)>,
}

impl Head {
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    fn parse(text: &str) -> Head {
        let mut lines = text.split("\r\n");
        let status = lines.next().unwrap_or_default();
        let code = status.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let headers = lines
            .filter(|line| !line.is_empty())
            .map(|line| line.split_once(':').unwrap_or_else(|| panic!("no header: {line:?}")))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        Head { status: code.unwrap_or_else(|| panic!("no status line: {status:?}")), headers }
    }
}

/// One HTTP chunk, or one read of a body with a length.
#[derive(Debug, Clone)]
pub struct Piece {
    pub at: Instant,
    pub data: Vec<u8>,
}

/// How a response ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    Whole,
    Cut(String),
}

/// A response as it came.
#[derive(Debug, Clone)]
pub struct Reply {
    pub head: Head,
    pub pieces: Vec<Piece>,
    pub end: End,
}

impl Reply {
    pub fn status(&self) -> u16 {
        self.head.status
    }

    pub fn body(&self) -> Vec<u8> {
        self.pieces.iter().flat_map(|piece| piece.data.iter().copied()).collect()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body()).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body()).unwrap_or_else(|e| panic!("{e}: {:?}", self.text()))
    }

    /// Asserts that this is a whole error of the usual shape, and gives the error object.
    #[track_caller]
    pub fn error(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.end, End::Whole);
        assert_eq!(self.status(), status, "{}", self.text());
        let body = self.json();
        let error = &body["error"];
        assert_eq!(error["code"], code, "{body}");
        assert!(error["message"].as_str().is_some_and(|m| !m.is_empty()), "{body}");
        assert!(error["type"].is_string() && error.get("param").is_some(), "{body}");
        assert!(self.head.get("x-request-id").is_some(), "{:?}", self.head);
        assert_eq!(self.head.get("content-type"), Some("application/json"));
        error.clone()
    }
}

#[derive(Clone, Copy)]
enum Framing {
    Length(usize),
    Chunked,
    Over,
}

/// One connection; over TCP, or over what is laid over it.
pub struct Client<S = TcpStream> {
    pub stream: S,
    buffer: Vec<u8>,
    framing: Framing,
}

impl Client {
    pub fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).expect("the daemon accepts");
        stream.set_read_timeout(Some(BOUND)).expect("a read timeout");
        stream.set_nodelay(true).expect("nodelay");
        Client::over(stream)
    }
}

impl<S: Read + Write> Client<S> {
    pub fn over(stream: S) -> Self {
        Client { stream, buffer: Vec::new(), framing: Framing::Over }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the daemon takes the request");
    }

    /// Reads more into the buffer; `Err` at the connection's end.
    fn fill(&mut self) -> Result<(), String> {
        let mut bytes = [0; 16 << 10];
        match self.stream.read(&mut bytes) {
            Ok(0) => Err("end of connection".to_owned()),
            Ok(n) => {
                self.buffer.extend_from_slice(&bytes[..n]);
                Ok(())
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("the daemon was silent for {BOUND:?}")
            }
            Err(e) => Err(e.to_string()),
        }
    }

    fn take(&mut self, n: usize) -> Result<Vec<u8>, String> {
        while self.buffer.len() < n {
            self.fill()?;
        }
        Ok(self.buffer.drain(..n).collect())
    }

    fn line(&mut self, end: &str) -> Result<String, String> {
        loop {
            let found = self.buffer.windows(end.len()).position(|w| w == end.as_bytes());
            if let Some(at) = found {
                let line: Vec<u8> = self.buffer.drain(..at + end.len()).collect();
                return Ok(String::from_utf8_lossy(&line[..at]).into_owned());
            }
            self.fill()?;
        }
    }

    /// Reads an interim response: its line and no headers.
    pub fn expect_line(&mut self, want: &str) {
        assert_eq!(self.line("\r\n\r\n").expect("an interim response"), want);
    }

    /// Reads the next response's head.
    pub fn head(&mut self) -> Head {
        self.try_head().expect("a response's head")
    }

    pub fn try_head(&mut self) -> Result<Head, String> {
        let head = Head::parse(&self.line("\r\n\r\n")?);
        let chunked =
            head.get("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked"));
        let length = head.get("content-length").map(|v| v.parse().expect("a length"));
        self.framing = match (chunked, length) {
            (true, None) => Framing::Chunked,
            (false, Some(length)) => Framing::Length(length),
            (false, None) if matches!(head.status, 204 | 304) => Framing::Length(0),
            _ => panic!("a body without proper framing: {head:?}"),
        };
        Ok(head)
    }

    /// The next piece of the body, `None` at its proper end, `Err` where it was cut.
    pub fn piece(&mut self) -> Result<Option<Piece>, String> {
        let data = match self.framing {
            Framing::Over | Framing::Length(0) => return Ok(None),
            Framing::Length(left) => {
                if self.buffer.is_empty() {
                    self.fill()?;
                }
                let n = left.min(self.buffer.len());
                self.framing = Framing::Length(left - n);
                self.take(n)?
            }
            Framing::Chunked => {
                let size = self.line("\r\n")?;
                assert!(size.bytes().all(|b| b.is_ascii_hexdigit()), "a bad chunk size {size:?}");
                let size = usize::from_str_radix(&size, 16).map_err(|e| e.to_string())?;
                let data = self.take(size)?;
                assert_eq!(self.take(2)?, b"\r\n", "the end of a chunk");
                if size == 0 {
                    self.framing = Framing::Over;
                    return Ok(None);
                }
                data
            }
        };
        Ok(Some(Piece { at: Instant::now(), data }))
    }

    /// Reads pieces until `text` has come; gives everything read by then.
    #[track_caller]
    pub fn read_until(&mut self, text: &str) -> Vec<u8> {
        let mut all = Vec::new();
        while !all.windows(text.len()).any(|w| w == text.as_bytes()) {
            let piece = self.piece().expect("an uncut body").expect("more of the body");
            all.extend_from_slice(&piece.data);
        }
        all
    }

    /// Reads the rest of the body.
    pub fn rest(&mut self) -> (Vec<Piece>, End) {
        let mut pieces = Vec::new();
        loop {
            match self.piece() {
                Ok(Some(piece)) => pieces.push(piece),
                Ok(None) => return (pieces, End::Whole),
                Err(why) => return (pieces, End::Cut(why)),
            }
        }
    }

    /// Reads a whole response.
    pub fn reply(&mut self) -> Reply {
        let head = self.head();
        let (pieces, end) = self.rest();
        Reply { head, pieces, end }
    }

    /// Waits for the daemon to close the connection; gives what came before.
    pub fn until_closed(&mut self) -> Vec<u8> {
        while self.fill().is_ok() {}
        std::mem::take(&mut self.buffer)
    }
}
