//! Answers with calls, streamed and whole, against an accumulator as strict as clients have it.
#![allow(clippy::unwrap_used, clippy::panic)]

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::chat::think::{Opener, ThinkFormat};

fn chat(more: &Value) -> ChatRequest {
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "u"}]});
    for (key, value) in more.as_object().unwrap() {
        body[key] = value.clone();
    }
    ChatRequest::parse(Bytes::from(body.to_string())).unwrap()
}

fn tools() -> Value {
    let function = |name: &str| json!({"type": "function", "function": {"name": name}});
    json!([function("weather"), function("time")])
}

fn weather() -> TextRules {
    let offered = offered(&chat(&json!({"tools": tools()})));
    assert!(offered.is_some());
    TextRules { offered, thinking: None }
}

fn chunk(delta: &Value, finish: Option<&str>) -> Value {
    json!({"id": "c1", "object": "chat.completion.chunk", "created": 7, "model": "m",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})
}

fn says(text: &str) -> Value {
    chunk(&json!({"content": text}), None)
}

/// What leaves of these chunks.
fn turned(chunks: &[Value]) -> Vec<Value> {
    turned_by(weather(), chunks)
}

fn turned_by(rules: TextRules, chunks: &[Value]) -> Vec<Value> {
    let mut stream = ToolCallStream::new(rules);
    let mut left = Vec::new();
    for chunk in chunks {
        match stream.event(chunk.to_string().as_bytes()) {
            Turned::Stays => left.push(chunk.clone()),
            Turned::Held => {}
            Turned::Into(text) => left.push(serde_json::from_str(&text).unwrap()),
        }
    }
    left.extend(stream.rest().map(|text| serde_json::from_str(&text).unwrap()));
    left
}

/// A message put together as `OpenAI`'s own clients do it, and its finish reason; refuses what they
/// would choke on.
#[derive(Debug, Default, PartialEq)]
struct Accumulated {
    content: String,
    reasoning: String,
    calls: Vec<(String, String, String)>,
    finish: Option<String>,
}

impl Accumulated {
    fn of(chunks: &[Value]) -> Self {
        let mut all = Accumulated::default();
        for chunk in chunks {
            for choice in chunk["choices"].as_array().unwrap() {
                all.take(choice);
            }
        }
        all
    }

    fn take(&mut self, choice: &Value) {
        let delta = &choice["delta"];
        if let Some(text) = delta["content"].as_str() {
            assert!(self.finish.is_none() || text.is_empty(), "text behind the end");
            self.content.push_str(text);
        }
        if let Some(text) = delta["reasoning"].as_str() {
            assert!(self.finish.is_none(), "a thought behind the end");
            self.reasoning.push_str(text);
        }
        for entry in delta["tool_calls"].as_array().into_iter().flatten() {
            assert!(self.finish.is_none(), "a call behind the end");
            let index = usize::try_from(entry["index"].as_u64().expect("an index")).unwrap();
            let function = &entry["function"];
            if index == self.calls.len() {
                let text = |value: &Value| value.as_str().expect("a text").to_owned();
                assert_eq!(entry["type"], "function");
                self.calls.push((text(&entry["id"]), text(&function["name"]), String::new()));
            } else {
                assert!(index < self.calls.len(), "call {index} before those before it");
                assert!(entry["id"].is_null() && function["name"].is_null(), "begun twice");
            }
            if let Some(arguments) = function.get("arguments").filter(|a| !a.is_null()) {
                self.calls[index].2.push_str(arguments.as_str().expect("arguments are a text"));
            }
        }
        if let Some(reason) = choice["finish_reason"].as_str().filter(|reason| !reason.is_empty()) {
            assert!(self.finish.is_none(), "it ends twice");
            self.finish = Some(reason.to_owned());
        }
    }

