//! The chain on hand-written and generated streams.
#![allow(clippy::unwrap_used, clippy::panic)]

use super::*;
use crate::chat::fields::ReasoningField;
use proptest::prelude::*;

fn word(text: &str) -> String {
    format!(
        "data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}},\"finish_reason\":null}}]}}\n\n"
    )
}

const ROLE: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}]}\n\n";
const STOP: &str =
    "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
const USAGE: &str =
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":13,\"completion_tokens\":16}}\n\n";
const END: &str = "data: [DONE]\n\n";
const ERROR: &str = "data: {\"error\": {\"message\": \"EngineCore died\", \"code\": 500}}\n\n";

/// Pushes the chunks and ends the body: what left, and how it ended.
fn run(keep_usage: bool, chunks: &[&str]) -> (String, Result<Progress, Incomplete>, Summary) {
    let mut stream = ChatStream::new(keep_usage);
    let mut out = Vec::new();
    let mut result = Ok(Progress::Flowing);
    for chunk in chunks {
        result = stream.push(&Bytes::copy_from_slice(chunk.as_bytes()), &mut out);
        if !matches!(result, Ok(Progress::Flowing)) {
            break;
        }
    }
    if matches!(result, Ok(Progress::Flowing)) {
        result = stream.finish(&mut out);
    }
    let text = String::from_utf8(out.concat()).unwrap();
    (text, result, stream.summary().clone())
}

#[test]
fn a_whole_answer_passes_and_only_the_unasked_usage_chunk_is_missing() {
    let chunks = [ROLE, &word("Hi"), STOP, USAGE, END];
    let (text, result, summary) = run(false, &chunks);
    assert_eq!(text, [ROLE, &word("Hi"), STOP, END].concat());
    assert_eq!(result, Ok(Progress::Done));
    assert_eq!(summary.usage.unwrap().completion_tokens, Some(16));
    assert_eq!(summary.finish_reason.as_deref(), Some("stop"));
    assert_eq!(summary.content_events, 1);
    let (text, _, _) = run(true, &chunks);
    assert_eq!(text, chunks.concat());
}

#[test]
fn unchanged_events_of_one_chunk_leave_as_one_slice_of_it() {
    let mut stream = ChatStream::new(false);
    let chunk = Bytes::from([ROLE, &word("a"), &word("b"), STOP, USAGE, END].concat());
    let mut out = Vec::new();
    assert_eq!(stream.push(&chunk, &mut out), Ok(Progress::Done));
    assert_eq!(out.len(), 2, "before and behind the usage chunk");
    assert_eq!(out[0].as_ptr(), chunk.as_ptr(), "no copy");
}

#[test]
fn a_usage_chunk_with_choices_stays() {
    let both = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":1}}\n\n";
    let (text, _, summary) = run(false, &[both, END]);
    assert_eq!(text, [both, END].concat());
    assert_eq!(summary.usage.unwrap().prompt_tokens, Some(1));
}

#[test]
fn done_is_added_only_when_every_choice_has_finished() {
    let (text, result, _) = run(false, &[ROLE, &word("a"), STOP]);
    assert_eq!(
        (text.as_str(), result),
        ([ROLE, &word("a"), STOP, END].concat().as_str(), Ok(Progress::Done))
    );
    let second = "data: {\"choices\":[{\"index\":1,\"delta\":{\"content\":\"x\"},\"finish_reason\":null}]}\n\n";
    let (_, result, _) = run(false, &[ROLE, second, STOP]);
    assert_eq!(result, Err(Incomplete::BrokeOff));
    let (_, result, _) = run(false, &[ROLE, &word("a")]);
    assert_eq!(result, Err(Incomplete::BrokeOff));
}

#[test]
fn an_empty_stream_is_a_failure() {
    for chunks in [&[][..], &[""], &[": ping\n\n"], &["\n\n"]] {
        assert_eq!(run(false, chunks).1, Err(Incomplete::Empty), "{chunks:?}");
    }
}

#[test]
fn a_backends_error_event_passes_and_its_done_does_not() {
    let (text, result, summary) = run(false, &[ROLE, &word("a"), ERROR, END]);
    assert_eq!(text, [ROLE, &word("a"), ERROR].concat());
    assert_eq!(result, Ok(Progress::Failed));
    assert_eq!(summary.backend_error.as_deref(), Some("EngineCore died"));
}

