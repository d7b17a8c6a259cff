//! Handing over to a new binary without a request lost (SPEC 11).
//!
//! The old daemon starts the new one with its listening sockets. What they say to each other, over a
//! socket pair: the new one `prepared` (its settings are good, its files are open), the old one
//! `yours` (it takes no more connections, starts and stops nothing any more, and its locks are free), the new one
//! `ready` (it serves). Meanwhile connections wait in the sockets' queues. Then the old one finishes its
//! streams and ends, and its engines run on.
//!
//! Owns: starting the successor, and both ends of what is said. Must never do: give anything up
//! before the successor is prepared; one that fails before that costs nothing.

use std::ffi::OsString;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream as Channel;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::time::Duration;

use chat_proxy_actors::process::inherit;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// The number of the descriptor by which a daemon speaks to the one that started it; behind it [`MANAGED`] where the
/// sockets are the service manager's.
const VARIABLE: &str = "IMAGEWORKS_HANDOVER";
const MANAGED: &str = ":managed";

/// A successor has its settings, profiles and GPUs looked at within this, and serves within this.
const PATIENCE: Duration = Duration::from_secs(60);
/// A predecessor finishes its streams, however long they take; one that takes longer than this hangs, or has
/// listeners that never end. Both sides keep to it.
pub(crate) const STREAMS: Duration = Duration::from_secs(3600);
/// The predecessor has a stop under way ended before it lets go.
const RELEASE: Duration = Duration::from_secs(120);

const PREPARED: u8 = b'p';
const YOURS: u8 = b'y';
const READY: u8 = b'r';

/// How this program was called: by a link, perhaps, that by now leads to a newer one.
static CALLED: OnceLock<(PathBuf, Vec<OsString>)> = OnceLock::new();

/// Remembers how the program was called, before anything is changed.
pub(crate) fn remember() {
    let mut args = std::env::args_os();
    let called = args.next().unwrap_or_default();
    let own = std::env::current_exe();
    // A bare name was looked for on PATH; what was found is ours.
    let path = if Path::new(&called).components().count() > 1 {
        std::path::absolute(&called)
    } else {
        own
    };
    if let Ok(path) = path {
        // Once: later calls change nothing.
        let _ = CALLED.set((path, args.collect()));
    }
}

/// One end of the channel.
struct End(UnixStream);

impl End {
    fn of(channel: Channel) -> io::Result<End> {
        channel.set_nonblocking(true)?;
        Ok(End(UnixStream::from_std(channel)?))
    }

    async fn say(&mut self, word: u8) -> io::Result<()> {
        self.0.write_all(&[word]).await
    }

    async fn hear(&mut self, word: u8, within: Duration) -> io::Result<()> {
        let mut heard = [0];
        match timeout(within, self.0.read_exact(&mut heard)).await {
            Err(_) => {
                Err(io::Error::other(format!("nothing was heard for {} s", within.as_secs())))
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(io::Error::other("it has ended; its own log tells why"))
            }
            Ok(Err(error)) => Err(error),
            Ok(Ok(_)) if heard[0] == word => Ok(()),
            Ok(Ok(_)) => Err(io::Error::other("it speaks another language: too old, or too new")),
        }
    }
}

/// The daemon that is to take our place.
pub(crate) struct Successor {
    child: Child,
    channel: End,
}

impl Successor {
    /// Starts it with the listening sockets.
    pub(crate) fn start(listeners: &[TcpListener], managed: bool) -> io::Result<Successor> {
        let (path, args) = CALLED
            .get()
            .ok_or_else(|| io::Error::other("this program does not know its own name"))?;
        let (ours, theirs) = Channel::pair()?;
        // The protocol wants the process's own number, which it alone knows.
        let number = inherit::FIRST as usize + listeners.len();
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", "LISTEN_PID=$$ exec \"$@\"", "sh"])
            .arg(path)
            .args(args)
            .env("LISTEN_FDS", listeners.len().to_string())
            .env(VARIABLE, format!("{number}{}", if managed { MANAGED } else { "" }))
            // It names us.
            .env_remove("WATCHDOG_PID");
        let sockets = listeners.iter().map(AsFd::as_fd);
        let all: Vec<BorrowedFd<'_>> = sockets.chain([theirs.as_fd()]).collect();
        inherit::give(&mut command, &all)?;
        let child = command.spawn()?;
        Ok(Successor { child, channel: End::of(ours)? })
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it could take over.
    pub(crate) async fn prepared(&mut self) -> io::Result<()> {
        self.channel.hear(PREPARED, PATIENCE).await
    }

    /// Everything is its own now; waits until it serves.
    pub(crate) async fn take_over(&mut self) -> io::Result<()> {
        self.channel.say(YOURS).await?;
        self.channel.hear(READY, PATIENCE).await
    }

    /// It is not needed any more, or failed.
    pub(crate) fn give_up(mut self) {
        // One that has ended cannot be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether sockets that we were given are the service manager's, and not just those of the daemon before.
pub(crate) fn is_managed() -> bool {
    std::env::var(VARIABLE).map_or(true, |value| value.ends_with(MANAGED))
}

/// The daemon that started us to take its place.
pub(crate) struct Predecessor(End);

impl Predecessor {
    /// `None`: nobody did.
    pub(crate) fn of_this_process() -> io::Result<Option<Predecessor>> {
        let Some(number) = std::env::var_os(VARIABLE) else { return Ok(None) };
        let number = number.to_str().map(|text| text.trim_end_matches(MANAGED));
        let number = number.and_then(|text| text.parse().ok());
        let number = number
            .filter(|number| *number >= inherit::FIRST)
            .ok_or_else(|| io::Error::other(format!("{VARIABLE} names no descriptor")))?;
        let channel = inherit::take(std::iter::once(number)).into_iter().next();
        let channel = channel.ok_or_else(|| io::Error::other("there is no channel"))?;
        Ok(Some(Predecessor(End::of(Channel::from(channel))?)))
    }

    /// Says that we could take over, and waits until everything is ours.
    pub(crate) async fn release(&mut self) -> io::Result<()> {
        self.0.say(PREPARED).await?;
        self.0.hear(YOURS, RELEASE).await
    }

    /// Says that we serve.
    pub(crate) async fn serves(&mut self) -> io::Result<()> {
        self.0.say(READY).await
    }
}
