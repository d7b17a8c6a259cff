//! `AutostartActor`: starts, watches and stops services that requests need (SPEC 6.4).
//!
//! Owns: the services' processes with their trees, runfiles and logs (core: `autostart::life`, one
//! for each). Accepts: the [`messages`] of its room; hears of a process's end through its pidfd.
//! Emits: an answer to each who asked; entries of the registry are handed to whoever has them. Stops
//! with the daemon, after its services, or leaves those running. Restarts: takes over what the
//! runfiles name, if that very process lives. Must never do: decide, start beside something that
//! lives, wait in a handler, or signal what is not ours.

mod adoption;
mod answers;
mod ending;
mod entries;
mod handlers;
pub mod messages;
mod parts;
mod probe;
mod runfiles;
mod service;
mod starting;
#[cfg(test)]
mod tests;
mod watching;

use std::collections::BTreeMap;
use std::rc::Rc;

use actix::{Actor, ActorFutureExt, AsyncContext, Context, SpawnHandle, WrapFuture};
use chat_proxy_core::autostart::Adapter;
use chat_proxy_core::autostart::life::{Effect, Event, Ticket};
use chat_proxy_core::{ApiError, Code};
use tokio::sync::oneshot;

use crate::client::Clients;
use crate::clock;
use crate::events;
use crate::guard::Guard;
pub use adoption::left_over;
use entries::EntryService;
pub use parts::{AutostartParts, Entries, Preload, Switch};
use service::{Asker, Service};

/// A service's name.
type Name = Rc<str>;
/// Where an answer goes.
type Reply = oneshot::Sender<Result<(), ApiError>>;
/// What came before we had looked around.
type Early = Box<dyn FnOnce(&mut AutostartActor, &mut Context<AutostartActor>)>;

/// See the module.
pub struct AutostartActor {
    parts: AutostartParts,
    clients: Rc<Clients>,
    /// Programs of ours.
    services: BTreeMap<Name, Service>,
    /// Entries of the registry.
    entries: BTreeMap<Name, EntryService>,
    tickets: u64,
    /// What an earlier daemon left is known and dealt with.
    looked: bool,
    early: Vec<Early>,
    /// Nothing is started any more.
    ending: bool,
    _guard: Guard,
}

impl AutostartActor {
    /// An actor that has not looked around yet.
    pub fn new(parts: AutostartParts, guard: Guard) -> Self {
        let (mut services, mut entries) = (BTreeMap::new(), BTreeMap::new());
        for spec in parts.plan.services() {
            let name = Name::from(spec.name.as_str());
            match &spec.adapter {
                Adapter::Shell(command) => {
                    drop(services.insert(name, Service::new(spec, command, &parts)));
                }
                Adapter::Entry => drop(entries.insert(name, EntryService::default())),
            }
        }
        AutostartActor {
            parts,
            clients: Rc::default(),
            services,
            entries,
            tickets: 0,
            looked: false,
            early: Vec::new(),
            ending: false,
            _guard: guard,
        }
    }

    /// Somebody wants a program.
    fn ask(&mut self, name: &Name, by_request: bool, asker: Asker, ctx: &mut Context<Self>) {
        if let Some(ticket) = self.admit(name, asker) {
            self.apply(name, Event::Ask { ticket, by_request }, ctx);
        }
    }

    /// Somebody wants a program gone.
    fn stop(&mut self, name: &Name, reply: Reply, ctx: &mut Context<Self>) {
        if let Some(ticket) = self.admit(name, Asker { reply, probe: None }) {
            self.apply(name, Event::Stop(ticket), ctx);
        }
    }

    fn admit(&mut self, name: &Name, asker: Asker) -> Option<Ticket> {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.services.get_mut(name)?.askers.insert(ticket, asker);
        Some(ticket)
    }

    /// Takes an event through a service's core and carries out what follows.
    fn apply(&mut self, name: &Name, event: Event, ctx: &mut Context<Self>) {
        let Some(service) = self.services.get_mut(name) else { return };
        let troubles = service.life.troubles();
        let effects = service.life.on(event, clock::now());
        if let Some(error) = service.life.last_error()
            && service.life.troubles() > troubles
        {
            tracing::error!(service = %name, error, "service failed");
        }
        for effect in effects {
            self.carry_out(name, effect, ctx);
        }
        self.settle(name, ctx);
    }

    fn carry_out(&mut self, name: &Name, effect: Effect, ctx: &mut Context<Self>) {
        match effect {
            // What was under way when the daemon began to end.
            Effect::Look(generation, _) | Effect::Spawn(generation) if self.ending => {
                self.later(name, async move { Event::Refused(generation) }, ctx);
            }
            Effect::Look(generation, first) => self.look(name, generation, first, ctx),
            Effect::Spawn(generation) => self.spawn(name, generation, ctx),
            Effect::Watch(run) => self.watch(name, run, ctx),
            Effect::AwaitReady(run) => self.await_ready(name, run, ctx),
            Effect::Settle(run) => self.settle_ready(name, run, ctx),
            Effect::Probe(who) => self.probe(name, who, ctx),
            Effect::Signal(run) => self.signal(name, run, ctx),
            Effect::Sweep(run, patient) => self.sweep(name, run, patient, ctx),
            Effect::Forget => self.forget(name),
            Effect::Answer(tickets, outcome) => self.answer(name, &tickets, &outcome, ctx),
        }
    }

    /// After every event: the timer, and since when it is as it is.
    fn settle(&mut self, name: &Name, ctx: &mut Context<Self>) {
        let Some(service) = self.services.get_mut(name) else { return };
        if service.word != service.life.word() {
            service.word = service.life.word();
            service.since = Some(clock::unix_seconds());
            let error = service.life.last_error().filter(|_| service.word == "failed");
            self.parts.events.publish(&events::Event::Service {
                service: name.to_string(),
                state: service.word,
                error: error.map(str::to_owned),
            });
        }
        if let Some(timer) = service.timer.take() {
            ctx.cancel_future(timer);
        }
        if let Some(at) = service.life.next_tick() {
            let name = name.clone();
            service.timer = Some(ctx.run_later(clock::until(at), move |actor, ctx| {
                actor.apply(&name, Event::Tick, ctx);
            }));
        }
    }

    /// Runs work beside the handlers; its outcome comes back as an event.
    fn later<F>(&mut self, name: &Name, work: F, ctx: &mut Context<Self>) -> SpawnHandle
    where
        F: Future<Output = Event> + 'static,
    {
        let name = name.clone();
        ctx.spawn(work.into_actor(self).map(move |event, actor, ctx| {
            actor.apply(&name, event, ctx);
        }))
    }

    /// Does it now, or when we have looked around.
    fn when_looked(
        &mut self,
        work: impl FnOnce(&mut Self, &mut Context<Self>) + 'static,
        ctx: &mut Context<Self>,
    ) {
        if self.looked { work(self, ctx) } else { self.early.push(Box::new(work)) }
    }

    /// We know what there is: whoever came early gets his turn, and what is to run from the
    /// beginning is started.
    pub(super) fn has_looked(&mut self, ctx: &mut Context<Self>) {
        self.looked = true;
        for work in std::mem::take(&mut self.early) {
            work(self, ctx);
        }
        self.preload(ctx);
    }
}

/// A defect: nobody answers.
fn lost(service: &str) -> ApiError {
    ApiError::new(Code::Internal, format!("{service}: the start got lost"))
}

impl Actor for AutostartActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.look_around(ctx);
    }
}
