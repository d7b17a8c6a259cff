//! The queue for the one GPU, and when it changes hands.
//!
//! Owns: who waits, what is resident, how many requests use it, and the decisions that follow:
//! grant, load, drain, stop. Must never do: grant for anything but what is resident, stop what is
//! in use (but after a bound, by force, or when it died), or answer a ticket twice.
//!
//! The rules, in order:
//! 1. Requests for the resident are granted at once, until the oldest of those who wait for another
//!    model has waited for its bound less what a swap takes, or somebody asked for it by hand. From
//!    then on the resident is *closing*: it only finishes what it has, and takes no one but those
//!    who were there before the one it closes for.
//! 2. A resident that nobody uses and nobody waits for gives way to whoever waits longest.
//! 3. When a model becomes ready, all who wait for it by then are granted before anything else: a
//!    swap serves at least the batch that caused it.
//! 4. A load that nobody waits for any more goes on, unless somebody waits for another model, or it
//!    was left alone for too long.
//! 5. What runs although its entry has changed serves on until nobody uses it; then it is started
//!    anew, or goes where its entry has gone.
//! 6. A model in a crash loop is refused at once, before anything is stopped for it; by hand it may
//!    be asked for all the same.
//!
//! What holds the GPU is learnt from the engine's reports, which are whole truths: until the first
//! one has come nothing is decided.

mod admission;
mod aside;
mod costs;
mod leases;
mod loading;
mod ollama;
mod outdated;
mod policy;
mod reports;
mod times;
mod turns;
mod types;
mod waiters;
mod why;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::lifecycle::Moment;
use crate::engine::{Broken, Held, Launch};
use crate::gpu::lease::Hold;
use crate::gpu::served::Served;
use crate::gpu::{Side, Tenant, TenantId};
use crate::ids::{Generation, ModelName, Ticket};

use aside::Aside;
use costs::Costs;
pub use outdated::Specs;
pub use types::{
    Clearing, Closing, ClosingCause, Effect, Event, Gpu, Keep, Reason, Refusal, Resident,
    SchedulerRules, Stopping, Stuck,
};
use waiters::Waiters;
pub use waiters::{Purpose, Waiter};
pub use why::{Because, Infeasible, Why};

/// A request that an engine refused or dropped before its first byte waits this long for news of
/// that engine before it is sent there again.
const SECOND_TRY: Duration = Duration::from_millis(250);

/// See the module.
#[derive(Debug, Clone)]
pub struct Scheduler {
    rules: SchedulerRules,
    gpu: Gpu,
    waiters: Waiters,
    /// The newest generation that was used.
    newest: Generation,
    /// The newest that the supervisor had heard of in its last report: an older report is late.
    heard: Generation,
    /// The newest that is known to have ended: news of it, or of older ones, are late.
    over: Generation,
    draining: bool,
    /// The moment of the last event.
    seen: Moment,
    /// What changes of hands take, and how often models are asked for.
    costs: Costs,
    /// The turns of clients.
    served: Served,
    /// Who else may have the GPU.
    hold: Hold,
    /// Who waits for the end of a lease.
    parked: Vec<Waiter>,
    /// What is to come back after a lease: its name, until somebody says what that means now.
    wanted_back: Option<ModelName>,
    /// And then this; why it comes back.
    restore: Option<(Arc<Launch>, Reason)>,
    /// How each model of the registry is started, once that is known.
    specs: Option<Arc<Specs>>,
    /// Who waited for the resident when it became ready.
    batch: Vec<Ticket>,
    /// How models are kept, where their entries say.
    keeps: Arc<HashMap<ModelName, Keep>>,
    /// Models in a crash loop, by the last report.
    broken: Vec<Broken>,
    /// Since when nobody waits for the model that loads.
    alone: Option<Moment>,
    /// The decision that the present change of hands follows.
    decided: Option<Decided>,
    /// Ollama has just said that it holds nothing: the start that asked for it may begin.
    vacant: bool,
    /// A vLLM that lives while Ollama has the GPU; it has been told to go.
    beside: Option<Held>,
    /// Ollama, where it may stay beside a vLLM.
    aside: Option<Aside>,
}

/// What the present change of hands is for.
#[derive(Debug, Clone, PartialEq)]
struct Decided {
    at: Moment,
    reason: Reason,
    from: Option<TenantId>,
    to: TenantId,
}

