//! `GET /v1/gpu/status`, `POST /v1/gpu/{lease,renew,release,force_release,unload_all}` (SPEC 6.5, 12).
//!
//! Owns: the shapes that existing clients of leases hold on to. Must never do: say a lease's token to
//! whoever may not use it.

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::{HttpMessage, HttpRequest, HttpResponse, web};
use chat_proxy_actors::gpu_arbiter::messages::{
    Abandon, AcquireLease, Deactivate, LeaseAnswer, OrderLease,
};
use chat_proxy_actors::lease::{LeaseRecord, SavedModel};
use chat_proxy_actors::port::Port;
use chat_proxy_actors::vllm_supervisor::messages::GetEngine;
use chat_proxy_core::gpu::lease::{LeaseAsk, LeaseOrder};
use chat_proxy_core::gpu::{LeaseToken, Side};
use chat_proxy_core::ids::Ticket;
use chat_proxy_core::{ApiError, Code};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::front::Identity;
use super::state::{ANSWER, AppState, LOOK, ask};
use super::{backends, error, management};

/// The longest name of an owner, in characters.
const MAX_OWNER: usize = 64;
/// The longest reason that is kept, in characters.
const MAX_REASON: usize = 500;
/// Nobody leases the GPU for longer without a word.
const MAX_TTL: f64 = 30.0 * 86_400.0;
/// An answer comes when it is written down; a disk that takes longer is stuck.
const WRITTEN: Duration = Duration::from_secs(30);
/// So often is one order given to arbiters that die over it.
const MAX_ORDERS: usize = 3;

/// Whether the GPU is leased, and to whom; the token only for admins.
pub(super) async fn status(request: HttpRequest, state: web::Data<AppState>) -> HttpResponse {
    let admin = request.extensions().get::<Identity>().is_some_and(|who| who.admin);
    HttpResponse::Ok().json(match state.leases.current() {
        None => json!({"leased": false}),
        Some(record) => json!({"leased": true, "lease": shown(&record, admin)}),
    })
}

fn shown(record: &LeaseRecord, with_token: bool) -> Value {
    let mut lease = json!({
        "owner": record.owner, "reason": record.reason, "granted_at": record.granted_at,
        "expires_at": record.expires_at, "ttl_s": record.ttl_s,
        "restart_model": record.restart_model, "saved_model": record.saved_model,
    });
    if with_token {
        lease["token"] = json!(record.token.reveal());
    }
    lease
}

