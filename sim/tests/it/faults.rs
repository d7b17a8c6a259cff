//! Each fault does what it says, seen on the raw socket.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use sim_engine::{Fault, Framing, Options, ReasoningField};

use crate::client::{Client, End, PATIENCE, ask, chat, engine, find, wait_for};

/// How soon a departure is to be noticed.
const AT_ONCE: Duration = Duration::from_millis(50);

/// What one request gives on the wire until its end, with the date masked.
fn raw(engine: &sim_engine::Handle, stream: bool, sim: &Value) -> (Vec<u8>, End) {
    let mut client = Client::connect(engine.addr());
    client.post("/v1/chat/completions", &chat("hello", stream, sim));
    client.rest()
}

/// Ids, times and the date differ from answer to answer, but not in their length.
fn same_but_for_ids(whole: &[u8], part: &[u8]) -> bool {
    let like =
        |(a, b): (&u8, &u8)| a == b || (a.is_ascii_alphanumeric() && b.is_ascii_alphanumeric());
    part.len() <= whole.len() && whole.iter().zip(part).all(like)
}

#[test]
fn a_connection_is_cut_after_exactly_so_many_bytes() {
    let engine = engine(Options::default());
    for (stream, sim) in [
        (false, json!({"tokens": 1})),
        (true, json!({"tokens": 2})),
        (true, json!({"tokens": 2, "split_writes": 7})),
        (false, json!({"tokens": 1, "no_content_length": "chunked"})),
    ] {
        let mut closing = sim.clone();
        closing["cut"] = json!({"at_byte": 1_000_000});
        let mut client = Client::connect(engine.addr());
        client.post("/v1/chat/completions", &chat("hello", stream, &closing));
        let whole = client
            .until(|b| ends_cleanly(b, stream || sim.get("no_content_length").is_some()))
            .to_vec();
        for (how, end) in [("fin", End::Fin), ("rst", End::Rst)] {
            // Before a reset, many small writes have to be waited for.
            let slow = end == End::Rst && sim.get("split_writes").is_some();
            for at in (0..=whole.len()).step_by(if slow { 41 } else { 1 }) {
                let mut order = sim.clone();
                order["cut"] = json!({"at_byte": at, "how": how});
                let (got, ended) = raw(&engine, stream, &order);
                assert_eq!((got.len(), ended), (at, end), "{how} at {at} of {}", whole.len());
                assert!(same_but_for_ids(&whole, &got), "{at}: {}", String::from_utf8_lossy(&got));
            }
        }
    }
}

fn ends_cleanly(bytes: &[u8], chunked: bool) -> bool {
    if chunked {
        return bytes.ends_with(b"0\r\n\r\n");
    }
    let Some(head) = find(bytes, b"\r\n\r\n") else { return false };
    let text = String::from_utf8_lossy(&bytes[..head]).into_owned();
    let length = text.lines().find_map(|l| l.strip_prefix("content-length: ")).unwrap();
    bytes.len() == head + 4 + length.parse::<usize>().unwrap()
}

#[test]
fn a_connection_is_cut_after_so_many_events() {
    let engine = engine(Options::default());
    for n in 0..6 {
        let (got, end) =
            raw(&engine, true, &json!({"cut": {"after_events": n}, "events_per_write": 4}));
        let events = String::from_utf8(got).unwrap().matches("data: ").count();
        assert_eq!((events, end), (n, End::Fin));
    }
    let (_, end) = raw(&engine, true, &json!({"cut": {"after_events": 3, "how": "rst"}}));
    assert_eq!(end, End::Rst);
    let stats = wait_for(&engine, "all cut", |s| s.cut == 7);
    assert_eq!((stats.aborted, stats.completed), (0, 0));
}

#[test]
fn writes_are_split_without_regard_for_characters() {
    let engine = engine(Options::default());
    for size in [1, 2, 3, 7, 64] {
        let got = ask(&engine, "unicode", true, &json!({"split_writes": size}));
        assert!(got.chunks.iter().all(|&c| c <= size), "{size}");
        assert_eq!(got.content(), "Grüße, señor! 你好,世界。 😀🎉");
        if size == 1 {
            assert_eq!(got.chunks.len(), got.body.len());
        }
        let unary = ask(&engine, "unicode", false, &json!({"split_writes": size}));
        assert_eq!(unary.json()["choices"][0]["message"]["content"], got.content());
    }
    let all =
        ask(&engine, "unicode", true, &json!({"split_writes": 1, "no_content_length": "close"}));
    assert_eq!(all.content(), "Grüße, señor! 你好,世界。 😀🎉");
}

