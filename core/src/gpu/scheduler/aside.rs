//! Ollama beside a vLLM, where the [budget](GpuBudget) lets both stay (SPEC 6.5).
//!
//! Owns: Ollama's part of the GPU then: it takes no turns with the vLLM, and gives its part back only
//! for a lease, by order, or when the budget becomes too small. Must never do: be there where
//! the budget has one place; then Ollama is a resident like any other ([`ollama`](super::ollama)).

use std::time::Duration;

use super::{Effect, Gpu, Purpose, Refusal, Resident, Scheduler, Stopping, Waiter};
use crate::engine::Cause;
use crate::engine::lifecycle::Moment;
use crate::gpu::{GpuBudget, Tenant, TenantId};
use crate::ids::{Generation, Ticket};

/// Ollama, beside whatever vLLM there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Aside {
    generation: Generation,
    in_flight: usize,
    state: State,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// It takes whoever comes.
    Open,
    /// It only finishes what it has; that is cut then.
    Closing { cut_at: Option<Moment>, for_lease: bool },
    /// It has been told to unload.
    Going,
}

impl Scheduler {
    /// How many may hold the GPU.
    pub fn residents(&self) -> usize {
        self.rules.budget.residents
    }

    /// How many may hold the GPU from now on.
    pub fn budget(&mut self, budget: GpuBudget, now: Moment) -> Vec<Effect> {
        let before = self.rules.budget.ollama_stays();
        self.rules.budget = budget;
        match (before, budget.ollama_stays()) {
            (false, true) => self.step_beside(),
            (true, false) => self.step_back(now),
            _ => {}
        }
        self.on(super::Event::Tick, now)
    }

    /// A resident Ollama is one beside from now on.
    fn step_beside(&mut self) {
        if let Gpu::Resident(resident) = &self.gpu
            && resident.tenant == Tenant::Ollama
            && resident.closing.is_none()
        {
            let (generation, in_flight) = (resident.generation, resident.in_flight);
            self.aside = Some(Aside { generation, in_flight, state: State::Open });
            self.gpu = Gpu::Empty;
        }
    }

    /// There is room for one only: Ollama takes the GPU if it is free, else it goes.
    fn step_back(&mut self, now: Moment) {
        let Some(Aside { generation, in_flight, state: State::Open }) = self.aside else { return };
        if self.gpu == Gpu::Empty {
            self.aside = None;
            self.gpu = Gpu::Resident(Resident::new(generation, Tenant::Ollama, now, in_flight));
        } else {
            self.close_aside(self.rules.swap_drain, false, now);
        }
    }

    /// Whether Ollama may stay whatever vLLM there is.
    pub(super) fn ollama_stays(&self) -> bool {
        self.rules.budget.ollama_stays()
    }

    /// Whether somebody wants a turn that others might have.
    pub(super) fn competes(&self, waiter: &Waiter) -> bool {
        waiter.tenant != Tenant::Ollama || !self.ollama_stays()
    }

    /// What Ollama holds beside: which start, and how many use it.
    pub fn beside(&self) -> Option<(Generation, usize)> {
        self.aside.as_ref().map(|aside| (aside.generation, aside.in_flight))
    }

    /// Whether it takes somebody now.
    pub(super) fn takes_aside(&self, waiter: &Waiter) -> bool {
        let open = self.aside.as_ref().is_none_or(|aside| aside.state == State::Open);
        let asked = matches!(&self.gpu, Gpu::Clearing(c) if c.tenant == Tenant::Ollama);
        let busy = asked || self.gpu == Gpu::Unknown;
        !self.competes(waiter) && open && !busy
    }

    /// Grants to all who want Ollama, if it stays.
    pub(super) fn grant_aside(&mut self, now: Moment, out: &mut Vec<Effect>) {
        let takes = |w: &&Waiter| self.takes_aside(w);
        let tickets: Vec<Ticket> = self.waiters.iter().filter(takes).map(|w| w.ticket).collect();
        if tickets.is_empty() {
            return;
        }
        let aside = self.aside.get_or_insert_with(|| {
            self.newest = Generation(self.newest.0 + 1);
            out.push(Effect::Open(self.newest));
            Aside { generation: self.newest, in_flight: 0, state: State::Open }
        });
        for ticket in tickets {
            let Some(waiter) = self.waiters.take(ticket) else { continue };
            if waiter.purpose == Purpose::Activate {
                out.push(Effect::Activated(ticket));
                continue;
            }
            aside.in_flight += 1;
            self.served.note(waiter.who.client);
            let queued = now.saturating_sub(waiter.arrived);
            let (generation, tenant, loading) = (aside.generation, waiter.tenant, Duration::ZERO);
            out.push(Effect::Grant { ticket, generation, tenant, queued, loading });
        }
    }

