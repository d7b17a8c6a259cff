//! Owns which path is answered by whom, and the faults that replace an answer.
//!
//! Must never build an answer's JSON beyond a line.

use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::ask::Ask;
use crate::errors::{self, ApiError};
use crate::fault::Fault;
use crate::generate::Generation;
use crate::http::Head;
use crate::life::{End, Life, State};
use crate::ollama::Daemon;
use crate::options::Options;
use crate::orders::{self, Health};
use crate::process::{self, Family};
use crate::stats::{Counters, Going, Stats};
use crate::stream::{self, Format, pause};
use crate::wire::{Reply, Stop, Wire};
use crate::{chat, completions, messages, metrics, models, responses, tokens};

/// One engine: what it was started with, and what changes while it serves.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) options: Options,
    pub(crate) counters: Counters,
    /// The level of sleep; 0 is awake.
    pub(crate) sleep: watch::Sender<u8>,
    /// How `/health` is answered while the engine lives.
    pub(crate) health: watch::Sender<Health>,
    /// Whether the engine lives.
    pub(crate) life: Life,
    /// The processes of the engine, if it is one.
    pub(crate) family: Option<Family>,
    /// The Ollama that it is, if it is one.
    pub(crate) ollama: Option<Daemon>,
}

impl Core {
    /// What was counted.
    pub(crate) fn stats(&self) -> Stats {
        let models = self.ollama.as_ref().map(|daemon| daemon.store.stats());
        Stats { models, ..self.counters.snapshot() }
    }

    /// Sets what was counted to zero.
    pub(crate) fn reset(&self) {
        self.counters.reset();
        if let Some(daemon) = &self.ollama {
            daemon.reset();
        }
    }
}

/// A route that answers a POST with a JSON body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Post {
    Chat,
    Completions,
    Responses,
    Messages,
    CountTokens,
    Tokenize,
    Detokenize,
    Sleep,
    WakeUp,
    Reset,
    Health,
    Log,
}

/// A route that answers a GET.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Get {
    Health,
    Models,
    Version,
    Load,
    Metrics,
    IsSleeping,
    Argv,
    Stats,
    Env,
    Process,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    Get(Get),
    Post(Post),
    /// GET and POST alike.
    Both(Get),
}

fn route(path: &str, core: &Core) -> Option<Route> {
    let options = &core.options;
    Some(match path {
        "/health" => Route::Get(Get::Health),
        "/ping" => Route::Both(Get::Health),
        "/v1/models" => Route::Get(Get::Models),
        "/version" => Route::Get(Get::Version),
        "/load" => Route::Get(Get::Load),
        "/metrics" => Route::Get(Get::Metrics),
        "/v1/chat/completions" => Route::Post(Post::Chat),
        "/v1/completions" => Route::Post(Post::Completions),
        "/v1/responses" => Route::Post(Post::Responses),
        "/v1/messages" => Route::Post(Post::Messages),
        "/v1/messages/count_tokens" => Route::Post(Post::CountTokens),
        "/tokenize" => Route::Post(Post::Tokenize),
        "/detokenize" => Route::Post(Post::Detokenize),
        "/is_sleeping" if options.sleep_mode => Route::Get(Get::IsSleeping),
        "/sleep" if options.sleep_mode => Route::Post(Post::Sleep),
        "/wake_up" if options.sleep_mode => Route::Post(Post::WakeUp),
        "/sim/argv" => Route::Get(Get::Argv),
        "/sim/stats" => Route::Get(Get::Stats),
        // An embedded engine tells nothing of the program around it.
        "/sim/env" if core.family.is_some() => Route::Get(Get::Env),
        "/sim/process" if core.family.is_some() => Route::Get(Get::Process),
        // Nor does it write to that program's standard error.
        "/sim/log" if core.family.is_some() => Route::Post(Post::Log),
        "/sim/health" => Route::Post(Post::Health),
        "/sim/reset" => Route::Post(Post::Reset),
        _ => return None,
    })
}

