//! `GET /v1/backends`, `POST /v1/backends/vllm/{activate,deactivate}`.

use std::sync::Arc;
use std::time::Instant;

use actix_web::{HttpRequest, HttpResponse, web};
use chat_proxy_actors::autostart::messages::ServiceStatus;
use chat_proxy_actors::gpu_arbiter::messages::{Activate, Deactivate, GetStatus, Outcome, Status};
use chat_proxy_actors::ollama::messages::{GetOllama, OllamaStatus};
use chat_proxy_actors::vllm_supervisor::messages::{EngineStatus, GetEngine};
use chat_proxy_core::engine::Launch;
use chat_proxy_core::gpu::Side;
use chat_proxy_core::gpu::scheduler::Stopping;
use chat_proxy_core::registry::Placement;
use chat_proxy_core::{ApiError, Code};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::state::{ANSWER, AppState, LOOK, ask};
use super::{autostart, error, management};

/// Every backend with its state, what is resident, who waits.
pub(super) async fn list(state: web::Data<AppState>) -> HttpResponse {
    match describe(&state).await {
        Ok(shown) => HttpResponse::Ok().json(shown),
        Err(failure) => error::respond(&failure),
    }
}

async fn describe(state: &AppState) -> Result<Value, ApiError> {
    let gpu = gpu_status(state).await?;
    let mut backends = Vec::new();
    if state.settings().vllm.vllm_single_port {
        let engines = state.directory.port(|book| book.vllm.clone());
        backends.push(supervised(&ask(&engines, || GetEngine).await?, &gpu));
    }
    let askers = state.directory.port(|book| book.ollama.clone());
    let ollamas = ask(&askers, || GetOllama).await?;
    let loaded: Vec<&String> = ollamas.iter().flat_map(|ollama| &ollama.loaded).collect();
    let resident = match &gpu.model {
        _ if !matches!(gpu.state, "ready" | "draining") => Value::Null,
        // It has the GPU, with whatever it has loaded: perhaps nothing yet.
        Some(_) if gpu.ollama => loaded.first().map_or(json!("ollama"), |name| json!(name)),
        model => json!(model),
    };
    backends.extend(ollamas.iter().map(|ollama| ollama_line(ollama, &gpu, state)));
    let services = autostart::services(state).await?.services;
    backends.extend(services.iter().filter_map(|(name, service)| service_line(name, service)));
    backends.extend(external(state));
    Ok(json!({
        "backends": backends, "resident": resident, "queue": gpu.queue, "budget": gpu.budget,
        "infeasible_bounds": gpu.infeasible, "swaps": gpu.swaps,
    }))
}

/// The arbiter's view.
pub(super) async fn gpu_status(state: &AppState) -> Result<Status, ApiError> {
    let arbiter = state.directory.port(|book| book.arbiter.clone());
    ask(&arbiter, || GetStatus).await
}

fn supervised(engine: &EngineStatus, gpu: &Status) -> Value {
    json!({
        "name": "vllm", "kind": "vllm", "state": engine.state, "model": engine.model,
        "pid": engine.pid, "port": engine.port, "since": engine.since,
        "restarts": engine.restarts, "last_error": engine.last_error,
        "in_flight": if gpu.ollama { 0 } else { gpu.in_flight },
        "queue_depth": gpu.queue.iter().filter(|waiter| !waiter.ollama).count(), "log": engine.log,
        "in_crash_loop": engine.in_crash_loop,
    })
}

/// An Ollama, with what it has loaded.
fn ollama_line(ollama: &OllamaStatus, gpu: &Status, state: &AppState) -> Value {
    let view = state.registry.load();
    let of_it = view.snapshot.entries().iter().enumerate().filter(|(position, _)| {
        matches!(view.snapshot.placement(*position), Placement::Ollama(model)
            if model.server.origin() == ollama.base)
    });
    let in_flight: i64 = of_it.map(|(_, entry)| state.metrics.in_flight_at(&entry.name)).sum();
    let queued = gpu.queue.iter().filter(|waiter| waiter.ollama && ollama.shares_gpu).count();
    json!({
        "name": "ollama", "kind": "ollama", "state": ollama.state,
        "model": ollama.loaded.first(), "models": ollama.loaded, "pid": null,
        "port": ollama.port, "since": null, "restarts": 0,
        "last_error": ollama.last_error, "in_flight": in_flight, "queue_depth": queued,
        "address": ollama.base, "shares_gpu": ollama.shares_gpu, "installed": ollama.installed,
    })
}

/// A program that is started on demand; entries of the registry have lines of their own.
fn service_line(name: &str, service: &ServiceStatus) -> Option<Value> {
    (service.adapter == "shell").then(|| {
        json!({
            "name": name, "kind": "service", "state": service.state,
            "model": service.models.first(), "models": service.models, "pid": service.pid,
            "port": null, "since": service.since, "restarts": service.starts.saturating_sub(1),
            "last_error": service.last_error, "in_flight": 0, "queue_depth": 0,
            "log": service.log,
        })
    })
}

