//! Owns what `/v1/completions` says, streamed and not.
//!
//! Must never decide what is generated.

use serde_json::{Value, json};

use crate::ask::Ask;
use crate::chat;
use crate::errors::ApiError;
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
    let asks = match asks(options, body, &fault) {
        Ok(asks) => asks,
        Err(error) => return wire.reply(&error.reply_of(options)).await,
    };
    let mut ask = asks[0].clone();
    ask.prompt_tokens = asks.iter().map(|a| a.prompt_tokens).sum();
    let echo = body.get("echo") == Some(&Value::Bool(true));
    let (mut answers, mut echoes) = (Vec::new(), Vec::new());
    for one in asks.iter().flat_map(|a| std::iter::repeat_n(a, a.n)) {
        answers.push(generate(one));
        echoes.push(if echo { one.said.clone() } else { String::new() });
    }
    if ask.stream {
        let mut format = Chunks::new(&ask, echoes, &answers);
        return streamed(core, wire, &ask, &mut format, &answers).await;
    }
    unary(core, wire, &ask, &answers, || whole(&ask, &echoes, &answers)).await
}

/// What is asked for, by prompt; there is one at least.
fn asks(options: &Options, body: &Value, fault: &Fault) -> Result<Vec<Ask>, ApiError> {
    let read = |prompt| Ask::completion(body, prompt, options, fault.clone());
    let asks = match body.get("prompt") {
        None => return Err(ApiError::missing("prompt", body)),
        Some(Value::Array(list)) if !list.iter().all(Value::is_u64) => {
            list.iter().map(read).collect::<Result<Vec<Ask>, ApiError>>()?
        }
        Some(prompt) => vec![read(prompt)?],
    };
    if asks.is_empty() {
        let text = "Either prompt or prompt_embeds must be provided and non-empty.";
        return Err(ApiError::bad_request(text));
    }
    Ok(asks)
}

/// The whole answer as JSON. Where a prompt is to be repeated, it stands before its text.
pub(crate) fn whole(ask: &Ask, echoes: &[String], answers: &[Generation]) -> Value {
    let ids = Ids::new("cmpl-");
    let choice = |(index, (answer, echo)): (usize, (&Generation, &String))| {
        let finish = answer.finish();
        let text = echo.clone() + &answer.content().unwrap_or_default();
        let logprobs = ask.logprobs.map(|top| {
            let tokens: Vec<&String> = answer.steps.iter().flat_map(|s| &s.tokens).collect();
            logprobs::completion(&tokens, top, echo.chars().count())
        });
        json!({
            "index": index, "text": text, "logprobs": logprobs,
            "finish_reason": finish.map(|f| f.reason),
            "stop_reason": finish.and_then(|f| f.stop.as_ref()),
            "token_ids": null, "prompt_logprobs": null, "prompt_token_ids": null,
            "routed_experts": null,
        })
    };
    let choices: Vec<Value> = answers.iter().zip(echoes).enumerate().map(choice).collect();
    json!({
        "id": ids.id, "object": "text_completion", "created": ids.created, "model": ask.model,
        "choices": choices, "service_tier": null, "system_fingerprint": FINGERPRINT,
        "usage": chat::usage(ask, answers), "kv_transfer_params": null,
        "ec_transfer_params": null, "metrics": null,
    })
}

/// The events of a stream.
pub(crate) struct Chunks<'a> {
    ask: &'a Ask,
    answers: &'a [Generation],
    /// Prompts that are still to be repeated, by choice.
    echoes: Vec<String>,
    prefix: String,
}

impl<'a> Chunks<'a> {
    /// The stream that tells `answers`.
    pub(crate) fn new(ask: &'a Ask, echoes: Vec<String>, answers: &'a [Generation]) -> Self {
        let prefix = Ids::new("cmpl-").prefix("text_completion", &ask.model);
        Self { ask, answers, echoes, prefix }
    }

    fn usage_so_far(&self, total: u64) -> String {
        if !self.ask.usage_everywhere || !self.ask.include_usage {
            return String::new();
        }
        let prompt = self.ask.prompt_tokens;
        format!(
            ",\"usage\":{{\"prompt_tokens\":{prompt},\"total_tokens\":{},\"completion_tokens\":{total}}}",
            prompt + total
        )
    }
}

impl Format for Chunks<'_> {
    fn opening(&mut self) -> Vec<Event> {
        Vec::new()
    }

    fn step(&mut self, choice: usize, step: &Step) -> Vec<Event> {
        let mut text = self.echoes.get_mut(choice).map(std::mem::take).unwrap_or_default();
        if let Delta::Content(part) = &step.delta {
            text.push_str(part);
        }
        let logprobs = self.ask.logprobs.map_or("null".to_owned(), |top| {
            let tokens: Vec<&String> = step.tokens.iter().collect();
            logprobs::completion(&tokens, top, 0).to_string()
        });
        let (mut reason, mut met, mut fingerprint) =
            ("null".to_owned(), "null".to_owned(), String::new());
        if let Some(finish) = &step.finish {
            reason = quoted(finish.reason);
            met = finish.stop.as_ref().map_or(met, |s| quoted(s));
            if !self.ask.include_usage {
                fingerprint = format!(",\"system_fingerprint\":\"{FINGERPRINT}\"");
            }
        }
        vec![Event::data(format!(
            "{}{{\"index\":{choice},\"text\":{},\"logprobs\":{logprobs},\"finish_reason\":{reason},\"stop_reason\":{met},\"prompt_token_ids\":null,\"token_ids\":null}}]{}{fingerprint}}}",
            self.prefix,
            quoted(&text),
            self.usage_so_far(step.total)
        ))]
    }

    fn closing(&mut self) -> Vec<Event> {
        if !self.ask.include_usage {
            return Vec::new();
        }
        vec![Event::data(chat::final_usage(&self.prefix, self.ask, self.answers))]
    }

    fn has_done(&self) -> bool {
        true
    }
}
