//! Starting an engine: a process group of its own, its output in a file, nothing inherited.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use chat_proxy_core::engine::state_file::Process;

use super::identity;

/// What is started.
#[derive(Debug)]
pub struct Spawning<'a> {
    /// Program and arguments.
    pub line: &'a [String],
    /// The whole environment.
    pub environment: &'a BTreeMap<OsString, OsString>,
    /// Working directory; `None`: ours.
    pub cwd: Option<&'a Path>,
    /// Its output and errors, opened for appending: never a pipe, for an engine that outlives us
    /// would die of it.
    pub log: File,
}

/// Starts it as the leader of a new process group. The child is waited for through its pidfd.
pub fn spawn(spawning: Spawning<'_>) -> io::Result<Process> {
    let Some((program, arguments)) = spawning.line.split_first() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the command is empty"));
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(spawning.environment)
        .stdin(Stdio::null())
        .stdout(spawning.log.try_clone()?)
        .stderr(spawning.log)
        .process_group(0);
    if let Some(cwd) = spawning.cwd {
        command.current_dir(cwd);
    }
    let mut child = command.spawn().map_err(|error| {
        let cwd = spawning.cwd.filter(|cwd| !cwd.is_dir());
        match cwd {
            Some(cwd) => io::Error::new(error.kind(), format!("no directory {}", cwd.display())),
            None => io::Error::new(error.kind(), format!("{program}: {error}")),
        }
    })?;
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    // Nobody has waited for it yet, so its number is still its own, dead or alive.
    identity::identify(pid).ok_or_else(|| {
        // Nobody could watch it, or find it again: it must not stay. It has only just begun.
        let _ = child.kill().and_then(|()| child.wait());
        io::Error::other("the process cannot be seen in /proc")
    })
}
