//! Answers with calls and thoughts, streamed and whole, against an accumulator as strict as clients have
//! it.
#![allow(clippy::unwrap_used, clippy::panic)]

mod accumulated;
mod calls;
mod captures;
mod shapes;
mod thoughts;

use bytes::Bytes;

use super::*;
use accumulated::Accumulated;

fn chat(more: &Value) -> ChatRequest {
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "u"}]});
    for (key, value) in more.as_object().unwrap() {
        body[key] = value.clone();
    }
    ChatRequest::parse(Bytes::from(body.to_string())).unwrap()
}

fn tools() -> Value {
    let function = |name: &str| json!({"type": "function", "function": {"name": name}});
    json!([function("weather"), function("time")])
}

fn weather() -> TextRules {
    let offered = offered(&chat(&json!({"tools": tools()})));
    assert!(offered.is_some());
    TextRules { offered, thinking: None }
}

fn chunk(delta: &Value, finish: Option<&str>) -> Value {
    json!({"id": "c1", "object": "chat.completion.chunk", "created": 7, "model": "m",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})
}

fn says(text: &str) -> Value {
    chunk(&json!({"content": text}), None)
}

/// What leaves of these chunks.
fn turned(chunks: &[Value]) -> Vec<Value> {
    turned_by(weather(), chunks)
}

fn turned_by(rules: TextRules, chunks: &[Value]) -> Vec<Value> {
    let mut stream = ToolCallStream::new(rules);
    let mut left = Vec::new();
    for chunk in chunks {
        match stream.event(chunk.to_string().as_bytes()) {
            Turned::Stays => left.push(chunk.clone()),
            Turned::Held => {}
            Turned::Into(text) => left.push(serde_json::from_str(&text).unwrap()),
        }
    }
    left.extend(stream.rest().map(|text| serde_json::from_str(&text).unwrap()));
    left
}

fn answer(message: &Value, finish: &str) -> Value {
    json!({"id": "c1", "choices": [{"index": 0, "message": message, "finish_reason": finish}]})
}

fn made_whole(answer: &Value) -> Value {
    made_whole_by(&weather(), answer)
}

fn made_whole_by(rules: &TextRules, answer: &Value) -> Value {
    match whole(answer.to_string().as_bytes(), rules) {
        Some(bytes) => serde_json::from_slice(&bytes).unwrap(),
        None => answer.clone(),
    }
}

const CALL: &str =
    "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Bern\"}}\n</tool_call>";
