//! Making a service: forked and held, named in its runfile, then let go.
//!
//! Owns: what the new process is given, and the order of the steps: a daemon that is killed between
//! any two of them leaves nothing that its successor does not know of. Must never do: let a child go
//! whose name is not written down.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use chat_proxy_core::autostart::environment;
use chat_proxy_core::autostart::life::{Event, State, Ticket};

use super::service::Running;
use super::{AutostartActor, Name};
use crate::process::{Handle, Held, Spawning, children, hold};
use crate::program_log as log;

/// The program of a service that lies on a slow disk is not waited for longer: it is known by then.
const BEGIN_PATIENCE: Duration = Duration::from_secs(10);

impl AutostartActor {
    /// Somebody else may run it already.
    pub(super) fn look(
        &mut self,
        name: &Name,
        generation: u64,
        first: Ticket,
        ctx: &mut Context<Self>,
    ) {
        let Some(service) = self.services.get_mut(name) else { return };
        let snapshot = &self.parts.registry.load().snapshot;
        // For whom it is started is kept with the start: who asks later changes nothing.
        let probe = service.askers.get(&first).and_then(|asker| asker.probe.clone());
        service.starts_for(probe, snapshot);
        let target = service.place(snapshot);
        let clients = self.clients.clone();
        let work = async move {
            let taken = match target {
                Some(target) => target.is_up(&clients).await,
                None => false,
            };
            Event::Seen(generation, taken)
        };
        self.later(name, work, ctx);
    }

    pub(super) fn spawn(&mut self, name: &Name, generation: u64, ctx: &mut Context<Self>) {
        let Some(service) = self.services.get(name) else { return };
        let command = &service.command;
        let line = command.command.clone();
        let cwd = command.cwd.as_ref().map(PathBuf::from);
        let marker = service.files.marker();
        let environment =
            environment::of_service(std::env::vars_os(), &self.secrets(), &command.env, marker);
        let (path, keep) = (service.files.log(), self.parts.keep_logs);
        let held = async move {
            let opened = tokio::task::spawn_blocking(move || {
                log::open(&path, keep).map_err(|error| {
                    io::Error::new(error.kind(), format!("its log {}: {error}", path.display()))
                })
            });
            let log = opened.await.map_err(io::Error::other)??;
            hold(Spawning { line, environment, cwd, log }).await
        };
        let name = name.clone();
        ctx.spawn(held.into_actor(self).map(move |held, actor, ctx| {
            if !actor.awaits(&name, generation) {
                return; // too late: dropped, a child ends without having begun
            }
            match held.and_then(|held| actor.name(&name, generation, &held).map(|()| held)) {
                Ok(held) => {
                    actor.apply(&name, Event::Held(generation), ctx);
                    actor.release(&name, generation, held, ctx);
                }
                Err(error) => actor.not_spawned(&name, generation, &error, ctx),
            }
        }));
    }

    /// Whether that start has not been given up meanwhile.
    fn awaits(&self, name: &Name, of: u64) -> bool {
        let state = self.services.get(name).map(|service| service.life.state());
        matches!(state, Some(State::Spawning { generation, .. }) if *generation == of)
    }

    /// Variables that services must not see: ours, and every backend's key.
    fn secrets(&self) -> BTreeSet<String> {
        let view = self.parts.registry.load();
        let keys =
            view.snapshot.entries().iter().filter_map(|e| e.backend_config.api_key_env.clone());
        self.parts.secrets.iter().cloned().chain(keys).collect()
    }

    /// Writes down who is held. If that fails the child is dropped, and so ends without having begun.
    fn name(&mut self, name: &Name, generation: u64, held: &Held) -> io::Result<()> {
        let Some(service) = self.services.get_mut(name) else { return Ok(()) };
        let process = held.process();
        let handle = Handle::open(process)?.ok_or_else(|| io::Error::other("it is gone"))?;
        service.files.not_ready();
        let members = vec![process];
        service.files.write(&service.record(process, members.clone())).map_err(|error| {
            io::Error::new(error.kind(), format!("its runfile cannot be written: {error}"))
        })?;
        children::claim(&service.files.mark(), &members);
        service.running = Some(Running { generation, handle: Arc::new(handle), members });
        Ok(())
    }

    fn release(&mut self, name: &Name, generation: u64, held: Held, ctx: &mut Context<Self>) {
        let process = held.process();
        let service = name.clone();
        let begun = async move {
            match held.release(BEGIN_PATIENCE).await {
                Ok(()) => {
                    tracing::info!(%service, pid = process.pid, "service started");
                    Event::Spawned(generation, process)
                }
                Err(error) => Event::NotSpawned(generation, error.to_string()),
            }
        };
        self.later(name, begun, ctx);
    }

    fn not_spawned(
        &mut self,
        name: &Name,
        generation: u64,
        error: &io::Error,
        ctx: &mut Context<Self>,
    ) {
        self.apply(name, Event::NotSpawned(generation, error.to_string()), ctx);
    }
}
