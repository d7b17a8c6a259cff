//! What is found in JSON, however it is cut.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]
use super::*;
use crate::relay::Dialect;
use proptest::prelude::*;
use serde_json::json;

fn scan(pieces: &[&[u8]]) -> Result<Found, ApiError> {
    let mut scan = JsonScan::default();
    for piece in pieces {
        scan.push(piece)?;
    }
    scan.finish()
}

fn upstream(text: &str, dialect: Dialect) -> String {
    let edits = scan(&[text.as_bytes()]).unwrap().edits(dialect, "served/\"id\"");
    let (mut out, mut at) = (String::new(), 0);
    for edit in edits {
        let (start, end) = (edit.place.start as usize, edit.place.end as usize);
        out.push_str(&text[at..start]);
        out.push_str(&edit.text);
        at = end;
    }
    out + &text[at..]
}

#[test]
fn only_the_model_is_edited_and_usage_of_streamed_completions() {
    let cases = [
        (
            r#"{ "input": [1,{"model":"x"}] , "mod\u0065l" : "a" ,"y":"}{"}"#,
            Dialect::Embeddings,
            r#"{ "input": [1,{"model":"x"}] , "mod\u0065l" : "served/\"id\"" ,"y":"}{"}"#,
        ),
        ("{}", Dialect::Tokenize, r#"{"model":"served/\"id\""}"#),
        (r#"{"model":null}"#, Dialect::Tokenize, r#"{"model":"served/\"id\""}"#),
        (
            r#"{"stream":true,"model":"a","stream_options":{"x":1}}"#,
            Dialect::Completions,
            r#"{"stream":true,"model":"served/\"id\"","stream_options":{"x":1,"include_usage":true}}"#,
        ),
        (
            r#"{"stream":true,"model":"a"}"#,
            Dialect::Completions,
            r#"{"stream_options":{"include_usage":true},"stream":true,"model":"served/\"id\""}"#,
        ),
        (
            r#"{"stream":true,"model":"a"}"#,
            Dialect::Responses,
            r#"{"stream":true,"model":"served/\"id\""}"#,
        ),
    ];
    for (sent, dialect, want) in cases {
        assert_eq!(upstream(sent, dialect), want);
    }
}

#[test]
fn errors_name_what_is_wrong() {
    let deep = format!(r#"{{"a":{}1{}}}"#, "[".repeat(200), "]".repeat(200));
    let long = format!(r#"{{"model":"{}"}}"#, "x".repeat(10_000));
    for (body, param, message) in [
        ("", None, "empty"),
        ("  ", None, "empty"),
        ("[]", None, "must be a JSON object"),
        ("{", None, "ends before"),
        (r#"{"a":"b"#, None, "ends before"),
        (r#"{"a" 1}"#, None, "at byte 5"),
        (r#"{"a":1 2}"#, None, "at byte 7"),
        (r#"{"a":1,}"#, None, "at byte 7"),
        (r#"{"a":1}}"#, None, "at byte 7"),
        (r#"{"a":tr"ue}"#, None, "at byte 7"),
        (r#"{"model":7}"#, Some("model"), "string"),
        (r#"{"model":"a","model":"b"}"#, Some("model"), "duplicate"),
        (r#"{"stream":"yes"}"#, Some("stream"), "true or false"),
        (r#"{"model":"a","Model":"b"}"#, Some("Model"), "write `model`"),
        (r#"{"\u017ftream":true}"#, Some("\u{17f}tream"), "write `stream`"),
        (r#"{"stream_options":[]}"#, Some("stream_options"), "object"),
        (&deep, None, "deeper than 128"),
        (&long, Some("model"), "string"),
    ] {
        let error = scan(&[body.as_bytes()]).unwrap_err();
        assert_eq!((error.status, error.param.as_deref()), (400, param), "{body:.60}");
        assert!(error.message.contains(message), "{body:.60}: {}", error.message);
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[ -~\\\\\"é😀\n{}\\[\\]:,]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 30, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map("(model|stream|[a-z\\\\\"{}]{0,5})", inner, 0..5)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

proptest! {
    /// Wherever the pieces are cut, the same is found, and it is what a whole parser finds.
    #[test]
    fn cuts_do_not_matter(
        fields in prop::collection::vec(("[a-z\\\\\"é]{0,6}", any_json()), 0..5),
        model in prop::option::of("[ -~é\"\\\\]{1,12}"),
        at in 0usize..6, stream: bool, pretty: bool,
        cuts in prop::collection::vec(0usize..400, 0..12),
    ) {
        let mut object = Map::new();
        for (i, (key, value)) in fields.into_iter().enumerate() {
            if i == at && let Some(model) = &model {
                object.insert("model".into(), json!(model));
            }
            if !matches!(key.as_str(), "model" | "stream") {
                object.insert(key, value);
            }
        }
        object.insert("stream".into(), json!(stream));
        let text = if pretty { serde_json::to_string_pretty(&object) } else { serde_json::to_string(&object) }.unwrap();
        let bytes = text.as_bytes();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(bytes.len())).collect();
        cuts.sort_unstable();
        let mut pieces = Vec::new();
        let mut from = 0;
        for cut in cuts {
            pieces.push(&bytes[from..cut]);
            from = cut;
        }
        pieces.push(&bytes[from..]);
        let found = scan(&pieces).unwrap();
        prop_assert_eq!(&found, &scan(&[bytes]).unwrap());
        prop_assert_eq!(found.stream, stream);
        prop_assert_eq!(found.model.is_some(), object.contains_key("model"));
        object.insert("model".into(), json!("served/\"id\""));
        let got: Map<String, Value> = serde_json::from_str(&upstream(&text, Dialect::Score)).unwrap();
        prop_assert_eq!(got, object);
    }

    #[test]
    fn it_never_panics_on_any_bytes(
        pieces in prop::collection::vec(prop::collection::vec("[{}\\[\\]\",:a1 \\\\]{0,6}".prop_map(String::into_bytes), 0..4), 0..6),
    ) {
        let mut scanner = JsonScan::default();
        for piece in pieces.iter().flatten() {
            if scanner.push(piece).is_err() { return Ok(()); }
        }
        let _ = scanner.finish();
    }
}
