//! `GpuArbiter`: says who may use the GPU.
//!
//! Owns: the queue and the resident (core: `gpu::Scheduler`), and the replies of those who wait.
//! Accepts: its [`messages`]; hears of permits that come back. Emits: goals to the `VllmSupervisor`,
//! orders to vacate to the `OllamaActor`, permits, orders to cut. Stops with the daemon. Restarts: what
//! holds the GPU is learnt from the supervisor's report and the ledger; those who waited ask again. Must never do: decide, wait for
//! another actor, or keep a count that a permit's drop does not keep right.

mod handlers;
mod leasing;
pub mod messages;
pub mod stories;
mod telling;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use actix::{Actor, AsyncContext, Context, SpawnHandle, WrapFuture};
use chat_proxy_core::gpu::scheduler::{
    Effect, Event, Gpu, Infeasible, Keep, Purpose, Reason, Scheduler, SchedulerRules, Specs,
    Waiter, Why,
};
use chat_proxy_core::gpu::{Tenant, TenantId};
use chat_proxy_core::ids::{Generation, Ticket};
use chat_proxy_core::registry::listing::EngineActivity;
use chat_proxy_core::registry::{Keeping, Placement, Snapshot};
use tokio::sync::oneshot;

use crate::autostart::Switch;
use crate::clock;
use crate::events::EventBus;
use crate::guard::Guard;
use crate::lease::LeaseShelf;
use crate::live::Live;
use crate::metrics::Metrics;
use crate::ollama::messages::Vacate;
use crate::permits::PermitLedger;
use crate::port::Port;
use crate::registry::{RegistryView, ShowActivity};
use crate::vllm_supervisor::messages::{Announce, SetGoal};
use leasing::LeaseWait;
use messages::{BrokenBound, Outcome, Progress, Queued, Status, WaitStage};
use stories::{Stories, millis};
use telling::Told;

/// What an arbiter is made from; the same for each that is built.
#[derive(Clone)]
pub struct ArbiterParts {
    /// Bounds.
    pub rules: Live<SchedulerRules>,
    /// Outlives the arbiter.
    pub ledger: Arc<PermitLedger>,
    /// Where goals go.
    pub goals: Port<SetGoal>,
    /// Where the engine's report is asked for.
    pub announce: Port<Announce>,
    /// Whether requests start anything, as it is now.
    pub starts: Switch,
    /// Who has Ollama unload what it has loaded.
    pub vacate: Port<Vacate>,
    /// Ends the requests that use one start of an engine, on every thread.
    pub cut: Arc<dyn Fn(Generation) + Send + Sync>,
    /// Who shows what is active.
    pub show: Port<ShowActivity>,
    /// Who holds the GPU instead of us.
    pub leases: Arc<LeaseShelf>,
    /// What entries say of how their models are kept.
    pub registry: RegistryView,
    /// Figures.
    pub metrics: Metrics,
    /// Where it is told what happens.
    pub events: Arc<EventBus>,
}

/// See the module.
pub struct GpuArbiter {
    core: Scheduler,
    parts: ArbiterParts,
    waiting: HashMap<Ticket, Waiting>,
    lease_waits: HashMap<Ticket, LeaseWait>,
    stories: Stories,
    told: Told,
    timer: Option<SpawnHandle>,
    /// The registry that the scheduler's keeps are from.
    keeps_of: Option<Arc<Snapshot>>,
    /// What was last said to be active.
    shown: Option<EngineActivity>,
    _guard: Guard,
}

/// How each model of the registry is started.
fn specs(snapshot: &Snapshot) -> Specs {
    let placed = (0..snapshot.entries().len()).map(|at| snapshot.placement(at));
    let launches = placed.filter_map(|placement| match placement {
        Placement::SinglePort(launch) => Some((launch.model.clone(), launch.clone())),
        Placement::Ollama(_) | Placement::External(_) => None,
    });
    launches.collect()
}

