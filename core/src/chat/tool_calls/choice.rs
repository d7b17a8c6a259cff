//! One choice of an answer.
//!
//! Owns: what of its text is held back, which calls have begun, and what it ends with. Must never do:
//! end it twice, or end it otherwise than the backend did, but for `stop` where there are calls.

use serde_json::{Map, Value, json};

use super::TextRules;
use super::entries::{complete, legacy};
use super::streamed::StreamedCalls;
use super::text::{Read, TextReader};
use crate::chat::harmonise::assemble::{CallId, delta_entry, message_entry};
use crate::chat::harmonise::{CallIds, Piece};

/// One streamed choice.
#[derive(Debug)]
pub(super) struct Choice {
    text: TextReader,
    /// Calls are looked at, not thoughts alone.
    calls: bool,
    ids: CallIds,
    streamed: StreamedCalls,
    over: bool,
}

/// What became of a chunk's choice.
pub(super) struct Turned {
    /// It is not what it was.
    pub(super) changed: bool,
    /// It says something, so it must leave.
    pub(super) says: bool,
}

impl Choice {
    pub(super) fn new(rules: &TextRules, seed: &str, index: u32) -> Self {
        Choice {
            text: TextReader::new(rules),
            calls: rules.offered.is_some(),
            ids: CallIds::new(seed, index),
            streamed: StreamedCalls::default(),
            over: false,
        }
    }

    /// A piece of text that is not the last; nothing, if the choice is over: that is not ours to judge.
    pub(super) fn read(&mut self, said: &str, thinks: bool) -> Option<Read> {
        if self.over {
            return None;
        }
        let mut read = Read::default();
        if thinks {
            self.text.leave_to_the_engine(&mut read);
        }
        if !said.is_empty() {
            self.text.push(said, &mut read);
        }
        Some(read)
    }

    /// One chunk's part of it. `read`: what its text came to, if that has been read.
    pub(super) fn chunk(&mut self, fields: &mut Map<String, Value>, read: Option<Read>) -> Turned {
        let reason = fields.get("finish_reason").and_then(Value::as_str).map(str::to_owned);
        let ends = reason.as_ref().is_some_and(|reason| !reason.is_empty());
        let logs = fields.get("logprobs").is_some_and(|logprobs| !logprobs.is_null());
        if !fields.get("delta").is_some_and(Value::is_object) && ends {
            fields.insert("delta".to_owned(), json!({}));
        }
        let Some(delta) = fields.get_mut("delta").and_then(Value::as_object_mut) else {
            return Turned { changed: false, says: true };
        };
        let mut changed = self.calls && self.engines_calls(delta);
        changed |= self.text(delta, ends, read);
        if ends && !was_cut(reason.as_deref()) && !self.over {
            let silent = self.streamed.finish();
            changed |= !silent.is_empty();
            add(delta, silent);
        }
        let says = delta.values().any(|value| !says_nothing(value));
        self.over |= ends;
        if ends && self.ids.any() {
            changed |= finish_with_calls(fields);
        }
        Turned { changed, says: says || ends || logs }
    }

    /// Calls that the engine itself has told.
    fn engines_calls(&mut self, delta: &mut Map<String, Value>) -> bool {
        let mut changed = false;
        if let Some(mut entry) = legacy(delta) {
            // It has one call only.
            entry["index"] = json!(0);
            delta.insert("tool_calls".to_owned(), json!([entry]));
            changed = true;
        }
        let Some(entries) = delta.get_mut("tool_calls").and_then(Value::as_array_mut) else {
            return changed;
        };
        let mended = self.streamed.take(entries, &mut self.ids);
        if mended && entries.is_empty() {
            delta.shift_remove("tool_calls");
        }
        changed || mended
    }

    /// Text goes through the search; at the end all of it comes out.
    fn text(&mut self, delta: &mut Map<String, Value>, ends: bool, read: Option<Read>) -> bool {
        let said = delta.get("content").and_then(Value::as_str).unwrap_or_default().to_owned();
        let read = read.or_else(|| self.read(&said, tells_thoughts(delta)));
        let Some(mut read) = read else { return false };
        if ends {
            self.text.finish(&mut read);
        }
        let (text, calls) = apart(read.pieces, &mut self.ids, delta_entry);
        if calls.is_empty() && text == said && read.thought.is_empty() {
            return false;
        }
        put(delta, &text, calls, &said);
        think(delta, read.thought);
        true
    }

    /// What is held at the end of an answer that did not say how it ends.
    pub(super) fn rest(&mut self) -> Option<Value> {
        if std::mem::replace(&mut self.over, true) {
            return None;
        }
        let mut read = Read::default();
        self.text.finish(&mut read);
        let (text, calls) = apart(read.pieces, &mut self.ids, delta_entry);
        let mut delta = Map::new();
        put(&mut delta, &text, calls, "");
        think(&mut delta, read.thought);
        (!delta.is_empty()).then_some(Value::Object(delta))
    }
}

