//! A chat client that puts an answer together, as strict as clients are.
//!
//! Owns: what such a client would choke on, and what it understands. Must never do: forgive, but for
//! what the core is there to mend, and only where it is asked to ([`Reading::AsBackendsWrite`]).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

/// How strictly chunks are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// As clients do.
    Strict,
    /// Also what backends leave out or write otherwise: indexes, ids, types, arguments that are
    /// objects, the older `function_call`.
    AsBackendsWrite,
}

/// A tool call.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Call {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) arguments: String,
}

/// One choice, put together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) content: String,
    /// What it thought, under either name.
    pub(crate) thought: String,
    /// Some of that came behind text. (This and the next are for what came; [`settled`] clears them.)
    pub(crate) thought_late: bool,
    /// Whether parts of calls have indexes.
    indexed: Option<bool>,
    pub(crate) calls: Vec<Call>,
    pub(crate) finish: Option<String>,
}

/// All choices of an answer.
pub(crate) type Answer = BTreeMap<u64, Message>;

/// What a client cannot read.
pub(crate) type Choked = &'static str;

/// Whether chunks are of a shape in which engines and gateways send them, whatever their calls come to:
/// ids and names may be late or told again, indexes may be the same for several calls.
pub(crate) fn are_shaped(chunks: &[Value]) -> bool {
    let mut ended = BTreeSet::new();
    chunks.iter().flat_map(choices).all(|choice| {
        let Some((index, fields)) = choice.as_object().and_then(|f| Some((index_of(f).ok()?, f)))
        else {
            return false;
        };
        let delta = fields.get("delta").and_then(Value::as_object);
        let says_nothing = delta.is_none_or(|delta| {
            delta.iter().all(|(name, value)| name == "role" || value.is_null() || value == "")
        });
        let shaped = delta.is_none_or(is_shaped) && (says_nothing || !ended.contains(&index));
        shaped && (finish_of(fields).is_none() || ended.insert(index))
    })
}

fn is_shaped(delta: &Map<String, Value>) -> bool {
    let text = |value: Option<&Value>| optional_text(value).is_ok();
    let function = |call: &Value| call.is_object() && text(call.get("name"));
    let entry = |entry: &Value| {
        let kind = optional_text(entry.get("type"));
        let index = entry.get("index").is_none_or(|index| index.is_null() || index.is_u64());
        let called = entry.get("function").is_none_or(function);
        let kind = matches!(kind, Ok(None | Some("function")));
        entry.is_object() && called && kind && index && text(entry.get("id"))
    };
    let texts = ["content", "reasoning", "reasoning_content"];
    texts.iter().all(|name| text(delta.get(*name)))
        && entries(delta).is_ok_and(|entries| entries.iter().all(entry))
        && delta.get("function_call").is_none_or(|call| call.is_null() || function(call))
}

/// The answer that these chunks come to.
pub(crate) fn of_stream(chunks: &[Value], reading: Reading) -> Result<Answer, Choked> {
    let mut answer = Answer::new();
    for choice in chunks.iter().flat_map(choices) {
        let fields = choice.as_object().ok_or("a choice is an object")?;
        let message = answer.entry(index_of(fields)?).or_default();
        message.take(fields, reading)?;
    }
    Ok(answer)
}

/// The same of an answer in one piece.
pub(crate) fn of_whole(whole: &Value) -> Result<Answer, Choked> {
    let mut answer = Answer::new();
    for choice in choices(whole) {
        let fields = choice.as_object().ok_or("a choice is an object")?;
        let said = fields.get("message").and_then(Value::as_object).ok_or("a message")?;
        let mut message = Message {
            content: optional_text(said.get("content"))?.unwrap_or_default().to_owned(),
            thought: thought(said)?.to_owned(),
            finish: finish_of(fields).map(str::to_owned),
            ..Message::default()
        };
        for entry in entries(said)? {
            let entry = entry.as_object().ok_or("an entry is an object")?;
            message.begin(entry, Reading::Strict)?;
            message.append(entry, 0, Reading::Strict)?;
        }
        answer.insert(index_of(fields)?, message);
    }
    Ok(answer)
}

