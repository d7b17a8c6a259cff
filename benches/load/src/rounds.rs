//! The schedule: every round takes every measure of every peer, peer after peer in a new order.
//! It owns engine, peers and temporary folder for that time, and must never judge the numbers.

use std::future::Future;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use crate::departure::{Phase, leave};
use crate::measure::{self, Effort, Latency, Probe};
use crate::peers::{Kind, Peer, Programs};
use crate::process::{Cost, Managed, Neighbours};
use crate::stats::Shuffle;
use crate::{Fault, bounds, report};

/// No measure of one peer takes as long as this, unless something is stuck.
const STUCK: Duration = Duration::from_secs(120);
/// A latency measure takes no further block after this; only a very slow peer notices.
const ENOUGH: Duration = Duration::from_secs(15);

/// How a measurement is run.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Whom to measure; `direct` is always among them.
    #[arg(long, value_delimiter = ',', default_value = "direct,nginx,imageworks")]
    peers: Vec<Kind>,
    /// How many rounds.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Three short rounds: a look, not a measurement.
    #[arg(long)]
    quick: bool,
    /// Also write the table to this file.
    #[arg(long)]
    out: Option<PathBuf>,
    /// What the order of the peers is shuffled from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    programs: Programs,
}

/// What one round has found about one peer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Finding {
    /// Latency of an unary chat, µs.
    pub(crate) unary_us: f64,
    /// Time to the first event, µs.
    pub(crate) first_us: f64,
    /// Events per second, 16 per write.
    pub(crate) batched: f64,
    /// Events per second, one per write.
    pub(crate) single: f64,
    /// Per 1000 short streams.
    pub(crate) cost: Option<Cost>,
    /// Unary chats per second.
    pub(crate) saturation: f64,
    /// Milliseconds until the engine noticed, for each phase.
    pub(crate) departures: [Vec<f64>; 3],
}

/// All findings of one peer, a round each.
pub(crate) struct Findings {
    /// Which peer.
    pub(crate) kind: Kind,
    /// Round by round.
    pub(crate) rounds: Vec<Finding>,
}

/// Measures, prints and judges; `false` if a bound is broken.
pub(crate) async fn run(options: &Options) -> Result<bool, Fault> {
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let (findings, others) = tokio::select! {
        outcome = all(options) => outcome?,
        _ = interrupt.recv() => return Err("interrupted".into()),
        _ = terminate.recv() => return Err("told to stop".into()),
    };
    let verdicts = bounds::check(&findings)?;
    let text = report::render(&findings, &verdicts, others, options.quick)?;
    write!(std::io::stdout(), "{text}")?;
    if let Some(out) = &options.out {
        std::fs::write(out, &text)?;
    }
    Ok(verdicts.iter().all(|verdict| verdict.holds))
}

/// Starts everything, goes through the rounds, and stops everything by going out of scope.
/// Beside the findings: how many cores others kept busy meanwhile.
async fn all(options: &Options) -> Result<(Vec<Findings>, f64), Fault> {
    let folder = tempfile::Builder::new().prefix("load-").tempdir()?;
    let (_engine, address) = start_engine()?;
    let mut kinds = options.peers.clone();
    kinds.push(Kind::Direct);
    kinds.sort_unstable();
    kinds.dedup();
    let mut peers = Vec::new();
    for kind in kinds {
        peers.push(Peer::start(kind, &options.programs, address, folder.path()).await?);
    }
    let (effort, rounds) = if options.quick { (QUICK, 3) } else { (FULL, options.rounds) };
    let mut shuffle = Shuffle::new(options.seed);
    let mut findings: Vec<Findings> =
        peers.iter().map(|peer| Findings { kind: peer.kind, rounds: Vec::new() }).collect();
    let neighbours = Neighbours::watch()?;
    for number in 1..=rounds {
        writeln!(std::io::stderr(), "round {number} of {rounds}")?;
        let round = Round { peers: &peers, engine: address, effort, number };
        for (of_peer, found) in findings.iter_mut().zip(round.measure(&mut shuffle).await?) {
            of_peer.rounds.push(found);
        }
    }
    Ok((findings, neighbours.cores()?))
}

const FULL: Effort = Effort {
    blocks: 40,
    turns: 6,
    batched: 6,
    single: 1,
    cost: 63,
    crowd: Duration::from_secs(1),
    departures: 3,
};
const QUICK: Effort = Effort {
    blocks: 15,
    turns: 3,
    batched: 4,
    single: 1,
    cost: 32,
    crowd: Duration::from_millis(400),
    departures: 7,
};

