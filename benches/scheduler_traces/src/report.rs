//! One trace, under all three policies.
//!
//! Owns: which bars are known to be missed, and what of a trace goes into docs/SCHEDULING.md, which a
//! test holds to it. Must never do: reckon; [`table`] does.

use std::fmt::Write as _;

use crate::baselines::Baseline;
use crate::policy::{Policy, Production, rules};
use crate::table::{self, Line};
use crate::traces::Trace;
use crate::world;

/// Bars that the policy misses, as docs/SCHEDULING.md says, by trace and the beginning of the bar.
const MISSED: &[(&str, &str)] = &[
    // People ask for another model as often as they do: each fifth swap only would leave them waiting.
    ("two-light-3s", "strict order"),
    ("two-bursty-20s", "strict order"),
    ("three-bursty-60s-bg", "strict order"),
    ("three-light-20s-bg", "strict order"),
    ("two-uneven-20s", "strict order"),
    // Each visit to the background's model comes at its bound of 600 s.
    ("three-bursty-60s-bg", "resident first"),
    // A steeper price meets it, but people wait longer and nothing more gets done.
    ("three-saturated-3s-bg", "resident first"),
];

/// What one trace has given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Its lines of the table.
    pub lines: String,
    /// Its bars, in words.
    pub bars: String,
    /// A bar is missed that should hold.
    pub broken: bool,
}

impl Report {
    /// Runs a trace, whose times are so many times less than they were made.
    pub fn of(trace: &Trace, faster: u32) -> Result<Report, String> {
        let mut ours = Production::new(trace.loads.len(), rules(faster))?;
        let (mut strict, mut resident) = (Baseline::strict(), Baseline::resident_first());
        let policies: [&mut dyn Policy; 3] = [&mut ours, &mut strict, &mut resident];
        let lines = policies
            .map(|policy| Line { policy: policy.name(), outcome: world::run(trace, policy) });
        let bounds = [120_000, 600_000].map(|bound: u64| bound / u64::from(faster));
        let [us, them, others] = &lines;
        let bars = table::bars(trace, &us.outcome, &them.outcome, &others.outcome, bounds);
        let mut text = format!("{} ({}):\n", trace.name, trace.about);
        let mut broken = false;
        for bar in &bars {
            let known =
                MISSED.iter().any(|(name, what)| *name == trace.name && bar.what.contains(what));
            broken |= !bar.holds && !known;
            let word = if bar.holds { "holds" } else { "MISSED" };
            // Writing to a String cannot fail.
            let _ = writeln!(text, "- {word}: {}", bar.what);
        }
        Ok(Report { lines: table::lines(trace, &lines), bars: text, broken })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::traces;

    #[test]
    fn the_document_says_what_the_traces_give() {
        let document = include_str!("../../../docs/SCHEDULING.md");
        for trace in traces::all(1) {
            let report = Report::of(&trace, 1).unwrap();
            assert!(!report.broken, "{}", report.bars);
            let told = report.lines.lines().chain(report.bars.lines());
            for line in told {
                assert!(document.contains(line), "docs/SCHEDULING.md has not: {line}");
            }
        }
    }
}
