//! The form that an answer must have: `response_format` as Ollama's `format`.
//!
//! Owns: which of the request's ways to ask for JSON holds. Must never do: judge a schema; Ollama
//! answers 400 to one that it cannot use.

use serde_json::Value;

use super::fields::{Fields, wrong};
use super::losses::Losses;
use crate::error::ApiError;

/// What to send as `format`, if anything.
pub(super) fn wanted(fields: &mut Fields, losses: &mut Losses) -> Result<Option<Value>, ApiError> {
    let format = response_format(fields)?;
    // vLLM's way to say the same.
    match (fields.take("guided_json"), &format) {
        (Some(schema @ Value::Object(_)), None) => return Ok(Some(schema)),
        (Some(_), _) => losses.dropped("guided_json"),
        (None, _) => {}
    }
    Ok(format)
}

fn response_format(fields: &mut Fields) -> Result<Option<Value>, ApiError> {
    let Some(mut format) = fields.object("response_format")? else {
        return Ok(None);
    };
    match format.text("type")?.as_deref() {
        Some("text") => Ok(None),
        Some("json_object") => Ok(Some("json".into())),
        Some("json_schema") => {
            let schema = match format.object("json_schema")? {
                Some(mut described) => described.take("schema"),
                None => None,
            };
            match schema {
                Some(schema @ Value::Object(_)) => Ok(Some(schema)),
                _ => Err(wrong("response_format.json_schema.schema", "a JSON schema (an object)")),
            }
        }
        _ => Err(wrong("response_format.type", "one of text, json_object, json_schema")),
    }
}
