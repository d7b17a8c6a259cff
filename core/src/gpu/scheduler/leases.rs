//! The GPU in somebody else's hands (SPEC 6.5).
//!
//! Owns: how a lease comes, lives and ends, and what waiting requests get meanwhile. Must never do:
//! grant one while anything of ours, or of Ollama's, is on the GPU, or two at a time.

use std::sync::Arc;
use std::time::Duration;

use super::{Closing, ClosingCause, Effect, Gpu, Reason, Refusal, Scheduler, Waiter};
use crate::engine::Launch;
use crate::engine::lifecycle::Moment;
use crate::gpu::lease::{Hold, Lease, LeaseAsk, LeaseEffect, LeaseEnd, LeaseOrder, LeaseOutcome};
use crate::gpu::{LeaseToken, Tenant};
use crate::ids::{ModelName, Ticket};

/// Nobody is told to come back later than after this, whatever the lease's end (SPEC 2.1).
const COME_BACK: Duration = Duration::from_secs(30);

impl Scheduler {
    /// Who has the GPU, as far as leases go.
    pub fn hold(&self) -> &Hold {
        &self.hold
    }

    /// An order about a lease: what came of it, and what is to be done.
    pub fn on_lease(&mut self, order: LeaseOrder, now: Moment) -> (LeaseOutcome, Vec<Effect>) {
        let mut out = self.on(super::Event::Tick, now);
        let outcome = match order {
            LeaseOrder::Renew { token, ttl } => self.renew(&token, ttl, now),
            LeaseOrder::Release { token, restart_model } => {
                self.release(&token, restart_model, &mut out)
            }
            LeaseOrder::Force { token, owner, max_age, restart_model } => {
                let age = max_age.map(|age| now.saturating_sub(age));
                self.force(token.as_ref(), owner.as_deref(), age, restart_model, &mut out)
            }
        };
        out.extend(self.on(super::Event::Tick, now));
        (outcome, out)
    }

    fn renew(&mut self, token: &LeaseToken, ttl: Option<Duration>, now: Moment) -> LeaseOutcome {
        match &mut self.hold {
            Hold::Held { lease, .. } if lease.token.is(token) => {
                lease.ttl = ttl.unwrap_or(lease.ttl);
                lease.until = now.saturating_add(lease.ttl);
                LeaseOutcome::Renewed(lease.clone())
            }
            _ => LeaseOutcome::WrongToken,
        }
    }

    fn release(
        &mut self,
        token: &LeaseToken,
        restart_model: Option<bool>,
        out: &mut Vec<Effect>,
    ) -> LeaseOutcome {
        match &self.hold {
            Hold::Held { lease, .. } if lease.token.is(token) => {
                self.end_lease(LeaseEnd::Released, restart_model, out);
                LeaseOutcome::Released
            }
            _ => LeaseOutcome::WrongToken,
        }
    }

    /// `granted_by`: only if it was granted by then.
    fn force(
        &mut self,
        token: Option<&LeaseToken>,
        owner: Option<&str>,
        granted_by: Option<Moment>,
        restart_model: Option<bool>,
        out: &mut Vec<Effect>,
    ) -> LeaseOutcome {
        let (held, its_token, granted) = match &self.hold {
            Hold::Free => return LeaseOutcome::Idle,
            Hold::Acquiring { ask, .. } => (&ask.owner, &ask.token, Moment::MAX),
            Hold::Held { lease, .. } => (&lease.owner, &lease.token, lease.granted),
        };
        let fits = token.is_none_or(|token| its_token.is(token))
            && owner.is_none_or(|owner| owner == held)
            && granted_by.is_none_or(|by| granted <= by);
        if !fits {
            return LeaseOutcome::Other { owner: held.clone() };
        }
        if let Hold::Acquiring { ask, .. } = &self.hold {
            let (ticket, refusal) = (ask.ticket, Refusal::Stopped);
            self.withdraw_lease(ticket);
            out.push(Effect::Lease(LeaseEffect::Refused(ticket, refusal)));
        } else {
            self.end_lease(LeaseEnd::Forced, restart_model, out);
        }
        LeaseOutcome::Released
    }

    /// Free => Acquiring
    pub(super) fn ask_lease(&mut self, ask: LeaseAsk, out: &mut Vec<Effect>) {
        let refusal = match (&self.hold, &self.gpu) {
            _ if self.draining => Refusal::Draining,
            (Hold::Acquiring { ask, .. }, _) => Refusal::LeaseBusy { owner: ask.owner.clone() },
            (Hold::Held { lease, .. }, _) => Refusal::LeaseBusy { owner: lease.owner.clone() },
            (Hold::Free, Gpu::Stuck(stuck)) => Refusal::Failed(stuck.cause.clone()),
            (Hold::Free, _) => {
                let saved = self.model_there();
                self.restore = None;
                self.hold = Hold::Acquiring { ask, saved };
                self.hasten();
                return;
            }
        };
        out.push(Effect::Lease(LeaseEffect::Refused(ask.ticket, refusal)));
    }

