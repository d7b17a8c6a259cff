//! What the laws are tried on: generated histories and answers, and a client that reads them.

use proptest::prelude::*;

use super::*;

pub(super) const ID: &str = "chatcmpl-1";

/// One piece of an answer.
#[derive(Debug, Clone)]
pub(super) enum Piece {
    Text(String),
    Thinking(String),
    Calls(Vec<(Option<String>, String, Value)>),
    Blank,
}

pub(super) fn text() -> impl Strategy<Value = String> {
    "[a-zé€😀 \"\\\\\n{}]{1,12}"
}

pub(super) fn arguments() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        text().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        Just(Value::Null),
        prop::collection::vec(any::<bool>(), 0..3).prop_map(Value::from),
    ];
    prop::collection::vec(("[a-z \"é]{1,5}", leaf), 0..4)
        .prop_map(|pairs| Value::Object(pairs.into_iter().collect()))
}

pub(super) fn piece() -> impl Strategy<Value = Piece> {
    let call = (prop::option::of("[a-z0-9]{1,6}"), "[a-z_]{1,6}", arguments());
    prop_oneof![
        3 => text().prop_map(Piece::Text),
        2 => text().prop_map(Piece::Thinking),
        1 => prop::collection::vec(call, 1..3).prop_map(Piece::Calls),
        1 => Just(Piece::Blank),
    ]
}

pub(super) fn message(piece: &Piece) -> Value {
    match piece {
        Piece::Text(text) => json!({"role": "assistant", "content": text}),
        Piece::Thinking(text) => json!({"role": "assistant", "content": "", "thinking": text}),
        Piece::Calls(calls) => json!({"content": "", "tool_calls": native_calls(calls)}),
        Piece::Blank => json!({"role": "assistant", "content": ""}),
    }
}

pub(super) fn native_calls(calls: &[(Option<String>, String, Value)]) -> Vec<Value> {
    let one = |(id, name, arguments): &(Option<String>, String, Value)| json!({"id": id, "function": {"index": 0, "name": name, "arguments": arguments}});
    calls.iter().map(one).collect()
}

/// The pieces as a streamed native body; without an `end` it is not whole.
pub(super) fn ndjson(pieces: &[Piece], end: Option<&str>) -> String {
    let head = json!({"model": "m", "created_at": "2026-01-02T03:04:05Z"});
    let mut body = String::new();
    let mut add = |fields: Value| {
        let mut line = head.clone();
        for (name, value) in object(fields) {
            line[name] = value;
        }
        body = format!("{body}{line}\n");
    };
    for piece in pieces {
        add(json!({"message": message(piece), "done": false}));
    }
    if let Some(reason) = end {
        add(
            json!({"message": {"content": ""}, "done": true, "done_reason": reason, "prompt_eval_count": 3, "eval_count": 4}),
        );
    }
    body
}

/// The pieces as Ollama would put them into one object.
pub(super) fn joined(pieces: &[Piece], reason: &str) -> Value {
    let (mut content, mut thinking, mut calls) = (String::new(), String::new(), Vec::new());
    for piece in pieces {
        match piece {
            Piece::Text(text) => content.push_str(text),
            Piece::Thinking(text) => thinking.push_str(text),
            Piece::Calls(more) => calls.extend(native_calls(more)),
            Piece::Blank => {}
        }
    }
    json!({"model": "m", "created_at": "2026-01-02T03:04:05Z", "done": true, "done_reason": reason,
        "message": {"role": "assistant", "content": content, "thinking": thinking, "tool_calls": calls},
        "prompt_eval_count": 3, "eval_count": 4})
}

/// What leaves for a body in these pieces, and how it ends.
pub(super) fn run(chunks: &[&[u8]]) -> (Vec<u8>, Result<(), Nonsense>) {
    let mut stream = NativeStream::new(ID.into(), 7);
    let mut out = Vec::new();
    for chunk in chunks {
        match stream.push(chunk) {
            Ok(bytes) => out.extend(bytes),
            Err(nonsense) => return (out, Err(nonsense)),
        }
    }
    // Events in front of a bad last line leave first: the error is asked for once more.
    let ended = stream.end().and_then(|bytes| {
        out.extend(bytes);
        stream.end().map(drop)
    });
    (out, ended)
}

pub(super) fn cut<'a>(body: &'a [u8], places: &[usize]) -> Vec<&'a [u8]> {
    let mut places: Vec<usize> = places.iter().map(|at| at % (body.len() + 1)).collect();
    places.sort_unstable();
    let mut chunks = Vec::new();
    let mut from = 0;
    for at in places {
        chunks.push(&body[from..at]);
        from = at;
    }
    chunks.push(&body[from..]);
    chunks
}

