//! What was answered, for the log that was asked to keep it (SPEC 7.1).
//!
//! Owns: putting a stream's pieces together, when the record is written and not before. Must never
//! do: cost anything where nobody asked for it.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::prompt::{file, without_files};

/// Fields that come in pieces; others are said once.
const IN_PIECES: [&str; 5] = ["content", "reasoning_content", "reasoning", "refusal", "text"];

/// An answer as its client got it.
#[derive(Debug, Clone)]
pub enum Answer {
    /// In one piece.
    Whole(Bytes),
    /// The events of a stream.
    Stream {
        /// As they were sent.
        events: Bytes,
        /// There were more than are kept.
        truncated: bool,
    },
}

impl Answer {
    /// What it takes in memory.
    pub fn bytes(&self) -> usize {
        match self {
            Answer::Whole(bytes) | Answer::Stream { events: bytes, .. } => bytes.len(),
        }
    }

    /// As the log shows it: JSON as it is, a stream as the answer in one piece that it stands for.
    pub fn shown(&self) -> Value {
        match self {
            Answer::Whole(body) => {
                let mut shown = serde_json::from_slice(body).unwrap_or_else(|_| plain(body));
                without_files(&mut shown);
                shown
            }
            Answer::Stream { events, truncated } => {
                let mut shown = joined(events);
                if *truncated {
                    shown = json!({"truncated": true, "begin": shown});
                }
                shown
            }
        }
    }
}

impl Serialize for Answer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.shown().serialize(serializer)
    }
}

/// What is no JSON: a text, or a sound or the like.
fn plain(body: &[u8]) -> Value {
    std::str::from_utf8(body).map_or_else(|_| file(body, "application/octet-stream"), Value::from)
}

