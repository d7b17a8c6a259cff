//! A living engine: its end is heard, its health looked at, its members listed, its log kept short.
//!
//! Owns: what is known of the running process, and writing it down. Must never do: decide what any
//! of it means; that is told to the core.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use chat_proxy_core::engine::lifecycle::{Engine, Event, Exit, State, Unhealthy};
use chat_proxy_core::engine::probing::{Probe, Probing, Verdict};
use chat_proxy_core::engine::state_file::{Phase, Process, StateFile};
use chat_proxy_core::ids::Generation;

use super::{MEMBERS_LOOK, VllmSupervisor, health, memory};
use crate::clock;
use crate::process::cgroup::Cgroup;
use crate::process::tree::Look;
use crate::process::{Handle, identity};
use crate::program_log as log;

impl VllmSupervisor {
    /// Remembers the engine, hears of its end, and asks whether it is ready.
    pub(super) fn watch(&mut self, engine: &Engine, ctx: &mut Context<Self>) -> Option<Event> {
        let generation = engine.generation;
        if self.running.as_ref().is_none_or(|running| running.generation != generation) {
            // Not one that was just made: one that was found.
            match Handle::open(engine.process) {
                Ok(Some(handle)) => self.running = Some(self.known(engine, Arc::new(handle))),
                Ok(None) => return Some(gone(engine, "it ended before it could be watched")),
                Err(error) => {
                    tracing::error!(%error, pid = engine.process.pid, "an engine cannot be watched");
                    return Some(gone(engine, "it cannot be watched, so it is ended"));
                }
            }
        }
        self.remember(engine, Phase::Starting);
        self.hear_of_its_end(engine, ctx);
        self.look_for_readiness(engine, ctx);
        self.keep_house(engine, ctx);
        None
    }

    /// What is known of an engine that was found.
    fn known(&self, engine: &Engine, handle: Arc<Handle>) -> Running {
        let tree = self.tree(engine);
        let age = clock::now().saturating_sub(engine.spawned).as_secs_f64();
        Running {
            generation: engine.generation,
            started_at: clock::unix_seconds() - age,
            members: tree.listed,
            cgroup: tree.cgroup,
            handle,
        }
    }

    fn hear_of_its_end(&mut self, engine: &Engine, ctx: &mut Context<Self>) {
        let Some(running) = &self.running else { return };
        let handle = running.handle.clone();
        let (generation, path) = (engine.generation, engine.launch.log.clone());
        let work = async move {
            if let Err(error) = handle.ended().await {
                tracing::error!(%error, "the end of an engine cannot be heard");
            }
            let status =
                handle.status().unwrap_or_else(|| "how is not known: it is not our child".into());
            let killed = status.starts_with("signal");
            let why = tokio::task::spawn_blocking(move || log::why(&path, killed));
            let telling = why.await.ok().flatten();
            Event::Exited(generation, Exit { status, telling })
        };
        self.later(work, ctx);
    }

    fn look_for_readiness(&mut self, engine: &Engine, ctx: &mut Context<Self>) {
        let generation = engine.generation;
        let (client, launch) = (self.client.clone(), engine.launch.clone());
        let (tree, silence) = (self.tree(engine), self.parts.bounds.load().silence);
        let work = async move {
            match health::until_ready(client, launch, tree, silence).await {
                health::Verdict::Healthy => Event::Healthy(generation),
                health::Verdict::Silent(after) => Event::Silent(generation, after),
            }
        };
        self.probing = Some(self.later(work, ctx));
    }

    pub(super) fn settle_ready(&mut self, engine: &Engine, ctx: &mut Context<Self>) {
        let took = clock::now().saturating_sub(engine.spawned);
        let (model, generation) = (&engine.launch.model, engine.generation);
        tracing::info!(%model, %generation, ?took, "engine ready");
        self.remember(engine, Phase::Ready);
        self.list_members(engine, Look::Whole, ctx);
        self.parts.pulse.take();
        self.probe_later(
            engine.clone(),
            Probing::default(),
            self.parts.bounds.load().probes.interval,
            ctx,
        );
    }

    /// The next health probe of an engine that serves, and those after it.
    fn probe_later(
        &mut self,
        engine: Engine,
        mut probing: Probing,
        pause: Duration,
        ctx: &mut Context<Self>,
    ) {
        let (client, launch) = (self.client.clone(), engine.launch.clone());
        let limit = self.parts.bounds.load().probes.timeout;
        let probe = async move {
            tokio::time::sleep(pause).await;
            health::probe(&client, &launch, limit).await
        };
        let taken = probe.into_actor(self).map(move |probe, supervisor, ctx| {
            let moved = supervisor.parts.pulse.take();
            match probing.take(&probe, moved, &supervisor.parts.bounds.load().probes) {
                Verdict::Again(pause) => {
                    tell_of(&engine, &probe);
                    supervisor.keep_house_once(&engine, ctx);
                    supervisor.probe_later(engine, probing, pause, ctx);
                }
                Verdict::Dead(what) => supervisor.is_dead(&engine, what, ctx),
            }
        });
        self.probing = Some(ctx.spawn(taken));
    }