    /// The same of an answer in one piece.
    fn of_whole(answer: &Value) -> Self {
        let (choice, text) =
            (&answer["choices"][0], |value: &Value| value.as_str().unwrap().to_owned());
        let entries = choice["message"]["tool_calls"].as_array().into_iter().flatten();
        let calls = entries.map(|entry| {
            assert_eq!(entry["type"], "function");
            let function = &entry["function"];
            (text(&entry["id"]), text(&function["name"]), text(&function["arguments"]))
        });
        Accumulated {
            content: choice["message"]["content"].as_str().unwrap_or_default().to_owned(),
            reasoning: choice["message"]["reasoning"].as_str().unwrap_or_default().to_owned(),
            calls: calls.collect(),
            finish: choice["finish_reason"].as_str().map(str::to_owned),
        }
    }
}

fn answer(message: &Value, finish: &str) -> Value {
    json!({"id": "c1", "choices": [{"index": 0, "message": message, "finish_reason": finish}]})
}

fn made_whole(answer: &Value) -> Value {
    made_whole_by(&weather(), answer)
}

fn made_whole_by(rules: &TextRules, answer: &Value) -> Value {
    match whole(answer.to_string().as_bytes(), rules) {
        Some(bytes) => serde_json::from_slice(&bytes).unwrap(),
        None => answer.clone(),
    }
}

const CALL: &str =
    "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Bern\"}}\n</tool_call>";

#[test]
fn only_requests_that_offer_tools_are_looked_at() {
    assert!(offered(&chat(&json!({}))).is_none());
    assert!(offered(&chat(&json!({"tools": []}))).is_none());
    assert!(offered(&chat(&json!({"tools": tools(), "tool_choice": "none"}))).is_none());
    assert!(offered(&chat(&json!({"functions": [{"name": "weather"}]}))).is_some());
    assert_eq!(weather().offered.unwrap().names(), ["time", "weather"]);
}

#[test]
fn a_call_in_the_text_becomes_a_real_one() {
    let role = chunk(&json!({"role": "assistant", "content": ""}), None);
    let end = chunk(&json!({}), Some("stop"));
    let left = turned(&[role.clone(), says("I look. "), says(CALL), end]);
    assert_eq!(left[0], role);
    assert_eq!(left[1]["choices"][0]["delta"], json!({"content": "I look."}));
    let all = Accumulated::of(&left);
    assert_eq!((all.content.as_str(), all.finish.as_deref()), ("I look.", Some("tool_calls")));
    let (id, name, arguments) = &all.calls[0];
    assert!(id.starts_with("call_") && name == "weather", "{id} {name}");
    assert_eq!(serde_json::from_str::<Value>(arguments).unwrap(), json!({"city": "Bern"}));
    let message = json!({"role": "assistant", "content": format!("I look. {CALL}")});
    assert_eq!(Accumulated::of_whole(&made_whole(&answer(&message, "stop"))), all);
    let only = made_whole(&answer(&json!({"role": "assistant", "content": CALL}), "stop"));
    assert_eq!(only["choices"][0]["message"]["content"], Value::Null);
}

#[test]
fn what_has_no_call_is_not_touched() {
    let usage = json!({"id": "c1", "choices": [], "usage": {"prompt_tokens": 1}});
    let chunks = [
        says("a"),
        says("b{c"),
        chunk(&json!({"reasoning": CALL}), None),
        chunk(&json!({}), Some("stop")),
        usage,
    ];
    assert_eq!(turned(&chunks), chunks);
    let whole_answer =
        answer(&json!({"role": "assistant", "content": "{\"name\": \"other\"}"}), "stop");
    assert_eq!(whole(whole_answer.to_string().as_bytes(), &weather()), None);
    assert_eq!(whole(b"no json", &weather()), None);
}

#[test]
fn text_that_was_held_comes_out_at_the_end() {
    for end in [vec![chunk(&json!({}), Some("length"))], vec![]] {
        let left = turned(&[vec![says("so: <tool_call>{\"na")], end].concat());
        assert_eq!(Accumulated::of(&left).content, "so: <tool_call>{\"na");
        assert!(Accumulated::of(&left).calls.is_empty());
    }
    // Cut by length it is no call, and ends as the backend said.
    let left = turned(&[says("<tool_call>{"), chunk(&json!({}), Some("length"))]);
    assert_eq!(Accumulated::of(&left).finish.as_deref(), Some("length"));
}

