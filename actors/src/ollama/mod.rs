//! `OllamaActor`: asks Ollama on behalf of the proxy.
//!
//! Owns: what every Ollama of the registry has and has loaded, as it was last said, and the loads
//! and unloads that it was told to do. Accepts: [`EnsureLoaded`], [`Vacate`], [`Unload`],
//! [`GetOllama`]. Emits: `OllamaVacated` and `OllamaForgot` to the arbiter, `ShowOllama` to the
//! registry's list. Stops with the daemon. Restarts: with nothing; what Ollama has loaded is what
//! it says, and the arbiter repeats its order. Must never do: carry a chat request; those go from
//! the forwarders' own threads.

mod api;
pub mod by_hand;
mod loading;
mod looking;
pub mod messages;
mod servers;
mod vacating;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, SpawnHandle, WrapFuture};
use chat_proxy_core::engine::Cause;
use chat_proxy_core::registry::listing::OllamaActivity;
use chat_proxy_core::registry::{Endpoint, OllamaModel};
use chat_proxy_core::{ApiError, Code};
use futures_util::future::join_all;
use tokio::time::Instant;

use crate::client::Clients;
use crate::gpu_arbiter::messages::{OllamaForgot, OllamaVacated};
use crate::guard::Guard;
use crate::live::Live;
use crate::port::Port;
use crate::registry::{RegistryView, ShowOllama};
use loading::Load;
use messages::{EnsureLoaded, GetOllama, OllamaStatus, Unload, Vacate};
use servers::Server;
use vacating::{Bounds, Whom};

/// How often every Ollama is asked what it has loaded.
const LOOK: Duration = Duration::from_secs(5);
/// A load that was given up may hold memory for this long without being listed: Ollama lists what has
/// loaded.
const UNSURE: Duration = Duration::from_secs(2);

/// What may change while the actor runs.
#[derive(Debug, Clone)]
pub struct OllamaBounds {
    /// Longest load.
    pub load_timeout: Option<Duration>,
    /// Longest unload.
    pub stop_timeout: Duration,
    /// A model that Ollama put into main memory is no failure.
    pub allow_cpu: bool,
}

/// What the actor is made from; the same for each that is built.
#[derive(Clone)]
pub struct OllamaParts {
    /// The Ollama of the settings, if it shares the GPU: its models go before a vLLM starts even
    /// if the registry has no entry of it.
    pub own: Option<Endpoint>,
    /// Bounds.
    pub bounds: Live<OllamaBounds>,
    /// This machine has a GPU that Ollama could use.
    pub gpu_here: bool,
    /// Says which Ollamas there are.
    pub registry: RegistryView,
    /// Hears that the GPU is free.
    pub vacated: Port<OllamaVacated>,
    /// Hears that we have just begun.
    pub forgot: Port<OllamaForgot>,
    /// Who shows what there is.
    pub show: Port<ShowOllama>,
}

/// What is known of one Ollama.
#[derive(Debug, Clone, Default)]
struct Known {
    activity: OllamaActivity,
    last_error: Option<String>,
    /// It is being asked; and is to be asked once more when that is done.
    looking: bool,
    again: bool,
    /// Loads and unloads that we know of: an answer that was on its way meanwhile is old.
    changes: u64,
}

/// See the module.
pub struct OllamaActor {
    parts: OllamaParts,
    clients: Rc<Clients>,
    /// By base address.
    known: BTreeMap<String, Known>,
    shown: Arc<BTreeMap<String, OllamaActivity>>,
    abilities: Rc<looking::Abilities>,
    loads: Vec<Load>,
    /// Where models of this GPU were loaded, until it was given back.
    used: Vec<Endpoint>,
    /// Until then a load that was given up may hold memory without being listed.
    unsure_until: Instant,
    vacating: Option<SpawnHandle>,
    _guard: Guard,
}

impl OllamaActor {
    /// An actor that knows nothing yet; `again`: it takes the place of one that died, whose loads died
    /// with it.
    pub fn new(parts: OllamaParts, again: bool, guard: Guard) -> Self {
        let now = Instant::now();
        OllamaActor {
            parts,
            clients: Rc::default(),
            known: BTreeMap::new(),
            shown: Arc::default(),
            abilities: Rc::default(),
            loads: Vec::new(),
            used: Vec::new(),
            unsure_until: if again { now + UNSURE } else { now },
            vacating: None,
            _guard: guard,
        }
    }

    /// Every Ollama of the registry.
    fn servers(&self) -> Vec<Server> {
        servers::of(&self.parts.registry.load().snapshot)
    }

