//! Owns what `/v1/chat/completions` says, streamed and not.
//!
//! The order of the keys is the engine's. Must never decide what is generated.

use serde_json::{Value, json};

use crate::ask::{Ask, ToolChoice};
use crate::fault::Fault;
use crate::generate::{Delta, Generation, Step, generate};
use crate::ids::{FINGERPRINT, Ids, quoted};
use crate::logprobs;
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
    let ask = match Ask::chat(body, options, fault) {
        Ok(ask) => ask,
        Err(error) => return wire.reply(&error.reply_of(options)).await,
    };
    let answers: Vec<Generation> = (0..ask.n).map(|_| generate(&ask)).collect();
    if ask.stream {
        let mut format = Chunks::new(&ask, &answers);
        return streamed(core, wire, &ask, &mut format, &answers).await;
    }
    unary(core, wire, &ask, &answers, || whole(&ask, &answers)).await
}

/// The whole answer as JSON.
pub(crate) fn whole(ask: &Ask, answers: &[Generation]) -> Value {
    let ids = Ids::new("chatcmpl-");
    let choices: Vec<Value> = answers.iter().enumerate().map(|(i, a)| choice(ask, i, a)).collect();
    json!({
        "id": ids.id, "object": "chat.completion", "created": ids.created, "model": ask.model,
        "choices": choices, "service_tier": null, "system_fingerprint": FINGERPRINT,
        "usage": usage(ask, answers), "prompt_logprobs": null, "prompt_token_ids": null,
        "prompt_text": null, "kv_transfer_params": null, "ec_transfer_params": null,
        "metrics": null,
    })
}

fn choice(ask: &Ask, index: usize, answer: &Generation) -> Value {
    let finish = answer.finish();
    json!({
        "index": index, "message": message(ask, answer), "logprobs": logprobs_of(ask, answer),
        "finish_reason": finish.map(|f| f.reason),
        "stop_reason": finish.and_then(|f| f.stop.as_ref()),
        "token_ids": null, "routed_experts": null,
    })
}

fn message(ask: &Ask, answer: &Generation) -> Value {
    let call = answer.call();
    let content = match (answer.content(), &call) {
        (Some(text), _) => Some(text),
        (None, Some(_)) => (ask.tool_choice != ToolChoice::Auto).then(String::new),
        // With a parser of reasoning, an answer that is all thought has no text at all.
        (None, None) => (!(ask.parse_reasoning && ask.thinking)).then(String::new),
    };
    let mut message = json!({
        "role": "assistant", "content": content, "refusal": null, "annotations": null,
        "audio": null, "function_call": null,
    });
    if let Some((name, arguments)) = call {
        message["tool_calls"] = json!([{
            "id": crate::ids::random_id("chatcmpl-tool-"), "type": "function",
            "function": {"name": name, "arguments": arguments},
        }]);
    }
    message[ask.fault.reasoning_field.unwrap_or_default().key()] = json!(answer.reasoning());
    message
}

fn logprobs_of(ask: &Ask, answer: &Generation) -> Value {
    match ask.logprobs {
        Some(top) => {
            let tokens = answer.steps.iter().flat_map(|s| &s.tokens);
            json!({"content": tokens.map(|t| logprobs::of(t, top)).collect::<Vec<_>>()})
        }
        None => Value::Null,
    }
}

/// What was used, in the form of an answer that is not streamed.
pub(crate) fn usage(ask: &Ask, answers: &[Generation]) -> Value {
    let completion: u64 = answers.iter().map(|a| a.completion_tokens).sum();
    let reasoning: u64 = answers.iter().map(|a| a.reasoning_tokens).sum();
    let details = ask.parse_reasoning.then(|| json!({"reasoning_tokens": reasoning}));
    json!({
        "prompt_tokens": ask.prompt_tokens, "total_tokens": ask.prompt_tokens + completion,
        "completion_tokens": completion, "prompt_tokens_details": null,
        "completion_tokens_details": details,
    })
}

/// The events of a stream.
pub(crate) struct Chunks<'a> {
    ask: &'a Ask,
    answers: &'a [Generation],
    /// `{"id":…,"object":…,"created":…,"model":…,"choices":[`, the same in every chunk.
    prefix: String,
}

