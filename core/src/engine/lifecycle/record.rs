//! What is remembered of each model's failures: the pause before its next start, and its breaker
//! (SPEC 6.1).
//!
//! Owns: how failures in a row lengthen the pause, how many within a window open the breaker, and
//! what wipes a record clean: long service, an order by hand, a changed entry. Must never do: start
//! or stop anything.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::Moment;
use crate::engine::cause::Cause;
use crate::engine::launch::Launch;
use crate::engine::report::Broken;
use crate::ids::ModelName;

/// Longest pause between a failure and the next start.
pub(super) const MAX_BACKOFF: Duration = Duration::from_secs(60);
/// Longest time for which a breaker stays open.
const MAX_OPEN: Duration = Duration::from_secs(900);
/// Models whose failures are remembered; the registry may name any number over time.
const MAX_REMEMBERED: usize = 1024;

/// When failures are a crash loop.
#[derive(Debug, Clone)]
pub struct BreakerRules {
    /// So many failures …
    pub failures: u32,
    /// … within this open it, …
    pub window: Duration,
    /// … for this long; each time it opens again, twice as long.
    pub open: Duration,
}

/// Failures of one model.
#[derive(Debug, Clone)]
struct Record {
    /// What failed: another launch of the model begins anew.
    launch: Arc<Launch>,
    /// Failures in a row.
    run: u32,
    last: Moment,
    cause: Cause,
    /// Those that count for the breaker, at most as many as open it.
    recent: VecDeque<Moment>,
    opened: Option<Opened>,
    /// It has been started since it failed.
    started_again: bool,
}

/// A breaker that has opened; from `until` on it lets one start through.
#[derive(Debug, Clone, Copy)]
struct Opened {
    until: Moment,
    time: Duration,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Records {
    backoff: Duration,
    breaker: BreakerRules,
    of: HashMap<ModelName, Record>,
}

impl Records {
    pub(super) fn new(backoff: Duration, breaker: BreakerRules) -> Self {
        Records { backoff, breaker, of: HashMap::new() }
    }

    /// Other bounds, for failures from now on.
    pub(super) fn change(&mut self, backoff: Duration, breaker: BreakerRules) {
        (self.backoff, self.breaker) = (backoff, breaker);
    }

    /// A start, or an engine, has failed.
    pub(super) fn failed(&mut self, launch: &Arc<Launch>, cause: &Cause, now: Moment) {
        if self.of.len() >= MAX_REMEMBERED {
            let window = self.breaker.window.max(MAX_BACKOFF);
            self.of.retain(|_, record| record.is_fresh(now, window));
        }
        if self.of.len() >= MAX_REMEMBERED
            && let Some(oldest) = self.of.iter().min_by_key(|(_, record)| record.last)
        {
            let oldest = oldest.0.clone();
            self.of.remove(&oldest);
        }
        let new = || Record::new(launch, cause, now);
        let record = self.of.entry(launch.model.clone()).or_insert_with(new);
        if record.launch != *launch {
            *record = new();
        }
        record.run = record.run.saturating_add(1);
        (record.last, record.cause, record.started_again) = (now, cause.clone(), false);
        if cause.is_of_the_engine() {
            record.trip(&self.breaker, now);
        }
    }

    /// Whether this launch is the first one after a failure of the same one; later ones are none.
    pub(super) fn starts_again(&mut self, launch: &Launch) -> bool {
        let record = self.of.get_mut(&launch.model).filter(|record| *record.launch == *launch);
        record.is_some_and(|record| !std::mem::replace(&mut record.started_again, true))
    }

    /// Whether there are failures of this launch that count.
    pub(super) fn has(&self, launch: &Launch) -> bool {
        self.record(launch).is_some()
    }

    /// When it may be started again.
    pub(super) fn retry_at(&self, launch: &Launch) -> Option<Moment> {
        let record = self.record(launch)?;
        let doublings = record.run.saturating_sub(1).min(16);
        let pause = self.backoff.saturating_mul(2u32.pow(doublings)).min(MAX_BACKOFF);
        Some(record.last.saturating_add(pause))
    }

    /// Its breaker, if that is open now.
    pub(super) fn broken(&self, launch: &Launch, now: Moment) -> Option<Broken> {
        self.record(launch)?.broken().filter(|broken| broken.until > now)
    }

    /// All breakers that have opened, also those that would let a start through by now.
    pub(super) fn all_broken(&self) -> Vec<Broken> {
        let mut all: Vec<Broken> = self.of.values().filter_map(Record::broken).collect();
        all.sort_by(|a, b| a.launch.model.as_str().cmp(b.launch.model.as_str()));
        all
    }

    /// Its record is clean.
    pub(super) fn forgive(&mut self, model: &ModelName) {
        self.of.remove(model);
    }

