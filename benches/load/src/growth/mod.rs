//! `load growth`: does the daemon stay as it is under a steady load? It owns the daemon, its engine
//! and the load for that time, prints a line per slice, and must never judge before the end.

mod mix;
mod slices;

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use crate::Fault;
use crate::bounds::Verdict;
use crate::peers::{Kind, Peer, Programs};
use crate::process::{cpu_s, held, raise_descriptor_limit};
use crate::run::start_engine;
use mix::Mix;
use slices::{HEADER, Slice};

/// So many slices at least, of at most a minute each.
const SLICES: u32 = 12;
const LONGEST: Duration = Duration::from_secs(60);
/// How often the process is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// How long it goes on.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The daemon's program.
    #[arg(long, default_value = "target/release/imageworks-chat-proxy")]
    daemon: PathBuf,
    /// Minutes of load; parts of one count.
    #[arg(long, default_value_t = 60.0, value_parser = minutes)]
    minutes: f64,
}

fn minutes(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| format!("{text} is not a number"))?;
    // A slice must have a second for its look at the process.
    let allowed = (0.2..=100_000.0).contains(&value);
    allowed.then_some(value).ok_or_else(|| format!("{text} is not between 0.2 and 100000 minutes"))
}

/// Measures, prints and judges; `false` if a bound is broken.
pub(crate) async fn run(options: &Options) -> Result<bool, Fault> {
    raise_descriptor_limit()?;
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let slices = tokio::select! {
        outcome = all(options) => outcome?,
        _ = interrupt.recv() => return Err("interrupted".into()),
        _ = terminate.recv() => return Err("told to stop".into()),
    };
    let (table, verdicts) = slices::judge(&slices)?;
    let mut out = std::io::stdout();
    write!(out, "\n{table}\n")?;
    for verdict in &verdicts {
        writeln!(out, "- {verdict}")?;
    }
    Ok(!verdicts.iter().any(Verdict::is_broken))
}

async fn all(options: &Options) -> Result<Vec<Slice>, Fault> {
    let folder = tempfile::Builder::new().prefix("load-growth-").tempdir()?;
    let (_engine, engine) = start_engine()?;
    let programs = Programs::only_daemon(&options.daemon);
    let peer = Peer::start(Kind::Imageworks, &programs, engine, folder.path()).await?;
    let total = Duration::from_secs_f64(options.minutes * 60.0);
    let length = (total / SLICES).min(LONGEST);
    let mut mix = Mix::start(&peer.target);
    let (end, mut slices) = (Instant::now() + total, Vec::new());
    writeln!(std::io::stdout(), "{HEADER}")?;
    // The last slice may not become a sliver.
    while Instant::now() + length / 2 < end {
        let slice = one(&peer, &mut mix, length).await?;
        writeln!(std::io::stdout(), "| {} {}", slices.len() + 1, slice.row())?;
        slices.push(slice);
    }
    Ok(slices)
}

/// One slice: the load goes on, and the process is looked at once a second.
async fn one(peer: &Peer, mix: &mut Mix, length: Duration) -> Result<Slice, Fault> {
    let process = peer.process.as_ref().ok_or("the daemon has no process")?;
    let (begun, cpu) = (Instant::now(), cpu_s(process.pid())?);
    let mut looks = Vec::new();
    while begun.elapsed() < length {
        mix.go_on(LOOK.min(length)).await?;
        looks.push(held(process)?);
    }
    let seconds = begun.elapsed().as_secs_f64();
    let cores = (cpu_s(process.pid())? - cpu) / seconds;
    Slice::of(mix.take(), &looks, cores, seconds)
}
