//! The arguments of a tool call: a string of JSON at OpenAI, a JSON object at Ollama.
//!
//! Owns: both directions. Must never do: read numbers or reorder keys; the text itself is carried
//! over, so that a number of any length survives.

use serde_json::Value;
use serde_json::value::RawValue;

use crate::chat::request::MAX_DEPTH;
use crate::error::ApiError;
use crate::json;

/// OpenAI's form to Ollama's; `at` names the field. Nothing, or an empty string, is `{}`.
pub(super) fn to_object(value: Option<Value>, at: &str) -> Result<Box<RawValue>, ApiError> {
    let text = match value {
        None => String::new(),
        Some(Value::String(text)) => text,
        // Some clients send the object itself.
        Some(value) => value.to_string(),
    };
    let text = if text.trim().is_empty() { "{}" } else { text.trim() };
    let object = text.starts_with('{') && json::depth(text.as_bytes()) <= MAX_DEPTH;
    let checked = if object { RawValue::from_string(text.to_owned()).ok() } else { None };
    // Valid, so white space outside strings is all that goes, and it stays valid.
    checked.and_then(|raw| RawValue::from_string(compact(raw.get())).ok()).ok_or_else(|| {
        ApiError::invalid(at, format!("`{at}` must be a JSON object, written as a string")).hint(
            "Ollama takes the arguments of earlier tool calls as objects; drop or repair this call",
        )
    })
}

/// Ollama's form to OpenAI's. Nothing is `{}`.
pub(super) fn to_text(raw: Option<&RawValue>) -> String {
    let Some(raw) = raw else {
        return "{}".to_owned();
    };
    // A string is in OpenAI's form already.
    serde_json::from_str::<String>(raw.get()).unwrap_or_else(|_| compact(raw.get()))
}

/// JSON text without the white space outside its strings.
fn compact(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    let (mut in_string, mut escaped) = (false, false);
    for c in json.chars() {
        if in_string {
            in_string = escaped || c != '"';
            escaped = !escaped && c == '\\';
        } else if c.is_ascii_whitespace() {
            continue;
        } else {
            in_string = c == '"';
        }
        text.push(c);
    }
    text
}
