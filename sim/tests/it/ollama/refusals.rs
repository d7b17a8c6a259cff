//! What an Ollama refuses, and in which words.

use serde_json::{Value, json};
use sim_engine::Ollama;

use super::{body, models, ollama, post, with};
use crate::client::Client;

/// What is refused of `/api/chat`, by status and words.
fn assert_refused(cases: &[(Value, u16, &str)]) {
    let mut settings = Ollama::default();
    settings.models.push("tiny-plain".to_owned());
    let engine = with(settings);
    for (body, status, told) in cases {
        let response = post(&engine, "/api/chat", body);
        assert!(
            response.status_line.contains(&status.to_string()),
            "{body}: {}",
            response.status_line
        );
        assert_eq!(response.header("content-type"), Some("application/json; charset=utf-8"));
        assert_eq!(response.json(), json!({"error": told}), "{body}");
    }
    assert_eq!(models(&engine).loads, 0);
}

fn with_message(message: &Value) -> Value {
    json!({"model": "tiny-a", "messages": [message]})
}

#[test]
fn a_model_must_be_named_and_installed() {
    assert_refused(&[
        (json!({"messages": []}), 400, "model is required"),
        (body("nobody", "hello", &json!({})), 404, "model 'nobody' not found"),
        (body("tiny-a:7b", "hello", &json!({})), 404, "model 'tiny-a:7b' not found"),
        // An order to unload is no exception.
        (json!({"model": "nobody", "keep_alive": 0}), 404, "model 'nobody' not found"),
    ]);
}

#[test]
fn a_body_must_be_there_and_be_json() {
    let engine = ollama();
    for (body, told) in [
        ("", "missing request body"),
        ("{\"model\":", "unexpected EOF"),
        ("nonsense", "invalid character"),
        ("[]", "json: cannot unmarshal array"),
    ] {
        let mut client = Client::connect(engine.addr());
        client.post("/api/chat", body);
        let response = client.response();
        assert_eq!(response.status_line, "HTTP/1.1 400 Bad Request");
        let error = response.json()["error"].as_str().unwrap().to_owned();
        assert!(error.starts_with(told), "{error}");
    }
}

#[test]
fn types_are_those_of_go() {
    let content = "json: cannot unmarshal array into Go struct field ChatRequest.messages.content of type string";
    let arguments = "json: cannot unmarshal string into Go struct field \
        ChatRequest.messages.tool_calls.function.arguments of type api.ToolCallFunctionArguments";
    let call = json!({"function": {"name": "f", "arguments": "{\"x\":1}"}});
    assert_refused(&[
        (
            with_message(&json!({"role": "user", "content": [{"type": "text", "text": "x"}]})),
            400,
            content,
        ),
        (
            with_message(&json!({"role": "assistant", "content": "", "tool_calls": [call]})),
            400,
            arguments,
        ),
        (
            json!({"model": "tiny-a", "messages": "hello"}),
            400,
            "json: cannot unmarshal string into Go struct field ChatRequest.messages of type []api.Message",
        ),
        (
            body("tiny-a", "x", &json!({"stream": "yes"})),
            400,
            "json: cannot unmarshal string into Go struct field ChatRequest.stream of type bool",
        ),
    ]);
}

#[test]
fn images_are_bare_base64() {
    let with_image = |image: &str| {
        let message = json!({"role": "user", "content": "x", "images": [image]});
        json!({"model": "tiny-vision", "messages": [message]})
    };
    assert_refused(&[
        (
            with_image("data:image/png;base64,iVBORw0KGgo="),
            400,
            "illegal base64 data at input byte 4",
        ),
        (with_image("http://host/x.png"), 400, "illegal base64 data at input byte 4"),
        (with_image("abc"), 400, "illegal base64 data at input byte 3"),
    ]);
}

#[test]
fn a_model_is_asked_for_what_it_can_do() {
    let tools = json!({"tools": [{"type": "function", "function": {"name": "f"}}]});
    let image = json!({"role": "user", "content": "x", "images": ["iVBORw0KGgo="]});
    assert_refused(&[
        (body("tiny-a", "x", &json!({"think": true})), 400, "\"tiny-a\" does not support thinking"),
        (
            body("tiny-a", "x", &json!({"think": "low"})),
            400,
            "\"tiny-a\" does not support thinking",
        ),
        (body("tiny-plain", "x", &tools), 400, "\"tiny-plain\" does not support tools"),
        (with_message(&image), 400, "\"tiny-a\" does not support vision"),
        (body("tiny-embed", "x", &json!({})), 400, "\"tiny-embed\" does not support chat"),
    ]);
}

#[test]
fn values_must_have_sense() {
    let think = "(must be \"high\", \"medium\", \"low\", \"max\", true, or false)";
    let think = format!("invalid think value: \"a lot\" {think}");
    assert_refused(&[
        (body("tiny-think", "x", &json!({"think": "a lot"})), 400, &think),
        (
            body("tiny-a", "x", &json!({"top_logprobs": 21})),
            400,
            "top_logprobs must be between 0 and 20",
        ),
        (
            body("tiny-a", "x", &json!({"top_logprobs": -1})),
            400,
            "top_logprobs must be between 0 and 20",
        ),
        (
            body("tiny-a", "x", &json!({"keep_alive": "60"})),
            400,
            "time: missing unit in duration \"60\"",
        ),
        (
            body("tiny-a", "x", &json!({"options": {"num_ctx": "big"}})),
            500,
            "option \"num_ctx\" must be of type integer",
        ),
        (
            body("tiny-a", "x", &json!({"options": {"stop": "x"}})),
            500,
            "option \"stop\" must be of type array",
        ),
    ]);
}

#[test]
fn what_go_does_not_know_is_passed_over() {
    let engine = ollama();
    let more = json!({"tool_choice": "none", "n": 3, "options": {"colour": "red"}, "think": null});
    assert_eq!(
        post(&engine, "/api/chat", &body("tiny-a", "x", &more)).status_line,
        "HTTP/1.1 200 OK"
    );
}
