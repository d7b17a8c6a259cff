//! The fields of an object of the request, taken out one by one.
//!
//! Owns: typed reading with errors that name the field, and that an explicit `null` counts as left
//! out. Must never do: know what a field means. What nobody took is left for the caller to name.

use serde_json::{Map, Value};

use crate::error::ApiError;

/// An object whose known fields are taken out; the rest is what we do not know.
#[derive(Debug, Default)]
pub(super) struct Fields {
    /// Where the object stands, as errors name it: empty for the body, else `messages[0]`, ….
    at: String,
    left: Map<String, Value>,
}

impl Fields {
    /// The fields of `object`, which stands at `at`.
    pub(super) fn new(at: impl Into<String>, object: Map<String, Value>) -> Self {
        Fields { at: at.into(), left: object }
    }

    /// The fields of a value that must be an object.
    pub(super) fn of(at: impl Into<String>, value: Value) -> Result<Self, ApiError> {
        let at = at.into();
        match value {
            Value::Object(object) => Ok(Fields::new(at, object)),
            _ => Err(wrong(&at, "an object")),
        }
    }

    /// The full name of a field, for errors.
    pub(super) fn name(&self, field: &str) -> String {
        if self.at.is_empty() { field.to_owned() } else { format!("{}.{field}", self.at) }
    }

    /// Takes a field of any kind.
    pub(super) fn take(&mut self, field: &str) -> Option<Value> {
        self.left.remove(field).filter(|value| !value.is_null())
    }

    /// Takes a boolean.
    pub(super) fn flag(&mut self, field: &str) -> Result<Option<bool>, ApiError> {
        match self.take(field) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(_) => Err(wrong(&self.name(field), "true or false")),
        }
    }

    /// Takes a text.
    pub(super) fn text(&mut self, field: &str) -> Result<Option<String>, ApiError> {
        match self.take(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(wrong(&self.name(field), "a string")),
        }
    }

    /// Takes a list.
    pub(super) fn list(&mut self, field: &str) -> Result<Option<Vec<Value>>, ApiError> {
        match self.take(field) {
            None => Ok(None),
            Some(Value::Array(list)) => Ok(Some(list)),
            Some(_) => Err(wrong(&self.name(field), "a list")),
        }
    }

    /// Takes an object.
    pub(super) fn object(&mut self, field: &str) -> Result<Option<Fields>, ApiError> {
        let at = self.name(field);
        self.take(field).map(|value| Fields::of(at, value)).transpose()
    }

    /// The names of what is left and says something.
    pub(super) fn rest(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.left.iter().filter(|(_, value)| says_something(value)).map(|(k, v)| (k.as_str(), v))
    }
}

/// Whether a value could mean anything: `null` and empty things do not.
fn says_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(object) => !object.is_empty(),
        Value::Bool(_) | Value::Number(_) => true,
    }
}

/// The refusal of a field that is not what it must be.
pub(super) fn wrong(field: &str, expected: &str) -> ApiError {
    ApiError::invalid(field, format!("`{field}` must be {expected}"))
}
