//! `VllmSupervisor`: has the one vLLM process.
//!
//! Owns: the process and its group, its state file, its log (core: `engine::Lifecycle`). Accepts:
//! [`SetGoal`], [`Announce`], [`ShutDown`], [`Hurry`], [`GetEngine`]; hears of the process's end
//! through its pidfd. Emits: a report to the arbiter at every change. Stops with the daemon, after
//! its engine. Restarts: takes over the engine that the state file names, if that very process
//! lives. Must never do: decide, start beside something that lives, wait in a handler, or signal
//! what is not ours.

mod effects;
mod health;
mod log;
mod memory;
pub mod messages;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorFutureExt, AsyncContext, Context, Handler, ResponseActFuture, SpawnHandle,
    WrapFuture,
};
use awc::Client;
use chat_proxy_core::engine::lifecycle::{
    Effect, Engine, Event, Goal, Lifecycle, LifecycleRules, State,
};
use chat_proxy_core::engine::state_file::Process;
use chat_proxy_core::engine::{EngineReport, Phase};
use chat_proxy_core::ids::Generation;
use tokio::sync::oneshot;

use crate::clock;
use crate::gpu_arbiter::messages::EngineChanged;
use crate::guard::Guard;
use crate::metrics::Metrics;
use crate::port::Port;
use crate::process::Handle;
use crate::process::group::Group;
use crate::registry::RegistryView;
use memory::Memory;
use messages::{Announce, Ended, EngineStatus, GetEngine, Hurry, SetGoal, ShutDown};

/// What is stuck is looked at again this often.
const STUCK_LOOK: Duration = Duration::from_secs(5);

/// What a supervisor is made from; the same for each that is built.
#[derive(Clone)]
pub struct SupervisorParts {
    /// The bounds of the ways down.
    pub rules: LifecycleRules,
    /// The state file.
    pub state_path: PathBuf,
    /// The one port.
    pub port: u16,
    /// A loading engine that writes nothing for this long has failed; `None`: no limit.
    pub silence: Option<Duration>,
    /// Logs of earlier starts that are kept.
    pub keep_logs: u32,
    /// Variables of ours that hold secrets.
    pub secrets: BTreeSet<String>,
    /// Which engines are wanted, and whose keys are where.
    pub registry: RegistryView,
    /// Where reports go.
    pub arbiter: Port<EngineChanged>,
    /// Figures.
    pub metrics: Metrics,
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
    /// Nothing is started any more.
    ending: bool,
    /// Who waits for the end.
    shutting_down: Vec<oneshot::Sender<Ended>>,
    _guard: Guard,
}

/// See [`VllmSupervisor::running`].
#[derive(Debug, Clone)]
struct Running {
    generation: Generation,
    started_at: f64,
    members: Vec<Process>,
    handle: Arc<Handle>,
}

