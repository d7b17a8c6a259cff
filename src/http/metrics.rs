//! `GET /metrics` and `GET /v1/metrics`.

use actix_web::http::header;
use actix_web::{HttpResponse, web};
use chat_proxy_actors::metrics::GetRolling;
use chat_proxy_core::{ApiError, Code};
use serde_json::{Value, json};

use super::state::{AppState, ask};
use super::{backends, error};

/// Everything in Prometheus' text format, if metrics are on.
pub(super) async fn prometheus(state: web::Data<AppState>) -> HttpResponse {
    if let Err(refusal) = enabled(&state) {
        return error::respond(&refusal);
    }
    match state.metrics.render() {
        Ok(text) => HttpResponse::Ok()
            .insert_header((header::CONTENT_TYPE, "text/plain; version=0.0.4"))
            .body(text),
        Err(error) => {
            tracing::error!(%error, "metrics cannot be rendered");
            error::respond(&ApiError::new(Code::Internal, "the metrics cannot be rendered"))
        }
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
    Ok(json!({
        "uptime_seconds": state.life.uptime().as_secs_f64(),
        "rolling": rolling,
        "requests_by_backend": state.metrics.requests_by_backend(),
        "errors_by_code": state.metrics.errors_by_code(),
        "active_model": gpu.model.filter(|_| matches!(gpu.state, "ready" | "draining")),
        "swaps": {"total": by_reason.values().sum::<u64>(), "by_reason": by_reason},
        "cost": state.metrics.cost_total(),
        "in_flight": gpu.in_flight,
        "queue_depth": gpu.queue.len(),
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
