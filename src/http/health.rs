//! `GET /v1/healthz` and `GET /v1/readyz`.

use actix_web::{HttpMessage, HttpRequest, HttpResponse, web};
use serde_json::json;

use super::front::Identity;
use super::state::AppState;
use crate::tls::Tls;

/// The process can serve.
pub(super) async fn healthz(state: web::Data<AppState>) -> HttpResponse {
    let uptime = state.life.uptime().as_secs_f64();
    HttpResponse::Ok()
        .json(json!({"status": "ok", "uptime_seconds": (uptime * 1000.0).round() / 1000.0}))
}

/// New requests are welcome: there is a registry and the daemon does not drain. A registry that
/// could not be *re*loaded does not make it unready, but is told in the details.
///
/// Whoever has no key gets the state without the details: those name entries and files.
pub(super) async fn readyz(request: HttpRequest, state: web::Data<AppState>) -> HttpResponse {
    let trusted = request.extensions().get::<Identity>().is_some_and(|who| who.trusted);
    let view = state.registry.load();
    let mut reasons = Vec::new();
    if state.life.is_draining() {
        reasons.push("draining: the daemon is shutting down".to_owned());
    }
    if let (false, Some(error)) = (view.loaded, &view.error) {
        let shown = if trusted { error.to_string() } else { "cannot be read".to_owned() };
        reasons.push(format!("registry: {shown}"));
    }
    let details = trusted.then(|| json!({
        "models": view.snapshot.entries().len(),
        "config_problems": state.config.load().problems.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "tls_problem": state.tls.as_ref().and_then(Tls::problem).map(|problem| problem.to_string()),
        "registry_error": view.error.as_ref().map(ToString::to_string),
        "skipped_entries": view.snapshot.problems().iter().map(ToString::to_string).collect::<Vec<_>>(),
    }));
    if reasons.is_empty() {
        HttpResponse::Ok().json(json!({"status": "ready", "details": details}))
    } else {
        HttpResponse::ServiceUnavailable()
            .json(json!({"status": "not ready", "reasons": reasons, "details": details}))
    }
}
