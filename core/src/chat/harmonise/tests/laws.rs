//! What holds for any text, however it is cut.

use std::sync::Arc;

use proptest::prelude::*;

use super::super::scanner::MAX_CANDIDATE;
use super::completion::can_be_completed;
use super::*;

const NAMES: [&str; 4] = ["run", "runner", "get_weather", "für"];

fn any_name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&NAMES[..])
}

fn any_arguments() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("{}".to_owned()),
        Just(
            r#"{"a": [1, -2.5e3, {"b": null}], "c": "é\u00e9\n\"</tool_call>[TOOL_CALLS]"}"#
                .to_owned()
        ),
        "[a-z `<>\\[é🦀]{0,12}".prop_map(|text| json!({ "text": text }).to_string()),
    ]
}

/// A call as JSON, with its pieces.
fn any_json() -> impl Strategy<Value = (String, Vec<Piece>)> {
    let one = (any_name(), any_arguments(), 0..4).prop_map(|(name, arguments, shape)| {
        let written = match shape {
            0 => format!(r#"{{"name": "{name}", "arguments": {arguments}}}"#),
            1 => format!("{{\n  \"parameters\": {arguments},\n  \"name\": \"{name}\"\n}}"),
            2 => {
                let quoted = Value::from(arguments.as_str());
                format!(r#"{{"id":"x","type":"function","name":"{name}","arguments":{quoted}}}"#)
            }
            _ => format!(r#"{{"function":{{"name":"{name}","arguments":{arguments}}}}}"#),
        };
        (written, call(name, &arguments))
    });
    let one = one.boxed();
    prop_oneof![
        one.clone().prop_map(|(written, call)| (written, vec![call])),
        prop::collection::vec(one, 1..4).prop_map(|calls| {
            let (written, calls): (Vec<_>, Vec<_>) = calls.into_iter().unzip();
            (format!("[{}]", written.join(", ")), calls)
        }),
    ]
}

fn any_function() -> impl Strategy<Value = (String, Vec<Piece>)> {
    let object = (any_name(), any_arguments()).prop_map(|(name, arguments)| {
        (format!("<function={name}>{arguments}</function>"), vec![call(name, &arguments)])
    });
    let parameters = (any_name(), "[a-z<é\n]{0,8}", any::<i16>()).prop_map(|(name, value, n)| {
        let written = format!(
            "<function={name}>\n<parameter=x>\n-{value}\n</parameter>\n<parameter=n>\n{n}\n</parameter>\n</function>"
        );
        let arguments = json!({"x": format!("-{value}"), "n": n}).to_string();
        (written, vec![call(name, &arguments)])
    });
    prop_oneof![object, parameters]
}

/// A marked call in any of its forms, or a fence.
fn any_call() -> impl Strategy<Value = (String, Vec<Piece>)> {
    let tag = prop_oneof![any_json(), any_function()]
        .prop_map(|(inner, calls)| (format!("<tool_call>\n{inner}\n</tool_call>"), calls));
    let fence = (prop::sample::select(&["", "json", "tool_call"][..]), any_json())
        .prop_map(|(tag, (inner, calls))| (format!("\n```{tag}\n{inner}\n```\n"), calls));
    let list = any_json().prop_map(|(inner, calls)| (format!("[TOOL_CALLS]{inner}"), calls));
    let named = (any_name(), any_arguments()).prop_map(|(name, arguments)| {
        (format!("[TOOL_CALLS]{name}[ARGS]{arguments}"), vec![call(name, &arguments)])
    });
    prop_oneof![tag, any_function(), fence, list, named]
}

/// Text that is no call, whatever stands around it.
fn any_prose() -> impl Strategy<Value = String> {
    const PROSE: &[&str] = &[
        "Hello, world. ",
        "\n\n",
        "été 🦀 日本語\u{a0}",
        " a < b <= c [1] [x](y) `code` ",
        r#"{"answer": {"name": "run"}} "#,
        r#"As JSON: {"name":"run","arguments":{}}. "#,
        "\n```python\nprint('hi')\n```\n",
        "\n```json\n{\"answer\": 1}\n```\n",
        "\n```\n{\"name\":\"walk\",\"arguments\":{}}\n```\n",
        "<tool ",
        "<tool_call>no",
        r#"<tool_call>{"name":"walk","arguments":{}}</tool_call>"#,
        r#"<tool_call>{"name":"run","arguments":{"#,
        "<function=walk>{}</function>",
        "<function=fü>",
        "<function=run>?",
        "[TOOL_CALLS]walk[ARGS]{}",
        r#"[TOOL_CALLS][{"name":"walk"}]"#,
        "\t \r\n",
    ];
    prop::sample::select(PROSE).prop_map(str::to_owned)
}

/// Pieces of everything in any order, broken ends and all.
fn any_soup() -> impl Strategy<Value = String> {
    const SCRAPS: &[&str] = &[
        "<",
        "<tool_call>",
        "</tool_call>",
        "<function=",
        "run>",
        "run",
        "<parameter=a>",
        "</parameter>",
        "</function>",
        "[",
        "]",
        "[TOOL_CALLS]",
        "[ARGS]",
        "{",
        "}",
        "\"",
        ":",
        ",",
        "\"name\"",
        "\"run\"",
        "\"arguments\"",
        "{}",
        "```",
        "`",
        "json",
        "\n",
        " ",
        "é",
        "f",
        "1",
        "<tool",
        "_call>",
        "für",
        "fü",
        "\u{fc}",
        "\u{fd}",
    ];
    let scrap = prop::sample::select(SCRAPS).prop_map(str::to_owned);
    let broken = (any_call(), any::<prop::sample::Index>()).prop_map(|((written, _), at)| {
        let places: Vec<usize> = written.char_indices().map(|(at, _)| at).collect();
        written[..*at.get(&places)].to_owned()
    });
    let whole = prop_oneof![any_call(), any_json()].prop_map(|(written, _)| written);
    let part = prop_oneof![6 => scrap, 1 => broken, 1 => whole, 2 => any_prose()];
    prop::collection::vec(part, 0..24).prop_map(|parts| parts.concat())
}

/// The pieces, text next to text joined, of text that comes in parts.
fn in_parts<'a>(offered: &Offered, parts: impl IntoIterator<Item = &'a str>) -> Vec<Piece> {
    let mut scanner = TextScanner::new(Arc::new(offered.clone()));
    let mut joined = Vec::new();
    let mut join = |pieces: Vec<Piece>| {
        for piece in pieces {
            match piece {
                Piece::Text(text) => Piece::add_text(&text, &mut joined),
                call @ Piece::Call { .. } => joined.push(call),
            }
        }
    };
    for part in parts {
        let mut out = Vec::new();
        scanner.push(part, &mut out);
        join(out);
    }
    let mut out = Vec::new();
    scanner.finish(&mut out);
    assert_eq!(scanner.held(), 0);
    join(out);
    joined
}

/// The text cut at the places where the bits of `cuts` say so, in turn.
fn cut<'a>(text: &'a str, cuts: &[bool]) -> Vec<&'a str> {
    let mut parts = Vec::new();
    let mut begun = 0;
    for (place, (at, _)) in text.char_indices().enumerate() {
        if at > 0 && cuts.get(place % cuts.len().max(1)) == Some(&true) {
            parts.push(&text[begun..at]);
            begun = at;
        }
    }
    parts.push(&text[begun..]);
    parts
}

