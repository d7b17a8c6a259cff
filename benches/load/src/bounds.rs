//! What the daemon has promised, and what is asked of it. A bound that is broken fails the run: it
//! guards what has been reached. A goal is where it shall go: how far that is, and why,
//! `docs/PERFORMANCE.md` explains. It must never bend either to a machine: noise is met with medians.

use std::fmt::{Display, Formatter};

use crate::Fault;
use crate::departure::Phase;
use crate::findings::Findings;
use crate::peers::Kind;
use crate::report::{Resources, Row, rows};
use crate::silent::COUNTS;

const UNARY_US: Promise = Promise { bound: 120.0, goal: 56.0 };
const FIRST_US: Promise = Promise { bound: 130.0, goal: 60.0 };
const BATCHED: Promise = Promise { bound: 0.40, goal: 0.51 };
const SATURATION: Promise = Promise { bound: 0.20, goal: 0.40 };
const DEPARTURE_MS: f64 = 3.0;
const STREAM_CPU_S: f64 = 0.18;
const PEAK_MIB: Promise = Promise { bound: 40.0, goal: 32.0 };
const SILENT_KB: Promise = Promise { bound: 33.0, goal: 20.0 };
const READY_MS: f64 = 100.0;
/// A stream among many may cost this much more than one among few: growth is linear, but a process
/// takes its memory in pieces.
const LINEAR: f64 = 1.25;
/// A stream that costs less than this counts as costing as much where the two are divided.
const LEAST_KB: f64 = 1.0;
/// Our gaps are no worse than nginx's. On a busy machine two equal peers differ by more than nothing:
/// the factor is for what grows with the gap, the addition for one wake-up that came late, which both
/// suffer by chance.
const GAP_FACTOR: f64 = 1.05;
const GAP_MS: f64 = 0.5;

/// What holds, and where it shall go.
struct Promise {
    bound: f64,
    goal: f64,
}

/// One bound, and what came of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Verdict {
    /// It was measured.
    Judged {
        /// In words.
        bound: String,
        /// What was measured.
        measured: f64,
        /// Is it within the bound?
        holds: bool,
        /// What is asked, where that is more, and whether it was reached.
        goal: Option<(f64, bool)>,
    },
    /// It was not, for this reason.
    Skipped {
        /// In words.
        bound: String,
        /// In words, too.
        why: String,
    },
}

impl Verdict {
    /// `measured` must not exceed `bound`.
    pub(crate) fn most(what: &str, measured: f64, bound: f64, unit: &str) -> Self {
        let bound_in_words = format!("{what}: at most {} {unit}", plain(bound));
        Self::Judged { bound: bound_in_words, measured, holds: measured <= bound, goal: None }
    }

    /// The same, with a goal.
    fn at_most(what: &str, measured: f64, promise: &Promise, unit: &str) -> Self {
        let Promise { bound, goal } = *promise;
        let bound_in_words = format!("{what}: at most {} {unit}", plain(bound));
        let (holds, goal) = (measured <= bound, Some((goal, measured <= goal)));
        Self::Judged { bound: bound_in_words, measured, holds, goal }
    }

    /// A ratio to the direct way must not be less.
    fn at_least(what: &str, measured: f64, promise: &Promise) -> Self {
        let Promise { bound, goal } = *promise;
        let bound_in_words = format!("{what}: at least {} of direct", plain(bound));
        let (holds, goal) = (measured >= bound, Some((goal, measured >= goal)));
        Self::Judged { bound: bound_in_words, measured, holds, goal }
    }

    /// Measured, and not kept.
    pub(crate) fn is_broken(&self) -> bool {
        matches!(self, Self::Judged { holds: false, .. })
    }
}

impl Display for Verdict {
    fn fmt(&self, out: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Judged { bound, measured, holds, goal } => {
                let mark = if *holds { "holds" } else { "does not hold" };
                write!(out, "{mark}: {bound}; measured {measured:.3}")?;
                let Some((goal, reached)) = goal else { return Ok(()) };
                let reached = if *reached { "reached" } else { "not reached" };
                write!(out, "; the goal is {}: {reached}", plain(*goal))
            }
            Self::Skipped { bound, why } => write!(out, "not judged: {bound}; {why}"),
        }
    }
}