#[test]
fn events_share_writes_when_they_are_to() {
    let engine = engine(Options::default());
    // A role, 30 tokens, the finish and the end.
    for (k, chunks) in [(1, 33), (2, 17), (16, 3), (33, 1), (1000, 1)] {
        let got = ask(&engine, "x", true, &json!({"tokens": 30, "events_per_write": k}));
        assert_eq!((got.chunks.len(), got.events().len()), (chunks, 33));
    }
}

#[test]
fn a_hang_is_silent_and_the_departure_is_noticed_at_once() {
    let engine = engine(Options::default());
    for (n, (stream, sim, head)) in [
        (true, json!({"hang_before_head": true}), false),
        (false, json!({"hang_before_head": true}), false),
        (true, json!({"hang_after_events": 0}), true),
        (true, json!({"hang_after_events": 3, "events_per_write": 100}), true),
        (true, json!({"delay_first_ms": 600_000}), true),
        (true, json!({"delay_token_ms": 600_000}), true),
        (true, json!({"silent_before_role_ms": 600_000}), true),
        (false, json!({"delay_unary_ms": 600_000}), false),
        (true, json!({"delay_head_ms": 600_000}), false),
    ]
    .into_iter()
    .enumerate()
    {
        let mut client = Client::connect(engine.addr());
        client.post("/v1/chat/completions", &chat("hello", stream, &sim));
        wait_for(&engine, "in flight", |s| s.in_flight == 1);
        if head {
            client.until(|b| find(b, b"\r\n\r\n").is_some());
        }
        if sim.get("hang_after_events").is_some_and(|n| n == 3) {
            client.until(|b| String::from_utf8_lossy(b).matches("data: ").count() == 3);
            assert!(client.is_silent(Duration::from_millis(30)));
        }
        let left = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        drop(client);
        let stats = wait_for(&engine, "noticed", |s| s.aborted == n as u64 + 1 && s.in_flight == 0);
        let noticed = Duration::from_micros(*stats.aborted_at.last().unwrap());
        assert!(noticed.saturating_sub(left) < AT_ONCE, "{sim}: {noticed:?} after {left:?}");
    }
}

#[test]
fn a_departure_in_the_middle_of_a_fast_stream_ends_it() {
    let engine = engine(Options::default());
    let mut client = Client::connect(engine.addr());
    client.post("/v1/chat/completions", &chat("x", true, &json!({"tokens": 2_000_000})));
    client.until(|b| b.len() > 10_000);
    drop(client);
    wait_for(&engine, "noticed", |s| s.aborted == 1 && s.connections_open == 0);
}

#[test]
fn an_error_comes_inside_the_stream() {
    let engine = engine(Options::default());
    let got = ask(&engine, "hello", true, &json!({"error_after_events": 3}));
    let events = got.events();
    assert_eq!(events.len(), 5);
    assert_eq!(
        events[3],
        r#"{"error": {"message": "EngineCore encountered an issue. See stack trace (above) for the root cause.", "type": "InternalServerError", "param": null, "code": 500}}"#
    );
    assert_eq!(events[4], "[DONE]");
}

#[test]
fn streams_are_malformed_as_ordered() {
    let engine = engine(Options::default());
    let healthy = ask(&engine, "hello", true, &json!({})).events().len();
    let stream = |sim: Value| ask(&engine, "hello", true, &sim);

    let events = stream(json!({"malformed_after_events": 2})).events();
    assert!(serde_json::from_str::<Value>(&events[2]).is_err());
    assert_eq!(events.len(), healthy + 1);

    let events = stream(json!({"no_done": true})).events();
    assert!(events.last().unwrap().contains("\"finish_reason\":\"stop\""));

    let events = stream(json!({"no_finish": true, "usage_always": true})).events();
    assert!(events.iter().all(|e| !e.contains("\"finish_reason\":\"") && !e.contains("usage")));
    assert_eq!(events.len(), healthy - 2);

    let events = stream(json!({"extra_done": true})).events();
    assert_eq!(events[events.len() - 2..], ["[DONE]", "[DONE]"]);

    let commented = stream(json!({"comments": true}));
    assert_eq!(commented.events().len(), healthy);
    assert_eq!(commented.text().matches(": ping\n\n").count(), healthy - 1);

    let crlf = stream(json!({"crlf": true})).text();
    assert_eq!(crlf.matches("\r\n\r\n").count(), healthy);
    assert_eq!(crlf.matches('\n').count(), crlf.matches("\r\n").count());

    let empty = stream(json!({"empty_stream": true}));
    assert_eq!((empty.body.len(), empty.status_line.as_str()), (0, "HTTP/1.1 200 OK"));
    assert_eq!(empty.header("content-type"), Some("text/event-stream; charset=utf-8"));

    let events = stream(json!({"usage_always": true})).events();
    assert!(events[events.len() - 2].contains("\"choices\":[],\"usage\":{"));

    let other = stream(json!({"content_type": "text/plain"}));
    assert_eq!(other.header("content-type"), Some("text/plain"));
}

