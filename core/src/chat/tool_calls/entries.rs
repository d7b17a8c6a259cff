//! Entries of `tool_calls` in whole answers as backends write them, made right; and the older form.
//!
//! Owns: missing ids and types, arguments that are no string or missing, and the legacy
//! `function_call`. Must never do: change what is right.

use serde_json::{Map, Value, json};

use crate::chat::harmonise::CallIds;

/// The legacy form, as an entry of today's; `None`: there is none, or it says nothing.
pub(super) fn legacy(fields: &mut Map<String, Value>) -> Option<Value> {
    let call = fields.get("function_call")?;
    if call.as_object().is_none_or(Map::is_empty) {
        return None;
    }
    let call = fields.remove("function_call")?;
    Some(json!({"function": call}))
}

/// Makes the entries of one message right; answers whether anything changed.
pub(super) fn complete(entries: &mut [Value], ids: &mut CallIds) -> bool {
    let mut changed = false;
    for entry in entries.iter_mut().filter_map(Value::as_object_mut) {
        let before = entry.clone();
        let call = ids.next_call();
        head(entry, &call.id);
        if let Some(function) = entry.get_mut("function").and_then(Value::as_object_mut) {
            let arguments = arguments_of(function).filter(|text| !text.is_empty());
            let arguments = arguments.unwrap_or_else(|| "{}".to_owned());
            function.insert("arguments".to_owned(), arguments.into());
        }
        changed |= *entry != before;
    }
    changed
}

/// What the first part of a call must have; `id`: for one that has none.
pub(super) fn head(entry: &mut Map<String, Value>, id: &str) {
    if entry.get("id").and_then(Value::as_str).is_none_or(str::is_empty) {
        entry.insert("id".to_owned(), id.into());
    }
    if !entry.get("type").is_some_and(Value::is_string) {
        entry.insert("type".to_owned(), "function".into());
    }
}

/// The arguments as the text that they are to be; nothing, if there are none.
pub(super) fn arguments_of(function: &Map<String, Value>) -> Option<String> {
    match function.get("arguments")? {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}
