//! `POST /v1/backends/ollama/{load,unload}`.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use chat_proxy_actors::gpu_arbiter::messages::Deactivate;
use chat_proxy_actors::ollama::by_hand::ByHand;
use chat_proxy_actors::ollama::messages::Unload;
use chat_proxy_core::gpu::Side;
use chat_proxy_core::gpu::scheduler::Stopping;
use chat_proxy_core::registry::{OllamaModel, Placement};
use chat_proxy_core::{ApiError, Code};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::oneshot;

use super::state::{AppState, ask};
use super::{backends, error, management};

/// Which model, and whether to wait for it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LoadOrder {
    model: String,
    #[serde(default)]
    wait: bool,
}

/// Loads a model, by hand: whatever has the GPU makes room, as it would for a request.
pub(super) async fn load(
    request: HttpRequest,
    mut payload: web::Payload,
    state: web::Data<AppState>,
) -> HttpResponse {
    match try_load(&request, &mut payload, &state).await {
        Ok(response) => response,
        Err(failure) => error::respond(&failure),
    }
}

async fn try_load(
    request: &HttpRequest,
    payload: &mut web::Payload,
    state: &AppState,
) -> Result<HttpResponse, ApiError> {
    management::admin(request)?;
    let order: LoadOrder = management::order(request, payload, state).await?;
    let (name, model) = model_of(state, &order.model)?;
    let hands = by_hand(state);
    if order.wait {
        hands.load(&model).await?;
        return Ok(HttpResponse::Ok().json(json!({"model": name, "state": "ready"})));
    }
    let told = name.clone();
    // Nobody waits for it; it ends with the daemon at the latest.
    actix_web::rt::spawn(async move {
        if let Err(error) = hands.load(&model).await {
            tracing::warn!(model = told, %error, "a model that was ordered by hand was not loaded");
        }
    });
    Ok(HttpResponse::Accepted().json(json!({"model": name, "state": "loading"})))
}

/// What orders by hand need.
pub(super) fn by_hand(state: &AppState) -> ByHand {
    let directory = &state.directory;
    ByHand {
        activate: directory.port(|book| book.arbiter.clone()),
        admit: directory.port(|book| book.arbiter.clone()),
        abandon: directory.port(|book| book.arbiter.clone()),
        load: directory.port(|book| book.ollama.clone()),
        ledger: state.ledger.clone(),
    }
}

fn model_of(state: &AppState, name: &str) -> Result<(String, Arc<OllamaModel>), ApiError> {
    let view = state.registry.load();
    let (entry, placement) = view.resolve(name)?;
    match placement {
        Placement::Ollama(model) => Ok((entry.name.clone(), model.clone())),
        _ => Err(ApiError::invalid("model", format!("{} is no model of Ollama", entry.name))),
    }
}

/// Which model; none: all that share the GPU, and then `force` ends what runs.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UnloadOrder {
    model: Option<String>,
    #[serde(default)]
    force: bool,
}

/// Unloads one model, or all, and says what that waits for.
pub(super) async fn unload(
    request: HttpRequest,
    mut payload: web::Payload,
    state: web::Data<AppState>,
) -> HttpResponse {
    match try_unload(&request, &mut payload, &state).await {
        Ok(response) => response,
        Err(failure) => error::respond(&failure),
    }
}

async fn try_unload(
    request: &HttpRequest,
    payload: &mut web::Payload,
    state: &AppState,
) -> Result<HttpResponse, ApiError> {
    management::admin(request)?;
    let order: UnloadOrder = management::order(request, payload, state).await?;
    let model = match &order.model {
        Some(_) if order.force => {
            let message = "`force` ends what runs for all models: leave `model` out";
            return Err(ApiError::invalid("force", message));
        }
        Some(name) => Some(model_of(state, name)?.1),
        None => None,
    };
    if model.is_none() {
        let arbiter = state.directory.port(|book| book.arbiter.clone());
        let force = order.force;
        let met = ask(&arbiter, || Deactivate { side: Side::Ollama, force }).await?;
        if met != Stopping::Idle {
            return Ok(backends::stopped(&met, force));
        }
    }
    let (reply, gone) = oneshot::channel();
    let asker = state.directory.port(|book| book.ollama.clone());
    let lost =
        || ApiError::new(Code::Internal, "a part of the proxy does not answer").hint("try again");
    asker.tell(Unload { model, reply }).map_err(|_| lost())?;
    let gone = gone.await.map_err(|_| lost())??;
    Ok(HttpResponse::Ok().json(json!({"status": "unloaded", "models": gone})))
}
