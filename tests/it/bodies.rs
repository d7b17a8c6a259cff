//! Bodies that are no chat requests: refused with the right words, and the daemon goes on.

use std::time::Duration;

use serde_json::json;

use crate::support::daemon::entry;
use crate::support::{Ask, Client, Daemon, Gate, Reply, Setup, Upstream, vllm};

fn backend() -> Upstream {
    Upstream::answering("200 OK", "application/json", vllm::WHOLE)
}

#[track_caller]
fn assert_never_retried(reply: &Reply) {
    assert_eq!(reply.head.get("x-should-retry"), Some("false"), "{:?}", reply.head);
    assert_eq!(reply.head.get("retry-after"), None);
}

/// After whatever came before, an ordinary request is served.
#[track_caller]
fn assert_chats(daemon: &Daemon) {
    assert_eq!(Ask::chat(vllm::ask(false)).reply(daemon.addr()).status(), 200);
}

#[test]
fn bodies_that_are_no_chat_request_are_refused_with_the_field_at_fault() {
    let upstream = backend();
    let daemon = Setup::with(&upstream).start();
    let cases: &[(&str, Option<&str>)] = &[
        ("", None),
        ("  \n", None),
        ("hello", None),
        ("{\"model\":\"tiny-a\",\"messages\":[]", None),
        ("{\"model\":\"tiny-a\",\"messages\":[]} x", None),
        ("[]", None),
        ("[{\"model\":\"tiny-a\"}]", None),
        ("7", None),
        ("null", None),
        ("\"text\"", None),
        (r#"{"model":5,"messages":[]}"#, Some("model")),
        (r#"{"model":["tiny-a"],"messages":[]}"#, Some("model")),
        (r#"{"model":"tiny-a","messages":"hi"}"#, Some("messages")),
        (r#"{"model":"tiny-a","messages":{}}"#, Some("messages")),
        (r#"{"model":"tiny-a","messages":null}"#, Some("messages")),
        (r#"{"model":"tiny-a"}"#, Some("messages")),
        (r#"{"model":"tiny-a","messages":[],"stream":"yes"}"#, Some("stream")),
        (r#"{"model":"tiny-a","messages":[],"stream":1}"#, Some("stream")),
        (r#"{"model":"tiny-a","messages":[],"stream_options":3}"#, Some("stream_options")),
        (r#"{"messages":[]}"#, Some("model")),
        (r#"{"model":"","messages":[]}"#, Some("model")),
        (r#"{"model":null,"messages":[]}"#, Some("model")),
        (r#"{"model":"tiny-a","messages":[],"model":"tiny-a"}"#, None),
        (r#"{"model":"tiny-a","messages":[],"x":01}"#, None),
    ];
    for (body, param) in cases {
        let reply = Ask::chat(*body).reply(daemon.addr());
        let error = reply.error(400, "err_invalid_request");
        assert_eq!(error["type"], "invalid_request_error");
        assert_eq!(error["param"], json!(param), "{body}: {error}");
        assert_never_retried(&reply);
    }
    assert!(upstream.seen().is_empty(), "nothing of it went upstream");
    assert_chats(&daemon);
    let lines = daemon.log_lines(cases.len() + 1);
    assert!(
        lines[..cases.len()]
            .iter()
            .all(|l| l["status"] == 400 && l["error"]["code"] == "err_invalid_request")
    );
}

#[test]
fn bytes_that_are_no_text_are_refused() {
    let upstream = backend();
    let daemon = Setup::with(&upstream).start();
    for place in ["model", "content", "unknown"] {
        let body = match place {
            "model" => b"{\"model\":\"tiny-\xff\",\"messages\":[]}".to_vec(),
            "content" => b"{\"model\":\"tiny-a\",\"messages\":[{\"role\":\"user\",\"content\":\"\xc3\x28\"}]}".to_vec(),
            _ => b"{\"model\":\"tiny-a\",\"messages\":[],\"x\":\"\xed\xa0\x80\"}".to_vec(),
        };
        let reply = Ask::chat(body).reply(daemon.addr());
        reply.error(400, "err_invalid_request");
        assert_never_retried(&reply);
    }
    assert_chats(&daemon);
}

#[test]
fn deep_nesting_is_refused_and_harms_nobody() {
    let upstream = backend();
    let daemon = Setup::with(&upstream).start();
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let deep = format!("{}1{}", open.repeat(10_000), close.repeat(10_000));
        let reply =
            Ask::chat(format!(r#"{{"model":"tiny-a","messages":{deep}}}"#)).reply(daemon.addr());
        reply.error(400, "err_invalid_request");
        let reply = Ask::chat("[".repeat(10_000)).reply(daemon.addr());
        reply.error(400, "err_invalid_request");
        assert_never_retried(&reply);
    }
    assert_chats(&daemon);
}

#[test]
fn a_body_over_the_limit_is_refused_however_it_comes() {
    let upstream = backend();
    let daemon = Setup::with(&upstream).set("limits", "max_body_bytes", 1000).start();
    let large = format!(r#"{{"model":"tiny-a","messages":[],"x":"{}"}}"#, "y".repeat(2000));
    let reply = Ask::chat(large.as_str()).reply(daemon.addr());
    let error = reply.error(413, "err_payload_too_large");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("1000") && message.contains(&large.len().to_string()), "{message}");
    assert_never_retried(&reply);
    // A promised length is refused before the body has come.
    let mut client = Client::connect(daemon.addr());
    client.send(&Ask::chat("{").header("content-length", "5000").bytes(daemon.addr()));
    client.reply().error(413, "err_payload_too_large");
    // Without a promise it is seen on the way.
    let chunk = format!("{:x}\r\n{large}\r\n0\r\n\r\n", large.len());
    let reply = Ask::chat(chunk).header("transfer-encoding", "chunked").reply(daemon.addr());
    reply.error(413, "err_payload_too_large");
    let fits = |n: usize| format!("{}{}", vllm::ask(false), " ".repeat(n - vllm::ask(false).len()));
    assert_eq!(Ask::chat(fits(1000)).reply(daemon.addr()).status(), 200);
    Ask::chat(fits(1001)).reply(daemon.addr()).error(413, "err_payload_too_large");
    assert_chats(&daemon);
}

#[test]
fn a_chunked_body_is_taken() {
    let upstream = backend();
    let daemon = Setup::with(&upstream).start();
    let body = vllm::ask(false);
    let (first, second) = body.split_at(20);
    let chunks =
        format!("{:x}\r\n{first}\r\n{:x}\r\n{second}\r\n0\r\n\r\n", first.len(), second.len());
    let reply = Ask::chat(chunks).header("transfer-encoding", "chunked").reply(daemon.addr());
    assert_eq!(reply.status(), 200);
    let sent = String::from_utf8(upstream.only().body).unwrap();
    assert_eq!(sent, body.replace("\"tiny-a\"", "\"served/tiny-a\""));
}

#[test]
fn compressed_bodies_are_refused() {
    let upstream = backend();
    let daemon = Setup::with(&upstream).start();
    for encoding in ["gzip", "br", "zstd", "GZIP"] {
        let reply = Ask::chat("xxxx").header("content-encoding", encoding).reply(daemon.addr());
        let error = reply.error(400, "err_invalid_request");
        assert!(error["message"].as_str().unwrap().contains("content-encoding"), "{error}");
        assert_never_retried(&reply);
    }
    let reply =
        Ask::chat(vllm::ask(false)).header("content-encoding", "identity").reply(daemon.addr());
    assert_eq!(reply.status(), 200);
}

#[test]
fn an_unknown_model_is_not_found_with_the_nearest_names() {
    let upstream = backend();
    let other = backend();
    let daemon = Setup::with(&upstream).entry(entry("completely-different", &other)).start();
    let reply = Ask::chat(r#"{"model":"tiny-b","messages":[],"stream":true}"#).reply(daemon.addr());
    let error = reply.error(404, "err_model_not_found");
    assert_eq!(error["type"], "model_not_found");
    let hint = error["hint"].as_str().expect("a hint");
    assert!(hint.contains("tiny-a") && !hint.contains("completely-different"), "{hint}");
    assert_never_retried(&reply);
    let line = daemon.log_line();
    assert_eq!((&line["status"], &line["model_requested"]), (&json!(404), &json!("tiny-b")));
    assert_eq!(line["model_logical"], json!(null));
}

#[test]
fn an_ambiguous_model_is_refused_with_the_candidates() {
    let (one, two) = (backend(), backend());
    let alias = |name: &str, upstream: &Upstream| {
        let mut entry = entry(name, upstream);
        entry["model_aliases"] = json!(["vision"]);
        entry
    };
    let daemon =
        Setup::new().entry(alias("first-one", &one)).entry(alias("second-one", &two)).start();
    let reply = Ask::chat(r#"{"model":"vision","messages":[]}"#).reply(daemon.addr());
    let error = reply.error(409, "err_model_ambiguous");
    let said = error.to_string();
    assert!(said.contains("first-one") && said.contains("second-one"), "{said}");
    assert_never_retried(&reply);
}

#[test]
fn a_body_that_stops_arriving_is_given_up() {
    let upstream = backend();
    let daemon = Setup::with(&upstream).set("server", "client_header_timeout_s", 1).start();
    let mut client = Client::connect(daemon.addr());
    client.send(&Ask::chat(r#"{"model":"#).header("content-length", "100").bytes(daemon.addr()));
    let reply = client.reply();
    reply.error(400, "err_invalid_request");
    assert_chats(&daemon);
    // One that never ends its head is given up too.
    let mut client = Client::connect(daemon.addr());
    client.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: loc");
    let last = client.until_closed();
    assert!(
        last.is_empty() || last.starts_with(b"HTTP/1.1 408"),
        "{}",
        String::from_utf8_lossy(&last)
    );
    assert_chats(&daemon);
}

#[test]
fn a_short_header_timeout_does_not_refuse_prompt_clients() {
    let upstream = backend();
    let daemon = Setup::with(&upstream).set("server", "client_header_timeout_s", "0.3").start();
    for round in 0..30 {
        let reply = Ask::chat(vllm::ask(false)).reply(daemon.addr());
        assert_eq!(reply.status(), 200, "round {round}");
        std::thread::sleep(Duration::from_millis(20)); // at any phase of the daemon's own clock
    }
}

#[test]
fn a_slow_body_is_taken_as_long_as_it_keeps_coming() {
    let upstream = backend();
    let daemon = Setup::with(&upstream).set("server", "client_header_timeout_s", 1).start();
    let mut client = Client::connect(daemon.addr());
    let request = Ask::chat(vllm::ask(false)).bytes(daemon.addr());
    let head = request.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    client.send(&request[..head]);
    for piece in request[head..].chunks(25) {
        std::thread::sleep(Duration::from_millis(300)); // slow is what it is about
        client.send(piece);
    }
    assert_eq!(client.reply().status(), 200);
}

#[test]
fn bodies_together_over_their_memory_are_refused_until_it_is_free_again() {
    let gate = Gate::new();
    let script_gate = gate.clone();
    let upstream = Upstream::start(move |_, wire| {
        script_gate.pass();
        wire.answer("200 OK", "application/json", vllm::WHOLE.as_bytes());
    });
    let daemon = Setup::with(&upstream).set("limits", "max_buffered_bytes", 5000).start();
    let body = format!(r#"{{"model":"tiny-a","messages":[],"x":"{}"}}"#, "y".repeat(3000));
    let mut first = Ask::chat(body.as_str()).open(daemon.addr());
    upstream.wait_seen(1);
    // Before the body is read: only the head is sent.
    let mut second = Client::connect(daemon.addr());
    second.send(&Ask::chat("").header("content-length", "3000").bytes(daemon.addr()));
    let reply = second.reply();
    let error = reply.error(429, "err_queue_full");
    assert_eq!(error["type"], "queue_full");
    let after: u32 = reply.head.get("retry-after").expect("Retry-After").parse().unwrap();
    assert!(after >= 1);
    assert_eq!(reply.head.get("x-should-retry"), None);
    gate.open();
    assert_eq!(first.reply().status(), 200);
    assert_eq!(Ask::chat(body).reply(daemon.addr()).status(), 200);
}
