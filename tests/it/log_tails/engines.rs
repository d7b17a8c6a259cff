//! The logs of engines over their restarts, those of the daemon, and the shortening of a log.

use std::fs::OpenOptions;
use std::io::Write;

use serde_json::json;

use super::tail::Tail;
use crate::support::engines::Engined;
use crate::support::{Ask, BOUND, Engines, eventually};

const PATH: &str = "/v1/logs/backends/tiny-a";
const READY: &str = "Application startup complete.";

fn activate(it: &Engined) {
    let done = it.order("activate", json!({"model": "tiny-a", "wait": true}));
    assert_eq!(done.status(), 200, "{}", done.text());
}

/// Reads until a text has come; after every third line the connection is cut.
fn read_with_cuts(it: &Engined, last: &mut Option<String>, text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    loop {
        let mut tail = Tail::again(it.daemon.addr(), PATH, last.as_deref());
        for _ in 0..3 {
            lines.push(tail.line());
            last.clone_from(&tail.last);
            if lines.last().is_some_and(|line| line.contains(text)) {
                return lines;
            }
        }
    }
}

#[test]
fn a_tail_goes_on_over_restarts_of_the_engine_and_of_the_daemon() {
    let mut it = Engines::two().start();
    activate(&it);
    let mut last = None;
    let mut read = read_with_cuts(&it, &mut last, READY);
    it.daemon.kill();
    it.daemon.restart();
    it.wait_engine("ready");
    for _ in 0..2 {
        it.order("deactivate", json!({}));
        it.wait_engine("stopped");
        activate(&it);
    }
    read.extend(read_with_cuts(&it, &mut last, READY));
    read.extend(read_with_cuts(&it, &mut last, READY));
    let parts = ["2", "1"].map(|part| it.daemon.path(&format!("{}.{part}", log(&it))));
    let mut whole: String =
        parts.iter().map(|part| std::fs::read_to_string(part).expect("a part")).collect();
    whole.push_str(&std::fs::read_to_string(it.daemon.path(&log(&it))).expect("the log"));
    let whole: Vec<&str> = whole.lines().take(read.len()).collect();
    assert_eq!(read, whole);
}

/// The name of the model's log.
fn log(it: &Engined) -> String {
    it.engine()["log"].as_str().expect("a path").to_owned()
}

#[test]
fn a_tail_goes_on_when_the_log_was_shortened() {
    let it = Engines::two().set("vllm", "vllm_log_max_bytes", 200_000).start();
    activate(&it);
    let path = it.daemon.path(&log(&it));
    let mut file = OpenOptions::new().append(true).open(&path).expect("the log");
    let line = |number: usize| format!("line {number} {}", "x".repeat(100));
    let mut write = |numbers: std::ops::Range<usize>| {
        let text: String = numbers.map(|number| line(number) + "\n").collect();
        file.write_all(text.as_bytes()).expect("a write");
    };
    write(0..1000);
    let mut tail = Tail::new(it.daemon.addr(), PATH, 500);
    assert_eq!(tail.lines(10), (500..510).map(line).collect::<Vec<_>>());
    let last = tail.last.clone();
    write(1000..3000);
    let mut head = path.clone().into_os_string();
    head.push(".1");
    eventually("it is shortened", BOUND, || {
        std::fs::metadata(&head).is_ok_and(|head| head.len() > 200_000).then_some(())
    });
    write(3000..3010);
    let want: Vec<String> = (510..3010).map(line).collect();
    let mut again = Tail::again(it.daemon.addr(), PATH, last.as_deref());
    assert!(again.lines(want.len()) == want, "who came again");
    assert!(tail.lines(want.len()) == want, "who stayed");
}

#[test]
fn what_is_no_place_is_refused_here_too() {
    let it = Engines::two().start();
    activate(&it);
    let ask = Ask::get(&format!("{PATH}?follow=1")).header("last-event-id", "1-2");
    ask.reply(it.daemon.addr()).error(400, "err_invalid_request");
}
