//! Starting an engine, or a service: a process group of its own, its output in a file, nothing inherited, and not
//! a step before its name is written down.
//!
//! A child is made in two steps. It is forked and held: it waits on a pipe before it becomes the
//! engine. Whoever made it learns its number meanwhile and writes it down; only then it may go. If
//! we die in between, the pipe closes and the child ends without having started anything. So there
//! is no moment in which an engine runs that nobody knows of.
//!
//! Owns: the fork, the hold, the way out. Must never do: allocate or lock in the child between fork
//! and exec (other threads' locks are held for ever there), or wait without a bound on either side.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use chat_proxy_core::engine::state_file::Process;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::children::{self, Forking};
use super::identity;

/// What is started.
#[derive(Debug)]
pub struct Spawning {
    /// Program and arguments.
    pub line: Vec<String>,
    /// The whole environment.
    pub environment: BTreeMap<OsString, OsString>,
    /// Working directory; `None`: ours.
    pub cwd: Option<PathBuf>,
    /// Its output and errors, opened for appending: never a pipe, for an engine that outlives us
    /// would die of it.
    pub log: File,
}

/// A child that waits to be let go; dropped, it ends without having started anything.
#[derive(Debug)]
pub struct Held {
    process: Process,
    go: PipeWriter,
    begun: JoinHandle<io::Result<()>>,
}

/// A fork takes milliseconds; a machine that needs longer than this is in trouble.
const FORKING: Duration = Duration::from_secs(10);
/// A held child ends by itself after this, should its pipe stay open although nobody is there.
const HOLDING_S: i64 = 60;

impl Held {
    /// Which process; it is kept until [`Handle::reap`](super::Handle::reap).
    pub fn process(&self) -> Process {
        self.process
    }

    /// Lets it go, and waits until it has become the program, or could not.
    ///
    /// A program that lies on a slow disk may take longer than `patience`: it counts as begun then,
    /// for it is known and watched like any other.
    pub async fn release(self, patience: Duration) -> io::Result<()> {
        let Held { process, mut go, begun } = self;
        // Into an empty pipe: it does not block.
        go.write_all(&[GO])?;
        let Ok(outcome) = timeout(patience, begun).await else {
            tracing::warn!(pid = process.pid, "a program takes long to begin");
            return Ok(());
        };
        outcome.unwrap_or_else(|error| Err(io::Error::other(error)))
    }
}

/// Forks the leader of a new process group and holds it. Its end is heard through its pidfd.
pub async fn hold(spawning: Spawning) -> io::Result<Held> {
    let (told, tells) = io::pipe()?;
    let (waits, go) = io::pipe()?;
    let closed = go.as_raw_fd();
    let _forking = Forking::begin();
    let number = Arc::new(AtomicI32::new(0));
    let known = number.clone();
    let begun = tokio::task::spawn_blocking(move || {
        let begun = start(&spawning, &tells, &waits, closed);
        // It has been waited for; also where nobody waits for this answer any more.
        if begun.is_err() {
            children::forget(known.load(Ordering::SeqCst));
        }
        begun
    });
    match timeout(FORKING, pid_from(told)).await {
        // Nobody has waited for it yet, so its number is still its own, dead or alive.
        Ok(Ok(pid)) => match identity::identify(pid) {
            Some(process) => {
                number.store(pid, Ordering::SeqCst);
                children::keep(pid);
                Ok(Held { process, go, begun })
            }
            None => Err(io::Error::other("the process cannot be seen in /proc")),
        },
        // It could not be made, and that is known behind the pipe's end.
        Ok(Err(error)) => match timeout(FORKING, begun).await {
            Ok(Ok(Err(error))) => Err(error),
            _ => Err(error),
        },
        Err(late) => Err(io::Error::new(io::ErrorKind::TimedOut, late)),
    }
}

async fn pid_from(told: PipeReader) -> io::Result<i32> {
    let mut bytes = [0; size_of::<i32>()];
    pipe::Receiver::from_owned_fd(OwnedFd::from(told))?.read_exact(&mut bytes).await?;
    Ok(i32::from_ne_bytes(bytes))
}

