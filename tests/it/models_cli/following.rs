//! Logs that are followed: `GET /v1/logs/backends/{name}?follow=1`, `logs NAME -f`.

use nix::sys::signal::Signal;
use serde_json::json;

use super::run::Models;
use crate::support::engines::Engined;
use crate::support::{Ask, BOUND, Client, Engines};

const READY: &str = "Application startup complete.";

fn activate(it: &Engined, model: &str) {
    let done = it.order("activate", json!({"model": model, "wait": true}));
    assert_eq!(done.status(), 200, "{}", done.text());
}

fn stop(it: &Engined) {
    it.order("deactivate", json!({}));
    it.wait_engine("stopped");
}

fn follow(it: &Engined, query: &str) -> Client {
    let path = format!("/v1/logs/backends/tiny-a?{query}");
    let mut client = Ask::get(&path).open(it.daemon.addr());
    let head = client.head();
    assert_eq!((head.status, head.get("content-type")), (200, Some("text/event-stream")));
    client
}

#[test]
fn a_log_is_followed_from_before_its_engine_over_its_restart_to_the_daemons_end() {
    let mut it = Engines::two().set("server", "heartbeat_ms", 50).start();
    let mut early = follow(&it, "follow=1");
    early.read_until(": still here\n\n");
    activate(&it, "tiny-a");
    early.read_until(&format!("{READY}\n\n"));
    let mut late = follow(&it, "follow=true&lines=1");
    late.read_until("\n\n"); // the greeting
    stop(&it);
    activate(&it, "tiny-a");
    for client in [&mut early, &mut late] {
        let text = String::from_utf8(client.read_until(&format!("{READY}\n\n"))).expect("text");
        let events: Vec<&str> = text.split_terminator("\n\n").collect();
        let whole = |event: &&str| {
            let line = event.split_once('\n').map_or(*event, |(id, line)| {
                assert!(id.starts_with("id: "), "{event:?}");
                line
            });
            !line.contains('\n') && ["data: ", ": ", "id: "].iter().any(|s| line.starts_with(s))
        };
        assert!(events.iter().all(whole), "{events:?}");
    }
    it.daemon.terminate();
    for client in [&mut early, &mut late] {
        while client.piece().expect("an uncut body").is_some() {}
    }
    assert!(it.daemon.wait_exit(BOUND).success());
}

#[test]
fn what_is_not_a_log_is_not_followed() {
    let it = Engines::two().start();
    let ask = |path: &str| Ask::get(&format!("/v1/logs/backends/{path}")).reply(it.daemon.addr());
    ask("no-such?follow=1").error(404, "err_model_not_found");
    ask("tiny-a?follow=perhaps").error(400, "err_invalid_request");
    ask("tiny-a?follow=0").error(404, "err_not_found");
}

#[test]
fn the_log_is_printed_and_followed_over_a_restart() {
    let mut it = Engines::two().start();
    let models = Models::of(&it.daemon);
    models.run(&["logs", "tiny-a"]).failed(3, "nothing has been written to the log of tiny-a yet");
    activate(&it, "tiny-a");
    let printed = models.run(&["logs", "tiny-a", "--lines", "2"]);
    assert_eq!(printed.out().lines().count(), 2, "{}", printed.out());
    assert!(printed.out().contains(READY), "{}", printed.out());
    let following = models.begin(&["logs", "tiny-a", "-f", "--lines", "1"]);
    following.until(READY);
    stop(&it);
    activate(&it, "tiny-a");
    following.until(READY);
    it.daemon.terminate();
    following.until_err("the daemon has ended; trying to connect again");
    assert!(it.daemon.wait_exit(BOUND).success());
    following.signal(Signal::SIGINT);
    assert_eq!(following.end().1, [""; 0]);
}
