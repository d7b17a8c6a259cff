//! A living service: its end is heard, its readiness looked for, its members listed, its log kept
//! short.
//!
//! Owns: what is known of the running process, and writing it down. Must never do: decide what any
//! of it means; that is told to the core.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use chat_proxy_core::autostart::life::{Event, Run, State, Who};
use chat_proxy_core::engine::state_file::Process;
use chat_proxy_core::registry::Endpoint;

use super::service::{Running, Service};
use super::{AutostartActor, Name};
use crate::clock;
use crate::process::tree::Look;
use crate::process::{Handle, children, identity, port};
use crate::program_log as log;

/// While a service runs, its processes are listed and its log is looked at this often.
const HOUSE: Duration = Duration::from_secs(5);
/// While it starts they are listed this often, and as closely as can be.
const WATCH: Duration = Duration::from_millis(200);

impl AutostartActor {
    /// Hears of its end and keeps house.
    pub(super) fn watch(&mut self, name: &Name, run: Run, ctx: &mut Context<Self>) {
        let Some(service) = self.services.get_mut(name) else { return };
        let handle = match service.known(run) {
            Ok(handle) => handle,
            Err(status) => {
                let ended = async move { Event::Exited(run.generation, status, None) };
                self.later(name, ended, ctx);
                return;
            }
        };
        let path = service.files.log();
        let work = async move {
            if let Err(error) = handle.ended().await {
                tracing::error!(%error, "the end of a service cannot be heard");
            }
            let status =
                handle.status().unwrap_or_else(|| "how is not known: it is not our child".into());
            let killed = status.starts_with("signal");
            let why = tokio::task::spawn_blocking(move || log::why(&path, killed));
            Event::Exited(run.generation, status, why.await.ok().flatten())
        };
        self.later(name, work, ctx);
        self.keep_house(name, run, ctx);
        self.keep_watch(name, run, ctx);
    }

    pub(super) fn await_ready(&mut self, name: &Name, run: Run, ctx: &mut Context<Self>) {
        let Some(service) = self.services.get(name) else { return };
        let sign = service.sign(&self.parts.registry.load().snapshot);
        let clients = self.clients.clone();
        let work = async move {
            sign.wait(clients).await;
            while_alive(run).await;
            Event::Ready(run.generation)
        };
        self.look_for(name, work, ctx);
    }

    /// Asks whether it still gives its own sign. One of ours is asked until it does, or until the core has
    /// had enough.
    pub(super) fn probe(&mut self, name: &Name, who: Who, ctx: &mut Context<Self>) {
        let Some(service) = self.services.get(name) else { return };
        let target = service.target(&self.parts.registry.load().snapshot);
        let clients = self.clients.clone();
        let work = async move {
            match (target, who) {
                (Some(target), Who::Ours(run)) => {
                    target.until_up(&clients).await;
                    Event::Probed(run.generation, true)
                }
                (Some(target), Who::Others(of)) => Event::Probed(of, target.is_up(&clients).await),
                // There is nobody to ask: that it lives must do.
                (None, Who::Ours(run)) => {
                    while_alive(run).await;
                    Event::Probed(run.generation, true)
                }
                (None, Who::Others(of)) => Event::Probed(of, false),
            }
        };
        self.look_for(name, work, ctx);
    }

    fn look_for<F>(&mut self, name: &Name, work: F, ctx: &mut Context<Self>)
    where
        F: Future<Output = Event> + 'static,
    {
        self.stop_looking(name, ctx);
        let looking = self.later(name, work, ctx);
        if let Some(service) = self.services.get_mut(name) {
            service.looking = Some(looking);
        }
    }

    pub(super) fn stop_looking(&mut self, name: &Name, ctx: &mut Context<Self>) {
        if let Some(looking) = self.services.get_mut(name).and_then(|s| s.looking.take()) {
            ctx.cancel_future(looking);
        }
    }

    pub(super) fn settle_ready(&mut self, name: &Name, run: Run, ctx: &mut Context<Self>) {
        let Some(service) = self.services.get(name) else { return };
        let took = clock::now().saturating_sub(run.spawned);
        tracing::info!(service = %name, pid = run.process.pid, ?took, "service ready");
        if let Err(error) = service.files.write_ready(clock::unix_seconds()) {
            tracing::error!(service = %name, %error, "a runfile cannot be written");
        }
        self.list_members(name, run, Look::Whole, ctx);
    }

    /// Now and then, as long as it runs.
    fn keep_house(&mut self, name: &Name, run: Run, ctx: &mut Context<Self>) {
        self.list_members(name, run, Look::Light, ctx);
        self.shorten_log(name, ctx);
        let name = name.clone();
        ctx.run_later(HOUSE, move |actor, ctx| {
            if actor.services.get(&name).is_some_and(|service| service.life.run() == Some(run)) {
                actor.keep_house(&name, run, ctx);
            }
        });
    }

