//! The native request for an OpenAI one.
//!
//! Owns: the fields of the body as a whole, and what of them is dropped without a word because it
//! cannot change the answer. Must never do: leave `stream` out; Ollama streams by default.

use std::collections::HashMap;
use std::hash::BuildHasher;

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Value};

use super::fields::{Fields, wrong};
use super::losses::Losses;
use super::messages::{self, Message};
use super::{Pinned, format, options, think, tools};
use crate::error::{ApiError, Code};

/// A request as Ollama takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Native {
    /// The body for `/api/chat`.
    pub body: Bytes,
    /// What it does not say any more.
    pub losses: Losses,
}

/// Fields that are for somebody else, or that say nothing about the answer's content.
const SILENT: [&str; 9] = [
    "model", // the registry's tag goes instead
    "metadata",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
    "stream_options", // usage comes with every native answer
    "user",
];

#[derive(Serialize)]
struct Wire<'a> {
    model: &'a str,
    messages: Vec<Message>,
    stream: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    format: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    think: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_logprobs: Option<u64>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    options: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    keep_alive: Option<&'a Value>,
}

/// Translates a request; `fetched` holds the bytes of the images that [`super::remote_images`]
/// named. Errors are 400 and name the field.
pub fn translate<S: BuildHasher>(
    body: &[u8],
    pinned: &Pinned,
    fetched: &HashMap<String, Bytes, S>,
) -> Result<Native, ApiError> {
    let object: Map<String, Value> = serde_json::from_slice(body).map_err(|e| {
        ApiError::invalid("", format!("the request body is not a valid JSON object: {e}"))
    })?;
    let mut fields = Fields::new("", object);
    let mut losses = Losses::default();
    one_choice(&mut fields)?;
    let wire = Wire {
        model: &pinned.tag,
        messages: history(&mut fields, fetched, &mut losses)?,
        stream: fields.flag("stream")?.unwrap_or(false),
        tools: tools::offered(&mut fields, &mut losses)?,
        format: format::wanted(&mut fields, &mut losses)?,
        think: think::wanted(&mut fields, pinned, &mut losses)?.map(think::Think::value),
        logprobs: fields.flag("logprobs")?.filter(|on| *on),
        top_logprobs: top_logprobs(&mut fields)?,
        options: options::merged(&mut fields, pinned, &mut losses)?,
        keep_alive: pinned.keep_alive.as_ref(),
    };
    name_the_rest(&mut fields, &mut losses);
    let body = serde_json::to_vec(&wire)
        .map_err(|e| ApiError::new(Code::Internal, format!("cannot write the request: {e}")))?;
    Ok(Native { body: Bytes::from(body), losses })
}

fn history<S: BuildHasher>(
    fields: &mut Fields,
    fetched: &HashMap<String, Bytes, S>,
    losses: &mut Losses,
) -> Result<Vec<Message>, ApiError> {
    let list = fields.list("messages")?.unwrap_or_default();
    if list.is_empty() {
        // To Ollama this would be a wish to load the model, answered with nothing.
        return Err(wrong("messages", "a list of at least one message"));
    }
    messages::translate(list, fetched, losses)
}

fn one_choice(fields: &mut Fields) -> Result<(), ApiError> {
    match fields.take("n") {
        None => Ok(()),
        Some(n) if n == 1 => Ok(()),
        Some(_) => Err(wrong("n", "1: Ollama gives one answer at a time")),
    }
}

fn top_logprobs(fields: &mut Fields) -> Result<Option<u64>, ApiError> {
    match fields.take("top_logprobs") {
        None => Ok(None),
        Some(n) => match n.as_u64() {
            Some(n @ 0..=20) => Ok(Some(n)),
            _ => Err(wrong("top_logprobs", "a whole number from 0 to 20")),
        },
    }
}

/// Whatever is left could have changed the answer, but for what is known not to.
fn name_the_rest(fields: &mut Fields, losses: &mut Losses) {
    for field in SILENT {
        fields.take(field);
    }
    for (field, value) in fields.rest() {
        if !is_neutral(field, value) {
            losses.dropped(field);
        }
    }
}

/// Fields of other engines in the value that says what Ollama does anyway.
fn is_neutral(field: &str, value: &Value) -> bool {
    match field {
        "modalities" => value.as_array().is_some_and(|all| all.iter().all(|kind| kind == "text")),
        "best_of" => value == 1,
        "min_tokens" => value == 0,
        "use_beam_search" | "ignore_eos" => value == false,
        _ => false,
    }
}
