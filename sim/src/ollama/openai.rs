//! Owns Ollama's OpenAI routes, as far as they are not those of the other face.
//!
//! What generates is told as the other face tells it; errors, and what is listed, are Ollama's
//! own. Must never decide what is generated.

use bytes::Bytes;
use serde_json::{Value, json};

use super::chat::claim;
use super::errors::{Refusal, whole};
use super::models::{CONTEXT, Model};
use super::routes::{begin, json_body};
use super::runner::Setup;
use super::store::Lease;
use super::{Daemon, embed};
use crate::fault::Fault;
use crate::http::Head;
use crate::options::Options;
use crate::routes::Core;
use crate::wire::{Reply, Stop, Wire};
use crate::{chat, completions, messages, responses};

/// When the models are told to have been made: 2 January 2026.
const CREATED: u64 = 1_767_323_045;

/// A surface that generates or embeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Surface {
    Chat,
    Completions,
    Responses,
    Messages,
    Embeddings,
}

impl Surface {
    pub(super) fn of(path: &str) -> Option<Self> {
        Some(match path {
            "/v1/chat/completions" => Self::Chat,
            "/v1/completions" => Self::Completions,
            "/v1/responses" => Self::Responses,
            "/v1/messages" => Self::Messages,
            "/v1/embeddings" => Self::Embeddings,
            _ => return None,
        })
    }
}

/// Answers one request.
pub(super) async fn answer(
    core: &Core,
    daemon: &Daemon,
    surface: Surface,
    head: &Head,
    body: &Bytes,
    wire: &mut Wire,
) -> Result<(), Stop> {
    let (body, fault) = match json_body(daemon, head, body) {
        Ok(read) => read,
        Err(refusal) => return wire.reply(&refusal.openai()).await,
    };
    if let Some(result) = begin(&fault, wire).await {
        return result;
    }
    if surface == Surface::Embeddings {
        let reply = match embed::openai(daemon, &body, &fault).await {
            Ok(told) => whole(200, &told),
            Err(refusal) => refusal.openai(),
        };
        return wire.reply(&reply).await;
    }
    let claimed = claimed(core, daemon, &body, &fault).await;
    let (options, _lease) = match claimed {
        Ok(claimed) => claimed,
        Err(refusal) => return wire.reply(&refusal.openai()).await,
    };
    match surface {
        Surface::Completions => completions::answer(core, &options, wire, &body, fault).await,
        Surface::Responses => responses::answer(core, &options, wire, &body, fault).await,
        Surface::Messages => messages::answer(core, &options, wire, &body, fault).await,
        _ => chat::answer(core, &options, wire, &body, fault).await,
    }
}

/// Has the model loaded; with it come the options that the other face answers with.
async fn claimed(
    core: &Core,
    daemon: &Daemon,
    body: &Value,
    fault: &Fault,
) -> Result<(Options, Lease), Refusal> {
    let name = body["model"].as_str().unwrap_or_default();
    let model = daemon.find(name)?;
    let lease = claim(daemon, model, Setup::read(&Value::Null), None, fault).await?;
    Ok((options(core, model, name), lease))
}

/// The options of an engine that serves this model alone, under this name.
fn options(core: &Core, model: &Model, name: &str) -> Options {
    Options {
        served: vec![model.own_name().to_owned(), name.to_owned()],
        max_model_len: u32::try_from(CONTEXT).unwrap_or(u32::MAX),
        reasoning_parser: model.thinks().then(|| "ollama".to_owned()),
        tool_call_parser: model.calls_tools().then(|| "ollama".to_owned()),
        auto_tool_choice: model.calls_tools(),
        images: model.sees().then_some(u32::MAX),
        ..core.options.clone()
    }
}

/// Answers `GET /v1/models`.
pub(super) fn models(daemon: &Daemon) -> Reply {
    let data: Vec<Value> = daemon.installed.iter().map(line).collect();
    whole(200, &json!({"object": "list", "data": data}))
}

/// Answers `GET /v1/models/{name}`.
pub(super) fn model(daemon: &Daemon, name: &str) -> Reply {
    match daemon.find(name) {
        Ok(model) => whole(200, &line(model)),
        Err(refusal) => refusal.openai(),
    }
}

fn line(model: &Model) -> Value {
    json!({"id": model.name, "object": "model", "created": CREATED, "owned_by": "library"})
}
