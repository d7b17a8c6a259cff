//! Whether an engine that was ready still serves: what its health probes are taken for (SPEC 6.1).
//!
//! Owns: which probes count, how many in a row are enough, when the next one comes. Must never do:
//! probe.

use std::time::Duration;

/// When a probe counts and how many make an engine dead.
#[derive(Debug, Clone)]
pub struct ProbeRules {
    /// Pause between probes.
    pub interval: Duration,
    /// A probe may take this long.
    pub timeout: Duration,
    /// So many that counted, in a row, and it is dead.
    pub failures: u32,
}

/// After a probe that counted the next one comes sooner: a dead engine is not waited for.
const SOON: Duration = Duration::from_millis(500);

/// What a probe met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// It answered well.
    Well,
    /// It refused, or answered that it is not well: in these words.
    Bad(String),
    /// No answer in time.
    Late,
}

/// What follows from a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The next one comes after this.
    Again(Duration),
    /// It does not serve any more: in these words.
    Dead(String),
}

/// The probes of one engine, the last few of them.
#[derive(Debug, Default)]
pub struct Probing {
    failed: u32,
}

impl Probing {
    /// Takes a probe. `moved`: the engine sent a byte of an answer since the one before; then it is
    /// busy, and not dead, when it is late.
    pub fn take(&mut self, probe: &Probe, moved: bool, rules: &ProbeRules) -> Verdict {
        let what = match probe {
            Probe::Bad(what) => what.clone(),
            Probe::Late if !moved => format!("no answer within {} s", rules.timeout.as_secs_f64()),
            Probe::Well | Probe::Late => {
                self.failed = 0;
                return Verdict::Again(rules.interval);
            }
        };
        self.failed += 1;
        if self.failed >= rules.failures {
            return Verdict::Dead(what);
        }
        Verdict::Again(rules.interval.min(SOON))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> ProbeRules {
        ProbeRules {
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            failures: 3,
        }
    }

    /// Verdicts in letters: w wait for the usual pause, s soon again, D dead.
    fn verdicts(probes: &[(Probe, bool)]) -> String {
        let mut probing = Probing::default();
        let letter = |verdict| match verdict {
            Verdict::Again(pause) if pause == rules().interval => 'w',
            Verdict::Again(_) => 's',
            Verdict::Dead(_) => 'D',
        };
        probes.iter().map(|(probe, moved)| letter(probing.take(probe, *moved, &rules()))).collect()
    }

    #[test]
    fn enough_bad_probes_in_a_row_are_a_death_and_a_good_one_begins_anew() {
        let bad = || (Probe::Bad("status 503".into()), true);
        let well = || (Probe::Well, false);
        assert_eq!(verdicts(&[bad(), bad(), bad()]), "ssD");
        assert_eq!(verdicts(&[bad(), bad(), well(), bad(), bad(), bad()]), "sswssD");
    }

    #[test]
    fn a_late_answer_counts_only_when_nothing_moved_meanwhile() {
        let (late, busy) = ((Probe::Late, false), (Probe::Late, true));
        assert_eq!(verdicts(&[late.clone(), late.clone(), late.clone()]), "ssD");
        assert_eq!(verdicts(&[late.clone(), late.clone(), busy.clone(), late]), "ssws");
        assert_eq!(verdicts(&[busy.clone(), busy.clone(), busy.clone(), busy]), "wwww");
    }

    #[test]
    fn the_death_says_what_was_met() {
        let mut probing = Probing::default();
        let one = ProbeRules { failures: 1, ..rules() };
        let verdict = probing.take(&Probe::Late, false, &one);
        assert_eq!(verdict, Verdict::Dead("no answer within 2 s".into()));
    }

    #[test]
    fn a_short_interval_is_not_made_longer() {
        let mut probing = Probing::default();
        let quick = ProbeRules { interval: Duration::from_millis(100), ..rules() };
        let verdict = probing.take(&Probe::Late, false, &quick);
        assert_eq!(verdict, Verdict::Again(Duration::from_millis(100)));
    }
}