proptest! {
    #[test]
    fn pieces_do_not_depend_on_the_cuts(
        soup in any_soup(),
        cuts in prop::collection::vec(any::<bool>(), 1..40),
    ) {
        for offered in [offering(&NAMES), offering_with_format(&NAMES)] {
            let whole = split(&soup, &offered);
            prop_assert_eq!(&in_parts(&offered, cut(&soup, &[true])), &whole);
            prop_assert_eq!(&in_parts(&offered, cut(&soup, &cuts)), &whole);
            for (at, _) in soup.char_indices() {
                let (before, after) = soup.split_at(at);
                prop_assert_eq!(&in_parts(&offered, [before, after]), &whole);
            }
        }
    }

    #[test]
    fn what_was_written_is_what_is_found(
        parts in prop::collection::vec(
            prop_oneof![
                any_prose().prop_map(|prose| (prose, None)),
                any_call().prop_map(|(written, calls)| (written, Some(calls))),
            ],
            1..10,
        ),
    ) {
        // A word before everything, so that nothing in it is the whole text; a full stop and a line
        // end between, so that no part goes on with what the one before it began.
        let mut written = String::from("So.\n");
        let mut expected = vec![text("So.\n")];
        for (part, calls) in parts {
            written.push_str(&part);
            match calls {
                None => {
                    written.push_str(".\n");
                    Piece::add_text(&format!("{part}.\n"), &mut expected);
                }
                Some(calls) => expected.extend(calls),
            }
        }
        let expected = without_space_next_to_calls(&expected);
        prop_assert_eq!(split(&written, &offering(&NAMES)), expected, "{}", written);
    }

    #[test]
    fn bare_calls_are_found_and_nothing_is_said_of_them_before_the_end(
        (json, calls) in any_json(),
        space in "[ \n]{0,3}",
    ) {
        let written = format!("{space}{json}{space}");
        let offered = Arc::new(offering(&NAMES));
        prop_assert_eq!(&split(&written, &offered), &calls);
        let mut scanner = TextScanner::new(offered);
        let mut out = Vec::new();
        scanner.push(&written, &mut out);
        prop_assert!(out.is_empty() && scanner.held() == written.len());
    }

    #[test]
    fn every_beginning_of_a_call_is_held_and_the_whole_is_not((written, calls) in any_call()) {
        let offered = Arc::new(offering(&NAMES));
        let written = written.trim();
        let mut scanner = TextScanner::new(offered);
        let mut out = Vec::new();
        for (at, char) in written.char_indices() {
            prop_assert!(out.is_empty());
            prop_assert_eq!(scanner.held(), at);
            scanner.push(&written[at..at + char.len_utf8()], &mut out);
        }
        prop_assert_eq!(scanner.held(), 0);
        prop_assert_eq!(out, calls);
    }
}

