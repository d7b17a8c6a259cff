//! What the daemon was like in each slice of time, and whether the last third is like the one before.
//! It must never look at a process itself.

use std::fmt::Write;

use super::mix::Done;
use crate::Fault;
use crate::bounds::Verdict;
use crate::process::{Held, float};
use crate::stats::{Spread, percentile};

/// Resident memory may grow by this part and this many MiB from the second third to the last.
const RSS_PART: f64 = 1.05;
const RSS_MIB: f64 = 1.0;
/// And the slowest of a hundred chats by this.
const P99_PART: f64 = 1.5;
const P99_MS: f64 = 0.2;
/// And the descriptors by this part and this many: connections to the engine are kept as long as they
/// are used, as many as were in use at once, and that is more where the machine has become slower. One
/// that leaks with each departure would make thousands.
const DESCRIPTORS_PART: f64 = 1.1;
const DESCRIPTORS: f64 = 10.0;
const BYTES_PER_MIB: f64 = 1_048_576.0;

/// The first lines of the table that `Slice::row` continues.
pub(super) const HEADER: &str = "| slice | s | unary | streams | left | p50 ms | p99 ms | RSS MiB \
    | descriptors | threads | cores |\n|---|---|---|---|---|---|---|---|---|---|---|";

/// One slice of time.
#[derive(Clone, Debug, Default)]
pub(super) struct Slice {
    seconds: f64,
    unary: f64,
    streams: f64,
    left: f64,
    p50_ms: f64,
    p99_ms: f64,
    rss_mib: f64,
    descriptors: f64,
    threads: f64,
    cores: f64,
}

/// Reads one figure of a slice.
type Figure = fn(&Slice) -> f64;

impl Slice {
    /// Of what was done, and of some looks at the process.
    pub(super) fn of(
        mut done: Done,
        looks: &[Held],
        cores: f64,
        seconds: f64,
    ) -> Result<Self, Fault> {
        done.unary_ms.sort_by(f64::total_cmp);
        let part = |part| percentile(&done.unary_ms, part).ok_or("a slice without an answer");
        let look = |value: fn(&Held) -> f64| {
            Spread::of(looks.iter().map(value)).map(|s| s.median).ok_or("a slice without a look")
        };
        Ok(Self {
            seconds,
            unary: float(done.unary_ms.len() as u64),
            streams: float(done.streams),
            left: float(done.left),
            p50_ms: part(0.5)?,
            p99_ms: part(0.99)?,
            rss_mib: look(|held| held.rss_bytes)? / BYTES_PER_MIB,
            descriptors: look(|held| held.descriptors)?,
            threads: look(|held| held.threads)?,
            cores,
        })
    }

    /// Its line, without its number.
    pub(super) fn row(&self) -> String {
        let Self { seconds, unary, streams, left, p50_ms, p99_ms, .. } = self;
        let Self { rss_mib, descriptors, threads, cores, .. } = self;
        format!(
            "| {seconds:.0} | {unary:.0} | {streams:.0} | {left:.0} | {p50_ms:.3} | {p99_ms:.3} \
             | {rss_mib:.1} | {descriptors:.0} | {threads:.0} | {cores:.2} |"
        )
    }
}

/// The table of thirds, and what it says. The first third warms up and is not compared.
pub(super) fn judge(slices: &[Slice]) -> Result<(String, Vec<Verdict>), Fault> {
    let third = slices.len() / 3;
    if third == 0 {
        return Err("too few slices to compare thirds".into());
    }
    let last = &slices[slices.len() - third..];
    let second = &slices[slices.len() - 2 * third..slices.len() - third];
    let mut table =
        String::from("| medians of slices | second third | last third |\n|---|---|---|\n");
    let figures: [(&str, Figure, usize); 6] = [
        ("RSS MiB", |s| s.rss_mib, 1),
        ("unary p50 ms", |s| s.p50_ms, 3),
        ("unary p99 ms", |s| s.p99_ms, 3),
        ("descriptors", |s| s.descriptors, 0),
        ("threads", |s| s.threads, 0),
        ("cores", |s| s.cores, 2),
    ];
    for (name, figure, digits) in figures {
        let (before, after) = (median(second, figure)?, median(last, figure)?);
        writeln!(table, "| {name} | {before:.digits$} | {after:.digits$} |")?;
    }
    let bounds: [(&str, &str, Figure, f64, f64); 3] = [
        ("RSS of the last third", "MiB", |s| s.rss_mib, RSS_PART, RSS_MIB),
        ("unary p99 of the last third", "ms", |s| s.p99_ms, P99_PART, P99_MS),
        (
            "descriptors of the last third",
            "of them",
            |s| s.descriptors,
            DESCRIPTORS_PART,
            DESCRIPTORS,
        ),
    ];
    let verdict = |(what, unit, figure, part, more): (&str, &str, Figure, f64, f64)| {
        let bound = median(second, figure)? * part + more;
        Ok::<_, Fault>(Verdict::most(what, median(last, figure)?, bound, unit))
    };
    let verdicts = bounds.into_iter().map(verdict).collect::<Result<_, _>>()?;
    Ok((table, verdicts))
}

fn median(slices: &[Slice], figure: Figure) -> Result<f64, Fault> {
    Ok(Spread::of(slices.iter().map(figure)).ok_or("no slices")?.median)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slices(last_rss: f64, last_p99: f64, last_descriptors: f64) -> Vec<Slice> {
        let slice = |rss_mib, p99_ms, descriptors| Slice {
            p99_ms,
            rss_mib,
            descriptors,
            ..Slice::default()
        };
        // The first third is worse than all that follows, and does not count.
        [
            slice(99.0, 9.0, 99.0),
            slice(20.0, 0.4, 100.0),
            slice(last_rss, last_p99, last_descriptors),
        ]
        .into_iter()
        .flat_map(|slice| [slice.clone(), slice.clone(), slice])
        .collect()
    }

    fn broken(slices: &[Slice]) -> Result<Vec<String>, Fault> {
        let (_, verdicts) = judge(slices)?;
        Ok(verdicts.iter().filter(|v| v.is_broken()).map(Verdict::to_string).collect())
    }

    #[test]
    fn only_growth_from_the_second_third_to_the_last_breaks_a_bound() -> Result<(), Fault> {
        assert_eq!(broken(&slices(21.9, 0.79, 120.0))?, Vec::<String>::new());
        assert!(broken(&slices(22.1, 0.4, 100.0))?[0].contains("RSS of the last third"));
        assert!(broken(&slices(20.0, 0.81, 100.0))?[0].contains("unary p99"));
        assert!(broken(&slices(20.0, 0.4, 121.0))?[0].contains("descriptors"));
        assert!(judge(&slices(20.0, 0.4, 100.0)[..2]).is_err());
        Ok(())
    }

    #[test]
    fn a_slice_is_the_median_of_its_looks() -> Result<(), Fault> {
        let look = |mib: f64| Held { rss_bytes: mib * BYTES_PER_MIB, ..Held::default() };
        let done = Done { unary_ms: (1..=100).rev().map(f64::from).collect(), streams: 5, left: 1 };
        let slice = Slice::of(done, &[look(3.0), look(1.0), look(2.0)], 0.25, 60.0)?;
        assert!((slice.rss_mib - 2.0).abs() < 1e-9 && (slice.p99_ms - 99.0).abs() < 1e-9);
        assert_eq!(
            slice.row().matches('|').count(),
            HEADER.lines().next().map_or(0, |l| l.matches('|').count()) - 1
        );
        assert!(Slice::of(Done::default(), &[look(1.0)], 0.0, 1.0).is_err());
        Ok(())
    }
}