#[test]
fn the_older_form_becomes_todays() {
    let chunks = [
        chunk(
            &json!({"role": "assistant", "content": null, "function_call": {"name": "time", "arguments": ""}}),
            None,
        ),
        chunk(&json!({"function_call": {"arguments": "{\"a\":"}}), None),
        chunk(&json!({"function_call": {"arguments": "1}"}}), None),
        chunk(&json!({}), Some("function_call")),
    ];
    let all = Accumulated::of(&turned(&chunks));
    assert_eq!((all.calls[0].1.as_str(), all.calls[0].2.as_str()), ("time", "{\"a\":1}"));
    assert_eq!(all.finish.as_deref(), Some("tool_calls"));
    let message =
        json!({"role": "assistant", "function_call": {"name": "time", "arguments": "{\"a\":1}"}});
    assert_eq!(Accumulated::of_whole(&made_whole(&answer(&message, "function_call"))), all);
}

#[test]
fn what_entries_lack_is_filled_in() {
    let part = |entry: Value| chunk(&json!({"tool_calls": [entry]}), None);
    let left = turned(&[
        part(json!({"function": {"name": "time", "arguments": {"a": 1}}})),
        part(json!({"id": "own", "function": {"name": "weather"}})),
        part(json!({"function": {"arguments": "{}"}})),
        chunk(&json!({}), Some("stop")),
    ]);
    let all = Accumulated::of(&left);
    assert_eq!((all.calls[0].1.as_str(), all.calls[0].2.as_str()), ("time", "{\"a\":1}"));
    assert_eq!(all.calls[1], ("own".to_owned(), "weather".to_owned(), "{}".to_owned()));
    assert_eq!(all.finish.as_deref(), Some("tool_calls"), "as a named choice ends in vLLM");
    // vLLM's own are right already, but for such an end.
    let vllm = [
        part(json!({"id": "x", "type": "function", "index": 0, "function": {"name": "time"}})),
        part(json!({"index": 0, "function": {"arguments": "{}"}})),
        chunk(&json!({}), Some("tool_calls")),
    ];
    assert_eq!(turned(&vllm), vllm);
    let entry = json!({"function": {"name": "time", "arguments": {"a": 1}}});
    let message = json!({"role": "assistant", "tool_calls": [entry]});
    let whole = Accumulated::of_whole(&made_whole(&answer(&message, "stop")));
    assert_eq!((whole.calls[0].1.as_str(), whole.calls[0].2.as_str()), ("time", "{\"a\":1}"));
}

fn part() -> impl Strategy<Value = String> {
    let call = |name: &str| format!("{{\"name\": \"{name}\", \"arguments\": {{\"x\": \"é<\"}}}}");
    prop_oneof![
        4 => "[a-z é😀\n{<\\[`\"]{0,8}",
        1 => Just(format!("<tool_call>{}</tool_call>", call("time"))),
        1 => Just(format!("<tool_call>{}</tool_call>", call("unknown"))),
        1 => Just(format!("\n```json\n{}\n```\n", call("weather"))),
        1 => Just(call("weather")),
        1 => Just("<function=time><parameter=x>1</parameter></function>".to_owned()),
        1 => Just(format!("[TOOL_CALLS][{}]", call("time"))),
        1 => Just("<tool_call>{\"na".to_owned()),
    ]
}

proptest! {
    /// However the text is cut into deltas: what leaves pleases a strict client at every moment, and
    /// comes to the same as the answer in one piece.
    #[test]
    fn streamed_and_whole_come_to_the_same(
        parts in prop::collection::vec(part(), 0..5),
        sizes in prop::collection::vec(1usize..12, 1..6),
        last_with_text: bool,
        finish in prop_oneof![Just("stop"), Just("length")],
    ) {
        let text: Vec<char> = parts.concat().chars().collect();
        let mut chunks = vec![chunk(&json!({"role": "assistant", "content": ""}), None)];
        let (mut at, mut turn) = (0, 0);
        while at < text.len() {
            let end = (at + sizes[turn % sizes.len()]).min(text.len());
            chunks.push(says(&text[at..end].iter().collect::<String>()));
            (at, turn) = (end, turn + 1);
        }
        if last_with_text {
            chunks.last_mut().unwrap()["choices"][0]["finish_reason"] = json!(finish);
        } else {
            chunks.push(chunk(&json!({}), Some(finish)));
        }
        let left = turned(&chunks);
        for end in 0..left.len() {
            Accumulated::of(&left[..end]);
        }
        let message = json!({"role": "assistant", "content": text.iter().collect::<String>()});
        let whole = made_whole(&answer(&message, finish));
        prop_assert_eq!(Accumulated::of(&left), Accumulated::of_whole(&whole));
    }
}

