//! `GET /v1/scheduler/explain?request_id=`: why a request waited.

use actix_web::{HttpRequest, HttpResponse, web};
use chat_proxy_actors::gpu_arbiter::messages::Explain;
use chat_proxy_actors::gpu_arbiter::stories::Story;
use chat_proxy_core::{ApiError, Code};
use serde::Deserialize;

use super::error;
use super::state::{AppState, ask};

/// Which request.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    request_id: String,
}

/// What it waited for, one thing after the other.
pub(super) async fn explain(request: HttpRequest, state: web::Data<AppState>) -> HttpResponse {
    match story(&request, &state).await {
        Ok(story) => HttpResponse::Ok().json(story),
        Err(failure) => error::respond(&failure),
    }
}

async fn story(request: &HttpRequest, state: &AppState) -> Result<Story, ApiError> {
    let Wanted { request_id } = web::Query::<Wanted>::from_query(request.query_string())
        .map_err(|error| ApiError::invalid("request_id", format!("the query: {error}")))?
        .into_inner();
    let arbiter = state.directory.port(|book| book.arbiter.clone());
    let story = ask(&arbiter, || Explain(request_id.clone())).await?;
    story.ok_or_else(|| {
        let shown: String = request_id.chars().take(128).collect();
        ApiError::new(Code::NotFound, format!("no request {shown:?} is known to have waited")).hint(
            "the last 1000 that had to wait for the GPU are kept; a response's x-request-id names it",
        )
    })
}
