//! What stands in the text of answers and belongs elsewhere (SPEC 5.6): tool calls, in the one form that
//! clients understand, and thoughts. Streamed chunk by chunk ([`ToolCallStream`]) and in one piece
//! ([`whole`]).
//!
//! Owns: what of an answer is written anew: calls and thoughts that stand in the text, the legacy
//! `function_call`, arguments that are objects, missing ids and indexes, the finish reason. Must never
//! do: look for calls in an answer to a request without tools, or in thoughts; or change an event that is
//! right already.

mod choice;
mod entries;
mod quick;
mod streamed;
#[cfg(test)]
mod tests;
mod text;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::harmonise::{Offered, ToolFields};
use super::request::ChatRequest;
use super::think::Thinking;
use choice::Choice;
use quick::Quick;
use text::Read;

/// What is looked for in an answer's text.
#[derive(Debug, Clone, Default)]
pub struct TextRules {
    /// Calls of these tools.
    pub offered: Option<Arc<Offered>>,
    /// Thoughts.
    pub thinking: Option<Thinking>,
}

impl TextRules {
    /// Whether there is anything to look for.
    pub fn is_empty(&self) -> bool {
        self.offered.is_none() && self.thinking.is_none()
    }
}

/// The fields of a request that decide; a conversation may be long, and is passed over.
#[derive(Deserialize)]
struct Wire {
    tools: Option<Value>,
    functions: Option<Value>,
    tool_choice: Option<Value>,
    function_call: Option<Value>,
    response_format: Option<Value>,
}

/// What a request offered; nothing, if its answer is not to be looked at.
pub fn offered(chat: &ChatRequest) -> Option<Arc<Offered>> {
    if !chat.offers_tools() && !chat.offers_functions() {
        return None;
    }
    let wire: Wire = serde_json::from_str(chat.text()).ok()?;
    let offered = Offered::read(&ToolFields {
        tools: wire.tools.as_ref(),
        functions: wire.functions.as_ref(),
        tool_choice: wire.tool_choice.as_ref(),
        function_call: wire.function_call.as_ref(),
        response_format: wire.response_format.as_ref(),
    });
    (!offered.is_empty()).then(|| Arc::new(offered))
}

/// What becomes of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turned {
    /// It leaves as it came.
    Stays,
    /// Nothing of it leaves now.
    Held,
    /// This leaves instead: JSON.
    Into(String),
}

/// The text of one streamed answer.
#[derive(Debug)]
pub struct ToolCallStream {
    rules: TextRules,
    choices: BTreeMap<u32, Choice>,
    /// The first chunk without its choices and usage: what chunks of ours look like.
    frame: Map<String, Value>,
}

impl ToolCallStream {
    /// Before the first chunk.
    pub fn new(rules: TextRules) -> Self {
        ToolCallStream { rules, choices: BTreeMap::new(), frame: Map::new() }
    }

    /// One chunk's JSON.
    pub fn event(&mut self, data: &[u8]) -> Turned {
        let quick = Quick::of(data).and_then(|quick| self.quick(data, &quick));
        quick.unwrap_or_else(|| self.tree(data, None))
    }

    /// A chunk that says nothing but a piece of text, of a choice that is known.
    fn quick(&mut self, data: &[u8], quick: &Quick<'_>) -> Option<Turned> {
        let said = quick.content.as_ref().map_or("", |content| &content.text);
        let read = self.choices.get_mut(&quick.index)?.read(said, quick.thinks)?;
        if read.is_text(said) {
            return Some(Turned::Stays);
        }
        if read.is_nothing() && !quick.says {
            return Some(Turned::Held);
        }
        let written = quick.content.as_ref().and_then(|content| {
            if let Some(text) = read.only_text() {
                return content.with_text(data, text);
            }
            let thought = read.only_thought().filter(|_| !quick.thinks)?;
            content.with_thought(data, thought)
        });
        // The text has been read: what it came to goes along.
        Some(written.map_or_else(|| self.tree(data, Some(read)), Turned::Into))
    }

    /// Any chunk. `read`: what its only text came to, if that has been read.
    fn tree(&mut self, data: &[u8], mut read: Option<Read>) -> Turned {
        let Ok(Value::Object(mut chunk)) = serde_json::from_slice::<Value>(data) else {
            return Turned::Stays;
        };
        let Some(Value::Array(mut choices)) = chunk.remove("choices") else { return Turned::Stays };
        // Usage chunks and the like.
        if choices.is_empty() {
            return Turned::Stays;
        }
        if self.frame.is_empty() {
            self.frame.clone_from(&chunk);
            self.frame.remove("usage");
        }
        let (mut changed, mut says) =
            (false, chunk.get("usage").is_some_and(|usage| !usage.is_null()));
        for choice in &mut choices {
            let Some(fields) = choice.as_object_mut() else {
                says = true;
                continue;
            };
            let index = index_of(fields);
            let known = self.choices.entry(index);
            let seed = seed(&self.frame);
            let state = known.or_insert_with(|| Choice::new(&self.rules, seed, index));
            let turned = state.chunk(fields, read.take());
            changed |= turned.changed;
            says |= turned.says;
        }
        if !changed {
            return Turned::Stays;
        }
        if !says {
            return Turned::Held;
        }
        chunk.insert("choices".to_owned(), Value::Array(choices));
        Turned::Into(Value::Object(chunk).to_string())
    }

    /// What is still held when the answer ends without a finish reason: a chunk for it.
    pub fn rest(&mut self) -> Option<String> {
        let choices: Vec<Value> = self
            .choices
            .iter_mut()
            .filter_map(|(index, choice)| {
                let delta = choice.rest()?;
                Some(json!({"index": index, "delta": delta, "finish_reason": null}))
            })
            .collect();
        if choices.is_empty() {
            return None;
        }
        let mut chunk = self.frame.clone();
        chunk.insert("choices".to_owned(), Value::Array(choices));
        Some(Value::Object(chunk).to_string())
    }
}

/// What ids of calls follow from: the answer's own id.
fn seed(answer: &Map<String, Value>) -> &str {
    answer.get("id").and_then(Value::as_str).unwrap_or_default()
}

/// The index as it is written; nothing if it is no such number.
fn index_of_text(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn index_of(choice: &Map<String, Value>) -> u32 {
    let index = choice.get("index").and_then(Value::as_u64).unwrap_or(0);
    u32::try_from(index).unwrap_or(u32::MAX)
}

/// An answer in one piece; `None`: it is right as it is.
pub fn whole(body: &[u8], rules: &TextRules) -> Option<Vec<u8>> {
    let mut answer: Map<String, Value> = serde_json::from_slice(body).ok()?;
    let seed = seed(&answer).to_owned();
    let choices = answer.get_mut("choices")?.as_array_mut()?;
    let mut changed = false;
    for choice in choices.iter_mut().filter_map(Value::as_object_mut) {
        let index = index_of(choice);
        changed |= choice::message(choice, rules, &seed, index);
    }
    changed.then(|| Value::Object(answer).to_string().into_bytes())
}
