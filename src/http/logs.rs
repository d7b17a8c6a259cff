//! `GET /v1/logs/backends/{name}`: the last lines of the log of an engine, by its model, or of a
//! service; with `follow=1` those, and then each line as it is written.
//!
//! Owns: which file that is: the one that the registry's entry or the service writes, and no
//! other; the stream of who follows it. Must never do: make a path out of what a client sent, or
//! read on for a client that does not take what was read.

use std::convert::Infallible;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::{BufMut, Bytes, BytesMut};
use chat_proxy_actors::program_log::{Follower, Step, last_lines};
use chat_proxy_core::{ApiError, Code};
use futures_util::stream::{self, Stream};
use serde::Deserialize;

use super::state::AppState;
use super::{autostart, backends, error, management};
use crate::life::Life;

/// What who follows hears first.
const HELLO: &[u8] = b": the log, as it is written\n\n";
/// A log is looked at this often.
const PAUSE: Duration = Duration::from_millis(200);
/// Silence is broken at least this often: so a client can tell it from a connection that is dead.
const LONGEST_SILENCE: Duration = Duration::from_secs(20);

/// Lines that are shown when nobody says how many.
const USUAL: usize = 100;
/// And at most.
const MOST: usize = 10_000;

/// How much is asked for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    lines: Option<usize>,
    #[serde(default)]
    follow: Follow,
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

/// The last lines, as plain text; or the log as server-sent events.
pub(super) async fn engine(
    request: HttpRequest,
    model: web::Path<String>,
    state: web::Data<AppState>,
) -> HttpResponse {
    match answer(&request, &model, &state).await {
        Ok(response) => response,
        Err(failure) => error::respond(&failure),
    }
}

async fn answer(
    request: &HttpRequest,
    model: &str,
    state: &AppState,
) -> Result<HttpResponse, ApiError> {
    management::admin(request)?;
    let wanted = web::Query::<Wanted>::from_query(request.query_string())
        .map_err(|error| ApiError::invalid("lines", format!("the query: {error}")))?;
    let lines = wanted.lines.unwrap_or(USUAL).min(MOST);
    let path = path_of(state, model).await?;
    if wanted.follow == Follow::Yes {
        return Ok(followed(Follower::new(&path, lines), state));
    }
    Ok(HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, "text/plain; charset=utf-8"))
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .body(read(path, lines, model).await?))
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

fn followed(follower: Follower, state: &AppState) -> HttpResponse {
    let heartbeat = state.settings().server.heartbeat_ms.limit().unwrap_or(LONGEST_SILENCE);
    let tail = Tail {
        follower: Some(follower),
        life: state.life.clone(),
        heartbeat: heartbeat.min(LONGEST_SILENCE),
        spoke: None,
    };
    HttpResponse::Ok()
        .content_type("text/event-stream")
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .insert_header(("x-accel-buffering", "no"))
        .streaming(tail.events())
}

/// Somebody who follows a log.
struct Tail {
    /// `None`: it cannot be read any more.
    follower: Option<Follower>,
    life: Arc<Life>,
    heartbeat: Duration,
    /// When something was sent last.
    spoke: Option<Instant>,
}

impl Tail {
    fn events(self) -> impl Stream<Item = Result<Bytes, Infallible>> {
        stream::unfold(self, |mut tail| async move {
            let bytes = tail.next().await?;
            tail.spoke = Some(Instant::now());
            Some((Ok(bytes), tail))
        })
    }

    /// The next piece; `None`: the daemon ends, or the log cannot be read. Nothing is read before
    /// the client has taken the piece before.
    async fn next(&mut self) -> Option<Bytes> {
        let Some(spoke) = self.spoke else { return Some(Bytes::from_static(HELLO)) };
        loop {
            let step = match self.step().await? {
                Ok(step) => step,
                Err(error) => {
                    self.follower = None;
                    let body = unreadable(&error).body();
                    return Some(Bytes::from(format!("event: error\ndata: {body}\n\n")));
                }
            };
            if !step.lines.is_empty() {
                return Some(events_of(&step.lines));
            }
            let pause = if step.more { Duration::ZERO } else { PAUSE };
            tokio::select! {
                biased;
                () = self.life.until_cut() => return None,
                () = tokio::time::sleep(pause) => {}
            }
            if spoke.elapsed() >= self.heartbeat {
                return Some(Bytes::from_static(b": still here\n\n"));
            }
        }
    }

    /// One step, on a thread that may wait for the disk.
    async fn step(&mut self) -> Option<io::Result<Step>> {
        let mut follower = self.follower.take()?;
        let stepped = web::block(move || {
            let step = follower.step();
            (follower, step)
        });
        match stepped.await {
            Ok((follower, step)) => {
                self.follower = Some(follower);
                Some(step)
            }
            Err(error) => Some(Err(io::Error::other(error))),
        }
    }
}

/// One event a line. A line has no end in it.
fn events_of(lines: &[String]) -> Bytes {
    let mut events = BytesMut::new();
    for line in lines {
        for piece in ["data: ", line.as_str(), "\n\n"] {
            events.put_slice(piece.as_bytes());
        }
    }
    events.freeze()
}
