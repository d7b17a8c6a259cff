//! A program that is asked one thing, and answers at once or not at all.
//!
//! Owns: its time limit, and its end: its whole group is killed, and it is waited for. Must never do:
//! give it our environment (it may have secrets in it), or wait for ever, not even for one that
//! cannot be killed because it hangs in a driver.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use rustix::fs::{MemfdFlags, memfd_create};

use super::children::{self, Forking};

/// What of our environment a program may have: how it is found, and how it finds its libraries.
const VARIABLES: &[&str] = &["PATH", "LD_LIBRARY_PATH"];
/// So much of an answer is read.
const MOST: u64 = 1 << 20;
/// A look at whether it has ended.
const LOOK: Duration = Duration::from_millis(10);
/// What was killed is waited for this long.
const LAST: Duration = Duration::from_millis(500);

/// What came of it.
#[derive(Debug)]
pub struct Answer {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to its standard output.
    pub stdout: String,
    /// What it wrote to its standard error.
    pub stderr: String,
}

/// Runs a program to its end. Blocking, for `limit` and a moment at most; then the error is
/// [`io::ErrorKind::TimedOut`].
pub fn ask(program: &Path, arguments: &[&str], limit: Duration) -> io::Result<Answer> {
    // Files and not pipes: nobody who inherits them can keep us waiting for their end.
    let (mut stdout, mut stderr) = (memory()?, memory()?);
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(VARIABLES.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(stdout.try_clone()?)
        .stderr(stderr.try_clone()?)
        .process_group(0);
    let child = Asked::start(&mut command)?;
    match child.wait(limit)? {
        Some(status) => {
            let (stdout, stderr) = (text_of(&mut stdout)?, text_of(&mut stderr)?);
            Ok(Answer { status, stdout, stderr })
        }
        None => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("no answer within {} ms", limit.as_millis()),
        )),
    }
}

fn memory() -> io::Result<File> {
    Ok(File::from(memfd_create("answer", MemfdFlags::CLOEXEC)?))
}

fn text_of(file: &mut File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.take(MOST).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A child that is known to be ours until it has been waited for.
struct Asked {
    child: Child,
    pid: i32,
}

impl Asked {
    fn start(command: &mut Command) -> io::Result<Asked> {
        let forking = Forking::begin();
        let child = command.spawn()?;
        let pid = child.id().cast_signed();
        children::keep(pid);
        drop(forking);
        Ok(Asked { child, pid })
    }

    /// How it has ended; `None`: not in time, and it was killed.
    fn wait(mut self, limit: Duration) -> io::Result<Option<ExitStatus>> {
        let status = self.ended_within(limit)?;
        if status.is_none() {
            // It has not been waited for, so its number is still its own.
            let _ = killpg(Pid::from_raw(self.pid), Signal::SIGKILL);
            if self.ended_within(LAST)?.is_none() {
                self.leave();
            }
        }
        Ok(status)
    }

    /// Who hangs in a driver ends when that lets it go: a thread waits for it, and we do not.
    fn leave(mut self) {
        tracing::warn!(pid = self.pid, "a program does not end although it was killed");
        // Without a thread it stays a zombie one day, and that is all.
        let _ =
            std::thread::Builder::new().name("waits".to_owned()).spawn(move || self.child.wait());
    }

    fn ended_within(&mut self, limit: Duration) -> io::Result<Option<ExitStatus>> {
        let begun = Instant::now();
        loop {
            let status = self.child.try_wait()?;
            if status.is_some() || begun.elapsed() >= limit {
                return Ok(status);
            }
            std::thread::sleep(LOOK);
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        children::forget(self.pid);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sh(script: &str, limit: Duration) -> io::Result<Answer> {
        ask(Path::new("sh"), &["-c", script], limit)
    }

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn it_says_what_was_answered_and_how_it_ended() {
        let answer = sh("echo yes; echo no >&2; exit 3", LONG).unwrap();
        assert_eq!((answer.stdout.as_str(), answer.stderr.as_str()), ("yes\n", "no\n"));
        assert_eq!(answer.status.code(), Some(3));
        let error = ask(Path::new("/no/such/program"), &[], LONG).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn who_does_not_answer_in_time_is_killed_with_all_whom_it_has_started() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let script = format!("sleep 600 & echo $! > {}; wait", file.display());
        let begun = Instant::now();
        let error = sh(&script, Duration::from_millis(300)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() < LONG, "{:?}", begun.elapsed());
        let pid: i32 = std::fs::read_to_string(file).unwrap().trim().parse().unwrap();
        while crate::process::identity::stat(pid).is_some_and(|stat| stat.state != 'Z') {
            assert!(begun.elapsed() < LONG);
            std::thread::sleep(LOOK);
        }
    }

    #[test]
    fn who_has_answered_need_not_be_waited_for_by_those_who_hold_its_output() {
        let begun = Instant::now();
        let answer = sh("sleep 30 & echo done", LONG).unwrap();
        assert_eq!(answer.stdout, "done\n");
        assert!(begun.elapsed() < LONG);
    }

    #[test]
    fn it_is_given_nothing_of_ours_but_where_things_are() {
        let names = sh("env | cut -d= -f1 | sort", LONG).unwrap().stdout;
        let shells = ["PWD", "SHLVL", "_", "OLDPWD", "LC_ALL"];
        for name in names.lines() {
            assert!(VARIABLES.contains(&name) || shells.contains(&name), "{name}");
        }
    }
}
