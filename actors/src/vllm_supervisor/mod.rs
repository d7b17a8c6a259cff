//! `VllmSupervisor`: has the one vLLM process.
//!
//! Owns: the process and its tree, its state file, its log (core: `engine::Lifecycle`). Accepts: the
//! [`messages`] of its room; hears of the process's end through its pidfd. Emits: a report to the
//! arbiter at every change. Stops with the daemon, after its engine, or leaves that running.
//! Restarts: takes over the engine that the state file names, if that very process lives. Must never
//! do: decide, start beside something that lives, wait in a handler, or signal what is not ours.

mod adoption;
mod effects;
mod handlers;
mod health;
mod memory;
pub mod messages;
mod starting;
mod watching;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ActorFutureExt, AsyncContext, Context, SpawnHandle, WrapFuture};
use awc::Client;
use chat_proxy_core::engine::lifecycle::{
    Effect, Engine, Event, Goal, Lifecycle, LifecycleRules, State, Why,
};
use chat_proxy_core::engine::probing::ProbeRules;
use chat_proxy_core::engine::state_file::{Process, StateFile};
use chat_proxy_core::engine::{Cause, EngineReport, Phase};
use chat_proxy_core::ids::Generation;
use tokio::sync::oneshot;

use crate::clock;
use crate::events::{self, EventBus};
use crate::gpu_arbiter::messages::EngineChanged;
use crate::guard::Guard;
use crate::live::Live;
use crate::metrics::Metrics;
use crate::permits::Pulse;
use crate::port::Port;
use crate::process::tree::Tree;
use crate::registry::RegistryView;
use crate::templates::Templates;
use memory::Memory;
use messages::{Ended, SetGoal};
use watching::{Running, Shortening};

pub use adoption::survivors;

/// What is stuck is looked at again this often.
const STUCK_LOOK: Duration = Duration::from_secs(5);
/// The processes of a loading engine are listed this often.
const MEMBERS_LOOK: Duration = Duration::from_secs(2);

/// What may change while a supervisor runs.
#[derive(Debug, Clone)]
pub struct SupervisorBounds {
    /// The bounds of the ways down.
    pub rules: LifecycleRules,
    /// A loading engine that writes nothing for this long has failed; `None`: no limit.
    pub silence: Option<Duration>,
    /// How an engine that serves is probed.
    pub probes: ProbeRules,
    /// Logs of earlier starts that are kept.
    pub keep_logs: u32,
    /// A running engine's log is shortened when it is larger (bytes).
    pub max_log_bytes: u64,
}

/// What a supervisor is made from; the same for each that is built.
#[derive(Clone)]
pub struct SupervisorParts {
    /// Bounds.
    pub bounds: Live<SupervisorBounds>,
    /// The state file.
    pub state_path: PathBuf,
    /// The one port.
    pub port: u16,
    /// Whether an engine sent anything since the last look.
    pub pulse: Pulse,
    /// Who finds chat templates.
    pub templates: Templates,
    /// It is only there to end what an earlier daemon left: nothing is taken over.
    pub ends_all: bool,
    /// Variables of ours that hold secrets.
    pub secrets: BTreeSet<String>,
    /// Which engines are wanted, and whose keys are where.
    pub registry: RegistryView,
    /// Where reports go.
    pub arbiter: Port<EngineChanged>,
    /// Figures.
    pub metrics: Metrics,
    /// Where it is told what happens.
    pub events: Arc<EventBus>,
}

/// See the module.
pub struct VllmSupervisor {
    parts: SupervisorParts,
    core: Lifecycle,
    memory: Memory,
    client: Client,
    /// The last report that was sent.
    reported: Option<EngineReport>,
    /// How many of the core's restarts have been counted.
    restarts: u64,
    /// What is known of the living process beyond the core's data.
    running: Option<Running>,
    timer: Option<SpawnHandle>,
    probing: Option<SpawnHandle>,
    stuck_look: Option<SpawnHandle>,
    /// It takes the place of one that died.
    again: bool,
    /// What was left by others is known and dealt with.
    looked: bool,
    /// The state file, as it was found.
    found: Option<StateFile>,
    /// What was wanted before that: a few, for whoever wants waits for our first report.
    early: Vec<SetGoal>,
    /// Processes of engines that nobody knew of and that could not be ended.
    left_over: Vec<Process>,
    shortening: Shortening,
    /// Nothing is started any more.
    ending: bool,
    /// And the engine that runs is to be left alone.
    keeping: bool,
    /// Who waits for the end.
    shutting_down: Vec<oneshot::Sender<Ended>>,
    /// Who wants to know what an engine died of.
    asking: Vec<(Generation, oneshot::Sender<Option<Cause>>)>,
    _guard: Guard,
}

