//! Answers in one piece.

use serde_json::json;

use crate::support::daemon::entry;
use crate::support::{Ask, Setup, Upstream, vllm};

#[test]
fn an_answer_in_one_piece_passes_byte_for_byte() {
    let upstream = Upstream::answering("200 OK", "application/json", vllm::WHOLE);
    let daemon = Setup::with(&upstream).start();
    let reply = Ask::chat(vllm::ask(false)).header("x-request-id", "u-1").reply(daemon.addr());
    assert_eq!(reply.status(), 200);
    assert_eq!(reply.text(), vllm::WHOLE);
    assert_eq!(reply.head.get("content-type"), Some("application/json"));
    assert_eq!(reply.head.get("content-length"), Some(vllm::WHOLE.len().to_string().as_str()));
    assert_eq!(reply.head.get("x-request-id"), Some("u-1"));
    assert_eq!(reply.head.get("x-imageworks-model"), Some("tiny-a"));
    let seen = upstream.only();
    let sent = String::from_utf8(seen.body.clone()).unwrap();
    assert_eq!(sent, vllm::ask(false).replace("\"tiny-a\"", "\"served/tiny-a\""));
    assert_eq!(seen.header("accept"), Some("application/json"));
    assert_eq!(seen.header("accept-encoding"), Some("identity"));
}

#[test]
fn a_chunked_answer_is_put_together() {
    let upstream = Upstream::start(move |_, wire| {
        let (first, second) = vllm::WHOLE.split_at(100);
        wire.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n");
        wire.chunk(first.as_bytes());
        wire.chunk(second.as_bytes());
        wire.last_chunk();
    });
    let daemon = Setup::with(&upstream).start();
    let reply = Ask::chat(vllm::ask(false)).reply(daemon.addr());
    assert_eq!((reply.status(), reply.text()), (200, vllm::WHOLE.to_owned()));
}

#[test]
fn an_answer_that_ends_with_the_connection_is_whole_if_its_json_is() {
    for version in ["HTTP/1.0", "HTTP/1.1"] {
        let upstream = Upstream::start(move |_, wire| {
            wire.send(
                format!("{version} 200 OK\r\ncontent-type: application/json\r\n\r\n").as_bytes(),
            );
            wire.send(vllm::WHOLE.as_bytes());
            wire.fin();
        });
        let daemon = Setup::with(&upstream).start();
        let reply = Ask::chat(vllm::ask(false)).reply(daemon.addr());
        assert_eq!((reply.status(), reply.text()), (200, vllm::WHOLE.to_owned()), "{version}");
    }
}

#[test]
fn a_backend_that_closes_after_each_answer_serves_every_request() {
    let upstream = Upstream::start(|_, wire| {
        let length = vllm::WHOLE.len();
        let head = format!(
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        );
        wire.send(&[head.as_bytes(), vllm::WHOLE.as_bytes()].concat());
        wire.fin();
    });
    let daemon = Setup::with(&upstream).start();
    for round in 0..50 {
        let reply = Ask::chat(vllm::ask(false)).reply(daemon.addr());
        assert_eq!(reply.status(), 200, "round {round}: {}", reply.text());
    }
    assert_eq!(upstream.seen().len(), 50, "and none was sent twice");
}

#[test]
fn large_requests_and_answers_pass_whole() {
    let filler = "é".repeat(4 << 20);
    let answer = vllm::WHOLE.replace("Hello!", &filler);
    let upstream = Upstream::answering("200 OK", "application/json", &answer);
    let daemon = Setup::with(&upstream).start();
    let body = vllm::ask(false).replace("hello", &filler);
    let reply = Ask::chat(body.as_str()).reply(daemon.addr());
    assert_eq!(reply.status(), 200);
    assert!(reply.body() == answer.as_bytes(), "the answer");
    assert!(
        upstream.only().body == body.replace("\"tiny-a\"", "\"served/tiny-a\"").as_bytes(),
        "the request"
    );
}

#[test]
fn a_client_that_waits_for_100_continue_gets_it() {
    let upstream = Upstream::answering("200 OK", "application/json", vllm::WHOLE);
    let daemon = Setup::with(&upstream).start();
    let request = Ask::chat(vllm::ask(false)).header("expect", "100-continue").bytes(daemon.addr());
    let (head, body) = request.split_at(request.len() - vllm::ask(false).len());
    let mut client = crate::support::Client::connect(daemon.addr());
    client.send(head);
    client.expect_line("HTTP/1.1 100 Continue");
    client.send(body);
    assert_eq!(client.reply().status(), 200);
    assert_eq!(upstream.only().header("expect"), None);
}

