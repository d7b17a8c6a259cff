//! Owns the JSON of `/api/chat` and `/api/generate`: the lines of a stream, and whole answers.
//!
//! What is zero or empty is left out, as Go leaves it out. Must never decide what is generated.

use serde_json::{Value, json};
use tokio::time::Instant;

use super::pieces::{Piece, Pieces, Whole};
use super::times::{nanos, now};
use crate::ask::Ask;
use crate::generate::{Generation, Step};
use crate::stream::{Event, Format, Style};

/// Which of the two routes answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Chat,
    Generate,
}

impl Kind {
    /// An answer with what is said in it, up to `done`.
    fn line(self, model: &str, said: &Whole) -> Value {
        let mut line = json!({"model": model, "created_at": now()});
        match self {
            Self::Chat => {
                line["message"] = json!({"role": "assistant", "content": said.content});
                fill(&mut line["message"], said);
            }
            Self::Generate => {
                line["response"] = json!(said.content);
                fill(&mut line, said);
            }
        }
        line
    }

    /// The answer to an order to load or unload.
    pub(super) fn empty(self, model: &str, reason: &str) -> Value {
        let mut line = self.line(model, &Whole::default());
        line["done"] = json!(true);
        line["done_reason"] = json!(reason);
        line
    }
}

fn fill(target: &mut Value, said: &Whole) {
    if !said.thinking.is_empty() {
        target["thinking"] = json!(said.thinking);
    }
    if !said.calls.is_empty() {
        target["tool_calls"] = json!(said.calls);
    }
}

/// An answer on its way.
pub(super) struct Answer<'a> {
    pub(super) kind: Kind,
    pub(super) ask: &'a Ask,
    pub(super) generation: &'a Generation,
    /// When the request was read.
    pub(super) began: Instant,
    /// When the model was loaded.
    pub(super) loaded: Instant,
}

impl Answer<'_> {
    /// The whole answer in one object.
    pub(super) fn whole(&self) -> Value {
        self.done(&Whole::of(self.ask, self.generation))
    }

    /// The object that ends an answer.
    fn done(&self, said: &Whole) -> Value {
        let mut line = self.kind.line(&self.ask.model, said);
        line["done"] = json!(true);
        if self.ask.fault.no_done_reason != Some(true) {
            line["done_reason"] = json!(self.reason());
        }
        if self.kind == Kind::Generate {
            line["context"] = json!([603, 604]);
        }
        if !said.logprobs.is_empty() {
            line["logprobs"] = json!(said.logprobs);
        }
        self.measure(&mut line);
        line
    }

    /// Calls of tools are no reason of their own.
    fn reason(&self) -> &str {
        let reason = self.generation.finish().map_or("stop", |finish| finish.reason);
        if reason == "tool_calls" { "stop" } else { reason }
    }

    fn measure(&self, line: &mut Value) {
        let load = nanos(self.loaded - self.began);
        let prompt = self.ask.prompt_tokens * 1000;
        let eval = nanos(self.loaded.elapsed());
        line["total_duration"] = json!(load + prompt + eval);
        line["load_duration"] = json!(load);
        let counted = self.ask.fault.no_counts != Some(true);
        if counted && self.ask.prompt_tokens > 0 {
            line["prompt_eval_count"] = json!(self.ask.prompt_tokens);
        }
        line["prompt_eval_duration"] = json!(prompt.max(1));
        if counted && self.generation.completion_tokens > 0 {
            line["eval_count"] = json!(self.generation.completion_tokens);
        }
        line["eval_duration"] = json!(eval);
    }
}

/// The lines of a stream.
pub(super) struct Lines<'a> {
    answer: &'a Answer<'a>,
    pieces: Pieces<'a>,
    /// A piece that waits for the last line.
    held: Option<(Piece, Vec<Value>)>,
}

impl<'a> Lines<'a> {
    pub(super) fn new(answer: &'a Answer<'a>) -> Self {
        Self { answer, pieces: Pieces::new(answer.ask), held: None }
    }

    fn part(&self, (piece, logprobs): (Piece, Vec<Value>)) -> Event {
        let mut said = Whole::default();
        said.add(piece);
        let mut line = self.answer.kind.line(&self.answer.ask.model, &said);
        line["done"] = json!(false);
        if !logprobs.is_empty() {
            line["logprobs"] = Value::Array(logprobs);
        }
        Event::data(line.to_string())
    }
}

impl Format for Lines<'_> {
    fn opening(&mut self) -> Vec<Event> {
        Vec::new()
    }

    fn step(&mut self, _: usize, step: &Step) -> Vec<Event> {
        let mut logprobs = self.pieces.logprobs(step);
        let mut events = Vec::new();
        for piece in self.pieces.of(step) {
            let told = (piece, std::mem::take(&mut logprobs));
            let next = if self.answer.ask.fault.full_done == Some(true) {
                self.held.replace(told)
            } else {
                Some(told)
            };
            events.extend(next.map(|told| self.part(told)));
        }
        events
    }

    fn closing(&mut self) -> Vec<Event> {
        let mut said = Whole::default();
        if let Some((piece, logprobs)) = self.held.take() {
            said.add(piece);
            said.logprobs = logprobs;
        }
        vec![Event::data(self.answer.done(&said).to_string())]
    }

    fn has_done(&self) -> bool {
        false
    }

    fn style(&self) -> Style {
        Style::Lines
    }
}
