//! What the supervisor does to the world: each effect of the core, in one function.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use chat_proxy_core::engine::lifecycle::{Engine, Event, Exit, Found, State, Why};
use chat_proxy_core::engine::state_file::{Phase, Process, StateFile};
use chat_proxy_core::engine::{Launch, environment};
use chat_proxy_core::ids::Generation;
use chat_proxy_core::registry::Placement;

use super::{Running, VllmSupervisor, health, log, memory};
use crate::clock;
use crate::process::{Handle, Spawning, identity, port, spawn};

/// The port of an engine that has just gone, or of one that loads elsewhere, becomes free within
/// this, or somebody is named.
const PORT_PATIENCE: Duration = Duration::from_secs(3);
/// The processes of a loading engine are listed this often.
const MEMBERS_LOOK: Duration = Duration::from_secs(2);
/// After an ordinary stop the rest of the group may end by itself for this long.
const TIDY_GRACE: Duration = Duration::from_secs(2);
/// What SIGKILL does not end within this is stuck.
const SWEEP_PATIENCE: Duration = Duration::from_secs(10);

impl VllmSupervisor {
    /// What the state file says of an engine, held against what lives. The file is small and read
    /// once, before anything else is done.
    pub(super) fn remembered(&self) -> Option<Found> {
        let path = self.memory.path().display().to_string();
        let state = match self.memory.read() {
            Ok(state) => state?,
            Err(error) => {
                tracing::error!(path, %error, "the state file cannot be understood and is ignored");
                return None;
            }
        };
        if identity::boot_id().ok().as_deref() != Some(&state.boot_id) {
            tracing::info!(path, "the state file is of an earlier boot and is removed");
            if let Err(error) = self.memory.forget() {
                tracing::error!(path, %error, "the state file cannot be removed");
            }
            return None;
        }
        let alive = identity::is_alive(state.leader());
        let wanted = self.wanted(&state);
        tracing::info!(model = %state.logical_name, pid = state.pid, alive, wanted = wanted.is_some(),
            "found an engine of ours");
        let age = Duration::try_from_secs_f64(clock::unix_seconds() - state.started_at);
        let engine = Engine {
            generation: state.generation,
            launch: wanted.clone().unwrap_or_else(|| Arc::new(Launch::remembered(&state))),
            process: state.leader(),
            spawned: clock::now().saturating_sub(age.unwrap_or_default()),
        };
        let was_ready = state.phase == Phase::Ready;
        // An actor that takes another one's place keeps what that had running, with its requests in
        // flight; a daemon keeps what the registry still wants.
        let wanted = (wanted.is_some() || self.again) && state.phase != Phase::Stopping;
        Some(Found { engine, alive, wanted, was_ready })
    }

    /// The registry's launch, if it is still the one that was started.
    fn wanted(&self, state: &StateFile) -> Option<Arc<Launch>> {
        let view = self.parts.registry.load();
        match view.snapshot.resolve(state.logical_name.as_str()).ok()?.1 {
            Placement::SinglePort(launch) if memory::spec_hash(launch) == state.spec_hash => {
                Some(launch.clone())
            }
            _ => None,
        }
    }

    pub(super) fn check_port(
        &mut self,
        generation: Generation,
        number: u16,
        ctx: &mut Context<Self>,
    ) {
        let work = async move {
            match port::wait_free(number, PORT_PATIENCE).await {
                Ok(()) => Event::PortFree(generation),
                Err(by) => Event::PortTaken(generation, by),
            }
        };
        self.later(work, ctx);
    }

    pub(super) fn spawn(&self, generation: Generation, launch: &Launch) -> Event {
        match self.try_spawn(generation, launch) {
            Ok(process) => {
                tracing::info!(model = %launch.model, pid = process.pid, %generation, "engine started");
                Event::Spawned(generation, process)
            }
            Err(error) => Event::NotSpawned(generation, error.to_string()),
        }
    }

