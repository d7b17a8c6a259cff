//! Whose turn it is at the resident, and when it closes for another model.
//!
//! Owns: rules 1 and 2 of the [module](super). Must never do: load.

use std::time::Duration;

use super::waiters::{Place, Purpose, Waiter};
use super::{Closing, ClosingCause, Effect, Gpu, SECOND_TRY, Scheduler};
use crate::engine::lifecycle::Moment;
use crate::gpu::TenantId;
use crate::ids::Generation;

impl Scheduler {
    /// Resident: rule 1, then rule 2.
    pub(super) fn serve(&mut self, now: Moment, out: &mut Vec<Effect>) {
        self.open_or_close(now);
        self.grant_waiting(now, None, out);
        let Gpu::Resident(resident) = &self.gpu else { return };
        let id = resident.tenant.id();
        let unwanted = !self.waiters.any_of(&id) && self.waiters.first_but(&id).is_some();
        if resident.closing.is_none() && !unwanted {
            return;
        }
        if resident.in_flight > 0 {
            return self.cut_drain(now, out);
        }
        // Held back for a moment: it would have to be started again for them.
        if self.turn().is_some_and(|turn| self.waiters.iter().any(|w| turn.takes(w))) {
            return;
        }
        let (generation, tenant) = (resident.generation, resident.tenant.clone());
        if let Some(next) = self.waiters.first_but(&id) {
            let (to, reason) = (next.tenant.id(), next.purpose.reason());
            self.decided = Some((now, reason));
            out.push(Effect::SwapBegan { from: Some(id), to, reason });
        }
        self.clear(generation, tenant, now, out);
    }

    /// Closing begins when somebody who waits for another model must have it, and ends when
    /// nobody does any more.
    pub(super) fn open_or_close(&mut self, now: Moment) {
        let Gpu::Resident(resident) = &self.gpu else { return };
        let next = self.waiters.first_but(&resident.tenant.id());
        let due = next.is_some_and(|waiter| self.due(waiter) <= now);
        let cut_at = self.rules.swap_drain.map(|drain| now.saturating_add(drain));
        let Gpu::Resident(resident) = &mut self.gpu else { return };
        match resident.closing {
            None if due => {
                resident.closing = Some(Closing { cause: ClosingCause::Waiter, cut_at });
            }
            Some(Closing { cause: ClosingCause::Waiter, .. }) if !due => resident.closing = None,
            _ => {}
        }
    }

    /// When a waiter must have its swap begin.
    pub(super) fn due(&self, waiter: &Waiter) -> Moment {
        match waiter.purpose {
            Purpose::Activate => waiter.arrived,
            Purpose::Request => {
                let swap = self.swap_times.get(&waiter.tenant.id()).copied().unwrap_or_default();
                waiter.arrived.saturating_add(self.rules.swap_wait.saturating_sub(swap))
            }
        }
    }

    /// Whose turn it is, if it is anybody's.
    pub(super) fn turn(&self) -> Option<Turn> {
        let Gpu::Resident(resident) = &self.gpu else { return None };
        let id = resident.tenant.id();
        let before = match resident.closing.map(|closing| closing.cause) {
            None => None,
            // Those who were there before him do not queue behind him.
            Some(ClosingCause::Waiter) => Some(self.waiters.first_but(&id)?.place()),
            Some(ClosingCause::Order) => return None,
        };
        Some(Turn { generation: resident.generation, id, before })
    }

    /// Grants to all whose turn it is.
    pub(super) fn grant_waiting(
        &mut self,
        now: Moment,
        loading: Option<Moment>,
        out: &mut Vec<Effect>,
    ) {
        let Some(turn) = self.turn() else { return };
        let drain = self.rules.swap_drain;
        let Gpu::Resident(resident) = &mut self.gpu else { return };
        let (generation, tenant) = (resident.generation, resident.tenant.clone());
        // That it is ready is the news that somebody may have waited for.
        let news = loading.is_some();
        let may = |waiter: &Waiter| turn.takes(waiter) && (news || turn.from(waiter) <= now);
        for waiter in self.waiters.take_if(may) {
            let Waiter { ticket, arrived, purpose, .. } = waiter;
            if purpose == Purpose::Activate {
                out.push(Effect::Activated(ticket));
                continue;
            }
            resident.in_flight += 1;
            // One who was there before the one it closes for has as much time as all others.
            if let Some(closing) = &mut resident.closing {
                closing.cut_at = drain.map(|drain| now.saturating_add(drain));
            }
            let waited = now.saturating_sub(arrived);
            let loading = loading.map_or(Duration::ZERO, |b| now.saturating_sub(b.max(arrived)));
            let queued = waited.saturating_sub(loading);
            let tenant = tenant.clone();
            out.push(Effect::Grant { ticket, generation, tenant, queued, loading });
        }
    }

    /// What runs on a closing resident is cut after a bound, once.
    fn cut_drain(&mut self, now: Moment, out: &mut Vec<Effect>) {
        let Gpu::Resident(resident) = &mut self.gpu else { return };
        let Some(closing) = &mut resident.closing else { return };
        if closing.cut_at.is_some_and(|at| at <= now) {
            closing.cut_at = None;
            out.push(Effect::Cut(resident.generation));
        }
    }
}

/// Whom the resident takes.
pub(super) struct Turn {
    generation: Generation,
    id: TenantId,
    /// Only those with an earlier place.
    before: Option<Place>,
}

impl Turn {
    pub(super) fn takes(&self, waiter: &Waiter) -> bool {
        waiter.tenant.is(&self.id) && self.before.is_none_or(|place| waiter.place() < place)
    }

    /// Not before this moment: whom this very start has refused waits for news of it.
    pub(super) fn from(&self, waiter: &Waiter) -> Moment {
        let refused = waiter.refused_by == Some(self.generation);
        if refused { waiter.asked + SECOND_TRY } else { Moment::ZERO }
    }
}