    fn record(&self, launch: &Launch) -> Option<&Record> {
        self.of.get(&launch.model).filter(|record| *record.launch == *launch)
    }
}

impl Record {
    fn new(launch: &Arc<Launch>, cause: &Cause, now: Moment) -> Self {
        Record {
            launch: launch.clone(),
            run: 0,
            last: now,
            cause: cause.clone(),
            recent: VecDeque::new(),
            opened: None,
            started_again: false,
        }
    }

    /// Opens the breaker after enough failures, and again after the one that it let through.
    fn trip(&mut self, rules: &BreakerRules, now: Moment) {
        self.recent.push_back(now);
        self.recent.retain(|at| now.saturating_sub(*at) <= rules.window);
        let enough = self.recent.len() >= rules.failures as usize;
        let time = match self.opened {
            Some(opened) => opened.time.saturating_mul(2).min(MAX_OPEN.max(rules.open)),
            None if enough => rules.open,
            None => return,
        };
        self.recent.clear();
        self.opened = Some(Opened { until: now.saturating_add(time), time });
    }

    fn broken(&self) -> Option<Broken> {
        self.opened.map(|opened| Broken {
            launch: self.launch.clone(),
            failures: self.run,
            cause: self.cause.clone(),
            until: opened.until,
        })
    }

    fn is_fresh(&self, now: Moment, window: Duration) -> bool {
        now.saturating_sub(self.last) < window || self.opened.is_some_and(|o| o.until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::launches;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn records() -> Records {
        Records::new(s(2), BreakerRules { failures: 3, window: s(600), open: s(60) })
    }

    fn a() -> Arc<Launch> {
        launches(&["a"]).remove(0)
    }

    fn crashed() -> Cause {
        Cause::Crashed { status: "signal 9".into(), telling: Some("OutOfMemoryError: no".into()) }
    }

    fn after(records: &mut Records, at: impl IntoIterator<Item = u64>) {
        for second in at {
            records.failed(&a(), &crashed(), s(second));
        }
    }

    #[test]
    fn the_pause_doubles_up_to_a_minute() {
        let mut records = records();
        assert_eq!(records.retry_at(&a()), None);
        for (failure, pause) in [2, 4, 8, 16, 32, 60, 60].into_iter().enumerate() {
            let now = s(1000 * u64::try_from(failure).unwrap());
            records.failed(&a(), &crashed(), now);
            assert_eq!(records.retry_at(&a()), Some(now + s(pause)));
        }
    }

    #[test]
    fn failures_within_the_window_open_the_breaker_and_spread_ones_do_not() {
        let mut records = records();
        after(&mut records, [0, 599, 601]);
        // The first is out of the window when the third comes.
        assert!(records.all_broken().is_empty());
        after(&mut records, [700]);
        let broken = records.broken(&a(), s(701)).unwrap();
        assert_eq!((broken.until, broken.failures), (s(760), 4));
        assert_eq!(broken.cause, crashed());
        assert_eq!(records.broken(&a(), s(760)), None, "half open");
    }

    #[test]
    fn each_failure_of_the_start_that_is_let_through_doubles_the_time_up_to_its_bound() {
        let mut records = records();
        after(&mut records, [0, 1, 2]);
        let mut now = 62;
        for open in [120, 240, 480, 900, 900] {
            after(&mut records, [now]);
            assert_eq!(records.all_broken()[0].until, s(now + open));
            now += open;
        }
    }

    #[test]
    fn a_clean_record_an_order_by_hand_or_another_launch_closes_it() {
        let mut records = records();
        after(&mut records, [0, 1, 2]);
        let mut other = (*a()).clone();
        other.port += 1;
        assert!(records.broken(&other, s(3)).is_none() && !records.has(&other));
        records.failed(&Arc::new(other.clone()), &crashed(), s(4));
        assert!(records.all_broken().is_empty(), "one failure of the new one");
        after(&mut records, [10, 11, 12]);
        records.forgive(&a().model);
        assert!(records.broken(&a(), s(13)).is_none() && !records.has(&a()));
    }

    #[test]
    fn a_stranger_on_the_port_makes_it_wait_and_breaks_nothing() {
        let mut records = records();
        for second in 0..10 {
            let taken = Cause::PortTaken { port: 1, by: "pid 7".into() };
            records.failed(&a(), &taken, s(second));
        }
        assert!(records.all_broken().is_empty());
        assert_eq!(records.retry_at(&a()), Some(s(9) + MAX_BACKOFF));
    }

    #[test]
    fn any_number_of_models_may_fail() {
        let mut records = records();
        for (second, number) in (0..5000u64).enumerate() {
            let mut launch = (*a()).clone();
            launch.model = ModelName::from(format!("m{number}").as_str());
            records.failed(&Arc::new(launch), &crashed(), s(second as u64 / 100));
        }
        assert!(records.of.len() <= MAX_REMEMBERED, "{}", records.of.len());
    }
}
