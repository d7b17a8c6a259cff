//! `GET /v1/logs/backends/{name}`: the last lines of the log of an engine, by its model, or of a
//! service. `GET /v1/logs/chat`: those of the request log, over its rotated parts. With `follow=1`
//! those, and then each line as it is written; whoever comes again with `Last-Event-ID` goes on
//! behind the line that he has (see [`tail`]).
//!
//! Owns: which file that is: the one that the registry's entry, the service or the request log
//! writes, and no other; what is asked for. Must never do: make a path out of what a client sent,
//! or hold a log in memory.

mod tail;

use std::io;
use std::path::{Path, PathBuf};

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::{BufMut, Bytes, BytesMut};
use chat_proxy_actors::program_log::{Cursor, Excerpt, Follower, Kind, last_lines};
use chat_proxy_core::{ApiError, Code};
use futures_util::stream::{self, Stream};
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
struct Query {
    lines: Option<usize>,
    #[serde(default)]
    follow: Follow,
    /// Browsers cannot send the header with their first request.
    last_event_id: Option<String>,
}

/// Whether to read on; written as people write it in a query.
#[derive(Deserialize, Default, Clone, Copy, PartialEq, Eq)]
enum Follow {
    #[default]
    #[serde(rename = "0", alias = "false")]
    No,
    #[serde(rename = "1", alias = "true")]
    Yes,
}

/// The same, understood.
struct Wanted {
    lines: usize,
    follow: bool,
    behind: Option<Cursor>,
}

impl Wanted {
    fn of(request: &HttpRequest) -> Result<Self, ApiError> {
        let query = web::Query::<Query>::from_query(request.query_string())
            .map_err(|error| ApiError::invalid("lines", format!("the query: {error}")))?;
        let sent = request.headers().get("last-event-id");
        let sent = sent.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let behind = match (sent, &query.last_event_id) {
            (Some(sent), _) => Some(cursor("last-event-id", &sent)?),
            (None, Some(sent)) => Some(cursor("last_event_id", sent)?),
            (None, None) => None,
        };
        let lines = query.lines.unwrap_or(USUAL).min(MOST);
        Ok(Wanted { lines, follow: query.follow == Follow::Yes, behind })
    }

    fn follower(&self, path: &Path, kind: Kind) -> Follower {
        match self.behind {
            Some(behind) => Follower::again(path, kind, behind, self.lines),
            None => Follower::new(path, kind, self.lines),
        }
    }
}

fn cursor(field: &str, sent: &str) -> Result<Cursor, ApiError> {
    sent.trim().parse().map_err(|_| {
        let shown: String = sent.chars().take(40).collect();
        ApiError::invalid(field, format!("{shown:?} is no id of an event of a log"))
            .hint("send the id of the last event as it came, or none")
    })
}

/// The last lines of an engine or a service, as plain text; or its log as server-sent events.
pub(super) async fn engine(
    request: HttpRequest,
    model: web::Path<String>,
    state: web::Data<AppState>,
) -> HttpResponse {
    engines_answer(&request, &model, &state).await.unwrap_or_else(|error| error::respond(&error))
}

async fn engines_answer(
    request: &HttpRequest,
    model: &str,
    state: &AppState,
) -> Result<HttpResponse, ApiError> {
    management::admin(request)?;
    let wanted = Wanted::of(request)?;
    let path = path_of(state, model).await?;
    if wanted.follow {
        return tail::respond(wanted.follower(&path, Kind::Text), state);
    }
    Ok(HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, "text/plain; charset=utf-8"))
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .body(read(path, wanted.lines, model).await?))
}

async fn path_of(state: &AppState, model: &str) -> Result<PathBuf, ApiError> {
    let service = autostart::services(state).await?.services.remove(model);
    match service.and_then(|service| service.log) {
        Some(log) => Ok(log.into()),
        None => Ok(backends::launch_of(state, model)?.log.clone()),
    }
}

async fn read(path: PathBuf, lines: usize, model: &str) -> Result<String, ApiError> {
    let read = web::block(move || last_lines(&path, lines)).await;
    match read.map_err(io::Error::other).flatten() {
        Ok(lines) => Ok(lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let message = format!("nothing has been written to the log of {model} yet");
            Err(ApiError::new(Code::NotFound, message).hint("it is written when it is started"))
        }
        Err(error) => Err(unreadable(&error)),
    }
}

fn unreadable(error: &io::Error) -> ApiError {
    ApiError::new(Code::Internal, format!("the log cannot be read: {error}"))
}

/// The last lines of the request log, a JSON object each; or as server-sent events.
pub(super) async fn chat(request: HttpRequest, state: web::Data<AppState>) -> HttpResponse {
    chats_answer(&request, &state).await.unwrap_or_else(|error| error::respond(&error))
}

async fn chats_answer(request: &HttpRequest, state: &AppState) -> Result<HttpResponse, ApiError> {
    management::admin(request)?;
    let wanted = Wanted::of(request)?;
    let path = PathBuf::from(&state.settings().server.log_path);
    if wanted.follow {
        let follower = wanted.follower(&path, Kind::Records);
        let looked = web::block(move || std::fs::metadata(path)).await;
        return match looked.map_err(io::Error::other).flatten() {
            Ok(meta) if !meta.is_file() => Err(no_file(state)),
            // What else is wrong is told when it is read.
            _ => tail::respond(follower, state),
        };
    }
    let excerpt = Excerpt::new(&path, Kind::Records, wanted.lines);
    let (excerpt, first) = step(excerpt).await.map_err(|error| no_records(&error, state))?;
    Ok(HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, "application/x-ndjson"))
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .streaming(records(first, excerpt)))
}

fn no_file(state: &AppState) -> ApiError {
    let path = &state.settings().server.log_path;
    let message = format!("the request log, {path}, is no regular file: it cannot be read back");
    ApiError::new(Code::NotFound, message).hint("log_path in the settings says where it is written")
}

fn no_records(error: &io::Error, state: &AppState) -> ApiError {
    match error.kind() {
        io::ErrorKind::InvalidInput => no_file(state),
        io::ErrorKind::NotFound => {
            ApiError::new(Code::NotFound, "nothing has been written to the request log yet")
                .hint("it has a line for each request, when that has ended")
        }
        _ => unreadable(error),
    }
}

/// One step, on a thread that may wait for the disk.
async fn step(mut excerpt: Excerpt) -> io::Result<(Excerpt, Option<Vec<String>>)> {
    let stepped = web::block(move || excerpt.step().map(|lines| (excerpt, lines)));
    stepped.await.map_err(io::Error::other)?
}

/// What was read first, and the rest step by step. An error cuts the answer: the head has gone out.
fn records(first: Option<Vec<String>>, excerpt: Excerpt) -> impl Stream<Item = io::Result<Bytes>> {
    stream::try_unfold((first, excerpt), |(first, excerpt)| async move {
        let (excerpt, lines) = match first {
            Some(lines) => (excerpt, Some(lines)),
            None => step(excerpt).await?,
        };
        Ok(lines.map(|lines| (joined(lines), (None, excerpt))))
    })
}

fn joined(lines: Vec<String>) -> Bytes {
    let mut all = BytesMut::with_capacity(lines.iter().map(|line| line.len() + 1).sum());
    for line in lines {
        all.put_slice(line.as_bytes());
        all.put_u8(b'\n');
    }
    all.freeze()
}
