//! The stages whose instructions are counted.
//!
//! Owns: what each is given, in the shapes of real clients and of vLLM 0.32, and its limit: about a tenth
//! above what was counted last. Must never do: count the making of what it is given (once is subtracted).

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use chat_proxy_core::chat::fields::{FieldRules, Foreign, ReasoningField};
use chat_proxy_core::chat::policy::{self, ModelFacts, PolicyRules};
use chat_proxy_core::chat::request::ChatRequest;
use chat_proxy_core::chat::stream::ChatStream;
use chat_proxy_core::chat::think::{Opener, ThinkFormat, Thinking};
use chat_proxy_core::chat::tool_calls::{self, TextRules};
use serde_json::{Map, Value, json};

use super::telemetry;

/// One stage.
pub(crate) struct Stage {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    /// Instructions.
    pub(crate) limit: u64,
    run: fn(u32) -> Result<(), String>,
}

/// All of them.
pub(crate) const ALL: &[Stage] = &[
    Stage {
        name: "request",
        what: "a text request of 50 turns: read, policies, body for the backend",
        limit: 705_000,
        run: request,
    },
    Stage {
        name: "stream",
        what: "a stream of 64 chunks with default settings",
        limit: 50_500,
        run: plain_stream,
    },
    Stage {
        name: "heaviest",
        what: "the same with tools offered, thoughts extracted, reasoning under both names, foreign fields removed",
        limit: 1_500_000,
        run: heaviest_stream,
    },
    Stage {
        name: "unary",
        what: "an answer in one piece with default settings",
        limit: 19_100,
        run: unary,
    },
    Stage {
        name: "watched",
        what: "the stream of 64 chunks with its telemetry: story, figures, its record handed to the log",
        limit: 59_500,
        run: |times| telemetry::watched(64, times),
    },
    Stage {
        name: "long",
        what: "a stream of 640 chunks",
        limit: 317_000,
        run: |times| plain(640, times),
    },
    Stage {
        name: "watched-long",
        what: "the same with its telemetry",
        limit: 334_000,
        run: |times| telemetry::watched(640, times),
    },
    Stage {
        name: "line",
        what: "a line of the request log, on the log's own thread",
        limit: 8_400,
        run: telemetry::line,
    },
];

/// Runs one.
pub(crate) fn run(name: &str, times: u32) -> Result<(), String> {
    let stage = ALL.iter().find(|stage| stage.name == name);
    let stage = stage.ok_or_else(|| format!("there is no stage {name:?}"))?;
    (stage.run)(times)
}

/// 50 turns of some lines each: 50 kB.
fn conversation(more: &Value) -> Bytes {
    let mut messages = vec![json!({"role": "system", "content": "You answer in short sentences."})];
    for turn in 0..50 {
        let question = format!("Question {turn}: \"why\" is it so, and what follows?\n").repeat(6);
        let answer =
            format!("Answer {turn}: because it was so before; so — née 世界 — it stays.\n")
                .repeat(9);
        messages.push(json!({"role": "user", "content": question}));
        messages.push(json!({"role": "assistant", "content": answer}));
    }
    messages.push(json!({"role": "user", "content": "And now?"}));
    let mut body =
        json!({"model": "tiny-a", "messages": messages, "stream": true, "temperature": 0.7});
    for (key, value) in more.as_object().into_iter().flatten() {
        body[key] = value.clone();
    }
    Bytes::from(body.to_string())
}

fn request(times: u32) -> Result<(), String> {
    let body = conversation(&json!({}));
    let defaults = Map::new();
    let model = ModelFacts {
        name: "tiny-a",
        backend: "vllm",
        vision: None,
        reasoning: false,
        tools: None,
        system_prompt: None,
        defaults: &defaults,
    };
    for _ in 0..times {
        let chat = ChatRequest::parse(body.clone()).map_err(|error| error.message)?;
        let planned = policy::plan(&chat, &model, &PolicyRules::default());
        let outcome =
            planned.map_err(|error| error.message)?.finish(&std::collections::BTreeMap::new());
        black_box(chat.with_edits(outcome.edits).upstream_body("served/tiny-a"));
    }
    Ok(())
}

/// A chunk as vLLM writes it.
fn chunk(delta: &Value, more: &Value) -> String {
    let mut choice = json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": null, "token_ids": null});
    for (key, value) in more.as_object().into_iter().flatten() {
        choice[key] = value.clone();
    }
    let chunk = json!({"id": "chatcmpl-aa3aa76c5c33e3e8", "object": "chat.completion.chunk",
        "created": 1_795_409_645, "model": "served/tiny-a", "choices": [choice]});
    format!("data: {chunk}\n\n")
}

