//! `streams.lock`, beside the state file: who has requests in flight at the resident engine.
//!
//! Every process holds it, shared, while it has any. So one that owns the engine knows when another
//! one, which it replaces, still streams from it: such a one counts as a request in flight, and the
//! engine is not stopped in peace before that has ended (SPEC 11).
//!
//! Owns: the lock and the look at who else has it. It is a record lock of the process: the kernel
//! tells a process of the locks of others and not of its own, and lets go when the process ends,
//! however that happens. Must never do: wait, or open the file twice; closing one of two lets go of
//! both.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

/// See the module.
#[derive(Debug)]
pub struct StreamsLock {
    file: File,
}

impl StreamsLock {
    /// The lock beside the state file; not held yet.
    pub fn beside(state_path: &Path) -> io::Result<Self> {
        let path = state_path.with_file_name("streams.lock");
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(false).read(true).write(true).open(path)?;
        Ok(StreamsLock { file })
    }

    /// This process has requests in flight.
    pub(crate) fn hold(&self) -> io::Result<()> {
        self.set(libc::F_RDLCK)
    }

    /// It has none any more.
    pub(crate) fn release(&self) -> io::Result<()> {
        self.set(libc::F_UNLCK)
    }

    /// Another process that has some.
    pub fn holder(&self) -> io::Result<Option<i32>> {
        let mut found = whole_file(libc::F_WRLCK);
        fcntl(&self.file, FcntlArg::F_GETLK(&mut found))?;
        Ok((i32::from(found.l_type) != libc::F_UNLCK).then_some(found.l_pid))
    }

    fn set(&self, kind: libc::c_int) -> io::Result<()> {
        fcntl(&self.file, FcntlArg::F_SETLK(&whole_file(kind)))?;
        Ok(())
    }
}

#[allow(clippy::cast_possible_truncation)] // the constants are small
fn whole_file(kind: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write};
    use std::process::{Child, Command, Stdio};

    const STATE: &str = "IMAGEWORKS_TEST_STATE_PATH";

    #[test]
    #[ignore = "another process, for other tests"]
    fn a_holder() {
        let Ok(state) = std::env::var(STATE) else { return };
        let lock = StreamsLock::beside(Path::new(&state)).unwrap();
        lock.hold().unwrap();
        writeln!(io::stdout(), "held").unwrap();
        // Until the other side of its input closes.
        io::stdin().read_line(&mut String::new()).unwrap();
    }

    /// Another process that has requests in flight, until it is killed.
    pub(crate) fn other_holder(state_path: &Path) -> Child {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", "streams::tests::a_holder"])
            .env(STATE, state_path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        assert!(out.lines().any(|line| line.unwrap().contains("held")), "it did not hold");
        child
    }

    #[test]
    fn a_process_sees_the_others_and_not_itself() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("active_vllm.json");
        let lock = StreamsLock::beside(&state).unwrap();
        lock.hold().unwrap();
        assert_eq!(lock.holder().unwrap(), None);
        let mut other = other_holder(&state);
        assert_eq!(lock.holder().unwrap(), Some(i32::try_from(other.id()).unwrap()));
        lock.release().unwrap();
        assert!(lock.holder().unwrap().is_some());
        other.kill().unwrap();
        other.wait().unwrap();
        assert_eq!(lock.holder().unwrap(), None, "the kernel lets go for it");
    }
}