impl Scheduler {
    /// A scheduler that knows nothing yet; generations after `newest` are free to use.
    pub fn new(rules: SchedulerRules, newest: Generation) -> Self {
        Scheduler {
            rules,
            gpu: Gpu::Unknown,
            waiters: Waiters::default(),
            newest,
            heard: Generation(0),
            over: Generation(0),
            draining: false,
            seen: Moment::ZERO,
            costs: Costs::default(),
            served: Served::default(),
            hold: Hold::Free,
            parked: Vec::new(),
            wanted_back: None,
            restore: None,
            specs: None,
            batch: Vec::new(),
            keeps: Arc::default(),
            broken: Vec::new(),
            alone: None,
            decided: None,
            vacant: false,
            beside: None,
            aside: None,
        }
    }

    /// From now on requests may cause a load, or may not.
    pub fn start_on_request(&mut self, may: bool) {
        self.rules.start_on_request = may;
    }

    /// How models are kept when nobody uses them, where their entries say.
    pub fn keep(&mut self, keeps: Arc<HashMap<ModelName, Keep>>) {
        self.keeps = keeps;
    }

    fn keeps(&self, resident: &Resident) -> Keep {
        let usual = Keep { idle_unload: self.rules.idle_unload, pinned: false };
        let launch = resident.tenant.launch();
        let keep = launch.and_then(|launch| self.keeps.get(&launch.model)).copied();
        let keep = keep.unwrap_or(usual);
        if keep.pinned { Keep { idle_unload: None, ..keep } } else { keep }
    }

    /// What holds the GPU.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Who waits, the first in line first.
    pub fn waiting(&self) -> impl Iterator<Item = &Waiter> {
        self.waiters.iter().chain(self.parked())
    }

    /// What an order to stop, given now, would meet.
    pub fn stopping(&self, side: Side) -> Stopping {
        match &self.gpu {
            _ if side == Side::Ollama && self.ollama_stays() => self.stopping_aside(),
            _ if self.side() != Some(side) => Stopping::Idle,
            Gpu::Unknown | Gpu::Empty | Gpu::Stuck(_) => Stopping::Idle,
            Gpu::Loading(_, launch, _) => Stopping::Now(TenantId::from(&**launch)),
            Gpu::Clearing(clearing) => Stopping::Now(clearing.tenant.id()),
            Gpu::Resident(resident) if resident.in_flight == 0 => {
                Stopping::Now(resident.tenant.id())
            }
            Gpu::Resident(resident) => Stopping::WaitsFor(resident.tenant.id(), resident.in_flight),
        }
    }

    /// Whose tenant holds the GPU.
    fn side(&self) -> Option<Side> {
        match &self.gpu {
            Gpu::Unknown | Gpu::Empty => None,
            Gpu::Loading(..) | Gpu::Stuck(_) => Some(Side::Vllm),
            Gpu::Resident(resident) => Some(resident.tenant.side()),
            Gpu::Clearing(clearing) => Some(clearing.tenant.side()),
        }
    }

    /// Takes an event; answers what is to be done.
    pub fn on(&mut self, event: Event, now: Moment) -> Vec<Effect> {
        let mut out = Vec::new();
        self.seen = now;
        let in_use = matches!(&self.gpu, Gpu::Resident(resident) if resident.in_flight > 0);
        self.costs.pass(in_use, now);
        match event {
            Event::Admit(waiter) => self.admit(waiter, now, &mut out),
            Event::Abandon(ticket) => self.abandon(ticket),
            Event::InFlight(generation, count) => self.in_flight(generation, count, now),
            Event::Engine { report, in_flight, fresh } => {
                self.engine(report, in_flight, fresh, now, &mut out);
            }
            Event::OllamaInUse(generation, count) => self.ollama_in_use(generation, count, now),
            Event::Vacated(generation, given) => self.vacated(generation, given, now, &mut out),
            Event::OllamaForgot => self.ollama_forgot(&mut out),
            Event::Deactivate { side, force } => self.deactivate(side, force, now, &mut out),
            Event::Lease(ask) => self.ask_lease(ask, &mut out),
            Event::LeaseKept { lease, clearing } => self.keep_lease(lease, clearing),
            Event::Restore(launch) => self.restore(launch),
            Event::Drain => self.drain(&mut out),
            Event::Tick => {}
        }
        self.expire(now, &mut out);
        self.decide(now, &mut out);
        // Whose own load was given up for a lease may be late now.
        self.expire(now, &mut out);
        out
    }

    fn abandon(&mut self, ticket: Ticket) {
        self.waiters.remove(ticket);
        self.parked.retain(|waiter| waiter.ticket != ticket);
        self.withdraw_lease(ticket);
    }