/// Whether an answer was cut: then what lacks is not ours to make up.
fn was_cut(reason: Option<&str>) -> bool {
    matches!(reason, Some("length" | "content_filter"))
}

fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

/// Puts text and calls into a delta whose text was `said`.
fn put(delta: &mut Map<String, Value>, text: &str, calls: Vec<Value>, said: &str) {
    if !text.is_empty() {
        delta.insert("content".to_owned(), text.into());
    } else if !said.is_empty() {
        delta.shift_remove("content");
    }
    add(delta, calls);
}

/// Whether the engine says what it thinks in a field of its own.
fn tells_thoughts(fields: &Map<String, Value>) -> bool {
    let told = |name| fields.get(name).is_some_and(|value| !says_nothing(value));
    told("reasoning") || told("reasoning_content")
}

/// Puts a thought into its field, behind what is there.
fn think(fields: &mut Map<String, Value>, thought: String) {
    if thought.is_empty() {
        return;
    }
    let name = ["reasoning", "reasoning_content"]
        .into_iter()
        .find(|name| fields.get(*name).is_some_and(Value::is_string));
    match name.and_then(|name| fields.get_mut(name)) {
        Some(Value::String(before)) => before.push_str(&thought),
        _ => drop(fields.insert("reasoning".to_owned(), thought.into())),
    }
}

/// Text and calls of pieces, each in their order; `entry` writes a call.
fn apart(
    pieces: Vec<Piece>,
    ids: &mut CallIds,
    entry: fn(&CallId, &str, &str) -> Value,
) -> (String, Vec<Value>) {
    let (mut text, mut calls) = (String::new(), Vec::new());
    for piece in pieces {
        match piece {
            Piece::Text(more) => text.push_str(&more),
            Piece::Call { name, arguments } => {
                let call = ids.next_call();
                calls.push(entry(&call, &name, &arguments));
            }
        }
    }
    (text, calls)
}

/// Puts calls behind those that are there.
fn add(fields: &mut Map<String, Value>, calls: Vec<Value>) {
    match fields.get_mut("tool_calls").and_then(Value::as_array_mut) {
        _ if calls.is_empty() => {}
        Some(entries) => entries.extend(calls),
        None => drop(fields.insert("tool_calls".to_owned(), calls.into())),
    }
}

/// A named `tool_choice` ends with `stop` in vLLM, and so does a call that was written as text.
fn finish_with_calls(choice: &mut Map<String, Value>) -> bool {
    let reason = choice.get_mut("finish_reason");
    match reason {
        Some(reason) if matches!(reason.as_str(), Some("stop" | "function_call")) => {
            *reason = "tool_calls".into();
            true
        }
        _ => false,
    }
}

/// A choice of an answer in one piece; answers whether it changed.
pub(super) fn message(
    choice: &mut Map<String, Value>,
    rules: &TextRules,
    seed: &str,
    index: u32,
) -> bool {
    let Some(message) = choice.get_mut("message").and_then(Value::as_object_mut) else {
        return false;
    };
    let mut ids = CallIds::new(seed, index);
    let mut changed = false;
    if rules.offered.is_some() {
        changed |= engines_calls(message, &mut ids);
    }
    changed |= written(message, rules, &mut ids);
    if ids.any() {
        changed |= finish_with_calls(choice);
    }
    changed
}

/// Calls that the engine itself has told.
fn engines_calls(message: &mut Map<String, Value>, ids: &mut CallIds) -> bool {
    let legacy = legacy(message).map(|entry| {
        message.insert("tool_calls".to_owned(), json!([entry]));
    });
    let entries = message.get_mut("tool_calls").and_then(Value::as_array_mut);
    let mended = entries.is_some_and(|entries| complete(entries, ids));
    legacy.is_some() || mended
}

/// Calls and thoughts that stand in the text.
fn written(message: &mut Map<String, Value>, rules: &TextRules, ids: &mut CallIds) -> bool {
    let Some(said) = message.get("content").and_then(Value::as_str) else { return false };
    let (mut reader, mut read) = (TextReader::new(rules), Read::default());
    if tells_thoughts(message) {
        reader.leave_to_the_engine(&mut read);
    }
    reader.push(said, &mut read);
    reader.finish(&mut read);
    let (text, calls) = apart(read.pieces, ids, message_entry);
    if calls.is_empty() && text == said {
        return false;
    }
    let moved = !calls.is_empty() || !read.thought.is_empty();
    let content = if text.is_empty() && moved { Value::Null } else { text.into() };
    message.insert("content".to_owned(), content);
    think(message, read.thought);
    add(message, calls);
    true
}
