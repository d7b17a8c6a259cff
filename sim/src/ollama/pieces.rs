//! Owns what the steps of an answer become: thoughts, text, and whole calls of tools.
//!
//! A call is told when its arguments are complete, never in parts. Must never write JSON lines.

use serde_json::{Map, Value, json};

use crate::ask::Ask;
use crate::generate::{Delta, Generation, Step};
use crate::ids::random_id;
use crate::logprobs;

/// One piece of an answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Piece {
    Thinking(String),
    Content(String),
    Call(Value),
}

/// Turns steps into pieces.
pub(super) struct Pieces<'a> {
    ask: &'a Ask,
    name: String,
    arguments: String,
    /// Calls so far.
    calls: usize,
}

impl<'a> Pieces<'a> {
    pub(super) fn new(ask: &'a Ask) -> Self {
        Self { ask, name: String::new(), arguments: String::new(), calls: 0 }
    }

    /// The pieces that this step makes complete.
    pub(super) fn of(&mut self, step: &Step) -> Vec<Piece> {
        match &step.delta {
            Delta::Silent => Vec::new(),
            Delta::Content(text) if text.is_empty() => Vec::new(),
            Delta::Content(text) => vec![Piece::Content(text.clone())],
            Delta::Reasoning(text) => vec![Piece::Thinking(text.clone())],
            Delta::ToolName(name) => {
                self.name.clone_from(name);
                Vec::new()
            }
            Delta::ToolArgs(text) => {
                self.arguments.push_str(text);
                let Ok(arguments) = serde_json::from_str(&self.arguments) else {
                    return Vec::new();
                };
                self.arguments.clear();
                self.call(&arguments)
            }
        }
    }

    /// The call, and as many more of the tools in turn as were ordered.
    fn call(&mut self, arguments: &Map<String, Value>) -> Vec<Piece> {
        let count = usize::try_from(self.ask.fault.calls.unwrap_or(1)).unwrap_or(1);
        let names = std::iter::once(&self.name).chain(self.ask.tools.iter().skip(1));
        let names: Vec<&String> = names.collect();
        let first = self.calls;
        self.calls += count;
        let call = |index: usize| {
            let name = names[(index - first) % names.len()];
            Piece::Call(json!({
                "id": call_id(),
                "function": {"index": index, "name": name, "arguments": arguments},
            }))
        };
        (first..first + count).map(call).collect()
    }

    /// The probabilities of a step's tokens, if they are asked for.
    pub(super) fn logprobs(&self, step: &Step) -> Vec<Value> {
        let Some(top) = self.ask.logprobs else { return Vec::new() };
        let one = |token: &String| {
            let mut entry = logprobs::of(token, top);
            if let (0, Some(entry)) = (top, entry.as_object_mut()) {
                entry.remove("top_logprobs");
            }
            entry
        };
        step.tokens.iter().map(one).collect()
    }
}

/// A whole answer, its pieces put together.
#[derive(Debug, Default)]
pub(super) struct Whole {
    pub(super) thinking: String,
    pub(super) content: String,
    pub(super) calls: Vec<Value>,
    pub(super) logprobs: Vec<Value>,
}

impl Whole {
    pub(super) fn of(ask: &Ask, answer: &Generation) -> Self {
        let (mut pieces, mut whole) = (Pieces::new(ask), Self::default());
        for step in &answer.steps {
            let told = pieces.of(step);
            if !told.is_empty() {
                whole.logprobs.extend(pieces.logprobs(step));
            }
            for piece in told {
                whole.add(piece);
            }
        }
        whole
    }

    pub(super) fn add(&mut self, piece: Piece) {
        match piece {
            Piece::Thinking(text) => self.thinking.push_str(&text),
            Piece::Content(text) => self.content.push_str(&text),
            Piece::Call(call) => self.calls.push(call),
        }
    }
}

/// `call_` and eight letters or digits.
fn call_id() -> String {
    let mut id = random_id("call_");
    id.truncate("call_".len() + 8);
    id
}