#[test]
fn errors_in_other_shapes_end_the_stream_too() {
    for error in [
        "data: {\"object\":\"error\",\"message\":\"out of memory\",\"code\":500}\n\n",
        "event: error\ndata: {\"message\":\"out of memory\"}\n\n",
    ] {
        let (text, result, summary) = run(false, &[ROLE, &word("a"), error, END]);
        assert_eq!(text, [ROLE, &word("a"), error].concat());
        assert_eq!(result, Ok(Progress::Failed));
        assert_eq!(summary.backend_error.as_deref(), Some("out of memory"));
    }
}

#[test]
fn an_empty_finish_reason_does_not_make_a_cut_answer_whole() {
    let chunk = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"},\"finish_reason\":\"\"}]}\n\n";
    assert_eq!(run(false, &[chunk, chunk]).1, Err(Incomplete::BrokeOff));
}

#[test]
fn there_is_one_done_and_nothing_behind_it() {
    let (text, _, _) = run(false, &[ROLE, STOP, &[END, END, &word("late")].concat()]);
    assert_eq!(text, [ROLE, STOP, END].concat());
}

#[test]
fn comments_of_the_backend_do_not_reach_the_client() {
    let (text, _, _) = run(false, &[": hold on\n\n", ROLE, ": ping\n\n", STOP, END]);
    assert_eq!(text, [ROLE, STOP, END].concat());
}

#[test]
fn a_last_event_without_its_blank_line_counts_if_it_is_whole() {
    let (text, result, _) = run(false, &[ROLE, STOP, "data: [DONE]"]);
    assert_eq!((text, result), ([ROLE, STOP, END].concat(), Ok(Progress::Done)));
    let (text, result, _) = run(false, &[ROLE, STOP.trim_end()]);
    assert_eq!((text, result), ([ROLE, STOP, END].concat(), Ok(Progress::Done)));
    let (_, result, _) = run(false, &[ROLE, &STOP[..STOP.len() - 5]]);
    assert_eq!(result, Err(Incomplete::BrokeOff));
}

#[test]
fn what_is_not_json_passes_as_it_is() {
    let (text, _, _) = run(false, &["data: {not json\n\n", ROLE, STOP, END]);
    assert!(text.starts_with("data: {not json\n\n"));
}

fn thought(text: &str) -> String {
    format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"reasoning\":\"{text}\"}}}}]}}\n\n")
}

/// The same under both names, as it leaves.
fn thought_twice(text: &str) -> String {
    let both = format!("\"reasoning\":\"{text}\",\"reasoning_content\":\"{text}\"");
    format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{{both}}}}}]}}\n\n")
}

#[test]
fn thoughts_of_several_lines_of_data_leave_in_one() {
    let event = "data: {\"choices\":[{\"index\":0,\ndata: \"delta\":{\"reasoning\":\"hm\"}}]}\n\n";
    let mut stream = ChatStream::new(false).with_fields(FieldRules {
        reasoning: ReasoningField::ReasoningContent,
        ..FieldRules::default()
    });
    let mut out = Vec::new();
    stream.push(&Bytes::from(event), &mut out).unwrap();
    let text = String::from_utf8(out.concat()).unwrap();
    assert_eq!(
        text,
        "data: {\"choices\":[{\"index\":0, \"delta\":{\"reasoning_content\":\"hm\"}}]}\n\n"
    );
}

proptest! {
    /// Thoughts leave under both names, everything else as it came, however the wire is cut; and at
    /// every moment what has left is a beginning of that.
    #[test]
    fn thoughts_get_their_names_however_the_wire_is_cut(
        parts in prop::collection::vec((any::<bool>(), "[a-zé😀 ]{0,6}"), 0..8),
        sizes in prop::collection::vec(1usize..64, 1..8),
    ) {
        let (mut came, mut expected) = (ROLE.to_owned(), ROLE.to_owned());
        for (thinks, text) in &parts {
            came.push_str(&if *thinks { thought(text) } else { word(text) });
            expected.push_str(&if *thinks { said(text) } else { word(text) });
        }
        came.push_str(&[STOP, END].concat());
        expected.push_str(&[STOP, END].concat());
        let bytes = Bytes::from(came);
        let mut stream = ChatStream::new(false).with_fields(FieldRules { reasoning: ReasoningField::Both, ..FieldRules::default() });
        let (mut out, mut at, mut turn) = (Vec::new(), 0, 0);
        while at < bytes.len() {
            let end = (at + sizes[turn % sizes.len()]).min(bytes.len());
            stream.push(&bytes.slice(at..end), &mut out).unwrap();
            prop_assert!(expected.as_bytes().starts_with(&out.concat()));
            (at, turn) = (end, turn + 1);
        }
        prop_assert_eq!(out.concat(), expected.as_bytes());
    }
}