/// Somebody whose turn has not come.
struct Waiting {
    model: String,
    request_id: Arc<str>,
    reply: oneshot::Sender<Outcome>,
    progress: Option<Arc<Progress>>,
}

impl GpuArbiter {
    /// An arbiter that knows nothing yet.
    pub fn new(parts: ArbiterParts, guard: Guard) -> Self {
        let core =
            Scheduler::new(SchedulerRules::clone(&parts.rules.load()), parts.ledger.newest());
        GpuArbiter {
            core,
            parts,
            waiting: HashMap::new(),
            lease_waits: HashMap::new(),
            stories: Stories::default(),
            told: Told::default(),
            timer: None,
            keeps_of: None,
            shown: None,
            _guard: guard,
        }
    }

    fn apply(&mut self, event: Event, ctx: &mut Context<Self>) {
        self.core.start_on_request(self.parts.starts.is_on());
        self.read_keeps();
        let effects = self.core.on(event, clock::now());
        self.follow(effects, ctx);
    }

    /// How models are kept and started, after the registry has changed.
    fn read_keeps(&mut self) {
        let view = self.parts.registry.load();
        if self.keeps_of.as_ref().is_some_and(|known| Arc::ptr_eq(known, &view.snapshot)) {
            return;
        }
        let usual = self.parts.rules.load().idle_unload;
        let says = view.snapshot.entries().iter();
        let says = says.filter(|entry| entry.keeping != Keeping::default());
        let keeps = says.map(|entry| {
            let Keeping { idle_unload, pinned } = entry.keeping;
            let idle_unload = idle_unload.map_or(usual, |time| Some(time).filter(|t| !t.is_zero()));
            (entry.name.as_str().into(), Keep { idle_unload, pinned })
        });
        self.core.keep(Arc::new(keeps.collect()));
        if view.loaded {
            self.core.specs(Arc::new(specs(&view.snapshot)));
        }
        self.keeps_of = Some(view.snapshot.clone());
    }

    fn follow(&mut self, effects: Vec<Effect>, ctx: &mut Context<Self>) {
        for effect in effects {
            self.carry_out(effect, ctx);
        }
        let waiting = i64::try_from(self.waiting.len()).unwrap_or(i64::MAX);
        self.parts.metrics.waiting_for_gpu.store(waiting, Ordering::Relaxed);
        self.tell_waiting();
        self.tell_events(ctx);
        self.show();
        self.arm(ctx);
    }

    /// Tells the registry's list which model is active, when that has changed.
    fn show(&mut self) {
        let (state, holder) = self.holder();
        let activity = match holder {
            Some(TenantId::Model(model)) => {
                Some(EngineActivity { model: model.to_string(), state })
            }
            Some(TenantId::Ollama) | None => None,
        };
        // A registry's reader that is being rebuilt hears of the next change.
        if activity != self.shown && self.parts.show.tell(ShowActivity(activity.clone())).is_ok() {
            self.shown = activity;
        }
    }

    /// What holds the GPU, and the word for how far it has come.
    fn holder(&self) -> (&'static str, Option<TenantId>) {
        match self.core.gpu() {
            Gpu::Unknown => ("unknown", None),
            Gpu::Empty => ("empty", None),
            Gpu::Stuck(_) => ("stuck", None),
            Gpu::Loading(_, launch, _) => ("loading", Some(TenantId::from(&**launch))),
            // For those outside it begins with this question.
            Gpu::Clearing(clearing) if clearing.only_asked => {
                let next = self.core.waiting().next().map(|waiter| waiter.tenant.id());
                (if next.is_some() { "loading" } else { "empty" }, next)
            }
            Gpu::Clearing(clearing) => ("stopping", Some(clearing.tenant.id())),
            Gpu::Resident(resident) if resident.closing.is_some() => {
                ("draining", Some(resident.tenant.id()))
            }
            Gpu::Resident(resident) => ("ready", Some(resident.tenant.id())),
        }
    }