    /// An order to stop may have given what runs more time than a lease does, or all it wants.
    fn hasten(&mut self) {
        let Some(drain) = self.rules.lease_drain else { return };
        self.hasten_aside(drain);
        let Gpu::Resident(resident) = &mut self.gpu else { return };
        if let Some(closing) = &mut resident.closing
            && closing.cause == ClosingCause::Order
        {
            let at = self.seen.saturating_add(drain);
            closing.cut_at = Some(closing.cut_at.map_or(at, |before| before.min(at)));
        }
    }

    /// The vLLM model that is on the GPU, or comes.
    fn model_there(&self) -> Option<ModelName> {
        match &self.gpu {
            Gpu::Resident(resident) => resident.tenant.launch().map(|launch| launch.model.clone()),
            Gpu::Loading(_, launch, _) => Some(launch.model.clone()),
            _ => None,
        }
    }

    /// Acquiring => Free: its asker has gone. What made room for it comes back.
    pub(super) fn withdraw_lease(&mut self, ticket: Ticket) {
        let Hold::Acquiring { ask, saved } = &self.hold else { return };
        if ask.ticket != ticket {
            return;
        }
        if ask.restart_model && self.model_there() != *saved {
            self.wanted_back.clone_from(saved);
        }
        self.hold = Hold::Free;
        self.reopen_aside();
        if let Gpu::Resident(resident) = &mut self.gpu {
            resident.closing = resident.closing.filter(|c| c.cause != ClosingCause::Lease);
        }
        self.unpark();
    }

    /// Any => Held: it was there before this scheduler.
    pub(super) fn keep_lease(&mut self, lease: Lease, clearing: bool) {
        if self.hold == Hold::Free {
            self.hold = Hold::Held { lease, clearing };
        }
    }

    /// Held => Free
    fn end_lease(&mut self, end: LeaseEnd, restart: Option<bool>, out: &mut Vec<Effect>) {
        let Hold::Held { lease, .. } = std::mem::take(&mut self.hold) else { return };
        self.reopen_aside();
        if restart.unwrap_or(lease.restart_model) {
            self.wanted_back.clone_from(&lease.saved);
        }
        if let Gpu::Resident(resident) = &mut self.gpu {
            resident.closing = resident.closing.filter(|c| c.cause != ClosingCause::Lease);
        }
        out.push(Effect::Lease(LeaseEffect::Ended(lease, end)));
        self.unpark();
    }

    /// What was resident before the lease, as its entry is now: loaded if nobody else wants the GPU.
    pub(super) fn restore(&mut self, launch: Arc<Launch>) {
        let idle = matches!(self.gpu, Gpu::Empty | Gpu::Clearing(_) | Gpu::Unknown);
        if self.hold == Hold::Free && idle && !self.draining {
            self.restore = Some((launch, Reason::Lease));
        }
    }

    /// Before anything else is decided: whoever has no part in the lease steps aside; answers whether
    /// the GPU is not the scheduler's to give.
    pub(super) fn mind_lease(&mut self, now: Moment, out: &mut Vec<Effect>) -> bool {
        if matches!(&self.hold, Hold::Held { lease, .. } if lease.until <= now) {
            self.end_lease(LeaseEnd::Expired, None, out);
        }
        if let Some(model) = self.wanted_back.take() {
            out.push(Effect::Lease(LeaseEffect::Restore(model)));
        }
        let (owner, until, clearing) = match &self.hold {
            Hold::Free => return false,
            Hold::Acquiring { ask, .. } => (ask.owner.clone(), None, true),
            Hold::Held { lease, clearing } => (lease.owner.clone(), Some(lease.until), *clearing),
        };
        let left = until.map_or(COME_BACK, |until| until.saturating_sub(now).min(COME_BACK));
        self.step_aside(&owner, left, out);
        clearing && self.make_room(now, out)
    }

    /// Whether a lease, if there is one, lets it through.
    pub(super) fn passes(&self, waiter: &Waiter) -> bool {
        passes(&self.hold, waiter)
    }

    fn step_aside(&mut self, owner: &str, left: Duration, out: &mut Vec<Effect>) {
        let hold = &self.hold;
        for waiter in self.waiters.take_if(|w| !passes(hold, w)) {
            if self.rules.lease_wait {
                self.parked.push(waiter);
            } else {
                let refusal = Refusal::Leased { owner: owner.to_owned(), retry_after: left };
                out.push(Effect::Refuse(waiter.ticket, refusal));
            }
        }
    }

