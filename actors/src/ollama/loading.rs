//! Loading a model.
//!
//! Owns: one load for all who want the same model, its bound, and what its failures mean for a
//! client. Must never do: load what is there already, by the last look.

use std::sync::Arc;
use std::time::Duration;

use actix::{ActorFutureExt, AsyncContext, Context, SpawnHandle, WrapFuture};
use chat_proxy_core::chat::ollama::{embed_nothing, load_body};
use chat_proxy_core::registry::OllamaModel;
use chat_proxy_core::{ApiError, Code};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::Instrument;

use super::api::{self, Trouble};
use super::messages::{EnsureLoaded, LoadFailure};
use super::vacating::{self, Bounds, Whom};
use super::{OllamaActor, OllamaParts, same};
use crate::client::Clients;

type Answer = Result<(), LoadFailure>;

/// A load that is under way, and who waits for it.
pub(super) struct Load {
    model: Arc<OllamaModel>,
    waiting: Vec<oneshot::Sender<Answer>>,
    handle: SpawnHandle,
}

/// Answers at once if the model is there, else when it is.
pub(super) fn ensure(actor: &mut OllamaActor, order: EnsureLoaded, ctx: &mut Context<OllamaActor>) {
    let EnsureLoaded { model, span, reply } = order;
    let known = actor.known.get(model.server.base());
    if known.is_some_and(|known| known.activity.reachable && known.activity.has_loaded(&model.tag))
    {
        // Whoever asked may have gone.
        let _ = reply.send(Ok(()));
        return;
    }
    if let Some(load) = actor.loads.iter_mut().find(|load| same(&load.model, &model)) {
        load.waiting.push(reply);
        return;
    }
    let (clients, parts, wanted) = (actor.clients.clone(), actor.parts.clone(), model.clone());
    let loading = async move { load(&clients, &parts, &wanted).await }.instrument(span);
    let loaded = model.clone();
    let handle = ctx.spawn(loading.into_actor(actor).map(move |outcome, actor, ctx| {
        actor.done(&loaded, &outcome);
        // Sizes and what else went for it are seen by the next look.
        actor.look(ctx);
    }));
    actor.loads.push(Load { model, waiting: vec![reply], handle });
}

/// Ends the loads of this GPU; answers whether there were any. Those who wait, if anybody does, are
/// told that another model goes before.
pub(super) fn give_up(actor: &mut OllamaActor, ctx: &mut Context<OllamaActor>) -> bool {
    let loads: Vec<Load> = actor.loads.extract_if(.., |load| load.model.shares_gpu).collect();
    for load in &loads {
        ctx.cancel_future(load.handle);
    }
    let any = !loads.is_empty();
    for load in loads {
        let error = ApiError::new(
            Code::BackendUnavailable,
            format!("{} was not loaded: the GPU is wanted for another model", load.model.tag),
        );
        for reply in load.waiting {
            let _ = reply.send(Err(LoadFailure { error: error.clone(), unreachable: false }));
        }
    }
    any
}

impl OllamaActor {
    fn done(&mut self, model: &OllamaModel, outcome: &Answer) {
        let Some(at) = self.loads.iter().position(|load| same(&load.model, model)) else { return };
        let load = self.loads.swap_remove(at);
        if model.server_shares_gpu
            && self.used.iter().all(|used| used.base() != model.server.base())
        {
            self.used.push(model.server.clone());
        }
        let known = self.known.entry(model.server.base().to_owned()).or_default();
        known.changes += 1;
        match outcome {
            Ok(()) => {
                known.activity.reachable = true;
                if !known.activity.has_loaded(&model.tag) {
                    known.activity.loaded.push(model.tag.clone());
                }
            }
            Err(failure) => known.last_error = Some(failure.error.message.clone()),
        }
        self.show();
        for reply in load.waiting {
            // Some may have gone.
            let _ = reply.send(outcome.clone());
        }
    }
}