    /// While it starts, and so starts others, closely: one that leaves its parents, its group and
    /// its environment is known only if it was seen before.
    fn keep_watch(&mut self, name: &Name, run: Run, ctx: &mut Context<Self>) {
        let Some(service) = self.services.get(name) else { return };
        let starting =
            matches!(service.life.state(), State::Starting { run: it, .. } if *it == run);
        if !starting {
            return;
        }
        let tree = service.tree(run);
        let places = service.places(&self.parts.registry.load().snapshot);
        let name = name.clone();
        let work = async move {
            let members = tree.look_soon(Look::Whole).await;
            let place = place_of(places, &members).await;
            (members, place)
        };
        ctx.spawn(work.into_actor(self).map(move |(members, place), actor, ctx| {
            if let Some(place) = place {
                actor.comes_up_at(&name, run, place, ctx);
            }
            if let Some(service) = actor.services.get_mut(&name) {
                service.has_members(run, members);
            }
            ctx.run_later(WATCH, move |actor, ctx| actor.keep_watch(&name, run, ctx));
        }));
    }

    /// It listens there: so that is where it will be ready, whoever caused the start.
    fn comes_up_at(&mut self, name: &Name, run: Run, place: Endpoint, ctx: &mut Context<Self>) {
        let Some(service) = self.services.get_mut(name) else { return };
        let starting =
            matches!(service.life.state(), State::Starting { run: it, .. } if *it == run);
        let known = service.started_for.as_ref().is_some_and(|known| known.base() == place.base());
        if !starting || known {
            return;
        }
        tracing::warn!(
            service = %name,
            address = place.base(),
            "it comes up elsewhere than at the backend it was started for"
        );
        service.started_for = Some(place);
        let members = service.running.as_ref().map(|known| known.members.clone());
        let record = service.record(run.process, members.unwrap_or_default());
        if let Err(error) = service.files.write(&record) {
            tracing::error!(service = %name, %error, "a runfile cannot be written");
        }
        self.await_ready(name, run, ctx);
    }

    /// Who belongs to it is remembered: later its leader may be gone and its processes may have
    /// other names. And no engine claims them.
    fn list_members(&mut self, name: &Name, run: Run, look: Look, ctx: &mut Context<Self>) {
        let Some(service) = self.services.get(name) else { return };
        let tree = service.tree(run);
        let name = name.clone();
        let work = async move { tree.look_soon(look).await };
        ctx.spawn(work.into_actor(self).map(move |members, actor, _| {
            if let Some(service) = actor.services.get_mut(&name) {
                service.has_members(run, members);
            }
        }));
    }

    fn shorten_log(&mut self, name: &Name, ctx: &mut Context<Self>) {
        let Some(service) = self.services.get_mut(name) else { return };
        // Two at once would copy the same lines.
        if std::mem::replace(&mut service.shortening, true) {
            return;
        }
        let (path, limit) = (service.files.log(), self.parts.log_max_bytes);
        let keep = self.parts.keep_logs;
        let work = tokio::task::spawn_blocking(move || log::shorten(&path, limit, keep));
        let name = name.clone();
        ctx.spawn(work.into_actor(self).map(move |done, actor, _| {
            let Some(service) = actor.services.get_mut(&name) else { return };
            service.shortening = false;
            match done.map_err(io::Error::other).flatten() {
                Ok(done) => {
                    if let Some(done) = done {
                        tracing::info!(service = %name, ?done, "a service's log was shortened");
                    }
                    service.log_trouble = false;
                }
                // A full disk stays full for a while: it is said once.
                Err(error) if !std::mem::replace(&mut service.log_trouble, true) => {
                    tracing::error!(service = %name, %error, "a service's log cannot be shortened");
                }
                Err(_) => {}
            }
        }));
    }
}

/// The first of these places at which one of those listens.
async fn place_of(places: Vec<Endpoint>, members: &[Process]) -> Option<Endpoint> {
    let pids: Vec<i32> = members.iter().map(|process| process.pid).collect();
    let listens =
        move |place: &Endpoint| place.port().is_some_and(|port| port::is_listened_by(port, &pids));
    let look = tokio::task::spawn_blocking(move || places.into_iter().find(listens));
    look.await.ok().flatten()
}

/// What answered may be somebody else's if ours has just ended: then its end is the news.
async fn while_alive(run: Run) {
    if !identity::is_alive(run.process) {
        std::future::pending::<()>().await;
    }
}

impl Service {
    /// The hold on a process that was just made, or was found; the error says what became of it.
    fn known(&mut self, run: Run) -> Result<Arc<Handle>, String> {
        if let Some(known) = &mut self.running
            && known.handle.process() == run.process
        {
            known.generation = run.generation;
            return Ok(known.handle.clone());
        }
        match Handle::open(run.process) {
            Ok(Some(handle)) => {
                let handle = Arc::new(handle);
                self.running = Some(Running {
                    generation: run.generation,
                    handle: handle.clone(),
                    members: vec![run.process],
                });
                Ok(handle)
            }
            Ok(None) => Err("it ended before it could be watched".to_owned()),
            Err(error) => Err(format!("it cannot be watched, so it is ended: {error}")),
        }
    }

    fn has_members(&mut self, run: Run, members: Vec<Process>) {
        if self.life.run() != Some(run) || members.is_empty() {
            return;
        }
        let mark = self.files.mark();
        let Some(running) = &mut self.running else { return };
        if running.members == members {
            return;
        }
        children::claim(&mark, &members);
        running.members.clone_from(&members);
        if let Err(error) = self.files.write(&self.record(run.process, members)) {
            tracing::error!(service = self.spec.name, %error, "a runfile cannot be written");
        }
    }
}
