//! Whose turn it is at the resident, and when it closes for another model.
//!
//! Owns: rules 1 and 2 of the [module](super), by what [`policy`](super::policy) finds. Must never
//! do: load.

use std::time::Duration;

use super::outdated::Outdated;
use super::policy::Change;
use super::types::Bounds;
use super::waiters::{Place, Purpose, Waiter};
use super::{Closing, ClosingCause, Effect, Gpu, Reason, Refusal, SECOND_TRY, Scheduler};
use crate::engine::lifecycle::Moment;
use crate::gpu::{Class, Tenant, TenantId};
use crate::ids::{Generation, Ticket};

impl Scheduler {
    /// Resident: rule 1, then rule 2.
    pub(super) fn serve(&mut self, now: Moment, out: &mut Vec<Effect>) {
        self.open_or_close(now);
        self.grant_waiting(now, None, out);
        let Gpu::Resident(resident) = &self.gpu else { return };
        if resident.in_flight > 0 {
            return self.cut_drain(now, out);
        }
        // Held back for a moment: it would have to be started again for them.
        if self.turn().is_some_and(|turn| self.waiters.iter().any(|w| turn.takes(w))) {
            return;
        }
        let Some(why) = self.goes(now) else { return };
        let Gpu::Resident(resident) = &self.gpu else { return };
        let (generation, tenant) = (resident.generation, resident.tenant.clone());
        match why {
            Goes::For(change) => self.decide_for(change, now, out),
            Goes::Unused => out.push(Effect::Unload { of: tenant.id(), reason: Reason::Idle }),
            Goes::Outdated(how) => {
                out.push(Effect::Unload { of: tenant.id(), reason: how.reason() });
                self.come_back(&how);
            }
            Goes::Ordered => {
                out.push(Effect::Unload { of: tenant.id(), reason: Reason::Manual });
            }
        }
        self.clear(generation, tenant, now, out);
    }

    /// Whether an unused resident goes, and what for.
    fn goes(&self, now: Moment) -> Option<Goes> {
        let Gpu::Resident(resident) = &self.gpu else { return None };
        let pressing = self.pressing(now).map(|w| Self::pressed_by(w, now));
        if let Some(closing) = resident.closing {
            return Some(pressing.map_or(Goes::Ordered, Goes::For))
                .filter(|why| closing.cause != ClosingCause::Waiter || *why != Goes::Ordered);
        }
        if let Some(change) = pressing.or_else(|| self.worth(now)) {
            return Some(Goes::For(change));
        }
        if let Some(how) = self.resident_outdated() {
            return Some(Goes::Outdated(how));
        }
        self.idles_out_at(resident).is_some_and(|at| at <= now).then_some(Goes::Unused)
    }

    /// Closing begins when somebody who waits for another model must have it, and ends when
    /// nobody does any more.
    pub(super) fn open_or_close(&mut self, now: Moment) {
        let due = self.pressing(now).is_some();
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

    /// Whose turn it is, if it is anybody's.
    pub(super) fn turn(&self) -> Option<Turn<'_>> {
        let Gpu::Resident(resident) = &self.gpu else { return None };
        let before = match resident.closing.map(|closing| closing.cause) {
            None => None,
            // Those who were there before him do not queue behind him.
            Some(ClosingCause::Waiter) => Some(self.others().map(|w| self.place(w)).min()?),
            Some(ClosingCause::Order | ClosingCause::Lease) => return None,
        };
        let (generation, id) = (resident.generation, resident.tenant.id());
        Some(Turn { generation, id, before, batch: &self.batch, bounds: self.rules.bounds() })
    }

    /// Whether one more may use the resident.
    pub(super) fn has_room(&self) -> bool {
        self.room() > 0
    }

    /// So many more may use it.
    fn room(&self) -> usize {
        match (&self.gpu, self.rules.max_concurrent) {
            // Ollama's models are counted one by one, by whoever asks for them.
            (Gpu::Resident(resident), Some(limit)) if resident.tenant != Tenant::Ollama => {
                limit.saturating_sub(resident.in_flight)
            }
            _ => usize::MAX,
        }
    }

    /// Grants to all whose turn it is, as far as there is room.
    pub(super) fn grant_waiting(
        &mut self,
        now: Moment,
        loading: Option<Moment>,
        out: &mut Vec<Effect>,
    ) {
        let Some(turn) = self.turn() else { return };
        // That it is ready is the news that somebody may have waited for.
        let news = loading.is_some();
        let may = |waiter: &Waiter| turn.takes(waiter) && (news || turn.from(waiter) <= now);
        let able: Vec<Ticket> = self.waiters.iter().filter(|w| may(w)).map(|w| w.ticket).collect();
        let able = if self.rules.max_concurrent.is_some() { self.in_turn(&able) } else { able };
        for ticket in able {
            self.grant(ticket, now, loading, out);
        }
    }

