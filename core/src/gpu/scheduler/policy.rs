//! When the GPU should change hands, and for whom.
//!
//! Owns: what waiting is weighed against: a change costs those who will ask for the resident while
//! it is away. Must never do: change anything; [`turns`](super::turns) and
//! [`loading`](super::loading) act on it.
//!
//! **The weighing.** Who waits for another model waits on while the resident is likely to be asked
//! for again soon. A round trip keeps the GPU away from the resident for the time `T` of two
//! changes; meanwhile a request for it is expected every `g`, each waiting `T/2` on the average: a
//! change costs `T²/2g` of waiting. It is worth that when those who wait for the other model have
//! waited for as long, all together. (Inventory theory's order quantity: let demand gather until
//! what its waiting has cost equals what an order costs.) So a busy pair of models is changed in
//! batches, and a quiet resident gives way at once. A bound ends all weighing.
//!
//! Lost time costs more where there is little to spare: in a queue that is busy for the share `u` of
//! the time, waiting grows by `1/(1-u)²`. While the GPU has time to spare, those who wait decide;
//! when it has none, each change takes serving time from somebody. The constants are chosen by the
//! traces of `benches/scheduler_traces`; `docs/SCHEDULING.md` has the figures.

use std::time::Duration;

use super::waiters::{Place, Purpose, Waiter};
use super::{Because, Gpu, Reason, Resident, Scheduler};
use crate::engine::lifecycle::Moment;
use crate::gpu::{Class, TenantId};

/// A background request's waiting weighs so many times less: it causes a change of hands when its
/// bound is near, or where hardly anybody would miss the resident.
const BACKGROUND_WEIGHT: u128 = 2000;
/// What a change costs counts for so many hundredths while the GPU has all its time to spare.
const PRICE: u128 = 40;
/// Of a GPU that is used for longer than this, in millionths of the time, nothing more is expected.
const MOST_USED: u64 = 900_000;

/// A change of hands that should be.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Change {
    pub(super) to: TenantId,
    pub(super) reason: Reason,
    pub(super) because: Because,
}

/// Those who wait for one model, while another is resident.
struct Group<'a> {
    first: &'a Waiter,
    place: Place,
    /// Each counts for so much.
    weight: u128,
    /// What they have waited altogether, in weighted microseconds.
    waited: u128,
}

impl Scheduler {
    /// The order of a waiter: by hand first, then by the moment of its bound.
    pub(super) fn place(&self, waiter: &Waiter) -> Place {
        waiter.place(self.rules.bounds())
    }

    /// When a waiter must have its change of hands begin; a pinned resident never gives way to
    /// background work.
    pub(super) fn due(&self, waiter: &Waiter) -> Moment {
        let (from, pinned) = match &self.gpu {
            Gpu::Resident(resident) => (Some(resident.tenant.id()), self.keeps(resident).pinned),
            _ => (None, false),
        };
        match (waiter.purpose, waiter.who.class) {
            (Purpose::Activate, _) => waiter.arrived,
            (Purpose::Request, Class::Background) if pinned => Moment::MAX,
            (Purpose::Request, class) => {
                let cost = self.costs.swap(from.as_ref(), &waiter.tenant.id()).unwrap_or_default();
                let bound = self.rules.bounds().of(class).saturating_sub(cost);
                waiter.arrived.saturating_add(bound)
            }
        }
    }

    /// The first of those who wait for another model than the resident and must have it now.
    pub(super) fn pressing(&self, now: Moment) -> Option<&Waiter> {
        self.others().filter(|w| self.due(w) <= now).min_by_key(|w| self.place(w))
    }

    /// What it means that somebody must have his change of hands now.
    pub(super) fn pressed_by(waiter: &Waiter, now: Moment) -> Change {
        let because = match waiter.purpose {
            Purpose::Activate => Because::ByHand,
            Purpose::Request => {
                let waited = now.saturating_sub(waiter.arrived);
                Because::Bound { class: waiter.who.class, waited }
            }
        };
        Change { to: waiter.tenant.id(), reason: waiter.purpose.reason(), because }
    }

    /// Those who wait for another model than the resident.
    pub(super) fn others(&self) -> impl Iterator<Item = &Waiter> {
        let id = match &self.gpu {
            Gpu::Resident(resident) => Some(resident.tenant.id()),
            _ => None,
        };
        let other = move |w: &&Waiter| id.as_ref().is_none_or(|id| !w.tenant.is(id));
        self.waiters.iter().filter(other).filter(|w| self.competes(w))
    }

    /// For whom an unused resident gives way now.
    pub(super) fn worth(&self, now: Moment) -> Option<Change> {
        let Gpu::Resident(resident) = &self.gpu else { return None };
        let groups = self.groups(resident, now);
        let ripe = groups.iter().map(|group| (self.ripe(resident, group, now), group));
        let (_, group) =
            ripe.filter(|(at, _)| *at <= now).min_by_key(|(at, group)| (*at, group.place))?;
        let Waiter { tenant, purpose, .. } = group.first;
        let to = tenant.id();
        let micros = |n: u128| Duration::from_micros(u64::try_from(n).unwrap_or(u64::MAX));
        let because = Because::Worth {
            waiting: self.others().filter(|w| w.tenant.is(&to)).count(),
            waited: micros(group.waited / BACKGROUND_WEIGHT),
            cost: micros(self.price(resident, group, now)),
        };
        Some(Change { to, reason: purpose.reason(), because })
    }

