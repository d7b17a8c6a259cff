//! Backends that take too long (SPEC 2.1: `err_backend_timeout`).

use std::time::{Duration, Instant};

use crate::support::{Ask, Daemon, End, Reply, Setup, Upstream, sse, vllm};

/// The upstream connection is closed soon after the request has ended.
const SOON: Duration = Duration::from_secs(1);

fn silent() -> Upstream {
    Upstream::start(|_, wire| wire.until_gone())
}

/// Role chunk, some words, then silence.
fn stalls_after(words: usize) -> Upstream {
    Upstream::start(move |_, wire| {
        wire.stream_head();
        wire.chunk(vllm::role(0).as_bytes());
        for _ in 0..words {
            wire.chunk(vllm::word(0, "a").as_bytes());
        }
        wire.until_gone();
    })
}

fn chat(daemon: &Daemon, stream: bool) -> Reply {
    let reply = Ask::chat(vllm::ask(stream)).reply(daemon.addr());
    assert_eq!(reply.end, End::Whole);
    reply
}

#[track_caller]
fn assert_504(reply: &Reply) {
    let error = reply.error(504, "err_backend_timeout");
    assert_eq!(error["type"], "backend_timeout");
    assert_eq!(reply.head.get("x-should-retry"), Some("false"), "after dispatch");
}

#[track_caller]
fn assert_logged(daemon: &Daemon, status: u16) {
    let line = daemon.log_line();
    assert_eq!(line["status"], status);
    assert_eq!(line["error"]["code"], "err_backend_timeout");
    assert_eq!(line["cancelled"], false);
}

#[test]
fn no_head_in_time_is_a_504() {
    let upstream = silent();
    let daemon = Setup::with(&upstream).set("timeouts", "backend_timeout_ms", 200).start();
    let begun = Instant::now();
    assert_504(&chat(&daemon, true));
    assert!(begun.elapsed() >= Duration::from_millis(200));
    upstream.wait_gone(1, SOON);
    assert_logged(&daemon, 504);
}

#[test]
fn no_head_in_time_is_an_event_once_comments_have_flowed() {
    let upstream = silent();
    let daemon = Setup::with(&upstream)
        .set("timeouts", "backend_timeout_ms", 300)
        .set("server", "heartbeat_ms", 50)
        .start();
    let reply = chat(&daemon, true);
    assert_eq!(reply.status(), 200);
    let (_, before) = sse::broken(&reply.body(), "err_backend_timeout", 504);
    assert!(!before.is_empty() && before.iter().all(|event| event.starts_with(": waiting")));
    upstream.wait_gone(1, SOON);
    assert_logged(&daemon, 200);
}

#[test]
fn no_content_in_time_ends_a_stream_that_has_only_its_role() {
    let upstream = stalls_after(0);
    let daemon = Setup::with(&upstream).set("timeouts", "first_token_timeout_ms", 300).start();
    let reply = chat(&daemon, true);
    let (_, before) = sse::broken(&reply.body(), "err_backend_timeout", 504);
    assert_eq!(before, [vllm::role(0)]);
    upstream.wait_gone(1, SOON);
    assert_logged(&daemon, 200);
}

#[test]
fn comments_of_the_backend_are_no_content() {
    let upstream = Upstream::start(|_, wire| {
        wire.stream_head();
        while wire.chunk(b": ping\n\n") {
            std::thread::sleep(Duration::from_millis(20)); // a backend that pings
        }
    });
    let daemon = Setup::with(&upstream).set("timeouts", "first_token_timeout_ms", 300).start();
    assert_504(&chat(&daemon, true));
}

#[test]
fn silence_in_a_stream_ends_it() {
    let upstream = stalls_after(2);
    let daemon = Setup::with(&upstream).set("timeouts", "stream_idle_timeout_ms", 200).start();
    let reply = chat(&daemon, true);
    let (_, before) = sse::broken(&reply.body(), "err_backend_timeout", 504);
    assert_eq!(before, [vllm::role(0), vllm::word(0, "a"), vllm::word(0, "a")]);
    upstream.wait_gone(1, SOON);
    assert_logged(&daemon, 200);
}

#[test]
fn a_slow_stream_lives_as_long_as_it_keeps_coming() {
    let upstream = Upstream::start(|_, wire| {
        wire.stream_head();
        for event in vllm::stream(&["a", "b", "c", "d", "e"]) {
            std::thread::sleep(Duration::from_millis(150)); // slow is what it is about
            wire.chunk(event.as_bytes());
        }
        wire.last_chunk();
    });
    let daemon = Setup::with(&upstream)
        .set("timeouts", "stream_idle_timeout_ms", 600)
        .set("timeouts", "backend_timeout_ms", 600)
        .start();
    assert!(chat(&daemon, true).text().ends_with(sse::DONE));
}

#[test]
fn an_answer_in_one_piece_has_one_limit_for_all_of_it() {
    for begun in [false, true] {
        let upstream = Upstream::start(move |_, wire| {
            if begun {
                wire.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{");
            }
            wire.until_gone();
        });
        let daemon = Setup::with(&upstream)
            .set("timeouts", "unary_timeout_ms", 300)
            .set("timeouts", "backend_timeout_ms", 50)
            .start();
        let start = Instant::now();
        assert_504(&chat(&daemon, false));
        assert!(
            start.elapsed() >= Duration::from_millis(300),
            "the limit of streams does not count"
        );
        upstream.wait_gone(1, SOON);
        assert_logged(&daemon, 504);
    }
}

#[test]
fn zero_means_no_limit() {
    let gate = crate::support::Gate::new();
    let script_gate = gate.clone();
    let upstream = Upstream::start(move |_, wire| {
        script_gate.pass();
        wire.stream(&vllm::stream(&["a"]));
    });
    let daemon = Setup::with(&upstream)
        .set("timeouts", "backend_timeout_ms", 0)
        .set("timeouts", "first_token_timeout_ms", 0)
        .set("timeouts", "stream_idle_timeout_ms", 0)
        .set("server", "heartbeat_ms", 50)
        .start();
    let mut client = Ask::chat(vllm::ask(true)).open(daemon.addr());
    assert_eq!(client.head().status, 200);
    for _ in 0..4 {
        assert!(client.piece().unwrap().unwrap().data.starts_with(b": waiting"));
    }
    gate.open();
    client.read_until("[DONE]");
}