fn text(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// Streams of other shapes stay the text that they were.
fn joined(events: &[u8]) -> Value {
    let mut choices = BTreeMap::new();
    let mut whole = None;
    for data in text(events).lines().filter_map(|line| line.strip_prefix("data:")) {
        let Ok(Value::Object(mut event)) = serde_json::from_str(data) else { continue };
        if let Some(Value::Array(list)) = event.remove("choices") {
            for choice in list {
                add(&mut choices, choice);
            }
        } else if event.get("type").is_some_and(|kind| kind == "response.completed") {
            whole = event.remove("response");
        }
    }
    if !choices.is_empty() {
        let all: Vec<Value> = choices.into_values().map(Value::Object).collect();
        return json!({ "choices": all });
    }
    whole.unwrap_or_else(|| text(events).into_owned().into())
}

/// A piece of a choice: of a chat it is a `delta`, of a completion the choice's own `text`.
fn add(choices: &mut BTreeMap<u64, Map<String, Value>>, piece: Value) {
    let Value::Object(mut piece) = piece else { return };
    let index = piece.get("index").and_then(Value::as_u64).unwrap_or(0);
    let choice = choices.entry(index).or_insert_with(|| {
        let index = ("index".to_owned(), json!(index));
        Map::from_iter([index])
    });
    if let Some(Value::Object(delta)) = piece.remove("delta") {
        let message = choice.entry("message").or_insert_with(|| json!({}));
        if let Value::Object(message) = message {
            merge(message, delta);
        }
    }
    piece.retain(|key, value| matches!(key.as_str(), "text" | "finish_reason") && !value.is_null());
    merge(choice, piece);
}

fn merge(into: &mut Map<String, Value>, from: Map<String, Value>) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (_, Value::Null) => {}
            (Some(Value::String(old)), Value::String(more)) if IN_PIECES.contains(&&*key) => {
                old.push_str(&more);
            }
            (_, Value::Array(calls)) if key == "tool_calls" => {
                let list = into.entry(key).or_insert_with(|| json!([]));
                if let Value::Array(list) = list {
                    for call in calls {
                        add_call(list, call);
                    }
                }
            }
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

/// A piece of a call belongs to the call of the same index.
fn add_call(calls: &mut Vec<Value>, piece: Value) {
    let index = piece.get("index").cloned();
    let known =
        calls.iter_mut().find(|call| index.is_some() && call.get("index") == index.as_ref());
    let Some(known) = known else { return calls.push(piece) };
    let arguments = piece.pointer("/function/arguments").and_then(Value::as_str);
    let Some(more) = arguments else { return };
    match known.pointer_mut("/function/arguments") {
        Some(Value::String(all)) => all.push_str(more),
        _ => known["function"]["arguments"] = json!(more),
    }
}

#[cfg(test)]
#[allow(clippy::needless_pass_by_value)] // it reads better
mod tests {
    use super::*;

    fn stream(events: &[Value]) -> Value {
        let events: Vec<String> = events.iter().map(|event| format!("data: {event}\n\n")).collect();
        let text = [": waiting\n\n", &events.concat(), "data: [DONE]\n\n"].concat();
        let events = Bytes::from(text);
        Answer::Stream { events, truncated: false }.shown()
    }

    fn delta(index: u64, delta: Value) -> Value {
        json!({"id": "x", "choices": [{"index": index, "delta": delta, "finish_reason": null}]})
    }

    #[test]
    fn a_stream_is_shown_as_the_answer_that_it_stands_for() {
        let shown = stream(&[
            delta(0, json!({"role": "assistant", "content": ""})),
            delta(0, json!({"reasoning_content": "th"})),
            delta(0, json!({"reasoning_content": "ink"})),
            delta(1, json!({"content": "other"})),
            delta(0, json!({"content": "un"})),
            delta(0, json!({"content": "usual"})),
            json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}),
            json!({"choices": [], "usage": {"prompt_tokens": 1}}),
        ]);
        let want = json!({"choices": [
            {"index": 0, "message": {"role": "assistant", "content": "unusual", "reasoning_content": "think"},
             "finish_reason": "stop"},
            {"index": 1, "message": {"content": "other"}},
        ]});
        assert_eq!(shown, want);
    }

    #[test]
    fn calls_of_tools_are_put_together_by_their_index() {
        let call = |index: u64, arguments: &str| json!({"tool_calls": [{"index": index, "function": {"arguments": arguments}}]});
        let begin = |index: u64, name: &str| {
            json!({"tool_calls": [{"index": index, "id": name, "type": "function",
                "function": {"name": name, "arguments": ""}}]})
        };
        let shown = stream(&[
            delta(0, begin(0, "a")),
            delta(0, call(0, "{\"x\"")),
            delta(0, begin(1, "b")),
            delta(0, call(0, ":1}")),
            delta(0, call(1, "{}")),
        ]);
        let calls = &shown["choices"][0]["message"]["tool_calls"];
        assert_eq!(calls[0]["function"], json!({"name": "a", "arguments": "{\"x\":1}"}));
        assert_eq!(calls[1]["function"], json!({"name": "b", "arguments": "{}"}));
    }

    #[test]
    fn streams_of_other_shapes_are_kept_too() {
        let text = |text: &str| json!({"choices": [{"index": 0, "text": text}]});
        let shown = stream(&[text("a"), text("b")]);
        assert_eq!(shown, json!({"choices": [{"index": 0, "text": "ab"}]}));
        let response = json!({"output": [1]});
        let shown = stream(&[json!({"type": "response.completed", "response": response})]);
        assert_eq!(shown, response);
        let events = Bytes::from("event: x\ndata: {\"y\":1}\n\n");
        let raw = Answer::Stream { events: events.clone(), truncated: true };
        assert_eq!(
            raw.shown(),
            json!({"truncated": true, "begin": "event: x\ndata: {\"y\":1}\n\n"})
        );
        assert_eq!(raw.bytes(), events.len());
    }

    #[test]
    fn an_answer_in_one_piece_is_shown_as_it_is() {
        assert_eq!(Answer::Whole(Bytes::from("{\"a\":1}")).shown(), json!({"a": 1}));
        assert_eq!(Answer::Whole(Bytes::from("1\n00:01 Hi")).shown(), json!("1\n00:01 Hi"));
    }

    #[test]
    fn sounds_and_pictures_are_not_kept() {
        let sound = Answer::Whole(Bytes::from_static(b"OggS\xff\xfe")).shown();
        assert_eq!(
            (&sound["bytes"], &sound["mime"]),
            (&json!(6), &json!("application/octet-stream"))
        );
        let picture = json!({"data": [{"b64_json": "QUJD".repeat(30)}]}).to_string();
        let shown = Answer::Whole(Bytes::from(picture)).shown();
        assert_eq!(shown["data"][0]["b64_json"]["bytes"], json!(90));
    }
}
