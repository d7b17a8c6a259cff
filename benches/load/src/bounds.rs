//! What the daemon has promised. It must never bend a bound to a machine: noise is met with medians.

use crate::Fault;
use crate::departure::Phase;
use crate::peers::Kind;
use crate::report::{Row, rows};
use crate::rounds::Findings;

const UNARY_US: f64 = 150.0;
const FIRST_US: f64 = 200.0;
const BATCHED: f64 = 0.3;
const DEPARTURE_MS: f64 = 10.0;

/// One bound and whether it holds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Verdict {
    /// In words.
    pub(crate) bound: String,
    /// What was measured.
    pub(crate) measured: f64,
    /// Is it within the bound?
    pub(crate) holds: bool,
}

/// The bounds of the daemon, if it was measured; other peers have none.
pub(crate) fn check(findings: &[Findings]) -> Result<Vec<Verdict>, Fault> {
    let rows = rows(findings)?;
    Ok(rows.iter().find(|row| row.kind == Kind::Imageworks).map(judge).unwrap_or_default())
}

fn judge(row: &Row) -> Vec<Verdict> {
    let most = |what: &str, measured: f64, bound: f64, unit: &str| Verdict {
        bound: format!("{what}: at most {bound} {unit}"),
        measured,
        holds: measured <= bound,
    };
    let mut verdicts = vec![
        most("unary latency added", row.unary.median, UNARY_US, "µs"),
        most("first chunk added", row.first.median, FIRST_US, "µs"),
        Verdict {
            bound: format!("16 events per write: at least {BATCHED} of direct"),
            measured: row.batched.median,
            holds: row.batched.median >= BATCHED,
        },
    ];
    for (phase, times) in Phase::ALL.iter().zip(&row.departures) {
        let what = format!("client gone, {}, median", phase.name());
        verdicts.push(most(&what, times.median, DEPARTURE_MS, "ms"));
    }
    verdicts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rounds::Finding;

    fn finding(unary_us: f64, batched: f64, gone: f64) -> Finding {
        Finding {
            unary_us,
            first_us: 50.0,
            batched,
            single: 1.0,
            saturation: 1.0,
            departures: [vec![0.5], vec![0.5], vec![gone]],
            cost: None,
        }
    }

    fn broken(unary_us: f64, batched: f64, gone: f64) -> Result<Vec<String>, Fault> {
        let direct = Findings { kind: Kind::Direct, rounds: vec![finding(60.0, 100.0, 0.1)] };
        let ours =
            Findings { kind: Kind::Imageworks, rounds: vec![finding(unary_us, batched, gone)] };
        let verdicts = check(&[direct, ours])?;
        Ok(verdicts.into_iter().filter(|v| !v.holds).map(|v| v.bound).collect())
    }

    #[test]
    fn each_bound_breaks_alone_and_none_on_its_edge() -> Result<(), Fault> {
        assert_eq!(broken(210.0, 30.0, 10.0)?, Vec::<String>::new());
        assert_eq!(broken(211.0, 30.0, 10.0)?, ["unary latency added: at most 150 µs"]);
        assert_eq!(broken(210.0, 29.0, 10.0)?, ["16 events per write: at least 0.3 of direct"]);
        let gone = broken(210.0, 30.0, 11.0)?;
        assert_eq!(gone, ["client gone, not streamed, median: at most 10 ms"]);
        Ok(())
    }

    #[test]
    fn without_the_daemon_there_is_nothing_to_judge() -> Result<(), Fault> {
        let direct = Findings { kind: Kind::Direct, rounds: vec![finding(60.0, 100.0, 0.1)] };
        assert_eq!(check(&[direct])?, []);
        Ok(())
    }
}
