//! Owns the processes of one engine: how they are started, found and ended.
//!
//! All of them but the leader carry the family's name on their command line. That is how they
//! are found, wherever they went: no pipe tells one of another, because real orphans do not
//! notice either. Must never end a process of another family.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpgrp};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use super::habits::Role;

/// How often is looked whether something became true.
const LOOK: Duration = Duration::from_millis(5);

/// The processes of one engine.
#[derive(Debug, Clone)]
pub(crate) struct Family {
    name: String,
    executable: PathBuf,
    /// The command line that makes a process one of this engine.
    line: Vec<OsString>,
}

/// A process of the family.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Member {
    pid: i32,
    role: Role,
}

impl Family {
    /// The family of this process, which was started with `args` behind the program's name.
    pub(super) fn new(args: &[OsString], name: Option<String>) -> io::Result<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // Numbers of processes come again; the time makes the name unique.
        let name = name.unwrap_or_else(|| format!("{}-{}", std::process::id(), now.as_micros()));
        let whole: Vec<OsString> = std::env::args_os().skip(1).collect();
        Ok(Self { name, executable: std::env::current_exe()?, line: repeated(&whole, args) })
    }

    /// Starts a process of this family. Its group is ours, and so are its outputs.
    pub(super) fn start(&self, role: Role, input: Stdio) -> io::Result<Child> {
        self.command(role).stdin(input).spawn()
    }

    /// Starts a child that goes into a session of its own, with our environment or with none.
    pub(super) fn start_apart(&self, environment: bool) -> io::Result<Child> {
        let mut command = self.command(Role::Child);
        if !environment {
            command.env_clear();
        }
        command.arg("--sim-own-session").stdin(Stdio::null()).spawn()
    }

    fn command(&self, role: Role) -> Command {
        let mut command = Command::new(&self.executable);
        command
            .args(&self.line)
            .arg(format!("--sim-role={}", role.word()))
            .arg(format!("--sim-family={}", self.name))
            .arg(format!("--sim-parent={}", std::process::id()));
        command
    }

    /// Waits until these roles are played by processes that heed signals; at most so long.
    pub(super) async fn is_up(&self, roles: &[Role], limit: Duration) {
        let up = || {
            let members = self.members();
            let plays = |role| members.iter().any(|m| m.role == role && catches_sigterm(m.pid));
            roles.iter().all(|&role| plays(role))
        };
        let _ = tokio::time::timeout(limit, until(up)).await;
    }

    /// Ends EngineCore and Worker: asked first, killed if they are still there after `grace`.
    pub(super) async fn end_engine(&self, grace: Duration) {
        self.signal_engine(Signal::SIGTERM);
        let gone = until(|| self.engine().next().is_none());
        if tokio::time::timeout(grace, gone).await.is_err() {
            self.kill_engine(grace).await;
        }
    }

    /// Kills EngineCore and Worker, again and again for at most `limit`, because one that is
    /// killed may just have started another.
    pub(super) async fn kill_engine(&self, limit: Duration) {
        let gone = || {
            self.signal_engine(Signal::SIGKILL);
            self.engine().next().is_none()
        };
        let _ = tokio::time::timeout(limit, until(gone)).await;
    }

    fn signal_engine(&self, signal: Signal) {
        for member in self.engine() {
            // It may have ended in this moment.
            let _ = kill(Pid::from_raw(member.pid), signal);
        }
    }

    /// What `/sim/process` says.
    pub(crate) fn tell(&self) -> Value {
        let child = |m: &Member| json!({"pid": m.pid, "role": m.role.word()});
        let cwd = std::env::current_dir().unwrap_or_default();
        json!({
            "pid": std::process::id(), "pgid": getpgrp().as_raw(),
            "children": self.members().iter().map(child).collect::<Vec<_>>(),
            "cwd": cwd.to_string_lossy(),
        })
    }

    fn engine(&self) -> impl Iterator<Item = Member> {
        let engine = |m: &Member| matches!(m.role, Role::EngineCore | Role::Worker);
        self.members().into_iter().filter(engine)
    }

    /// All of the family but the leader, found in the table of processes.
    fn members(&self) -> Vec<Member> {
        let mark = format!("--sim-family={}", self.name);
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = processes.filter_map(|p| p.file_name().to_str()?.parse::<i32>().ok());
        pids.filter_map(|pid| {
            // Those that have ended and wait for their parent have no command line any more.
            let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let role = role_in(&line, &mark)?;
            Some(Member { pid, role })
        })
        .collect()
    }
}

/// Waits until something is so.
pub(super) async fn until(is: impl Fn() -> bool) {
    while !is() {
        tokio::time::sleep(LOOK).await;
    }
}

/// The words behind the program's name that make it an engine like this one.
///
/// What stands before `args` is how the program was made an engine, such as a subcommand.
fn repeated(whole: &[OsString], args: &[OsString]) -> Vec<OsString> {
    let prefix = whole.strip_suffix(args).unwrap_or_default();
    let hidden = ["--sim-role=", "--sim-family=", "--sim-parent="];
    let keep = |arg: &&OsString| {
        let arg = arg.to_string_lossy();
        !hidden.iter().any(|flag| arg.starts_with(flag))
    };
    prefix.iter().chain(args.iter().filter(keep)).cloned().collect()
}

/// The role that stands on a command line, if it has the mark.
fn role_in(line: &[u8], mark: &str) -> Option<Role> {
    let mut words = line.split(|&b| b == 0);
    words.clone().find(|word| *word == mark.as_bytes())?;
    let role = words.find_map(|word| word.strip_prefix(b"--sim-role="))?;
    std::str::from_utf8(role).ok()?.parse().ok()
}

/// Whether a process has come so far that it handles SIGTERM itself.
fn catches_sigterm(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let mask = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask & (1 << (Signal::SIGTERM as u64 - 1)) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(Into::into).collect()
    }

    #[test]
    fn a_child_is_started_as_its_parent_was() {
        let args = words("serve m --port 1");
        assert_eq!(repeated(&words("sim-engine serve m --port 1"), &args), {
            words("sim-engine serve m --port 1")
        });
        let args = words("m --sim-role=engine-core --sim-family=1-2 --sim-parent=3");
        assert_eq!(repeated(&args, &args), words("m"));
    }

    #[test]
    fn a_member_is_known_by_its_mark_alone() {
        let line = b"/bin/x\0m\0--sim-role=worker\0--sim-family=1-2\0";
        assert_eq!(role_in(line, "--sim-family=1-2"), Some(Role::Worker));
        assert_eq!(role_in(line, "--sim-family=1"), None);
        assert_eq!(role_in(b"", "--sim-family=1"), None);
    }
}