impl VllmSupervisor {
    /// A supervisor that has not looked around yet; `again`: it takes the place of one that died.
    pub fn new(parts: SupervisorParts, again: bool, guard: Guard) -> Self {
        VllmSupervisor {
            core: Lifecycle::new(parts.rules.clone()),
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
            ending: false,
            shutting_down: Vec::new(),
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
        self.answer_shutdown();
    }

    fn send_report(&mut self, report: EngineReport, fresh: bool) {
        let up = report.held.as_ref().is_some_and(|held| held.phase == Phase::Ready);
        self.parts.metrics.backend_up.with_label_values(&["vllm"]).set(i64::from(up));
        // A core that has just been made counts from zero; the figure goes on.
        let restarts = self.core.restarts();
        self.parts.metrics.backend_restarts.inc_by(restarts - self.restarts);
        self.restarts = restarts;
        self.reported = Some(report.clone());
        if let Err(error) = self.parts.arbiter.tell(EngineChanged { report, fresh }) {
            // Its successor asks for a report when it begins.
            tracing::debug!(%error, "the arbiter did not hear a report");
        }
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

    fn answer_shutdown(&mut self) {
        let ended = match self.core.state() {
            State::Stopped | State::Failed(..) => Ended::Clean,
            State::Stuck(_, cause) => Ended::Left(cause.to_string()),
            _ => return,
        };
        for waiting in self.shutting_down.drain(..) {
            // Who asked may have run out of patience.
            let _ = waiting.send(ended.clone());
        }
    }

    /// The processes of an engine.
    fn group(&self, engine: &Engine) -> Group {
        let running = self.running.as_ref().filter(|r| r.generation == engine.generation);
        Group {
            leader: engine.process,
            listed: running.map(|running| running.members.clone()).unwrap_or_default(),
            marker: self.memory.marker(engine.generation),
        }
    }

    /// Runs work beside the handlers; its outcome comes back as an event.
    fn later<F>(&mut self, work: F, ctx: &mut Context<Self>) -> SpawnHandle
    where
        F: Future<Output = Event> + 'static,
    {
        ctx.spawn(work.into_actor(self).map(|event, supervisor, ctx| supervisor.apply(event, ctx)))
    }

    fn carry_out(&mut self, effect: Effect, ctx: &mut Context<Self>) -> Option<Event> {
        match effect {
            Effect::CheckPort(generation, port) => self.check_port(generation, port, ctx),
            Effect::Spawn(generation, launch) => return Some(self.spawn(generation, &launch)),
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
        if let Some(found) = self.remembered() {
            self.apply(Event::Found(found), ctx);
        }
        let report = self.core.report();
        self.send_report(report, true);
    }
}

impl Handler<SetGoal> for VllmSupervisor {
    type Result = ();

    fn handle(&mut self, goal: SetGoal, ctx: &mut Self::Context) {
        let goal = match goal {
            SetGoal::Run(_, launch) if self.ending => {
                tracing::debug!(model = %launch.model, "nothing is started any more");
                return;
            }
            SetGoal::Run(generation, launch) => Goal::Run(generation, launch),
            SetGoal::Stop(_) => Goal::Down,
        };
        self.apply(Event::Goal(goal), ctx);
        // Said again even if nothing changed: the answer to an earlier goal may have been lost.
        let report = self.core.report();
        self.send_report(report, false);
    }
}

impl Handler<Announce> for VllmSupervisor {
    type Result = ();

    fn handle(&mut self, _: Announce, _: &mut Self::Context) {
        let report = self.core.report();
        self.send_report(report, false);
    }
}

impl Handler<ShutDown> for VllmSupervisor {
    type Result = ResponseActFuture<Self, Ended>;

    fn handle(&mut self, _: ShutDown, ctx: &mut Self::Context) -> Self::Result {
        let (answer, ended) = oneshot::channel();
        self.ending = true;
        self.shutting_down.push(answer);
        self.apply(Event::Goal(Goal::Down), ctx);
        // It must die with us: who asks then hears nothing, and asks our successor.
        let answer = async move {
            ended.await.unwrap_or_else(|_| Ended::Left("its supervisor died".to_owned()))
        };
        Box::pin(answer.into_actor(self))
    }
}

impl Handler<Hurry> for VllmSupervisor {
    type Result = ();

    fn handle(&mut self, _: Hurry, ctx: &mut Self::Context) {
        self.apply(Event::Hurry, ctx);
    }
}

impl Handler<GetEngine> for VllmSupervisor {
    type Result = EngineStatus;

    fn handle(&mut self, _: GetEngine, _: &mut Self::Context) -> EngineStatus {
        let report = self.core.report();
        let held = report.held.as_ref();
        let running = self.running.as_ref();
        EngineStatus {
            state: held.map_or("stopped", |held| held.phase.as_str()),
            model: held.map(|held| held.launch.model.to_string()),
            pid: running.map(|running| running.handle.process().pid),
            port: self.parts.port,
            since: running.map(|running| running.started_at),
            restarts: self.core.restarts(),
            last_error: self.core.last_error().map(str::to_owned),
            log: held.map(|held| held.launch.log.display().to_string()),
        }
    }
}

#[cfg(test)]
mod tests;
