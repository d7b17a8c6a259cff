//! What time alone brings about, and when.
//!
//! Owns: who has waited for too long, and the moment at which the next thing is due. Must never do:
//! know a clock.

use std::time::Duration;

use super::{Effect, Gpu, Refusal, Resident, Scheduler, Waiter};
use crate::engine::lifecycle::Moment;
use crate::gpu::TenantId;
use crate::ids::Ticket;

impl Scheduler {
    /// Those who have waited for as long as they may.
    pub(super) fn expire(&mut self, now: Moment, out: &mut Vec<Effect>) {
        let over = |w: &&Waiter| self.expires_at(w).is_some_and(|at| at <= now);
        let late: Vec<(Ticket, Duration)> = self
            .waiting()
            .filter(over)
            .map(|w| (w.ticket, now.saturating_sub(w.arrived)))
            .collect();
        for (ticket, waited) in late {
            self.abandon(ticket);
            let retry_after = self.expected_wait(now);
            out.push(Effect::Refuse(ticket, Refusal::QueueTimeout { waited, retry_after }));
        }
    }

    /// When a waiter has waited for as long as it may. The load of its own model does not count: who
    /// waits for that waits on, and behind it for a place as if it had just come.
    pub(super) fn expires_at(&self, waiter: &Waiter) -> Option<Moment> {
        let limit = self.rules.max_wait?;
        let id = waiter.tenant.id();
        match &self.gpu {
            // A load behind a lease is not for it.
            _ if !self.passes(waiter) => Some(waiter.arrived.saturating_add(limit)),
            Gpu::Loading(_, launch, _) if TenantId::from(&**launch) == id => None,
            Gpu::Resident(resident)
                if resident.tenant.is(&id) && self.batch.contains(&waiter.ticket) =>
            {
                Some(resident.since.max(waiter.arrived).saturating_add(limit))
            }
            _ => Some(waiter.arrived.saturating_add(limit)),
        }
    }

    /// A guess of what a new request would have to wait, from measured swaps.
    pub(super) fn expected_wait(&self, now: Moment) -> Duration {
        let usual = self.costs.usual();
        let left = match &self.gpu {
            Gpu::Loading(_, _, since) => usual.saturating_sub(now.saturating_sub(*since)),
            _ => usual,
        };
        left.max(Duration::from_secs(1))
    }

    /// When [`Event::Tick`](super::Event::Tick) is due.
    pub fn next_tick(&self) -> Option<Moment> {
        // The first to go need not be the first who came.
        let expiry = self.waiting().filter_map(|w| self.expires_at(w)).min();
        let turn = match &self.gpu {
            Gpu::Resident(resident) => self.next_turn(resident),
            Gpu::Clearing(clearing) if clearing.in_flight > 0 => clearing.cut_at,
            Gpu::Loading(..) => {
                let restored = self.decided.as_ref().is_some_and(|d| d.reason.brings_back());
                let grace = self.rules.abandoned_grace.filter(|_| !restored);
                self.alone.and_then(|at| Some(at.saturating_add(grace?)))
            }
            _ => None,
        };
        [expiry, turn, self.lease_ends_at(), self.aside_cut_at()].into_iter().flatten().min()
    }

    /// When something is due while a model serves.
    pub(super) fn next_turn(&self, resident: &Resident) -> Option<Moment> {
        let used = resident.in_flight > 0;
        let closing = match &resident.closing {
            None => self.others().map(|w| self.due(w)).filter(|at| *at < Moment::MAX).min(),
            Some(closing) => closing.cut_at.filter(|_| used),
        };
        let turn = self.turn().filter(|_| self.has_room());
        let held_back = turn.as_ref().and_then(|turn| {
            self.waiters.iter().filter(|w| turn.takes(w)).map(|w| turn.from(w)).min()
        });
        let idle = resident.closing.is_none() && !used && held_back.is_none();
        let worth = if idle { self.worth_at(resident, self.seen) } else { None };
        let unused = if idle { self.idles_out_at(resident) } else { None };
        [closing, held_back, worth, unused].into_iter().flatten().min()
    }
}
