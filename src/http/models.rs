//! `GET /v1/models`, `GET /v1/models/{id}`.

use actix_web::http::header;
use actix_web::{HttpResponse, web};

use super::error;
use super::state::AppState;

/// The list, from memory: it was rendered when the registry was loaded.
pub(super) async fn list(state: web::Data<AppState>) -> HttpResponse {
    let view = state.registry.load();
    HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, "application/json"))
        .body(view.list_body.clone())
}

/// One model by any of its names; hidden ones answer too (SPEC 4.4).
pub(super) async fn one(id: web::Path<String>, state: web::Data<AppState>) -> HttpResponse {
    let view = state.registry.load();
    let found = view.snapshot.position(&id);
    match found.map(|position| view.listing.items.get(position)) {
        Ok(Some(item)) => HttpResponse::Ok().json(item),
        Ok(None) => error::respond(&chat_proxy_core::ApiError::new(
            chat_proxy_core::Code::Internal,
            "the model list and the registry do not fit together",
        )),
        Err(refusal) => error::respond(&refusal),
    }
}
