//! Owns what `/v1/messages` says, streamed and not.
//!
//! The request is turned into a chat's. Must never decide what is generated.

use serde_json::{Value, json};

use crate::ask::{self, Ask};
use crate::errors::ApiError;
use crate::fault::Fault;
use crate::generate::{Delta, Finish, Generation, Step, generate};
use crate::ids::random_id;
use crate::options::Options;
use crate::routes::{Core, streamed, unary};
use crate::stream::{Event, Format};
use crate::wire::{Reply, Stop, Wire};

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
        Err(error) => return wire.reply(&error.messages_reply()).await,
    };
    let answers = [generate(&ask)];
    if ask.stream {
        let mut format = Chunks { ask: &ask, answer: &answers[0], block: 0, open: None };
        return streamed(core, wire, &ask, &mut format, &answers).await;
    }
    unary(core, wire, &ask, &answers, || whole(&ask, &answers[0])).await
}

/// Answers `/v1/messages/count_tokens`.
pub(crate) fn count_tokens(
    body: &Value,
    options: &Options,
    fault: Fault,
) -> Result<Reply, ApiError> {
    let tokens = Ask::chat(&as_chat(body)?, options, fault)?.prompt_tokens;
    let body = json!({
        "input_tokens": tokens, "context_management": {"original_input_tokens": tokens},
    });
    Ok(Reply::json(200, body.to_string()))
}

/// The request as a chat's.
fn as_chat(body: &Value) -> Result<Value, ApiError> {
    let mut messages = Vec::new();
    if let Some(system) = body.get("system") {
        messages.push(json!({"role": "system", "content": ask::text_of(Some(system))}));
    }
    messages.extend(ask::messages(body)?.iter().cloned());
    let tool = |tool: &Value| {
        json!({"type": "function", "function": {
            "name": tool.get("name"), "parameters": tool.get("input_schema")}})
    };
    let tools = body.get("tools").and_then(Value::as_array);
    let tools: Vec<Value> = tools.into_iter().flatten().map(tool).collect();
    let choice = body.get("tool_choice");
    let choice = match choice.and_then(|c| c.get("type")).and_then(Value::as_str) {
        Some("any") => json!("required"),
        Some("none") => json!("none"),
        Some("tool") => json!({"function": {"name": choice.and_then(|c| c.get("name"))}}),
        _ => json!("auto"),
    };
    Ok(json!({
        "model": body.get("model"), "messages": messages, "max_tokens": body.get("max_tokens"),
        "temperature": body.get("temperature"), "stream": body.get("stream"),
        "stop": body.get("stop_sequences"), "tools": tools, "tool_choice": choice,
    }))
}

fn whole(ask: &Ask, answer: &Generation) -> Value {
    let mut content = Vec::new();
    if let Some(thought) = answer.reasoning() {
        let signature = random_id("") + &random_id("");
        content.push(json!({"type": "thinking", "thinking": thought, "signature": signature}));
    }
    if let Some(text) = answer.content() {
        content.push(json!({"type": "text", "text": text}));
    }
    if let Some((name, arguments)) = answer.call() {
        let input: Value = serde_json::from_str(&arguments).unwrap_or_default();
        let id = random_id("chatcmpl-tool-");
        content.push(json!({"type": "tool_use", "id": id, "name": name, "input": input}));
    }
    let mut whole = json!({
        "id": random_id("chatcmpl-"), "type": "message", "role": "assistant",
        "content": content, "model": ask.model, "stop_reason": stop_reason(answer.finish()),
    });
    if let Some(stop) = answer.finish().and_then(|f| f.stop.as_ref()) {
        whole["stop_sequence"] = json!(stop);
    }
    whole["usage"] = usage(ask, answer.completion_tokens);
    whole
}

fn usage(ask: &Ask, output: u64) -> Value {
    json!({"input_tokens": ask.prompt_tokens, "output_tokens": output})
}

fn stop_reason(finish: Option<&Finish>) -> &'static str {
    match finish {
        Some(Finish { reason: "length", .. }) => "max_tokens",
        Some(Finish { reason: "tool_calls", .. }) => "tool_use",
        Some(Finish { stop: Some(_), .. }) => "stop_sequence",
        _ => "end_turn",
    }
}

/// The kinds of blocks an answer is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    Thinking,
    Text,
    Tool,
}

/// The events of a stream.
struct Chunks<'a> {
    ask: &'a Ask,
    answer: &'a Generation,
    /// The number of the open or the next block.
    block: u64,
    open: Option<Block>,
}

impl Chunks<'_> {
    fn close(&mut self, events: &mut Vec<Event>) {
        if self.open.take().is_some() {
            events.push(event("content_block_stop", json!({"index": self.block})));
            self.block += 1;
        }
    }

    fn open(&mut self, kind: Block, block: &Value, events: &mut Vec<Event>) {
        if self.open != Some(kind) {
            self.close(events);
            self.open = Some(kind);
            let data = json!({"content_block": block, "index": self.block});
            events.push(event("content_block_start", data));
        }
    }

    fn delta(&self, delta: &Value, events: &mut Vec<Event>) {
        let data = json!({"delta": delta, "index": self.block});
        events.push(event("content_block_delta", data));
    }
}

/// An event whose data begin with its name.
fn event(name: &'static str, data: Value) -> Event {
    let mut whole = json!({"type": name});
    if let (Some(whole), Value::Object(data)) = (whole.as_object_mut(), data) {
        whole.extend(data);
    }
    Event { name: Some(name), data: whole.to_string() }
}

impl Format for Chunks<'_> {
    fn opening(&mut self) -> Vec<Event> {
        let message = json!({
            "id": random_id("chatcmpl-"), "type": "message", "role": "assistant",
            "content": [], "model": self.ask.model, "stop_reason": null,
            "stop_sequence": null, "usage": usage(self.ask, 0),
        });
        vec![event("message_start", json!({"message": message}))]
    }

    fn step(&mut self, _choice: usize, step: &Step) -> Vec<Event> {
        let mut events = Vec::new();
        match &step.delta {
            Delta::Content(text) if !text.is_empty() => {
                self.open(Block::Text, &json!({"type": "text", "text": ""}), &mut events);
                self.delta(&json!({"type": "text_delta", "text": text}), &mut events);
            }
            Delta::Reasoning(text) => {
                let block = json!({"type": "thinking", "thinking": "", "signature": ""});
                self.open(Block::Thinking, &block, &mut events);
                self.delta(&json!({"type": "thinking_delta", "thinking": text}), &mut events);
            }
            Delta::ToolName(name) => {
                let id = random_id("chatcmpl-tool-");
                let block = json!({"type": "tool_use", "id": id, "name": name, "input": {}});
                self.open(Block::Tool, &block, &mut events);
            }
            Delta::ToolArgs(text) => {
                let delta = json!({"type": "input_json_delta", "partial_json": text});
                self.delta(&delta, &mut events);
            }
            Delta::Content(_) | Delta::Silent => {}
        }
        events
    }

    fn closing(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        self.close(&mut events);
        let finish = self.answer.finish();
        let delta = json!({
            "stop_reason": stop_reason(finish),
            "stop_sequence": finish.and_then(|f| f.stop.as_ref()),
        });
        let used = usage(self.ask, self.answer.completion_tokens);
        events.push(event("message_delta", json!({"delta": delta, "usage": used})));
        events.push(event("message_stop", json!({})));
        events
    }

    fn has_done(&self) -> bool {
        false
    }
}
