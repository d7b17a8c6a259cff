//! One daemon with a fault to come, and what can be seen of its engine's processes and port.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashSet;
use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Child;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::support::engines::{Engined, greeting, is_alive, text_of};
use crate::support::{BOUND, Client, End, Engines, Reply, eventually, sse};

/// What a client saw of a fault, in the document's words, and when.
pub(super) struct Seen {
    pub(super) what: String,
    pub(super) took: Duration,
}

/// See the module. What is left of a case that failed is swept away with it.
pub(super) struct Case {
    pub(super) it: Engined,
    /// The leader of the engine that the fault is to end.
    old: Cell<Option<i32>>,
    /// What the variables that mark this daemon's engines begin with, once one was met.
    mark: OnceCell<Vec<u8>>,
    /// Somebody else's engine at the port.
    pub(super) stranger: RefCell<Option<Child>>,
    broom: Broom,
}

/// Kills what was started in the daemon's directory, wherever it went; dropped after the daemon.
struct Broom {
    dir: PathBuf,
}

/// A living process of an engine.
struct Process {
    pid: i32,
    line: Vec<String>,
}

impl Case {
    pub(super) fn start(engines: Engines) -> Self {
        let it = engines.start();
        let dir = it.daemon.path("").canonicalize().expect("a directory");
        Case {
            it,
            old: Cell::new(None),
            mark: OnceCell::new(),
            stranger: RefCell::new(None),
            broom: Broom { dir },
        }
    }

    /// This leader's engine is to be gone in the end.
    pub(super) fn condemn(&self, leader: i32) {
        self.old.set(Some(leader));
        let environment = fs::read(format!("/proc/{leader}/environ")).expect("a living leader");
        let mut variables = environment.split(|byte| *byte == 0);
        let marker = variables.find(|variable| variable.starts_with(b"IMAGEWORKS_ENGINE="));
        let hash = marker.and_then(|marker| marker.split(|byte| *byte == b':').next());
        self.mark.get_or_init(|| hash.expect("a marked engine").to_vec());
    }

    /// It is the one that is to stay.
    pub(super) fn spare(&self) {
        self.old.set(None);
    }

    /// Loads `tiny-a`; it is the engine that the fault is to end.
    pub(super) fn up(&self) -> i32 {
        let reply = self.it.order("activate", json!({"model": "tiny-a", "wait": true}));
        assert_eq!(reply.status(), 200, "{}", reply.text());
        let pid = self.it.pid();
        self.condemn(pid);
        pid
    }

    /// The youngest process that was started in this role.
    pub(super) fn pid_of(&self, role: &str) -> i32 {
        eventually("a process in that role", BOUND, || {
            let journal = self.it.journal().into_iter();
            journal.rev().find(|life| life.role == role && life.event == "start")
        })
        .pid
    }

    pub(super) fn stranger_pid(&self) -> Option<i32> {
        let stranger = self.stranger.borrow();
        stranger.as_ref().map(|child| child.id().try_into().expect("a pid"))
    }

    /// The pid of the engine that serves now.
    pub(super) fn engine(&self) -> Option<i32> {
        let engine = self.it.engine();
        let ready = engine["state"] == "ready";
        engine["pid"].as_i64().filter(|_| ready).map(|pid| pid.try_into().expect("a pid"))
    }

    /// Waits until the fault is over for the daemon: nothing runs, or an engine that is not the old one.
    pub(super) fn wait_settled(&self) {
        eventually("it is over", BOUND, || {
            let engine = self.it.engine();
            let old = engine["pid"].as_i64() == self.old.get().map(i64::from);
            match engine["state"].as_str()? {
                "stopped" | "failed" => Some(()),
                "ready" if self.old.get().is_none() || !old => Some(()),
                _ => None,
            }
        });
    }

    /// All living processes of engines of this daemon: those that have its port on their command
    /// line, its directory, or its mark, in whatever group and session. A stranger is none.
    fn processes(&self) -> Vec<Process> {
        let daemon = i32::try_from(self.it.daemon.pid()).expect("a pid");
        let others = [Some(daemon), self.stranger_pid()];
        let port = self.it.port.to_string();
        let engines = |process: &Process| {
            let by_port = process.line.windows(2).any(|words| words == ["--port", &port]);
            by_port || self.broom.means(process.pid) || self.is_marked(process.pid)
        };
        let all = living().filter(|process| !others.contains(&Some(process.pid)));
        all.filter(engines).collect()
    }

    fn is_marked(&self, pid: i32) -> bool {
        let Some(mark) = self.mark.get() else { return false };
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable.starts_with(mark))
    }

    pub(super) fn all(&self) -> Vec<String> {
        self.processes().iter().map(Process::tell).collect()
    }

    /// Those that do not belong to the engine that serves now.
    pub(super) fn left(&self) -> Vec<String> {
        let now = self.engine();
        let old = |process: &&Process| now.is_none_or(|leader| !process.is_of(leader));
        self.processes().iter().filter(old).map(Process::tell).collect()
    }

    /// Waits until no process that has ended waits for the daemon any more.
    pub(super) fn wait_reaped(&self) {
        let daemon = self.it.daemon.pid().to_string();
        eventually("the dead are reaped", BOUND, || {
            let entries = fs::read_dir("/proc").expect("/proc").flatten();
            let stats = entries.filter_map(|e| fs::read_to_string(e.path().join("stat")).ok());
            let mut dead = stats.filter(|stat| {
                let fields = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' '));
                fields.is_some_and(|fields| fields.take(2).eq(["Z", daemon.as_str()]))
            });
            dead.next().is_none().then_some(())
        });
    }

    /// Who listens at the engine's port.
    pub(super) fn port_is(&self) -> &'static str {
        let listening = listening(self.it.port);
        if listening.is_empty() {
            TcpListener::bind(("127.0.0.1", self.it.port)).expect("a port that nobody holds");
            return "free";
        }
        let has = |pid: i32| !listening.is_disjoint(&sockets(pid));
        if self.stranger_pid().is_some_and(has) {
            return "the stranger's";
        }
        if self.engine().is_some_and(has) { "the engine's" } else { "somebody's" }
    }
}

