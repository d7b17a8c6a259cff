//! Owns what `/v1/completions` says, streamed and not.
//!
//! Must never decide what is generated.

use serde_json::{Value, json};

use crate::ask::Ask;
use crate::chat;
use crate::generate::{Delta, Generation, Step};
use crate::ids::{FINGERPRINT, Ids, quoted};
use crate::logprobs;
use crate::stream::{Event, Format};

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