fn thinks(format: ThinkFormat, opener: Opener) -> TextRules {
    TextRules { thinking: Some(Thinking { format, opener }), ..weather() }
}

/// What an answer with this text comes to, whole, and cut in two everywhere.
fn come_to(rules: &TextRules, text: &str) -> Accumulated {
    let message = json!({"role": "assistant", "content": text});
    let whole = Accumulated::of_whole(&made_whole_by(rules, &answer(&message, "stop")));
    for at in (0..=text.len()).filter(|at| text.is_char_boundary(*at)) {
        let chunks = [says(&text[..at]), says(&text[at..]), chunk(&json!({}), Some("stop"))];
        let left = turned_by(rules.clone(), &chunks);
        assert_eq!(Accumulated::of(&left), whole, "{text:?} cut at {at}");
    }
    whole
}

/// A chunk as other engines write it.
fn dressed(mut chunk: Value, dress: u8) -> Value {
    let choice = &mut chunk["choices"][0];
    match dress {
        0 => choice["delta"]["role"] = json!("assistant"),
        1 => choice["logprobs"] = json!({"content": []}),
        2 => chunk["usage"] = json!({"prompt_tokens": 1}),
        3 => choice["delta"]["tool_calls"] = json!([]),
        4 => choice["delta"]["refusal"] = Value::Null,
        5 => choice["finish_reason"] = json!(""),
        6 => drop(choice.as_object_mut().unwrap().remove("index")),
        _ => {}
    }
    chunk
}

#[test]
fn what_else_a_chunk_says_leaves_although_its_text_is_held() {
    let rules = thinks(ThinkFormat::Extract, Opener::Unknown);
    let first = says("");
    for dress in 0..3 {
        let held = dressed(says("who knows"), dress);
        let left = turned_by(rules.clone(), &[first.clone(), held.clone()]);
        let mut want = held;
        want["choices"][0]["delta"].as_object_mut().unwrap().remove("content");
        assert_eq!(left[1], want, "{dress}");
    }
    let left = turned_by(rules, &[first, dressed(says("who knows"), 3)]);
    // At the end alone.
    assert_eq!(
        (left.len(), &left[1]["choices"][0]["delta"]),
        (2, &json!({"content": "who knows"}))
    );
}

#[test]
fn thoughts_go_where_the_operator_wants_them() {
    let text = "<think>\nhm\n</think>\nHello";
    for (format, content, reasoning) in [
        (ThinkFormat::Keep, text, ""),
        (ThinkFormat::Extract, "Hello", "hm"),
        (ThinkFormat::Strip, "Hello", ""),
    ] {
        for opener in [Opener::Unknown, Opener::Prompt, Opener::Model] {
            let all = come_to(&thinks(format, opener), text);
            assert_eq!((all.content.as_str(), all.reasoning.as_str()), (content, reasoning));
            assert_eq!(all.finish.as_deref(), Some("stop"));
        }
    }
}

#[test]
fn no_call_is_found_in_a_thought_whoever_opened_it() {
    for format in [ThinkFormat::Keep, ThinkFormat::Extract, ThinkFormat::Strip] {
        let unknown = thinks(format, Opener::Unknown);
        for thought in
            [format!("<think>\nI try {CALL}\n</think>"), format!("I try {CALL}\n</think>")]
        {
            let all = come_to(&unknown, &format!("{thought}Hello"));
            assert_eq!((all.calls.len(), all.finish.as_deref()), (0, Some("stop")), "{format:?}");
            let all = come_to(&unknown, &format!("{thought}\n{CALL}"));
            assert_eq!((all.calls.len(), all.finish.as_deref()), (1, Some("tool_calls")));
            let kept = all.content + &all.reasoning;
            assert_eq!(kept.contains("I try <tool_call>"), format != ThinkFormat::Strip);
        }
        let all = come_to(&unknown, &format!("Look: {CALL} done"));
        assert_eq!((all.calls.len(), all.content.as_str()), (1, "Look:done"), "{format:?}");
    }
}

