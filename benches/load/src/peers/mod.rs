//! What stands between generator and engine: nothing, the daemon, or somebody else's proxy. Each peer
//! owns its process and its files in the temporary folder, and must never measure.

mod haproxy;
pub(crate) mod imageworks;
mod litellm;
mod nginx;
mod portkey;
mod programs;

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde_json::json;

use crate::Fault;
use crate::client::{Client, Target};
use crate::process::Managed;
pub(crate) use programs::Programs;

/// How long a peer may take until its first right answer; the slowest needs some twenty seconds.
const START: Duration = Duration::from_secs(60);
const ANSWER: Duration = Duration::from_secs(5);

/// The peers that the harness knows how to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Kind {
    /// The engine itself: what everything is compared with.
    Direct,
    /// nginx as a streaming reverse proxy.
    Nginx,
    /// HAProxy as a streaming reverse proxy.
    Haproxy,
    /// LiteLLM's proxy.
    Litellm,
    /// Portkey's gateway.
    Portkey,
    /// The daemon of this repository.
    Imageworks,
}

/// A peer that answers.
pub(crate) struct Peer {
    /// Which one.
    pub(crate) kind: Kind,
    /// Where it listens, and how it is asked.
    pub(crate) target: Target,
    /// From the start of its process until it was ready.
    pub(crate) ready: Duration,
    /// Its process; the direct way has none.
    pub(crate) process: Option<Managed>,
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
        let program = programs.of(kind);
        let started = match kind {
            Kind::Direct => Ok((Target::plain(engine), None)),
            Kind::Nginx => nginx::start(&program, engine, &folder).map(with_process),
            Kind::Haproxy => haproxy::start(&program, engine, &folder).map(with_process),
            Kind::Litellm => litellm::start(&program, engine, &folder).map(with_process),
            Kind::Portkey => portkey::start(&program, engine, &folder).map(with_process),
            Kind::Imageworks => imageworks::start(&program, engine, &folder).map(with_process),
        };
        let (target, process) = started?;
        let mut peer = Self { kind, target, ready: Duration::ZERO, process };
        match peer.until_ready().await {
            Ok(()) => Ok(peer),
            Err(fault) => {
                Err(format!("{} did not start: {fault}{}", kind.name(), last_words(&folder)).into())
            }
        }
    }

    /// Asks until it says that it is ready, then for a whole right answer. The pauses grow with the
    /// time that it takes, so that the figure is good to a fiftieth.
    async fn until_ready(&mut self) -> Result<(), Fault> {
        let born = self.process.as_ref().map_or_else(Instant::now, Managed::born);
        loop {
            let fault = match ask_once(&self.target, self.kind == Kind::Imageworks).await {
                Ok(()) => break,
                Err(fault) => fault,
            };
            if self.process.as_mut().is_some_and(Managed::has_ended) {
                return Err("it has ended".into());
            }
            if born.elapsed() > START {
                return Err(fault);
            }
            tokio::time::sleep((born.elapsed() / 50).max(Duration::from_millis(1))).await;
        }
        self.ready = born.elapsed();
        ask_once(&self.target, false).await
    }
}

fn with_process((target, process): (Target, Managed)) -> (Target, Option<Managed>) {
    (target, Some(process))
}

impl Kind {
    /// Its name in the table, and that of its folder.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Litellm => "litellm",
            Self::Portkey => "portkey",
            Self::Imageworks => "imageworks",
        }
    }
}

/// One question on a new connection: is it ready, if it has a path for that, else a chat.
async fn ask_once(target: &Target, ready: bool) -> Result<(), Fault> {
    let attempt = async {
        let mut client = Client::connect(target.address).await?;
        if ready {
            return client.exchange(&target.get("/v1/readyz")).await.map(drop);
        }
        client.unary(&target.chat(false, &json!({}))).await
    };
    tokio::time::timeout(ANSWER, attempt).await?
}

/// Starts a peer that talks to nobody: what it says goes into `error.log` of its folder.
fn serve(command: &mut Command, folder: &Path) -> Result<Managed, Fault> {
    let log = File::create(folder.join("error.log"))?;
    Managed::start(
        command.current_dir(folder).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log),
    )
}

/// The end of what the peer wrote to its log.
fn last_words(folder: &Path) -> String {
    let log = std::fs::read_to_string(folder.join("error.log")).unwrap_or_default();
    let tail: Vec<&str> = log.lines().rev().take(5).collect();
    tail.iter().rev().fold(String::new(), |text, line| text + "\n    " + line)
}

/// A port that nobody has at this moment, for programs that cannot tell which one they took; it is
/// free for others until they bind, so a rare start fails.
fn free_port() -> Result<SocketAddr, Fault> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