proptest! {
    // Each case searches for hundreds of ends.
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases / 16))]

    /// Text, what is held, and calls account for every byte; what is held ends the text.
    #[test]
    fn what_is_held_is_the_end_of_the_text_and_may_become_a_call(soup in any_soup()) {
        let offered = Arc::new(offering(&NAMES));
        let mut scanner = TextScanner::new(Arc::clone(&offered));
        let (mut out, mut seen) = (Vec::new(), 0);
        for (at, char) in soup.char_indices() {
            seen = at + char.len_utf8();
            scanner.push(&soup[at..seen], &mut out);
            let held = &soup[seen - scanner.held()..seen];
            let candidate = held.trim_start_matches([' ', '\t', '\n', '\r']);
            let opens = candidate.is_empty() || candidate.starts_with(['<', '[', '{', '`']);
            prop_assert!(opens, "held {:?} of {:?}", held, &soup[..seen]);
            if out.iter().all(|piece| matches!(piece, Piece::Text(_))) {
                let said = out.iter().map(|piece| match piece {
                    Piece::Text(text) => text.as_str(),
                    Piece::Call { .. } => "",
                });
                prop_assert_eq!(said.collect::<String>() + held, &soup[..seen]);
            }
            if !candidate.is_empty() && !has_string_arguments(candidate) {
                prop_assert!(can_be_completed(&scanner), "held {:?} of {:?}", held, &soup[..seen]);
            }
        }
        prop_assert_eq!(seen, soup.len());
    }
}

