//! Streamed answers to requests with tools, chunk by chunk and in one piece.
//!
//! The content is a script of chunks, see `script`. Switches: 0 its lines of text have their line ends;
//! 1 and on: how text is read, see `rules`.
//!
//! Owns: that what leaves pleases a strict client, comes to the same as the whole answer, and loses no
//! text; and that garbage does no harm. Must never do: know the grammar.

use std::collections::BTreeMap;

use chat_proxy_core::chat::think::ThinkFormat;
use chat_proxy_core::chat::tool_calls::{TextRules, ToolCallStream, Turned, whole};
use serde_json::{Map, Value};

use crate::client::{self, Answer, Reading, choices, finish_of};
use crate::input::Input;
use crate::script::{ID, Script};
use crate::{json, rules};

pub(crate) fn run(bytes: &[u8]) {
    let input = Input::of(bytes);
    let rules = rules::text(&input, 1);
    let text = input.text();
    let script = Script::of(&text, input.on(0));
    let mut answers: Vec<Option<Answer>> = Vec::new();
    for cut in 0..script.cuts() {
        let chunks = script.chunks(&input, cut);
        let (fine, came): (Vec<_>, Vec<_>) = chunks.iter().filter_map(|chunk| read(chunk)).unzip();
        // What is no JSON is nobody's to understand.
        if fine.len() < chunks.len() {
            let mut stream = ToolCallStream::new(rules.clone());
            for chunk in &chunks {
                stream.event(chunk);
            }
            drop(stream.rest());
        }
        let left = turned(&fine, &came, &rules);
        nothing_is_lost(&came, &left, &rules);
        answers.push(comes_to_the_same(&came, &left, &rules));
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "cuts of text do not matter");
    any_whole_answer(input.content, &rules);
}

fn read(chunk: &[u8]) -> Option<(&[u8], Value)> {
    Some((chunk, serde_json::from_slice(chunk).ok()?))
}

/// What leaves of these chunks.
fn turned(chunks: &[&[u8]], came: &[Value], rules: &TextRules) -> Vec<Value> {
    let mut stream = ToolCallStream::new(rules.clone());
    let mut left = Vec::new();
    let read = |text: &str| {
        let chunk = serde_json::from_str::<Value>(text);
        assert!(chunk.as_ref().is_ok_and(Value::is_object), "no chunk: {text}");
        chunk.ok()
    };
    for (chunk, came) in chunks.iter().zip(came) {
        match stream.event(chunk) {
            Turned::Stays => left.push(came.clone()),
            Turned::Into(text) => left.extend(read(&text)),
            Turned::Held => {
                let mut all = choices(came).iter().filter_map(Value::as_object);
                assert!(!all.any(|c| finish_of(c).is_some()), "what ends an answer is not held");
            }
        }
    }
    left.extend(stream.rest().and_then(|text| read(&text)));
    assert_eq!(stream.rest(), None, "the rest leaves once");
    left
}

/// Whatever came: text, thoughts and ends are all there, but for text that became calls or thoughts.
fn nothing_is_lost(came: &[Value], left: &[Value], rules: &TextRules) {
    assert_eq!(ends(came), ends(left));
    let format = rules.thinking.map(|thinking| thinking.format);
    if format == Some(ThinkFormat::Extract) {
        return;
    }
    assert_eq!(told(came, "reasoning"), told(left, "reasoning"));
    let calls = |delta: &Map<String, Value>| delta.contains_key("tool_calls");
    let any = left.iter().flat_map(deltas).any(|(_, delta)| calls(delta));
    if !any && format != Some(ThinkFormat::Strip) {
        assert_eq!(told(came, "content"), told(left, "content"));
    }
}

/// The deltas of a chunk, with the choices that they belong to.
fn deltas(chunk: &Value) -> impl Iterator<Item = (u64, &Map<String, Value>)> {
    let fields = choices(chunk).iter().filter_map(Value::as_object);
    fields.filter_map(|choice| Some((index_of(choice), choice.get("delta")?.as_object()?)))
}

fn index_of(choice: &Map<String, Value>) -> u64 {
    choice.get("index").and_then(Value::as_u64).unwrap_or(0).min(u64::from(u32::MAX))
}

fn told(chunks: &[Value], name: &str) -> BTreeMap<u64, String> {
    let mut told: BTreeMap<u64, String> = BTreeMap::new();
    for (index, delta) in chunks.iter().flat_map(deltas) {
        if let Some(text) = delta.get(name).and_then(Value::as_str).filter(|text| !text.is_empty())
        {
            told.entry(index).or_default().push_str(text);
        }
    }
    told
}

