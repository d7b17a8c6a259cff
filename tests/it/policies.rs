//! Request policies over the wire: what the backend gets, what the client and the log are told.

use std::io::Cursor;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::{DynamicImage, ImageFormat, RgbImage};
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

pub(crate) fn says(role: &str, content: Value) -> Value {
    json!({"role": role, "content": content})
}

/// A daemon with one entry, `tiny-a`, that says this too.
pub(crate) fn daemon(upstream: &Upstream, more: Value) -> Setup {
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

/// A picture of noise, as PNG: it has about as many bytes as it has.
fn picture(width: u32, height: u32) -> Vec<u8> {
    let noise = |x: u32, y: u32| {
        let n = x.wrapping_mul(2_654_435_761) ^ y.wrapping_mul(40_503).rotate_left(7);
        image::Rgb([n.to_le_bytes()[1], n.to_le_bytes()[2], n.to_le_bytes()[3]])
    };
    let mut bytes = Cursor::new(Vec::new());
    let image: DynamicImage = RgbImage::from_fn(width, height, noise).into();
    image.write_to(&mut bytes, ImageFormat::Png).expect("a picture");
    bytes.into_inner()
}

fn shows(bytes: &[u8]) -> Value {
    let url = format!("data:image/png;base64,{}", STANDARD.encode(bytes));
    json!({"type": "image_url", "image_url": {"url": url, "detail": "high"}})
}

fn seeing(upstream: &Upstream) -> Setup {
    let more = json!({"capabilities": {"vision": {"target_long_edge": 100}}});
    daemon(upstream, more).set("vision_preprocess", "vision_downscale_backends", "[\"openai\"]")
}

#[test]
fn large_images_are_scaled_and_small_ones_stay_as_they_came() {
    let upstream = answering();
    let daemon = seeing(&upstream).start();
    let (large, small) = (picture(300, 150), picture(100, 50));
    let parts = [text("look"), shows(&large), shows(&small), shows(&large)];
    for _ in 0..2 {
        let reply = ask(&[says("user", json!(parts))]).reply(daemon.addr());
        assert_eq!(reply.status(), 200, "{}", reply.text());
        assert_eq!(reply.head.get("x-imageworks-policy"), Some("images_downscaled=2"));
    }
    let seen = upstream.seen();
    assert_eq!(seen[0].json(), seen[1].json(), "remembered or not");
    let content = seen[0].json()["messages"][0]["content"].clone();
    assert_eq!((&content[0], &content[2]), (&parts[0], &parts[2]));
    assert_eq!(content[1]["image_url"]["detail"], "high");
    let url = content[1]["image_url"]["url"].as_str().expect("a text");
    let jpeg = STANDARD.decode(url.strip_prefix("data:image/jpeg;base64,").expect("a JPEG"));
    let scaled = image::load_from_memory(&jpeg.expect("base64")).expect("an image");
    assert_eq!((scaled.width(), scaled.height()), (100, 50));
}

#[test]
fn the_size_gate_counts_what_is_sent_and_passes_what_nobody_understands() {
    let upstream = answering();
    let daemon = seeing(&upstream).set("limits", "max_image_bytes", 60_000).start();
    let large = picture(300, 150);
    assert!(large.len() > 60_000);
    let reply =
        ask(&[says("user", json!([shows(&large), shows(b"no image")]))]).reply(daemon.addr());
    assert_eq!(reply.status(), 200, "scaled it is small: {}", reply.text());
    let passed = &upstream.only().json()["messages"][0]["content"][1];
    assert_eq!(*passed, shows(b"no image"));
    let refused = ask(&[says("user", json!([shows(&[7; 60_001])]))]).reply(daemon.addr());
    refused.error(413, "err_payload_too_large");
    assert_eq!(upstream.seen().len(), 1);
}

#[test]
fn images_for_other_backends_stay_but_are_counted() {
    let upstream = answering();
    let daemon = daemon(&upstream, json!({"capabilities": {"vision": true}}))
        .set("limits", "max_image_bytes", 60_000)
        .start();
    let small = picture(100, 50);
    let reply = ask(&[says("user", json!([shows(&small)]))]).reply(daemon.addr());
    assert_eq!((reply.status(), reply.head.get("x-imageworks-policy")), (200, None));
    assert_eq!(upstream.only().json()["messages"][0]["content"], json!([shows(&small)]));
    let large = ask(&[says("user", json!([shows(&picture(300, 150))]))]).reply(daemon.addr());
    large.error(413, "err_payload_too_large");
}

/// The document for whoever changes policies names tests, and they are there.
#[test]
fn the_document_names_tests_that_are_there() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("docs/POLICIES.md")).expect("the document");
    let (mut named, mut code) = (0, String::new());
    for (number, word) in text.lines().filter(|line| line.starts_with("| 5")).flat_map(|line| {
        let tests = line.split(" | ").nth(2).expect("three columns");
        tests.split('`').enumerate()
    }) {
        match (number % 2, word) {
            (1, file) if file.contains('/') => {
                code = std::fs::read_to_string(root.join(file))
                    .unwrap_or_else(|e| panic!("{file}: {e}"));
            }
            (1, test) => {
                assert!(code.contains(&format!("fn {test}(")), "{test} is not where it should be");
                named += 1;
            }
            _ => {}
        }
    }
    assert!(named > 50, "{named}");
}
