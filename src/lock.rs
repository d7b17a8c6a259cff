//! One daemon for one state file, and for one directory of services: a lock beside each.
//!
//! Owns: `owner.lock`, held for as long as the daemon may start and stop what it stands for. The kernel lets
//! it go when the process ends, however that happens. Must never do: trust that the file exists;
//! only the lock on it means something.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chat_proxy_actors::process::identity;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// What a dead owner left lets go within this.
const DEAD_OWNER: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(5);

/// The lock; given back when dropped.
#[derive(Debug)]
pub(crate) struct OwnerLock {
    _file: Flock<File>,
}

/// Why it cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LockError {
    #[error(
        "another daemon ({owner}) has {path} and the engine that goes with it: stop it, or give this one a state file of its own with CHAT_PROXY_VLLM_STATE_PATH"
    )]
    Taken { path: PathBuf, owner: String, alive: bool },
    #[error(
        "another daemon ({owner}) has {path} and the services that go with it: stop it, or start this one in another directory"
    )]
    ServicesTaken { path: PathBuf, owner: String },
    #[error("cannot lock {path}: {error}")]
    Io { path: PathBuf, error: io::Error },
}

impl OwnerLock {
    /// Takes the lock beside the state file.
    ///
    /// A child that a daemon was just making when it was killed has a copy of the lock until it has
    /// seen that, which takes milliseconds: so a dead owner is waited for, and a living one is not.
    pub(crate) fn take(state_path: &Path) -> Result<OwnerLock, LockError> {
        let until = Instant::now() + DEAD_OWNER;
        loop {
            match Self::try_take(state_path) {
                Err(LockError::Taken { alive: false, .. }) if Instant::now() < until => {
                    std::thread::sleep(LOOK);
                }
                other => return other,
            }
        }
    }

    /// Takes the lock of a directory of runfiles.
    pub(crate) fn of_services(dir: &Path) -> Result<OwnerLock, LockError> {
        Self::take(&dir.join("runfiles")).map_err(|error| match error {
            LockError::Taken { path, owner, .. } => LockError::ServicesTaken { path, owner },
            other => other,
        })
    }

    fn try_take(state_path: &Path) -> Result<OwnerLock, LockError> {
        let path = state_path.with_file_name("owner.lock");
        let fail = |error: io::Error| LockError::Io { path: path.clone(), error };
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            fs::create_dir_all(dir).map_err(fail)?;
        }
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(false).read(true).write(true).open(&path);
        match Flock::lock(file.map_err(fail)?, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                // For people and for the message of a second daemon; the lock itself is the fact.
                let written =
                    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
                written.map_err(fail)?;
                Ok(OwnerLock { _file: file })
            }
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut pid = String::new();
                // Without the pid the message is less helpful, and right all the same.
                let _ = file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_string(&mut pid));
                let pid = pid.trim();
                // One that ended and was not waited for is dead too.
                let alive = pid
                    .parse()
                    .map_or(true, |pid| identity::stat(pid).is_some_and(identity::Stat::lives));
                let owner =
                    if pid.is_empty() { "unknown".to_owned() } else { format!("pid {pid}") };
                Err(LockError::Taken { path, owner, alive })
            }
            Err((_, error)) => Err(fail(error.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_owner_is_told_who_has_it_and_the_next_one_may() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("deep/active_vllm.json");
        let first = OwnerLock::take(&state).unwrap();
        let error = OwnerLock::take(&state).unwrap_err().to_string();
        assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
        drop(first);
        OwnerLock::take(&state).unwrap();
    }
}
