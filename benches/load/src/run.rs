//! `load run`: it owns engine, peers and temporary folder for the time of all rounds, prints the tables
//! and the verdicts, and must never measure or judge anything itself.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use crate::findings::Findings;
use crate::fresh::Fresh;
use crate::measure::{Effort, Sizes};
use crate::peers::{Kind, Peer, Programs};
use crate::process::{Managed, Neighbours, raise_descriptor_limit};
use crate::report::Circumstances;
use crate::rounds::Round;
use crate::stats::Shuffle;
use crate::{Fault, bounds, report};

/// How a measurement is run.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Whom to measure; `direct` is always among them. Others than the daemon are left out, with a
    /// word about it, where their program is missing.
    #[arg(long, value_delimiter = ',', default_value = "direct,nginx,imageworks")]
    peers: Vec<Kind>,
    /// How many rounds.
    #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Three short rounds: a look, not a measurement.
    #[arg(long)]
    quick: bool,
    /// Also write the tables to this file.
    #[arg(long)]
    out: Option<PathBuf>,
    /// What the order of the peers is shuffled from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    programs: Programs,
}

/// How often everything is done.
struct Plan {
    rounds: u32,
    effort: Effort,
    starts: usize,
    silent: usize,
}

const FULL: Effort = Effort {
    blocks: 40,
    turns: 6,
    batched: 12,
    single: 2,
    cost: 126,
    crowd: Duration::from_secs(1),
    departures: 3,
    paced: 125,
};
const QUICK: Effort = Effort {
    blocks: 15,
    turns: 3,
    batched: 4,
    single: 1,
    cost: 32,
    crowd: Duration::from_millis(400),
    departures: 7,
    paced: 50,
};

impl Options {
    fn plan(&self) -> Plan {
        if self.quick {
            return Plan { rounds: 3, effort: QUICK, starts: 3, silent: 1 };
        }
        Plan { rounds: self.rounds, effort: FULL, starts: 7, silent: 3 }
    }

    /// Whom to measure, and why whom not.
    fn kinds(&self) -> (Vec<Kind>, Vec<String>) {
        let mut kinds = self.peers.clone();
        kinds.push(Kind::Direct);
        kinds.sort_unstable();
        kinds.dedup();
        let left_out = kinds.iter().filter_map(|kind| self.programs.lacks(*kind)).collect();
        kinds.retain(|kind| self.programs.lacks(*kind).is_none());
        (kinds, left_out)
    }
}

/// Measures, prints and judges; `false` if a bound is broken.
pub(crate) async fn run(options: &Options) -> Result<bool, Fault> {
    raise_descriptor_limit()?;
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let (kinds, left_out) = options.kinds();
    let (findings, others) = tokio::select! {
        outcome = all(options, &kinds) => outcome?,
        _ = interrupt.recv() => return Err("interrupted".into()),
        _ = terminate.recv() => return Err("told to stop".into()),
    };
    let verdicts = bounds::check(&findings)?;
    let circumstances = Circumstances { others, quick: options.quick, left_out };
    let text = report::render(&findings, &verdicts, &circumstances)?;
    write!(std::io::stdout(), "{text}")?;
    if let Some(out) = &options.out {
        std::fs::write(out, &text)?;
    }
    Ok(!verdicts.iter().any(bounds::Verdict::is_broken))
}

/// Starts everything, goes through the rounds, and stops everything by going out of scope.
/// Beside the findings: how many cores others kept busy meanwhile.
async fn all(options: &Options, kinds: &[Kind]) -> Result<(Vec<Findings>, f64), Fault> {
    let folder = tempfile::Builder::new().prefix("load-").tempdir()?;
    let (_engine, engine) = start_engine()?;
    let mut findings: Vec<Findings> = kinds.iter().map(|kind| Findings::none(*kind)).collect();
    let (plan, mut shuffle) = (options.plan(), Shuffle::new(options.seed));
    let neighbours = Neighbours::watch()?;
    let fresh = Fresh { programs: &options.programs, engine, folder: folder.path() };
    fresh.starts(&mut findings, plan.starts, &mut shuffle).await?;
    fresh.silent_streams(&mut findings, plan.silent, &mut shuffle).await?;
    let (mut peers, mut sizes) = (Vec::new(), Vec::new());
    for kind in kinds {
        let peer = Peer::start(*kind, &options.programs, engine, folder.path()).await?;
        sizes.push(Sizes::of(&peer.target, &plan.effort).await?);
        peers.push(peer);
    }
    for number in 1..=plan.rounds {
        writeln!(std::io::stderr(), "round {number} of {}", plan.rounds)?;
        let round = Round { peers: &peers, sizes: &sizes, engine, effort: plan.effort, number };
        for (of_peer, found) in findings.iter_mut().zip(round.measure(&mut shuffle).await?) {
            of_peer.rounds.push(found);
        }
    }
    Ok((findings, neighbours.cores()?))
}

/// The fake engine in a process of its own.
pub(crate) fn start_engine() -> Result<(Managed, SocketAddr), Fault> {
    let mut command = Command::new(std::env::current_exe()?);
    let mut engine = Managed::start(command.arg("upstream").stdout(Stdio::piped()))?;
    let output = engine.child().stdout.take().ok_or("the engine has no output")?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    let address = line.trim().strip_prefix("listening on http://").ok_or("the engine is silent")?;
    Ok((engine, address.parse()?))
}