#[test]
fn what_stays_in_the_text_flows_while_nobody_knows_what_it_is() {
    let rules = thinks(ThinkFormat::Keep, Opener::Unknown);
    let chunks =
        [says("I"), says(" wonder"), says(CALL), says(" so"), says("</think>"), says("Hello")];
    let left = turned_by(rules, &chunks);
    assert_eq!(left[..2], [says("I"), says(" wonder")]);
    assert_eq!(left[2], says(&format!("{CALL} so</think>")));
    assert_eq!(left[3], says("Hello"));
    let rules = thinks(ThinkFormat::Extract, Opener::Model);
    let left = turned_by(rules, &[says("<think>a"), says("b"), says("</think>c"), says("d")]);
    let deltas: Vec<&Value> = left.iter().map(|chunk| &chunk["choices"][0]["delta"]).collect();
    assert_eq!(
        deltas,
        [
            &json!({"reasoning": "a"}),
            &json!({"reasoning": "b"}),
            &json!({"content": "c"}),
            &json!({"content": "d"})
        ]
    );
}

#[test]
fn an_engine_that_tells_its_thoughts_is_not_looked_over() {
    let rules = TextRules { offered: None, ..thinks(ThinkFormat::Strip, Opener::Unknown) };
    let thinks = chunk(&json!({"reasoning": "hm"}), None);
    let chunks = [says(" "), thinks.clone(), says("a</think>"), chunk(&json!({}), Some("stop"))];
    let all = Accumulated::of(&turned_by(rules.clone(), &chunks));
    assert_eq!((all.content.as_str(), all.reasoning.as_str()), (" a</think>", "hm"));
    let message = json!({"role": "assistant", "content": "a</think>", "reasoning_content": "hm"});
    assert_eq!(whole(answer(&message, "stop").to_string().as_bytes(), &rules), None);
}

#[test]
fn without_tools_calls_stay_as_the_engine_told_them() {
    let rules = TextRules { offered: None, ..thinks(ThinkFormat::Extract, Opener::Model) };
    let message = json!({"content": CALL, "function_call": {"name": "f", "arguments": {}}});
    assert_eq!(whole(answer(&message, "stop").to_string().as_bytes(), &rules), None);
}

proptest! {
    /// Streams with thoughts come to what the whole comes to, however they are cut.
    #[test]
    fn thoughts_and_calls_come_to_the_same_streamed_and_whole(
        parts in prop::collection::vec(prop::sample::select(vec![
            "<think>", "</think>", "\n", " ", "a", "é", CALL, "<tool_call>", "[TOOL_CALLS]",
            "{\"name\": \"time\", \"arguments\": {}}", "```\n", "`",
        ]), 0..9),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        format in prop::sample::select(vec![ThinkFormat::Keep, ThinkFormat::Extract, ThinkFormat::Strip]),
        opener in prop::sample::select(vec![Opener::Unknown, Opener::Prompt, Opener::Model]),
        dresses in prop::collection::vec(0..8_u8, 1..5),
    ) {
        let (text, rules) = (parts.concat(), thinks(format, opener));
        let message = json!({"role": "assistant", "content": text});
        let whole = Accumulated::of_whole(&made_whole_by(&rules, &answer(&message, "stop")));
        let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
        places.retain(|at| text.is_char_boundary(*at));
        places.extend([0, text.len()]);
        places.sort_unstable();
        let mut chunks: Vec<Value> = places
            .windows(2)
            .zip(dresses.iter().cycle())
            .map(|(ends, dress)| dressed(says(&text[ends[0]..ends[1]]), *dress))
            .collect();
        chunks.push(chunk(&json!({}), Some("stop")));
        prop_assert_eq!(Accumulated::of(&turned_by(rules, &chunks)), whole);
    }
}