    /// Every Ollama that shares the GPU: those of the registry, the one of the settings, and those
    /// where we have loaded something since.
    fn sharing(&self) -> Vec<Server> {
        let mut all = self.servers();
        for endpoint in self.parts.own.iter().chain(&self.used) {
            servers::entry(&mut all, endpoint).shares = true;
        }
        all.retain(|server| server.shares);
        all
    }

    /// Asks all of them what they have and have loaded, each in its own time.
    fn look(&mut self, ctx: &mut Context<Self>) {
        let servers = self.servers();
        let named = |base: &String| servers.iter().any(|server| server.endpoint.base() == base);
        self.known.retain(|base, _| named(base));
        for server in servers {
            self.look_at(server, ctx);
        }
        self.show();
    }

    fn look_at(&mut self, server: Server, ctx: &mut Context<Self>) {
        let known = self.known.entry(server.endpoint.base().to_owned()).or_default();
        if std::mem::replace(&mut known.looking, true) {
            known.again = true;
            return;
        }
        known.again = false;
        let (clients, abilities, changes) =
            (self.clients.clone(), self.abilities.clone(), known.changes);
        let looking = async move {
            let found =
                looking::look_at(&clients, &server.endpoint, &server.names, &abilities).await;
            (server, found)
        };
        ctx.spawn(looking.into_actor(self).map(move |(server, found), actor, ctx| {
            let Some(known) = actor.known.get_mut(server.endpoint.base()) else { return };
            known.looking = false;
            let current = known.changes == changes;
            let again = known.again || !current;
            if current {
                known.learn(found);
                actor.show();
            }
            if again {
                actor.look_at(server, ctx);
            }
        }));
    }

    /// Tells the registry's list, when that has changed.
    fn show(&mut self) {
        let of = |(base, known): (&String, &Known)| (base.clone(), known.activity.clone());
        let asked = self.known.iter().filter(|(_, known)| known.is_asked());
        let now: BTreeMap<_, _> = asked.map(of).collect();
        if now == *self.shown {
            return;
        }
        let now = Arc::new(now);
        // A registry's reader that is being rebuilt hears of the next change.
        if self.parts.show.tell(ShowOllama(now.clone())).is_ok() {
            self.shown = now;
        }
    }

    /// These are gone, by what Ollama said just now.
    fn unloaded(&mut self, server: &Endpoint, names: &[String]) {
        if let Some(known) = self.known.get_mut(server.base()) {
            known.changes += 1;
            known.activity.loaded.retain(|name| !names.contains(name));
        }
        self.show();
    }

    fn vacate(&mut self, order: Vacate, ctx: &mut Context<Self>) {
        // Nobody waits for them any more, and they would fill the memory that is to be freed.
        if loading::give_up(self, ctx) {
            self.unsure_until = Instant::now() + UNSURE;
        }
        if let Some(handle) = self.vacating.take() {
            ctx.cancel_future(handle);
        }
        let (clients, servers) = (self.clients.clone(), self.sharing());
        let bounds =
            Bounds { limit: self.parts.bounds.load().stop_timeout, not_before: self.unsure_until };
        let vacating = async move {
            let unloading = servers.iter().map(|server| {
                let (clients, whom) = (&clients, Whom::AllBut(server.on_cpu.clone()));
                async move { vacating::unload(clients, &server.endpoint, &whom, bounds).await }
            });
            let outcomes = join_all(unloading).await;
            servers.into_iter().zip(outcomes).collect::<Vec<_>>()
        };
        let handle = ctx.spawn(vacating.into_actor(self).map(move |outcomes, actor, _| {
            actor.vacating = None;
            let given = actor.vacated(outcomes);
            // A new arbiter asks anew.
            let _ = actor.parts.vacated.tell(OllamaVacated { generation: order.0, given });
        }));
        self.vacating = Some(handle);
    }

    fn vacated(
        &mut self,
        outcomes: Vec<(Server, Result<Vec<String>, String>)>,
    ) -> Result<(), Cause> {
        let mut given = Ok(());
        for (server, outcome) in outcomes {
            let address = server.endpoint.origin();
            match outcome {
                Ok(names) => {
                    if !names.is_empty() {
                        tracing::info!(address, ?names, "Ollama has unloaded");
                        self.unloaded(&server.endpoint, &names);
                    }
                    self.used.retain(|used| used.base() != server.endpoint.base());
                }
                Err(why) => {
                    tracing::error!(address, why, "Ollama keeps the GPU");
                    given = Err(Cause::OllamaStays { why });
                }
            }
        }
        given
    }
}