async fn load(clients: &Clients, parts: &OllamaParts, model: &OllamaModel) -> Answer {
    let (body, bounds) = (load_body(&model.pinned()), parts.bounds.load());
    let began = std::time::Instant::now();
    let mut asked = api::post(clients, &model.server, "/api/chat", body, bounds.load_timeout).await;
    if matches!(&asked, Err(Trouble::Status { status: 400, message }) if message.contains("does not support"))
    {
        // One that only embeds is loaded by embedding nothing.
        let body = embed_nothing(&model.pinned());
        asked = api::post(clients, &model.server, "/api/embed", body, bounds.load_timeout).await;
    }
    if let Err(trouble) = asked {
        return Err(failure(&trouble, model, bounds.load_timeout));
    }
    tracing::info!(model = model.tag, took = ?began.elapsed(), "Ollama has loaded a model");
    let fallback_matters = parts.gpu_here && !bounds.allow_cpu && model.shares_gpu;
    if fallback_matters && in_main_memory(clients, model).await {
        return Err(no_room(clients, parts, model).await);
    }
    Ok(())
}

/// Whether it runs on the CPU alone, by Ollama's own word.
async fn in_main_memory(clients: &Clients, model: &OllamaModel) -> bool {
    if model.options.get("num_gpu").and_then(serde_json::Value::as_i64) == Some(0) {
        return false; // it was meant to
    }
    let Ok(loaded) = api::ps(clients, &model.server).await else { return false };
    let whom = Whom::One(model.tag.clone());
    loaded.iter().any(|one| whom.means(one) && one.size > 0 && one.size_vram == 0)
}

async fn no_room(clients: &Clients, parts: &OllamaParts, model: &OllamaModel) -> LoadFailure {
    let whom = Whom::One(model.tag.clone());
    let bounds = Bounds { limit: parts.bounds.load().stop_timeout, not_before: Instant::now() };
    if let Err(why) = vacating::unload(clients, &model.server, &whom, bounds).await {
        tracing::warn!(why, "a model that runs on the CPU was not unloaded");
    }
    let message = format!("Ollama put {} into main memory, not onto the GPU", model.tag);
    let error = ApiError::new(Code::ModelStartFailed, message)
        .hint("free GPU memory or lower num_ctx; or set ollama_allow_cpu_fallback = true");
    LoadFailure { error, unreachable: false }
}

/// What a client is told (SPEC 2.1).
fn failure(trouble: &Trouble, model: &OllamaModel, limit: Option<Duration>) -> LoadFailure {
    let tag = &model.tag;
    let unavailable =
        |hint: &str| ApiError::new(Code::BackendUnavailable, trouble.to_string()).hint(hint);
    let error = match trouble {
        Trouble::Refused(_) => {
            unavailable("start Ollama (`ollama serve`), or name it in autostart_map")
        }
        Trouble::Broken { .. } | Trouble::Nonsense { .. } => {
            unavailable("look whether ollama_base_url is an Ollama, and at its log")
        }
        Trouble::Late { .. } => {
            let seconds = limit.unwrap_or_default().as_secs_f64();
            ApiError::new(
                Code::ModelStartTimeout,
                format!("Ollama did not load {tag} within {seconds} s"),
            )
            .hint("raise ollama_load_timeout_s; Ollama's log shows how far it came")
        }
        Trouble::Status { status: 404, message } => {
            ApiError::new(Code::ModelNotFound, format!("Ollama: {message}"))
                .param("model")
                .hint(format!("`ollama pull {tag}`, or correct the entry's served_model_id"))
        }
        // Too many wait there: with its advice to come back.
        Trouble::Status { status: 503, message } => ApiError::backend(503, Some(message.clone())),
        Trouble::Status { status, message } if *status < 500 => {
            ApiError::invalid("model", format!("Ollama: {message}"))
        }
        Trouble::Status { message, .. } => {
            ApiError::new(Code::ModelStartFailed, format!("Ollama did not load {tag}"))
                .hint(message)
        }
    };
    LoadFailure { error, unreachable: trouble.is_absence() }
}
