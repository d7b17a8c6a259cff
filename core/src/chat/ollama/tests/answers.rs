//! Answers: streamed and in one piece.

use super::*;
use crate::Code;
use crate::chat::sse::MAX_EVENT_BYTES;

const AT: &str = r#""model":"m","created_at":"2026-01-02T03:04:05.123456789Z""#;

/// All events for a body that is pushed in one piece.
fn events(lines: &[&str]) -> Vec<String> {
    let mut stream = NativeStream::new("chatcmpl-xyz".into(), 7);
    let mut out = stream.push(lines.join("\n").as_bytes()).unwrap().to_vec();
    out.extend(stream.end().unwrap());
    let text = String::from_utf8(out).unwrap();
    text.split_inclusive("\n\n").map(str::to_owned).collect()
}

fn line(rest: &str) -> String {
    format!("{{{AT},{rest}}}")
}

fn event(choices: &str) -> String {
    format!(
        "data: {{\"id\":\"chatcmpl-xyz\",\"object\":\"chat.completion.chunk\",\"created\":1767323045,\"model\":\"m\",\"choices\":[{choices}]}}\n\n"
    )
}

fn delta(delta: &str) -> String {
    event(&format!(r#"{{"index":0,"delta":{delta},"finish_reason":null}}"#))
}

fn role() -> String {
    delta(r#"{"role":"assistant","content":""}"#)
}

fn finish(reason: &str) -> String {
    event(&format!(r#"{{"index":0,"delta":{{}},"finish_reason":"{reason}"}}"#))
}

fn usage(prompt: u64, completion: u64) -> String {
    let total = prompt + completion;
    event("").replace(
        "[]}",
        &format!(
            r#"[],"usage":{{"prompt_tokens":{prompt},"completion_tokens":{completion},"total_tokens":{total}}}}}"#
        ),
    )
}

const DONE: &str = "data: [DONE]\n\n";

#[test]
fn a_thinking_answer_with_a_text_and_tool_calls() {
    let got = events(&[
        &line(r#""message":{"role":"assistant","content":"","thinking":"hm"},"done":false"#),
        "",
        &line(r#""message":{"role":"assistant","content":""},"done":false"#),
        &line(r#""message":{"role":"assistant","content":"Hé \"x\""},"done":false"#),
        &line(
            r#""message":{"content":"","tool_calls":[{"id":"call_1","function":{"index":0,"name":"f","arguments":{"b": 1, "a": "x y"}}},{"function":{"name":"g","arguments":{}}}]},"done":false"#,
        ),
        &line(
            r#""message":{"content":"","tool_calls":[{"id":"","function":{"name":"h"}}]},"done":false"#,
        ),
        &line(
            r#""message":{"role":"assistant","content":""},"done":true,"done_reason":"stop","total_duration":5,"prompt_eval_count":11,"eval_count":3"#,
        ),
    ]);
    let call = |index: usize, id: &str, name: &str, arguments: &str| {
        format!(
            r#"{{"index":{index},"id":"{id}","type":"function","function":{{"name":"{name}","arguments":"{arguments}"}}}}"#
        )
    };
    let calls = |calls: &[String]| delta(&format!(r#"{{"tool_calls":[{}]}}"#, calls.join(",")));
    let want = [
        role(),
        delta(r#"{"reasoning":"hm","reasoning_content":"hm"}"#),
        delta(r#"{"content":"Hé \"x\""}"#),
        calls(&[
            call(0, "call_1", "f", r#"{\"b\":1,\"a\":\"x y\"}"#),
            call(1, "call_xyz_1", "g", "{}"),
        ]),
        calls(&[call(2, "call_xyz_2", "h", "{}")]),
        finish("tool_calls"),
        usage(11, 3),
        DONE.to_owned(),
    ];
    assert_eq!(got, want);
}

#[test]
fn the_last_line_may_still_say_something_and_nothing_follows_it() {
    let got = events(&[
        &line(r#""message":{"content":"all"},"done":true,"done_reason":"length","eval_count":1"#),
        &line(r#""message":{"content":"more"},"done":false"#),
        "not even JSON",
    ]);
    let want = [role(), delta(r#"{"content":"all"}"#), finish("length"), usage(0, 1), DONE.into()];
    assert_eq!(got, want);
}

#[test]
fn reasons_to_end_have_openais_names() {
    for (native, calls, openai) in [
        ("stop", "", "stop"),
        ("length", "", "length"),
        ("load", "", "stop"),
        ("unload", "", "stop"),
        ("stop", r#"{"function":{"name":"f","arguments":{}}}"#, "tool_calls"),
        ("length", r#"{"function":{"name":"f","arguments":{}}}"#, "length"),
        ("other", "", "other"),
    ] {
        let last = line(&format!(
            r#""message":{{"content":"","tool_calls":[{calls}]}},"done":true,"done_reason":"{native}""#
        ));
        let got = events(&[&last]);
        assert_eq!(got[got.len() - 2..], [finish(openai), DONE.to_owned()], "no usage was counted");
        let whole: Value =
            serde_json::from_slice(&whole_answer(last.as_bytes(), "i", 7).unwrap()).unwrap();
        assert_eq!(whole["choices"][0]["finish_reason"], openai);
        assert_eq!(whole.get("usage"), None);
    }
}

#[test]
fn log_probabilities_get_the_fields_that_sdks_want() {
    let probs = r#""logprobs":[{"token":"a","logprob":-0.12345678901234567,"bytes":[97],"top_logprobs":[{"token":"b","logprob":-1}]},{"token":"\u00e9","logprob":-2}]"#;
    let want = r#""logprobs":{"content":[{"token":"a","logprob":-0.12345678901234567,"bytes":[97],"top_logprobs":[{"token":"b","logprob":-1,"bytes":null}]},{"token":"\u00e9","logprob":-2,"bytes":null,"top_logprobs":[]}]}"#;
    let got = events(&[
        &line(&format!(r#""message":{{"content":"aé"}},{probs},"done":false"#)),
        &line(&format!(r#""message":{{"content":""}},{probs},"done":false"#)),
    ]);
    let choice = |delta: &str| {
        event(&format!(r#"{{"index":0,"delta":{delta},{want},"finish_reason":null}}"#))
    };
    assert_eq!(got, [role(), choice(r#"{"content":"aé"}"#), choice("{}")]);
    let last =
        line(&format!(r#""message":{{"content":"aé"}},{probs},"done":true,"done_reason":"stop""#));
    let whole = whole_answer(last.as_bytes(), "i", 7).unwrap();
    assert!(String::from_utf8(whole.to_vec()).unwrap().contains(want));
}

#[test]
fn times_are_unix_seconds_and_the_callers_where_ollama_says_none() {
    for (at, created) in [
        (r#""2026-01-02T03:04:05Z""#, 1_767_323_045),
        (r#""2026-01-02T05:04:05.999999999+02:00""#, 1_767_323_045),
        (r#""2026-01-01T20:34:05.1-06:30""#, 1_767_323_045),
        (r#""2026-01-02T03:04:05.1234567890123Z""#, 1_767_323_045),
        (r#""0001-01-01T00:00:00Z""#, 7),
        (r#""yesterday""#, 7),
        ("null", 7),
    ] {
        let body = format!(r#"{{"created_at":{at},"done":true,"done_reason":"stop"}}"#);
        let whole: Value =
            serde_json::from_slice(&whole_answer(body.as_bytes(), "i", 7).unwrap()).unwrap();
        assert_eq!(whole["created"], created, "{at}");
        assert!(events(&[&body])[0].contains(&format!("\"created\":{created},")), "{at}");
    }
}

#[test]
fn an_error_on_any_line_is_the_last_event() {
    let event = "data: {\"error\":{\"message\":\"out of memory\",\"type\":\"backend_error\",\"code\":\"err_backend_error\",\"param\":null,\"status\":502}}\n\n";
    let word = line(r#""message":{"content":"a"},"done":false"#);
    let done = line(r#""done":true,"done_reason":"stop""#);
    for error in [
        r#"{"error":"out of memory"}"#,
        r#"{"error":{"message":"out of memory","code":1}}"#,
        r#"{"done":3,"message":[],"error":"out of memory"}"#,
    ] {
        assert_eq!(events(&[error, &word, &done]), [event]);
        assert_eq!(
            events(&[&word, error, &done]),
            [role(), delta(r#"{"content":"a"}"#), event.into()]
        );
        let refused = whole_answer(error.as_bytes(), "i", 7).expect_err(error);
        assert_eq!((refused.code, refused.message.as_str()), (Code::BackendError, "out of memory"));
    }
    assert_eq!(events(&[r#"{"error":null,"message":{"content":"a"}}"#]).len(), 2);
}

#[test]
fn an_answer_whose_runner_ended_is_cut() {
    for reason in ["", r#","done_reason":"""#, r#","done_reason":null"#] {
        let last = line(&format!(r#""message":{{"content":"a"}},"done":true{reason}"#));
        let got = events(&[&last]);
        assert_eq!(got[..2], [role(), delta(r#"{"content":"a"}"#)]);
        assert!(got[2].contains("\"code\":\"err_backend_unavailable\""), "{}", got[2]);
        assert_eq!(got.len(), 3, "no [DONE]");
        let refused = whole_answer(last.as_bytes(), "i", 7).expect_err("cut");
        assert_eq!(refused.code, Code::BackendUnavailable);
    }
    let open = line(r#""message":{"content":"a"},"done":false"#);
    assert_eq!(events(&[&open]), [role(), delta(r#"{"content":"a"}"#)]);
    let refused = whole_answer(open.as_bytes(), "i", 7).expect_err("not done");
    assert_eq!(refused.code, Code::BackendUnavailable);
}

#[test]
fn what_is_no_answer_is_told_after_what_came_before_it() {
    let word = line(r#""message":{"content":"a"},"done":false"#);
    for (bad, kind) in [
        ("<html>", "not JSON"),
        ("{\"a\":", "not JSON"),
        ("[1]", "no JSON object"),
        ("7", "no JSON object"),
        (r#"{"message":{"content":5}}"#, "not understood"),
        (r#"{"done":true,"done":false}"#, "not understood"),
    ] {
        let mut stream = NativeStream::new("i".into(), 7);
        let out = stream.push(format!("{word}\n{bad}\n{word}\n").as_bytes()).unwrap();
        assert_eq!(out.windows(6).filter(|w| w == b"data: ").count(), 2, "{bad}");
        let nonsense = stream.push(word.as_bytes()).expect_err(bad);
        assert!(nonsense.to_string().contains(kind), "{nonsense}");
        assert_eq!(stream.end(), Err(nonsense), "it stays broken");
        let mut stream = NativeStream::new("i".into(), 7);
        assert_eq!(stream.push(bad.as_bytes()), Ok(Bytes::new()));
        assert!(stream.end().is_err(), "{bad} at the end");
        let refused = whole_answer(bad.as_bytes(), "i", 7).expect_err(bad);
        assert_eq!(refused.code, Code::BackendUnavailable);
    }
}

#[test]
fn an_endless_line_is_refused_however_it_comes() {
    let half = vec![b' '; MAX_EVENT_BYTES / 2 + 1];
    let mut stream = NativeStream::new("i".into(), 7);
    assert_eq!(stream.push(&half), Ok(Bytes::new()));
    assert_eq!(stream.push(&half), Err(Nonsense::TooLong));
    let mut whole = [half.clone(), half].concat();
    whole.push(b'\n');
    assert_eq!(NativeStream::new("i".into(), 7).push(&whole), Err(Nonsense::TooLong));
}

#[test]
fn an_answer_in_one_piece() {
    let whole = |rest: &str| {
        let bytes = whole_answer(line(rest).as_bytes(), "chatcmpl-xyz", 7).unwrap();
        String::from_utf8(bytes.to_vec()).unwrap()
    };
    assert_eq!(
        whole(
            r#""message":{"role":"assistant","content":"Hi","thinking":"hm"},"done":true,"done_reason":"stop","prompt_eval_count":2,"eval_count":3"#
        ),
        r#"{"id":"chatcmpl-xyz","object":"chat.completion","created":1767323045,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"Hi","reasoning":"hm","reasoning_content":"hm"},"finish_reason":"stop"}],"usage":{"prompt_tokens":2,"completion_tokens":3,"total_tokens":5}}"#
    );
    assert_eq!(
        whole(
            r#""message":{"content":"","tool_calls":[{"function":{"name":"f","arguments":{"z": [1, 2], "a": 12345678901234567890123}}}]},"done":true,"done_reason":"stop""#
        ),
        r#"{"id":"chatcmpl-xyz","object":"chat.completion","created":1767323045,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":null,"tool_calls":[{"id":"call_xyz_0","type":"function","function":{"name":"f","arguments":"{\"z\":[1,2],\"a\":12345678901234567890123}"}}]},"finish_reason":"tool_calls"}]}"#
    );
    assert!(whole(r#""done":true,"done_reason":"stop""#).contains(r#""content":"""#));
}