/// Servers that somebody else runs: what is known of them is what we send them.
fn external(state: &AppState) -> Vec<Value> {
    let view = state.registry.load();
    let entries = view.snapshot.entries().iter().enumerate();
    let shown = entries.filter_map(|(position, entry)| {
        let Placement::External(endpoint) = view.snapshot.placement(position) else { return None };
        let in_flight = state.metrics.in_flight_at(&entry.name);
        Some(json!({
            "name": entry.name, "kind": "external", "state": "external", "model": entry.name,
            "pid": null, "port": endpoint.port(), "since": null, "restarts": 0,
            "last_error": null, "in_flight": in_flight,
            "queue_depth": state.limits.waiting_for(&entry.name),
        }))
    });
    shown.collect()
}

/// Which model, and whether to wait for it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ActivateOrder {
    model: String,
    #[serde(default)]
    wait: bool,
}

/// Makes a model resident, by hand.
pub(super) async fn activate(
    request: HttpRequest,
    mut payload: web::Payload,
    state: web::Data<AppState>,
) -> HttpResponse {
    match try_activate(&request, &mut payload, &state).await {
        Ok(response) => response,
        Err(failure) => error::respond(&failure),
    }
}

async fn try_activate(
    request: &HttpRequest,
    payload: &mut web::Payload,
    state: &AppState,
) -> Result<HttpResponse, ApiError> {
    management::admin(request)?;
    let order: ActivateOrder = management::order(request, payload, state).await?;
    let launch = launch_of(state, &order.model)?;
    let model = launch.model.clone();
    let mut outcome = give_order(state, &launch).await?;
    if !order.wait {
        let gpu = gpu_status(state).await?;
        // In the daemon's first moment what is there is being found out; the order stands.
        let state = if gpu.state == "unknown" { "loading" } else { gpu.state };
        let shown = json!({"model": model, "state": state, "resident": gpu.model});
        return Ok(HttpResponse::Accepted().json(shown));
    }
    let mut given = 1;
    loop {
        match outcome.await {
            Ok(Outcome::Refused(refusal)) => return Err(refusal),
            Ok(Outcome::Activated | Outcome::Granted(_)) => {
                return Ok(HttpResponse::Ok().json(json!({"model": model, "state": "ready"})));
            }
            Err(_) if given == MAX_ORDERS => {
                let message = "the order was lost: a part of the proxy keeps failing";
                return Err(ApiError::new(Code::Internal, message));
            }
            // The arbiter died with it: its successor is told.
            Err(_) => outcome = give_order(state, &launch).await?,
        }
        given += 1;
    }
}

/// So often is one order given to arbiters that die over it.
const MAX_ORDERS: usize = 3;

/// Gives the order to whoever decides about the GPU, or will in a moment.
async fn give_order(
    state: &AppState,
    launch: &Arc<Launch>,
) -> Result<oneshot::Receiver<Outcome>, ApiError> {
    let arbiter = state.directory.port(|book| book.arbiter.clone());
    let until = Instant::now() + ANSWER;
    loop {
        let (reply, outcome) = oneshot::channel();
        let tenant = launch.clone().into();
        let order = Activate { ticket: state.ledger.ticket(), tenant, reply };
        match arbiter.tell(order) {
            Ok(()) => return Ok(outcome),
            Err(_) if Instant::now() < until => tokio::time::sleep(LOOK).await,
            Err(_) => {
                let message = "a part of the proxy does not answer";
                return Err(ApiError::new(Code::Internal, message).hint("try again"));
            }
        }
    }
}

/// The launch of a model that this daemon starts.
pub(super) fn launch_of(state: &AppState, model: &str) -> Result<Arc<Launch>, ApiError> {
    let view = state.registry.load();
    let (entry, placement) = view.resolve(model)?;
    match placement {
        Placement::SinglePort(launch) => Ok(launch.clone()),
        _ => Err(ApiError::invalid(
            "model",
            format!("{} is no vLLM model that this daemon starts", entry.name),
        )),
    }
}

/// Whether to end what runs.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeactivateOrder {
    #[serde(default)]
    force: bool,
}

/// Stops what is resident; says what that waits for.
pub(super) async fn deactivate(
    request: HttpRequest,
    mut payload: web::Payload,
    state: web::Data<AppState>,
) -> HttpResponse {
    match try_deactivate(&request, &mut payload, &state).await {
        Ok(response) => response,
        Err(failure) => error::respond(&failure),
    }
}

async fn try_deactivate(
    request: &HttpRequest,
    payload: &mut web::Payload,
    state: &AppState,
) -> Result<HttpResponse, ApiError> {
    management::admin(request)?;
    let order: DeactivateOrder = management::order(request, payload, state).await?;
    let arbiter = state.directory.port(|book| book.arbiter.clone());
    let force = order.force;
    let met = ask(&arbiter, || Deactivate { side: Side::Vllm, force }).await?;
    Ok(stopped(&met, force))
}

/// What an order to stop met.
pub(super) fn stopping(met: &Stopping, force: bool) -> Value {
    match met {
        Stopping::Idle => json!({"status": "idle"}),
        Stopping::Now(model) => json!({"status": "stopping", "model": model.to_string()}),
        Stopping::WaitsFor(model, in_flight) => json!({
            "status": if force { "stopping" } else { "draining" },
            "model": model.to_string(), "waits_for": {"in_flight": in_flight},
        }),
    }
}

/// The same as an answer of its own.
pub(super) fn stopped(met: &Stopping, force: bool) -> HttpResponse {
    let mut builder = match met {
        Stopping::Idle => HttpResponse::Ok(),
        Stopping::Now(_) | Stopping::WaitsFor(..) => HttpResponse::Accepted(),
    };
    builder.json(stopping(met, force))
}