/// A role, these texts, an end and the usage; each chunk comes in a write of its own.
fn wire(texts: &[String], more: &Value) -> Vec<Bytes> {
    let role = chunk(&json!({"role": "assistant", "content": ""}), &json!({}));
    let texts = texts.iter().map(|text| chunk(&json!({"content": text}), more));
    let end = chunk(&json!({}), &json!({"finish_reason": "stop", "stop_reason": null}));
    let usage = "data: {\"id\":\"chatcmpl-aa3aa76c5c33e3e8\",\"object\":\"chat.completion.chunk\",\"created\":1795409645,\"model\":\"served/tiny-a\",\"choices\":[],\"usage\":{\"prompt_tokens\":13,\"total_tokens\":77,\"completion_tokens\":64}}\n\ndata: [DONE]\n\n";
    std::iter::once(role).chain(texts).chain([end, usage.to_owned()]).map(Bytes::from).collect()
}

fn through(wire: &[Bytes], make: &dyn Fn() -> ChatStream, times: u32) -> Result<(), String> {
    let mut out = Vec::new();
    for _ in 0..times {
        let mut stream = make();
        for piece in wire {
            stream.push(piece, &mut out).map_err(|error| error.to_string())?;
            black_box(&out);
            out.clear();
        }
        stream.finish(&mut out).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// What the daemon does by default.
fn usual_fields() -> FieldRules {
    FieldRules { reasoning: ReasoningField::Both, foreign: Foreign::Go { asked: Vec::new() } }
}

/// A stream of so many words.
pub(crate) fn words(count: usize) -> Vec<Bytes> {
    let words: Vec<String> = (0..count).map(|n| format!(" word{n}")).collect();
    wire(&words, &json!({}))
}

/// As it is treated by default.
pub(crate) fn usual() -> ChatStream {
    ChatStream::new(false).with_fields(usual_fields())
}

fn plain(count: usize, times: u32) -> Result<(), String> {
    through(&words(count), &usual, times)
}

fn plain_stream(times: u32) -> Result<(), String> {
    plain(64, times)
}

fn heaviest_stream(times: u32) -> Result<(), String> {
    let mut words = vec!["<think>\n".to_owned()];
    words.extend((0..30).map(|n| format!(" thought{n}")));
    words.extend(["\n</think>".to_owned(), "\n\n".to_owned(), "So:\n".to_owned()]);
    words.extend((0..10).map(|n| format!(" word{n}")));
    let call = "\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Bern\", \"unit\": \"celsius\"}}\n</tool_call>";
    let letters: Vec<char> = call.chars().collect();
    words.extend(letters.chunks(5).map(|part| part.iter().collect::<String>()));
    let tools = json!([{"type": "function", "function": {"name": "weather"}}]);
    let chat = ChatRequest::parse(conversation(&json!({"tools": tools})));
    let offered = tool_calls::offered(&chat.map_err(|error| error.message)?);
    let thinking = Some(Thinking { format: ThinkFormat::Extract, opener: Opener::Unknown });
    let text = TextRules { offered: offered.as_ref().map(Arc::clone), thinking };
    let make = || ChatStream::new(false).with_fields(usual_fields()).with_text(text.clone());
    through(&wire(&words, &json!({"stop_reason": 7, "token_ids": [1, 2]})), &make, times)
}

#[allow(clippy::unnecessary_wraps)] // as all stages
fn unary(times: u32) -> Result<(), String> {
    let text = "A sentence of an answer, with \"quotes\" and 世界.\n".repeat(40);
    let message = json!({"role": "assistant", "content": text, "refusal": null, "annotations": null,
        "audio": null, "function_call": null, "reasoning": null});
    let choice = json!({"index": 0, "message": message, "logprobs": null, "finish_reason": "stop",
        "stop_reason": null, "token_ids": null, "routed_experts": null});
    let body = json!({"id": "chatcmpl-b2213d6b124220fd", "object": "chat.completion",
        "created": 1_795_409_644, "model": "served/tiny-a", "choices": [choice], "service_tier": null,
        "usage": {"prompt_tokens": 13, "total_tokens": 29, "completion_tokens": 16},
        "prompt_logprobs": null, "prompt_token_ids": null});
    let (body, rules) = (Bytes::from(body.to_string()), usual_fields());
    for _ in 0..times {
        let (summary, facts) = chat_proxy_core::chat::unary::read(&body);
        black_box(summary);
        black_box(facts.is_some_and(|facts| rules.concern(&facts)));
    }
    Ok(())
}
