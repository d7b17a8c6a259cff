//! Server-sent events through the splitter and through the chain of streamed chat answers.
//!
//! Switches: 0 the client asked for usage; 1 to 6: how text is read; 7: fields stay.
//!
//! Owns: that cuts never matter, that what leaves is whole events and valid where what came was, that
//! `[DONE]` leaves once and only for whole answers, and that no thought is lost. Must never do: judge
//! what a call is (see `tool_stream`).

use std::collections::BTreeSet;

use bytes::Bytes;
use chat_proxy_core::chat::chunk::Chunk;
use chat_proxy_core::chat::fields::{FieldRules, Level, ReasoningField};
use chat_proxy_core::chat::sse::{Found, Payload, Splitter, is_error_event};
use chat_proxy_core::chat::stream::{ChatStream, DONE, Incomplete, Progress};
use serde_json::{Map, Value};

use crate::client::{choices, finish_of};
use crate::input::Input;
use crate::{json, rules};

const FIELDS: [ReasoningField; 3] =
    [ReasoningField::Both, ReasoningField::Reasoning, ReasoningField::ReasoningContent];

pub(crate) fn run(bytes: &[u8]) {
    let input = Input::of(bytes);
    let (events, rest) = input.cuttings().same(split);
    assert_eq!([events.concat(), rest.clone()].concat(), input.content, "no byte is lost");
    for event in events.iter().chain([&rest]) {
        assert_eq!(data_of(event), as_the_standard_says(event), "{}", shown(event));
    }
    let valid = events.iter().chain([&rest]).all(|event| is_fine(event));
    let usage = input.on(0);
    let through = |stream: &dyn Fn() -> ChatStream, growth: usize| {
        let left = input.cuttings().same(|pieces| leaves(pieces, stream()));
        left.check(valid);
        assert!(left.out.len() <= growth * input.content.len() + 1024, "{} bytes", left.out.len());
        left
    };
    let plain = through(&|| ChatStream::new(usage), 1);
    ends_once(&plain);
    if usage && !ends_again(&events, &rest) {
        plain.is_what_came(&events, &rest);
    }
    for field in FIELDS {
        for removes in [false, true] {
            let rules = rules::fields(field, removes);
            let stream = ChatStream::new(usage).with_fields(rules.clone());
            let changed = leaves(&[input.content], stream);
            changed.check(valid);
            fields_are_right(&plain, &changed, &rules);
        }
    }
    let text = || ChatStream::new(usage).with_text(rules::text(&input, 1));
    let fields = || text().with_fields(rules::fields(ReasoningField::Both, true));
    if input.on(7) {
        through(&text, 64)
    } else {
        through(&fields, 192)
    };
}

/// The events of bytes that come in these pieces, and what is no whole event.
pub(crate) fn split(pieces: &[&[u8]]) -> (Vec<Vec<u8>>, Vec<u8>) {
    let mut splitter = Splitter::default();
    let mut events = Vec::new();
    for piece in pieces {
        let (chunk, mut at) = (Bytes::copy_from_slice(piece), 0);
        loop {
            let found = splitter.next(&chunk, &mut at);
            assert!(found.is_ok(), "small events are never too large");
            match found {
                Ok(Some(Found::InPlace(range))) => events.push(chunk[range].to_vec()),
                Ok(Some(Found::Joined(event))) => events.push(event.to_vec()),
                Ok(None) | Err(_) => break,
            }
        }
    }
    let rest = splitter.rest().to_vec();
    assert!(splitter.rest().is_empty());
    (events, rest)
}

/// The events of what has left, which are whole.
pub(crate) fn whole_events(out: &[u8]) -> Vec<Vec<u8>> {
    // Behind an end of CR alone one more byte is needed to see it.
    let (mut events, rest) = split(&[out, b":\n\n"]);
    assert!(rest.is_empty(), "what leaves is whole events: {}", shown(out));
    let mark = events.pop();
    assert_eq!(mark.as_deref(), Some(&b":\n\n"[..]), "the last event is whole: {}", shown(out));
    events
}

/// An event's data; `None` if it has nothing to say.
pub(crate) fn data_of(event: &[u8]) -> Option<Vec<u8>> {
    match Payload::of(event) {
        Payload::Nothing => None,
        payload => Some(payload.data(event).to_vec()),
    }
}

