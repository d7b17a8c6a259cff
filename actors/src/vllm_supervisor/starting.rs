//! Making an engine: forked and held, named in the state file, then let go (SPEC 6.1).
//!
//! Owns: what the new process is given, and the order of the steps: a daemon that is killed between
//! any two of them leaves nothing that its successor does not know of. Must never do: let a child go
//! whose name could have been written down and is not.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use chat_proxy_core::engine::lifecycle::{Engine, Event};
use chat_proxy_core::engine::state_file::Phase;
use chat_proxy_core::engine::{Launch, environment};
use chat_proxy_core::ids::Generation;

use super::{Running, VllmSupervisor};
use crate::clock;
use crate::process::cgroup::Cgroup;
use crate::process::{Handle, Held, Spawning, hold};
use crate::program_log as log;
use crate::templates::{Found, Templates};

/// The program of an engine that lies on a slow disk is not waited for longer: it is known by then.
const BEGIN_PATIENCE: Duration = Duration::from_secs(10);

impl VllmSupervisor {
    pub(super) fn spawn(
        &mut self,
        generation: Generation,
        launch: Arc<Launch>,
        ctx: &mut Context<Self>,
    ) {
        let spawning = self.spawning(generation, &launch);
        let hash = self.memory.hash().to_owned();
        let (templates, started) = (self.parts.templates.clone(), launch.clone());
        let held = async move {
            let (mut spawning, command) = spawning?;
            let template = template_of(templates, started.clone()).await?;
            spawning.line = started.command_line(&command, template.as_deref());
            let held = hold(spawning).await?;
            let pid = held.process().pid;
            // The kernel takes its time over this, up to tens of milliseconds.
            let group = tokio::task::spawn_blocking(move || own_group(&hash, generation, pid));
            let group = group.await.map_err(io::Error::other)?;
            Ok((held, group))
        };
        ctx.spawn(held.into_actor(self).map(move |held, supervisor, ctx| match held {
            Ok((held, group)) => supervisor.name(generation, launch, held, group, ctx),
            Err(error) => supervisor.not_spawned(generation, &error, ctx),
        }));
    }

    /// What the new process is given, but for its command line; and how that begins.
    fn spawning(
        &self,
        generation: Generation,
        launch: &Launch,
    ) -> io::Result<(Spawning, Vec<String>)> {
        let command = match &launch.command {
            Some(command) => command.clone(),
            None => found_command()?,
        };
        let environment = environment::of_engine(
            std::env::vars_os(),
            &self.secrets(),
            &launch.environment,
            self.memory.marker(generation),
        );
        let log = log::open(&launch.log, self.parts.bounds.load().keep_logs).map_err(|error| {
            io::Error::new(error.kind(), format!("its log {}: {error}", launch.log.display()))
        })?;
        let spawning = Spawning { line: Vec::new(), environment, cwd: launch.cwd.clone(), log };
        Ok((spawning, command))
    }

    /// Variables that engines must not see: ours, and every backend's key.
    fn secrets(&self) -> BTreeSet<String> {
        let view = self.parts.registry.load();
        let keys =
            view.snapshot.entries().iter().filter_map(|e| e.backend_config.api_key_env.clone());
        self.parts.secrets.iter().cloned().chain(keys).collect()
    }

    /// Writes down who is held, and lets it go.
    fn name(
        &mut self,
        generation: Generation,
        launch: Arc<Launch>,
        held: Held,
        cgroup: Option<Cgroup>,
        ctx: &mut Context<Self>,
    ) {
        let process = held.process();
        let handle = match Handle::open(process) {
            Ok(Some(handle)) => Arc::new(handle),
            // It is dropped, and so ends without having begun.
            Ok(None) => return self.not_spawned(generation, &io::Error::other("it is gone"), ctx),
            Err(error) => return self.not_spawned(generation, &error, ctx),
        };
        self.running = Some(Running {
            generation,
            started_at: clock::unix_seconds(),
            members: vec![process],
            cgroup,
            handle,
        });
        let engine = Engine { generation, launch, process, spawned: clock::now() };
        self.remember(&engine, Phase::Starting);
        let model = engine.launch.model.clone();
        let begun = async move {
            fault::while_held().await;
            held.release(BEGIN_PATIENCE).await
        };
        ctx.spawn(begun.into_actor(self).map(move |begun, supervisor, ctx| match begun {
            Ok(()) => {
                tracing::info!(%model, pid = process.pid, %generation, "engine started");
                supervisor.apply(Event::Spawned(generation, process), ctx);
            }
            Err(error) => {
                supervisor.tree(&engine).remove();
                supervisor.forget(generation);
                supervisor.not_spawned(generation, &error, ctx);
            }
        }));
    }

    fn not_spawned(&mut self, generation: Generation, error: &io::Error, ctx: &mut Context<Self>) {
        self.apply(Event::NotSpawned(generation, error.to_string()), ctx);
    }
}

/// The template that the engine is told of.
async fn template_of(templates: Templates, launch: Arc<Launch>) -> io::Result<Option<PathBuf>> {
    let found = tokio::task::spawn_blocking(move || {
        launch.template.as_ref().map(|places| templates.find(places))
    });
    match found.await.map_err(io::Error::other)? {
        // Found from here, but opened by the engine, whose directory may be another one.
        Some(Found::File(path)) => std::path::absolute(path).map(Some),
        Some(Found::WithTheModel | Found::Missing) | None => Ok(None),
    }
}

/// A control group for it, where one can be had; all that it starts will be in it. Blocking.
fn own_group(hash: &str, generation: Generation, pid: i32) -> Option<Cgroup> {
    let group = Cgroup::create(hash, &generation.to_string())?;
    match group.add(pid) {
        Ok(()) => Some(group),
        Err(error) => {
            tracing::debug!(%error, "an engine cannot be put into its control group");
            if let Err(error) = group.remove() {
                tracing::debug!(%error, "a control group cannot be removed");
            }
            None
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

/// A test may stop the daemon between the naming and the letting go of a child, to end it there.
#[cfg(debug_assertions)]
mod fault {
    pub(super) async fn while_held() {
        if std::env::var_os("IMAGEWORKS_TEST_HOLD_CHILDREN").is_some() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(not(debug_assertions))]
mod fault {
    pub(super) async fn while_held() {}
}
