//! `GET /metrics`.

use actix_web::http::header;
use actix_web::{HttpResponse, web};
use chat_proxy_core::{ApiError, Code};

use super::error;
use super::state::AppState;

/// Everything in Prometheus' text format, if metrics are on.
pub(super) async fn prometheus(state: web::Data<AppState>) -> HttpResponse {
    if !state.settings.server.enable_metrics {
        let error = ApiError::new(Code::MetricsDisabled, "metrics are off");
        return error::respond(&error.hint("set enable_metrics = true in [server]"));
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