/// How each choice ends; those words that calls replace are one.
fn ends(chunks: &[Value]) -> Vec<(u64, &str)> {
    let all = chunks.iter().flat_map(choices).filter_map(Value::as_object);
    let ends = all.filter_map(|choice| Some((index_of(choice), finish_of(choice)?)));
    ends.map(|(index, reason)| match reason {
        "stop" | "function_call" => (index, "tool_calls"),
        other => (index, other),
    })
    .collect()
}

/// If what came can be mended, a strict client can read what left at every moment; and if it is clear
/// what it means, the answer in one piece says the same.
fn comes_to_the_same(came: &[Value], left: &[Value], rules: &TextRules) -> Option<Answer> {
    let reading = if rules.offered.is_some() { Reading::AsBackendsWrite } else { Reading::Strict };
    let expected = client::of_stream(came, reading);
    let answer = client::of_stream(left, Reading::Strict);
    let readable = expected.is_ok() || rules.offered.is_some() && client::are_shaped(came);
    let shown = || left.iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
    assert!(!readable || answer.is_ok(), "a client chokes, {answer:?}:\n{}", shown());
    let expected = expected.ok()?;
    let answer = client::settled(answer.ok()?);
    names_are_known(&answer, &expected, rules);
    let written = client::written_whole(&expected, ID);
    let whole = match whole(written.to_string().as_bytes(), rules) {
        Some(bytes) => serde_json::from_slice(&bytes).unwrap_or_default(),
        None => written,
    };
    let whole_answer = client::of_whole(&whole);
    assert!(whole_answer.is_ok(), "a client chokes, {whole_answer:?}: {whole}");
    let one_id = came.iter().filter(|chunk| !choices(chunk).is_empty()).all(|c| c["id"] == ID);
    let gist = |answer: &Answer| gist(answer, &expected, one_id);
    assert_eq!(gist(&answer), gist(&client::settled(whole_answer.ok()?)), "streamed, and whole");
    Some(answer)
}

/// What must be equal: where engine and text both have calls, or thoughts came behind text, the whole
/// answer cannot tell their order.
fn gist(answer: &Answer, expected: &Answer, one_id: bool) -> Answer {
    let mut answer = answer.clone();
    for (index, message) in &mut answer {
        let Some(told) = expected.get(index) else { continue };
        let both = !told.calls.is_empty() && message.calls.len() > told.calls.len();
        if both || !one_id {
            message.calls.iter_mut().for_each(|call| call.id.clear());
        }
        if both {
            message.calls.sort();
        }
    }
    answer.retain(|index, _| !expected.get(index).is_some_and(|told| told.thought_late));
    answer
}

/// No call but those of the engine and those of offered tools.
fn names_are_known(answer: &Answer, expected: &Answer, rules: &TextRules) {
    for (index, message) in answer {
        let engines = expected.get(index).map_or(&[][..], |message| &message.calls);
        for call in &message.calls {
            let offered = rules.offered.as_ref().is_some_and(|o| o.names().contains(&call.name));
            let engines = engines.iter().any(|own| own.name == call.name);
            assert!(engines || offered, "{} was not offered", call.name);
        }
    }
}

/// Any bytes as an answer in one piece: it stays, or becomes JSON in which all else is the same.
fn any_whole_answer(bytes: &[u8], rules: &TextRules) {
    let Some(turned) = whole(bytes, rules) else { return };
    let before = serde_json::from_slice::<Value>(bytes).ok();
    let after = serde_json::from_slice::<Value>(&turned).ok();
    assert!(before.is_some() && after.is_some(), "no JSON: {}", String::from_utf8_lossy(&turned));
    let rest = |answer: Option<Value>| {
        let mut answer = answer.unwrap_or_default();
        for choice in answer["choices"].as_array_mut().into_iter().flatten() {
            let Some(fields) = choice.as_object_mut() else { continue };
            fields.remove("finish_reason");
            for name in ["content", "tool_calls", "function_call", "reasoning", "reasoning_content"]
            {
                fields.get_mut("message").and_then(Value::as_object_mut).map(|m| m.remove(name));
            }
        }
        answer
    };
    let (before, after) = (rest(before), rest(after));
    assert!(json::same(&before, &after), "{before} became {after}");
}
