//! `GET /v1/logs/chat`: the request log, over its rotated parts.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::{Value, json};

use super::tail::{CHAT, Heard, Tail, request_of};
use crate::support::{Ask, BOUND, Daemon, Setup, Upstream, alone, eventually, vllm};

pub const LOG: &str = "logs/chat.jsonl";

pub fn upstream() -> Upstream {
    Upstream::answering("200 OK", "application/json", vllm::WHOLE)
}

pub fn ask(daemon: &Daemon, id: &str) {
    let ask = Ask::chat(vllm::ask(false)).header("x-request-id", id);
    assert_eq!(ask.reply(daemon.addr()).status(), 200);
}

/// A request whose line is in the log when this returns.
pub fn ask_and_wait(daemon: &Daemon, id: &str) {
    ask(daemon, id);
    eventually("its line", BOUND, || {
        let shown = Ask::get(&format!("{CHAT}?lines=9")).reply(daemon.addr());
        shown.text().contains(id).then_some(())
    });
}

#[test]
fn the_last_requests_are_shown_and_those_that_come_are_followed() {
    let upstream = upstream();
    let mut daemon = Setup::with(&upstream)
        .set("server", "max_log_bytes", 1024)
        .set("server", "heartbeat_ms", 50)
        .start();
    Ask::get(CHAT).reply(daemon.addr()).error(404, "err_not_found");
    let mut early = Tail::new(daemon.addr(), CHAT, 9);
    early.client.read_until(": still here\n\n");
    for id in ["r-1", "r-2", "r-3", "r-4"] {
        ask_and_wait(&daemon, id);
    }
    assert!(daemon.path("logs/chat.jsonl.1").exists(), "it was rotated");
    let shown = Ask::get(&format!("{CHAT}?lines=3")).reply(daemon.addr());
    assert_eq!(shown.head.get("content-type"), Some("application/x-ndjson"));
    let text = shown.text();
    assert_eq!(text.lines().map(request_of).collect::<Vec<_>>(), ["r-2", "r-3", "r-4"]);
    assert!(text.ends_with("}\n"));
    assert_eq!(Ask::get(&format!("{CHAT}?lines=0")).reply(daemon.addr()).text(), "");
    for id in ["r-1", "r-2", "r-3", "r-4"] {
        assert_eq!(early.request(), id);
    }
    let mut late = Tail::new(daemon.addr(), CHAT, 1);
    assert_eq!(late.request(), "r-4");
    ask(&daemon, "r-5");
    assert_eq!((early.request(), late.request()), ("r-5".into(), "r-5".into()));
    daemon.terminate();
    assert_eq!((early.next(), late.next()), (None, None), "it ends with the daemon");
    assert!(daemon.wait_exit(BOUND).success());
    // Another daemon knows the places of the one before.
    daemon.restart();
    ask_and_wait(&daemon, "r-6");
    let last = early.last.expect("a place");
    let mut again = Tail::again(daemon.addr(), CHAT, Some(&last));
    assert_eq!(again.request(), "r-6");
    let query = format!("{CHAT}?follow=1&last_event_id={last}");
    assert_eq!(Tail::open(daemon.addr(), &Ask::get(&query)).request(), "r-6");
}

#[test]
fn before_the_first_line_there_is_a_place_too() {
    let upstream = upstream();
    let daemon = Setup::with(&upstream).start();
    ask_and_wait(&daemon, "r-1");
    let mut tail = Tail::new(daemon.addr(), CHAT, 0);
    let begin = String::from_utf8(tail.client.read_until("\n\n")).expect("text");
    let place = begin.strip_prefix("id: ").and_then(|id| id.strip_suffix("\n\n")).expect("an id");
    drop(tail);
    ask(&daemon, "r-2");
    assert_eq!(Tail::again(daemon.addr(), CHAT, Some(place)).request(), "r-2");
}

#[test]
fn a_place_that_is_gone_is_a_gap_and_what_is_no_place_is_refused() {
    let upstream = upstream();
    let daemon = Setup::with(&upstream)
        .set("server", "max_log_bytes", 1024)
        .set("logging", "max_log_files", 2)
        .start();
    ask_and_wait(&daemon, "r-0");
    let mut tail = Tail::new(daemon.addr(), CHAT, 9);
    assert_eq!(tail.request(), "r-0");
    let last = tail.last.clone().expect("a place");
    for id in 1..9 {
        ask_and_wait(&daemon, &format!("r-{id}"));
    }
    let ask = Ask::get(&format!("{CHAT}?follow=1&lines=2")).header("last-event-id", &last);
    let mut again = Tail::open(daemon.addr(), &ask);
    assert_eq!(again.next(), Some(Heard::Gap));
    assert_eq!((again.request(), again.request()), ("r-7".into(), "r-8".into()));
    for (ask, param) in [
        (Ask::get(&format!("{CHAT}?follow=1")).header("last-event-id", "7"), "last-event-id"),
        (Ask::get(&format!("{CHAT}?follow=1&last_event_id=1-2-3-x")), "last_event_id"),
        (Ask::get(&format!("{CHAT}?follow=perhaps")), "lines"),
        (Ask::get(&format!("{CHAT}?line=3")), "lines"),
    ] {
        assert_eq!(ask.reply(daemon.addr()).error(400, "err_invalid_request")["param"], param);
    }
    // The header is what counts.
    let both = Ask::get(&format!("{CHAT}?follow=1&last_event_id=x"));
    let both = both.header("last-event-id", &again.last.expect("a place"));
    Tail::open(daemon.addr(), &both);
    Ask::new("POST", CHAT).body("").reply(daemon.addr()).error(405, "err_method_not_allowed");
}

