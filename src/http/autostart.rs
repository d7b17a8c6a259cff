//! `GET /v1/autostart/status`, `POST /v1/autostart/{start,stop}`, `PUT /v1/autostart/enabled`.

use actix_web::{HttpRequest, HttpResponse, web};
use chat_proxy_actors::autostart::messages::{
    AutostartStatus, EnsureStarted, GetServices, StopService,
};
use chat_proxy_actors::gpu_arbiter::messages::StartsChanged;
use chat_proxy_core::autostart::failure;
use chat_proxy_core::{ApiError, Code};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::oneshot;

use super::state::{AppState, ask};
use super::{error, management};

/// Every service, and whether requests start any.
pub(super) async fn status(state: web::Data<AppState>) -> HttpResponse {
    match services(&state).await {
        Ok(shown) => HttpResponse::Ok().json(shown),
        Err(refusal) => error::respond(&refusal),
    }
}

/// How the services are.
pub(super) async fn services(state: &AppState) -> Result<AutostartStatus, ApiError> {
    let services = state.directory.port(|book| book.autostart.clone());
    ask(&services, || GetServices).await
}

/// Which service, and whether to wait for it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    service: String,
    #[serde(default = "yes")]
    wait: bool,
}

fn yes() -> bool {
    true
}

/// Starts a service, by hand; without `wait` the answer does not wait until it is ready.
pub(super) async fn start(
    request: HttpRequest,
    mut payload: web::Payload,
    state: web::Data<AppState>,
) -> HttpResponse {
    match try_start(&request, &mut payload, &state).await {
        Ok(response) => response,
        Err(failure) => error::respond(&failure),
    }
}

async fn try_start(
    request: &HttpRequest,
    payload: &mut web::Payload,
    state: &AppState,
) -> Result<HttpResponse, ApiError> {
    management::admin(request)?;
    let Order { service, wait } = management::order(request, payload, state).await?;
    known(state, &service).await?;
    let (reply, outcome) = oneshot::channel();
    let order = EnsureStarted { service: service.clone(), probe: None, by_request: false, reply };
    let services = state.directory.port(|book| book.autostart.clone());
    services.tell(order).map_err(|_| lost())?;
    if !wait {
        return Ok(HttpResponse::Accepted().json(json!({"service": service, "state": "starting"})));
    }
    tokio::select! {
        told = outcome => told.map_err(|_| lost())??,
        // While there is still somebody to answer.
        () = state.life.until_cut() => return Err(failure::ending()),
    }
    Ok(HttpResponse::Ok().json(json!({"service": service, "state": "ready"})))
}

/// Stops a service that we started, and says so when it is gone.
pub(super) async fn stop(
    request: HttpRequest,
    mut payload: web::Payload,
    state: web::Data<AppState>,
) -> HttpResponse {
    match try_stop(&request, &mut payload, &state).await {
        Ok(response) => response,
        Err(failure) => error::respond(&failure),
    }
}

async fn try_stop(
    request: &HttpRequest,
    payload: &mut web::Payload,
    state: &AppState,
) -> Result<HttpResponse, ApiError> {
    management::admin(request)?;
    let Order { service, wait } = management::order(request, payload, state).await?;
    known(state, &service).await?;
    let (reply, outcome) = oneshot::channel();
    let services = state.directory.port(|book| book.autostart.clone());
    services.tell(StopService { service: service.clone(), reply }).map_err(|_| lost())?;
    if !wait {
        return Ok(HttpResponse::Accepted().json(json!({"service": service, "state": "stopping"})));
    }
    outcome.await.map_err(|_| lost())??;
    Ok(HttpResponse::Ok().json(json!({"service": service, "state": "stopped"})))
}

async fn known(state: &AppState, service: &str) -> Result<(), ApiError> {
    let all = services(state).await?.services;
    if all.contains_key(service) {
        return Ok(());
    }
    let names: Vec<&str> = all.keys().map(String::as_str).collect();
    let shown: String = service.chars().take(100).collect();
    let error = ApiError::new(Code::NotFound, format!("there is no service {shown:?}"));
    Err(error.param("service").hint(if names.is_empty() {
        "autostart_map and [autostart.services.NAME] name services".to_owned()
    } else {
        format!("services: {}", names.join(", "))
    }))
}

fn lost() -> ApiError {
    ApiError::new(Code::Internal, "a part of the proxy does not answer").hint("try again")
}

/// On or off.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    enabled: bool,
}

/// Whether requests start engines and services, from now until the daemon ends.
pub(super) async fn enabled(
    request: HttpRequest,
    mut payload: web::Payload,
    state: web::Data<AppState>,
) -> HttpResponse {
    match try_enable(&request, &mut payload, &state).await {
        Ok(response) => response,
        Err(failure) => error::respond(&failure),
    }
}

async fn try_enable(
    request: &HttpRequest,
    payload: &mut web::Payload,
    state: &AppState,
) -> Result<HttpResponse, ApiError> {
    management::admin(request)?;
    let Wanted { enabled } = management::order(request, payload, state).await?;
    state.starts.set(enabled);
    // An arbiter that is being rebuilt reads the switch when it begins.
    let _ = state.directory.port(|book| book.arbiter.clone()).tell(StartsChanged);
    tracing::info!(enabled, "autostart was switched by hand");
    Ok(HttpResponse::Ok().json(json!({ "enabled": enabled })))
}