impl Known {
    fn is_asked(&self) -> bool {
        self.activity.reachable || self.last_error.is_some()
    }

    fn learn(&mut self, found: Result<OllamaActivity, api::Trouble>) {
        match found {
            Ok(activity) => {
                self.activity = activity;
                self.last_error = None;
            }
            Err(trouble) => {
                let message = trouble.to_string();
                if self.last_error.as_ref() != Some(&message) {
                    tracing::warn!(%trouble, "Ollama cannot be asked");
                }
                self.last_error = Some(message);
                // What it has on its disk is not lost; what it had loaded is not known.
                self.activity.reachable = false;
                self.activity.loaded.clear();
            }
        }
    }
}

impl Actor for OllamaActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(LOOK, Self::look);
        ctx.run_interval(crate::client::IDLE_CONNECTION, |actor, _| actor.clients.drop_idle());
        // An arbiter that is not there yet has given no order.
        let _ = self.parts.forgot.tell(OllamaForgot);
        self.look(ctx);
    }
}

impl Handler<Vacate> for OllamaActor {
    type Result = ();

    fn handle(&mut self, order: Vacate, ctx: &mut Self::Context) {
        self.vacate(order, ctx);
    }
}

impl Handler<EnsureLoaded> for OllamaActor {
    type Result = ();

    fn handle(&mut self, order: EnsureLoaded, ctx: &mut Self::Context) {
        loading::ensure(self, order, ctx);
    }
}

impl Handler<Unload> for OllamaActor {
    type Result = ();

    fn handle(&mut self, order: Unload, ctx: &mut Self::Context) {
        let Unload { model, reply } = order;
        let (clients, limit) = (self.clients.clone(), self.parts.bounds.load().stop_timeout);
        let endpoints: Vec<Endpoint> = match &model {
            Some(model) => vec![model.server.clone()],
            None => self.sharing().into_iter().map(|server| server.endpoint).collect(),
        };
        let unloading = async move {
            let mut all = Vec::new();
            for server in endpoints {
                let whom = match &model {
                    Some(model) => Whom::One(model.tag.clone()),
                    None => Whom::AllBut(Vec::new()),
                };
                let bounds = Bounds { limit, not_before: Instant::now() };
                let outcome = vacating::unload(&clients, &server, &whom, bounds).await;
                all.push((server, outcome));
            }
            all
        };
        ctx.spawn(unloading.into_actor(self).map(move |outcomes, actor, _| {
            let mut answer = Ok(Vec::new());
            for (server, outcome) in outcomes {
                match (outcome, &mut answer) {
                    (Ok(names), answer) => {
                        actor.unloaded(&server, &names);
                        if let Ok(all) = answer {
                            all.extend(names);
                        }
                    }
                    (Err(why), answer) => {
                        *answer = Err(ApiError::new(Code::BackendUnavailable, why)
                            .hint("requests that still run there keep a model loaded"));
                    }
                }
            }
            // Whoever asked may have gone.
            let _ = reply.send(answer);
        }));
    }
}

impl Handler<GetOllama> for OllamaActor {
    type Result = Vec<OllamaStatus>;

    fn handle(&mut self, _: GetOllama, _: &mut Self::Context) -> Self::Result {
        let status = |server: Server| {
            let known = self.known.get(server.endpoint.base()).filter(|known| known.is_asked());
            OllamaStatus {
                shares_gpu: server.shares,
                state: match known {
                    None => "unknown",
                    Some(known) if known.activity.reachable => "ready",
                    Some(_) => "unreachable",
                },
                loaded: known.map(|known| known.activity.loaded.clone()).unwrap_or_default(),
                installed: known.map_or(0, |known| known.activity.tags.len()),
                last_error: known.and_then(|known| known.last_error.clone()),
                port: server.endpoint.port(),
                base: server.endpoint.origin().to_owned(),
            }
        };
        self.servers().into_iter().map(status).collect()
    }
}

/// Whether this machine has a GPU that Ollama could use.
pub fn gpu_here() -> bool {
    ["/dev/nvidiactl", "/dev/nvidia0", "/dev/kfd"]
        .iter()
        .any(|path| std::path::Path::new(path).exists())
}

/// The same model at the same Ollama.
fn same(one: &OllamaModel, other: &OllamaModel) -> bool {
    one.server.base() == other.server.base()
        && chat_proxy_core::chat::ollama::same_model(&one.tag, &other.tag)
}
