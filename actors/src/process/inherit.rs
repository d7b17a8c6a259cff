//! Descriptors that are passed on at the start of a program, from number 3 on (`sd_listen_fds(3)`).
//!
//! Owns: taking those that came, and giving some to a child. Must never do: let one that is given
//! away be seen by any other child.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::libc;

/// The number of the first one.
pub const FIRST: RawFd = 3;

/// Takes descriptors over that somebody passed on and nobody here has taken yet.
///
/// Whoever calls this must have been told by the service manager's protocol that these are open, and
/// must call it once.
#[allow(unsafe_code)]
pub fn take(numbers: impl Iterator<Item = RawFd>) -> Vec<OwnedFd> {
    // SAFETY: the protocol says that the numbers are open and ours; this is called once, at the start,
    // before anything else could have opened or taken one of them.
    let taken: Vec<OwnedFd> =
        numbers.map(|number| unsafe { OwnedFd::from_raw_fd(number) }).collect();
    for fd in &taken {
        // They were passed through one exec, and are not to pass the next one by chance.
        let flag = nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC);
        if let Err(error) = nix::fcntl::fcntl(fd, flag) {
            tracing::warn!(%error, "children may see a descriptor that was passed on");
        }
    }
    taken
}

/// Has a child find these from [`FIRST`] on, in this order. They stay open here.
#[allow(unsafe_code)]
pub fn give<F: AsFd>(command: &mut Command, descriptors: &[F]) -> io::Result<()> {
    let count = RawFd::try_from(descriptors.len()).map_err(io::Error::other)?;
    // Copies, out of the way of the numbers that the child is to find.
    let copy = |fd: &F| nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(FIRST + count));
    let copies = descriptors.iter().map(copy).collect::<Result<Vec<RawFd>, _>>()?;
    let copies = take(copies.into_iter());
    let place = move || {
        for (copy, number) in copies.iter().zip(FIRST..) {
            // SAFETY: both are numbers; a copy of a descriptor does not pass `exec`'s close.
            if unsafe { libc::dup2(copy.as_raw_fd(), number) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: the closure runs in the child between fork and exec and calls dup2 alone, which is
    // async-signal-safe; it neither allocates nor takes a lock.
    unsafe {
        command.pre_exec(place);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    #[test]
    fn a_child_finds_what_it_is_given_and_nothing_else() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (mut reads, mut writes) = std::io::pipe().unwrap();
        writes.write_all(b"for the child").unwrap();
        drop(writes);
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "cat <&4; ls -l /proc/self/fd"]);
        give(&mut command, &[listener.as_fd(), reads.as_fd()]).unwrap();
        let said = String::from_utf8(command.output().unwrap().stdout).unwrap();
        assert!(said.starts_with("for the child"), "{said}");
        assert_eq!(said.matches("socket:").count(), 1, "{said}");
        // They are still ours.
        let mut rest = String::new();
        reads.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "", "what the child has read");
        assert!(listener.local_addr().is_ok() && other.local_addr().is_ok());
    }
}
