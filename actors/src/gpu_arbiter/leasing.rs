//! Leases, between the scheduler, their file and those who ask.
//!
//! Owns: who waits for a lease. What the scheduler grants or ends is written down before anybody is
//! told. Must never do: decide.

use std::sync::Arc;
use std::time::Duration;

use actix::{ActorFutureExt, AsyncContext, Context, Handler, WrapFuture};
use chat_proxy_core::gpu::lease::{LeaseEffect, LeaseOrder, LeaseOutcome};
use chat_proxy_core::gpu::scheduler::Event;
use chat_proxy_core::ids::{ModelName, Ticket};
use chat_proxy_core::registry::Placement;
use chat_proxy_core::{ApiError, Code};
use tokio::sync::oneshot;

use super::GpuArbiter;
use super::messages::{AcquireLease, LeaseAnswer, OrderLease};
use crate::clock;
use crate::events;
use crate::lease::{LeaseRecord, SavedModel};

/// Somebody who waits for a lease.
pub(super) struct LeaseWait {
    owner: String,
    reason: Option<String>,
    running: Option<SavedModel>,
    reply: oneshot::Sender<Result<Arc<LeaseRecord>, ApiError>>,
}

/// What was resident before a lease is to come back.
#[derive(actix::Message)]
#[rtype(result = "()")]
pub(super) struct BringBack(ModelName);

impl GpuArbiter {
    pub(super) fn lease_effect(&mut self, effect: LeaseEffect, ctx: &mut Context<Self>) {
        match effect {
            LeaseEffect::Granted(ticket, lease) => {
                let Some(wait) = self.lease_waits.remove(&ticket) else { return };
                let LeaseWait { owner, reason, running, reply } = wait;
                let saved = lease.saved.as_ref().map(|model| saved(model, running));
                let record = Arc::new(LeaseRecord::of(&lease, reason, saved));
                tracing::info!(owner, ttl = ?lease.ttl, "the GPU is leased");
                self.tell_lease("granted", &record.owner, Some(record.expires_at));
                self.write_down(record, reply, ctx);
            }
            LeaseEffect::Refused(ticket, refusal) => {
                if let Some(wait) = self.lease_waits.remove(&ticket) {
                    // Whoever asked may have gone.
                    let _ = wait.reply.send(Err(refusal.error("the GPU")));
                }
            }
            LeaseEffect::Ended(lease, end) => {
                tracing::info!(
                    owner = lease.owner,
                    how = end.as_str(),
                    "the GPU's lease has ended"
                );
                self.tell_lease(end.as_str(), &lease.owner, None);
                let writing = self.parts.leases.clone().put(None);
                ctx.spawn(
                    async move {
                        if let Err(error) = writing.await {
                            tracing::error!(%error, "a lease that has ended is still written down");
                        }
                    }
                    .into_actor(self),
                );
            }
            // Not in the middle of other effects.
            LeaseEffect::Restore(model) => ctx.notify(BringBack(model)),
        }
    }

    /// It is told when it is written down; and taken back if nobody is there any more to be told.
    fn write_down(
        &mut self,
        record: Arc<LeaseRecord>,
        reply: oneshot::Sender<Result<Arc<LeaseRecord>, ApiError>>,
        ctx: &mut Context<Self>,
    ) {
        let writing = self.parts.leases.clone().put(Some(record.clone()));
        ctx.spawn(writing.into_actor(self).map(move |outcome, arbiter, ctx| {
            let token = record.token.key();
            let answer = outcome.map(|()| record).map_err(|error| unwritten(&error));
            let lost = answer.is_err();
            if reply.send(answer).is_err() || lost {
                let order = LeaseOrder::Release { token, restart_model: None };
                arbiter.lease_order(order, ctx);
            }
        }));
    }

    fn tell_lease(&self, state: &'static str, owner: &str, expires_at: Option<f64>) {
        self.parts.events.publish(&events::Event::Lease {
            state,
            owner: owner.to_owned(),
            expires_at,
        });
    }

    fn lease_order(&mut self, order: LeaseOrder, ctx: &mut Context<Self>) -> LeaseOutcome {
        let (outcome, effects) = self.core.on_lease(order, clock::now());
        self.follow(effects, ctx);
        outcome
    }

    /// A lease that was there before this arbiter.
    pub(super) fn take_up_lease(&mut self, ctx: &mut Context<Self>) {
        if let Some((record, clearing)) = self.parts.leases.take_up() {
            self.apply(Event::LeaseKept { lease: record.lease(), clearing }, ctx);
        }
    }

