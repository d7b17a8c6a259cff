//! Owns what `/v1/responses` says, streamed and not.
//!
//! The request is turned into a chat's. Must never keep a response for a later request.

use serde_json::{Value, json};

use crate::ask::Ask;
use crate::errors::ApiError;
use crate::fault::Fault;
use crate::generate::{Delta, Generation, Step, generate};
use crate::ids::{now, random_id};
use crate::options::Options;
use crate::routes::{Core, streamed, unary};
use crate::stream::{Event, Format};
use crate::wire::{Stop, Wire};

/// Answers one request.
pub(crate) async fn answer(
    core: &Core,
    options: &Options,
    wire: &mut Wire,
    body: &Value,
    fault: Fault,
) -> Result<(), Stop> {
    let ask = match as_chat(body).and_then(|chat| Ask::chat(&chat, options, fault)) {
        Ok(ask) => ask,
        Err(error) => return wire.reply(&error.reply_of(options)).await,
    };
    let answers = [generate(&ask)];
    let response = Response::new(body, &ask, &answers[0]);
    if ask.stream {
        let mut format = Chunks { response: &response, sequence: 0, text: String::new() };
        return streamed(core, wire, &ask, &mut format, &answers).await;
    }
    unary(core, wire, &ask, &answers, || response.whole()).await
}

/// The request as a chat's.
fn as_chat(body: &Value) -> Result<Value, ApiError> {
    let input = body.get("input").ok_or_else(|| ApiError::missing("input", body))?;
    let mut messages = Vec::new();
    if let Some(text) = body.get("instructions").and_then(Value::as_str) {
        messages.push(json!({"role": "system", "content": text}));
    }
    match input {
        Value::Array(items) => messages.extend(items.iter().cloned()),
        text => messages.push(json!({"role": "user", "content": text})),
    }
    Ok(json!({
        "model": body.get("model"), "messages": messages, "stream": body.get("stream"),
        "temperature": body.get("temperature"), "max_tokens": body.get("max_output_tokens"),
    }))
}

struct Response<'a> {
    body: &'a Value,
    ask: &'a Ask,
    answer: &'a Generation,
    id: String,
    message_id: String,
    created: u64,
}

impl<'a> Response<'a> {
    fn new(body: &'a Value, ask: &'a Ask, answer: &'a Generation) -> Self {
        let (id, message_id) = (random_id("resp_"), random_id("msg_"));
        Self { body, ask, answer, id, message_id, created: now() }
    }

    fn whole(&self) -> Value {
        let cut = self.answer.finish().is_some_and(|f| f.reason == "length");
        let status = if cut { "incomplete" } else { "completed" };
        let mut output = Vec::new();
        if let Some(thought) = self.answer.reasoning() {
            output.push(json!({
                "id": random_id("rs_"), "summary": [], "type": "reasoning",
                "content": [{"text": thought, "type": "reasoning_text"}],
                "encrypted_content": null, "status": null,
            }));
        }
        if let Some(text) = self.answer.content() {
            output.push(self.message(&text, "completed"));
        }
        let used = self.answer.completion_tokens;
        let usage = json!({
            "input_tokens": self.ask.prompt_tokens,
            "input_tokens_details": {
                "cached_tokens": 0, "cache_write_tokens": 0, "input_tokens_per_turn": [],
                "cached_tokens_per_turn": [],
            },
            "output_tokens": used,
            "output_tokens_details": {
                "reasoning_tokens": self.answer.reasoning_tokens, "tool_output_tokens": 0,
                "output_tokens_per_turn": [], "tool_output_tokens_per_turn": [],
            },
            "total_tokens": self.ask.prompt_tokens + used,
        });
        let incomplete = cut.then(|| json!({"reason": "max_output_tokens"}));
        self.object(status, &json!(incomplete), &json!(output), &usage)
    }

