//! The processes that the harness starts, and what a tree of them costs. This file owns the children
//! that it started, and must never signal anything else.

mod memory;
mod neighbours;
mod tree;

use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::Fault;
pub(crate) use memory::{Held, held, peak_mib, pss_bytes, reset_peak};
pub(crate) use neighbours::Neighbours;
pub(crate) use tree::cpu_s;

const GRACE: Duration = Duration::from_secs(5);

/// A started process; dropping it stops it.
pub(crate) struct Managed {
    child: Child,
    born: Instant,
}

impl Managed {
    /// Starts it, in a process group of its own: Ctrl-C is for the harness, which then stops it.
    pub(crate) fn start(command: &mut Command) -> Result<Self, Fault> {
        let born = Instant::now();
        match command.process_group(0).spawn() {
            Ok(child) => Ok(Self { child, born }),
            Err(error) => {
                Err(format!("{}: {error}", command.get_program().to_string_lossy()).into())
            }
        }
    }

    /// The child, for its pipes.
    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The moment before it was started.
    pub(crate) fn born(&self) -> Instant {
        self.born
    }

    /// Has it ended by itself?
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Managed {
    /// SIGTERM, a grace, SIGKILL to its whole group, and the reaping.
    fn drop(&mut self) {
        let Ok(pid) = i32::try_from(self.child.id()).map(Pid::from_raw) else {
            return;
        };
        if !self.has_ended() {
            // It may end between the two lines; it is not reaped yet, so the id is still its own.
            let _ = kill(pid, Signal::SIGTERM);
        }
        let end = Instant::now() + GRACE;
        while !self.has_ended() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        if !self.has_ended() {
            // A leader that is too slow would leave its workers behind.
            let _ = killpg(pid, Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

/// Lets us and all children open as many files as we may: a thousand is too few for 512 streams
/// through a proxy with one process.
pub(crate) fn raise_descriptor_limit() -> Result<(), Fault> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

/// A count as a float; the counts here are far below the 2^52 where that would lose anything.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn float(count: u64) -> f64 {
    count as f64
}