fn offered() -> TextRules {
    let tools = serde_json::json!([{"type": "function", "function": {"name": "f"}}]);
    let fields = crate::chat::harmonise::ToolFields { tools: Some(&tools), ..Default::default() };
    let offered = Some(std::sync::Arc::new(crate::chat::harmonise::Offered::read(&fields)));
    TextRules { offered, thinking: None }
}

/// What leaves, event by event, for an answer to a request with a tool `f`.
fn with_tools(chunks: &[&str]) -> (Vec<String>, Summary) {
    let mut stream = ChatStream::new(false).with_text(offered());
    let mut out = Vec::new();
    for chunk in chunks {
        stream.push(&Bytes::copy_from_slice(chunk.as_bytes()), &mut out).unwrap();
    }
    stream.finish(&mut out).unwrap();
    let text = String::from_utf8(out.concat()).unwrap();
    (text.split_inclusive("\n\n").map(str::to_owned).collect(), stream.summary().clone())
}

#[test]
fn calls_in_the_text_leave_as_calls_and_what_was_held_before_the_end() {
    let call = word("<tool_call>{\\\"name\\\":\\\"f\\\",\\\"arguments\\\":{}}</tool_call>");
    let (events, summary) = with_tools(&[ROLE, &word("Hi"), &call, STOP, USAGE, END]);
    assert_eq!((events[0].as_str(), events[1].as_str()), (ROLE, word("Hi").as_str()));
    assert!(events[2].contains("\"tool_calls\":[{\"index\":0,\"id\":\"call_"), "{events:?}");
    assert!(events[3].contains("\"finish_reason\":\"tool_calls\""), "{events:?}");
    assert_eq!((events[4].as_str(), events.len()), (END, 5));
    assert_eq!(summary.finish_reason.as_deref(), Some("tool_calls"));
    // Without a finish reason the text comes out all the same, before the end or an error.
    for last in [END, ERROR] {
        let (events, _) = with_tools(&[ROLE, &word("<tool_call>{"), last]);
        assert!(events[1].contains("\"content\":\"<tool_call>{\""), "{events:?}");
        assert_eq!((events[2].as_str(), events.len()), (last, 3));
    }
}

/// An empty thought says nothing.
fn said(text: &str) -> String {
    if text.is_empty() { thought(text) } else { thought_twice(text) }
}

proptest! {
    /// Cut the wire bytes anywhere, deliver them in any pieces: what leaves is always a prefix of
    /// the whole answer's bytes, and it ends as whole only if it is whole.
    #[test]
    fn any_prefix_is_a_prefix_and_is_whole_only_if_whole(
        words in prop::collection::vec("[a-zé😀 ]{0,6}", 0..6),
        cut in 0usize..2000,
        sizes in prop::collection::vec(1usize..64, 1..8),
    ) {
        let mut whole = ROLE.to_owned();
        for w in &words {
            whole.push_str(&word(w));
        }
        whole.push_str(STOP);
        let finished_at = whole.len() - 2; // its JSON is whole without the blank line
        let expected = [whole.as_str(), END].concat();
        whole.push_str(USAGE);
        whole.push_str(END);
        let bytes = Bytes::from(whole);
        let cut = cut.min(bytes.len());
        let mut stream = ChatStream::new(false);
        let (mut out, mut at, mut turn) = (Vec::new(), 0, 0);
        let mut result = Ok(Progress::Flowing);
        while at < cut && result == Ok(Progress::Flowing) {
            let end = (at + sizes[turn % sizes.len()]).min(cut);
            result = stream.push(&bytes.slice(at..end), &mut out);
            at = end;
            turn += 1;
        }
        if result == Ok(Progress::Flowing) {
            result = stream.finish(&mut out);
        }
        let out = out.concat();
        prop_assert!(expected.as_bytes().starts_with(&out));
        match result {
            Ok(Progress::Done) => {
                prop_assert!(cut >= finished_at);
                prop_assert_eq!(out, expected.as_bytes());
            }
            other => {
                prop_assert!(cut < finished_at, "{:?} at {}", other, cut);
                prop_assert!(!out.ends_with(END.as_bytes()));
            }
        }
    }
}

