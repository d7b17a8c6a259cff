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
mod vacating;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, SpawnHandle, WrapFuture};
use chat_proxy_core::engine::Cause;
use chat_proxy_core::registry::listing::OllamaActivity;
use chat_proxy_core::registry::{Endpoint, OllamaModel, Placement};
use chat_proxy_core::{ApiError, Code};
use futures_util::future::join_all;

use crate::client::Clients;
use crate::gpu_arbiter::messages::{OllamaForgot, OllamaVacated};
use crate::guard::Guard;
use crate::port::Port;
use crate::registry::{RegistryView, ShowOllama};
use loading::Load;
use messages::{EnsureLoaded, GetOllama, OllamaStatus, Unload, Vacate};
use vacating::Whom;

/// How often every Ollama is asked what it has loaded.
const LOOK: Duration = Duration::from_secs(5);

/// What the actor is made from; the same for each that is built.
#[derive(Clone)]
pub struct OllamaParts {
    /// The Ollama of the settings, if it shares the GPU: its models go before a vLLM starts even
    /// if the registry has no entry of it.
    pub own: Option<Endpoint>,
    /// Longest load.
    pub load_timeout: Option<Duration>,
    /// Longest unload.
    pub stop_timeout: Duration,
    /// A model that Ollama put into main memory is no failure.
    pub allow_cpu: bool,
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
}

/// See the module.
pub struct OllamaActor {
    parts: OllamaParts,
    clients: Rc<Clients>,
    /// By base address.
    known: BTreeMap<String, Known>,
    shown: Arc<BTreeMap<String, OllamaActivity>>,
    looking: bool,
    abilities: Rc<looking::Abilities>,
    loads: Vec<Load>,
    vacating: Option<SpawnHandle>,
    _guard: Guard,
}

impl OllamaActor {
    /// An actor that knows nothing yet.
    pub fn new(parts: OllamaParts, guard: Guard) -> Self {
        OllamaActor {
            parts,
            clients: Rc::default(),
            known: BTreeMap::new(),
            shown: Arc::default(),
            looking: false,
            abilities: Rc::default(),
            loads: Vec::new(),
            vacating: None,
            _guard: guard,
        }
    }

    /// Every Ollama of the registry, with whether it shares the GPU; and the one of the settings.
    fn servers(&self, with_own: bool) -> Vec<(Endpoint, bool)> {
        let view = self.parts.registry.load();
        let mut servers: Vec<(Endpoint, bool)> = Vec::new();
        let mut add = |server: &Endpoint, shares: bool| match servers
            .iter_mut()
            .find(|(known, _)| known.base() == server.base())
        {
            Some((_, known)) => *known |= shares,
            None => servers.push((server.clone(), shares)),
        };
        for position in 0..view.snapshot.entries().len() {
            if let Placement::Ollama(model) = view.snapshot.placement(position) {
                add(&model.server, model.shares_gpu);
            }
        }
        if let Some(own) = self.parts.own.as_ref().filter(|_| with_own) {
            add(own, true);
        }
        servers
    }

    /// What the registry's entries are called at Ollama.
    fn names(&self) -> Vec<String> {
        let view = self.parts.registry.load();
        let positions = 0..view.snapshot.entries().len();
        let name = |position| match view.snapshot.placement(position) {
            Placement::Ollama(model) => Some(model.tag.clone()),
            _ => None,
        };
        positions.filter_map(name).collect()
    }

    fn sharing(&self) -> Vec<Endpoint> {
        let all = self.servers(true).into_iter();
        all.filter(|(_, shares)| *shares).map(|(server, _)| server).collect()
    }

    /// Asks all of them what they have and have loaded.
    fn look(&mut self, ctx: &mut Context<Self>) {
        let servers = self.servers(false);
        if self.looking || servers.is_empty() {
            return;
        }
        self.looking = true;
        let (clients, abilities) = (self.clients.clone(), self.abilities.clone());
        let wanted = self.names();
        let looking = async move {
            let asked = servers
                .iter()
                .map(|(server, _)| looking::look_at(&clients, server, &wanted, &abilities));
            let found = join_all(asked).await;
            servers.into_iter().map(|(server, _)| server).zip(found).collect::<Vec<_>>()
        };
        ctx.spawn(looking.into_actor(self).map(|found, actor, _| {
            actor.looking = false;
            actor.found(found);
        }));
    }