#[test]
fn another_answer_is_given_when_ordered() {
    let engine = engine(Options::default());
    for stream in [false, true] {
        let order = json!({"status": 503, "body": "<h1>no", "content_type": "text/html"});
        let got = ask(&engine, "hello", stream, &order);
        assert_eq!(got.status_line, "HTTP/1.1 503 Service Unavailable");
        assert_eq!(
            (got.text().as_str(), got.header("content-type")),
            ("<h1>no", Some("text/html"))
        );
        let got = ask(&engine, "hello", stream, &json!({"redirect": "http://x/y"}));
        assert_eq!(got.status_line, "HTTP/1.1 307 Temporary Redirect");
        assert_eq!(got.header("location"), Some("http://x/y"));
    }
}

#[test]
fn a_whole_answer_is_framed_as_ordered() {
    let engine = engine(Options::default());
    let got = ask(&engine, "hello", false, &json!({"no_content_length": "chunked"}));
    assert_eq!(got.header("transfer-encoding"), Some("chunked"));
    assert_eq!((got.header("content-length"), got.chunks.len()), (None, 1));
    assert_eq!(got.json()["object"], "chat.completion");
    let got = ask(&engine, "hello", false, &json!({"no_content_length": "close"}));
    assert_eq!((got.header("content-length"), got.header("transfer-encoding")), (None, None));
    assert_eq!(got.json()["object"], "chat.completion");
}

#[test]
fn tokens_are_as_many_and_as_long_as_ordered() {
    let engine = engine(Options::default());
    let got = ask(&engine, "hello", true, &json!({"tokens": 1000, "token_bytes": 8}));
    let content = got.content();
    assert_eq!(content.len(), 8000);
    assert!(content.starts_with("tok0xxxx tok1xxx"));
    let got = ask(&engine, "hello", false, &json!({"tokens": 3}));
    assert_eq!(got.json()["choices"][0]["message"]["content"], "tok0 tok1 tok2");
    assert_eq!(got.json()["choices"][0]["finish_reason"], "stop");
}

#[test]
fn delays_are_kept_where_they_are_ordered() {
    let engine = engine(Options::default());
    for (stream, sim, least) in [
        (true, json!({"delay_head_ms": 60}), 60),
        (true, json!({"silent_before_role": 60}), 60),
        (true, json!({"delay_first_ms": 60}), 60),
        (true, json!({"tokens": 4, "delay_token_ms": 20}), 60),
        (false, json!({"tokens": 4, "delay_token_ms": 20}), 60),
        (false, json!({"delay_unary_ms": 40, "delay_first_ms": 20}), 60),
    ] {
        let start = Instant::now();
        let got = ask(&engine, "hello", stream, &sim);
        assert!(got.status_line.ends_with("OK"));
        assert!(start.elapsed() >= Duration::from_millis(least), "{sim}");
        assert!(start.elapsed() < PATIENCE, "{sim}");
    }
}

#[test]
fn an_order_that_is_not_known_is_refused_by_name() {
    let engine = engine(Options::default());
    for (order, name) in [
        (json!({"tokns": 1}), "tokns"),
        (json!({"cut": {"at": 1}}), "at"),
        (json!({"cut": {"how": "axe"}}), "axe"),
        (json!(7), "Fault"),
    ] {
        let got = ask(&engine, "hello", false, &order);
        assert_eq!(got.status_line, "HTTP/1.1 400 Bad Request");
        let message = got.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(message.contains(name), "{message}");
    }
}

#[test]
fn a_request_wins_over_the_engines_defaults_field_by_field() {
    let fault = Fault {
        tokens: Some(2),
        no_done: Some(true),
        no_content_length: Some(Framing::Chunked),
        reasoning_field: Some(ReasoningField::ReasoningContent),
        ..Fault::default()
    };
    let engine = engine(Options { fault, ..Options::default() });
    let events = ask(&engine, "hello", true, &Value::Null).events();
    assert_eq!(events.len(), 4);
    let got = ask(&engine, "hello", true, &json!({"tokens": 3, "no_done": false}));
    assert_eq!((got.events().len(), got.content().as_str()), (6, "tok0 tok1 tok2"));
    let got = ask(&engine, "hello", false, &json!({}));
    assert_eq!(got.header("transfer-encoding"), Some("chunked"));
    assert!(got.json()["choices"][0]["message"].get("reasoning_content").is_some());
}