/// The answer in one piece that says this, as a backend would write it.
pub(crate) fn written_whole(answer: &Answer, id: &str) -> Value {
    let choices = answer.iter().map(|(index, message)| {
        let calls = message.calls.iter().map(|call| {
            let function = json!({"name": call.name, "arguments": call.arguments});
            json!({"id": call.id, "type": "function", "function": function})
        });
        let calls: Vec<Value> = calls.collect();
        let mut said = json!({"role": "assistant", "content": message.content});
        if !calls.is_empty() {
            said["tool_calls"] = Value::Array(calls);
        }
        if !message.thought.is_empty() {
            said["reasoning"] = message.thought.clone().into();
        }
        json!({"index": index, "message": said, "finish_reason": message.finish})
    });
    json!({"id": id, "object": "chat.completion", "choices": choices.collect::<Vec<_>>()})
}

/// The same, without what tells how it came, and without choices that say nothing; no arguments at all
/// are empty ones.
pub(crate) fn settled(mut answer: Answer) -> Answer {
    answer.retain(|_, message| {
        (message.thought_late, message.indexed) = (false, None);
        for call in message.calls.iter_mut().filter(|call| call.arguments.is_empty()) {
            call.arguments.push_str("{}");
        }
        *message != Message::default()
    });
    answer
}

