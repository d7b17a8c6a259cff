//! Input that is made to harm (SPEC 10). Whatever comes, from clients, pages or backends: the daemon
//! answers or hangs up in bounded time, holds little, opens nothing for good, and serves others
//! meanwhile.

mod backends;
mod browsers;
mod connections;
mod framing;
mod heads;
mod images;
mod json;
mod keys;
mod multipart;
mod names;
mod streams;
mod tails;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::MutexGuard;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Ask, BOUND, Daemon, Setup, Upstream, alone, eventually, vllm};

/// Others are served within this while it is attacked.
const SOON: Duration = Duration::from_secs(1);
/// A page of memory (bytes).
const PAGE: usize = 4 << 10;
/// So much more may be held afterwards than before (bytes): buffers, pools and what the allocator keeps.
const SPARE: usize = 24 << 20;
/// So many more descriptors may be open afterwards: connections to backends that are kept for a moment.
const SPARE_FDS: usize = 4;

/// A backend that gives the usual answer.
fn backend() -> Upstream {
    Upstream::answering("200 OK", "application/json", vllm::WHOLE)
}

/// A daemon that gives up slow clients soon.
fn hasty(upstream: &Upstream) -> Setup {
    Setup::with(upstream)
        .set("server", "client_header_timeout_s", 1)
        .set("server", "keep_alive_s", 1)
        .set("server", "client_write_timeout_s", 1)
}

/// The memory of a process (bytes).
pub fn memory(pid: i32) -> Option<usize> {
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    Some(text.split(' ').nth(1)?.parse::<usize>().ok()? * PAGE)
}

/// A daemon that is attacked, and what it was before.
struct Siege<'a> {
    daemon: &'a Daemon,
    memory: usize,
    fds: usize,
    _alone: MutexGuard<'static, ()>,
}

impl<'a> Siege<'a> {
    /// What the daemon is like when it has done a little of everything.
    fn lay(daemon: &'a Daemon) -> Self {
        Siege::lay_with(daemon, &Ask::chat(vllm::ask(false)))
    }

    /// The same, where this is the usual request.
    fn lay_with(daemon: &'a Daemon, usual: &Ask) -> Self {
        let alone = alone();
        for _ in 0..8 {
            daemon.assert_serves();
            assert_eq!(usual.reply(daemon.addr()).status(), 200);
        }
        let siege = Siege { daemon, memory: 0, fds: 0, _alone: alone };
        Siege { memory: siege.memory(), fds: daemon.fd_count(), ..siege }
    }

    fn memory(&self) -> usize {
        memory(self.daemon.main().as_raw()).expect("a living daemon")
    }

    /// Attacks; all the while somebody else is served soon.
    #[track_caller]
    fn attack<T>(&self, attack: impl FnOnce() -> T) -> T {
        let over = AtomicBool::new(false);
        let (done, slowest) = thread::scope(|scope| {
            let prober = scope.spawn(|| slowest_answer(self.daemon.addr(), &over));
            let ending = Ending(&over);
            let done = attack();
            drop(ending);
            (done, prober.join().expect("somebody who is served"))
        });
        assert!(slowest < SOON, "others waited {slowest:?}");
        done
    }

    /// It is as it was before.
    #[track_caller]
    fn lift(self) {
        self.lift_asking(&Ask::chat(vllm::ask(false)));
    }

    /// The same, where this is the usual request.
    #[track_caller]
    fn lift_asking(self, usual: &Ask) {
        let most = self.fds + SPARE_FDS;
        eventually(&format!("no more than {most} descriptors are open"), BOUND, || {
            (self.daemon.fd_count() <= most).then_some(())
        });
        let most = self.memory + SPARE;
        eventually(&format!("no more than {most} bytes are held"), BOUND, || {
            self.daemon.assert_serves();
            (self.memory() <= most).then_some(())
        });
        assert_eq!(usual.reply(self.daemon.addr()).status(), 200);
        let stderr = self.daemon.stderr();
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
}

/// Ends the probe also where the attack fails.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// How long the slowest of many small requests took, each over a connection of its own.
fn slowest_answer(addr: SocketAddr, over: &AtomicBool) -> Duration {
    let mut slowest = Duration::ZERO;
    while !over.load(Ordering::SeqCst) {
        let begun = Instant::now();
        assert_eq!(Ask::get("/v1/healthz").reply(addr).status(), 200);
        slowest = slowest.max(begun.elapsed());
        thread::sleep(Duration::from_millis(10)); // the pace of the probe
    }
    slowest
}

/// Sends bytes over a connection of their own and gives all that comes back until the daemon closes
/// it. It may do so before it has taken them.
#[track_caller]
fn talk(addr: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = connect(addr);
    let mut reader = stream.try_clone().expect("a second handle");
    let said = thread::spawn(move || {
        let (mut said, mut bytes) = (Vec::new(), [0; 16 << 10]);
        loop {
            match reader.read(&mut bytes) {
                Ok(0) => return Ok(said),
                Ok(n) => said.extend_from_slice(&bytes[..n]),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return Err(said),
                Err(_) => return Ok(said), // it was reset: nothing more comes
            }
        }
    });
    // What it does not take it has no need of.
    let _ = stream.write_all(bytes);
    let said = said.join().expect("a reader");
    let said = said.unwrap_or_else(|said| {
        panic!("silent for {BOUND:?} after {:?}", String::from_utf8_lossy(&said))
    });
    String::from_utf8_lossy(&said).into_owned()
}

/// Sends one request that asks for the connection to be closed.
#[track_caller]
fn talk_once(addr: SocketAddr, ask: &Ask) -> String {
    talk(addr, &ask.clone().header("connection", "close").bytes(addr))
}

fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).expect("the daemon accepts");
    stream.set_read_timeout(Some(BOUND)).expect("a read timeout");
    stream.set_write_timeout(Some(BOUND)).expect("a write timeout");
    stream
}

/// The statuses of what was answered over one connection.
fn statuses(said: &str) -> Vec<u16> {
    let heads = said.split("HTTP/1.1 ").skip(1);
    heads.filter_map(|head| head.get(..3)?.parse().ok()).collect()
}

/// Does the same for all of them at once: most only wait for the daemon to hang up.
fn at_once<T: Sync>(all: &[T], each: impl Fn(&T) + Sync) {
    const AT_ONCE: usize = 32;
    for some in all.chunks(AT_ONCE) {
        thread::scope(|scope| {
            for one in some {
                scope.spawn(|| each(one));
            }
        });
    }
}
