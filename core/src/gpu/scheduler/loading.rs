//! Who is loaded next, and who is refused a load.
//!
//! Owns: rules 4 and 5 of the [module](super), and the beginning of each change of hands. Must never
//! do: grant.

use std::sync::Arc;

use super::policy::Change;
use super::{Because, Decided, Effect, Gpu, Purpose, Refusal, Scheduler, Waiter};
use crate::engine::Launch;
use crate::engine::lifecycle::Moment;
use crate::gpu::{Tenant, TenantId};
use crate::ids::{Generation, Ticket};

impl Scheduler {
    /// Empty => (Loading | Resident | Clearing), for whoever goes first.
    pub(super) fn load_next(&mut self, now: Moment, out: &mut Vec<Effect>) {
        let vacant = std::mem::take(&mut self.vacant);
        let Some(next) = self.choose(now) else {
            if self.restore.is_some() {
                return self.load_saved(vacant, now, out);
            }
            self.decided = None;
            return;
        };
        let tenant = next.tenant.clone();
        let because = match next.purpose {
            Purpose::Activate => Because::ByHand,
            Purpose::Request => Because::Vacant,
        };
        let change = Change { to: tenant.id(), reason: next.purpose.reason(), because };
        self.decide_for(change, now, out);
        // Somebody wants something else.
        self.restore = None;
        match tenant {
            Tenant::Ollama => self.open_ollama(now, out),
            Tenant::Vllm(_) if self.must_vacate() && !vacant => self.vacate(now, out),
            Tenant::Vllm(launch) => self.run(launch, now, out),
        }
    }

    /// Notes what the change of hands is for. One that is under way already may get another end.
    pub(super) fn decide_for(&mut self, change: Change, now: Moment, out: &mut Vec<Effect>) {
        let Change { to, reason, because } = change;
        let (at, from) = match &self.decided {
            Some(decided) if decided.to == to && decided.reason == reason => return,
            Some(decided) => (decided.at, decided.from.clone()),
            None => (now, self.resident_id()),
        };
        out.push(Effect::SwapBegan { from: from.clone(), to: to.clone(), reason, because });
        self.decided = Some(Decided { at, reason, from, to });
    }

    fn resident_id(&self) -> Option<TenantId> {
        match &self.gpu {
            Gpu::Resident(resident) => Some(resident.tenant.id()),
            _ => None,
        }
    }

    /// Any => Loading, under a new number.
    pub(super) fn run(&mut self, launch: Arc<Launch>, now: Moment, out: &mut Vec<Effect>) {
        // Since somebody asked by hand it may have failed for others, who hold a lease.
        if self.waiters.asked_by_hand(&TenantId::from(&*launch))
            && self.broken.iter().any(|broken| broken.launch.model == launch.model)
        {
            self.pardon(launch.model.clone(), out);
        }
        self.newest = Generation(self.newest.0 + 1);
        self.alone = None;
        out.push(Effect::Run(self.newest, launch.clone()));
        self.gpu = Gpu::Loading(self.newest, launch, now);
    }

    /// Where requests start nothing, only those stay whose model is there or was asked for by hand.
    pub(super) fn refuse_requests(&mut self, out: &mut Vec<Effect>) {
        let off = |w: &&Waiter| {
            let id = w.tenant.id();
            w.purpose == Purpose::Request && !self.serves(&id) && !self.waiters.asked_by_hand(&id)
        };
        let refused: Vec<Ticket> = self.waiters.iter().filter(off).map(|w| w.ticket).collect();
        for ticket in refused {
            self.waiters.remove(ticket);
            out.push(Effect::Refuse(ticket, Refusal::AutostartOff));
        }
    }

    /// Requests for a model in a crash loop, unless it is there all the same, or comes by hand.
    pub(super) fn refuse_broken(&mut self, now: Moment, out: &mut Vec<Effect>) {
        let of = |w: &Waiter| {
            let id = w.tenant.id();
            let comes = self.serves(&id) || self.waiters.asked_by_hand(&id);
            self.broken(&w.tenant, now).filter(|_| !comes).map(|broken| broken.cause(now))
        };
        let refused: Vec<_> =
            self.waiters.iter().filter_map(|w| Some((w.ticket, of(w)?))).collect();
        for (ticket, cause) in refused {
            self.waiters.remove(ticket);
            out.push(Effect::Refuse(ticket, Refusal::Failed(cause)));
        }
    }

    /// Loading => Clearing, if nobody waits for it any more: at once where somebody waits for
    /// another, else after a while.
    pub(super) fn reconsider_load(&mut self, now: Moment, out: &mut Vec<Effect>) {
        let Gpu::Loading(generation, launch, _) = &self.gpu else { return };
        if self.waiters.any_of(&TenantId::from(&**launch)) {
            self.alone = None;
            return;
        }
        let since = *self.alone.get_or_insert(now);
        // What comes back after a lease is for nobody yet.
        let restored = self.decided.as_ref().is_some_and(|d| d.reason.brings_back());
        let grace = self.rules.abandoned_grace.filter(|_| !restored);
        let late = grace.is_some_and(|grace| since.saturating_add(grace) <= now);
        let outdated = self.outdated(launch);
        if !self.waiters.iter().any(|w| self.competes(w)) && !late && outdated.is_none() {
            return;
        }
        let (generation, tenant) = (*generation, launch.clone().into());
        self.decided = None;
        if let Some(how) = &outdated {
            self.come_back(how);
        }
        self.clear(generation, tenant, now, out);
    }
}
