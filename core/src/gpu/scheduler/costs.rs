//! What a change of hands takes, and how often a model is asked for: measured, and smoothed.
//!
//! Owns: the measurements. Must never do: decide; all numbers are whole, so that the same events
//! give the same decisions on every machine.

use std::collections::HashMap;
use std::time::Duration;

use crate::engine::lifecycle::Moment;
use crate::gpu::TenantId;

/// So many pairs and models are remembered; then all is forgotten and learnt anew.
const MAX_REMEMBERED: usize = 1024;
/// How far back the share of the time in use reaches.
const MEMORY: Duration = Duration::from_secs(300);
/// The usual change where none has been measured.
const GUESS: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug, Default, Clone)]
pub(super) struct Costs {
    /// From the decision to ready, by what was there before (`None`: nothing) and what came.
    pairs: HashMap<(Option<TenantId>, TenantId), Duration>,
    /// The same, whatever was there before.
    to: HashMap<TenantId, Duration>,
    demand: HashMap<TenantId, Demand>,
    /// When people last worked with a model, as far as is known.
    worked: HashMap<TenantId, Moment>,
    /// The share of the time in which the GPU answered requests, in millionths.
    used: u64,
    /// Up to this moment.
    used_until: Moment,
}

/// How a model is asked for by people.
#[derive(Debug, Clone)]
struct Demand {
    last: Moment,
    /// Between two requests; `None`: there was but one.
    gap: Option<Duration>,
}

impl Costs {
    /// Until now the GPU has answered requests, or has not.
    pub(super) fn pass(&mut self, in_use: bool, now: Moment) {
        let time = now.saturating_sub(self.used_until).min(MEMORY);
        self.used_until = self.used_until.max(now);
        let share = u64::try_from(time.as_micros() * 1_000_000 / MEMORY.as_micros()).unwrap_or(0);
        let target = if in_use { 1_000_000 } else { 0 };
        self.used = (self.used * (1_000_000 - share) + target * share) / 1_000_000;
    }

    /// The share of the time in which the GPU has lately answered requests, in millionths.
    pub(super) fn used(&self) -> u64 {
        self.used
    }

    /// A change of hands has taken so long.
    pub(super) fn measured(&mut self, from: Option<TenantId>, to: TenantId, took: Duration) {
        if self.pairs.len() >= MAX_REMEMBERED {
            (self.pairs, self.to) = (HashMap::new(), HashMap::new());
        }
        let mix = |known: &mut Duration| *known = (*known * 3 + took) / 4;
        self.to.entry(to.clone()).and_modify(mix).or_insert(took);
        self.pairs.entry((from, to)).and_modify(mix).or_insert(took);
    }

    /// What a change takes, if anything like it has been measured.
    pub(super) fn swap(&self, from: Option<&TenantId>, to: &TenantId) -> Option<Duration> {
        let pair = self.pairs.get(&(from.cloned(), to.clone()));
        pair.or_else(|| self.to.get(to)).copied()
    }

    /// What a change takes on the whole.
    pub(super) fn usual(&self) -> Duration {
        let known = u32::try_from(self.to.len()).unwrap_or(u32::MAX);
        if known == 0 { GUESS } else { self.to.values().sum::<Duration>() / known }
    }

    /// People work with it, or did until now.
    pub(super) fn worked(&mut self, id: &TenantId, now: Moment) {
        if self.worked.len() >= MAX_REMEMBERED {
            self.worked.clear();
        }
        self.worked.insert(id.clone(), now);
    }

    /// When they last did.
    pub(super) fn worked_at(&self, id: &TenantId) -> Option<Moment> {
        self.worked.get(id).copied()
    }

    /// Somebody asks for it.
    pub(super) fn asked(&mut self, id: &TenantId, now: Moment) {
        if self.demand.len() >= MAX_REMEMBERED {
            self.demand.clear();
        }
        let Some(demand) = self.demand.get_mut(id) else {
            self.demand.insert(id.clone(), Demand { last: now, gap: None });
            return;
        };
        let gap = now.saturating_sub(demand.last);
        demand.gap = Some(demand.gap.map_or(gap, |known| (known * 3 + gap) / 4));
        demand.last = now;
    }

    /// The gap that is to be expected before the next request for it: the longer it has been quiet,
    /// the longer. `None`: nothing is known that would make one likely.
    pub(super) fn gap(&self, id: &TenantId, now: Moment) -> Option<Duration> {
        let demand = self.demand.get(id)?;
        let quiet = now.saturating_sub(demand.last);
        demand.gap.map(|gap| gap.max(quiet).max(Duration::from_millis(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ModelName;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn id(name: &str) -> TenantId {
        TenantId::Model(ModelName::from(name))
    }

    #[test]
    fn changes_are_known_by_their_pair_or_by_what_comes() {
        let mut costs = Costs::default();
        assert_eq!((costs.swap(None, &id("a")), costs.usual()), (None, GUESS));
        costs.measured(Some(id("b")), id("a"), s(20));
        assert_eq!(costs.swap(Some(&id("b")), &id("a")), Some(s(20)));
        assert_eq!(costs.swap(Some(&id("c")), &id("a")), Some(s(20)), "by what comes");
        assert_eq!(costs.swap(Some(&id("a")), &id("b")), None);
        costs.measured(Some(id("c")), id("a"), s(60));
        assert_eq!(costs.swap(Some(&id("b")), &id("a")), Some(s(20)));
        assert_eq!(costs.swap(None, &id("a")), Some(s(30)), "three parts old, one part new");
        assert_eq!(costs.usual(), s(30));
    }

    #[test]
    fn a_model_that_is_quiet_is_expected_later_and_later() {
        let mut costs = Costs::default();
        costs.asked(&id("a"), s(100));
        assert_eq!(costs.gap(&id("a"), s(101)), None, "once is no habit");
        costs.asked(&id("a"), s(104));
        assert_eq!(costs.gap(&id("a"), s(104)), Some(s(4)));
        assert_eq!(costs.gap(&id("a"), s(130)), Some(s(26)));
        costs.asked(&id("a"), s(124));
        assert_eq!(costs.gap(&id("a"), s(124)), Some(s(8)));
    }
}