/// The same, word for word after WHATWG HTML 9.2.6; fields without data count as empty data.
fn as_the_standard_says(event: &[u8]) -> Option<Vec<u8>> {
    let (mut data, mut other) = (Vec::new(), false);
    for line in lines(event) {
        let colon = line.iter().position(|byte| *byte == b':');
        let (name, value) = colon.map_or((line, &[][..]), |at| (&line[..at], &line[at + 1..]));
        match name {
            b"data" => data.push(value.strip_prefix(b" ").unwrap_or(value)),
            _ => other |= !name.is_empty(),
        }
    }
    (other || !data.is_empty()).then(|| data.join(&b'\n'))
}

fn lines(event: &[u8]) -> impl Iterator<Item = &[u8]> {
    let text = event.split(|byte| *byte == b'\n');
    text.flat_map(|line| line.strip_suffix(b"\r").unwrap_or(line).split(|byte| *byte == b'\r'))
}

/// Its data is JSON, or the end, or nothing.
fn is_fine(event: &[u8]) -> bool {
    data_of(event).is_none_or(|data| is_done(&data) || json::is_valid(&data))
}

fn is_done(data: &[u8]) -> bool {
    data.trim_ascii() == b"[DONE]"
}

/// What left for the client, and how it ended.
#[derive(Debug, PartialEq)]
struct Left {
    out: Vec<u8>,
    end: Result<Progress, Incomplete>,
    summary: String,
}

fn leaves(pieces: &[&[u8]], mut stream: ChatStream) -> Left {
    let mut out = Vec::new();
    let mut end = Ok(Progress::Flowing);
    for piece in pieces {
        end = stream.push(&Bytes::copy_from_slice(piece), &mut out);
        if end != Ok(Progress::Flowing) {
            break;
        }
    }
    if end == Ok(Progress::Flowing) {
        end = stream.finish(&mut out);
    }
    if end.is_err() {
        // As whoever ends the answer with an error does.
        out.extend(stream.rest_of_text());
    }
    Left { out: out.concat(), end, summary: format!("{:?}", stream.summary()) }
}

impl Left {
    fn check(&self, valid: bool) {
        let events = whole_events(&self.out);
        let done = |event: &[u8]| {
            !is_error_event(event) && data_of(event).is_some_and(|data| is_done(&data))
        };
        let ends = events.iter().filter(|event| done(event)).count();
        assert_eq!(ends, usize::from(self.end == Ok(Progress::Done)), "{:?}", self.end);
        assert!(ends == 0 || events.last().is_some_and(|event| done(event)), "nothing behind it");
        for event in &events {
            assert!(data_of(event).is_some(), "comments do not leave");
            assert!(!valid || is_fine(event), "no JSON: {}", shown(event));
        }
    }

    /// Nothing is changed, dropped or put in, but for comments and what the end needs.
    fn is_what_came(&self, events: &[Vec<u8>], rest: &[u8]) {
        let mut expected = Vec::new();
        for event in events.iter().filter(|event| data_of(event).is_some()) {
            expected.extend_from_slice(event);
            if ends(event) {
                break;
            }
        }
        assert!(self.out.starts_with(&expected), "what came first leaves first");
        let more = &self.out[expected.len()..];
        let more = more.strip_suffix(DONE).unwrap_or(more);
        let more = more.strip_suffix(b"\n\n").unwrap_or(more);
        assert!(rest.starts_with(more), "more has left than came: {}", shown(more));
    }
}

/// Nothing counts behind this event.
fn ends(event: &[u8]) -> bool {
    let chunk = Chunk::read(&data_of(event).unwrap_or_default(), |_| {});
    match chunk {
        _ if is_error_event(event) => true,
        Chunk::Done => true,
        Chunk::Object(facts) => facts.error.is_some(),
        Chunk::Other => false,
    }
}

/// Whether a choice ends that has ended: then its event is written anew.
fn ends_again(events: &[Vec<u8>], rest: &[u8]) -> bool {
    let (mut finished, mut again) = (BTreeSet::new(), false);
    for event in events.iter().map(Vec::as_slice).chain([rest]) {
        Chunk::read(&data_of(event).unwrap_or_default(), |choice| {
            again |= choice.finish_reason.is_some() && !finished.insert(choice.index);
        });
    }
    again
}