    fn carry_out(&mut self, effect: Effect, ctx: &mut Context<Self>) {
        match effect {
            Effect::Grant { ticket, generation, tenant, queued, loading } => {
                let permit = self.parts.ledger.grant(generation, tenant, queued, loading);
                self.answer(ticket, "served", |_| Outcome::Granted(permit));
            }
            Effect::Activated(ticket) => self.answer(ticket, "served", |_| Outcome::Activated),
            Effect::Refuse(ticket, refusal) => {
                self.answer(ticket, "refused", |model| Outcome::Refused(refusal.error(model)));
            }
            Effect::Pardon(model) => self.tell(SetGoal::Pardon(model)),
            Effect::Run(generation, launch) => {
                self.parts.ledger.used(generation);
                let request_id = self.first_for(&TenantId::Model(launch.model.clone()));
                tracing::info!(%generation, model = %launch.model, request_id, "engine ordered");
                self.tell(SetGoal::Run(generation, launch));
            }
            Effect::Stop(generation) => self.tell(SetGoal::Stop(generation)),
            Effect::Open(generation) => self.parts.ledger.used(generation),
            Effect::Vacate(generation) => {
                self.parts.ledger.used(generation);
                // One that is being rebuilt says so when it begins, and is told again.
                let _ = self.parts.vacate.tell(Vacate(generation));
            }
            Effect::Cut(generation) => {
                tracing::warn!(%generation, "cutting requests that did not end in time");
                (self.parts.cut)(generation);
            }
            Effect::Lease(effect) => self.lease_effect(effect, ctx),
            Effect::SwapBegan { from, to, reason, because } => {
                let from = from.as_ref().map(ToString::to_string);
                let request_id = self.first_for(&to).map(str::to_owned);
                let (to, because) = (Some(to.to_string()), because.to_string());
                self.swap_begins(from, to, reason, because, request_id);
            }
            Effect::Unload { of, reason } => {
                let because = match reason {
                    Reason::Idle => "nobody had used it for its idle_unload_s",
                    Reason::Manual => "somebody ordered it by hand",
                    Reason::Lease | Reason::Request => "somebody leases the GPU",
                    Reason::Changed => "its entry has changed, and nobody used it",
                    Reason::Removed => "its entry has gone, and nobody used it",
                };
                let because = because.to_owned();
                self.swap_begins(Some(of.to_string()), None, reason, because, None);
            }
            Effect::SwapDone { to, reason, took } => self.swap_done(&to, reason, took),
        }
    }

    /// A supervisor that is not there is being rebuilt, and its first report makes us repeat this.
    fn tell(&self, goal: SetGoal) {
        if let Err(error) = self.parts.goals.tell(goal) {
            tracing::warn!(%error, "the supervisor did not hear a goal");
        }
    }

    /// A waiter who has gone drops what he gets: a permit counts itself back.
    fn answer(&mut self, ticket: Ticket, end: &'static str, outcome: impl FnOnce(&str) -> Outcome) {
        if let Some(waiting) = self.waiting.remove(&ticket) {
            self.stories.ended(&waiting.request_id, end, clock::now());
            let _ = waiting.reply.send(outcome(&waiting.model));
        }
    }

    /// The id of the request that a model comes for; `None`: it was ordered by hand or ahead.
    fn first_for(&self, tenant: &TenantId) -> Option<&str> {
        let mut waiting = self.core.waiting().filter(|waiter| waiter.tenant.id() == *tenant);
        let ticket = waiting.next()?.ticket;
        self.waiting.get(&ticket).map(|waiting| &*waiting.request_id)
    }

    /// Position and state, for heartbeats.
    fn tell_waiting(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let now = clock::now();
        for (position, waiter) in (1..).zip(self.core.waiting()) {
            let Some(waiting) = self.waiting.get(&waiter.ticket) else { continue };
            let Some(why) = self.core.why(waiter.ticket, now) else { continue };
            if let Some(progress) = &waiting.progress {
                progress.set(position, stage_of(&why));
            }
            let tell = || (waiting.model.clone(), waiter.who.class.as_str(), waiter.arrived);
            self.stories.waits(&waiting.request_id, tell, why, now);
        }
    }