    pub(super) fn unpark(&mut self) {
        for waiter in std::mem::take(&mut self.parked) {
            self.waiters.insert(waiter, self.rules.bounds());
        }
    }

    /// What is on the GPU goes, within its bound; then the lease is granted, if one is asked for.
    fn make_room(&mut self, now: Moment, out: &mut Vec<Effect>) -> bool {
        self.close_aside(self.rules.lease_drain, true, now);
        self.mind_aside(now, out);
        match &mut self.gpu {
            Gpu::Unknown => {}
            Gpu::Stuck(stuck) => {
                let refusal = Refusal::Failed(stuck.cause.clone());
                self.refuse_lease(refusal, out);
                return false;
            }
            Gpu::Loading(generation, launch, _) => {
                let (generation, tenant) = (*generation, Tenant::Vllm(launch.clone()));
                self.decided = None;
                out.push(Effect::Unload { of: tenant.id(), reason: Reason::Lease });
                self.clear(generation, tenant, now, out);
            }
            Gpu::Resident(resident) => {
                let cut_at = self.rules.lease_drain.map(|drain| now.saturating_add(drain));
                let ordered = resident.closing.filter(|c| c.cause != ClosingCause::Waiter);
                let closing = Closing { cause: ClosingCause::Lease, cut_at };
                resident.closing = Some(ordered.unwrap_or(closing));
                if resident.in_flight > 0 {
                    self.cut_drain(now, out);
                } else {
                    let (generation, tenant) = (resident.generation, resident.tenant.clone());
                    out.push(Effect::Unload { of: tenant.id(), reason: Reason::Lease });
                    self.clear(generation, tenant, now, out);
                }
            }
            Gpu::Clearing(_) => self.cut_late(now, out),
            Gpu::Empty => return self.room_made(now, out),
        }
        true
    }

    /// Nothing of ours is there. Ollama must say so too.
    fn room_made(&mut self, now: Moment, out: &mut Vec<Effect>) -> bool {
        if self.beside().is_some() {
            return true;
        }
        let vacant = std::mem::take(&mut self.vacant);
        if self.rules.beside_ollama && !vacant {
            self.vacate(now, out);
            return true;
        }
        self.decided = None;
        match std::mem::take(&mut self.hold) {
            Hold::Acquiring { ask, saved } => {
                let LeaseAsk { ticket, token, owner, restart_model, ttl } = ask;
                let until = now.saturating_add(ttl);
                let lease = Lease { token, owner, restart_model, ttl, granted: now, until, saved };
                self.hold = Hold::Held { lease: lease.clone(), clearing: false };
                out.push(Effect::Lease(LeaseEffect::Granted(ticket, lease)));
            }
            Hold::Held { lease, .. } => self.hold = Hold::Held { lease, clearing: false },
            Hold::Free => {}
        }
        false
    }

    /// Acquiring => Free: it cannot be had.
    pub(super) fn refuse_lease(&mut self, refusal: Refusal, out: &mut Vec<Effect>) {
        if let Hold::Acquiring { ask, .. } = &self.hold {
            let ticket = ask.ticket;
            self.withdraw_lease(ticket);
            out.push(Effect::Lease(LeaseEffect::Refused(ticket, refusal)));
        }
    }

    /// When a lease ends by itself.
    pub(super) fn lease_ends_at(&self) -> Option<Moment> {
        match &self.hold {
            Hold::Held { lease, .. } => Some(lease.until),
            _ => None,
        }
    }

    /// Those who stepped aside.
    pub(super) fn parked(&self) -> impl Iterator<Item = &Waiter> {
        self.parked.iter()
    }

    /// Loads what was there before a lease or a change, where nobody wants anything else.
    pub(super) fn load_saved(&mut self, vacant: bool, now: Moment, out: &mut Vec<Effect>) {
        let Some((launch, reason)) = self.restore.clone() else { return };
        let tenant = Tenant::Vllm(launch.clone());
        let because = match reason {
            Reason::Changed => super::Because::Changed,
            _ => super::Because::Lease,
        };
        let change = super::policy::Change { to: tenant.id(), reason, because };
        self.decide_for(change, now, out);
        if self.must_vacate() && !vacant {
            return self.vacate(now, out);
        }
        self.restore = None;
        self.run(launch, now, out);
    }
}

fn passes(hold: &Hold, waiter: &Waiter) -> bool {
    match (hold, &waiter.who.pass) {
        (Hold::Free, _) => true,
        (Hold::Held { lease, .. }, Some(pass)) => pass.is(&lease.token),
        _ => false,
    }
}
