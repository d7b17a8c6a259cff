//! `GET /v1/logs/backends/{name}`: the last lines of the log of an engine, by its model, or of a
//! service.
//!
//! Owns: which file that is: the one that the registry's entry or the service writes, and no other. Must never do:
//! make a path out of what a client sent.

use std::io;

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use chat_proxy_actors::program_log::last_lines;
use chat_proxy_core::{ApiError, Code};
use serde::Deserialize;

use super::state::AppState;
use super::{autostart, backends, error, management};

/// Lines that are shown when nobody says how many.
const USUAL: usize = 100;
/// And at most.
const MOST: usize = 10_000;

/// How much is asked for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    lines: Option<usize>,
}

/// The last lines, as plain text.
pub(super) async fn engine(
    request: HttpRequest,
    model: web::Path<String>,
    state: web::Data<AppState>,
) -> HttpResponse {
    match read(&request, &model, &state).await {
        Ok(text) => HttpResponse::Ok()
            .insert_header((header::CONTENT_TYPE, "text/plain; charset=utf-8"))
            .insert_header((header::CACHE_CONTROL, "no-cache"))
            .body(text),
        Err(failure) => error::respond(&failure),
    }
}

async fn read(request: &HttpRequest, model: &str, state: &AppState) -> Result<String, ApiError> {
    management::admin(request)?;
    let wanted = web::Query::<Wanted>::from_query(request.query_string())
        .map_err(|error| ApiError::invalid("lines", format!("the query: {error}")))?;
    let lines = wanted.lines.unwrap_or(USUAL).min(MOST);
    let service = autostart::services(state).await?.services.remove(model);
    let path = match service.and_then(|service| service.log) {
        Some(log) => log.into(),
        None => backends::launch_of(state, model)?.log.clone(),
    };
    let read = web::block(move || last_lines(&path, lines)).await;
    match read.map_err(io::Error::other).flatten() {
        Ok(lines) => Ok(lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let message = format!("nothing has been written to the log of {model} yet");
            Err(ApiError::new(Code::NotFound, message).hint("it is written when it is started"))
        }
        Err(error) => {
            Err(ApiError::new(Code::Internal, format!("the log cannot be read: {error}")))
        }
    }
}
