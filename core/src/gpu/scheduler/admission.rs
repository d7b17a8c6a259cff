//! Who is let into the queue, and who is refused at once.
//!
//! Owns: the order in which that is found out. Must never do: grant; whoever is let in is served by
//! what follows ([`turns`](super::turns)).

use super::{Broken, Effect, Event, Gpu, Purpose, Refusal, Scheduler, Stuck, Waiter};
use crate::engine::lifecycle::Moment;
use crate::gpu::{Class, Tenant, TenantId};
use crate::ids::ModelName;

impl Scheduler {
    pub(super) fn admit(&mut self, waiter: Waiter, now: Moment, out: &mut Vec<Effect>) {
        let (ticket, id) = (waiter.ticket, waiter.tenant.id());
        let resident = matches!(&self.gpu, Gpu::Resident(resident) if resident.tenant.is(&id));
        let by_hand = waiter.purpose == Purpose::Activate;
        if let (TenantId::Model(model), true, false) = (&id, by_hand, resident)
            && !self.draining
        {
            self.pardon(model.clone(), out);
        }
        if let Some(refusal) = self.never(&waiter, now) {
            return out.push(Effect::Refuse(ticket, refusal));
        }
        // What is due in this very moment comes first, although its tick is only on its way.
        self.expire(now, out);
        self.open_or_close(now);
        // Who is granted at once takes no place in the queue.
        let at_once = self.takes_now(&waiter, now);
        let waiting = self.waiters.len() + self.parked.len();
        if !at_once && waiting >= self.rules.max_queue {
            let retry_after = self.expected_wait(now);
            return out.push(Effect::Refuse(ticket, Refusal::QueueFull { waiting, retry_after }));
        }
        // A resident that is about to go serves it no more: it needs a start as well.
        if let (TenantId::Model(model), true, true, false) = (&id, by_hand, resident, at_once) {
            self.pardon(model.clone(), out);
        }
        if !by_hand && waiter.who.class == Class::Interactive && waiter.refused_by.is_none() {
            self.costs.asked(&id, now);
        }
        self.waiters.insert(waiter, self.rules.bounds());
    }

    /// Why a request would be refused just now, tried with a copy: so that work is not done for those who
    /// are refused afterwards. What this lets pass may still be refused later.
    pub fn would_refuse(&self, waiter: Waiter, now: Moment) -> Option<Refusal> {
        let ticket = waiter.ticket;
        let effects = self.clone().on(Event::Admit(waiter), now);
        effects.into_iter().find_map(|effect| match effect {
            Effect::Refuse(refused, refusal) if refused == ticket => Some(refusal),
            _ => None,
        })
    }

    /// Why it need not even wait.
    fn never(&self, waiter: &Waiter, now: Moment) -> Option<Refusal> {
        if self.draining {
            return Some(Refusal::Draining);
        }
        if let Gpu::Stuck(Stuck { cause, .. }) = &self.gpu
            && self.competes(waiter)
        {
            return Some(Refusal::Failed(cause.clone()));
        }
        let id = waiter.tenant.id();
        if self.serves(&id) || self.waiters.asked_by_hand(&id) {
            return None;
        }
        if let Some(broken) = self.broken(&waiter.tenant, now) {
            return Some(Refusal::Failed(broken.cause(now)));
        }
        let off = waiter.purpose == Purpose::Request && !self.rules.start_on_request;
        off.then_some(Refusal::AutostartOff)
    }

    /// Whether it gets its turn in this very moment.
    fn takes_now(&self, waiter: &Waiter, now: Moment) -> bool {
        let in_turn = self.has_room()
            && self.turn().is_some_and(|turn| turn.takes(waiter) && turn.from(waiter) <= now);
        self.passes(waiter) && (in_turn || self.takes_aside(waiter))
    }

    /// Asked for by hand: what it did before does not count.
    pub(super) fn pardon(&mut self, model: ModelName, out: &mut Vec<Effect>) {
        self.broken.retain(|broken| broken.launch.model != model);
        out.push(Effect::Pardon(model));
    }

    /// The crash loop that a launch is in just now.
    pub(super) fn broken(&self, tenant: &Tenant, now: Moment) -> Option<&Broken> {
        let launch = tenant.launch()?;
        self.broken.iter().find(|broken| broken.launch == *launch && broken.until > now)
    }

    /// Whether a model is resident, loads, or may be (nothing is known yet). Ollama needs no start:
    /// where nothing else is, it is there.
    pub(super) fn serves(&self, id: &TenantId) -> bool {
        match &self.gpu {
            _ if *id == TenantId::Ollama && self.ollama_stays() => true,
            Gpu::Unknown => true,
            Gpu::Loading(_, launch, _) => TenantId::from(&**launch) == *id,
            Gpu::Resident(resident) => resident.tenant.is(id),
            Gpu::Empty | Gpu::Clearing(_) => *id == TenantId::Ollama,
            Gpu::Stuck(_) => false,
        }
    }
}