/// Errors with the `detail` that clients of leases show.
fn answer(outcome: Result<Value, ApiError>) -> HttpResponse {
    match outcome {
        Ok(body) => HttpResponse::Ok().json(body),
        Err(failure) => {
            let status =
                StatusCode::from_u16(failure.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let mut builder = HttpResponse::build(status);
            error::advise(&mut builder, &failure.retry);
            let mut body = failure.body();
            body["detail"] = json!(failure.message);
            builder.json(body)
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Lease {
    owner: String,
    reason: Option<String>,
    #[serde(default = "yes")]
    restart_model: bool,
    ttl_s: Option<f64>,
}

fn yes() -> bool {
    true
}

/// Leases the GPU: waits until what is there has made room.
pub(super) async fn lease(
    request: HttpRequest,
    mut payload: web::Payload,
    state: web::Data<AppState>,
) -> HttpResponse {
    answer(acquire(&request, &mut payload, &state).await)
}

async fn acquire(
    request: &HttpRequest,
    payload: &mut web::Payload,
    state: &AppState,
) -> Result<Value, ApiError> {
    management::admin(request)?;
    let Lease { owner, reason, restart_model, ttl_s } =
        management::order(request, payload, state).await?;
    let length = owner.chars().count();
    if !(1..=MAX_OWNER).contains(&length) || owner.chars().any(char::is_control) {
        let message = format!("`owner` must have 1 to {MAX_OWNER} characters; it has {length}");
        return Err(ApiError::invalid("owner", message));
    }
    let reason = reason.map(|reason| reason.chars().take(MAX_REASON).collect());
    let ttl = ttl(ttl_s)?.unwrap_or(state.lease_ttl);
    let token = LeaseToken::from(uuid::Uuid::new_v4().simple().to_string().as_str());
    let running = running(state).await;
    for _ in 0..MAX_ORDERS {
        let ask = LeaseAsk {
            ticket: state.ledger.ticket(),
            token: token.clone(),
            owner: owner.clone(),
            restart_model,
            ttl,
        };
        let asked = ask_arbiter(state, ask, reason.clone(), running.clone()).await?;
        if let Some(outcome) = asked {
            let record = outcome?;
            return Ok(json!({"token": record.token.reveal(), "lease": shown(&record, true)}));
        }
        // The arbiter died over it: perhaps behind its yes.
        if let Some(record) = state.leases.current().filter(|r| r.token.key().is(&token)) {
            state.leases.clone().put(Some(record.clone())).await.map_err(|error| {
                ApiError::new(Code::Internal, format!("the lease cannot be written down: {error}"))
            })?;
            return Ok(json!({"token": record.token.reveal(), "lease": shown(&record, true)}));
        }
    }
    Err(lost())
}

type Granted = Result<Arc<LeaseRecord>, ApiError>;

/// `None`: the arbiter died.
async fn ask_arbiter(
    state: &AppState,
    ask: LeaseAsk,
    reason: Option<String>,
    running: Option<SavedModel>,
) -> Result<Option<Granted>, ApiError> {
    let until = Instant::now() + ANSWER;
    let arbiter: Port<AcquireLease> = state.directory.port(|book| book.arbiter.clone());
    loop {
        let (reply, outcome) = oneshot::channel();
        let (ask, reason, running) = (ask.clone(), reason.clone(), running.clone());
        let ticket = ask.ticket;
        if arbiter.tell(AcquireLease { ask, reason, running, reply }).is_ok() {
            let abandon = state.directory.port(|book| book.arbiter.clone());
            let mut place = Place { ticket, abandon, over: false };
            let outcome = outcome.await;
            place.over = true;
            return Ok(outcome.ok());
        }
        if Instant::now() >= until {
            return Err(lost());
        }
        sleep(LOOK).await;
    }
}

/// Withdraws the ask when its client goes.
struct Place {
    ticket: Ticket,
    abandon: Port<Abandon>,
    over: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.over {
            // An arbiter that is not there has forgotten it already.
            let _ = self.abandon.tell(Abandon(self.ticket));
        }
    }
}

fn lost() -> ApiError {
    ApiError::new(Code::Internal, "a part of the proxy does not answer").hint("try again")
}

/// The engine that runs now: it may be what makes room.
async fn running(state: &AppState) -> Option<SavedModel> {
    let engines = state.directory.port(|book| book.vllm.clone());
    let engine = ask(&engines, || GetEngine).await.ok()?;
    let logical_name = engine.model?;
    let view = state.registry.load();
    let served = view.snapshot.resolve(&logical_name).ok();
    Some(SavedModel {
        served_model_id: served.map(|(entry, _)| entry.served_id().to_owned()),
        logical_name,
        port: Some(engine.port),
        pid: engine.pid,
        started_at: engine.since,
    })
}

fn ttl(seconds: Option<f64>) -> Result<Option<Duration>, ApiError> {
    let Some(seconds) = seconds else { return Ok(None) };
    if seconds > 0.0 && seconds <= MAX_TTL {
        return Ok(Some(Duration::from_secs_f64(seconds)));
    }
    let message = format!("`ttl_s` is {seconds}; use seconds, more than 0 and at most {MAX_TTL}");
    Err(ApiError::invalid("ttl_s", message))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Renew {
    token: String,
    ttl_s: Option<f64>,
}

/// Lets a lease live on.
pub(super) async fn renew(
    request: HttpRequest,
    payload: web::Payload,
    state: web::Data<AppState>,
) -> HttpResponse {
    ordered(request, payload, state, |Renew { token, ttl_s }| {
        Ok(LeaseOrder::Renew { token: token.as_str().into(), ttl: ttl(ttl_s)? })
    })
    .await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Release {
    token: String,
    restart_model: Option<bool>,
}

/// Ends a lease; what was resident comes back, if that is wanted.
pub(super) async fn release(
    request: HttpRequest,
    payload: web::Payload,
    state: web::Data<AppState>,
) -> HttpResponse {
    ordered(request, payload, state, |Release { token, restart_model }| {
        Ok(LeaseOrder::Release { token: token.as_str().into(), restart_model })
    })
    .await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ForceRelease {
    token: Option<String>,
    owner: Option<String>,
    max_age: Option<f64>,
    restart_model: Option<bool>,
}

/// Ends whoever's lease, if all that is named fits.
pub(super) async fn force_release(
    request: HttpRequest,
    payload: web::Payload,
    state: web::Data<AppState>,
) -> HttpResponse {
    ordered(request, payload, state, |order: ForceRelease| {
        let ForceRelease { token, owner, max_age, restart_model } = order;
        let max_age = max_age.map(Duration::try_from_secs_f64).transpose().map_err(|error| {
            ApiError::invalid("max_age", format!("`max_age` is no time in seconds: {error}"))
        })?;
        let token = token.as_deref().map(LeaseToken::from);
        Ok(LeaseOrder::Force { token, owner, max_age, restart_model })
    })
    .await
}

/// Reads an admin's order about a lease and has it carried out.
async fn ordered<T: DeserializeOwned>(
    request: HttpRequest,
    mut payload: web::Payload,
    state: web::Data<AppState>,
    meant: impl FnOnce(T) -> Result<LeaseOrder, ApiError>,
) -> HttpResponse {
    let ordering = async {
        management::admin(&request)?;
        let order = meant(management::order(&request, &mut payload, &state).await?)?;
        order_lease(&state, order).await
    };
    answer(ordering.await)
}

async fn order_lease(state: &AppState, order: LeaseOrder) -> Result<Value, ApiError> {
    let arbiter: Port<OrderLease> = state.directory.port(|book| book.arbiter.clone());
    let until = Instant::now() + ANSWER;
    loop {
        let (reply, outcome) = oneshot::channel();
        let told = arbiter.tell(OrderLease { order: order.clone(), reply });
        match (told, timeout(WRITTEN, outcome).await.ok().and_then(Result::ok)) {
            (Ok(()), Some(answer)) => {
                return Ok(match answer? {
                    LeaseAnswer::Renewed(record) => {
                        json!({"status": "renewed", "lease": shown(&record, true)})
                    }
                    LeaseAnswer::Released => json!({"status": "released"}),
                    LeaseAnswer::Idle => json!({"status": "idle"}),
                });
            }
            _ if Instant::now() >= until => return Err(lost()),
            // One that was carried out before its arbiter died says so by what is written down: an
            // ended lease has no token any more.
            _ => sleep(LOOK).await,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UnloadAll {
    #[serde(default)]
    force: bool,
}

/// Stops whatever has the GPU, vLLM or Ollama; says what that waits for.
pub(super) async fn unload_all(
    request: HttpRequest,
    mut payload: web::Payload,
    state: web::Data<AppState>,
) -> HttpResponse {
    let unloading = async {
        management::admin(&request)?;
        let UnloadAll { force } = management::order(&request, &mut payload, &state).await?;
        let arbiter = state.directory.port(|book| book.arbiter.clone());
        let mut told = serde_json::Map::new();
        for (name, side) in [("vllm", Side::Vllm), ("ollama", Side::Ollama)] {
            let met = ask(&arbiter, || Deactivate { side, force }).await?;
            told.insert(name.to_owned(), backends::stopping(&met, force));
        }
        Ok(Value::Object(told))
    };
    answer(unloading.await)
}
