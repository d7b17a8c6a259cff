//! `GET /v1/debug/registry`.

use actix_web::{HttpMessage, HttpRequest, HttpResponse, web};
use chat_proxy_core::registry::Entry;
use chat_proxy_core::{ApiError, Code};
use serde_json::{Value, json};

use super::error;
use super::front::Identity;
use super::state::AppState;

/// What is in memory: names, the layers they came from, what could not be read. Admins only.
pub(super) async fn registry(request: HttpRequest, state: web::Data<AppState>) -> HttpResponse {
    if !request.extensions().get::<Identity>().is_some_and(|who| who.admin) {
        let refusal = ApiError::new(Code::Forbidden, "this needs a key with the admin right");
        return error::respond(&refusal.hint("give the key rights = [\"chat\", \"admin\"]"));
    }
    let view = state.registry.load();
    let snapshot = &view.snapshot;
    let entries: Vec<Value> = snapshot
        .entries()
        .iter()
        .enumerate()
        .map(|(position, entry)| {
            json!({
                "name": entry.name,
                "display_name": entry.display(),
                "aliases": entry.model_aliases,
                "backend": entry.backend,
                "layers": snapshot.layers(position),
            })
        })
        .collect();
    HttpResponse::Ok().json(json!({
        "count": entries.len(),
        "names": snapshot.entries().iter().map(|e| e.name.as_str()).collect::<Vec<_>>(),
        "display_names": snapshot.entries().iter().map(Entry::display).collect::<Vec<_>>(),
        "entries": entries,
        "layers": {
            "directory": state.settings.server.registry_dir,
            "curated": {"modified": view.times.curated},
            "discovered": {"modified": view.times.discovered},
        },
        "loads": view.loads,
        "load_ms": view.load_time.as_secs_f64() * 1000.0,
        "error": view.error.as_ref().map(ToString::to_string),
        "skipped": snapshot.problems(),
    }))
}