    fn try_spawn(&self, generation: Generation, launch: &Launch) -> io::Result<Process> {
        let command = match &launch.command {
            Some(command) => command.clone(),
            None => found_command()?,
        };
        // Found from here, but opened by the engine, whose directory may be another one.
        let template = launch.templates.iter().find(|path| path.is_file());
        let template = template.map(std::path::absolute).transpose()?;
        let line = launch.command_line(&command, template.as_deref());
        let environment = environment::of_engine(
            std::env::vars_os(),
            &self.secrets(),
            &launch.environment,
            self.memory.marker(generation),
        );
        let log = log::open(&launch.log, self.parts.keep_logs).map_err(|error| {
            io::Error::new(error.kind(), format!("its log {}: {error}", launch.log.display()))
        })?;
        let cwd = launch.cwd.as_deref();
        spawn(Spawning { line: &line, environment: &environment, cwd, log })
    }

    /// Variables that engines must not see: ours, and every backend's key.
    fn secrets(&self) -> BTreeSet<String> {
        let view = self.parts.registry.load();
        let keys =
            view.snapshot.entries().iter().filter_map(|e| e.backend_config.api_key_env.clone());
        self.parts.secrets.iter().cloned().chain(keys).collect()
    }

    /// Remembers the engine, hears of its end, and asks whether it is ready.
    pub(super) fn watch(&mut self, engine: &Engine, ctx: &mut Context<Self>) -> Option<Event> {
        let generation = engine.generation;
        let gone = |status: &str| {
            let exit = Exit { status: status.to_owned(), telling: log::why(&engine.launch.log) };
            Some(Event::Exited(generation, exit))
        };
        let handle = match Handle::open(engine.process) {
            Ok(Some(handle)) => Arc::new(handle),
            Ok(None) => return gone("it ended before it could be watched"),
            Err(error) => {
                tracing::error!(%error, pid = engine.process.pid, "an engine cannot be watched");
                return gone("it cannot be watched, so it is ended");
            }
        };
        let age = clock::now().saturating_sub(engine.spawned).as_secs_f64();
        self.running = Some(Running {
            generation,
            started_at: clock::unix_seconds() - age,
            members: self.known_members(generation),
            handle: handle.clone(),
        });
        self.remember(engine, Phase::Starting);
        self.hear_of_its_end(engine, handle, ctx);
        self.probe(engine, ctx);
        self.list_members(engine, ctx);
        None
    }

    /// Those that the state file lists, if it is about this start.
    fn known_members(&self, generation: Generation) -> Vec<Process> {
        let state = self.memory.read().ok().flatten();
        state.filter(|state| state.generation == generation).map_or_else(Vec::new, |s| s.members)
    }

    fn hear_of_its_end(&mut self, engine: &Engine, handle: Arc<Handle>, ctx: &mut Context<Self>) {
        let (generation, path) = (engine.generation, engine.launch.log.clone());
        let work = async move {
            if let Err(error) = handle.ended().await {
                tracing::error!(%error, "the end of an engine cannot be heard");
            }
            let status =
                handle.status().unwrap_or_else(|| "how is not known: it is not our child".into());
            let telling = tokio::task::spawn_blocking(move || log::why(&path)).await.ok().flatten();
            Event::Exited(generation, Exit { status, telling })
        };
        self.later(work, ctx);
    }

    fn probe(&mut self, engine: &Engine, ctx: &mut Context<Self>) {
        let generation = engine.generation;
        let (client, launch) = (self.client.clone(), engine.launch.clone());
        let (group, silence) = (self.group(engine), self.parts.silence);
        let work = async move {
            match health::watch(client, launch, group, silence).await {
                health::Verdict::Healthy => Event::Healthy(generation),
                health::Verdict::Silent(after) => Event::Silent(generation, after),
            }
        };
        self.probing = Some(self.later(work, ctx));
    }

    fn stop_probing(&mut self, ctx: &mut Context<Self>) {
        if let Some(probing) = self.probing.take() {
            ctx.cancel_future(probing);
        }
    }

    pub(super) fn settle_ready(&mut self, engine: &Engine, ctx: &mut Context<Self>) {
        let took = clock::now().saturating_sub(engine.spawned);
        tracing::info!(model = %engine.launch.model, ?took, "engine ready");
        self.remember(engine, Phase::Ready);
        self.list_members(engine, ctx);
    }

