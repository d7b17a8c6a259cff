//! `GET /v1/models`, `GET /v1/models/{id}`, `GET /v1/models/select_by_role`.

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use chat_proxy_core::ApiError;
use chat_proxy_core::profiles::roles::Ask;
use serde::Deserialize;

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
    let found = view.position(&id);
    match found.map(|position| view.listing.items.get(position)) {
        Ok(Some(item)) => HttpResponse::Ok().json(item),
        Ok(None) => error::respond(&chat_proxy_core::ApiError::new(
            chat_proxy_core::Code::Internal,
            "the model list and the registry do not fit together",
        )),
        Err(refusal) => error::respond(&refusal),
    }
}

/// So many, where nobody says how many.
const USUAL: usize = 3;
/// And at most.
const MOST: usize = 100;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    role: Option<String>,
    top_n: Option<usize>,
    explain: Option<String>,
    /// Further capabilities, separated by commas.
    capabilities: Option<String>,
}

/// The best models for a role (SPEC 8).
pub(super) async fn select(request: HttpRequest, state: web::Data<AppState>) -> HttpResponse {
    match try_select(&request, &state) {
        Ok(selected) => selected,
        Err(refusal) => error::respond(&refusal),
    }
}

fn try_select(request: &HttpRequest, state: &AppState) -> Result<HttpResponse, ApiError> {
    let wanted = web::Query::<Wanted>::from_query(request.query_string())
        .map_err(|error| ApiError::invalid("", format!("the query: {error}")))?
        .into_inner();
    let view = state.registry.load();
    let roles = view.roles();
    let role = wanted.role.as_deref().map(str::trim).filter(|role| !role.is_empty());
    let role = role.ok_or_else(|| {
        let known = roles.known().join(", ");
        ApiError::invalid("role", "`role` is missing").hint(format!("roles are: {known}"))
    })?;
    let needs = wanted.capabilities.unwrap_or_default();
    let needs = needs.split(',').map(str::trim).filter(|need| !need.is_empty());
    let needs: Vec<String> = needs.map(str::to_owned).collect();
    let explain = wanted.explain.is_some_and(|text| !matches!(text.as_str(), "0" | "false"));
    let top_n = wanted.top_n.unwrap_or(USUAL).min(MOST);
    let selection = roles.select(&Ask { role, needs: &needs, top_n, explain })?;
    Ok(HttpResponse::Ok().json(selection))
}