impl VllmSupervisor {
    /// A supervisor that has not looked around yet; `again`: it takes the place of one that died.
    pub fn new(parts: SupervisorParts, again: bool, guard: Guard) -> Self {
        VllmSupervisor {
            core: Lifecycle::new(parts.bounds.load().rules.clone()),
            memory: Memory::at(parts.state_path.clone()),
            client: Client::builder().disable_redirects().finish(),
            parts,
            reported: None,
            restarts: 0,
            running: None,
            timer: None,
            probing: None,
            stuck_look: None,
            again,
            looked: false,
            early: Vec::new(),
            found: None,
            left_over: Vec::new(),
            shortening: Shortening::Rests,
            ending: false,
            keeping: false,
            shutting_down: Vec::new(),
            asking: Vec::new(),
            _guard: guard,
        }
    }

    /// Takes an event through the core and carries out what follows, and what follows from that.
    fn apply(&mut self, event: Event, ctx: &mut Context<Self>) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let failed = self.core.last_error().map(str::to_owned);
            for effect in self.core.on(event, clock::now()) {
                events.extend(self.carry_out(effect, ctx));
            }
            if let Some(error) = self.core.last_error().filter(|e| Some(*e) != failed.as_deref()) {
                tracing::error!(error, "engine failed");
            }
        }
        self.settle(ctx);
    }

    /// After every event: report, timer, those who wait for the end.
    fn settle(&mut self, ctx: &mut Context<Self>) {
        let report = self.core.report();
        if self.reported.as_ref() != Some(&report) {
            self.send_report(report, false);
        }
        if let Some(timer) = self.timer.take() {
            ctx.cancel_future(timer);
        }
        if let Some(at) = self.core.next_tick() {
            self.timer = Some(ctx.run_later(clock::until(at), |supervisor, ctx| {
                supervisor.timer = None;
                supervisor.apply(Event::Tick, ctx);
            }));
        }
        self.look_at_what_is_stuck(ctx);
        self.answer_shutdown(ctx);
        self.answer_autopsies();
    }

    fn send_report(&mut self, report: EngineReport, fresh: bool) {
        let up = report.held.as_ref().is_some_and(|held| held.phase == Phase::Ready);
        self.parts.metrics.backend_up.with_label_values(&["vllm"]).set(i64::from(up));
        // A core that has just been made counts from zero; the figure goes on.
        let restarts = self.core.restarts();
        self.parts.metrics.backend_restarts.inc_by(restarts - self.restarts);
        self.restarts = restarts;
        self.tell_events(&report);
        self.reported = Some(report.clone());
        if let Err(error) = self.parts.arbiter.tell(EngineChanged { report, fresh }) {
            // Its successor asks for a report when it begins.
            tracing::debug!(%error, "the arbiter did not hear a report");
        }
    }

    /// Tells those who listen what has changed since the last report.
    fn tell_events(&self, report: &EngineReport) {
        let shown = |report: &EngineReport| {
            let held = report.held.as_ref();
            held.map(|held| (held.generation, held.launch.model.clone(), held.phase.as_str()))
        };
        let (was, is) = (self.reported.as_ref().and_then(shown), shown(report));
        if was == is {
            return;
        }
        let failed = matches!(is, Some((_, _, "backoff" | "failed" | "stuck")));
        let error = self.core.last_error().filter(|_| failed).map(str::to_owned);
        // What is gone without having failed is not in the report any more.
        let (model, state) = match (was, is) {
            (_, Some((_, model, state))) => (model, state),
            (Some((_, model, _)), None) => (model, "stopped"),
            (None, None) => return,
        };
        let model = model.to_string();
        self.parts.events.publish(&events::Event::Engine { model, state, error });
    }

    fn look_at_what_is_stuck(&mut self, ctx: &mut Context<Self>) {
        if let State::Stuck(engine, _) = self.core.state()
            && self.stuck_look.is_none()
        {
            let engine = engine.clone();
            self.stuck_look = Some(ctx.run_later(STUCK_LOOK, move |supervisor, ctx| {
                supervisor.stuck_look = None;
                supervisor.sweep(engine, ctx);
            }));
        }
    }

    fn answer_shutdown(&mut self, ctx: &mut Context<Self>) {
        if !self.looked {
            return;
        }
        let ended = match self.core.state() {
            State::Starting(engine, _) | State::Ready(engine, _) if self.keeping => {
                let kept = Ended::Kept(engine.launch.model.clone(), engine.process.pid);
                // From now on it is the next daemon's.
                self.stop_probing(ctx);
                kept
            }
            State::Stopped | State::Failed(..) => Ended::Clean,
            State::Stuck(_, cause) => Ended::Left(cause.to_string()),
            _ => return,
        };
        for waiting in self.shutting_down.drain(..) {
            // Who asked may have run out of patience.
            let _ = waiting.send(ended.clone());
        }
    }

    /// What an engine died of is told when it is known; to those who ask for another one, nothing.
    fn answer_autopsies(&mut self) {
        let (of, cause) = match self.core.state() {
            State::Spawning(generation, _) => (*generation, None),
            State::Starting(engine, _) | State::Ready(engine, _) => (engine.generation, None),
            State::Stopping(engine, _, Why::Failed(cause))
            | State::Sweeping(engine, Why::Failed(cause)) => (engine.generation, Some(cause)),
            State::Failed(generation, _, cause) => (*generation, Some(cause)),
            _ => return self.asking.clear(),
        };
        let answered = |(generation, _): &mut (Generation, _)| *generation != of || cause.is_some();
        for (generation, answer) in self.asking.extract_if(.., answered) {
            // Who asked has little patience.
            let _ = answer.send(cause.filter(|_| generation == of).cloned());
        }
    }

    /// The processes of an engine. Of one that had died before it was found, only the file tells.
    fn tree(&self, engine: &Engine) -> Tree {
        let of = engine.generation;
        let mut tree = match (&self.running, &self.found) {
            (Some(known), _) if known.generation == of => Tree {
                leader: engine.process,
                listed: known.members.clone(),
                marker: self.memory.marker(of),
                cgroup: known.cgroup.clone(),
            },
            (_, Some(state)) if state.generation == of => self.memory.tree(state),
            _ => Tree {
                leader: engine.process,
                listed: Vec::new(),
                marker: self.memory.marker(of),
                cgroup: None,
            },
        };
        tree.listed.extend(self.left_over.iter().copied());
        tree
    }

    /// Runs work beside the handlers; its outcome comes back as an event.
    fn later<F>(&mut self, work: F, ctx: &mut Context<Self>) -> SpawnHandle
    where
        F: Future<Output = Event> + 'static,
    {
        ctx.spawn(work.into_actor(self).map(|event, supervisor, ctx| supervisor.apply(event, ctx)))
    }

    fn take(&mut self, goal: SetGoal, ctx: &mut Context<Self>) {
        let goal = match goal {
            SetGoal::Pardon(model) => return self.apply(Event::Pardon(model), ctx),
            SetGoal::Run(_, launch) if self.ending => {
                tracing::debug!(model = %launch.model, "nothing is started any more");
                return;
            }
            SetGoal::Run(generation, launch) => Goal::Run(generation, launch),
            // Of a start before the one that is wanted now.
            SetGoal::Stop(generation) if self.core.wants_newer_than(generation) => return,
            // Their end is decided elsewhere.
            SetGoal::Stop(_) if self.keeping => return,
            SetGoal::Stop(_) => Goal::Down,
        };
        self.apply(Event::Goal(goal), ctx);
        // Said again even if nothing changed: the answer to an earlier goal may have been lost.
        let report = self.core.report();
        self.send_report(report, false);
    }

    /// Nothing is started any more; what runs is ended, or kept if it may be.
    fn end(&mut self, ctx: &mut Context<Self>) {
        if !self.looked {
            return;
        }
        let leave = self.keeping
            && matches!(
                self.core.state(),
                State::Spawning(..) | State::Starting(..) | State::Ready(..)
            );
        if leave {
            self.settle(ctx);
        } else {
            self.apply(Event::Goal(Goal::Down), ctx);
        }
    }

    fn carry_out(&mut self, effect: Effect, ctx: &mut Context<Self>) -> Option<Event> {
        match effect {
            Effect::CheckPort(generation, port) => self.check_port(generation, port, ctx),
            Effect::Spawn(generation, launch) => self.spawn(generation, launch, ctx),
            Effect::Watch(engine) => return self.watch(&engine, ctx),
            Effect::Settle(engine) => self.settle_ready(&engine, ctx),
            Effect::Terminate(engine) => self.terminate(&engine, ctx),
            Effect::Kill(engine) => self.kill(&engine, ctx),
            Effect::Sweep(engine) => self.sweep(engine, ctx),
            Effect::Forget(generation) => self.forget(generation),
        }
        None
    }
}

impl Actor for VllmSupervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.look_around(ctx);
    }
}

#[cfg(test)]
mod tests;
