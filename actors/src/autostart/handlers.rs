//! What the actor does with each message.
//!
//! Owns: the answers that need no start. Must never do: wait; an answer that takes time is a future
//! of its own.

use std::collections::BTreeMap;

use actix::{AsyncContext, Context, Handler, ResponseActFuture, WrapFuture};
use chat_proxy_core::ApiError;
use chat_proxy_core::autostart::life::Event;
use chat_proxy_core::autostart::{Adapter, failure};
use chat_proxy_core::registry::Endpoint;
use tokio::sync::oneshot;

use super::messages::{
    AutostartStatus, EnsureStarted, GetServices, Hurry, ServiceStatus, StopAll, StopService,
};
use super::service::Asker;
use super::{AutostartActor, Name};

impl AutostartActor {
    pub(super) fn ensure(&mut self, order: EnsureStarted, ctx: &mut Context<Self>) {
        let EnsureStarted { service, probe, by_request, reply } = order;
        let name = Name::from(service);
        if let Some(refusal) = self.refusal(&name, probe.as_ref(), by_request) {
            // Who asked may have left.
            let _ = reply.send(Err(refusal));
        } else if self.services.contains_key(&name) {
            self.ask(&name, by_request, Asker { reply, probe }, ctx);
        } else {
            self.ask_entry(&name, reply, ctx);
        }
    }

    /// Why nothing is started for that.
    fn refusal(&self, name: &Name, probe: Option<&Endpoint>, by_request: bool) -> Option<ApiError> {
        if self.parts.plan.get(name).is_none() {
            return Some(failure::unknown(name));
        }
        if self.ending {
            return Some(failure::ending());
        }
        if by_request && !self.parts.enabled.is_on() {
            return Some(failure::disabled(name));
        }
        let (service, probe) = (self.services.get(name)?, probe?);
        let helps = service.is_for(probe, &self.parts.registry.load().snapshot);
        (!helps).then(|| failure::elsewhere(name, probe.base()))
    }

    fn stop_one(&mut self, order: StopService, ctx: &mut Context<Self>) {
        let StopService { service, reply } = order;
        let name = Name::from(service);
        let refusal = match self.parts.plan.get(&name).map(|spec| &spec.adapter) {
            Some(Adapter::Shell(_)) => return self.stop(&name, reply, ctx),
            Some(Adapter::Entry) => failure::is_an_entry(&name),
            None => failure::no_such(&name),
        };
        // Who asked may have left.
        let _ = reply.send(Err(refusal));
    }

    fn statuses(&self) -> BTreeMap<String, ServiceStatus> {
        let view = self.parts.registry.load();
        let status = |spec: &chat_proxy_core::autostart::ServiceSpec| {
            let name = spec.name.as_str();
            let status = match self.services.get(name) {
                Some(service) => service.status(),
                None => self.entries.get(name)?.status(spec, &view.snapshot),
            };
            Some((spec.name.clone(), status))
        };
        self.parts.plan.services().iter().filter_map(status).collect()
    }
}

impl Handler<EnsureStarted> for AutostartActor {
    type Result = ();

    fn handle(&mut self, order: EnsureStarted, ctx: &mut Self::Context) {
        self.when_looked(|actor, ctx| actor.ensure(order, ctx), ctx);
    }
}

impl Handler<StopService> for AutostartActor {
    type Result = ();

    fn handle(&mut self, order: StopService, ctx: &mut Self::Context) {
        self.when_looked(|actor, ctx| actor.stop_one(order, ctx), ctx);
    }
}

impl Handler<Hurry> for AutostartActor {
    type Result = ();

    fn handle(&mut self, _: Hurry, ctx: &mut Self::Context) {
        let names: Vec<Name> = self.services.keys().cloned().collect();
        for name in names {
            self.apply(&name, Event::Hurry, ctx);
        }
    }
}

impl Handler<StopAll> for AutostartActor {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, order: StopAll, ctx: &mut Self::Context) -> Self::Result {
        self.ending = true;
        let (done, told) = oneshot::channel::<()>();
        if self.parts.keep_on_exit || order.keep {
            tracing::info!("services run on, for the next daemon");
            drop(done);
        } else {
            let all = |actor: &mut Self, ctx: &mut Context<Self>| {
                let gone = actor.stop_all(ctx);
                let work = async move {
                    gone.await;
                    drop(done);
                };
                ctx.spawn(work.into_actor(actor));
            };
            self.when_looked(all, ctx);
        }
        // It must die with us: who asks then hears nothing, and asks our successor.
        Box::pin(async move { drop(told.await) }.into_actor(self))
    }
}

impl Handler<GetServices> for AutostartActor {
    type Result = AutostartStatus;

    fn handle(&mut self, _: GetServices, _: &mut Self::Context) -> AutostartStatus {
        AutostartStatus { enabled: self.parts.enabled.is_on(), services: self.statuses() }
    }
}