/// A bound as it is spoken: as many digits as it has, and three at most.
fn plain(bound: f64) -> String {
    format!("{bound:.3}").trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The bounds of the daemon, if it was measured; other peers have none.
pub(crate) fn check(findings: &[Findings]) -> Result<Vec<Verdict>, Fault> {
    let rows = rows(findings)?;
    let row_of = |kind| rows.iter().find(|row| row.kind == kind);
    let Some(ours) = row_of(Kind::Imageworks) else {
        return Ok(Vec::new());
    };
    let mut verdicts = speed(ours);
    verdicts.push(gaps(ours, row_of(Kind::Nginx)));
    verdicts.extend(ours.resources.as_ref().map(resources).unwrap_or_default());
    Ok(verdicts)
}

fn speed(row: &Row) -> Vec<Verdict> {
    let mut verdicts = vec![
        Verdict::at_most("unary latency added", row.unary.median, &UNARY_US, "µs"),
        Verdict::at_most("first chunk added", row.first.median, &FIRST_US, "µs"),
        Verdict::at_least("16 events per write", row.batched.median, &BATCHED),
        Verdict::at_least("unary saturation", row.saturation.median, &SATURATION),
    ];
    for (phase, times) in Phase::ALL.iter().zip(&row.departures) {
        let what = format!("client gone, {}, median", phase.name());
        verdicts.push(Verdict::most(&what, times.median, DEPARTURE_MS, "ms"));
    }
    verdicts
}

fn gaps(ours: &Row, nginx: Option<&Row>) -> Verdict {
    let what = "99 of 100 gaps of paced streams, against nginx in the same run";
    let Some(nginx) = nginx else {
        let why = "nginx was not measured".to_owned();
        return Verdict::Skipped { bound: what.to_owned(), why };
    };
    let bound = nginx.gaps[1].median * GAP_FACTOR + GAP_MS;
    Verdict::most(what, ours.gaps[1].median, bound, "ms")
}

fn resources(of: &Resources) -> Vec<Verdict> {
    let [few, _, many] = COUNTS;
    let [of_few, _, of_many] = of.silent_kb.map(|spread| spread.median);
    vec![
        Verdict::most(
            "CPU of 1000 streams of 64 events",
            of.stream_cpu_s.median,
            STREAM_CPU_S,
            "s",
        ),
        Verdict::at_most("peak RSS in a round", of.peak_mib.median, &PEAK_MIB, "MiB"),
        Verdict::at_most(&format!("a silent stream of {many}, RSS"), of_many, &SILENT_KB, "kB"),
        Verdict::most(
            &format!("the same, as a multiple of one of {few}"),
            of_many / of_few.max(LEAST_KB),
            LINEAR,
            "times",
        ),
        Verdict::most(
            "ends of silent streams that the engine missed",
            of.missed.high,
            0.0,
            "of them",
        ),
        Verdict::most("start to ready", of.ready_ms.median, READY_MS, "ms"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::Finding;
    use crate::silent::Silent;

    type Change = fn(&mut Findings);

    fn direct() -> Findings {
        let departures = [vec![0.1], vec![0.1], vec![0.1]];
        let round = Finding {
            unary_us: 10.0,
            first_us: 20.0,
            batched: 100.0,
            single: 10.0,
            saturation: 100.0,
            departures,
            ..Finding::default()
        };
        Findings { rounds: vec![round], ..Findings::none(Kind::Direct) }
    }

    /// On the edge of every bound.
    fn edge(kind: Kind) -> Findings {
        let mut round = Finding {
            unary_us: 130.0,
            first_us: 150.0,
            batched: 40.0,
            single: 10.0,
            saturation: 20.0,
            departures: [vec![3.0], vec![3.0], vec![3.0]],
            stream_cpu_s: Some(0.18),
            unary_cpu_s: Some(0.05),
            peak_mib: Some(40.0),
            ..Finding::default()
        };
        round.gaps.p99 = if kind == Kind::Nginx { 20.0 } else { 21.5 };
        let silent = [26.4, 30.0, 33.0].map(|kb| vec![Silent { rss_kb: kb, ..Silent::default() }]);
        Findings { kind, rounds: vec![round], silent, ready_ms: vec![100.0] }
    }

    fn broken(change: Change) -> Result<Vec<String>, Fault> {
        let mut ours = edge(Kind::Imageworks);
        change(&mut ours);
        let verdicts = check(&[direct(), edge(Kind::Nginx), ours])?;
        assert_eq!(verdicts.len(), 14);
        Ok(verdicts.iter().filter(|v| v.is_broken()).map(Verdict::to_string).collect())
    }

    #[test]
    fn each_bound_breaks_alone_and_none_on_its_edge() -> Result<(), Fault> {
        assert_eq!(broken(|_| ())?, Vec::<String>::new());
        let changes: [(Change, &str); 12] = [
            (|f| f.rounds[0].unary_us += 1.0, "unary latency added: at most 120 µs"),
            (|f| f.rounds[0].first_us += 1.0, "first chunk added: at most 130 µs"),
            (|f| f.rounds[0].batched = 39.0, "16 events per write: at least 0.4 of direct"),
            (|f| f.rounds[0].saturation = 19.0, "unary saturation: at least 0.2 of direct"),
            (
                |f| f.rounds[0].departures[2][0] = 3.1,
                "client gone, not streamed, median: at most 3 ms",
            ),
            (|f| f.rounds[0].gaps.p99 = 21.6, "nginx in the same run: at most 21.5 ms"),
            (|f| f.rounds[0].stream_cpu_s = Some(0.19), "64 events: at most 0.18 s"),
            (|f| f.rounds[0].peak_mib = Some(40.1), "peak RSS in a round: at most 40 MiB"),
            (|f| f.silent[2][0].rss_kb = 32.9, ""),
            (|f| f.silent[0][0].rss_kb = 26.3, "as a multiple of one of 128: at most 1.25 times"),
            (|f| f.silent[2][0].missed = 1.0, "the engine missed: at most 0 of them"),
            (|f| f.ready_ms[0] = 101.0, "start to ready: at most 100 ms"),
        ];
        for (change, bound) in changes {
            let found = broken(change)?;
            assert_eq!(found.len(), usize::from(!bound.is_empty()), "{bound}: {found:?}");
            assert!(found.iter().all(|text| text.contains(bound)), "{bound}: {found:?}");
        }
        let both = broken(|f| f.silent[2][0].rss_kb = 33.1)?;
        assert!(both[0].contains("a silent stream of 512, RSS: at most 33 kB; measured 33.1"));
        Ok(())
    }

    #[test]
    fn goals_are_told_and_break_nothing() {
        let told = |unary, ratio| {
            let unary = Verdict::at_most("unary", unary, &UNARY_US, "µs").to_string();
            (unary, Verdict::at_least("streams", ratio, &BATCHED).to_string())
        };
        let (near, far) = (told(56.0, 0.51), told(56.1, 0.5));
        assert!(near.0.ends_with("the goal is 56: reached"), "{}", near.0);
        assert!(near.1.ends_with("the goal is 0.51: reached"), "{}", near.1);
        assert!(far.0.ends_with("the goal is 56: not reached"), "{}", far.0);
        assert!(far.1.starts_with("holds: ") && far.1.ends_with("not reached"), "{}", far.1);
    }

    #[test]
    fn without_nginx_the_gaps_are_not_judged_and_nothing_breaks() -> Result<(), Fault> {
        let verdicts = check(&[direct(), edge(Kind::Imageworks)])?;
        assert!(!verdicts.iter().any(Verdict::is_broken));
        let skipped: Vec<String> = verdicts
            .iter()
            .filter(|v| matches!(v, Verdict::Skipped { .. }))
            .map(Verdict::to_string)
            .collect();
        assert_eq!(skipped.len(), 1);
        assert!(
            skipped[0].starts_with("not judged: ")
                && skipped[0].ends_with("nginx was not measured")
        );
        Ok(())
    }

    #[test]
    fn without_the_daemon_there_is_nothing_to_judge() -> Result<(), Fault> {
        assert_eq!(check(&[direct()])?, []);
        Ok(())
    }
}
