//! One process, held by its pidfd: its end is heard, and signals cannot meet another one.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use chat_proxy_core::autostart::StopSignal;
use chat_proxy_core::engine::state_file::Process;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{children, identity};

/// See the module.
#[derive(Debug)]
pub struct Handle {
    process: Process,
    fd: AsyncFd<OwnedFd>,
}

impl Handle {
    /// Takes hold of a process; `None` if it is gone. Needs a tokio runtime.
    pub fn open(process: Process) -> io::Result<Option<Handle>> {
        let Some(pid) = Pid::from_raw(process.pid) else { return Ok(None) };
        let fd = match pidfd_open(pid, PidfdFlags::NONBLOCK) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Only now it is certain whom the descriptor holds.
        if identity::stat(process.pid).is_none_or(|stat| stat.start_time != process.start_time) {
            return Ok(None);
        }
        Ok(Some(Handle { process, fd: register(fd)? }))
    }

    /// Which process.
    pub fn process(&self) -> Process {
        self.process
    }

    /// Waits for its end. Afterwards a child of ours is a zombie until [`Handle::reap`].
    pub async fn ended(&self) -> io::Result<()> {
        self.fd.readable().await.map(|_| ())
    }

    /// How it ended, in words, without taking its number back; `None` for a process that is not
    /// our child, or that lives.
    pub fn status(&self) -> Option<String> {
        self.wait(WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT)
    }

    /// Takes a dead child's number back. Until then the kernel gives it, and that of its group,
    /// to nobody else.
    pub fn reap(&self) {
        self.wait(WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG);
        children::forget(self.process.pid);
    }

    fn wait(&self, flags: WaitPidFlag) -> Option<String> {
        // An error means that it is not our child: whose it is takes its number back.
        match waitid(Id::PIDFd(self.fd.as_fd()), flags).ok()? {
            WaitStatus::Exited(_, code) => Some(format!("exit code {code}")),
            WaitStatus::Signaled(_, signal, _) => Some(format!("signal {signal}")),
            _ => None,
        }
    }

    /// Asks it to end.
    pub fn terminate(&self) -> io::Result<()> {
        self.signal(Signal::TERM)
    }

    /// Asks it to end in the way that it understands.
    pub fn stop(&self, signal: StopSignal) -> io::Result<()> {
        self.signal(match signal {
            StopSignal::Term => Signal::TERM,
            StopSignal::Int => Signal::INT,
            StopSignal::Quit => Signal::QUIT,
            StopSignal::Hup => Signal::HUP,
            StopSignal::Usr1 => Signal::USR1,
            StopSignal::Usr2 => Signal::USR2,
            StopSignal::Kill => Signal::KILL,
        })
    }

    /// Ends it.
    pub fn kill(&self) -> io::Result<()> {
        self.signal(Signal::KILL)
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(self.fd.as_fd(), signal) {
            // It has ended already.
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Puts the descriptor under the runtime's eyes.
#[allow(unsafe_code)]
fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor must stay open, and its number the same, for as long as it is
    // registered. An `OwnedFd` does both until it is dropped, and it is dropped by the `AsyncFd`,
    // after that has taken it out of the runtime.
    let registered = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
    registered.map_err(Into::into)
}
