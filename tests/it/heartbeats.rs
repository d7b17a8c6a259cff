//! Comments while a client waits, and errors behind them (SPEC 2.2).

use crate::support::{Ask, Client, Daemon, End, Gate, Setup, Upstream, sse, vllm};

fn open(daemon: &Daemon) -> Client {
    Ask::chat(vllm::ask(true)).open(daemon.addr())
}

/// A backend that answers in one piece when the gate opens.
fn late(gate: &Gate, status: &'static str, kind: &'static str, body: &'static str) -> Upstream {
    let gate = gate.clone();
    Upstream::start(move |_, wire| {
        gate.pass();
        wire.answer(status, kind, body.as_bytes());
    })
}

/// Reads comments, checks that they are some, then opens the gate and reads the rest.
fn after_comments(daemon: &Daemon, gate: &Gate) -> Vec<u8> {
    let mut client = open(daemon);
    let head = client.head();
    assert_eq!(head.status, 200);
    assert_eq!(head.get("content-type"), Some("text/event-stream"));
    assert_eq!(head.get("x-imageworks-model"), Some("tiny-a"));
    let mut comments = Vec::new();
    for _ in 0..3 {
        comments.extend(client.piece().unwrap().expect("a comment").data);
    }
    for comment in sse::events(&comments) {
        assert!(comment.starts_with(": waiting"), "{comment:?}");
    }
    gate.open();
    let (pieces, end) = client.rest();
    assert_eq!(end, End::Whole);
    let rest: Vec<u8> = pieces.into_iter().flat_map(|piece| piece.data).collect();
    sse::without_comments(sse::events(&rest)).concat().into_bytes()
}

#[test]
fn a_late_server_error_is_an_event_behind_the_comments() {
    let gate = Gate::new();
    let upstream = late(&gate, "500 Internal Server Error", "text/plain", "Internal Server Error");
    let daemon = Setup::with(&upstream).set("server", "heartbeat_ms", 50).start();
    let body = after_comments(&daemon, &gate);
    let (error, before) = sse::broken(&body, "err_backend_error", 500);
    assert!(before.is_empty());
    assert_eq!(error["message"], "Internal Server Error");
    let line = daemon.log_line();
    assert_eq!(line["status"], 200);
    assert_eq!(line["error"]["code"], "err_backend_error");
}

#[test]
fn a_late_refusal_is_an_event_with_its_status_and_message() {
    let gate = Gate::new();
    let upstream = late(&gate, "400 Bad Request", "application/json", vllm::BAD_TEMPERATURE);
    let daemon = Setup::with(&upstream).set("server", "heartbeat_ms", 50).start();
    let body = after_comments(&daemon, &gate);
    let events = sse::events(&body);
    assert_eq!(events.len(), 1, "{events:?}");
    let error = sse::error_of(&events[0]).expect("an error event");
    assert_eq!(error["status"], 400);
    assert!(error["message"].as_str().unwrap().starts_with("temperature must be"), "{error}");
}

#[test]
fn a_late_answer_follows_the_comments_whole() {
    let (gate, events) = (Gate::new(), vllm::stream(&["a", "b"]));
    let (script_gate, script_events) = (gate.clone(), events.clone());
    let upstream = Upstream::start(move |_, wire| {
        script_gate.pass();
        wire.stream(&script_events);
    });
    let daemon = Setup::with(&upstream).set("server", "heartbeat_ms", 50).start();
    let body = after_comments(&daemon, &gate);
    assert_eq!(String::from_utf8(body).unwrap(), vllm::for_client(&events).concat());
}

#[test]
fn comments_come_at_their_pace_before_the_first_token_too() {
    let gate = Gate::new();
    let script_gate = gate.clone();
    let upstream = Upstream::start(move |_, wire| {
        wire.stream_head();
        script_gate.pass();
        for event in vllm::stream(&["a"]) {
            wire.chunk(event.as_bytes());
        }
        wire.last_chunk();
    });
    let daemon = Setup::with(&upstream).set("server", "heartbeat_ms", 100).start();
    let begun = std::time::Instant::now();
    let mut client = open(&daemon);
    assert_eq!(client.head().status, 200);
    for round in 1..=4 {
        let comment = client.piece().unwrap().unwrap();
        assert!(comment.data.starts_with(b": waiting"));
        let at = comment.at - begun;
        assert!(at.as_millis() >= round * 100, "comment {round} after {at:?}");
    }
    gate.open();
    client.read_until("[DONE]");
}

#[test]
fn comments_stop_once_data_has_flowed_and_those_of_the_backend_never_pass() {
    let gate = Gate::new();
    let script_gate = gate.clone();
    let upstream = Upstream::start(move |_, wire| {
        wire.stream_head();
        wire.chunk(b": ping\n\n");
        wire.chunk(vllm::role(0).as_bytes());
        wire.chunk(b": ping 2\n\n");
        // Longer than many heartbeats: the silence is what is observed.
        std::thread::sleep(std::time::Duration::from_millis(400));
        script_gate.pass();
        wire.chunk(format!(": ping 3\n\n{}: ping 4\n\n", vllm::word(0, "a")).as_bytes());
        wire.chunk(vllm::finish(0).as_bytes());
        wire.chunk(sse::DONE.as_bytes());
        wire.last_chunk();
    });
    let daemon = Setup::with(&upstream).set("server", "heartbeat_ms", 50).start();
    let mut client = open(&daemon);
    assert_eq!(client.head().status, 200);
    let mut body = client.read_until("assistant");
    gate.open();
    body.extend(client.rest().0.into_iter().flat_map(|piece| piece.data));
    let events = sse::events(&body);
    let data: Vec<_> =
        events.iter().skip_while(|event| event.starts_with(": waiting")).cloned().collect();
    let want = [vllm::role(0), vllm::word(0, "a"), vllm::finish(0), sse::DONE.to_owned()];
    assert_eq!(data, want, "no comment behind the first data");
}

#[test]
fn without_heartbeats_a_late_failure_has_its_real_status() {
    for (status, code, kind, body) in [
        ("400 Bad Request", 400, "application/json", vllm::BAD_TEMPERATURE),
        ("500 Internal Server Error", 500, "text/plain", "Internal Server Error"),
    ] {
        let gate = Gate::new();
        let upstream = late(&gate, status, kind, body);
        let daemon = Setup::with(&upstream).set("server", "heartbeat_ms", 0).start();
        let mut client = open(&daemon);
        upstream.wait_seen(1);
        // The head is held back for as long as the backend is silent.
        client.stream.set_read_timeout(Some(std::time::Duration::from_millis(200))).unwrap();
        let mut byte = [0; 1];
        assert!(client.stream.peek(&mut byte).is_err(), "nothing came yet");
        client.stream.set_read_timeout(Some(crate::support::BOUND)).unwrap();
        gate.open();
        assert_eq!(client.reply().status(), code);
    }
}

#[test]
fn a_failure_within_the_first_heartbeat_has_its_real_status() {
    let upstream = Upstream::answering("500 Internal Server Error", "text/plain", "x");
    let daemon = Setup::with(&upstream).start();
    Ask::chat(vllm::ask(true)).reply(daemon.addr()).error(500, "err_backend_error");
}