/// The fake engine in a process of its own.
fn start_engine() -> Result<(Managed, SocketAddr), Fault> {
    let mut command = Command::new(std::env::current_exe()?);
    let mut engine = Managed::start(command.arg("upstream").stdout(Stdio::piped()))?;
    let output = engine.child().stdout.take().ok_or("the engine has no output")?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    let address = line.trim().strip_prefix("listening on http://").ok_or("the engine is silent")?;
    Ok((engine, address.parse()?))
}

struct Round<'a> {
    peers: &'a [Peer],
    engine: SocketAddr,
    effort: Effort,
    number: u32,
}

impl Round<'_> {
    /// Measure after measure, so that what is compared lies close together in time.
    async fn measure(&self, shuffle: &mut Shuffle) -> Result<Vec<Finding>, Fault> {
        let mut found = vec![Finding::default(); self.peers.len()];
        let effort = &self.effort;
        let unary = self.latencies(Latency::Unary, shuffle).await?;
        let first = self.latencies(Latency::FirstChunk, shuffle).await?;
        for (found, (unary_us, first_us)) in found.iter_mut().zip(unary.into_iter().zip(first)) {
            (found.unary_us, found.first_us) = (unary_us, first_us);
        }
        let batched = self.throughputs(16, effort.batched, shuffle).await?;
        let single = self.throughputs(1, effort.single, shuffle).await?;
        for (found, (batched, single)) in found.iter_mut().zip(batched.into_iter().zip(single)) {
            (found.batched, found.single) = (batched, single);
        }
        for at in shuffle.order(self.peers.len()) {
            found[at].cost =
                self.of(at, measure::streams_cost(&self.peers[at], effort.cost)).await?;
        }
        for at in shuffle.order(self.peers.len()) {
            found[at].saturation =
                self.of(at, measure::saturation(&self.peers[at], effort)).await?;
        }
        for at in shuffle.order(self.peers.len()) {
            found[at].departures = self.of(at, self.departures(at)).await?;
        }
        Ok(found)
    }

    /// The latency of each peer. A busy neighbour lasts longer than a block, so it meets all alike.
    async fn latencies(&self, what: Latency, shuffle: &mut Shuffle) -> Result<Vec<f64>, Fault> {
        let mut probes = Vec::with_capacity(self.peers.len());
        for (at, peer) in self.peers.iter().enumerate() {
            probes.push(self.of(at, Probe::open(peer, what)).await?);
        }
        let start = Instant::now();
        for block in 0..self.effort.blocks {
            if block > 0 && start.elapsed() > ENOUGH {
                break;
            }
            for at in shuffle.order(probes.len()) {
                self.of(at, probes[at].take_block()).await?;
            }
        }
        probes.iter().map(Probe::median_us).collect()
    }

    /// Events per second of each peer; short turns, because where the scheduler puts whom matters.
    async fn throughputs(
        &self,
        per_write: usize,
        each: usize,
        shuffle: &mut Shuffle,
    ) -> Result<Vec<f64>, Fault> {
        let mut took = vec![Duration::ZERO; self.peers.len()];
        for _ in 0..self.effort.turns {
            for at in shuffle.order(took.len()) {
                let streams = measure::long_streams(&self.peers[at], per_write, each);
                took[at] += self.of(at, streams).await?;
            }
        }
        let events = measure::events_of(each * self.effort.turns);
        Ok(took.into_iter().map(|took| events / took.as_secs_f64()).collect())
    }

    async fn departures(&self, at: usize) -> Result<[Vec<f64>; 3], Fault> {
        let mut times = [const { Vec::new() }; 3];
        for (phase, times) in Phase::ALL.into_iter().zip(&mut times) {
            for number in 0..self.effort.departures {
                let id = format!("{at}-{}-{phase:?}-{number}", self.number);
                times.push(leave(self.peers[at].address, self.engine, phase, &id).await?);
            }
        }
        Ok(times)
    }

    /// One measure of one peer, under a limit, with the peer's name on what goes wrong.
    async fn of<T>(
        &self,
        at: usize,
        work: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, Fault> {
        let name = self.peers[at].kind.name();
        match tokio::time::timeout(STUCK, work).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(fault)) => Err(format!("{name}: {fault}").into()),
            Err(_) => Err(format!("{name}: a measure is stuck").into()),
        }
    }
}