    fn object(&self, status: &str, incomplete: &Value, output: &Value, usage: &Value) -> Value {
        let of = |name: &str| self.body.get(name).cloned();
        json!({
            "id": self.id, "created_at": self.created, "incomplete_details": incomplete,
            "instructions": of("instructions"), "metadata": of("metadata"),
            "model": self.ask.model, "object": "response", "output": output,
            "parallel_tool_calls": true,
            "temperature": self.body.get("temperature").and_then(Value::as_f64).unwrap_or(0.7),
            "tool_choice": "none", "tools": [],
            "top_p": self.body.get("top_p").and_then(Value::as_f64).unwrap_or(1.0),
            "background": false, "max_output_tokens": self.ask.max_tokens,
            "max_tool_calls": null, "previous_response_id": null, "prompt": null,
            "reasoning": null, "service_tier": "auto", "status": status, "text": null,
            "top_logprobs": null, "truncation": "disabled", "usage": usage,
            "user": of("user"), "presence_penalty": 0.0, "frequency_penalty": 0.0,
            "kv_transfer_params": null, "ec_transfer_params": null, "input_messages": null,
            "output_messages": null,
        })
    }

    fn message(&self, text: &str, status: &str) -> Value {
        json!({
            "id": self.message_id, "content": [part(text)], "role": "assistant",
            "status": status, "type": "message", "phase": null,
        })
    }
}

fn part(text: &str) -> Value {
    json!({"annotations": [], "text": text, "type": "output_text", "logprobs": null})
}

/// The events of a stream. What the model thought is not told in it.
struct Chunks<'a> {
    response: &'a Response<'a>,
    sequence: u64,
    text: String,
}

impl Chunks<'_> {
    /// An event; its number and its type are the last keys unless a text is behind them.
    fn event(&mut self, name: &'static str, mut data: Value) -> Event {
        data["sequence_number"] = json!(self.sequence);
        if let Some(text) = data.as_object_mut().and_then(|map| map.shift_remove("text")) {
            data["text"] = text;
        }
        data["type"] = json!(name);
        self.sequence += 1;
        Event { name: Some(name), data: data.to_string() }
    }
}

impl Format for Chunks<'_> {
    fn opening(&mut self) -> Vec<Event> {
        let id = self.response.message_id.clone();
        let begun = self.response.object("in_progress", &Value::Null, &json!([]), &Value::Null);
        let mut item = self.response.message("", "in_progress");
        item["content"] = json!([]);
        let mut empty = part("");
        empty["logprobs"] = json!([]);
        vec![
            self.event("response.created", json!({"response": begun})),
            self.event("response.in_progress", json!({"response": begun})),
            self.event("response.output_item.added", json!({"item": item, "output_index": 0})),
            self.event(
                "response.content_part.added",
                json!({"content_index": 0, "item_id": id, "output_index": 0, "part": empty}),
            ),
        ]
    }

    fn step(&mut self, _choice: usize, step: &Step) -> Vec<Event> {
        let Delta::Content(text) = &step.delta else {
            return Vec::new();
        };
        if text.is_empty() {
            return Vec::new();
        }
        self.text.push_str(text);
        let data = json!({
            "content_index": 0, "delta": text, "item_id": self.response.message_id,
            "logprobs": [], "output_index": 0,
        });
        vec![self.event("response.output_text.delta", data)]
    }

    fn closing(&mut self) -> Vec<Event> {
        let (id, text) = (self.response.message_id.clone(), std::mem::take(&mut self.text));
        let item = self.response.message(&text, "completed");
        let mut whole = self.response.whole();
        whole["output"] = json!([item]);
        let last = if whole["status"] == "completed" {
            "response.completed"
        } else {
            "response.incomplete"
        };
        vec![
            self.event(
                "response.output_text.done",
                json!({"content_index": 0, "item_id": id, "logprobs": [], "output_index": 0, "text": text}),
            ),
            self.event(
                "response.content_part.done",
                json!({"content_index": 0, "item_id": id, "output_index": 0, "part": part(&text)}),
            ),
            self.event("response.output_item.done", json!({"item": item, "output_index": 0})),
            self.event(last, json!({"response": whole})),
        ]
    }

    fn has_done(&self) -> bool {
        false
    }
}