    /// Who belongs to the engine is remembered, for later its leader may be gone and its processes
    /// have other names. While it loads it gets more of them: they are looked for again and again.
    fn list_members(&mut self, engine: &Engine, ctx: &mut Context<Self>) {
        let (group, engine) = (self.group(engine), engine.clone());
        let work = async move { group.members_soon().await };
        ctx.spawn(work.into_actor(self).map(move |members, supervisor, ctx| {
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
            if phase == Phase::Starting {
                ctx.run_later(MEMBERS_LOOK, move |supervisor, ctx| {
                    supervisor.list_members(&engine, ctx);
                });
            }
        }));
    }

    pub(super) fn terminate(&mut self, engine: &Engine, ctx: &mut Context<Self>) {
        self.stop_probing(ctx);
        self.remember(engine, Phase::Stopping);
        let running = self.running.as_ref().filter(|r| r.generation == engine.generation);
        tracing::info!(model = %engine.launch.model, pid = engine.process.pid, "engine is told to end");
        if let Some(running) = running
            && let Err(error) = running.handle.terminate()
        {
            tracing::error!(%error, "an engine cannot be told to end");
        }
    }

    pub(super) fn kill(&mut self, engine: &Engine, ctx: &mut Context<Self>) {
        tracing::warn!(model = %engine.launch.model, pid = engine.process.pid,
            "engine did not end in time and is killed");
        let group = self.group(engine);
        ctx.spawn(async move { group.kill().await }.into_actor(self));
    }

    /// Ends what is left, proves it gone, sees the port free. The leader stays a zombie until
    /// then: so its number, which is the group's, cannot become somebody else's.
    pub(super) fn sweep(&mut self, engine: Engine, ctx: &mut Context<Self>) {
        self.stop_probing(ctx);
        let generation = engine.generation;
        let group = self.group(&engine);
        let wanted = matches!(self.core.state(), State::Sweeping(_, Why::Wanted));
        let grace = if wanted { TIDY_GRACE } else { Duration::ZERO };
        let work = async move {
            if let Err(who) = group.sweep(grace, SWEEP_PATIENCE).await {
                return Event::NotSwept(generation, who);
            }
            // Of whomever it is the child: one that was taken over may be ours.
            if let Ok(Some(leader)) = Handle::open(engine.process) {
                leader.reap();
            }
            match port::wait_free(engine.launch.port, PORT_PATIENCE).await {
                Ok(()) => {}
                // Not ours any more; whoever starts next names it.
                Err(by) => tracing::warn!(by, "the port is not free after an engine's end"),
            }
            Event::Swept(generation)
        };
        self.later(work, ctx);
    }

    pub(super) fn forget(&mut self, generation: Generation) {
        self.running = None;
        tracing::info!(%generation, "engine is gone");
        if let Err(error) = self.memory.forget() {
            let path = self.memory.path().display().to_string();
            tracing::error!(path, %error, "the state file cannot be removed");
        }
    }

    fn remember(&self, engine: &Engine, phase: Phase) {
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
        };
        if let Err(error) = self.memory.write(&state) {
            let path = self.memory.path().display().to_string();
            tracing::error!(path, %error, "the state file cannot be written: a daemon that comes later will not know this engine");
        }
    }
}

/// vLLM as it is usually installed (SPEC 3.2).
fn found_command() -> io::Result<Vec<String>> {
    let words = |line: &str| Ok(line.split(' ').map(str::to_owned).collect());
    if is_program("vllm") {
        return words("vllm serve");
    }
    if is_program("uv") && Path::new("pyproject.toml").exists() {
        return words("uv run vllm serve");
    }
    if is_program("python3") {
        return words("python3 -m vllm.entrypoints.openai.api_server");
    }
    Err(io::Error::new(io::ErrorKind::NotFound, "neither vllm, uv nor python3 is in the PATH"))
}

fn is_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| {
        use std::os::unix::fs::PermissionsExt;
        let meta = std::fs::metadata(dir.join(name));
        meta.is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    })
}