    /// Those for whom there is room, where there is not room for all: by class, and within a class
    /// the client that was served longest ago. Orders by hand take no room.
    fn in_turn(&self, able: &[Ticket]) -> Vec<Ticket> {
        let (mut room, mut served) = (self.room(), self.served.clone());
        let mut left: Vec<&Waiter> =
            self.waiters.iter().filter(|w| able.contains(&w.ticket)).collect();
        let mut chosen = Vec::new();
        while let Some(at) = (0..left.len()).min_by_key(|at| {
            let w = left[*at];
            (w.purpose, w.who.class, served.last(w.who.client), self.place(w))
        }) {
            let waiter = left.swap_remove(at);
            if waiter.purpose == Purpose::Request {
                if room == 0 {
                    break;
                }
                room -= 1;
                served.note(waiter.who.client);
            }
            chosen.push(waiter.ticket);
        }
        chosen
    }

    fn grant(
        &mut self,
        ticket: Ticket,
        now: Moment,
        loading: Option<Moment>,
        out: &mut Vec<Effect>,
    ) {
        let Some(waiter) = self.waiters.take(ticket) else { return };
        let Gpu::Resident(resident) = &mut self.gpu else { return };
        let Waiter { arrived, purpose, who, .. } = waiter;
        if purpose == Purpose::Activate {
            // Somebody means to work with it: background work does not take it from him at once.
            self.costs.worked(&resident.tenant.id(), now);
            return out.push(Effect::Activated(ticket));
        }
        resident.in_flight += 1;
        resident.idle_since = None;
        resident.interactive_out |= who.class == Class::Interactive;
        // One who was there before the one it closes for has as much time as all others.
        if let Some(closing) = &mut resident.closing {
            closing.cut_at = self.rules.swap_drain.map(|drain| now.saturating_add(drain));
        }
        self.served.note(who.client);
        if who.class == Class::Interactive {
            self.costs.worked(&resident.tenant.id(), now);
        }
        let waited = now.saturating_sub(arrived);
        let loading = loading.map_or(Duration::ZERO, |b| now.saturating_sub(b.max(arrived)));
        let queued = waited.saturating_sub(loading);
        let (generation, tenant) = (resident.generation, resident.tenant.clone());
        out.push(Effect::Grant { ticket, generation, tenant, queued, loading });
    }

    /// Those who wanted what is there, and that is there no more.
    pub(super) fn refuse_strays(&mut self, out: &mut Vec<Effect>) {
        let stray = |w: &&Waiter| w.who.only_there && !self.serves(&w.tenant.id());
        let tickets: Vec<_> = self.waiters.iter().filter(stray).map(|w| w.ticket).collect();
        for ticket in tickets {
            self.waiters.remove(ticket);
            out.push(Effect::Refuse(ticket, Refusal::NoResident));
        }
    }

    /// What runs on a closing resident is cut after a bound, once.
    pub(super) fn cut_drain(&mut self, now: Moment, out: &mut Vec<Effect>) {
        let Gpu::Resident(resident) = &mut self.gpu else { return };
        let Some(closing) = &mut resident.closing else { return };
        if closing.cut_at.is_some_and(|at| at <= now) {
            closing.cut_at = None;
            out.push(Effect::Cut(resident.generation));
        }
    }
}

/// Why an unused resident goes.
#[derive(Debug, Clone, PartialEq)]
enum Goes {
    /// Another is to have the GPU.
    For(Change),
    /// By order.
    Ordered,
    /// Nobody has used it for so long.
    Unused,
    /// Its entry is another one, or none.
    Outdated(Outdated),
}

/// Whom the resident takes.
pub(super) struct Turn<'a> {
    generation: Generation,
    id: TenantId,
    /// Only those with an earlier place.
    before: Option<Place>,
    /// And those who waited when it became ready: the change of hands was for them.
    batch: &'a [Ticket],
    bounds: Bounds,
}

impl Turn<'_> {
    pub(super) fn takes(&self, waiter: &Waiter) -> bool {
        let in_time =
            |place| waiter.place(self.bounds) < place || self.batch.contains(&waiter.ticket);
        waiter.tenant.is(&self.id) && self.before.is_none_or(in_time)
    }

    /// Not before this moment: whom this very start has refused waits for news of it.
    pub(super) fn from(&self, waiter: &Waiter) -> Moment {
        let refused = waiter.refused_by == Some(self.generation);
        if refused { waiter.asked + SECOND_TRY } else { Moment::ZERO }
    }
}
