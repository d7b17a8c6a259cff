//! Owns `/api/embed` and `/v1/embeddings`: vectors that depend on the text alone.
//!
//! Must never be taken for a model's.

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Daemon;
use super::chat::claim;
use super::errors::{Refusal, whole};
use super::keep::Keep;
use super::models::embedding;
use super::routes::{begin, json_body};
use super::runner::Setup;
use super::times::nanos;
use crate::fault::Fault;
use crate::http::Head;
use crate::tokens;
use crate::wire::{Stop, Wire};

/// Answers `/api/embed`.
pub(super) async fn answer(
    daemon: &Daemon,
    head: &Head,
    body: &Bytes,
    wire: &mut Wire,
) -> Result<(), Stop> {
    let began = Instant::now();
    let (body, fault) = match json_body(daemon, head, body) {
        Ok(read) => read,
        Err(refusal) => return wire.reply(&refusal.reply()).await,
    };
    if let Some(result) = begin(&fault, wire).await {
        return result;
    }
    let vectors = match embed(daemon, &body, &fault).await {
        Ok(vectors) => vectors,
        Err(refusal) => return wire.reply(&refusal.reply()).await,
    };
    let loaded = nanos(began.elapsed());
    let reply = json!({
        "model": body["model"], "embeddings": vectors.list, "total_duration": loaded,
        "load_duration": loaded, "prompt_eval_count": vectors.tokens,
    });
    wire.reply(&whole(200, &reply)).await
}

/// What `/v1/embeddings` says.
pub(super) async fn openai(daemon: &Daemon, body: &Value, fault: &Fault) -> Result<Value, Refusal> {
    let vectors = embed(daemon, body, fault).await?;
    let entry =
        |(index, vector)| json!({"object": "embedding", "embedding": vector, "index": index});
    let data: Vec<Value> = vectors.list.into_iter().enumerate().map(entry).collect();
    Ok(json!({
        "object": "list", "data": data, "model": body["model"],
        "usage": {"prompt_tokens": vectors.tokens, "total_tokens": vectors.tokens},
    }))
}

struct Vectors {
    list: Vec<Vec<f64>>,
    /// Tokens of all texts.
    tokens: u64,
}

/// Has the model loaded, and makes a vector of each text.
async fn embed(daemon: &Daemon, body: &Value, fault: &Fault) -> Result<Vectors, Refusal> {
    let keep = Keep::read(&body["keep_alive"]).map_err(Refusal::bad)?;
    let name = body["model"].as_str().unwrap_or_default();
    let model = daemon.find(name)?;
    let texts: Vec<&str> = match &body["input"] {
        Value::String(text) => vec![text],
        Value::Array(list) if list.iter().all(Value::is_string) => {
            list.iter().filter_map(Value::as_str).collect()
        }
        _ => return Err(Refusal::bad("invalid input type")),
    };
    let _lease = claim(daemon, model, Setup::read(&body["options"]), keep, fault).await?;
    let tokens = texts.iter().map(|text| tokens::count(text)).sum();
    Ok(Vectors { list: texts.into_iter().map(embedding).collect(), tokens })
}
