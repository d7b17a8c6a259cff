//! Entries of `tool_calls` as backends write them, made right.
//!
//! Owns: missing indexes, ids and types, arguments that are no string, and the legacy
//! `function_call`. Must never do: change what is right.

use std::collections::BTreeSet;

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

/// Makes the entries of one message or delta right; answers whether anything changed. `begun`: the
/// calls of this choice that have begun, by index.
pub(super) fn mend(
    entries: &mut [Value],
    ids: &mut CallIds,
    begun: &mut BTreeSet<u32>,
    streamed: bool,
) -> bool {
    let mut changed = false;
    for (place, entry) in (0..).zip(entries.iter_mut()) {
        let Some(entry) = entry.as_object_mut() else { continue };
        let said = entry.get("index").and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
        let names =
            entry.get("function").is_some_and(|f| f.get("name").is_some_and(Value::is_string));
        let index = said.unwrap_or_else(|| match begun.last() {
            // A part of the call that has begun last, or the next one.
            Some(last) if streamed && !names => *last,
            Some(last) if streamed => last + 1,
            _ => place,
        });
        if streamed && said.is_none() {
            entry.insert("index".to_owned(), index.into());
            changed = true;
        }
        ids.taken(index);
        if begun.insert(index) || !streamed {
            changed |= head(entry, ids, index);
        }
        changed |= arguments(entry);
    }
    changed
}

/// What the first part of a call must have.
fn head(entry: &mut Map<String, Value>, ids: &CallIds, index: u32) -> bool {
    let mut changed = false;
    if entry.get("id").and_then(Value::as_str).is_none_or(str::is_empty) {
        entry.insert("id".to_owned(), ids.at(index).id.into());
        changed = true;
    }
    if !entry.get("type").is_some_and(Value::is_string) {
        entry.insert("type".to_owned(), "function".into());
        changed = true;
    }
    changed
}

/// Objects become the string that they are.
fn arguments(entry: &mut Map<String, Value>) -> bool {
    let function = entry.get_mut("function").and_then(Value::as_object_mut);
    let Some(arguments) = function.and_then(|function| function.get_mut("arguments")) else {
        return false;
    };
    if !matches!(arguments, Value::Object(_) | Value::Array(_)) {
        return false;
    }
    *arguments = Value::String(arguments.to_string());
    true
}