    fn is_dead(&mut self, engine: &Engine, what: String, ctx: &mut Context<Self>) {
        let (generation, path) = (engine.generation, engine.launch.log.clone());
        let work = async move {
            // It has not ended: only what tells of a failure is of interest.
            let why = tokio::task::spawn_blocking(move || log::why(&path, true));
            let telling = why.await.ok().flatten();
            Event::Unhealthy(generation, Unhealthy { what, telling })
        };
        self.probing = Some(self.later(work, ctx));
    }

    pub(super) fn stop_probing(&mut self, ctx: &mut Context<Self>) {
        if let Some(probing) = self.probing.take() {
            ctx.cancel_future(probing);
        }
    }

    /// While it loads it gets more and more processes, and may write much.
    fn keep_house(&mut self, engine: &Engine, ctx: &mut Context<Self>) {
        self.keep_house_once(engine, ctx);
        let engine = engine.clone();
        ctx.run_later(MEMBERS_LOOK, move |supervisor, ctx| {
            if matches!(supervisor.core.state(), State::Starting(now, _) if now.generation == engine.generation) {
                supervisor.keep_house(&engine, ctx);
            }
        });
    }

    fn keep_house_once(&mut self, engine: &Engine, ctx: &mut Context<Self>) {
        self.list_members(engine, Look::Light, ctx);
        if self.shortening == Shortening::Runs {
            return;
        }
        let told = self.shortening == Shortening::Failed;
        self.shortening = Shortening::Runs;
        let (path, keep) = (engine.launch.log.clone(), self.parts.bounds.load().keep_logs);
        let limit = self.parts.bounds.load().max_log_bytes;
        let shown = path.display().to_string();
        let work = tokio::task::spawn_blocking(move || log::shorten(&path, limit, keep));
        ctx.spawn(work.into_actor(self).map(move |done, supervisor, _| {
            supervisor.shortening = match done.map_err(io::Error::other).flatten() {
                Ok(done) => {
                    if let Some(done) = done {
                        tracing::info!(path = shown, ?done, "an engine's log was shortened");
                    }
                    Shortening::Rests
                }
                Err(error) => {
                    // A full disk stays full for a while: it is said once.
                    if !told {
                        tracing::error!(path = shown, %error, "an engine's log cannot be shortened");
                    }
                    Shortening::Failed
                }
            };
        }));
    }

    /// Who belongs to the engine is remembered, for later its leader may be gone and its processes
    /// have other names.
    fn list_members(&mut self, engine: &Engine, look: Look, ctx: &mut Context<Self>) {
        let (tree, engine) = (self.tree(engine), engine.clone());
        let work = async move { tree.look_soon(look).await };
        ctx.spawn(work.into_actor(self).map(move |members, supervisor, _| {
            let phase = match supervisor.core.state() {
                State::Starting(now, _) if now.generation == engine.generation => Phase::Starting,
                State::Ready(now, _) if now.generation == engine.generation => Phase::Ready,
                _ => return,
            };
            let Some(running) = &mut supervisor.running else { return };
            if running.members != members {
                running.members = members;
                supervisor.remember(&engine, phase);
            }
        }));
    }

    /// Writes down what is known of the running engine.
    pub(super) fn remember(&self, engine: &Engine, phase: Phase) {
        let Some(running) = &self.running else { return };
        let launch = &engine.launch;
        let state = StateFile {
            logical_name: launch.model.clone(),
            served_model_id: launch.served_id.clone(),
            port: launch.port,
            pid: engine.process.pid,
            started_at: running.started_at,
            generation: engine.generation,
            phase,
            boot_id: identity::boot_id().unwrap_or_default(),
            start_time: engine.process.start_time,
            process_group: engine.process.pid,
            spec_hash: memory::spec_hash(launch),
            log_path: launch.log.display().to_string(),
            members: running.members.clone(),
            cgroup: running.cgroup.as_ref().map(|group| group.path().display().to_string()),
        };
        if let Err(error) = self.memory.write(&state) {
            let path = self.memory.path().display().to_string();
            tracing::error!(path, %error, "the state file cannot be written: a daemon that comes later will know this engine by its marker alone, and end it");
        }
    }
}

fn tell_of(engine: &Engine, probe: &Probe) {
    if *probe != Probe::Well {
        tracing::warn!(model = %engine.launch.model, ?probe, "a health probe did not go well");
    }
}

fn gone(engine: &Engine, status: &str) -> Event {
    let exit = Exit { status: status.to_owned(), telling: log::why(&engine.launch.log, false) };
    Event::Exited(engine.generation, exit)
}

/// Whether the engine's log is just being shortened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shortening {
    Rests,
    Runs,
    /// It could not be, the last time.
    Failed,
}

/// What is known of the living process beyond the core's data.
#[derive(Debug, Clone)]
pub(super) struct Running {
    pub(super) generation: Generation,
    pub(super) started_at: f64,
    pub(super) members: Vec<Process>,
    pub(super) cgroup: Option<Cgroup>,
    pub(super) handle: Arc<Handle>,
}