    /// When that is to be looked at again.
    pub(super) fn worth_at(&self, resident: &Resident, now: Moment) -> Option<Moment> {
        let groups = self.groups(resident, now);
        let ripe = groups.iter().map(|group| self.ripe(resident, group, now));
        let background = self.others().any(|w| w.who.class == Class::Background);
        let quiet = self.quiet_at(resident).filter(|at| background && *at > now);
        ripe.chain(quiet).filter(|at| *at < Moment::MAX).min()
    }

    /// When a group has waited for what a change for it costs, if nobody comes meanwhile. What it
    /// has waited grows, and the cost falls with the quiet: where they meet is searched for.
    fn ripe(&self, resident: &Resident, group: &Group<'_>, now: Moment) -> Moment {
        let after = |micros: u64| now.saturating_add(Duration::from_micros(micros));
        let is_ripe = |micros: u64| {
            let cost = self.price(resident, group, after(micros)) * BACKGROUND_WEIGHT;
            group.waited + group.weight * u128::from(micros) >= cost
        };
        let cost = self.price(resident, group, now) * BACKGROUND_WEIGHT;
        let missing = cost.saturating_sub(group.waited).div_ceil(group.weight.max(1));
        // At what it costs now it would be ripe then, so it is by then.
        let (mut before, mut by) = (0, u64::try_from(missing).unwrap_or(u64::MAX));
        while before < by {
            let middle = before + (by - before) / 2;
            if is_ripe(middle) { by = middle } else { before = middle + 1 }
        }
        after(by)
    }

    /// What a change costs those who will ask for the resident meanwhile, in microseconds of waiting.
    /// Where probably nobody will, people need not wait.
    fn price(&self, resident: &Resident, group: &Group<'_>, now: Moment) -> u128 {
        let (here, to) = (resident.tenant.id(), &group.first.tenant.id());
        let Some(gap) = self.costs.gap(&here, now) else { return 0 };
        let there = self.costs.swap(Some(&here), to).unwrap_or_default();
        let back = self.costs.swap(Some(to), &here).unwrap_or(there);
        let away = (there + back).as_micros();
        if away * 2 < gap.as_micros() && group.first.who.class == Class::Interactive {
            return 0;
        }
        let spare = u128::from(1_000_000 - self.costs.used().min(MOST_USED));
        let waits = away * away / (2 * gap.as_micros().max(1));
        // As in any queue, lost time makes others wait by the square of what is to spare.
        waits * PRICE / 100 * 1_000_000 / spare * 1_000_000 / spare
    }

    /// Who may cause a change of hands now, by model.
    fn groups(&self, resident: &Resident, now: Moment) -> Vec<Group<'_>> {
        let quiet = self.quiet_at(resident).is_some_and(|at| at <= now);
        let mut groups: Vec<Group<'_>> = Vec::new();
        for waiter in self.others() {
            let background = waiter.who.class == Class::Background;
            if background && !quiet {
                continue;
            }
            let weight = if background { 1 } else { BACKGROUND_WEIGHT };
            let waited = now.saturating_sub(waiter.arrived).as_micros() * weight;
            let of = |group: &&mut Group<'_>| group.first.tenant.is(&waiter.tenant.id());
            if let Some(group) = groups.iter_mut().find(of) {
                group.weight += weight;
                group.waited += waited;
            } else {
                let place = self.place(waiter);
                groups.push(Group { first: waiter, place, weight, waited });
            }
        }
        groups
    }

    /// From when on background work may take the GPU; `None`: not while things are as they are.
    pub(super) fn quiet_at(&self, resident: &Resident) -> Option<Moment> {
        let id = resident.tenant.id();
        let wanted =
            self.waiters.iter().any(|w| w.tenant.is(&id) && w.who.class == Class::Interactive);
        if wanted || resident.interactive_out || self.keeps(resident).pinned {
            return None;
        }
        Some(match self.costs.worked_at(&id) {
            Some(last) => last.saturating_add(self.rules.background_idle),
            None => Moment::ZERO,
        })
    }

    /// Who goes first where nothing is resident.
    pub(super) fn choose(&self, now: Moment) -> Option<&Waiter> {
        let by = |holds: &dyn Fn(&&Waiter) -> bool| {
            let competing = self.waiters.iter().filter(|w| self.competes(w));
            competing.filter(holds).min_by_key(|w| self.place(w))
        };
        let decided = self.decided.as_ref().map(|decided| &decided.to);
        by(&|w| w.purpose == Purpose::Activate)
            .or_else(|| by(&|w| self.due(w) <= now))
            .or_else(|| by(&|w| decided.is_some_and(|to| w.tenant.is(to))))
            .or_else(|| by(&|w| w.who.class == Class::Interactive))
            .or_else(|| by(&|_| true))
    }

    /// Since when an unused resident is to go, if ever (SPEC 6.6, `idle_unload_s`). Ollama minds its
    /// own models.
    pub(super) fn idles_out_at(&self, resident: &Resident) -> Option<Moment> {
        resident.tenant.launch()?;
        let limit = self.keeps(resident).idle_unload?;
        Some(resident.idle_since?.saturating_add(limit))
    }
}