    /// An earlier scheduler had given Ollama the GPU.
    pub(super) fn aside_in_use(&mut self, generation: Generation, in_flight: usize) {
        if self.aside.is_none() {
            self.newest = self.newest.max(generation);
            self.aside = Some(Aside { generation, in_flight, state: State::Open });
        }
    }

    /// Requests have ended; answers whether they were there.
    pub(super) fn aside_uses(&mut self, generation: Generation, count: usize) -> bool {
        match &mut self.aside {
            Some(aside) if aside.generation == generation => {
                aside.in_flight = count;
                true
            }
            _ => false,
        }
    }

    /// Open => Closing.
    pub(super) fn close_aside(&mut self, drain: Option<Duration>, for_lease: bool, now: Moment) {
        if let Some(Aside { state: state @ State::Open, .. }) = &mut self.aside {
            let cut_at = drain.map(|drain| now.saturating_add(drain));
            *state = State::Closing { cut_at, for_lease };
        }
    }

    /// One that closes by order has no longer than a lease gives it.
    pub(super) fn hasten_aside(&mut self, drain: Duration) {
        let at = self.seen.saturating_add(drain);
        if let Some(Aside { state: State::Closing { cut_at, .. }, .. }) = &mut self.aside {
            *cut_at = Some(cut_at.map_or(at, |before| before.min(at)));
        }
    }

    /// Closing for a lease that does not come, or is over => Open.
    pub(super) fn reopen_aside(&mut self) {
        let stays = self.ollama_stays(); // the budget may have shrunk meanwhile
        let cut_at = self.rules.swap_drain.map(|drain| self.seen.saturating_add(drain));
        if let Some(Aside { state, .. }) = &mut self.aside
            && matches!(state, State::Closing { for_lease: true, .. })
        {
            *state = if stays { State::Open } else { State::Closing { cut_at, for_lease: false } };
        }
    }

    /// Closing => Going, when nobody uses it any more; who does for too long is cut.
    pub(super) fn mind_aside(&mut self, now: Moment, out: &mut Vec<Effect>) {
        let Some(Aside { generation, in_flight, state }) = &mut self.aside else { return };
        let State::Closing { cut_at, .. } = state else { return };
        if *in_flight == 0 {
            out.push(Effect::Vacate(*generation));
            *state = State::Going;
        } else if cut_at.is_some_and(|at| at <= now) {
            *cut_at = None;
            out.push(Effect::Cut(*generation));
        }
    }

    /// Going => nothing; answers whether it was that.
    pub(super) fn aside_vacated(
        &mut self,
        generation: Generation,
        given: &Result<(), Cause>,
        out: &mut Vec<Effect>,
    ) -> bool {
        let going = |aside: &Aside| aside.generation == generation && aside.state == State::Going;
        if !self.aside.as_ref().is_some_and(going) {
            return false;
        }
        self.aside = None;
        if let Err(cause) = given {
            self.refuse_lease(Refusal::Failed(cause.clone()), out);
        }
        true
    }

    /// It is told again.
    pub(super) fn aside_forgot(&self, out: &mut Vec<Effect>) {
        if let Some(Aside { generation, state: State::Going, .. }) = &self.aside {
            out.push(Effect::Vacate(*generation));
        }
    }

    /// What an order to stop it would meet.
    pub(super) fn stopping_aside(&self) -> Stopping {
        match &self.aside {
            None => Stopping::Idle,
            Some(aside) if aside.in_flight == 0 => Stopping::Now(TenantId::Ollama),
            Some(aside) => Stopping::WaitsFor(TenantId::Ollama, aside.in_flight),
        }
    }

    /// It is stopped by hand.
    pub(super) fn stop_aside(&mut self, force: bool, now: Moment, out: &mut Vec<Effect>) {
        if self.aside.is_none() {
            return;
        }
        for ticket in self.waiters.take_of(&TenantId::Ollama) {
            out.push(Effect::Refuse(ticket, Refusal::Stopped));
        }
        self.close_aside(self.rules.swap_drain, false, now);
        if let Some(Aside { state: State::Closing { cut_at, .. }, .. }) = &mut self.aside
            && force
        {
            *cut_at = Some(now);
        }
    }

    /// When what still uses it is cut.
    pub(super) fn aside_cut_at(&self) -> Option<Moment> {
        match &self.aside {
            Some(Aside { in_flight: 1.., state: State::Closing { cut_at, .. }, .. }) => *cut_at,
            _ => None,
        }
    }
}