/// Forks, and returns when the child has become the program or has ended. Blocking.
fn start(
    spawning: &Spawning,
    tells: &PipeWriter,
    waits: &PipeReader,
    closed: RawFd,
) -> io::Result<()> {
    let Some((program, arguments)) = spawning.line.split_first() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the command is empty"));
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(&spawning.environment)
        .stdin(Stdio::null())
        .stdout(spawning.log.try_clone()?)
        .stderr(spawning.log.try_clone()?)
        .process_group(0);
    if let Some(cwd) = &spawning.cwd {
        command.current_dir(cwd);
    }
    hold_before_exec(&mut command, tells.try_clone()?, waits.try_clone()?, closed);
    match command.spawn() {
        // It is waited for through its pidfd.
        Ok(_) => Ok(()),
        // It has been waited for.
        Err(error) => match spawning.cwd.as_ref().filter(|cwd| !cwd.is_dir()) {
            Some(cwd) => {
                Err(io::Error::new(error.kind(), format!("no directory {}", cwd.display())))
            }
            None => Err(io::Error::new(error.kind(), format!("{program}: {error}"))),
        },
    }
}

/// What lets a child go.
const GO: u8 = b'g';

#[allow(unsafe_code)]
fn hold_before_exec(
    command: &mut Command,
    mut tells: PipeWriter,
    mut waits: PipeReader,
    closed: RawFd,
) {
    let held = move || {
        // Ours is a copy: with it open we should never see the end of the pipe.
        nix::unistd::close(closed)?;
        tells.write_all(&std::process::id().cast_signed().to_ne_bytes())?;
        let limit = Timespec { tv_sec: HOLDING_S, tv_nsec: 0 };
        poll(&mut [PollFd::new(&waits.as_fd(), PollFlags::IN)], Some(&limit))?;
        let mut word = [0];
        match waits.read(&mut word)? {
            1 if word == [GO] => Ok(()),
            _ => Err(io::Error::from_raw_os_error(nix::errno::Errno::ECANCELED as i32)),
        }
    };
    // SAFETY: the closure runs in the child between fork and exec, where only async-signal-safe
    // calls are allowed. It calls close, write, getpid, poll and read, nothing else; it neither
    // allocates (errors are made from numbers) nor takes a lock nor touches what threads share.
    unsafe {
        command.pre_exec(held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Handle;
    use std::path::Path;

    fn sh(dir: &Path, script: &str) -> Spawning {
        Spawning {
            line: ["sh", "-c", script].map(str::to_owned).to_vec(),
            environment: std::env::vars_os().collect(),
            cwd: Some(dir.to_owned()),
            log: File::create(dir.join("log")).unwrap(),
        }
    }

    const LONG: Duration = Duration::from_secs(10);

    #[actix_rt::test]
    async fn a_held_child_does_nothing_until_it_is_let_go() {
        let dir = tempfile::tempdir().unwrap();
        let held = hold(sh(dir.path(), "echo begun; exec sleep 600")).await.unwrap();
        let process = held.process();
        assert!(identity::is_alive(process));
        assert_eq!(identity::stat(process.pid).unwrap().group, process.pid);
        assert!(!identity::command_line(process.pid).contains(&"sleep 600".to_owned()));
        assert_eq!(std::fs::read(dir.path().join("log")).unwrap(), b"");
        held.release(LONG).await.unwrap();
        let handle = Handle::open(process).unwrap().unwrap();
        handle.kill().unwrap();
        handle.ended().await.unwrap();
        handle.reap();
        assert!(identity::stat(process.pid).is_none());
    }

    #[actix_rt::test]
    async fn a_held_child_whose_maker_has_gone_ends_and_starts_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let held = hold(sh(dir.path(), "echo begun")).await.unwrap();
        let process = held.process();
        let handle = Handle::open(process).unwrap().unwrap();
        drop(held);
        timeout(LONG, handle.ended()).await.unwrap().unwrap();
        assert_eq!(std::fs::read(dir.path().join("log")).unwrap(), b"");
        // Its number may become anybody's: it is not kept as a child of ours.
        let until = std::time::Instant::now() + LONG;
        while children::is_kept(process.pid) {
            assert!(std::time::Instant::now() < until, "it is still kept");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[actix_rt::test]
    async fn a_program_that_does_not_exist_is_an_error_and_leaves_no_child() {
        let dir = tempfile::tempdir().unwrap();
        let mut wrong = sh(dir.path(), "");
        wrong.line = vec!["/no/such/program".to_owned()];
        let held = hold(wrong).await.unwrap();
        let process = held.process();
        let error = held.release(LONG).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().contains("/no/such/program"), "{error}");
        assert!(identity::stat(process.pid).is_none());
    }

    #[actix_rt::test]
    async fn a_directory_that_does_not_exist_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut wrong = sh(dir.path(), "");
        wrong.cwd = Some(dir.path().join("gone"));
        let outcome = match hold(wrong).await {
            Ok(held) => held.release(LONG).await,
            Err(error) => Err(error),
        };
        assert!(outcome.unwrap_err().to_string().contains("no directory"));
    }
}
