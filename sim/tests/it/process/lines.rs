//! Lines of log that were ordered.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal::SIGTERM;
use serde_json::json;
use sim_engine::Options;

use super::Engine;
use crate::client::{Client, Response};

fn is_healthy(engine: &Engine) -> bool {
    engine.get("/health").status_line == "HTTP/1.1 200 OK"
}

fn refusal(response: &Response) -> String {
    assert_eq!(response.status_line, "HTTP/1.1 400 Bad Request");
    response.json()["error"]["message"].as_str().unwrap().to_owned()
}

#[test]
fn lines_of_log_are_written_when_the_answer_comes() {
    let engine = Engine::ready("");
    let before = engine.log().len();
    for (order, written) in [
        (json!({"lines": 2000, "bytes": 100}), 2000),
        (json!({"lines": 3, "bytes": 100, "from": 2000}), 3),
        (json!({"lines": 0, "bytes": 100}), 0),
    ] {
        let answer = engine.order("/sim/log", &order).response();
        assert_eq!(answer.json(), json!({"written": written}));
    }
    let log = engine.log().split_off(before);
    assert_eq!(log.len(), 2003 * 100);
    for (n, line) in log.lines().enumerate() {
        let padding = line.strip_prefix(&format!("sim-log {n} ")).unwrap();
        assert!(line.len() == 99 && padding.bytes().all(|b| b == b'.'), "{line}");
    }
}

#[test]
fn an_order_of_lines_that_is_wrong_is_refused_and_nothing_is_written() {
    let engine = Engine::ready("");
    let before = engine.log();
    for (order, told) in [
        (json!({"lines": 2000, "bytes": 10}), "line 1999 needs 14"),
        (json!({"lines": 1 << 20, "bytes": 1 << 11}), "more than 1073741824"),
        (json!({"bytes": 100}), "`lines`"),
        (json!({"lines": -1, "bytes": 100}), "-1"),
    ] {
        let said = refusal(&engine.order("/sim/log", &order).response());
        assert!(said.contains(told), "{said}");
    }
    assert_eq!(engine.log(), before);
    assert_eq!(engine.get("/sim/log").status_line, "HTTP/1.1 405 Method Not Allowed");
}

#[test]
fn while_nobody_reads_its_lines_it_serves_on_and_waits() {
    let words = ["serve", "tiny-a", "--port", "0"];
    let mut engine = Engine::spawn_heard_by(&words, "", Some(Stdio::piped()));
    // More than a pipe holds.
    let mut client = engine.order("/sim/log", &json!({"lines": 1000, "bytes": 1000}));
    assert!(client.is_silent(Duration::from_millis(200)));
    assert!(is_healthy(&engine));
    let mut lines = BufReader::new(engine.child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().starts_with("sim-log 999 ")));
    assert_eq!(client.response().json(), json!({"written": 1000}));
}

#[test]
fn while_nobody_reads_its_lines_it_ends_when_it_is_told() {
    let words = ["serve", "tiny-a", "--port", "0"];
    let mut engine = Engine::spawn_heard_by(&words, "", Some(Stdio::piped()));
    let mut client = engine.order("/sim/log", &json!({"lines": 1000, "bytes": 1000}));
    assert!(client.is_silent(Duration::from_millis(200)));
    engine.signal(SIGTERM);
    assert_eq!(engine.exit(), Some(0));
}

#[test]
fn when_its_lines_cannot_be_written_the_answer_says_so() {
    let words = ["serve", "tiny-a", "--port", "0"];
    let mut engine = Engine::spawn_heard_by(&words, "", Some(Stdio::piped()));
    drop(engine.child.stderr.take());
    let answer = engine.order("/sim/log", &json!({"lines": 1, "bytes": 100})).response();
    assert_eq!(answer.status_line, "HTTP/1.1 500 Internal Server Error");
    assert!(answer.text().contains("Broken pipe"), "{}", answer.text());
    assert!(is_healthy(&engine));
}

#[test]
fn an_embedded_engine_writes_nothing() {
    let engine = crate::client::engine(Options::default());
    let mut client = Client::connect(engine.addr());
    client.post("/sim/log", r#"{"lines": 1, "bytes": 100}"#);
    assert_eq!(client.response().status_line, "HTTP/1.1 404 Not Found");
}
