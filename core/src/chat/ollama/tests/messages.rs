//! The history: roles, content, images, tool calls and results.

use super::*;

fn history(messages: &Value) -> Result<Native, ApiError> {
    translated(&json!({ "messages": messages }), &pinned())
}

fn one(message: &Value) -> (Value, Option<String>) {
    let native = history(&json!([message])).unwrap();
    let body: Value = serde_json::from_slice(&native.body).unwrap();
    (body["messages"][0].clone(), native.losses.header())
}

#[test]
fn every_kind_of_message_has_its_native_form() {
    let call = |id: Value, arguments: Value| json!({"id": id, "type": "function", "function": {"name": "f", "arguments": arguments}});
    let cases = [
        (json!({"role": "developer", "content": "d"}), json!({"role": "system", "content": "d"})),
        (json!({"role": "System", "content": "s"}), json!({"role": "system", "content": "s"})),
        (json!({"role": "user", "content": null}), json!({"role": "user", "content": ""})),
        (json!({"role": "assistant"}), json!({"role": "assistant", "content": ""})),
        (
            json!({"role": "user", "content": [
                {"type": "text", "text": "a"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "auto", "alt_text": "cat"}},
                {"type": "refusal", "refusal": "no"},
                {"type": "image_url", "image_url": "data:;base64,QUI=", "alt_text": "dog"},
            ]}),
            json!({"role": "user", "content": "a\nno", "images": ["AAAA", "QUI="]}),
        ),
        (
            json!({"role": "assistant", "content": "x", "reasoning_content": "old", "reasoning": "new"}),
            json!({"role": "assistant", "content": "x", "thinking": "new"}),
        ),
        (
            json!({"role": "assistant", "content": null, "reasoning_content": "hm", "reasoning": null}),
            json!({"role": "assistant", "content": "", "thinking": "hm"}),
        ),
        (
            json!({"role": "assistant", "content": null, "refusal": "I won't"}),
            json!({"role": "assistant", "content": "I won't"}),
        ),
        (
            json!({"role": "assistant", "content": null, "tool_calls": [call(json!("c1"), json!("{\"b\": 1, \"a\": [\" }\", 12345678901234567890123]}"))]}),
            json!({"role": "assistant", "content": "", "tool_calls": [{"id": "c1", "function": {"name": "f", "arguments": {"b": 1, "a": [" }", 1.234_567_890_123_456_8e22]}}}]}),
        ),
        (
            json!({"role": "assistant", "content": "", "tool_calls": [call(json!(null), json!("")), call(json!(""), json!({"x": 1}))]}),
            json!({"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {}}}, {"function": {"name": "f", "arguments": {"x": 1}}}]}),
        ),
        (
            json!({"role": "assistant", "content": null, "function_call": {"name": "g", "arguments": " {\"x\":2} "}}),
            json!({"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "g", "arguments": {"x": 2}}}]}),
        ),
        (
            json!({"role": "function", "name": "g", "content": "42"}),
            json!({"role": "tool", "content": "42", "tool_name": "g"}),
        ),
        (
            json!({"role": "tool", "tool_call_id": "unknown", "content": [{"type": "text", "text": "42"}]}),
            json!({"role": "tool", "content": "42", "tool_call_id": "unknown"}),
        ),
    ];
    for (openai, native) in cases {
        assert_eq!(one(&openai), (native, None), "{openai}");
    }
}

#[test]
fn arguments_keep_their_keys_order_and_long_numbers() {
    let native = history(&json!([{"role": "assistant", "tool_calls": [{"id": "c", "function":
        {"name": "f", "arguments": "{\n \"z\": 12345678901234567890123, \"a\": \"\\\" \\\\\" }"}}]}]));
    let body = String::from_utf8(native.unwrap().body.to_vec()).unwrap();
    let wanted = r#""arguments":{"z":12345678901234567890123,"a":"\" \\"}"#;
    assert!(body.contains(wanted), "{body}");
}

#[test]
fn a_result_gets_the_name_of_the_call_with_its_id() {
    let body = history(&json!([
        {"role": "user", "content": "weather and time?"},
        {"role": "assistant", "content": null, "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}},
            {"id": "c2", "type": "function", "function": {"name": "time", "arguments": "{}"}},
        ]},
        {"role": "tool", "tool_call_id": "c2", "content": "noon"},
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
        {"role": "tool", "name": "said", "content": "x"},
    ]))
    .unwrap()
    .body;
    let body: Value = serde_json::from_slice(&body).unwrap();
    let named =
        |n: usize| (&body["messages"][n]["tool_name"], &body["messages"][n]["tool_call_id"]);
    assert_eq!(named(2), (&json!("time"), &json!("c2")));
    assert_eq!(named(3), (&json!("weather"), &json!("c1")));
    assert_eq!(named(4), (&json!("said"), &Value::Null));
}

#[test]
fn what_a_message_cannot_say_any_more_is_named() {
    let (message, losses) = one(
        &json!({"role": "user", "name": "Ann", "cache_control": {"x": 1}, "audio": null,
        "annotations": [], "model": "m", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "high"}},
        {"type": "text", "text": "t", "cache_control": {"type": "ephemeral"}}]}),
    );
    assert_eq!(message, json!({"role": "user", "content": "t", "images": ["AAAA"]}));
    assert_eq!(
        losses.as_deref(),
        Some(
            "dropped=messages.cache_control,messages.content.cache_control,messages.image_url.detail,messages.model,messages.name"
        )
    );
    let (_, losses) = one(
        &json!({"role": "user", "content": "", "tool_call_id": "x", "tool_calls": [1], "reasoning": "r"}),
    );
    assert_eq!(
        losses.as_deref(),
        Some("dropped=messages.reasoning,messages.tool_call_id,messages.tool_calls")
    );
}

