//! Engines as real processes: started, told to end, killed, and swept up afterwards.

mod flags;
mod left;
mod like_vllm;
mod lines;
mod starting;

use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use crate::client::{Client, PATIENCE, Response};

/// Held while a process is started and while a port is tried: for a moment a process that is
/// being started has all descriptors of this one, and would keep the port.
static STARTING: Mutex<()> = Mutex::new(());

/// An engine that runs in a group of its own. Dropping it kills all that it ever started.
struct Engine {
    child: Child,
    dir: TempDir,
}

impl Engine {
    /// Starts one at a free port, without waiting for anything.
    fn start(flags: &str) -> Self {
        Self::start_at(0, flags)
    }

    fn start_at(port: u16, flags: &str) -> Self {
        Self::spawn(&["serve", "tiny-a", &format!("--port={port}")], flags)
    }

    fn spawn(words: &[&str], flags: &str) -> Self {
        Self::spawn_heard_by(words, flags, None)
    }

    /// Starts one whose standard error is read by another; without one it goes to a file.
    fn spawn_heard_by(words: &[&str], flags: &str, reader: Option<Stdio>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| File::create(dir.path().join(name)).unwrap();
        let _starting = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
        let child = Command::new(env!("CARGO_BIN_EXE_sim-engine"))
            .args(words)
            .arg("--sim-journal")
            .arg(dir.path().join("journal"))
            .args(flags.split_whitespace())
            .current_dir(dir.path())
            .env("SIM_TEST_SECRET", "s3cret")
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(file("out"))
            .stderr(reader.unwrap_or_else(|| file("err").into()))
            .spawn()
            .unwrap();
        Self { child, dir }
    }

    /// Starts one and waits until it listens.
    fn ready(flags: &str) -> Self {
        let engine = Self::start(flags);
        engine.addr();
        engine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What it said on its standard error.
    fn log(&self) -> String {
        fs::read_to_string(self.path("err")).unwrap()
    }

    /// Where it listens, once it does.
    fn addr(&self) -> SocketAddr {
        until("it listens", || {
            let out = fs::read_to_string(self.path("out")).unwrap();
            out.strip_prefix("listening on http://")?.strip_suffix('\n')?.parse().ok()
        })
    }

    fn client(&self) -> Client {
        Client::connect(self.addr())
    }

    fn get(&self, path: &str) -> Response {
        let mut client = self.client();
        client.send(&crate::client::request("GET", path, "text/plain", ""));
        client.response()
    }

    /// Orders something, on a connection of its own.
    fn order(&self, path: &str, order: &Value) -> Client {
        let mut client = self.client();
        client.post(path, &order.to_string());
        client
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    /// The processes that it has, by role.
    fn child_pid(&self, role: &str) -> i32 {
        let family = self.get("/sim/process").json();
        let children = family["children"].as_array().unwrap().clone();
        let child = children.iter().find(|c| c["role"] == role);
        let pid = child.unwrap_or_else(|| panic!("no {role}: {family}"))["pid"].as_i64().unwrap();
        i32::try_from(pid).unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    fn signal_group(&self, signal: Signal) {
        // It fails where nobody is left, which callers find out otherwise.
        let _ = killpg(Pid::from_raw(self.pid()), signal);
    }

    fn has_exited(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for the leader's end: its exit code, and `None` if a signal killed it.
    fn exit(&mut self) -> Option<i32> {
        let child = &mut self.child;
        until("it ends", || child.try_wait().unwrap()).code()
    }

    /// The journal so far: pid, role and event of each line.
    fn journal(&self) -> Vec<(i32, String, String)> {
        let text = fs::read_to_string(self.path("journal")).unwrap_or_default();
        let line = |line: &str| {
            let line: Value = serde_json::from_str(line).unwrap();
            let word = |key: &str| line[key].as_str().unwrap().to_owned();
            (i32::try_from(line["pid"].as_i64().unwrap()).unwrap(), word("role"), word("event"))
        };
        text.lines().map(line).collect()
    }

    /// The events of one role, in their order.
    fn events(&self, role: &str) -> Vec<String> {
        let of_role = self.journal().into_iter().filter(|(_, r, _)| r == role);
        of_role.map(|(_, _, event)| event).collect()
    }

    fn await_event(&self, role: &str, event: &str) {
        until(event, || self.events(role).iter().any(|e| e == event).then_some(()));
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Twice: a process may have been starting another just now.
        for _ in 0..2 {
            for (pid, _, _) in self.journal() {
                // The journal's path on the command line proves that it is ours.
                let ours = self.dir.path().to_str().unwrap().to_owned();
                if command_line(pid).contains(&ours) {
                    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                }
                let gone = || (!command_line(pid).contains(&ours)).then_some(());
                wait(gone, PATIENCE);
            }
        }
    }
}

/// The command line of a process; empty if it has ended.
fn command_line(pid: i32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).into_owned()
}

/// Whether a process runs: one that has ended and waits for its parent does not.
fn is_alive(pid: i32) -> bool {
    !command_line(pid).is_empty()
}

/// One of the numbers in `/proc/PID/stat`, counted as its manual does.
fn stat(pid: i32, field: usize) -> i32 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let behind_name = &text[text.rfind(')').unwrap() + 2..];
    behind_name.split(' ').nth(field - 3).unwrap().parse().unwrap()
}

fn parent(pid: i32) -> i32 {
    stat(pid, 4)
}

fn group(pid: i32) -> i32 {
    stat(pid, 5)
}

fn session(pid: i32) -> i32 {
    stat(pid, 6)
}

fn wait<T>(mut is: impl FnMut() -> Option<T>, limit: Duration) -> Option<T> {
    let start = Instant::now();
    loop {
        if let Some(result) = is() {
            return Some(result);
        }
        if start.elapsed() > limit {
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Waits for something to become so.
fn until<T>(what: &str, is: impl FnMut() -> Option<T>) -> T {
    wait(is, PATIENCE).unwrap_or_else(|| panic!("never: {what}"))
}

fn until_gone(pid: i32) {
    until("it is gone", || (!is_alive(pid)).then_some(()));
}

/// Whether something stays so for as long.
fn stays(time: Duration, mut is: impl FnMut() -> bool) -> bool {
    wait(|| (!is()).then_some(()), time).is_none()
}

/// A port that nobody has, and that the system gives to nobody who asks for any.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 20_000 + u16::try_from(std::process::id() % 500).unwrap() * 20;
    until("a free port", || {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed) % 1000;
        can_bind(port, false).then_some(port)
    })
}

/// Whether a socket can be bound to a port, with SO_REUSEADDR or without.
fn can_bind(port: u16, reuse: bool) -> bool {
    let _starting = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(reuse).unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    socket.bind(&address.into()).is_ok()
}

fn is_refused(port: u16) -> bool {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    TcpStream::connect(address).is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused)
}
