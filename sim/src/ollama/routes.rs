//! Owns which path of an Ollama is answered by whom.
//!
//! Must never build an answer's JSON beyond a line.

use bytes::Bytes;
use serde_json::{Value, json};

use super::errors::{self, Refusal, text, whole};
use super::lines::Kind;
use super::{Daemon, chat, embed, openai};
use crate::fault::Fault;
use crate::http::Head;
use crate::life::State;
use crate::orders::Health;
use crate::routes::{self, Core};
use crate::stats::Going;
use crate::stream::pause;
use crate::wire::{Reply, Stop, Wire};

/// The version that it says to be.
pub(crate) const VERSION: &str = "0.12.6";

/// A path that is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route<'a> {
    Root,
    Version,
    Tags,
    Ps,
    Models,
    Model(&'a str),
    Show,
    Native(Kind),
    Embed,
    OpenAi(openai::Surface),
}

impl<'a> Route<'a> {
    fn of(path: &'a str) -> Option<Self> {
        Some(match path {
            "/" => Self::Root,
            "/api/version" => Self::Version,
            "/api/tags" => Self::Tags,
            "/api/ps" => Self::Ps,
            "/api/show" => Self::Show,
            "/api/chat" => Self::Native(Kind::Chat),
            "/api/generate" => Self::Native(Kind::Generate),
            "/api/embed" => Self::Embed,
            "/v1/models" => Self::Models,
            _ => match path.strip_prefix("/v1/models/") {
                Some(name) => Self::Model(name),
                None => Self::OpenAi(openai::Surface::of(path)?),
            },
        })
    }

    fn is_post(self) -> bool {
        matches!(self, Self::Show | Self::Native(_) | Self::Embed | Self::OpenAi(_))
    }
}

/// Whether faults that name no path concern this one.
fn infers(path: &str) -> bool {
    let route = Route::of(path);
    matches!(route, Some(Route::Native(_) | Route::Embed | Route::OpenAi(_)))
}

/// Answers one request.
pub(crate) async fn answer(
    core: &Core,
    daemon: &Daemon,
    head: &Head,
    body: &Bytes,
    wire: &mut Wire,
) -> Result<(), Stop> {
    match (head.path.as_str(), head.method.as_str()) {
        ("/sim/fault", "POST") => return wire.reply(&daemon.orders.replace(body)).await,
        ("/sim/release", "POST") => {
            daemon.store.release();
            return wire.reply(&whole(200, &json!({}))).await;
        }
        ("/sim/requests", "GET") => return wire.reply(&daemon.requests.tell(&head.query)).await,
        (path, _) if path.starts_with("/sim/") => {
            return routes::answer(core, head, body, wire).await;
        }
        _ => daemon.requests.note(head, body),
    }
    let Some(route) = Route::of(&head.path) else {
        return wire.reply(&text(404, "404 page not found")).await;
    };
    match (route.is_post(), head.method.as_str()) {
        (true, "POST") => {
            let _running = Going::on(&core.counters.running);
            post(core, daemon, route, head, body, wire).await
        }
        (false, "GET" | "HEAD") => get(core, daemon, route, head, wire).await,
        _ => wire.reply(&text(405, "405 method not allowed")).await,
    }
}

async fn get(
    core: &Core,
    daemon: &Daemon,
    route: Route<'_>,
    head: &Head,
    wire: &mut Wire,
) -> Result<(), Stop> {
    let fault = daemon.orders.take(&head.path, false);
    if let Some(result) = begin(&fault, wire).await {
        return result;
    }
    let reply = match route {
        Route::Root | Route::Version => health(core, route).await,
        Route::Tags => {
            let tags: Vec<Value> = daemon.installed.iter().map(super::Model::tag).collect();
            whole(200, &json!({"models": tags}))
        }
        Route::Ps => whole(200, &daemon.store.ps()),
        Route::Model(name) => openai::model(daemon, name),
        _ => openai::models(daemon),
    };
    wire.reply(&reply).await
}

/// That it runs, and as which version; or what was ordered to be told of its health.
async fn health(core: &Core, route: Route<'_>) -> Reply {
    let ordered = *core.health.borrow();
    match ordered {
        Health::Hangs => std::future::pending().await,
        Health::Status(_) if core.life.state() == State::Dead => Reply::empty(503),
        Health::Status(200) if route == Route::Root => text(200, "Ollama is running"),
        Health::Status(200) => whole(200, &json!({"version": VERSION})),
        Health::Status(status) => Reply::empty(status),
    }
}

async fn post(
    core: &Core,
    daemon: &Daemon,
    route: Route<'_>,
    head: &Head,
    body: &Bytes,
    wire: &mut Wire,
) -> Result<(), Stop> {
    match route {
        Route::Native(kind) => chat::answer(core, daemon, kind, head, body, wire).await,
        Route::OpenAi(surface) => openai::answer(core, daemon, surface, head, body, wire).await,
        Route::Embed => embed::answer(daemon, head, body, wire).await,
        _ => show(daemon, head, body, wire).await,
    }
}

async fn show(daemon: &Daemon, head: &Head, body: &Bytes, wire: &mut Wire) -> Result<(), Stop> {
    let (body, fault) = match json_body(daemon, head, body) {
        Ok(read) => read,
        Err(refusal) => return wire.reply(&refusal.reply()).await,
    };
    if let Some(result) = begin(&fault, wire).await {
        return result;
    }
    let named = body.get("model").or(body.get("name")).and_then(Value::as_str);
    let found = daemon.find(named.unwrap_or_default());
    let reply = found.map_or_else(|refusal| refusal.reply(), |model| whole(200, &model.show()));
    wire.reply(&reply).await
}

/// Does the faults that come before an answer or in its place.
pub(super) async fn begin(fault: &Fault, wire: &mut Wire) -> Option<Result<(), Stop>> {
    wire.arm(fault);
    if fault.hang_before_head == Some(true) {
        std::future::pending::<()>().await;
    }
    pause(fault.delay_head_ms).await;
    let mut fault = fault.clone();
    if let (Some(status), None) = (fault.status, &fault.body) {
        fault.body = Some(errors::ordered(status));
    }
    routes::replaced(&fault, wire).await
}

/// Reads a body as Go does, whatever it says it is, and the faults that are ordered for it.
pub(super) fn json_body(
    daemon: &Daemon,
    head: &Head,
    body: &Bytes,
) -> Result<(Value, Fault), Refusal> {
    let ordered = daemon.orders.take(&head.path, infers(&head.path));
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(Refusal::bad("missing request body"));
    }
    let value: Value = serde_json::from_slice(body).map_err(|error| {
        if error.is_eof() { Refusal::bad("unexpected EOF") } else { not_json(&error, body) }
    })?;
    if !value.is_object() {
        return Err(Refusal::wrong_type(&value, "value", "api.Request"));
    }
    let fault = Fault::from_request(&value, &ordered).map_err(Refusal::bad)?;
    Ok((value, fault))
}

/// What Go says of the first character that it does not understand.
fn not_json(error: &serde_json::Error, body: &[u8]) -> Refusal {
    let line = body.split(|b| *b == b'\n').nth(error.line().saturating_sub(1));
    let strange = line.and_then(|line| line.get(error.column().saturating_sub(1)));
    let strange = char::from(*strange.unwrap_or(&b'?'));
    Refusal::bad(format!("invalid character {strange:?} looking for beginning of value"))
}
