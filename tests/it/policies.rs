//! Request policies over the wire: what the backend gets, what the client and the log are told.

use serde_json::{Value, json};

use crate::support::daemon::entry;
use crate::support::ollama::Ollama;
use crate::support::{Ask, Daemon, Setup, Upstream};

fn image(name: &str) -> Value {
    json!({"type": "image_url", "image_url": {"url": format!("data:image/png;base64,{name}")}})
}

fn text(text: &str) -> Value {
    json!({"type": "text", "text": text})
}

fn says(role: &str, content: Value) -> Value {
    json!({"role": role, "content": content})
}

/// A daemon with one entry, `tiny-a`, that says this too.
fn daemon(upstream: &Upstream, more: Value) -> Setup {
    let mut model = entry("tiny-a", upstream);
    for (key, value) in more.as_object().expect("an object") {
        model[key] = value.clone();
    }
    Setup::new().entry(model)
}

fn answering() -> Upstream {
    Upstream::answering("200 OK", "application/json", "{}")
}

fn ask(messages: &[Value]) -> Ask {
    Ask::chat(json!({"model": "tiny-a", "messages": messages, "seed": 7}).to_string())
}

fn policy(daemon: &Daemon) -> Value {
    daemon.log_line()["policy"].clone()
}

fn turns() -> Vec<Value> {
    vec![
        says("system", json!("s")),
        says("user", json!([text("one"), image("A")])),
        says("assistant", json!("1")),
        says("user", json!("two")),
    ]
}

#[test]
fn images_of_the_last_turn_that_goes_are_carried_over() {
    let upstream = answering();
    let daemon = daemon(&upstream, json!({"capabilities": {"vision": true}})).start();
    let reply = ask(&turns()).reply(daemon.addr());
    assert_eq!(reply.status(), 200, "{}", reply.text());
    let told = reply.head.get("x-imageworks-policy");
    assert_eq!(told, Some("images_carried=1; turns_dropped=1"));
    let body = upstream.only().json();
    let left = [says("system", json!("s")), says("user", json!([text("two"), image("A")]))];
    assert_eq!((&body["messages"], &body["seed"]), (&json!(left), &json!(7)));
    assert_eq!(body["model"], "served/tiny-a");
    assert_eq!(policy(&daemon), json!({"images_carried": 1, "turns_dropped": 1}));
}

#[test]
fn histories_stay_where_that_is_wanted() {
    let upstream = answering();
    let daemon = daemon(&upstream, json!({"capabilities": {"vision": true}}))
        .set("vision_history", "vision_truncate_history", false)
        .start();
    let reply = ask(&turns()).reply(daemon.addr());
    assert_eq!(reply.head.get("x-imageworks-policy"), None);
    assert_eq!(upstream.only().json()["messages"], json!(turns()));
    assert_eq!(policy(&daemon), json!({}));
}

#[test]
fn a_model_that_sees_nothing_gets_words_or_nothing() {
    let upstream = answering();
    let daemon = daemon(&upstream, json!({"capabilities": {"vision": false}})).start();
    let reply = ask(&turns()).reply(daemon.addr());
    assert_eq!(reply.head.get("x-imageworks-policy"), Some("images_stripped=1"));
    let omitted = "one\n[Image omitted: model does not support vision content]";
    assert_eq!(upstream.only().json()["messages"][1]["content"], omitted);
    let refused = ask(&[says("user", json!([image("A")]))]).reply(daemon.addr());
    let error = refused.error(409, "err_capability_mismatch");
    assert!(error["hint"].as_str().expect("a text").contains("alt_text"), "{error}");
    assert_eq!(upstream.seen().len(), 1, "it went nowhere");
}

#[test]
fn what_a_client_leaves_out_comes_from_the_registry() {
    let upstream = answering();
    let more = json!({
        "generation_defaults": {"temperature": 0.2, "top_k": 40, "stop_sequences": ["END"]},
        "metadata": {"default_system_prompt": "be kind"},
    });
    let daemon = daemon(&upstream, more).start();
    let reply = ask(&[says("user", json!("u"))]).reply(daemon.addr());
    let told = reply.head.get("x-imageworks-policy");
    assert_eq!(told, Some("system_prompt=default; defaults=temperature,stop"));
    let body = upstream.only().json();
    assert_eq!((&body["temperature"], &body["stop"]), (&json!(0.2), &json!(["END"])));
    assert!(body.get("top_k").is_none(), "OpenAI's own server does not know it");
    assert_eq!(body["messages"][0], says("system", json!("be kind")));
}

#[test]
fn ollama_gets_the_same_and_the_header_tells_both() {
    let ollama = Ollama::start("tiny-a", &[]);
    let mut model = ollama.entry("m", "tiny-a");
    model["metadata"] = json!({"default_system_prompt": "be kind"});
    let daemon = Setup::new().entry(model).start();
    let body =
        json!({"model": "m", "messages": [says("user", json!("u"))], "logit_bias": {"1": 2}});
    let reply = Ask::chat(body.to_string()).reply(daemon.addr());
    assert_eq!(reply.status(), 200, "{}", reply.text());
    let told = reply.head.get("x-imageworks-policy").expect("a policy");
    assert!(told.starts_with("system_prompt=default; ") && told.contains("logit_bias"), "{told}");
    assert_eq!(ollama.chats()[0]["body"]["messages"][0]["content"], "be kind");
}