#[test]
fn only_an_admin_may_see_it() {
    let upstream = upstream();
    let keys = "[{ name = \"gui\", key = \"chat-key\" }, \
                 { name = \"op\", key = \"admin-key\", rights = [\"chat\", \"admin\"] }]";
    let daemon = Setup::with(&upstream).set("security", "api_keys", keys).start();
    for path in [CHAT.to_owned(), format!("{CHAT}?follow=1")] {
        let ask = |key: &str| Ask::get(&path).header("x-api-key", key);
        ask("chat-key").reply(daemon.addr()).error(403, "err_forbidden");
        assert_ne!(ask("admin-key").open(daemon.addr()).head().status, 403);
    }
}

#[test]
fn a_log_that_is_no_file_is_said_to_be_none() {
    let upstream = upstream();
    let daemon = Setup::with(&upstream).set("server", "log_path", "\"/dev/null\"").start();
    for path in [CHAT.to_owned(), format!("{CHAT}?follow=1")] {
        let error = Ask::get(&path).reply(daemon.addr()).error(404, "err_not_found");
        let message = error["message"].as_str().expect("a message");
        assert!(message.contains("/dev/null, is no regular file"), "{message}");
    }
}

/// Writes as the log's writer would.
pub fn append(daemon: &Daemon, text: &str) {
    let mut file = OpenOptions::new().append(true).open(daemon.path(LOG)).expect("the log");
    file.write_all(text.as_bytes()).expect("a write");
}

#[test]
fn large_records_are_whole_and_too_large_ones_are_told_without_their_end() {
    let _alone = alone();
    let daemon = Setup::with(&upstream()).start();
    let record = |id: &str, size: usize| {
        json!({"ts": "now", "request_id": id, "status": 200, "messages": "x".repeat(size)})
            .to_string()
            + "\n"
    };
    let (large, larger) = (record("large", 9 << 20), record("larger", 20 << 20));
    append(&daemon, &record("small", 1));
    let mut tail = Tail::new(daemon.addr(), CHAT, 9);
    assert_eq!(tail.request(), "small");
    for text in [&large, &larger, &record("last", 1)] {
        append(&daemon, text);
    }
    assert!(tail.line() == large.trim_end(), "it came otherwise than it was written");
    let behind_large = tail.last.clone();
    let told: Value = serde_json::from_str(&tail.line()).expect("JSON");
    assert_eq!(told["left_out"]["of_bytes"], larger.len() - 1, "{told}");
    assert_eq!((&told["request_id"], &told["status"]), (&json!("larger"), &json!(200)));
    assert_eq!(told.get("messages"), None);
    assert_eq!(tail.request(), "last");
    let mut again = Tail::again(daemon.addr(), CHAT, behind_large.as_deref());
    assert_eq!((again.request(), again.request()), ("larger".into(), "last".into()));
    let shown = Ask::get(&format!("{CHAT}?lines=3")).reply(daemon.addr()).text();
    let shown: Vec<&str> = shown.lines().collect();
    assert!(shown.len() == 3 && shown[0] == large.trim_end());
    assert_eq!(serde_json::from_str::<Value>(shown[1]).expect("JSON"), told);
}

/// Requests that several clients send at a time while their log is rotated every few lines.
#[test]
fn each_request_comes_once_while_the_log_is_rotated_and_the_tail_is_cut() {
    const REQUESTS: usize = 480;
    let _alone = alone();
    let upstream = upstream();
    let daemon = Setup::with(&upstream)
        .set("server", "max_log_bytes", 4096)
        .set("logging", "max_log_files", 100)
        .start();
    let mut tail = Tail::new(daemon.addr(), CHAT, 100);
    let (next, mut heard, mut cuts) = (AtomicUsize::new(0), BTreeMap::new(), 0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= REQUESTS {
                        return;
                    }
                    ask(&daemon, &format!("r-{number}"));
                }
            });
        }
        let mut until_cut = 0;
        while heard.len() < REQUESTS {
            *heard.entry(tail.request()).or_insert(0) += 1;
            if until_cut == 0 {
                // At once, after some lines, or after many; what has come but was not read is lost.
                until_cut = [1, 3, 17, 2, 40][cuts % 5];
                cuts += 1;
                let last = tail.last.take();
                tail = Tail::again(daemon.addr(), CHAT, last.as_deref());
            }
            until_cut -= 1;
        }
    });
    let parts = (1..=100).filter(|n| daemon.path(&format!("{LOG}.{n}")).exists()).count();
    assert!(parts > 50 && cuts > 30, "{parts} parts, {cuts} cuts");
    let twice: Vec<_> = heard.iter().filter(|(_, count)| **count != 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
    let shown = Ask::get(&format!("{CHAT}?lines=10000")).reply(daemon.addr()).text();
    let mut shown: Vec<String> = shown.lines().map(request_of).collect();
    shown.sort();
    assert_eq!(shown, heard.into_keys().collect::<Vec<_>>(), "all parts are shown");
    assert!(fs::metadata(daemon.path(LOG)).expect("the log").len() <= 4096);
}
