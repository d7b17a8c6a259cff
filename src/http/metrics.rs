//! `GET /metrics` and `GET /v1/metrics`.
//!
//! Owns: asking for what is known only at the moment of asking. Must never do: let an actor or a
//! driver that does not answer keep the figures back.

use std::time::Duration;

use actix_web::http::header;
use actix_web::{HttpResponse, web};
use chat_proxy_actors::metrics::{GetRolling, Scraped};
use chat_proxy_actors::ollama::messages::GetOllama;
use chat_proxy_core::{ApiError, Code};
use serde_json::{Value, json};

use super::state::{AppState, ask};
use super::{autostart, backends, error};
use crate::logging;

/// The driver and the actors get so long; a scraper's own patience is ten seconds by default.
const PATIENCE: Duration = Duration::from_secs(2);

/// Everything in Prometheus' text format, if metrics are on.
pub(super) async fn prometheus(state: web::Data<AppState>) -> HttpResponse {
    if let Err(refusal) = enabled(&state) {
        return error::respond(&refusal);
    }
    look(&state).await;
    let scraped = Scraped {
        waiting_elsewhere: state.limits.waiting(),
        program_log_dropped: logging::dropped(),
    };
    match state.metrics.render(scraped) {
        Ok(text) => HttpResponse::Ok()
            .insert_header((header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8"))
            .body(text),
        Err(error) => {
            tracing::error!(%error, "metrics cannot be rendered");
            error::respond(&ApiError::new(Code::Internal, "the metrics cannot be rendered"))
        }
    }
}

/// Sets the gauges of what is looked at only now.
async fn look(state: &AppState) {
    let asked = async { tokio::join!(look_at_ollama(state), look_at_services(state)) };
    let (gpus, _) =
        tokio::join!(state.gauges.sample(PATIENCE), tokio::time::timeout(PATIENCE, asked));
    let (memory, utilization) = (&state.metrics.gpu_memory, &state.metrics.gpu_utilization);
    chat_proxy_actors::gpus::gauges::fill(memory, utilization, gpus.as_deref());
}

/// Where there are several, all of them must answer.
async fn look_at_ollama(state: &AppState) {
    let asker = state.directory.port(|book| book.ollama.clone());
    let Ok(all) = ask(&asker, || GetOllama).await else { return };
    if !all.is_empty() {
        let up = all.iter().all(|ollama| ollama.state == "ready");
        state.metrics.backend_up.with_label_values(&["ollama"]).set(i64::from(up));
    }
}

async fn look_at_services(state: &AppState) {
    let Ok(status) = autostart::services(state).await else { return };
    for (name, service) in &status.services {
        let up = i64::from(service.state == "ready");
        state.metrics.service_up.with_label_values(&[name.as_str()]).set(up);
    }
}

/// The summary for dashboards, if metrics are on.
pub(super) async fn summary(state: web::Data<AppState>) -> HttpResponse {
    match summarize(&state).await {
        Ok(shown) => HttpResponse::Ok().json(shown),
        Err(failure) => error::respond(&failure),
    }
}

async fn summarize(state: &AppState) -> Result<Value, ApiError> {
    enabled(state)?;
    let gpu = backends::gpu_status(state).await?;
    let rolling = state.directory.port(|book| book.metrics.clone());
    let rolling = ask(&rolling, || GetRolling).await?;
    let by_reason = state.metrics.swaps_by_reason();
    let log = &state.metrics.log;
    Ok(json!({
        "uptime_seconds": state.life.uptime().as_secs_f64(),
        "rolling": rolling,
        "requests_by_backend": state.metrics.requests_by_backend(),
        "errors_by_code": state.metrics.errors_by_code(),
        "active_model": gpu.model.filter(|_| matches!(gpu.state, "ready" | "draining")),
        "swaps": {"total": by_reason.values().sum::<u64>(), "by_reason": by_reason},
        "cost": state.metrics.cost_total(),
        "in_flight": state.metrics.in_flight(),
        "queue_depth": state.metrics.waiting(state.limits.waiting()),
        "log": {"written": log.written.get(), "dropped": log.dropped.get(),
                "waiting_bytes": log.waiting_bytes.get()},
        "schema_version": 1,
    }))
}

fn enabled(state: &AppState) -> Result<(), ApiError> {
    if state.settings().server.enable_metrics {
        return Ok(());
    }
    let error = ApiError::new(Code::MetricsDisabled, "metrics are off");
    Err(error.hint("set enable_metrics = true in [server], or CHAT_PROXY_ENABLE_METRICS=1"))
}
