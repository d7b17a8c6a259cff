//! Ollama's OpenAI routes.

use serde_json::{Value, json};

use super::{body, get, models, ollama, post};

#[test]
fn models_are_listed_as_the_librarys() {
    let engine = ollama();
    let list = get(&engine, "/v1/models").json();
    assert_eq!(list["object"], "list");
    let first = &list["data"][0];
    assert_eq!((&first["id"], &first["object"]), (&json!("tiny-a:latest"), &json!("model")));
    assert_eq!(first["owned_by"], "library");
    assert_eq!(get(&engine, "/v1/models/tiny-a").json()["id"], "tiny-a:latest");
    let none = get(&engine, "/v1/models/nobody");
    assert_eq!(none.status_line, "HTTP/1.1 404 Not Found");
    assert_eq!(none.json()["error"]["type"], "not_found_error");
}

#[test]
fn a_chat_is_answered_by_the_model_that_was_asked_and_loads_it() {
    let engine = ollama();
    let response = post(
        &engine,
        "/v1/chat/completions",
        &body("tiny-think", "hello", &json!({"stream": true})),
    );
    assert_eq!(response.content(), "Hello! I am tiny-think, a tiny test model.");
    assert_eq!(response.events().last().unwrap(), "[DONE]");
    assert_eq!(models(&engine).loaded, ["tiny-think:latest"]);
    let told =
        post(&engine, "/v1/chat/completions", &body("Tiny-Think", "think", &json!({}))).json();
    assert_eq!(told["model"], "Tiny-Think");
    assert_eq!(told["choices"][0]["message"]["content"], "The answer is 4.");
    let thought = "Let me think about it. Two and two make four.\n";
    assert_eq!(told["choices"][0]["message"]["reasoning"], thought);
}

#[test]
fn other_surfaces_answer_too() {
    let engine = ollama();
    let told = post(
        &engine,
        "/v1/completions",
        &json!({"model": "tiny-a", "prompt": "x", "max_tokens": 2}),
    );
    assert_eq!(told.json()["object"], "text_completion");
    let told = post(&engine, "/v1/responses", &json!({"model": "tiny-a", "input": "hello"}));
    assert_eq!(told.json()["status"], "completed");
    let mut message = body("tiny-a", "hello", &json!({"max_tokens": 50}));
    message["system"] = json!("be brief");
    let told = post(&engine, "/v1/messages", &message).json();
    assert_eq!(told["content"][0]["text"], "Hello! I am tiny-a, a tiny test model.");
}

#[test]
fn embeddings_are_a_list_of_vectors() {
    let engine = ollama();
    let told =
        post(&engine, "/v1/embeddings", &json!({"model": "tiny-embed", "input": ["a", "b"]}))
            .json();
    assert_eq!((&told["object"], &told["model"]), (&json!("list"), &json!("tiny-embed")));
    let data = told["data"].as_array().unwrap();
    assert_eq!(data.len(), 2);
    for (index, entry) in data.iter().enumerate() {
        assert_eq!((&entry["object"], &entry["index"]), (&json!("embedding"), &json!(index)));
        assert!(entry["embedding"].as_array().unwrap().iter().all(Value::is_number));
    }
    assert_eq!(told["usage"], json!({"prompt_tokens": 2, "total_tokens": 2}));
}

#[test]
fn errors_have_openais_form() {
    let engine = ollama();
    for (body, status, kind) in [
        (body("nobody", "x", &json!({})), "404", "not_found_error"),
        (json!({"messages": []}), "400", "invalid_request_error"),
        (json!({"model": "tiny-a", "messages": []}), "400", "invalid_request_error"),
        (body("tiny-a", "x", &json!({"sim": {"load_error": "no"}})), "500", "api_error"),
    ] {
        // A model that is loaded already cannot fail to be.
        post(&engine, "/api/chat", &json!({"model": "tiny-a", "keep_alive": 0}));
        super::wait_models(&engine, "nothing is loaded", |m| m.loaded.is_empty());
        let response = post(&engine, "/v1/chat/completions", &body);
        assert!(response.status_line.contains(status), "{body}: {}", response.status_line);
        let error = response.json()["error"].clone();
        assert_eq!((&error["type"], &error["code"]), (&json!(kind), &Value::Null));
        assert!(error["message"].is_string() && error["param"].is_null());
    }
}
