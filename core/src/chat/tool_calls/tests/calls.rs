//! Calls in the text, and those that engines tell.

use proptest::prelude::*;

use super::*;

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
