//! One round: every measure of every peer that runs, peer after peer in a new order. It must never
//! judge the numbers.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use crate::Fault;
use crate::departure::{Ledger, Phase, leave};
use crate::findings::Finding;
use crate::measure::{self, Effort, Gaps, Latency, Probe, Sizes};
use crate::peers::Peer;
use crate::process::{peak_mib, reset_peak};
use crate::stats::Shuffle;

/// No measure of one peer takes as long as this, unless something is stuck.
const STUCK: Duration = Duration::from_secs(120);
/// A measure asks no more of a peer that has taken this long; only a very slow one notices.
const ENOUGH: Duration = Duration::from_secs(5);

/// A round that is about to be taken.
pub(crate) struct Round<'a> {
    /// Whom to measure.
    pub(crate) peers: &'a [Peer],
    /// What each of them is asked for.
    pub(crate) sizes: &'a [Sizes],
    /// The engine.
    pub(crate) engine: SocketAddr,
    /// How much is done.
    pub(crate) effort: Effort,
    /// Which round this is.
    pub(crate) number: u32,
}

impl Round<'_> {
    /// Measure after measure, so that what is compared lies close together in time.
    pub(crate) async fn measure(&self, shuffle: &mut Shuffle) -> Result<Vec<Finding>, Fault> {
        for process in self.peers.iter().filter_map(|peer| peer.process.as_ref()) {
            reset_peak(process)?;
        }
        let mut found = vec![Finding::default(); self.peers.len()];
        self.speed(&mut found, shuffle).await?;
        for at in shuffle.order(self.peers.len()) {
            let cost = measure::cost_of_streams(&self.peers[at], self.sizes[at].cost);
            found[at].stream_cpu_s = self.of(at, cost).await?;
        }
        for at in shuffle.order(self.peers.len()) {
            let crowd = measure::saturation(&self.peers[at], self.effort.crowd);
            (found[at].saturation, found[at].unary_cpu_s) = self.of(at, crowd).await?;
        }
        for at in shuffle.order(self.peers.len()) {
            found[at].gaps = self.of(at, self.paced(at)).await?;
        }
        for at in shuffle.order(self.peers.len()) {
            found[at].departures = self.of(at, self.departures(at)).await?;
        }
        for (found, peer) in found.iter_mut().zip(self.peers) {
            found.peak_mib = peer.process.as_ref().map(peak_mib).transpose()?;
        }
        Ok(found)
    }

    /// Latencies and throughputs.
    async fn speed(&self, found: &mut [Finding], shuffle: &mut Shuffle) -> Result<(), Fault> {
        let unary = self.latencies(Latency::Unary, shuffle).await?;
        let first = self.latencies(Latency::FirstChunk, shuffle).await?;
        for (found, (unary_us, first_us)) in found.iter_mut().zip(unary.into_iter().zip(first)) {
            (found.unary_us, found.first_us) = (unary_us, first_us);
        }
        let batched = self.throughputs(16, shuffle).await?;
        let single = self.throughputs(1, shuffle).await?;
        for (found, (batched, single)) in found.iter_mut().zip(batched.into_iter().zip(single)) {
            (found.batched, found.single) = (batched, single);
        }
        Ok(())
    }

    /// The latency of each peer. A busy neighbour lasts longer than a block, so it meets all alike.
    async fn latencies(&self, what: Latency, shuffle: &mut Shuffle) -> Result<Vec<f64>, Fault> {
        let mut probes = Vec::with_capacity(self.peers.len());
        for (at, peer) in self.peers.iter().enumerate() {
            probes.push(self.of(at, Probe::open(&peer.target, what)).await?);
        }
        for _ in 0..self.effort.blocks {
            for at in shuffle.order(probes.len()) {
                if probes[at].spent < ENOUGH {
                    self.of(at, probes[at].take_block()).await?;
                }
            }
        }
        probes.iter().map(Probe::median_us).collect()
    }

    /// Events per second of each peer; short turns, because where the scheduler puts whom matters.
    async fn throughputs(
        &self,
        per_write: usize,
        shuffle: &mut Shuffle,
    ) -> Result<Vec<f64>, Fault> {
        let mut done = vec![(0.0, Duration::ZERO); self.peers.len()];
        for _ in 0..self.effort.turns {
            for at in shuffle.order(done.len()) {
                if done[at].1 > ENOUGH {
                    continue;
                }
                let sizes = &self.sizes[at];
                let size = if per_write == 1 { sizes.single } else { sizes.batched };
                let turn = measure::long_streams(&self.peers[at].target, per_write, size);
                let took = self.of(at, turn).await?;
                done[at] = (done[at].0 + size.total(), done[at].1 + took);
            }
        }
        Ok(done.into_iter().map(|(events, took)| events / took.as_secs_f64()).collect())
    }

    /// A peer that has fallen behind may go on for streams that were cut; the next one shall not have
    /// to share the machine with that.
    async fn paced(&self, at: usize) -> Result<Gaps, Fault> {
        let mut ledger = Ledger::of(self.engine).await?;
        let before = ledger.present().await?;
        let gaps = measure::paced(&self.peers[at].target, self.effort.paced).await?;
        ledger.until_present(before, ENOUGH).await?;
        Ok(gaps)
    }

    async fn departures(&self, at: usize) -> Result<[Vec<f64>; 3], Fault> {
        let mut times = [const { Vec::new() }; 3];
        for (phase, times) in Phase::ALL.into_iter().zip(&mut times) {
            for number in 0..self.effort.departures {
                let id = format!("{at}-{}-{phase:?}-{number}", self.number);
                times.push(leave(&self.peers[at].target, self.engine, phase, &id).await?);
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
