//! Sampling parameters and Ollama's `options`.
//!
//! Owns: which parameter becomes which option, their types, and who may set what. Must never do:
//! let a client set a load-time option: two clients that differ would make Ollama reload the model
//! with every request.

use serde_json::{Map, Value};

use super::Pinned;
use super::fields::{Fields, wrong};
use super::losses::Losses;
use crate::error::ApiError;

/// The options that take effect when the model is loaded.
pub const LOAD_TIME: [&str; 6] =
    ["num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread"];

/// What an option must be.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Whole,
    Number,
    Texts,
}

/// The option, its kind, and the names that set it, the one that wins last.
type Row = (&'static str, Kind, &'static [&'static str]);

const SAMPLING: &[Row] = &[
    ("num_predict", Kind::Whole, &["num_predict", "max_tokens", "max_completion_tokens"]),
    ("temperature", Kind::Number, &["temperature"]),
    ("top_p", Kind::Number, &["top_p"]),
    ("top_k", Kind::Whole, &["top_k"]),
    ("min_p", Kind::Number, &["min_p"]),
    ("typical_p", Kind::Number, &["typical_p"]),
    ("seed", Kind::Whole, &["seed"]),
    ("stop", Kind::Texts, &["stop"]),
    ("frequency_penalty", Kind::Number, &["frequency_penalty"]),
    ("presence_penalty", Kind::Number, &["presence_penalty"]),
    ("repeat_penalty", Kind::Number, &["repetition_penalty", "repeat_penalty"]),
    ("repeat_last_n", Kind::Whole, &["repeat_last_n"]),
    ("num_keep", Kind::Whole, &["num_keep"]),
];

/// The options to send: the registry's, over them the client's own `options` as far as they are
/// sampling, over them the request's parameters.
pub(super) fn merged(
    fields: &mut Fields,
    pinned: &Pinned,
    losses: &mut Losses,
) -> Result<Map<String, Value>, ApiError> {
    let mut options = pinned.options.clone();
    options.retain(|_, value| !value.is_null());
    if let Some(mut own) = fields.object("options")? {
        for (option, kind, _) in SAMPLING {
            set(&mut own, option, option, *kind, &mut options)?;
        }
        refuse_load_time(&mut own, losses);
        losses.rest("options", &own);
    }
    for (option, kind, names) in SAMPLING {
        for name in *names {
            set(fields, name, option, *kind, &mut options)?;
        }
    }
    refuse_load_time(fields, losses);
    Ok(options)
}

fn refuse_load_time(fields: &mut Fields, losses: &mut Losses) {
    for option in LOAD_TIME {
        if fields.take(option).is_some() {
            losses.pinned(option);
        }
    }
}

/// Takes one field and puts it where it belongs.
fn set(
    fields: &mut Fields,
    name: &str,
    option: &str,
    kind: Kind,
    options: &mut Map<String, Value>,
) -> Result<(), ApiError> {
    let Some(value) = fields.take(name) else {
        return Ok(());
    };
    let checked = match kind {
        Kind::Number => value.is_number().then_some(value).ok_or("a number"),
        Kind::Whole => is_whole(&value).then_some(value).ok_or("a whole number"),
        Kind::Texts => texts(value).ok_or("a string or a list of strings"),
    };
    let value = checked.map_err(|expected| wrong(&fields.name(name), expected))?;
    options.insert(option.to_owned(), value);
    Ok(())
}

/// Ollama reads these as 64-bit integers; `40.0` is one too.
fn is_whole(value: &Value) -> bool {
    value.is_i64() || value.as_f64().is_some_and(|n| !value.is_u64() && n.fract() == 0.0)
}

/// Stop texts as a list. An empty one would stop every answer before its first word.
fn texts(value: Value) -> Option<Value> {
    let list = match value {
        Value::Array(list) => list,
        text => vec![text],
    };
    let all_texts = list.iter().all(Value::is_string);
    all_texts.then(|| list.into_iter().filter(|text| text != "").collect())
}
