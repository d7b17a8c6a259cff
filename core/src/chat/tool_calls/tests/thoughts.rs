//! Thoughts in the text, beside calls.

use proptest::prelude::*;

use super::*;
use crate::chat::think::{Opener, ThinkFormat};

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
