//! The engine as an Ollama, as its clients see it.

mod answers;
mod faults;
mod loading;
mod openai;
mod refusals;

use serde_json::{Value, json};
use sim_engine::{Handle, ModelStats, Ollama, Options};

use crate::client::{Client, Response, engine, request, wait_for};

/// An Ollama with its usual models.
fn ollama() -> Handle {
    with(Ollama::default())
}

fn with(settings: Ollama) -> Handle {
    engine(Options { ollama: Some(settings), ..Options::default() })
}

/// One whose models take so long to load.
fn slow(load_ms: u64) -> Handle {
    with(Ollama { load_ms, ..Ollama::default() })
}

fn get(engine: &Handle, path: &str) -> Response {
    let mut client = Client::connect(engine.addr());
    client.send(&request("GET", path, "text/plain", ""));
    client.response()
}

fn post(engine: &Handle, path: &str, body: &Value) -> Response {
    let mut client = Client::connect(engine.addr());
    client.post(path, &body.to_string());
    client.response()
}

/// A chat with `model` whose only message is `text`, and with these fields on top.
fn body(model: &str, text: &str, more: &Value) -> Value {
    let mut body = json!({"model": model, "messages": [{"role": "user", "content": text}]});
    for (key, value) in more.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}

fn chat(engine: &Handle, model: &str, text: &str, more: &Value) -> Response {
    post(engine, "/api/chat", &body(model, text, more))
}

/// The same in one piece.
fn whole(engine: &Handle, model: &str, text: &str, more: &Value) -> Value {
    let mut more = more.clone();
    more["stream"] = json!(false);
    let response = chat(engine, model, text, &more);
    assert_eq!(response.status_line, "HTTP/1.1 200 OK", "{}", response.text());
    response.json()
}

/// Loads a model, or unloads it with a `keep_alive` of 0.
fn load(engine: &Handle, model: &str, more: &Value) -> Value {
    let mut body = json!({"model": model});
    for (key, value) in more.as_object().unwrap() {
        body[key] = value.clone();
    }
    let response = post(engine, "/api/chat", &body);
    assert_eq!(response.status_line, "HTTP/1.1 200 OK", "{}", response.text());
    response.json()
}

/// The lines of a stream.
fn lines(response: &Response) -> Vec<Value> {
    let text = response.text();
    assert!(text.is_empty() || text.ends_with('\n'), "{text}");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What all lines together have at this place.
fn joined(lines: &[Value], place: &str) -> String {
    lines.iter().filter_map(|line| line.pointer(place)?.as_str()).collect()
}

fn models(engine: &Handle) -> ModelStats {
    engine.stats().models.unwrap()
}

/// Waits for the models to be as they should.
fn wait_models(engine: &Handle, what: &str, is: impl Fn(&ModelStats) -> bool) -> ModelStats {
    wait_for(engine, what, |stats| stats.models.as_ref().is_some_and(&is)).models.unwrap()
}

/// The names that `/api/ps` lists.
fn ps(engine: &Handle) -> Vec<String> {
    let told = get(engine, "/api/ps").json();
    let names = told["models"].as_array().unwrap().iter();
    names.map(|model| model["name"].as_str().unwrap().to_owned()).collect()
}

/// Lets go on what hangs.
fn release(engine: &Handle) {
    assert_eq!(post(engine, "/sim/release", &json!({})).status_line, "HTTP/1.1 200 OK");
}

/// Orders faults.
fn order(engine: &Handle, orders: &Value) {
    assert_eq!(post(engine, "/sim/fault", orders).status_line, "HTTP/1.1 200 OK");
}
