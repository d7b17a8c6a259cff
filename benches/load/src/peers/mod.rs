//! What stands between generator and engine: nothing, nginx, or the daemon. Each peer owns its
//! process and its files in the temporary folder, and must never measure.

pub(crate) mod imageworks;
mod nginx;

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::ValueEnum;

use crate::Fault;
use crate::client::{Client, chat};
use crate::process::{Cost, Managed, cost};

/// How long a peer may take until its first right answer.
const START: Duration = Duration::from_secs(15);

/// The peers that the harness knows how to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Kind {
    /// The engine itself: what everything is compared with.
    Direct,
    /// nginx as a streaming reverse proxy.
    Nginx,
    /// The daemon of this repository.
    Imageworks,
}

/// Where the programs are.
#[derive(clap::Args)]
pub(crate) struct Programs {
    /// The daemon.
    #[arg(long, default_value = "target/release/imageworks-chat-proxy")]
    daemon: PathBuf,
    /// nginx.
    #[arg(long, default_value = "/usr/sbin/nginx")]
    nginx: PathBuf,
}

/// A peer that answers.
pub(crate) struct Peer {
    /// Which one.
    pub(crate) kind: Kind,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    process: Option<Managed>,
}

impl Peer {
    /// Starts it in front of `engine`, with its files below `folder`, and waits for a right answer.
    pub(crate) async fn start(
        kind: Kind,
        programs: &Programs,
        engine: SocketAddr,
        folder: &Path,
    ) -> Result<Self, Fault> {
        let folder = folder.join(kind.name());
        std::fs::create_dir_all(&folder)?;
        let (address, process) = match kind {
            Kind::Direct => (engine, None),
            Kind::Nginx => nginx::start(&programs.nginx, engine, &folder)?,
            Kind::Imageworks => imageworks::start(&programs.daemon, engine, &folder)?,
        };
        let mut peer = Self { kind, address, process };
        match peer.first_answer().await {
            Ok(()) => Ok(peer),
            Err(fault) => {
                Err(format!("{} did not start: {fault}{}", kind.name(), last_words(&folder)).into())
            }
        }
    }

    /// What its processes have cost so far; the direct way has none.
    pub(crate) fn cost(&self) -> Result<Option<Cost>, Fault> {
        self.process.as_ref().map(|process| cost(process.pid())).transpose()
    }

    async fn first_answer(&mut self) -> Result<(), Fault> {
        let (end, request) = (Instant::now() + START, chat(self.address, false, &"".into()));
        loop {
            let fault = match one_answer(self.address, &request).await {
                Ok(()) => return Ok(()),
                Err(fault) => fault,
            };
            if self.process.as_mut().is_some_and(Managed::has_ended) {
                return Err("it has ended".into());
            }
            if Instant::now() > end {
                return Err(fault);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Kind {
    /// Its name in the table, and that of its folder.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Nginx => "nginx",
            Self::Imageworks => "imageworks",
        }
    }
}

async fn one_answer(address: SocketAddr, request: &[u8]) -> Result<(), Fault> {
    let attempt = async { Client::connect(address).await?.unary(request).await };
    tokio::time::timeout(Duration::from_secs(5), attempt).await?
}

/// The end of what the peer wrote to its log.
fn last_words(folder: &Path) -> String {
    let log = std::fs::read_to_string(folder.join("error.log")).unwrap_or_default();
    let tail: Vec<&str> = log.lines().rev().take(5).collect();
    tail.iter().rev().fold(String::new(), |text, line| text + "\n    " + line)
}

/// A port that nobody has at this moment, for programs that cannot tell which one they took.
fn free_port() -> Result<SocketAddr, Fault> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
