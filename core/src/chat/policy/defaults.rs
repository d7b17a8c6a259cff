//! Parameters that the client left out (SPEC 5.5).
//!
//! Owns: which defaults of an entry go into a request, and under which name. Must never do: touch a
//! parameter that the client set.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::chat::edits::Edit;

/// Names in the registry and on the wire.
const KNOWN: [(&str, &str); 8] = [
    ("max_tokens", "max_tokens"),
    ("min_tokens", "min_tokens"),
    ("temperature", "temperature"),
    ("top_p", "top_p"),
    ("top_k", "top_k"),
    ("frequency_penalty", "frequency_penalty"),
    ("presence_penalty", "presence_penalty"),
    ("stop_sequences", "stop"),
];

/// What OpenAI itself does not know.
const FOREIGN: [&str; 2] = ["min_tokens", "top_k"];
/// What Ollama does not.
const NOT_OLLAMAS: [&str; 1] = ["min_tokens"];

/// The edits, and the names that were filled in. `insert_at`: right behind the opening brace.
pub(super) fn fill_in(
    body: &str,
    insert_at: usize,
    defaults: &Map<String, Value>,
    backend: &str,
) -> (Vec<Edit>, Vec<&'static str>) {
    let fields: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_str(body).unwrap_or_default();
    let set = |name: &str| fields.get(name).is_some_and(|value| value.get() != "null");
    let (mut edits, mut filled) = (Vec::new(), Vec::new());
    for (name, wire) in KNOWN {
        let known = match backend {
            "openai" => !FOREIGN.contains(&wire),
            "ollama" => !NOT_OLLAMAS.contains(&wire),
            _ => true,
        };
        let Some(value) = defaults.get(name).filter(|value| known && says_something(value)) else {
            continue;
        };
        if set(wire) || (wire == "max_tokens" && set("max_completion_tokens")) {
            continue;
        }
        edits.push(match fields.get(wire) {
            Some(null) => Edit::text(place(body, null), value.to_string()),
            None => Edit::text(insert_at..insert_at, format!("\"{wire}\":{value},")),
        });
        filled.push(wire);
    }
    (edits, filled)
}

fn says_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Array(list) => !list.is_empty(),
        _ => true,
    }
}

fn place(body: &str, raw: &RawValue) -> Range<usize> {
    let start = raw.get().as_ptr() as usize - body.as_ptr() as usize;
    start..start + raw.get().len()
}
