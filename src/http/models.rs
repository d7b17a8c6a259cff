//! `GET /v1/models`.

use actix_web::{HttpResponse, web};
use chat_proxy_core::registry::listing::Filter;
use serde_json::json;

use super::state::AppState;

/// The list, from memory.
pub(super) async fn list(state: web::Data<AppState>) -> HttpResponse {
    let view = state.registry.load();
    let filter = Filter { include_test_models: state.settings.server.include_test_models };
    let models = view.snapshot.list(filter, view.modified);
    HttpResponse::Ok().json(json!({"object": "list", "data": models}))
}
