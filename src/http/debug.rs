//! `GET /v1/debug/registry`.

use actix_web::{HttpRequest, HttpResponse, web};
use chat_proxy_core::registry::Entry;
use serde_json::{Value, json};

use super::state::AppState;
use super::{error, management};

/// What is in memory: names, the layers they came from, what could not be read. Admins only.
pub(super) async fn registry(request: HttpRequest, state: web::Data<AppState>) -> HttpResponse {
    if let Err(refusal) = management::admin(&request) {
        return error::respond(&refusal);
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
            "directory": state.settings().server.registry_dir,
            "curated": {"modified": view.times.curated},
            "discovered": {"modified": view.times.discovered},
        },
        "loads": view.loads,
        "load_ms": view.load_time.as_secs_f64() * 1000.0,
        "error": view.error.as_ref().map(ToString::to_string),
        "skipped": snapshot.problems(),
    }))
}

/// Defects to order, for tests of what the death of an actor costs; not in release builds.
#[cfg(debug_assertions)]
pub(super) fn fault_routes(config: &mut web::ServiceConfig) {
    config
        .route("/v1/debug/panic/{actor}", web::post().to(fault::panic))
        .route("/v1/debug/freeze/arbiter", web::post().to(fault::freeze));
}

/// There are no such routes in release builds.
#[cfg(not(debug_assertions))]
pub(super) fn fault_routes(_: &mut web::ServiceConfig) {}

#[cfg(debug_assertions)]
mod fault {
    use actix_web::{HttpRequest, HttpResponse, web};
    use chat_proxy_actors::root::fault::{Explode, Freeze};

    use super::{AppState, error, management};

    /// Makes the arbiter deaf for a minute.
    pub(super) async fn freeze(request: HttpRequest, state: web::Data<AppState>) -> HttpResponse {
        if let Err(refusal) = management::admin(&request) {
            return error::respond(&refusal);
        }
        match &state.directory.book().arbiter {
            Some(addr) => {
                addr.do_send(Freeze);
                HttpResponse::NoContent().finish()
            }
            None => HttpResponse::NotFound().finish(),
        }
    }

    /// Makes an actor panic; answers when it has been told.
    pub(super) async fn panic(
        request: HttpRequest,
        actor: web::Path<String>,
        state: web::Data<AppState>,
    ) -> HttpResponse {
        if let Err(refusal) = management::admin(&request) {
            return error::respond(&refusal);
        }
        let book = state.directory.book();
        let told = match actor.as_str() {
            "registry" => book.registry.as_ref().map(|addr| addr.do_send(Explode)),
            "metrics" => book.metrics.as_ref().map(|addr| addr.do_send(Explode)),
            "logger" => book.logger.as_ref().map(|addr| addr.do_send(Explode)),
            "config" => book.config.as_ref().map(|addr| addr.do_send(Explode)),
            "arbiter" => book.arbiter.as_ref().map(|addr| addr.do_send(Explode)),
            "vllm" => book.vllm.as_ref().map(|addr| addr.do_send(Explode)),
            "ollama" => book.ollama.as_ref().map(|addr| addr.do_send(Explode)),
            "autostart" => book.autostart.as_ref().map(|addr| addr.do_send(Explode)),
            "forwarder" => {
                state.forwarders.local().do_send(Explode);
                Some(())
            }
            _ => None,
        };
        match told {
            Some(()) => HttpResponse::NoContent().finish(),
            None => HttpResponse::NotFound().finish(),
        }
    }
}