#[test]
fn a_choice_ends_once() {
    let (events, summary) = with_tools(&[ROLE, &word("a"), STOP, STOP, USAGE, END]);
    let ends = events.iter().filter(|event| event.contains("\"finish_reason\":\"stop\"")).count();
    assert_eq!((ends, summary.finish_reason.as_deref()), (1, Some("stop")), "{events:?}");
    let mut stream = ChatStream::new(false);
    let mut out = Vec::new();
    stream.push(&Bytes::from([ROLE, STOP, STOP, END].concat()), &mut out).unwrap();
    let late = STOP.replace("]}", "],\"usage\":{\"prompt_tokens\":7}}");
    let mut stream = ChatStream::new(false);
    stream.push(&Bytes::from([ROLE, STOP, &late, END].concat()), &mut Vec::new()).unwrap();
    assert_eq!(stream.summary().usage.unwrap().prompt_tokens, Some(7));
    let again = STOP.replace("\"finish_reason\":\"stop\"", "\"finish_reason\":null");
    assert_ne!(again, STOP);
    assert_eq!(out.concat(), [ROLE, STOP, &again, END].concat().as_bytes());
}

/// An event of any kind that comes between words, and words of any kind.
fn any_event() -> impl Strategy<Value = String> {
    let text = "(a|é|😀|\\\\\"|\\\\\\\\|\\\\n| ){0,4}";
    let index = |event: String, to: u8| event.replace("\"index\":0", &format!("\"index\":{to}"));
    prop_oneof![
        8 => text.prop_map(|text| word(&text)),
        2 => (text, 0u8..3).prop_map(move |(text, to)| index(word(&text), to)),
        1 => Just(word("a").replace("\n\n", "\r\n\r\n")),
        1 => Just(word("a").replace("\n\n", "\nid: 7\n\n")),
        1 => Just(word("a").replace("data: ", "data:")),
        1 => Just(word("a").replace("\"content\"", "\"reasoning\"")),
        1 => Just(word("a").replace("}}]", ",\"x\":1}}]")),
        1 => Just(word("\",\"role\":\"")),
        1 => Just(": beat\n\n".to_owned()),
        1 => Just(ROLE.to_owned()),
        1 => Just(USAGE.to_owned()),
        1 => Just(STOP.to_owned()),
    ]
}

proptest! {
    /// What is not read because the event before was of its kind is what reading would have said.
    #[test]
    fn events_that_are_known_already_are_what_they_would_be_if_they_were_read(
        events in prop::collection::vec(any_event(), 0..20),
        cuts in prop::collection::vec(0usize..4000, 0..6),
        removes: bool,
    ) {
        let rules = if removes {
            FieldRules { foreign: fields::Foreign::Go { asked: Vec::new() }, ..FieldRules::default() }
        } else {
            FieldRules::default()
        };
        let (mut read, mut wanted) = (ChatStream::new(false).with_fields(rules.clone()), Vec::new());
        for event in &events {
            read.alike = Alike::default();
            read.push(&Bytes::copy_from_slice(event.as_bytes()), &mut wanted).unwrap();
        }
        let whole = Bytes::from(events.concat());
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(whole.len())).collect();
        cuts.extend([0, whole.len()]);
        cuts.sort_unstable();
        let (mut known, mut out) = (ChatStream::new(false).with_fields(rules), Vec::new());
        for pair in cuts.windows(2) {
            known.push(&whole.slice(pair[0]..pair[1]), &mut out).unwrap();
        }
        prop_assert_eq!(out.concat(), wanted.concat());
        let told = |stream: &ChatStream| {
            let summary = stream.summary();
            (summary.content_events, summary.finish_reason.clone(), summary.usage.is_some())
        };
        prop_assert_eq!(told(&known), told(&read));
        prop_assert_eq!((&known.begun, &known.finished), (&read.begun, &read.finished));
    }
}
