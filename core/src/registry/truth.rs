//! What counts as "yes" in a registry.

use serde_json::Value;

/// `true`, or an object that is not switched off: both stand for "yes" in real files.
pub(super) fn is_truthy(value: &Value) -> bool {
    match value {
        Value::Bool(yes) => *yes,
        Value::Object(map) => map.get("enabled").is_none_or(is_truthy),
        Value::String(text) => matches!(text.to_ascii_lowercase().as_str(), "true" | "yes" | "1"),
        Value::Number(number) => number.as_f64().is_some_and(|n| n != 0.0),
        Value::Null | Value::Array(_) => false,
    }
}