fn without_space_next_to_calls(pieces: &[Piece]) -> Vec<Piece> {
    const SPACE: [char; 4] = [' ', '\t', '\n', '\r'];
    let is_call = |at: Option<usize>| {
        at.and_then(|at| pieces.get(at)).is_some_and(|piece| matches!(piece, Piece::Call { .. }))
    };
    let mut cleaned = Vec::new();
    for (at, piece) in pieces.iter().enumerate() {
        match piece {
            Piece::Call { .. } => cleaned.push(piece.clone()),
            Piece::Text(text) => {
                let text =
                    if is_call(at.checked_sub(1)) { text.trim_start_matches(SPACE) } else { text };
                let text = if is_call(Some(at + 1)) { text.trim_end_matches(SPACE) } else { text };
                Piece::add_text(text, &mut cleaned);
            }
        }
    }
    cleaned
}

/// Arguments that are a string are judged when the candidate ends (see the scanner's doc).
fn has_string_arguments(candidate: &str) -> bool {
    ["arguments", "parameters"].iter().any(|key| {
        candidate.split(&format!("\"{key}\"")).skip(1).any(|behind| {
            let value = behind.trim_start().strip_prefix(':').unwrap_or_default();
            value.trim_start().starts_with('"')
        })
    })
}

#[test]
fn a_candidate_over_the_limit_is_text_and_the_search_goes_on() {
    let offered = Arc::new(offering(&NAMES));
    let run = r#"<tool_call>{"name":"run","arguments":{}}</tool_call>"#;
    let long = "ü".repeat(MAX_CANDIDATE / 2 + 7);
    for before in [
        format!("<function=run><parameter=a>{long}"),
        format!(r#"<tool_call>{{"name":"run","arguments":{{"a":"{long}"#),
        "`".repeat(MAX_CANDIDATE + 7),
    ] {
        let written = format!("{before}\n{run}");
        assert_eq!(split(&written, &offered), [text(&before), call("run", "{}")]);
        let parts = written.split_inclusive('ü');
        assert_eq!(in_parts(&offered, parts), [text(&before), call("run", "{}")]);
    }
    let space = " ".repeat(MAX_CANDIDATE + 7);
    let pieces = [text(&space[7..]), call("run", "{}")];
    assert_eq!(split(&format!("{space}{run}"), &offered), pieces);
}

#[test]
fn work_is_linear_and_memory_bounded_on_hostile_text() {
    const SIZE: usize = 1 << 20;
    let offered = Arc::new(offering(&NAMES));
    for unit in [
        "<",
        "<tool_call>",
        "[TOOL_CALLS]",
        "[",
        "{",
        " ",
        "`",
        "```\n",
        "```json\n{",
        "<function=run><parameter=a>",
        "<function=run>",
        r#"<tool_call>{"name":"run","arguments":{"a":""#,
        r#"<tool_call>{"name":"run","arguments":{"a":"<tool_call"#,
        "<tool_call><function=run></function>",
        "<tool_call>{\"name\":\"run\",\"arguments\":[",
        "</parameter",
        "[TOOL_CALLS]run[ARG",
    ] {
        let written = unit.repeat(SIZE / unit.len());
        let begun = std::time::Instant::now();
        let mut scanner = TextScanner::new(Arc::clone(&offered));
        let (mut out, mut most) = (Vec::new(), 0);
        for at in 0..written.len() {
            scanner.push(&written[at..=at], &mut out);
            most = most.max(scanner.held());
        }
        scanner.finish(&mut out);
        let took = begun.elapsed();
        assert!(most <= 2 * MAX_CANDIDATE, "{unit}: {most}");
        // Some 20 ms where it is optimised; quadratic work would take hours.
        assert!(took.as_secs() < 10, "{unit}: {took:?}");
    }
}
