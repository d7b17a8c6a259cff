//! What an earlier daemon, or an earlier supervisor, has left: the engine that the state file names,
//! and processes that carry our marker and that no file names (SPEC 6.1).
//!
//! Owns: the look around at the beginning, before anything is reported or started. Must never do:
//! trust a pid without its start time and boot, or touch a process without our marker.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use chat_proxy_core::engine::Launch;
use chat_proxy_core::engine::lifecycle::{Engine, Event, Found};
use chat_proxy_core::engine::state_file::{Phase, Process, StateFile};
use chat_proxy_core::ids::Generation;
use chat_proxy_core::registry::Placement;

use super::effects::SWEEP_PATIENCE;
use super::{VllmSupervisor, memory};
use crate::clock;
use crate::process::tree::{self, Tree};
use crate::process::{Handle, identity};

impl VllmSupervisor {
    /// Ends what nobody knows of, then takes over what the state file names.
    pub(super) fn look_around(&mut self, ctx: &mut Context<Self>) {
        let state = self.state_of_this_boot();
        let known = state.as_ref().map(|state| state.generation);
        let memory = self.memory.clone();
        let strays = async move {
            let hash = memory.hash().to_owned();
            let found = tokio::task::spawn_blocking(move || tree::left_by(&hash)).await;
            let mut strays = found.unwrap_or_else(|error| {
                tracing::error!(%error, "what an earlier daemon left could not be looked for");
                Vec::new()
            });
            strays.retain(|(generation, _)| Some(*generation) != known);
            let left = end_strays(&memory, strays).await;
            let hash = memory.hash().to_owned();
            // Of no use to anybody; what cannot be removed is in somebody's use.
            drop(tokio::task::spawn_blocking(move || tree::remove_empty_groups(&hash, known)));
            left
        };
        ctx.spawn(strays.into_actor(self).map(move |left, supervisor, ctx| {
            supervisor.found.clone_from(&state);
            supervisor.left_over = left.iter().map(|(_, process)| *process).collect();
            let found = match state {
                Some(state) => Some(supervisor.found(&state)),
                // What cannot be ended stands in the way of every start, and is named.
                None => (!left.is_empty()).then(|| supervisor.nameless(&left)),
            };
            supervisor.looked = true;
            if let Some(found) = found {
                supervisor.apply(Event::Found(found), ctx);
            }
            if supervisor.ending {
                supervisor.end(ctx);
            }
            let report = supervisor.core.report();
            supervisor.send_report(report, true);
            for goal in std::mem::take(&mut supervisor.early) {
                supervisor.take(goal, ctx);
            }
        }));
    }

    /// The state file, if it can mean something that runs now. It is small and read once, before
    /// anything else is done.
    fn state_of_this_boot(&self) -> Option<StateFile> {
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
        Some(state)
    }

    /// The state file's engine, held against what lives.
    fn found(&self, state: &StateFile) -> Found {
        let alive = identity::is_alive(state.leader());
        let launch = self.wanted(state);
        tracing::info!(model = %state.logical_name, pid = state.pid, alive, wanted = launch.is_some(),
            "found an engine of ours");
        let age = Duration::try_from_secs_f64(clock::unix_seconds() - state.started_at);
        let engine = Engine {
            generation: state.generation,
            launch: launch.clone().unwrap_or_else(|| Arc::new(Launch::remembered(state))),
            process: state.leader(),
            spawned: clock::now().saturating_sub(age.unwrap_or_default()),
        };
        // An actor that takes another one's place keeps what that had running, with its requests in
        // flight; a daemon keeps what the registry still wants, and what it cannot judge because
        // the registry cannot be read.
        let unknown = !self.parts.registry.load().loaded;
        let kept = launch.is_some() || self.again || unknown;
        let wanted = kept && !self.parts.ends_all && state.phase != Phase::Stopping;
        Found { engine, alive, wanted, was_ready: state.phase == Phase::Ready }
    }

    /// Processes that carry our marker, and that is all that is known of them.
    fn nameless(&self, left: &[(Generation, Process)]) -> Found {
        let newest = left.iter().max().copied();
        let (generation, leader) =
            newest.unwrap_or((Generation(0), Process { pid: 0, start_time: 0 }));
        let state = StateFile {
            logical_name: "unknown".into(),
            served_model_id: String::new(),
            port: self.parts.port,
            pid: leader.pid,
            started_at: clock::unix_seconds(),
            generation,
            phase: Phase::Stopping,
            boot_id: String::new(),
            start_time: leader.start_time,
            process_group: leader.pid,
            spec_hash: String::new(),
            log_path: String::new(),
            members: left.iter().map(|(_, process)| *process).collect(),
            cgroup: None,
        };
        let launch = Arc::new(Launch::remembered(&state));
        let engine = Engine { generation, launch, process: leader, spawned: clock::now() };
        Found { engine, alive: false, wanted: false, was_ready: false }
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
}

/// Ends them; answers who could not be ended.
async fn end_strays(
    memory: &memory::Memory,
    strays: Vec<(Generation, Process)>,
) -> Vec<(Generation, Process)> {
    let oldest = strays.iter().min_by_key(|(_, process)| process.start_time);
    let Some((generation, leader)) = oldest.copied() else { return strays };
    for (generation, process) in &strays {
        let who = identity::describe(process.pid);
        tracing::warn!(%generation, who, "a process of an engine that nobody knows of is ended");
    }
    let tree = Tree {
        leader,
        listed: strays.iter().map(|(_, process)| *process).collect(),
        marker: memory.marker(generation),
        cgroup: None,
    };
    match tree.sweep(Duration::ZERO, SWEEP_PATIENCE).await {
        Ok(()) => {
            // Some may be our children: an actor's before us.
            for (_, process) in strays {
                if let Ok(Some(handle)) = Handle::open(process) {
                    handle.reap();
                }
            }
            Vec::new()
        }
        Err(who) => {
            tracing::error!(who, "processes of an engine that nobody knows of cannot be ended");
            strays
        }
    }
}

/// What of an engine lives that belongs to this state file. Blocking.
pub fn survivors(state_path: &Path) -> std::io::Result<(Option<StateFile>, Vec<Process>)> {
    let memory = memory::Memory::at(state_path.to_owned());
    let boot = identity::boot_id()?;
    // One that cannot be understood names nobody; the marker does.
    let state = memory.read().ok().flatten().filter(|state| state.boot_id == boot);
    let mut found: Vec<Process> =
        tree::left_by(memory.hash()).into_iter().map(|(_, process)| process).collect();
    if let Some(state) = &state {
        found.extend(memory.tree(state).members());
    }
    found.sort();
    found.dedup();
    Ok((state, found))
}
