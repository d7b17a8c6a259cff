//! `GET /v1/events`: what happens in the daemon, as server-sent events.
//!
//! Owns: the stream: where a client begins (`Last-Event-ID`), what it hears in the silence, and its
//! end with the daemon's. Must never do: hold back anybody; a client that is too slow gets a `gap`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::{Bytes, BytesMut};
use chat_proxy_actors::events::{EventBus, News};
use chat_proxy_core::ApiError;
use futures_util::stream::{self, Stream};
use serde::Deserialize;
use tokio::sync::watch;

use super::listeners::Place;
use super::state::AppState;
use super::{error, management};
use crate::life::Life;

/// A client that lost its connection comes again after this.
const HELLO: &str = ": events of the proxy\nretry: 2000\n\n";
/// Where no other heartbeat is set, silence is broken this often.
const USUAL_HEARTBEAT: Duration = Duration::from_secs(10);

/// The query. Browsers cannot send the header with their first request.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    last_event_id: Option<u64>,
}

/// The stream.
pub(super) async fn stream(request: HttpRequest, state: web::Data<AppState>) -> HttpResponse {
    let begun =
        begin(&request, &state.events).and_then(|begin| Ok((begin, state.listeners.enter()?)));
    let (begin, place) = match begun {
        Ok(begun) => begun,
        Err(refusal) => return error::respond(&refusal),
    };
    let heartbeat = state.settings().server.heartbeat_ms.limit().unwrap_or(USUAL_HEARTBEAT);
    let listener = Listener {
        bus: state.events.clone(),
        news: state.events.watch(),
        life: state.life.clone(),
        heartbeat,
        last: begin,
        greeted: false,
        ended: false,
        _place: place,
    };
    HttpResponse::Ok()
        .content_type("text/event-stream")
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .insert_header(("x-accel-buffering", "no"))
        .streaming(listener.events())
}

/// Behind which event a client begins.
fn begin(request: &HttpRequest, bus: &EventBus) -> Result<u64, ApiError> {
    management::admin(request)?;
    let wanted = web::Query::<Wanted>::from_query(request.query_string())
        .map_err(|error| ApiError::invalid("last_event_id", format!("the query: {error}")))?;
    let sent = request.headers().get("last-event-id");
    let sent = sent.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let parsed = |text: String| {
        text.trim().parse().map_err(|_| {
            let shown: String = text.chars().take(40).collect();
            ApiError::invalid("last-event-id", format!("{shown:?} is no number of an event"))
        })
    };
    let sent = sent.map(parsed).transpose()?;
    Ok(sent.or(wanted.last_event_id).unwrap_or_else(|| bus.newest()))
}

/// Somebody who listens.
struct Listener {
    bus: Arc<EventBus>,
    news: watch::Receiver<u64>,
    life: Arc<Life>,
    heartbeat: Duration,
    last: u64,
    greeted: bool,
    ended: bool,
    _place: Place,
}

impl Listener {
    fn events(self) -> impl Stream<Item = Result<Bytes, Infallible>> {
        stream::unfold(self, |mut listener| async move {
            let bytes = listener.next().await?;
            Some((Ok(bytes), listener))
        })
    }

    /// The next piece; `None`: the daemon ends.
    async fn next(&mut self) -> Option<Bytes> {
        if !self.greeted {
            self.greeted = true;
            return Some(Bytes::from_static(HELLO.as_bytes()));
        }
        while !self.ended {
            self.news.borrow_and_update();
            if let Some(bytes) = self.missed() {
                return Some(bytes);
            }
            tokio::select! {
                biased;
                changed = self.news.changed() => self.ended = changed.is_err(),
                () = self.life.until_cut() => self.ended = true,
                () = tokio::time::sleep(self.heartbeat) => {
                    return Some(Bytes::from_static(b": still here\n\n"));
                }
            }
        }
        self.missed()
    }

    /// What has happened meanwhile.
    fn missed(&mut self) -> Option<Bytes> {
        let News { gap, events, newest } = self.bus.since(self.last);
        self.last = newest;
        let mut all = BytesMut::new();
        if gap {
            all.extend_from_slice(b"event: gap\ndata: {\"type\":\"gap\"}\n\n");
        }
        for event in &events {
            all.extend_from_slice(event);
        }
        (!all.is_empty()).then(|| all.freeze())
    }
}