#[test]
fn one_connection_serves_many_requests() {
    let upstream = Upstream::start(|seen, wire| {
        if seen.json()["stream"] == json!(true) {
            wire.stream(&vllm::stream(&["a"]));
        } else {
            wire.answer("200 OK", "application/json", vllm::WHOLE.as_bytes());
        }
    });
    let daemon = Setup::with(&upstream).start();
    let mut client = crate::support::Client::connect(daemon.addr());
    for stream in [false, true, true, false] {
        client.send(&Ask::chat(vllm::ask(stream)).bytes(daemon.addr()));
        let reply = client.reply();
        assert_eq!(reply.status(), 200);
        assert_eq!(reply.text().contains("[DONE]"), stream);
    }
    client.send(&Ask::get("/v1/healthz").bytes(daemon.addr()));
    assert_eq!(client.reply().status(), 200);
}

#[test]
fn a_model_is_found_by_all_its_names() {
    let upstream = Upstream::answering("200 OK", "application/json", vllm::WHOLE);
    let mut entry = entry("qwen2.5vl_7b_(Q4_K_M)", &upstream);
    entry["display_name"] = json!("Qwen Tiny");
    entry["model_aliases"] = json!(["little"]);
    entry["served_model_id"] = json!("org/qwen");
    let daemon = Setup::new().entry(entry).start();
    for name in [
        "qwen2.5vl_7b_(Q4_K_M)",
        "little",
        "org/qwen",
        "Qwen Tiny",
        "qwen-tiny",
        "qwen2.5vl 7b (Q4 K M)",
    ] {
        let reply =
            Ask::chat(format!(r#"{{"model":{name:?},"messages":[]}}"#)).reply(daemon.addr());
        assert_eq!(reply.status(), 200, "{name}: {}", reply.text());
        assert_eq!(reply.head.get("x-imageworks-model"), Some("qwen2.5vl_7b_(Q4_K_M)"));
    }
    assert!(upstream.seen().iter().all(|seen| seen.json()["model"] == "org/qwen"));
}

#[test]
fn a_default_model_serves_requests_that_name_none() {
    let upstream = Upstream::answering("200 OK", "application/json", vllm::WHOLE);
    let daemon = Setup::with(&upstream).set("server", "default_model", "\"tiny-a\"").start();
    for body in
        [r#"{"messages":[]}"#, r#"{"model":"","messages":[]}"#, r#"{"model":null,"messages":[]}"#]
    {
        assert_eq!(Ask::chat(body).reply(daemon.addr()).status(), 200, "{body}");
    }
    assert!(upstream.seen().iter().all(|seen| seen.json()["model"] == "served/tiny-a"));
}

#[test]
fn models_are_listed_in_the_shape_of_openai() {
    let upstream = Upstream::answering("200 OK", "application/json", vllm::WHOLE);
    let other = Upstream::answering("200 OK", "application/json", vllm::WHOLE);
    let mut hidden = entry("old", &other);
    hidden["deprecated"] = json!(true);
    let daemon = Setup::new()
        .entry(entry("zeta", &upstream))
        .entry(entry("Alpha", &other))
        .entry(hidden)
        .entry(entry("testmodel-1", &other))
        .start();
    let reply = Ask::get("/v1/models").reply(daemon.addr());
    assert_eq!(reply.status(), 200);
    let list = reply.json();
    assert_eq!(list["object"], "list");
    let ids: Vec<_> = list["data"].as_array().unwrap().iter().map(|m| m["id"].clone()).collect();
    assert_eq!(ids, ["Alpha", "zeta"]);
    for model in list["data"].as_array().unwrap() {
        assert_eq!(model["object"], "model");
        assert_eq!(model["owned_by"], "imageworks");
        assert!(model["created"].is_u64());
    }
    let reply = Ask::chat(r#"{"model":"old","messages":[]}"#).reply(daemon.addr());
    assert_eq!(reply.status(), 200, "a hidden entry still answers");
}