    fn in_flight(&mut self, generation: Generation, count: usize, now: Moment) {
        if self.aside_uses(generation, count) {
            return;
        }
        match &mut self.gpu {
            Gpu::Resident(resident) if resident.generation == generation => {
                let worked = resident.uses(count, now);
                let id = resident.tenant.id();
                if worked {
                    self.costs.worked(&id, now);
                }
            }
            Gpu::Clearing(clearing) if clearing.generation == generation => {
                clearing.in_flight = count;
            }
            _ => {}
        }
    }

    fn deactivate(&mut self, side: Side, force: bool, now: Moment, out: &mut Vec<Effect>) {
        if side == Side::Ollama && self.ollama_stays() {
            return self.stop_aside(force, now, out);
        }
        if self.side() != Some(side) {
            return;
        }
        let id = match &self.gpu {
            Gpu::Loading(_, launch, _) => TenantId::from(&**launch),
            Gpu::Resident(resident) => resident.tenant.id(),
            _ => return,
        };
        for ticket in self.waiters.take_of(&id) {
            out.push(Effect::Refuse(ticket, Refusal::Stopped));
        }
        match &mut self.gpu {
            Gpu::Loading(generation, launch, _) => {
                let (generation, tenant) = (*generation, Tenant::Vllm(launch.clone()));
                self.decided = None;
                out.push(Effect::Unload { of: tenant.id(), reason: Reason::Manual });
                self.clear(generation, tenant, now, out);
            }
            Gpu::Resident(resident) => {
                // An order in peace gives no more time than there was.
                let cut_at = match resident.closing {
                    _ if force => Some(now),
                    Some(closing) => closing.cut_at,
                    None => self.rules.swap_drain.map(|drain| now.saturating_add(drain)),
                };
                resident.closing = Some(Closing { cause: ClosingCause::Order, cut_at });
            }
            _ => {}
        }
    }

    fn drain(&mut self, out: &mut Vec<Effect>) {
        self.draining = true;
        self.unpark();
        for ticket in self.waiters.take_all() {
            out.push(Effect::Refuse(ticket, Refusal::Draining));
        }
        self.refuse_lease(Refusal::Draining, out);
        (self.restore, self.wanted_back) = (None, None);
    }

    /// What follows from where things stand.
    fn decide(&mut self, now: Moment, out: &mut Vec<Effect>) {
        self.mind_aside(now, out);
        if self.mind_lease(now, out) {
            return;
        }
        if !self.rules.start_on_request {
            self.refuse_requests(out);
        }
        if !self.broken.is_empty() {
            self.refuse_broken(now, out);
        }
        self.refuse_strays(out);
        self.grant_aside(now, out);
        match &self.gpu {
            Gpu::Unknown => {}
            Gpu::Stuck(_) => self.refuse_stuck(out),
            Gpu::Empty => self.load_next(now, out),
            Gpu::Loading(..) => self.reconsider_load(now, out),
            Gpu::Resident(_) => self.serve(now, out),
            Gpu::Clearing(_) => self.cut_late(now, out),
        }
    }

    /// Nobody gets a turn until it is gone.
    fn refuse_stuck(&mut self, out: &mut Vec<Effect>) {
        let Gpu::Stuck(Stuck { cause, .. }) = &self.gpu else { return };
        for ticket in self.waiters.take_all() {
            out.push(Effect::Refuse(ticket, Refusal::Failed(cause.clone())));
        }
    }

    /// Requests of a dead engine that have not seen it by themselves.
    fn cut_late(&mut self, now: Moment, out: &mut Vec<Effect>) {
        let Gpu::Clearing(clearing) = &mut self.gpu else { return };
        if clearing.in_flight > 0 && clearing.cut_at.is_some_and(|at| at <= now) {
            clearing.cut_at = None;
            out.push(Effect::Cut(clearing.generation));
        }
    }

    /// Any => Clearing: it is told to go.
    fn clear(
        &mut self,
        generation: Generation,
        tenant: Tenant,
        now: Moment,
        out: &mut Vec<Effect>,
    ) {
        out.push(match &tenant {
            Tenant::Vllm(_) => Effect::Stop(generation),
            Tenant::Ollama => Effect::Vacate(generation),
        });
        self.gpu = Gpu::Clearing(Clearing {
            generation,
            tenant,
            since: now,
            in_flight: 0,
            cut_at: None,
            only_asked: false,
        });
    }
}

#[cfg(test)]
mod tests;
