//! Owns an Ollama's refusals: their words, and the two forms of their JSON.
//!
//! Must never decide whether something is refused.

use serde_json::{Value, json};

use crate::errors::openai_error;
use crate::wire::Reply;

/// What Ollama answers all its JSON as.
const JSON: &str = "application/json; charset=utf-8";

/// What is said of a model that could not be loaded, where nothing else is ordered.
pub(super) const LOAD_FAILED: &str = "model failed to load, this may be due to resource \
    limitations or an internal error, check ollama server logs for details";

/// What is said when too many wait.
const BUSY: &str = "server busy, please try again.  maximum pending requests exceeded";

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    status: u16,
    text: String,
}

impl Refusal {
    pub(super) fn new(status: u16, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }

    /// 400 for a request that has no sense.
    pub(super) fn bad(text: impl Into<String>) -> Self {
        Self::new(400, text)
    }

    /// 400 for a value of a type that the field does not have.
    pub(super) fn wrong_type(value: &Value, field: &str, wanted: &str) -> Self {
        let given = match value {
            Value::Null => "null",
            Value::Bool(_) => "bool",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        let text =
            format!("json: cannot unmarshal {given} into Go struct field {field} of type {wanted}");
        Self::bad(text)
    }

    /// 404 for a model that is not installed.
    pub(super) fn no_model(name: &str) -> Self {
        Self::new(404, format!("model '{name}' not found"))
    }

    /// 400 for something that the model cannot do.
    pub(super) fn not_supported(name: &str, what: &str) -> Self {
        Self::bad(format!("{name:?} does not support {what}"))
    }

    /// 500 for what went wrong inside.
    pub(super) fn inside(text: impl Into<String>) -> Self {
        Self::new(500, text)
    }

    /// The answer on the native routes.
    pub(super) fn reply(&self) -> Reply {
        whole(self.status, &json!({"error": self.text}))
    }

    /// The answer on the OpenAI routes.
    pub(super) fn openai(&self) -> Reply {
        openai_error(self.status, &self.text)
    }
}

/// The text that goes with a status that was ordered without a body.
pub(super) fn ordered(status: u16) -> String {
    let text = if status == 503 { BUSY } else { LOAD_FAILED };
    json!({"error": text}).to_string()
}

/// A whole answer.
pub(super) fn whole(status: u16, body: &Value) -> Reply {
    Reply { content_type: Some(JSON.to_owned()), ..Reply::json(status, body.to_string()) }
}

/// A whole answer that is text.
pub(super) fn text(status: u16, text: &str) -> Reply {
    let kind = if status == 200 { "text/plain; charset=utf-8" } else { "text/plain" };
    Reply { content_type: Some(kind.to_owned()), ..Reply::json(status, text) }
}