#[test]
fn a_history_that_cannot_be_told_is_refused_by_place() {
    let user =
        |part: Value| json!({"role": "user", "content": [{"type": "text", "text": "x"}, part]});
    let call = |arguments: Value| json!({"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": arguments}}]});
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(200), "]".repeat(200));
    let part = "messages[1].content[1]";
    let arguments = "messages[1].tool_calls[0].function.arguments";
    let image = |url: &str| user(json!({"type": "image_url", "image_url": {"url": url}}));
    let cases = [
        (json!(7), "messages[1]"),
        (json!({"role": "wizard", "content": ""}), "messages[1].role"),
        (json!({"content": "x"}), "messages[1].role"),
        (json!({"role": "user", "content": 5}), "messages[1].content"),
        (user(json!("text")), part),
        (user(json!({"type": "input_audio", "input_audio": {}})), part),
        (user(json!({"type": "file", "file": {}})), part),
        (user(json!({"type": "video_url", "video_url": {"url": "x"}})), part),
        (user(json!({"text": "no type"})), part),
        (user(json!({"type": "text"})), "messages[1].content[1].text"),
        (user(json!({"type": "image_url"})), part),
        (image("data:text/plain;base64,AAAA"), part),
        (image("data:image/png,raw"), part),
        (image("data:image/png;base64,"), part),
        (image("data:image/png;base64,A*AA"), part),
        (image("data:image/png;base64,AAAAA"), part),
        (image("file:///etc/passwd"), part),
        (image("https://x.org/a.png"), part),
        (call(json!("{bad")), arguments),
        (call(json!("[1]")), arguments),
        (call(json!("\"{}\"")), arguments),
        (call(json!("{} {}")), arguments),
        (call(json!(deep)), arguments),
        (call(json!(7)), arguments),
        (
            json!({"role": "assistant", "function_call": {"name": "f", "arguments": "x"}}),
            "messages[1].function_call.arguments",
        ),
        (
            json!({"role": "assistant", "tool_calls": [{"type": "custom", "custom": {}}]}),
            "messages[1].tool_calls[0].type",
        ),
        (
            json!({"role": "assistant", "tool_calls": [{"function": {"arguments": "{}"}}]}),
            "messages[1].tool_calls[0].function.name",
        ),
        (json!({"role": "assistant", "tool_calls": [{}]}), "messages[1].tool_calls[0].function"),
        (json!({"role": "assistant", "tool_calls": "f"}), "messages[1].tool_calls"),
        (json!({"role": "assistant", "reasoning": {}}), "messages[1].reasoning"),
        (json!({"role": "tool", "tool_call_id": 5}), "messages[1].tool_call_id"),
    ];
    for (message, field) in cases {
        assert_refused(history(&json!([{"role": "user", "content": "hi"}, message])), field);
    }
    assert_refused(history(&json!([])), "messages");
    assert_refused(history(&json!({})), "messages");
    assert_refused(translated(&json!({}), &pinned()), "messages");
}

#[test]
fn base64_is_made_as_strict_as_ollama_wants_it() {
    for (uri, bare) in [
        ("DATA:Image/PNG;BASE64,AAAA", "AAAA"),
        ("data:image/svg+xml;charset=utf-8;base64,AA+/", "AA+/"),
        ("data:image/png;base64,QU\nI=\n", "QUI="),
        ("data:image/png;base64,QUI", "QUI="),
        ("data:image/png;base64,QQ", "QQ=="),
    ] {
        let (message, _) = one(
            &json!({"role": "user", "content": [{"type": "image_url", "image_url": {"url": uri}}]}),
        );
        assert_eq!(message["images"], json!([bare]), "{uri}");
    }
}

#[test]
fn remote_images_are_named_once_in_order_and_come_from_what_was_fetched() {
    let image = |url: &str| json!({"type": "image_url", "image_url": {"url": url}});
    let (a, b) = ("https://x.org/a.png", "HTTP://y.org/b.png");
    let body = json!({"messages": [
        {"role": "user", "content": [image(b), {"type": "text", "text": a}, image("data:image/png;base64,AAAA")]},
        {"role": "user", "content": "https://x.org/not-an-image"},
        {"role": "user", "content": [{"type": "image_url", "image_url": a}, image(b)]},
    ]})
    .to_string();
    assert_eq!(remote_images(body.as_bytes()), [b, a]);
    for none in ["", "[", "[]", "{}", r#"{"messages":7}"#, r#"{"messages":[[]]}"#] {
        assert!(remote_images(none.as_bytes()).is_empty(), "{none}");
    }
    let mut fetched = HashMap::new();
    fetched.insert(a.to_owned(), Bytes::from_static(b"\xff\xfe\xfd\xfc"));
    let error = translate(body.as_bytes(), &pinned(), &fetched).expect_err("one is missing");
    assert_eq!(error.param.as_deref(), Some("messages[0].content[0]"));
    let hint = "set fetch_remote_images = true, or send the image as a data: URI";
    assert_eq!(error.hint.as_deref(), Some(hint));
    fetched.insert(b.to_owned(), Bytes::from_static(b"AB"));
    let native = translate(body.as_bytes(), &pinned(), &fetched).unwrap();
    let body: Value = serde_json::from_slice(&native.body).unwrap();
    assert_eq!(body["messages"][0]["images"], json!(["QUI=", "AAAA"]));
    assert_eq!(body["messages"][2]["images"], json!(["//79/A==", "QUI="]));
}
