//! A scripted backend: raw TCP, one thread per connection, no HTTP library in the way.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{BOUND, eventually, vllm};

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Seen {
    pub head: String,
    pub body: Vec<u8>,
}

impl Seen {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
        let mut found = lines.filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.trim());
        let value = found.next();
        assert!(found.next().is_none(), "{name} came twice: {}", self.head);
        value
    }
}

#[derive(Default)]
struct Notes {
    seen: Vec<Seen>,
    gone: Vec<Instant>,
}

/// See the module. The script runs once per request.
pub struct Upstream {
    addr: SocketAddr,
    notes: Arc<Mutex<Notes>>,
    stop: Arc<std::sync::atomic::AtomicBool>,
}

/// What a script does to its connection.
pub struct Wire {
    stream: Option<TcpStream>,
    notes: Arc<Mutex<Notes>>,
}

fn lock(notes: &Mutex<Notes>) -> MutexGuard<'_, Notes> {
    notes.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Upstream {
    pub fn start(script: impl Fn(&Seen, &mut Wire) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let addr = listener.local_addr().expect("an address");
        let notes: Arc<Mutex<Notes>> = Arc::default();
        let stop: Arc<std::sync::atomic::AtomicBool> = Arc::default();
        let (script, shared, ended) = (Arc::new(script), notes.clone(), stop.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if ended.load(std::sync::atomic::Ordering::SeqCst) {
                    return;
                }
                let (script, notes) = (script.clone(), shared.clone());
                thread::spawn(move || serve(stream, &notes, &*script));
            }
        });
        Upstream { addr, notes, stop }
    }

    /// Answers every request with this stream, one event per HTTP chunk.
    pub fn streaming(events: Vec<String>) -> Self {
        Upstream::start(move |_, wire| wire.stream(&events))
    }

    /// Answers every request in one piece.
    pub fn answering(status: &str, content_type: &str, body: &str) -> Self {
        let (status, kind, body) = (status.to_owned(), content_type.to_owned(), body.to_owned());
        Upstream::start(move |_, wire| wire.answer(&status, &kind, body.as_bytes()))
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The address for a registry entry.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.addr)
    }

    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.notes).seen.clone()
    }

    /// The only request that came.
    #[track_caller]
    pub fn only(&self) -> Seen {
        let seen = self.seen();
        assert_eq!(seen.len(), 1, "requests upstream");
        seen.into_iter().next().expect("one")
    }

    /// Waits until `n` requests have come.
    pub fn wait_seen(&self, n: usize) {
        eventually("requests upstream", BOUND, || {
            (lock(&self.notes).seen.len() >= n).then_some(())
        });
    }

    /// Waits until `n` connections were seen to be closed by the proxy while a script watched.
    #[track_caller]
    pub fn wait_gone(&self, n: usize, within: Duration) -> Vec<Instant> {
        eventually("the proxy closes the upstream connection", within, || {
            Some(lock(&self.notes).gone.clone()).filter(|gone| gone.len() >= n)
        })
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop.store(true, std::sync::atomic::Ordering::SeqCst);
        // Wakes the accepting thread, which then ends.
        drop(TcpStream::connect(self.addr));
    }
}

fn serve(
    stream: TcpStream,
    notes: &Arc<Mutex<Notes>>,
    script: &(impl Fn(&Seen, &mut Wire) + ?Sized),
) {
    stream.set_nodelay(true).expect("nodelay");
    let mut wire = Wire { stream: Some(stream), notes: notes.clone() };
    let mut buffer = Vec::new();
    while let Some(seen) = wire.request(&mut buffer) {
        lock(notes).seen.push(seen.clone());
        script(&seen, &mut wire);
    }
}

impl Wire {
    /// Reads one whole request; `None` when the connection is over.
    fn request(&mut self, buffer: &mut Vec<u8>) -> Option<Seen> {
        let stream = self.stream.as_mut()?;
        let mut bytes = [0; 16 << 10];
        let mut more = |buffer: &mut Vec<u8>| {
            let n = stream.read(&mut bytes).ok().filter(|n| *n > 0)?;
            buffer.extend_from_slice(&bytes[..n]);
            Some(())
        };
        let end = loop {
            match buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                Some(at) => break at + 4,
                None => more(buffer)?,
            }
        };
        let head = String::from_utf8(buffer.drain(..end).collect()).expect("a head of ASCII");
        let mut seen = Seen { head, body: Vec::new() };
        let length = seen.header("content-length").map_or(0, |v| v.parse().expect("a length"));
        while buffer.len() < length {
            more(buffer)?;
        }
        seen.body = buffer.drain(..length).collect();
        Some(seen)
    }

    /// Sends bytes; says whether the connection still took them.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        let sent = self.stream.as_mut().map(|stream| stream.write_all(bytes));
        let open = matches!(sent, Some(Ok(())));
        if !open {
            self.stream = None;
        }
        open
    }

    pub fn stream_head(&mut self) -> bool {
        self.send(vllm::STREAM_HEAD.as_bytes())
    }

    /// One HTTP chunk.
    pub fn chunk(&mut self, data: &[u8]) -> bool {
        self.send(&[format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat())
    }

    pub fn last_chunk(&mut self) -> bool {
        self.send(b"0\r\n\r\n")
    }

    /// A whole stream, one event per chunk.
    pub fn stream(&mut self, events: &[String]) {
        self.stream_head();
        for event in events {
            self.chunk(event.as_bytes());
        }
        self.last_chunk();
    }

    /// An answer in one piece.
    pub fn answer(&mut self, status: &str, content_type: &str, body: &[u8]) {
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {status}\r\nserver: uvicorn\r\ncontent-length: {length}\r\ncontent-type: {content_type}\r\n\r\n"
        );
        self.send(&[head.as_bytes(), body].concat());
    }

    /// Closes with FIN.
    pub fn fin(&mut self) {
        if let Some(stream) = self.stream.take() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Closes with RST; what was sent before is still delivered on loopback.
    pub fn rst(&mut self) {
        if let Some(stream) = self.stream.take() {
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("linger");
        }
    }

    /// Says nothing until the proxy closes the connection, and notes when it did.
    pub fn until_gone(&mut self) {
        let Some(mut stream) = self.stream.take() else {
            return self.note_gone();
        };
        stream.set_read_timeout(Some(BOUND)).expect("a read timeout");
        let mut byte = [0; 1];
        match stream.read(&mut byte) {
            Ok(0) => self.note_gone(),
            Ok(_) => panic!("the proxy sent more than its request"),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {} // never noted: the test fails
            Err(_) => self.note_gone(),
        }
    }

    /// Sends `piece` again and again until the proxy closes the connection, and notes when.
    pub fn flood(&mut self, piece: &[u8]) {
        while self.chunk(piece) {}
        self.note_gone();
    }

    fn note_gone(&self) {
        lock(&self.notes).gone.push(Instant::now());
    }
}