/// Puts a stream's events together into a `chat.completion`, as a client would.
pub(super) fn accumulate(sse: &[u8]) -> Value {
    let text = String::from_utf8(sse.to_vec()).unwrap();
    let mut whole = json!({"object": "chat.completion"});
    let mut message = json!({"content": ""});
    let mut calls: Vec<Value> = Vec::new();
    let mut finish = Value::Null;
    for event in text.split_terminator("\n\n") {
        let data = event.strip_prefix("data: ").unwrap();
        if data == "[DONE]" {
            break;
        }
        let chunk: Value = serde_json::from_str(data).unwrap();
        for name in ["id", "created", "model", "usage"] {
            if let Some(value) = chunk.get(name) {
                whole[name] = value.clone();
            }
        }
        for choice in chunk["choices"].as_array().unwrap() {
            assert_eq!(choice["index"], 0);
            for (name, value) in object(choice["delta"].clone()) {
                match value {
                    Value::Array(more) => calls.extend(more),
                    Value::String(more) if name != "role" => {
                        let so_far = message[&name].as_str().unwrap_or_default();
                        message[&name] = json!(format!("{so_far}{more}"));
                    }
                    role => message[name] = role,
                }
            }
            if !choice["finish_reason"].is_null() {
                assert!(finish.is_null(), "one finish reason");
                finish = choice["finish_reason"].clone();
            }
        }
    }
    for (n, call) in calls.iter_mut().enumerate() {
        assert_eq!(call.as_object_mut().unwrap().shift_remove("index"), Some(json!(n)));
    }
    if !calls.is_empty() {
        if message["content"] == "" {
            message["content"] = Value::Null;
        }
        message["tool_calls"] = json!(calls);
    }
    whole["choices"] = json!([{"index": 0, "message": message, "finish_reason": finish}]);
    whole
}

/// A message of an OpenAI history.
pub(super) fn assistant() -> impl Strategy<Value = Value> {
    let call = ("[a-z0-9]{1,6}", "[a-z_]{1,6}", arguments());
    let calls = prop::collection::vec(call, 0..3);
    (text(), prop::option::of(text()), calls).prop_map(|(text, reasoning, calls)| {
        let one = |(id, name, arguments): (String, String, Value)| {
            json!({"id": id, "type": "function",
            "function": {"name": name, "arguments": arguments.to_string()}})
        };
        let calls: Vec<Value> = calls.into_iter().map(one).collect();
        json!({"role": "assistant", "content": text, "reasoning": reasoning, "tool_calls": calls})
    })
}

/// A turn: what was asked (with images), and what was answered.
pub(super) fn turn() -> impl Strategy<Value = (String, Vec<Vec<u8>>, Value)> {
    let image = prop::collection::vec(any::<u8>(), 1..20);
    (text(), prop::collection::vec(image, 0..3), assistant())
}

pub(super) fn history(turns: &[(String, Vec<Vec<u8>>, Value)]) -> Vec<Value> {
    use base64::Engine as _;
    let mut messages = Vec::new();
    for (text, images, answer) in turns {
        let mut parts = vec![json!({"type": "text", "text": text})];
        for image in images {
            let data = base64::engine::general_purpose::STANDARD.encode(image);
            let url = format!("data:image/png;base64,{data}");
            parts.push(json!({"type": "image_url", "image_url": {"url": url}}));
        }
        messages.push(json!({"role": "user", "content": parts}));
        messages.push(answer.clone());
        for call in answer["tool_calls"].as_array().unwrap() {
            messages.push(json!({"role": "tool", "tool_call_id": call["id"], "content": text}));
        }
    }
    messages
}

/// A message, reduced to what must survive.
pub(super) fn gist(message: &Value) -> Value {
    let calls = message["tool_calls"].as_array().cloned().unwrap_or_default();
    let call = |call: &Value| {
        let arguments: Value =
            serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
        json!([call["id"], call["function"]["name"], arguments])
    };
    let calls: Vec<Value> = calls.iter().map(call).collect();
    json!([message["content"], message["reasoning"], calls])
}

/// A native assistant message, answered back by a model that repeats it.
pub(super) fn echoed(native: &Value) -> Value {
    let line = json!({"model": "m", "message": native, "done": true, "done_reason": "stop"});
    let (sse, ended) = run(&[line.to_string().as_bytes()]);
    assert_eq!(ended, Ok(()));
    let mut message = accumulate(&sse)["choices"][0]["message"].clone();
    if message["content"].is_null() {
        message["content"] = json!("");
    }
    message
}

pub(super) fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f32>().prop_map(Value::from),
        "[ -~é]{0,6}".prop_map(Value::from),
        prop::sample::select(vec![
            "text",
            "image_url",
            "user",
            "assistant",
            "tool",
            "function",
            "high",
            "none",
            "json_schema",
            "data:image/png;base64,AAAA",
            "http://x/y"
        ])
        .prop_map(Value::from),
    ];
    let names = prop::sample::select(vec![
        "role",
        "content",
        "type",
        "text",
        "image_url",
        "url",
        "tool_calls",
        "function",
        "name",
        "arguments",
        "id",
        "tool_call_id",
        "function_call",
        "effort",
        "schema",
        "json_schema",
        "top_k",
        "stop",
        "enable_thinking",
        "reasoning",
        "x",
    ]);
    leaf.prop_recursive(5, 30, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((names.clone(), inner), 0..5).prop_map(|pairs| {
                Value::Object(pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
            }),
        ]
    })
}
