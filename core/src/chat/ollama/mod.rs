//! The translation between OpenAI's chat API and Ollama's native `/api/chat`.
//!
//! Owns: the native request for an OpenAI one ([`translate`]), the OpenAI answer for a native one
//! ([`NativeStream`], [`whole_answer`]), and reading what Ollama lists ([`parse_ps`],
//! [`parse_tags`]). Must never do: I/O, read a clock, or lose something of a request silently;
//! what has no native counterpart and could change the answer is named in [`Losses`].
//!
//! The rooms: `request` puts the native body together from `messages` (with `images` and
//! `arguments`), `tools`, `format`, `think` and `options`; `line` reads one line of an answer,
//! `answer` writes OpenAI's shapes, `stream` joins the two for streams; `listing` is apart.

mod answer;
mod arguments;
mod fields;
mod format;
mod images;
mod line;
mod listing;
mod losses;
mod messages;
mod options;
mod request;
mod stream;
mod think;
mod tools;

use bytes::Bytes;
use serde_json::{Map, Value, json};

pub use answer::whole_answer;
pub use images::remote_images;
pub use line::Nonsense;
pub use listing::{Loaded, Tag, parse_abilities, parse_ps, parse_tags, same_model};
pub use losses::Losses;
pub use options::LOAD_TIME;
pub use request::{Native, translate};
pub use stream::NativeStream;
pub use think::Think;

/// What the registry says about the model.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pinned {
    /// The model's name at Ollama.
    pub tag: String,
    /// Options of every request: those of [`LOAD_TIME`] come from here alone; a client's own
    /// sampling options override the others.
    pub options: Map<String, Value>,
    /// How long the model stays loaded; a client has no say in it.
    pub keep_alive: Option<Value>,
    /// Whether the model thinks where the client says nothing about it.
    pub think: Option<Think>,
    /// Whether the model can think at all; `None`: not known.
    pub can_think: Option<bool>,
}

/// The body that makes Ollama load the model, with the options that every chat will have: others
/// would make it load a second time.
pub fn load_body(pinned: &Pinned) -> Bytes {
    let mut body = json!({"model": pinned.tag, "messages": [], "stream": false});
    let options: Map<String, Value> = pinned
        .options
        .iter()
        .filter(|(name, value)| LOAD_TIME.contains(&name.as_str()) && !value.is_null())
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    if !options.is_empty() {
        body["options"] = Value::Object(options);
    }
    if let Some(keep_alive) = &pinned.keep_alive {
        body["keep_alive"] = keep_alive.clone();
    }
    Bytes::from(body.to_string())
}

/// The body for `/api/embed` that makes Ollama load a model which only embeds.
pub fn embed_nothing(pinned: &Pinned) -> Bytes {
    let mut body =
        serde_json::from_slice::<Map<String, Value>>(&load_body(pinned)).unwrap_or_default();
    body.remove("messages");
    body.remove("stream");
    body.insert("input".to_owned(), json!([]));
    Bytes::from(Value::Object(body).to_string())
}

/// The body that makes Ollama unload the model. It answers before the memory is surely free.
pub fn unload_body(tag: &str) -> Bytes {
    let body = json!({"model": tag, "messages": [], "stream": false, "keep_alive": 0});
    Bytes::from(body.to_string())
}

#[cfg(test)]
mod tests;
