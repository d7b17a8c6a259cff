//! The table and the bars.
//!
//! Owns: what is reckoned from outcomes, and how it is shown. Must never do: measure.

use std::fmt::Write;

use chat_proxy_core::gpu::Class;

use crate::fewest::fewest;
use crate::traces::Trace;
use crate::world::Outcome;

/// One policy's line.
#[derive(Debug, Clone)]
pub struct Line {
    /// Whose.
    pub policy: &'static str,
    /// What came of it.
    pub outcome: Outcome,
}

/// The value below which so many of a hundred lie (nearest rank); 0 for none.
pub fn percentile(sorted: &[u64], hundredth: usize) -> u64 {
    let rank = (sorted.len() * hundredth).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(0)
}

fn mean(values: &[u64]) -> u64 {
    values.iter().sum::<u64>() / (values.len() as u64).max(1)
}

fn seconds(ms: u64) -> String {
    format!("{}.{}", ms / 1000, ms % 1000 / 100)
}

/// The head of the table.
pub const HEAD: &str = "| trace | policy | swaps | interactive: mean / p95 / max wait (s) | background: mean / p95 / max wait (s) | serving |\n|---|---|---|---|---|---|\n";

/// One trace's lines.
pub fn lines(trace: &Trace, lines: &[Line]) -> String {
    let mut text = String::new();
    for Line { policy, outcome } in lines {
        let waits = |class| {
            let waits = outcome.waits_of(trace, class);
            if waits.is_empty() {
                return "—".to_owned();
            }
            let max = waits.last().copied().unwrap_or(0);
            let (mean, p95) = (mean(&waits), percentile(&waits, 95));
            format!("{} / {} / {}", seconds(mean), seconds(p95), seconds(max))
        };
        let _ = writeln!(
            text,
            "| {} | {policy} | {} | {} | {} | {} % |",
            trace.name,
            outcome.swaps,
            waits(Class::Interactive),
            waits(Class::Background),
            outcome.serving * 100 / outcome.total.max(1),
        );
    }
    text
}

/// One bar: what it is, whether it holds, and by how much it is missed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bar {
    /// In words.
    pub what: String,
    /// Whether it holds.
    pub holds: bool,
}

/// The bars of one trace: `ours` against strict order and resident-first. `bounds`: of interactive
/// and background requests, in milliseconds.
pub fn bars(
    trace: &Trace,
    ours: &Outcome,
    strict: &Outcome,
    resident: &Outcome,
    bounds: [u64; 2],
) -> Vec<Bar> {
    let fewest = fewest(trace, limits(trace, bounds));
    let mut all = vec![Bar {
        what: format!(
            "{} swaps, strict order {}: at most 1/5 (with these bounds nobody needs fewer than {fewest})",
            ours.swaps, strict.swaps,
        ),
        holds: ours.swaps * 5 <= strict.swaps,
    }];
    if trace.has_background() {
        all.push(Bar {
            what: format!("{} swaps, resident first {}: at most 1/2", ours.swaps, resident.swaps),
            holds: ours.swaps * 2 <= resident.swaps,
        });
    }
    if trace.spare {
        let p95 = |outcome: &Outcome| percentile(&outcome.waits_of(trace, Class::Interactive), 95);
        let (us, them) = (p95(ours), p95(resident));
        all.push(Bar {
            what: format!(
                "interactive p95 {} s, resident first {} s: no worse",
                seconds(us),
                seconds(them)
            ),
            holds: us <= them,
        });
    }
    all.push(longest(trace, ours, bounds));
    all
}

/// The longest wait that is allowed: the bound, and for each other model what runs and a load.
fn limits(trace: &Trace, bounds: [u64; 2]) -> [u64; 2] {
    let drain = trace.requests.iter().map(|request| request.service).max().unwrap_or(0);
    let load = trace.loads.iter().max().copied().unwrap_or(0) + trace.stop;
    bounds.map(|bound| bound + (drain + load) * (trace.loads.len() as u64 - 1))
}

/// Nobody waits longer than his bound, what runs, and a load; where several models are due at once,
/// each of them has such a turn before the last.
fn longest(trace: &Trace, ours: &Outcome, bounds: [u64; 2]) -> Bar {
    let limits = limits(trace, bounds);
    let mut what = Vec::new();
    let mut holds = true;
    for (class, limit) in [Class::Interactive, Class::Background].into_iter().zip(limits) {
        let most = ours.waits_of(trace, class).last().copied().unwrap_or(0);
        holds &= most <= limit;
        what.push(format!("{} {} s of {} s", class.as_str(), seconds(most), seconds(limit)));
    }
    Bar { what: format!("longest wait: {}", what.join(", ")), holds }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let values: Vec<u64> = (1..=20).collect();
        assert_eq!((percentile(&values, 95), percentile(&values, 50)), (19, 10));
        assert_eq!((percentile(&[7], 95), percentile(&[], 95)), (7, 0));
    }
}