    fn arm(&mut self, ctx: &mut Context<Self>) {
        if let Some(timer) = self.timer.take() {
            ctx.cancel_future(timer);
        }
        if let Some(at) = self.core.next_tick() {
            self.timer = Some(ctx.run_later(clock::until(at), |arbiter, ctx| {
                arbiter.timer = None;
                arbiter.apply(Event::Tick, ctx);
            }));
        }
    }

    /// The generation whose permits matter now.
    fn current(&self) -> Option<Generation> {
        match self.core.gpu() {
            Gpu::Unknown | Gpu::Empty | Gpu::Stuck(_) => None,
            Gpu::Loading(generation, ..) => Some(*generation),
            Gpu::Resident(resident) => Some(resident.generation),
            Gpu::Clearing(clearing) => Some(clearing.generation),
        }
    }

    fn status(&self) -> Status {
        let (state, holder) = self.holder();
        let in_flight = self.current().map_or(0, |current| self.parts.ledger.in_flight(current));
        let now = clock::now();
        let queued = |waiter: &Waiter| Queued {
            model: waiter.tenant.id().to_string(),
            ollama: waiter.tenant == Tenant::Ollama,
            purpose: match waiter.purpose {
                Purpose::Request => "request",
                Purpose::Activate => "activate",
            },
            class: waiter.who.class.as_str(),
            request_id: self.waiting.get(&waiter.ticket).map(|w| w.request_id.clone()),
            waiting_ms: millis(now.saturating_sub(waiter.arrived)),
            waits_for: self.core.why(waiter.ticket, now).map(|why| why.tell(now)),
            due_in_ms: self.core.deadline(waiter.ticket).map(|at| millis(at.saturating_sub(now))),
        };
        let broken = |bound: Infeasible| BrokenBound {
            model: bound.to.to_string(),
            class: bound.class.as_str(),
            bound_s: bound.bound.as_secs_f64(),
            change_takes_s: bound.takes.as_secs_f64(),
        };
        Status {
            state,
            ollama: holder == Some(TenantId::Ollama),
            model: holder.map(|holder| holder.to_string()),
            in_flight,
            queue: self.core.waiting().map(queued).collect(),
            budget: self.core.residents(),
            infeasible: self.core.infeasible().into_iter().map(broken).collect(),
            swaps: self.stories.swaps(),
        }
    }
}

/// What refusals call it.
fn told_name(tenant: &Tenant) -> String {
    match tenant {
        Tenant::Vllm(launch) => launch.model.to_string(),
        Tenant::Ollama => "Ollama".to_owned(),
    }
}

fn stage_of(why: &Why) -> WaitStage {
    match why {
        Why::Loading => WaitStage::Loading,
        Why::Draining(..) | Why::Busy(..) => WaitStage::Draining,
        Why::Leaving(_) => WaitStage::Stopping,
        Why::Leased(_) => WaitStage::Leased,
        _ => WaitStage::Queued,
    }
}

/// A permit came back.
#[derive(actix::Message)]
#[rtype(result = "()")]
struct LedgerChanged;

impl Actor for GpuArbiter {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let (ledger, me) = (self.parts.ledger.clone(), ctx.address());
        let listening = async move {
            loop {
                ledger.changed().await;
                me.do_send(LedgerChanged);
            }
        };
        ctx.spawn(listening.into_actor(self));
        if let Some((generation, count)) = self.parts.ledger.at_ollama() {
            self.apply(Event::OllamaInUse(generation, count), ctx);
        }
        self.take_up_lease(ctx);
        if self.parts.ledger.is_draining() {
            self.apply(Event::Drain, ctx);
        }
        // A supervisor that is not there yet reports by itself when it begins.
        let _ = self.parts.announce.tell(Announce);
    }
}

#[cfg(test)]
mod tests;