/// Answers one request.
pub(crate) async fn answer(
    core: &Core,
    head: &Head,
    body: &Bytes,
    wire: &mut Wire,
) -> Result<(), Stop> {
    let Some(route) = route(&head.path, core) else {
        return wire.reply(&errors::not_found()).await;
    };
    match (route, head.method.as_str()) {
        (Route::Get(get) | Route::Both(get), "GET") | (Route::Both(get), "POST") => {
            wire.reply(&get_reply(core, get).await).await
        }
        (Route::Post(Post::Reset), "POST") => {
            core.reset();
            wire.reply(&Reply::json(200, "{}")).await
        }
        (Route::Post(Post::Health), "POST") => wire.reply(&orders::health(core, body)).await,
        (Route::Post(Post::Log), "POST") => wire.reply(&orders::log(body).await).await,
        (Route::Post(Post::Sleep), "POST") => wire.reply(&sleep(core, &head.query)).await,
        (Route::Post(Post::WakeUp), "POST") => {
            core.sleep.send_replace(0);
            wire.reply(&Reply::json(200, r#"{"status":"awake","tags":null}"#)).await
        }
        (Route::Post(post), "POST") => {
            let _running = Going::on(&core.counters.running);
            infer(core, post, head, body, wire).await
        }
        (Route::Get(_), _) => wire.reply(&errors::method_not_allowed("GET")).await,
        (Route::Post(_), _) => wire.reply(&errors::method_not_allowed("POST")).await,
        (Route::Both(_), _) => wire.reply(&errors::method_not_allowed("GET, POST")).await,
    }
}

async fn get_reply(core: &Core, get: Get) -> Reply {
    let body = match get {
        Get::Health => return health(core).await,
        Get::Models => models::list(&core.options),
        Get::Version => json!({"version": "0.32.0"}),
        Get::Load => json!({"server_load": core.counters.running.load(Relaxed)}),
        Get::Metrics => return metrics::reply(core),
        Get::IsSleeping => json!({"is_sleeping": *core.sleep.borrow() > 0}),
        Get::Argv => json!(core.options.argv),
        Get::Stats => json!(core.stats()),
        Get::Env => process::environment(),
        Get::Process => json!(core.family.as_ref().map(Family::tell)),
    };
    Reply::json(200, body.to_string())
}

/// How the engine fares, or what was ordered to be told of that.
async fn health(core: &Core) -> Reply {
    let ordered = *core.health.borrow();
    match ordered {
        Health::Hangs => std::future::pending().await,
        Health::Status(_) if core.life.state() == State::Dead => Reply::empty(503),
        Health::Status(status) => Reply::empty(status),
    }
}

fn sleep(core: &Core, query: &str) -> Reply {
    let level = query.split('&').find_map(|pair| pair.strip_prefix("level="));
    let level: u8 = level.and_then(|l| l.parse().ok()).unwrap_or(1);
    core.sleep.send_replace(level);
    Reply::json(200, json!({"status": "sleeping", "level": level}).to_string())
}

/// Answers a POST that has a JSON body.
async fn infer(
    core: &Core,
    post: Post,
    head: &Head,
    body: &Bytes,
    wire: &mut Wire,
) -> Result<(), Stop> {
    let refuse = |error: &ApiError| match post {
        Post::Messages | Post::CountTokens => error.messages_reply(),
        _ => error.reply(),
    };
    let (body, fault) = match read(&core.options, head, body) {
        Ok(read) => read,
        Err(error) => return wire.reply(&refuse(&error)).await,
    };
    wire.arm(&fault);
    if let Err(error) = due(core, &fault).await {
        return wire.reply(&refuse(&error)).await;
    }
    if let Some(result) = replaced(&fault, wire).await {
        return result;
    }
    if let Err(error) = awake(core).await {
        return wire.reply(&refuse(&error)).await;
    }
    let (options, unary) = (&core.options, fault.clone());
    let result = match post {
        Post::Chat => return chat::answer(core, options, wire, &body, fault).await,
        Post::Completions => return completions::answer(core, options, wire, &body, fault).await,
        Post::Responses => return responses::answer(core, options, wire, &body, fault).await,
        Post::Messages => return messages::answer(core, options, wire, &body, fault).await,
        Post::CountTokens => messages::count_tokens(&body, options, fault),
        Post::Tokenize => tokens::tokenize(&body, options),
        _ => tokens::detokenize(&body, options),
    };
    pause(unary.delay_unary_ms).await;
    wire.reply(&result.unwrap_or_else(|error| refuse(&error))).await
}

/// Waits until an answer may begin.
async fn due(core: &Core, fault: &Fault) -> Result<(), ApiError> {
    if core.life.state() == State::Draining {
        return Err(ApiError::not_scheduled());
    }
    let begin = async {
        if fault.hang_before_head == Some(true) {
            std::future::pending::<()>().await;
        }
        pause(fault.delay_head_ms).await;
    };
    unless_ended(core, begin).await
}

/// An engine that sleeps takes the request and says nothing until it is woken.
async fn awake(core: &Core) -> Result<(), ApiError> {
    let mut sleep = core.sleep.subscribe();
    let awake = async {
        // The sender is the core's own, so that waiting cannot fail.
        let _ = sleep.wait_for(|&level| level == 0).await;
    };
    unless_ended(core, awake).await
}

/// Waits for `done` or for the engine's end, whichever comes first, and tells the end.
async fn unless_ended(core: &Core, done: impl Future<Output = ()>) -> Result<(), ApiError> {
    let mut life = core.life.watch();
    tokio::select! {
        () = done => {}
        _ = life.end() => {}
    }
    match core.life.state().end() {
        None => Ok(()),
        Some(End::Dead) => Err(ApiError::engine_died()),
        Some(End::Silent) => std::future::pending().await,
    }
}

/// Reads a body, in the order in which the engine refuses it.
fn read(options: &Options, head: &Head, body: &Bytes) -> Result<(Value, Fault), ApiError> {
    let media_type = head.content_type.split(';').next().unwrap_or_default().trim();
    if media_type != "application/json" {
        return Err(ApiError::media_type());
    }
    if body.is_empty() {
        return Err(ApiError::empty_body());
    }
    let value: Value =
        serde_json::from_slice(body).map_err(|e| ApiError::bad_json(place_of(&e, body)))?;
    if !value.is_object() {
        return Err(ApiError::not_an_object(&value));
    }
    let fault = Fault::from_request(&value, &options.fault).map_err(|e| ApiError::bad_order(&e))?;
    Ok((value, fault))
}

/// Where in the body an error is, in characters.
fn place_of(error: &serde_json::Error, body: &[u8]) -> usize {
    let text = String::from_utf8_lossy(body);
    if error.is_eof() {
        return text.chars().count();
    }
    let before: usize =
        text.split('\n').take(error.line() - 1).map(|l| l.chars().count() + 1).sum();
    before + error.column().saturating_sub(1)
}

/// Does those faults that stand in place of the answer.
pub(crate) async fn replaced(fault: &Fault, wire: &mut Wire) -> Option<Result<(), Stop>> {
    if let Some(location) = &fault.redirect {
        let extra = vec![("location", location.clone())];
        return Some(wire.reply(&Reply { extra, ..Reply::empty(307) }).await);
    }
    let status = fault.status?;
    let kind = fault.content_type.as_deref().unwrap_or("application/json");
    let body = fault.body.clone().unwrap_or_default();
    let reply =
        Reply { content_type: Some(kind.to_owned()), body: body.into(), ..Reply::empty(status) };
    Some(wire.reply(&reply).await)
}

/// Sends an answer as a stream and counts it.
pub(crate) async fn streamed(
    core: &Core,
    wire: &mut Wire,
    ask: &Ask,
    format: &mut dyn Format,
    answers: &[Generation],
) -> Result<(), Stop> {
    stream::send(wire, &ask.fault, &core.life, format, answers).await?;
    count(core, ask, answers);
    Ok(())
}

/// Sends an answer in one piece, after the time that its tokens take, and counts it.
pub(crate) async fn unary(
    core: &Core,
    wire: &mut Wire,
    ask: &Ask,
    answers: &[Generation],
    body: impl FnOnce() -> Value,
) -> Result<(), Stop> {
    let fault = &ask.fault;
    let turns = answers.iter().map(|a| a.steps.len()).max().unwrap_or(0) as u64;
    let tokens = fault.delay_token_ms.unwrap_or(0).saturating_mul(turns.saturating_sub(1));
    let first = fault.delay_first_ms.unwrap_or(0);
    let own = fault.delay_unary_ms.unwrap_or(0);
    let generated = async {
        pause(Some(tokens.saturating_add(first).saturating_add(own))).await;
        core.life.generated(answers.iter().map(|a| a.completion_tokens).sum());
    };
    if let Err(error) = unless_ended(core, generated).await {
        return wire.reply(&error.reply()).await;
    }
    wire.reply(&Reply::json(200, body().to_string())).await?;
    count(core, ask, answers);
    Ok(())
}

pub(crate) fn count(core: &Core, ask: &Ask, answers: &[Generation]) {
    let counters = &core.counters;
    counters.prompt_tokens.fetch_add(ask.prompt_tokens, Relaxed);
    for answer in answers {
        counters.generation_tokens.fetch_add(answer.completion_tokens, Relaxed);
        let length = answer.finish().is_some_and(|f| f.reason == "length");
        let ended = if length { &counters.truncated } else { &counters.stopped };
        ended.fetch_add(1, Relaxed);
    }
}
