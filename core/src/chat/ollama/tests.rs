//! The translation on hand-written requests and answers, and laws that hold for all.
#![allow(clippy::unwrap_used, clippy::panic)]

mod answers;
mod laws;
mod listing;
mod messages;
mod parameters;
mod pieces;

use std::collections::HashMap;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::*;
use crate::error::ApiError;

fn pinned() -> Pinned {
    Pinned { tag: "qwen3:8b".into(), ..Pinned::default() }
}

fn translated(body: &Value, pinned: &Pinned) -> Result<Native, ApiError> {
    let none: HashMap<String, Bytes> = HashMap::new();
    translate(body.to_string().as_bytes(), pinned, &none)
}

/// A request with these fields beside one message, as it leaves for a plain model.
fn with(fields: Value) -> Result<Native, ApiError> {
    translated(&request(fields), &pinned())
}

fn request(fields: Value) -> Value {
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
    for (name, value) in object(fields) {
        body[name] = value;
    }
    body
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        other => panic!("{other} is no object"),
    }
}

/// The native body, but for what every one has.
fn rest_of(native: &Native) -> Value {
    let mut body: Map<String, Value> = serde_json::from_slice(&native.body).unwrap();
    assert_eq!(body.remove("model"), Some(json!("qwen3:8b")));
    assert_eq!(body.remove("messages"), Some(json!([{"role": "user", "content": "hi"}])));
    assert_eq!(body.remove("stream"), Some(json!(false)));
    Value::Object(body)
}

/// The refusal is a 400 that names this field.
fn assert_refused(result: Result<Native, ApiError>, field: &str) -> ApiError {
    let error = result.expect_err(field);
    assert_eq!((error.status, error.param.as_deref()), (400, Some(field)), "{}", error.message);
    assert!(error.message.contains(field), "{field}: {}", error.message);
    error
}

#[test]
fn loading_and_unloading_are_chats_without_messages() {
    let mut pinned = pinned();
    assert_eq!(load_body(&pinned), r#"{"model":"qwen3:8b","messages":[],"stream":false}"#);
    pinned.options = object(
        json!({"temperature": 0.1, "num_ctx": 8192, "num_gpu": 0, "use_mmap": null, "stop": ["x"]}),
    );
    pinned.keep_alive = Some(json!("10m"));
    assert_eq!(
        load_body(&pinned),
        r#"{"model":"qwen3:8b","messages":[],"stream":false,"options":{"num_ctx":8192,"num_gpu":0},"keep_alive":"10m"}"#
    );
    assert_eq!(
        unload_body("a:b"),
        r#"{"model":"a:b","messages":[],"stream":false,"keep_alive":0}"#
    );
}