impl Broom {
    fn means(&self, pid: i32) -> bool {
        // Once the directory is gone there is a note behind its name.
        let dir = self.dir.to_str().expect("a name in UTF-8");
        let cwd = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
        cwd.to_str().is_some_and(|cwd| cwd.trim_end_matches(" (deleted)") == dir)
    }
}

/// All processes that have not ended.
fn living() -> impl Iterator<Item = Process> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| is_alive(*pid)).filter_map(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words = line.split(|byte| *byte == 0).map(String::from_utf8_lossy);
        Some(Process { pid, line: words.map(Into::into).collect() })
    })
}

impl Process {
    /// All but the leader name it on their command lines.
    fn is_of(&self, leader: i32) -> bool {
        let family = format!("--sim-family={leader}-");
        self.pid == leader || self.line.iter().any(|word| word.starts_with(&family))
    }

    fn tell(&self) -> String {
        format!("pid {}: {}", self.pid, self.line.join(" "))
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        if let Some(mut stranger) = self.stranger.take() {
            let _ = stranger.kill();
            let _ = stranger.wait();
        }
    }
}

impl Drop for Broom {
    fn drop(&mut self) {
        for process in living().filter(|process| self.means(process.pid)) {
            // It may have ended in this moment.
            let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
        }
    }
}

impl Seen {
    /// Of an answer that was read to its end.
    pub(super) fn of_reply(reply: &Reply, model: &str, since: Instant) -> Self {
        Seen { took: since.elapsed(), what: told(reply, model) }
    }

    /// Of the rest of a stream. One that goes on as if nothing had happened is not read for ever.
    pub(super) fn of_stream(stream: &mut Client, since: Instant) -> Self {
        let (mut body, mut at) = (Vec::new(), since);
        let what = loop {
            match stream.piece() {
                Ok(Some(piece)) => {
                    body.extend(piece.data);
                    at = piece.at;
                }
                Ok(None) => break ended(&body),
                Err(why) => break format!("a cut: {why}"),
            }
            if since.elapsed() > BOUND {
                break format!("a stream that goes on for {BOUND:?}");
            }
        };
        Seen { what, took: at.saturating_duration_since(since) }
    }
}

/// What an answer in one piece is, in the document's words.
pub(super) fn told(reply: &Reply, model: &str) -> String {
    if reply.status() != 200 {
        let code = &reply.json()["error"]["code"];
        reply.error(reply.status(), code.as_str().expect("a code"));
        return format!("{} `{}`", reply.status(), code.as_str().unwrap_or_default());
    }
    let whole = reply.end == End::Whole && text_of(reply) == greeting(model);
    if whole { "whole answer".to_owned() } else { reply.text() }
}

/// How a stream ended, in the document's words. An error is the last event, and the only one.
fn ended(body: &[u8]) -> String {
    // What was read before may have ended inside an event.
    let whole = body.windows(6).position(|window| window == b"data: ").unwrap_or(0);
    let mut events = sse::events(&body[whole..]);
    let last = events.pop().unwrap_or_default();
    if last == sse::DONE {
        return "whole answer".to_owned();
    }
    let Some(error) = sse::error_of(&last) else { return format!("an end behind {last:?}") };
    let early = |event: &&String| *event == sse::DONE || sse::error_of(event).is_some();
    assert_eq!(events.iter().find(early), None, "before {last}");
    // An engine's own event is passed on as it is; its code is a number.
    match error["code"].as_str() {
        Some(code) => format!("error event `{code}`, no `[DONE]`"),
        None => "the engine's own error event, no `[DONE]`".to_owned(),
    }
}

/// The sockets that accept connections at the port, by their inodes.
fn listening(port: u16) -> HashSet<String> {
    let tables =
        ["/proc/net/tcp", "/proc/net/tcp6"].map(|t| fs::read_to_string(t).unwrap_or_default());
    let rows = tables.iter().flat_map(|table| table.lines().skip(1));
    let listens = |row: &str| {
        let fields: Vec<&str> = row.split_ascii_whitespace().collect();
        let here = fields[1].ends_with(&format!(":{port:04X}")) && fields[3] == "0A";
        here.then(|| format!("socket:[{}]", fields[9]))
    };
    rows.filter_map(listens).collect()
}

/// The sockets that a process has open.
fn sockets(pid: i32) -> HashSet<String> {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    open.filter_map(|entry| Some(fs::read_link(entry.path()).ok()?.to_str()?.to_owned())).collect()
}