    /// How long a lease has lived, by the wall clock: it may be older than this process.
    fn lease_age(&self) -> Duration {
        let granted = self.parts.leases.current().map(|record| record.granted_at);
        let age = granted.map_or(0.0, |granted| clock::unix_seconds() - granted);
        Duration::try_from_secs_f64(age).unwrap_or_default()
    }

    pub(super) fn withdraw_lease(&mut self, ticket: Ticket, ctx: &mut Context<Self>) {
        if self.lease_waits.remove(&ticket).is_some() {
            self.apply(Event::Abandon(ticket), ctx);
        }
    }
}

fn unwritten(error: &std::io::Error) -> ApiError {
    tracing::error!(%error, "a lease cannot be written down");
    ApiError::new(Code::Internal, format!("the lease cannot be written down: {error}"))
        .hint("look at the disk under _staging")
}

/// What is known of the engine that made room.
fn saved(model: &ModelName, running: Option<SavedModel>) -> SavedModel {
    let running = running.filter(|running| running.logical_name == model.as_str());
    running.unwrap_or_else(|| SavedModel {
        logical_name: model.to_string(),
        served_model_id: None,
        port: None,
        pid: None,
        started_at: None,
    })
}

impl Handler<AcquireLease> for GpuArbiter {
    type Result = ();

    fn handle(&mut self, order: AcquireLease, ctx: &mut Self::Context) {
        let AcquireLease { ask, reason, running, reply } = order;
        let wait = LeaseWait { owner: ask.owner.clone(), reason, running, reply };
        self.lease_waits.insert(ask.ticket, wait);
        self.apply(Event::Lease(ask), ctx);
    }
}

impl Handler<OrderLease> for GpuArbiter {
    type Result = ();

    fn handle(&mut self, order: OrderLease, ctx: &mut Self::Context) {
        let OrderLease { order, reply } = order;
        let order = match order {
            LeaseOrder::Force { token, owner, max_age: Some(age), restart_model } => {
                if self.lease_age() < age {
                    let _ = reply.send(self.too_young(age));
                    return;
                }
                LeaseOrder::Force { token, owner, max_age: None, restart_model }
            }
            other => other,
        };
        let answer = match self.lease_order(order, ctx) {
            LeaseOutcome::Renewed(lease) => {
                let Some(record) = self.parts.leases.current() else { return };
                let record = record.renewed(&lease);
                self.tell_lease("renewed", &record.owner, Some(record.expires_at));
                Ok(LeaseAnswer::Renewed(Arc::new(record)))
            }
            LeaseOutcome::Released => Ok(LeaseAnswer::Released),
            LeaseOutcome::Idle => Ok(LeaseAnswer::Idle),
            LeaseOutcome::WrongToken => {
                Err(ApiError::new(Code::LeaseToken, "no lease has this token; it may have expired"))
            }
            LeaseOutcome::Other { owner } => Err(busy(&owner)),
        };
        let record = match &answer {
            Ok(LeaseAnswer::Renewed(record)) => Some(Some(record.clone())),
            Ok(LeaseAnswer::Released) => Some(None),
            Ok(LeaseAnswer::Idle) | Err(_) => None,
        };
        let put = record.map(|record| self.parts.leases.clone().put(record));
        let writing = async move {
            let written = match put {
                Some(put) => put.await,
                None => Ok(()),
            };
            // Whoever ordered it may have gone.
            let _ = reply.send(written.map_err(|error| unwritten(&error)).and(answer));
        };
        ctx.spawn(writing.into_actor(self));
    }
}

impl GpuArbiter {
    fn too_young(&self, age: Duration) -> Result<LeaseAnswer, ApiError> {
        match self.parts.leases.current() {
            None => Ok(LeaseAnswer::Idle),
            Some(record) => {
                let error = busy(&record.owner);
                Err(error.hint(format!("it is younger than {} s", age.as_secs_f64())))
            }
        }
    }
}

fn busy(owner: &str) -> ApiError {
    ApiError::new(Code::GpuLeaseBusy, format!("another lease is there: {owner} holds it"))
}

impl Handler<BringBack> for GpuArbiter {
    type Result = ();

    fn handle(&mut self, BringBack(model): BringBack, ctx: &mut Self::Context) {
        let view = self.parts.registry.load();
        let Ok((_, Placement::SinglePort(launch))) = view.snapshot.resolve(model.as_str()) else {
            tracing::warn!(%model, "what was resident before the lease has no entry any more");
            return;
        };
        let launch = launch.clone();
        self.apply(Event::Restore(launch), ctx);
    }
}