/// No choice ends twice.
fn ends_once(left: &Left) {
    let mut finished = BTreeSet::new();
    for event in whole_events(&left.out).iter().filter(|event| !ends(event)) {
        let chunk = data_of(event).filter(|_| !escapes(event)).and_then(|data| json::strict(&data));
        for choice in choices(&chunk.unwrap_or_default()).iter().filter_map(Value::as_object) {
            let index = choice.get("index").and_then(Value::as_u64);
            let index = index.and_then(|index| u32::try_from(index).ok()).unwrap_or(0);
            let again = finish_of(choice).is_some() && !finished.insert(index);
            assert!(!again, "choice {index} ends again: {}", shown(event));
        }
    }
}

/// Names with escapes in them are not ours to find.
fn escapes(event: &[u8]) -> bool {
    event.windows(2).any(|pair| pair == b"\\u")
}

/// Beside the plain answer, only names of thoughts and foreign fields differ.
fn fields_are_right(plain: &Left, changed: &Left, rules: &FieldRules) {
    assert_eq!((&plain.end, &plain.summary), (&changed.end, &changed.summary));
    let (plain, changed) = (whole_events(&plain.out), whole_events(&changed.out));
    assert_eq!(plain.len(), changed.len(), "no event is lost");
    for (came, left) in plain.iter().zip(&changed) {
        let read = |event: &[u8]| json::strict(&data_of(event)?).filter(Value::is_object);
        let Some(before) = read(came).filter(|_| !escapes(came) && !ends(came)) else { continue };
        let right = read(left).is_some_and(|after| is_right(before, after, rules));
        assert!(right, "{rules:?}: {} became {}", shown(came), shown(left));
    }
}

/// Whether the thoughts of every choice stand under the names that are wanted, foreign fields are gone
/// where they are to go, and nothing else has changed.
fn is_right(mut before: Value, mut after: Value, rules: &FieldRules) -> bool {
    if !before.get("choices").is_some_and(Value::is_array) {
        return before == after;
    }
    if rules.removes() {
        each_object(&mut before, &mut |level, object| {
            object.retain(|name, value| value.is_null() || stays(level, name));
        });
        // The text of a plain completion is not looked for, but may go with others.
        for chunk in [&mut before, &mut after] {
            each_object(chunk, &mut |level, object| {
                object.retain(|name, _| level != Level::Choice || name != "text");
            });
        }
    }
    let (came, left) = (thoughts(&mut before), thoughts(&mut after));
    let named = came.iter().zip(&left).all(|([one, other], [new, old])| {
        let (wanted_new, wanted_old) =
            (one.as_ref().or(other.as_ref()), other.as_ref().or(one.as_ref()));
        match rules.reasoning {
            ReasoningField::Both => new.as_ref() == wanted_new && old.as_ref() == wanted_old,
            ReasoningField::Reasoning => new.as_ref() == wanted_new && old.is_none(),
            ReasoningField::ReasoningContent => old.as_ref() == wanted_old && new.is_none(),
        }
    });
    named && came.len() == left.len() && before == after
}

fn stays(level: Level, name: &str) -> bool {
    name == rules::ASKED || level.knows(name.as_bytes())
}

/// The chunk, its choices, and their messages and deltas.
fn each_object(chunk: &mut Value, visit: &mut dyn FnMut(Level, &mut Map<String, Value>)) {
    let Some(root) = chunk.as_object_mut() else { return };
    visit(Level::Root, root);
    let choices = root.get_mut("choices").and_then(Value::as_array_mut);
    for choice in choices.into_iter().flatten().filter_map(Value::as_object_mut) {
        visit(Level::Choice, choice);
        for name in ["delta", "message"] {
            if let Some(message) = choice.get_mut(name).and_then(Value::as_object_mut) {
                visit(Level::Message, message);
            }
        }
    }
}

/// Takes both names of thoughts out of every message and delta.
fn thoughts(chunk: &mut Value) -> Vec<[Option<Value>; 2]> {
    let mut all = Vec::new();
    each_object(chunk, &mut |level, message| {
        if level == Level::Message {
            all.push([take(message, "reasoning"), take(message, "reasoning_content")]);
        }
    });
    all
}

/// Takes a field out; nothing, if it says nothing.
fn take(message: &mut Map<String, Value>, name: &str) -> Option<Value> {
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(object) => object.is_empty(),
        _ => false,
    };
    message.remove(name).filter(|value| !empty(value))
}

/// Bytes as they can be read.
pub(crate) fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}
