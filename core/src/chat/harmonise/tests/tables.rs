//! Every form that a call may have, and what only looks like one.

use super::*;

const NAMES: [&str; 4] = ["get_weather", "get_weather_week", "run", "wetter_für"];
const PARIS: &str = r#"{"city": "Paris"}"#;

fn weather() -> Piece {
    call("get_weather", PARIS)
}

fn check(cases: &[(&str, Vec<Piece>)]) {
    let offered = offering(&NAMES);
    for (written, pieces) in cases {
        assert_eq!(&split(written, &offered), pieces, "{written}");
    }
}

fn stays(cases: &[&str]) {
    let offered = offering(&NAMES);
    for written in cases {
        assert_eq!(split(written, &offered), [text(written)], "{written}");
    }
}

#[test]
fn hermes_and_qwen_tags_are_calls() {
    let json = format!(r#"{{"name": "get_weather", "arguments": {PARIS}}}"#);
    check(&[
        (&format!("<tool_call>\n{json}\n</tool_call>"), vec![weather()]),
        (&format!("<tool_call>{json}</tool_call>"), vec![weather()]),
        (&format!("<tool_call> [{json}, {json}]</tool_call>"), vec![weather(), weather()]),
        (
            &format!("<tool_call>\n{json}\n</tool_call>\n<tool_call>\n{json}\n</tool_call>"),
            vec![weather(), weather()],
        ),
        (
            &format!("I will look.\n\n<tool_call>\n{json}\n</tool_call>\n\nOne moment. "),
            vec![text("I will look."), weather(), text("One moment. ")],
        ),
        (&format!("  <tool_call>{json}</tool_call>  "), vec![weather()]),
        (
            r#"<tool_call>{"arguments":"{\"city\": \"Paris\"}","thought":["x"],"name":"get_weather"}</tool_call>"#,
            vec![weather()],
        ),
        (
            r#"<tool_call>{"name":"run","parameters":{"code":"</tool_call> \"<tool_call>\" 🦀"}}</tool_call>"#,
            vec![call("run", r#"{"code":"</tool_call> \"<tool_call>\" 🦀"}"#)],
        ),
        (
            r#"<tool_call>{"name":"wetter_für","arguments":{}}</tool_call>"#,
            vec![call("wetter_für", "{}")],
        ),
    ]);
}

#[test]
fn qwen3_coder_functions_are_calls() {
    let function = "<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n<parameter=days>\n3\n</parameter>\n</function>";
    let found = call("get_weather", r#"{"city":"Paris","days":3}"#);
    check(&[
        (function, vec![found.clone()]),
        (&format!("<tool_call>\n{function}\n</tool_call>"), vec![found.clone()]),
        (&format!("So:\n{function}\nend"), vec![text("So:"), found.clone(), text("end")]),
        (&format!("<function=get_weather>{PARIS}</function>"), vec![weather()]),
        (
            &format!("<function=get_weather_week> {PARIS} </function>"),
            vec![call("get_weather_week", PARIS)],
        ),
        ("<function=run></function>", vec![call("run", "{}")]),
        (
            "<function=run><parameter=code>if a < b:\n    <b></paramete</parameter></function>",
            vec![call("run", r#"{"code":"if a < b:\n    <b></paramete"}"#)],
        ),
        (
            "<function=run><parameter=code>a<</parameter></function>",
            vec![call("run", r#"{"code":"a<"}"#)],
        ),
    ]);
}

#[test]
fn a_whole_function_counts_though_the_tag_around_it_does_not() {
    let one = "<function=run>{}</function>";
    let run = || call("run", "{}");
    check(&[
        (&format!("<tool_call>\n{one}"), vec![text("<tool_call>"), run()]),
        (&format!("<tool_call>\n{one}\n"), vec![text("<tool_call>"), run()]),
        (&format!("<tool_call>\n{one}\n</tool"), vec![text("<tool_call>"), run(), text("</tool")]),
        (&format!("<tool_call>{one} text"), vec![text("<tool_call>"), run(), text("text")]),
        (
            &format!("<tool_call>\n{one}\n{one}\n</tool_call>"),
            vec![text("<tool_call>"), run(), run(), text("</tool_call>")],
        ),
    ]);
}

#[test]
fn a_fence_that_holds_calls_alone_is_calls() {
    let json = format!(r#"{{"name": "get_weather", "arguments": {PARIS}}}"#);
    for tag in ["", "json", "tool_call"] {
        check(&[
            (&format!("```{tag}\n{json}\n```"), vec![weather()]),
            (&format!("```{tag}\r\n[{json},\n{json}]\r\n```\r\n"), vec![weather(), weather()]),
            (&format!("```{tag}{json}```"), vec![weather()]),
            (&format!("````{tag}\n{json}\n````"), vec![weather()]),
            (
                &format!("Calling:\n\n  ```{tag}\n  {json}\n  ```\n\nDone."),
                vec![text("Calling:"), weather(), text("Done.")],
            ),
            (
                &format!("```{tag}\n{json}\n```\n\n```{tag}\n{json}\n```"),
                vec![weather(), weather()],
            ),
            (
                &format!("```python\nx = 1\n```\n```{tag}\n{json}\n```"),
                vec![text("```python\nx = 1\n```"), weather()],
            ),
        ]);
    }
}

#[test]
fn a_text_that_is_nothing_else_is_calls() {
    check(&[
        (&format!(r#"{{"name": "get_weather", "arguments": {PARIS}}}"#), vec![weather()]),
        (&format!(" \n{{\"name\": \"get_weather\", \"parameters\": {PARIS}}}\n"), vec![weather()]),
        (
            &format!(r#"[{{"name": "get_weather", "arguments": {PARIS}, "id": "9ab"}}]"#),
            vec![weather()],
        ),
        (
            r#"{"type":"function","function":{"name":"get_weather","arguments":"{\"city\": \"Paris\"}"}}"#,
            vec![weather()],
        ),
    ]);
}

#[test]
fn mistral_marks_are_calls() {
    let json = format!(r#"{{"name": "get_weather", "arguments": {PARIS}}}"#);
    check(&[
        (&format!("[TOOL_CALLS][{json}]"), vec![weather()]),
        (&format!("[TOOL_CALLS] [{json}, {json}] "), vec![weather(), weather()]),
        (&format!("[TOOL_CALLS]{json}"), vec![weather()]),
        (&format!("[TOOL_CALLS]get_weather[ARGS]{PARIS}"), vec![weather()]),
        (&format!("[TOOL_CALLS] get_weather[ARGS] {PARIS}"), vec![weather()]),
        (
            &format!("Yes. [TOOL_CALLS]run[ARGS]{{}}[TOOL_CALLS]get_weather[ARGS]{PARIS}"),
            vec![text("Yes."), call("run", "{}"), weather()],
        ),
        (
            &format!("[TOOL_CALLS]run[TOOL_CALLS]get_weather[ARGS]{PARIS}"),
            vec![text("[TOOL_CALLS]run"), weather()],
        ),
        (&format!("[TOOL_CALLS][TOOL_CALLS][{json}]"), vec![text("[TOOL_CALLS]"), weather()]),
    ]);
}

#[test]
fn answers_and_examples_stay_text() {
    stays(&[
        "Hello, world.",
        "  white space at both ends stays \n",
        r#"{"name": "Alice", "arguments": {}}"#,
        r#"{"name": "get_weathe", "arguments": {}}"#,
        r#"{"name": "get_weather", "age": 3}"#,
        r#"{"name": "get_weather", "description": "d", "parameters": {"type": "object"}}"#,
        r#"{"type":"function","function":{"name":"get_weather","parameters":{}}}"#,
        r#"{"name": "get_weather", "arguments": "Paris"}"#,
        r#"{"name": "get_weather", "arguments": {"a": 01}}"#,
        r#"{"name": "get_weather", "arguments": {}} as you asked"#,
        r#"{"name": "run", "arguments": {}} {"name": "run", "arguments": {}}"#,
        r#"As you asked: {"name": "get_weather", "arguments": {}}"#,
        r#"[{"name": "run", "arguments": {}}, {"name": "walk", "arguments": {}}]"#,
        "[1, 2, 3]",
        "[]",
        "{}",
        "[see](https://example.org) and [TOOL_CALLS] and [TOOL_CALLS]walk[ARGS]{}",
        "[TOOL_CALLS][]",
        "[TOOL_CALLS]run[ARGS]\"{}\"",
        "a < b, <b>bold</b>, <tool>, <tool_calls>, <function>, <function=walk>{}</function>",
        r#"<tool_call>{"name": "walk", "arguments": {}}</tool_call>"#,
        r#"<tool_call>{"name": "run"}</tool_call>"#,
        "<tool_call> is the tag, </tool_call> its end",
        "<function=run><parameter=></parameter></function>",
        "<function=run>{}<parameter=a>1</parameter></function>",
    ]);
}

#[test]
fn fences_with_anything_else_stay_text() {
    let json = r#"{"name": "get_weather", "arguments": {}}"#;
    stays(&[
        &format!("```python\n{json}\n```"),
        &format!("```jsonc\n{json}\n```"),
        &format!("```js\n{json}\n```"),
        &format!("```json\n// an example\n{json}\n```"),
        &format!("```json\n{json}\n// an example\n```"),
        &format!("```json\n{json}\n{json}\n```"),
        &format!("``\n{json}\n``"),
        &format!("Write `{json}` or ```{json}``` in it."),
        // What closes one fence opens none.
        &format!("```python\nx = 1\n```\n{json}\n```bash\nls\n```"),
        &format!("````markdown\n```json\n{json}\n```\n````"),
        &format!("```json\n{json}\n``"),
        "```json\n{\"city\": \"Paris\"}\n```",
        "```\ncargo test\n```\n",
    ]);
}

#[test]
fn what_is_unclosed_at_the_end_is_text() {
    let whole = [
        r#"<tool_call>{"name":"run","arguments":{"a":[1,"x"]}}</tool_call>"#,
        "<function=run>\n<parameter=a>\n1\n</parameter>\n</function>",
        "```json\n{\"name\":\"run\",\"arguments\":{}}\n```",
        r#"{"name":"run","arguments":{}}"#,
        r#"[TOOL_CALLS][{"name":"run","arguments":{}}]"#,
        r#"[TOOL_CALLS]run[ARGS]{"a":1}"#,
    ];
    let offered = offering(&NAMES);
    for written in whole {
        for cut in 1..written.len() {
            let part = &written[..cut];
            assert_eq!(split(part, &offered), [text(part)], "{part}");
        }
        assert!(matches!(split(written, &offered)[..], [Piece::Call { .. }]), "{written}");
    }
}

#[test]
fn with_a_response_format_only_marked_calls_count() {
    let offered = offering_with_format(&NAMES);
    let json = r#"{"name":"run","arguments":{}}"#;
    for written in [json.to_owned(), format!("[{json}]"), format!("```json\n{json}\n```")] {
        assert_eq!(split(&written, &offered), [text(&written)], "{written}");
    }
    for written in [
        format!("<tool_call>{json}</tool_call>"),
        "<function=run>{}</function>".to_owned(),
        format!("[TOOL_CALLS][{json}]"),
    ] {
        assert_eq!(split(&written, &offered), [call("run", "{}")], "{written}");
    }
}

#[test]
fn without_tools_all_text_is_text_and_leaves_at_once() {
    let written = r#" <tool_call>{"name":"run","arguments":{}}</tool_call> "#;
    let mut scanner = TextScanner::new(Offered::nothing().into());
    let mut out = Vec::new();
    for (at, char) in written.char_indices() {
        scanner.push(&written[at..at + char.len_utf8()], &mut out);
        assert_eq!(scanner.held(), 0);
    }
    assert_eq!(out, [text(written)]);
}

#[test]
fn a_call_found_behind_text_that_looked_like_one_is_found() {
    let run = r#"<tool_call>{"name":"run","arguments":{}}</tool_call>"#;
    for before in [
        "<",
        "<tool_call",
        "<tool_call>",
        "<tool_call>\n{",
        r#"<tool_call>{"name":"run","#,
        r#"<tool_call>{"name":"run","arguments":{}}"#,
        r#"<tool_call>{"name":"run","arguments":{}}</tool_call"#,
        "<function=run",
        "<function=run>",
        "<function=run>{}",
        "```json\n",
        "[",
        "[TOOL_CALLS]",
        "[TOOL_CALLS]run[ARGS]{",
        r#"{"name":"run","arguments":{}}"#,
    ] {
        let pieces = split(&format!("{before}{run}"), &offering(&NAMES));
        assert_eq!(pieces, [text(before.trim_end()), call("run", "{}")], "{before}");
    }
}