impl<'a> Chunks<'a> {
    /// The stream that tells `answers`.
    pub(crate) fn new(ask: &'a Ask, answers: &'a [Generation]) -> Self {
        let prefix = Ids::new("chatcmpl-").prefix("chat.completion.chunk", &ask.model);
        Self { ask, answers, prefix }
    }

    /// The usage that every chunk has, if it was asked for.
    fn usage_so_far(&self, total: u64) -> String {
        if !self.ask.usage_everywhere || !self.ask.include_usage {
            return String::new();
        }
        let prompt = self.ask.prompt_tokens;
        format!(
            ",\"usage\":{{\"prompt_tokens\":{prompt},\"total_tokens\":{},\"completion_tokens\":{total},\"completion_tokens_details\":null}}",
            prompt + total
        )
    }

    fn delta(&self, delta: &Delta) -> String {
        match delta {
            Delta::Silent => String::new(),
            Delta::Content(text) => format!("\"content\":{}", quoted(text)),
            Delta::Reasoning(text) => {
                let key = self.ask.fault.reasoning_field.unwrap_or_default().key();
                format!("\"{key}\":{}", quoted(text))
            }
            Delta::ToolName(name) => format!(
                "\"content\":null,\"tool_calls\":[{{\"id\":\"{}\",\"type\":\"function\",\"index\":0,\"function\":{{\"name\":{}}}}}]",
                crate::ids::random_id("chatcmpl-tool-"),
                quoted(name)
            ),
            Delta::ToolArgs(text) => format!(
                "\"content\":null,\"tool_calls\":[{{\"index\":0,\"function\":{{\"arguments\":{}}}}}]",
                quoted(text)
            ),
        }
    }
}

impl Format for Chunks<'_> {
    fn opening(&mut self) -> Vec<Event> {
        let role = |choice| {
            Event::data(format!(
                "{}{{\"index\":{choice},\"delta\":{{\"role\":\"assistant\",\"content\":\"\"}},\"logprobs\":null,\"finish_reason\":null}}]{},\"prompt_token_ids\":null,\"prompt_text\":null}}",
                self.prefix,
                self.usage_so_far(0)
            ))
        };
        (0..self.answers.len()).map(role).collect()
    }

    fn step(&mut self, choice: usize, step: &Step) -> Vec<Event> {
        let delta = self.delta(&step.delta);
        let logprobs = match self.ask.logprobs {
            Some(top) if !step.tokens.is_empty() => logprobs::content(&step.tokens, top),
            _ => "null".to_owned(),
        };
        let mut fingerprint = String::new();
        let finish = match &step.finish {
            None => "null".to_owned(),
            Some(finish) => {
                if !self.ask.include_usage {
                    fingerprint = format!(",\"system_fingerprint\":\"{FINGERPRINT}\"");
                }
                let met = finish.stop.as_ref().map_or("null".to_owned(), |s| quoted(s));
                format!("\"{}\",\"stop_reason\":{met}", finish.reason)
            }
        };
        vec![Event::data(format!(
            "{}{{\"index\":{choice},\"delta\":{{{delta}}},\"logprobs\":{logprobs},\"finish_reason\":{finish},\"token_ids\":null}}]{}{fingerprint}}}",
            self.prefix,
            self.usage_so_far(step.total)
        ))]
    }

    fn closing(&mut self) -> Vec<Event> {
        if !self.ask.include_usage {
            return Vec::new();
        }
        vec![Event::data(final_usage(&self.prefix, self.ask, self.answers))]
    }

    fn has_done(&self) -> bool {
        true
    }
}

/// The chunk that has the usage and no choices.
pub(crate) fn final_usage(prefix: &str, ask: &Ask, answers: &[Generation]) -> String {
    let completion: u64 = answers.iter().map(|a| a.completion_tokens).sum();
    let reasoning: u64 = answers.iter().map(|a| a.reasoning_tokens).sum();
    let details = if ask.parse_reasoning {
        format!(",\"completion_tokens_details\":{{\"reasoning_tokens\":{reasoning}}}")
    } else {
        String::new()
    };
    let prompt = ask.prompt_tokens;
    format!(
        "{prefix}],\"usage\":{{\"prompt_tokens\":{prompt},\"total_tokens\":{},\"completion_tokens\":{completion}{details}}},\"system_fingerprint\":\"{FINGERPRINT}\"}}",
        prompt + completion
    )
}