/// The choices of a chunk or an answer.
pub(crate) fn choices(chunk: &Value) -> &[Value] {
    chunk.get("choices").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Why a choice ends, if it does.
pub(crate) fn finish_of(choice: &Map<String, Value>) -> Option<&str> {
    choice.get("finish_reason").and_then(Value::as_str).filter(|reason| !reason.is_empty())
}

impl Message {
    fn take(&mut self, choice: &Map<String, Value>, reading: Reading) -> Result<(), Choked> {
        if let Some(delta) = choice.get("delta").and_then(Value::as_object) {
            let text = optional_text(delta.get("content"))?.unwrap_or_default();
            let calls = entries(delta)?;
            let legacy = legacy(delta)?;
            let says = !text.is_empty() || !calls.is_empty() || legacy.is_some();
            if says && self.finish.is_some() {
                return Err("something is said behind the end");
            }
            let thought = thought(delta)?;
            self.thought_late |= !thought.is_empty() && !self.content.is_empty();
            self.thought.push_str(thought);
            self.content.push_str(text);
            for entry in calls {
                self.part(entry.as_object().ok_or("an entry is an object")?, reading)?;
            }
            if let Some(call) = legacy {
                self.legacy_part(call, calls, reading)?;
            }
        }
        if let Some(reason) = finish_of(choice)
            && self.finish.replace(reason.to_owned()).is_some()
        {
            return Err("it ends twice");
        }
        Ok(())
    }

    /// One entry of a streamed `tool_calls`.
    fn part(&mut self, entry: &Map<String, Value>, reading: Reading) -> Result<(), Choked> {
        let indexed = entry.contains_key("index");
        if self.indexed.replace(indexed).is_some_and(|before| before != indexed) {
            return Err("some parts have an index, some have none");
        }
        let index = match (entry.get("index"), reading) {
            (Some(index), _) => {
                let index = index.as_u64().ok_or("an index is a number")?;
                usize::try_from(index).map_err(|_| "an index is small")?
            }
            (None, Reading::Strict) => return Err("a part has an index"),
            (None, _) if name_of(entry).is_some() => self.calls.len(),
            (None, _) => self.calls.len().checked_sub(1).ok_or("a part of nothing")?,
        };
        if index > self.calls.len() {
            return Err("a call begins before those before it");
        }
        if index == self.calls.len() {
            self.begin(entry, reading)?;
        } else if says(entry.get("id")) || name_of(entry).is_some() {
            return Err("a call begins twice");
        }
        self.append(entry, self.calls.len() - 1 - index, reading)
    }

    /// A call begins with this entry.
    fn begin(&mut self, entry: &Map<String, Value>, reading: Reading) -> Result<(), Choked> {
        let lenient = reading == Reading::AsBackendsWrite;
        let id = optional_text(entry.get("id"))?.unwrap_or_default().to_owned();
        match optional_text(entry.get("type"))? {
            Some("function") => {}
            None if lenient => {}
            _ => return Err("a call is of type function"),
        }
        let named = name_of(entry).filter(|name| !lenient || !name.is_empty());
        let name = named.ok_or("a call has a name")?;
        if id.is_empty() && !lenient {
            return Err("a call has an id");
        }
        // Without either nobody can tell one call from the next.
        let unnumbered = lenient && self.indexed == Some(false);
        if unnumbered && self.calls.last().is_some_and(|l| l.id.is_empty() || id.is_empty()) {
            return Err("a call has an index or an id");
        }
        if lenient && self.calls.iter().any(|call| call.id == id && !id.is_empty()) {
            return Err("two calls have the same id");
        }
        self.calls.push(Call { id, name: name.to_owned(), arguments: String::new() });
        Ok(())
    }

    /// Arguments go to the call that stands so many before the last.
    fn append(
        &mut self,
        entry: &Map<String, Value>,
        before_last: usize,
        reading: Reading,
    ) -> Result<(), Choked> {
        let arguments = entry.get("function").and_then(|function| function.get("arguments"));
        let more = match arguments {
            None | Some(Value::Null) => return Ok(()),
            Some(Value::String(text)) => text.clone(),
            Some(json @ (Value::Object(_) | Value::Array(_)))
                if reading == Reading::AsBackendsWrite =>
            {
                json.to_string()
            }
            Some(_) => return Err("arguments are a text"),
        };
        let call = self.calls.iter_mut().rev().nth(before_last).ok_or("arguments of no call")?;
        call.arguments.push_str(&more);
        Ok(())
    }

    /// The older form has one call only.
    fn legacy_part(
        &mut self,
        call: &Map<String, Value>,
        beside: &[Value],
        reading: Reading,
    ) -> Result<(), Choked> {
        if reading == Reading::Strict || !beside.is_empty() {
            return Err("the older form of calls");
        }
        let entry = json!({"index": 0, "function": call});
        entry.as_object().map_or(Ok(()), |entry| self.part(entry, reading))
    }
}

fn index_of(choice: &Map<String, Value>) -> Result<u64, Choked> {
    match choice.get("index") {
        None => Ok(0),
        Some(index) => {
            index.as_u64().filter(|n| *n < 1000).ok_or("the index of a choice is a small number")
        }
    }
}

fn optional_text(value: Option<&Value>) -> Result<Option<&str>, Choked> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err("a text is a string"),
    }
}

fn thought(said: &Map<String, Value>) -> Result<&str, Choked> {
    let new = optional_text(said.get("reasoning"))?.filter(|text| !text.is_empty());
    Ok(new.or(optional_text(said.get("reasoning_content"))?).unwrap_or_default())
}

fn entries(delta: &Map<String, Value>) -> Result<&[Value], Choked> {
    match delta.get("tool_calls") {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(entries)) => Ok(entries),
        Some(_) => Err("calls are a list"),
    }
}

fn legacy(delta: &Map<String, Value>) -> Result<Option<&Map<String, Value>>, Choked> {
    match delta.get("function_call") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(call)) => Ok(Some(call).filter(|call| !call.is_empty())),
        Some(_) => Err("a call is an object"),
    }
}

fn name_of(entry: &Map<String, Value>) -> Option<&str> {
    entry.get("function")?.get("name")?.as_str()
}

fn says(value: Option<&Value>) -> bool {
    value.is_some_and(|value| !value.is_null())
}
