//! Services that are entries of the registry, and what is started at the beginning.
//!
//! Owns: that there is one call for all who ask for an entry. Must never do: start an engine or load
//! a model itself; whoever has them is asked, and has bounds and back-offs of their own.

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use chat_proxy_core::autostart::{ServiceSpec, failure};
use chat_proxy_core::registry::{Placement, Snapshot};
use chat_proxy_core::{ApiError, Code};
use tokio::sync::oneshot;

use super::messages::{EnsureStarted, ServiceStatus};
use super::{AutostartActor, Name, Reply, lost};
use crate::clock;

/// How a service that is an entry is.
#[derive(Debug, Default)]
enum State {
    /// Nobody has asked for it yet.
    #[default]
    Stopped,
    /// Whoever has it has been asked.
    Starting(Vec<Reply>),
    /// It was there when it was asked for last.
    Ready,
    /// It was not.
    Failed,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct EntryService {
    state: State,
    since: Option<f64>,
    starts: u64,
    last_error: Option<String>,
}

impl EntryService {
    fn turn(&mut self, state: State) -> State {
        self.since = Some(clock::unix_seconds());
        std::mem::replace(&mut self.state, state)
    }

    pub(super) fn status(&self, spec: &ServiceSpec, snapshot: &Snapshot) -> ServiceStatus {
        ServiceStatus {
            adapter: adapter(spec, snapshot),
            state: match self.state {
                State::Stopped => "stopped",
                State::Starting(_) => "starting",
                State::Ready => "ready",
                State::Failed => "failed",
            },
            pid: None,
            since: self.since,
            starts: self.starts,
            last_error: self.last_error.clone(),
            log: None,
            models: vec![spec.name.clone()],
            backends: spec.backends.clone(),
        }
    }
}

/// `vllm` or `ollama`: where the entry lives, or, without one, what it is mapped to.
fn adapter(spec: &ServiceSpec, snapshot: &Snapshot) -> &'static str {
    match snapshot.resolve(&spec.name) {
        Ok((_, Placement::Ollama(_))) => "ollama",
        Err(_) if spec.backends.iter().any(|backend| backend == "ollama") => "ollama",
        _ => "vllm",
    }
}

/// The name of an entry that can be started, or why there is none.
fn entry(name: &str, snapshot: &Snapshot) -> Result<String, ApiError> {
    match snapshot.resolve(name) {
        Ok((_, Placement::External(endpoint))) => Err(ApiError::new(
            Code::BackendUnavailable,
            format!(
                "{name} is served at {} by somebody else; it cannot be started from here",
                endpoint.base()
            ),
        )
        .hint("give it a table [autostart.services.NAME] with its command")),
        Ok((entry, _)) => Ok(entry.name.clone()),
        Err(error) => {
            let mut unknown = failure::unknown(name);
            unknown.hint = error.hint.or(unknown.hint);
            Err(unknown)
        }
    }
}

impl AutostartActor {
    pub(super) fn ask_entry(&mut self, name: &Name, reply: Reply, ctx: &mut Context<Self>) {
        let Some(service) = self.entries.get_mut(name) else { return };
        if let State::Starting(waiting) = &mut service.state {
            return waiting.push(reply);
        }
        service.starts += 1;
        service.turn(State::Starting(vec![reply]));
        let called = self.call_entry(name);
        let name = name.clone();
        ctx.spawn(called.into_actor(self).map(move |outcome, actor, _| {
            actor.entry_answered(&name, &outcome);
        }));
    }

    fn call_entry(&self, name: &str) -> impl Future<Output = Result<(), ApiError>> + use<> {
        let found = entry(name, &self.parts.registry.load().snapshot);
        let called = found.map(|entry| (self.parts.entries)(entry));
        async move { called?.await }
    }

    fn entry_answered(&mut self, name: &Name, outcome: &Result<(), ApiError>) {
        let Some(service) = self.entries.get_mut(name) else { return };
        let state = match outcome {
            Ok(()) => State::Ready,
            Err(error) => {
                tracing::error!(service = %name, %error, "an entry could not be started");
                service.last_error = Some(error.message.clone());
                State::Failed
            }
        };
        if let State::Starting(waiting) = service.turn(state) {
            for reply in waiting {
                // Who asked may have left.
                let _ = reply.send(outcome.clone());
            }
        }
    }

    /// Starts what is to run from the beginning, one after the other, as if by hand.
    pub(super) fn preload(&mut self, ctx: &mut Context<Self>) {
        let Some(name) = self.parts.preload.next() else { return };
        if self.ending {
            return;
        }
        let (reply, told) = oneshot::channel();
        if self.parts.plan.get(&name).is_some() {
            let order =
                EnsureStarted { service: name.clone(), probe: None, by_request: false, reply };
            self.ensure(order, ctx);
        } else {
            let called = self.call_entry(&name);
            let answer = async move { drop(reply.send(called.await)) };
            ctx.spawn(answer.into_actor(self));
        }
        ctx.spawn(told.into_actor(self).map(move |outcome, actor, ctx| {
            match outcome.unwrap_or_else(|_| Err(lost(&name))) {
                Ok(()) => tracing::info!(name, "preloaded"),
                Err(error) => {
                    let hint = error.hint.clone().unwrap_or_default();
                    tracing::error!(name, %error, hint, "could not be preloaded");
                }
            }
            actor.parts.preload.is_done(&name);
            actor.preload(ctx);
        }));
    }
}
