//! How much a throughput measure asks of a peer in one turn: as much as of all others, or less if it
//! is so slow that a turn would not end. It must never make a quick peer's turn smaller.

use std::time::Duration;

use super::{Effort, throughput};
use crate::Fault;
use crate::client::Target;
use crate::process::float;

/// Streams at the same time, in every measure of throughput.
pub(super) const STREAMS: usize = 16;
/// Events of one stream where throughput is measured.
const LONG: usize = 1600;
/// Events of one stream where CPU time is measured.
const SHORT: usize = 64;
/// The fewest events of a stream that was made shorter: it must still be mostly events.
const FEWEST: usize = 64;
/// How much a connection asks in the trial.
const TRIAL: Size = Size { events: 200, each: 1 };
/// No turn takes much longer than this.
const TURN: Duration = Duration::from_secs(3);

/// What each of 16 connections asks for in one turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    /// Events of one stream.
    pub(crate) events: usize,
    /// Streams one after the other.
    pub(crate) each: usize,
}

impl Size {
    /// All streams of the turn.
    pub(crate) fn streams(self) -> f64 {
        float((STREAMS * self.each) as u64)
    }

    /// All events of the turn.
    pub(crate) fn total(self) -> f64 {
        self.streams() * float(self.events as u64)
    }

    /// Itself, or what a peer of `rate` events per second gets done within a turn: first fewer
    /// streams, then, where the length of a stream is not what is measured, shorter ones.
    fn within_a_turn(self, rate: f64, may_shorten: bool) -> Self {
        let part = (rate * TURN.as_secs_f64() / self.total()).min(1.0);
        let each = part_of(self.each, part).max(1);
        let left = part * float(self.each as u64) / float(each as u64);
        let events = if may_shorten { part_of(self.events, left) } else { self.events };
        Self { events: events.max(FEWEST).min(self.events), each }
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a part of a small count
fn part_of(count: usize, part: f64) -> usize {
    ((float(count as u64) * part.clamp(0.0, 1.0)).round() as usize).min(count)
}

/// What one peer is asked for.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    /// 16 events per write.
    pub(crate) batched: Size,
    /// One event per write.
    pub(crate) single: Size,
    /// Short streams, one event per write, for the CPU time.
    pub(crate) cost: Size,
}

impl Sizes {
    /// Tries how quick the peer is.
    pub(crate) async fn of(target: &Target, effort: &Effort) -> Result<Self, Fault> {
        let (batched, single) = (trial(target, 16).await?, trial(target, 1).await?);
        let long = |each| Size { events: LONG, each };
        Ok(Self {
            batched: long(effort.batched).within_a_turn(batched, true),
            single: long(effort.single).within_a_turn(single, true),
            cost: Size { events: SHORT, each: effort.cost }.within_a_turn(single, false),
        })
    }
}

/// Events per second in the better of two short trials: a busy neighbour must not make a quick peer's
/// turn smaller.
async fn trial(target: &Target, per_write: usize) -> Result<f64, Fault> {
    let mut took = Duration::MAX;
    for _ in 0..2 {
        took = took.min(throughput::long_streams(target, per_write, TRIAL).await?);
    }
    Ok(TRIAL.total() / took.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quick_peer_gets_all_and_a_slow_one_what_fits() {
        let full = Size { events: 1600, each: 6 };
        assert_eq!(full.within_a_turn(1e6, true), full);
        // 75,000 events fit: about half of the streams.
        assert_eq!(full.within_a_turn(25_600.0, true), Size { events: 1600, each: 3 });
        // 3,000 events fit: one stream each, and a short one.
        assert_eq!(full.within_a_turn(1000.0, true), Size { events: 188, each: 1 });
        assert_eq!(full.within_a_turn(1.0, true), Size { events: FEWEST, each: 1 });
    }

    #[test]
    fn where_cpu_time_is_measured_streams_keep_their_length() {
        let full = Size { events: SHORT, each: 126 };
        assert_eq!(full.within_a_turn(1000.0, false), Size { events: SHORT, each: 3 });
        assert_eq!(full.within_a_turn(1.0, false), Size { events: SHORT, each: 1 });
    }
}