    fn found(&mut self, found: Vec<(Endpoint, Result<OllamaActivity, api::Trouble>)>) {
        self.known.retain(|base, _| found.iter().any(|(server, _)| server.base() == base));
        for (server, outcome) in found {
            let known = self.known.entry(server.base().to_owned()).or_default();
            match outcome {
                Ok(activity) => {
                    known.activity = activity;
                    known.last_error = None;
                }
                Err(trouble) => {
                    let message = trouble.to_string();
                    if known.last_error.as_ref() != Some(&message) {
                        tracing::warn!(%trouble, "Ollama cannot be asked");
                    }
                    known.last_error = Some(message);
                    // What it has on its disk is not lost; what it had loaded is not known.
                    known.activity.reachable = false;
                    known.activity.loaded.clear();
                }
            }
        }
        self.show();
    }

    /// Tells the registry's list, when that has changed.
    fn show(&mut self) {
        let of = |(base, known): (&String, &Known)| (base.clone(), known.activity.clone());
        let now: BTreeMap<_, _> = self.known.iter().map(of).collect();
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
            known.activity.loaded.retain(|name| !names.contains(name));
        }
        self.show();
    }

    fn vacate(&mut self, order: Vacate, ctx: &mut Context<Self>) {
        // Loads that nobody waits for any more would fill the memory that is to be freed.
        loading::give_up(self, ctx);
        if let Some(handle) = self.vacating.take() {
            ctx.cancel_future(handle);
        }
        let (clients, servers) = (self.clients.clone(), self.sharing());
        let limit = self.parts.stop_timeout;
        let vacating = async move {
            let unloading = servers.iter().map(|server| {
                let clients = &clients;
                async move { vacating::unload(clients, server, &Whom::All, limit).await }
            });
            let outcomes = join_all(unloading).await;
            servers.into_iter().zip(outcomes).collect::<Vec<_>>()
        };
        let handle = ctx.spawn(vacating.into_actor(self).map(move |outcomes, actor, _| {
            actor.vacating = None;
            let mut given = Ok(());
            for (server, outcome) in outcomes {
                match outcome {
                    Ok(names) if names.is_empty() => {}
                    Ok(names) => {
                        tracing::info!(address = server.origin(), ?names, "Ollama has unloaded");
                        actor.unloaded(&server, &names);
                    }
                    Err(why) => {
                        tracing::error!(address = server.origin(), why, "Ollama keeps the GPU");
                        given = Err(Cause::OllamaStays { why });
                    }
                }
            }
            // A new arbiter asks anew.
            let _ = actor.parts.vacated.tell(OllamaVacated { generation: order.0, given });
        }));
        self.vacating = Some(handle);
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
        let (clients, limit) = (self.clients.clone(), self.parts.stop_timeout);
        let (servers, name) = match model {
            Some(model) => (vec![model.server.clone()], Some(model.tag.clone())),
            None => (self.sharing(), None),
        };
        let unloading = async move {
            let mut all = Vec::new();
            for server in servers {
                let whom = name.clone().map_or(Whom::All, Whom::One);
                let outcome = vacating::unload(&clients, &server, &whom, limit).await;
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
        let status = |(server, shares_gpu): (Endpoint, bool)| {
            let known = self.known.get(server.base());
            OllamaStatus {
                shares_gpu,
                state: match known {
                    None => "unknown",
                    Some(known) if known.activity.reachable => "ready",
                    Some(_) => "unreachable",
                },
                loaded: known.map(|known| known.activity.loaded.clone()).unwrap_or_default(),
                installed: known.map_or(0, |known| known.activity.tags.len()),
                last_error: known.and_then(|known| known.last_error.clone()),
                port: server.port(),
                base: server.origin().to_owned(),
            }
        };
        self.servers(false).into_iter().map(status).collect()
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
