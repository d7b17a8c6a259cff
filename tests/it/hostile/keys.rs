//! Keys that are guessed.

use serde_json::json;

use super::{Siege, at_once, backend, hasty, statuses, talk_once};
use crate::support::{Ask, vllm};

const KEY: &str = "a-key-that-is-right";

#[test]
fn hundreds_of_wrong_keys_are_refused_and_the_right_one_is_not_locked_out() {
    let upstream = backend();
    let daemon = hasty(&upstream)
        .set("security", "api_keys", format!("[{{ name = \"gui\", key = {KEY:?} }}]"))
        .set("server", "enable_metrics", true)
        .start();
    let right = || Ask::chat(vllm::ask(false)).header("x-api-key", KEY);
    assert_eq!(right().reply(daemon.addr()).status(), 200);
    let guesses: Vec<String> = (0..600)
        .map(|n| match n % 6 {
            0 => KEY[..n % KEY.len()].to_owned(),
            1 => format!("{KEY}{n}"),
            2 => KEY.to_uppercase(),
            3 => "x".repeat(n * 100),
            4 => format!("{n}\u{e9}\u{9b}"),
            _ => format!("guess-{n}"),
        })
        .collect();
    let siege = Siege::lay_with(&daemon, &right());
    siege.attack(|| {
        at_once(&guesses, |guess| {
            for ask in [
                Ask::chat(vllm::ask(false)).header("x-api-key", guess),
                Ask::get("/v1/config/chat-proxy")
                    .header("authorization", &format!("Bearer {guess}")),
            ] {
                let said = talk_once(daemon.addr(), &ask);
                assert_eq!(statuses(&said), [401], "{guess:.50}: {said}");
            }
        });
        assert_eq!(right().reply(daemon.addr()).status(), 200);
    });
    let seen = Ask::get("/metrics").header("x-api-key", KEY).reply(daemon.addr()).text();
    let figures = seen.lines().count();
    assert!(figures < 2000 && !seen.contains("guess-"), "{figures} lines of figures");
    assert!(!daemon.stderr().contains(KEY) && !daemon.stderr().contains("guess-"));
    siege.lift_asking(&right());
}

#[test]
fn a_key_that_may_only_chat_gives_no_orders_and_sees_nothing_of_the_inside() {
    let upstream = backend();
    let keys = format!("[{{ name = \"gui\", key = {KEY:?}, rights = [\"chat\"] }}]");
    let daemon = hasty(&upstream).set("security", "api_keys", keys).start();
    let order =
        json!({"model": "tiny-a", "owner": "x", "service": "x", "enabled": true, "name": "x"});
    let mut all: Vec<Ask> = [
        "/v1/backends/vllm/activate",
        "/v1/backends/vllm/deactivate",
        "/v1/backends/ollama/load",
        "/v1/backends/ollama/unload",
        "/v1/autostart/start",
        "/v1/autostart/stop",
        "/v1/gpu/lease",
        "/v1/gpu/force_release",
        "/v1/gpu/unload_all",
    ]
    .map(|path| Ask::post(path, &order))
    .into();
    for path in ["/v1/config/chat-proxy", "/v1/config/profile", "/v1/autostart/enabled"] {
        all.push(Ask::new("PUT", path).json_body(&order));
    }
    for path in [
        "/v1/config/chat-proxy",
        "/v1/config/profile",
        "/v1/debug/registry",
        "/v1/logs/chat",
        "/v1/logs/chat?follow=1",
        "/v1/logs/backends/tiny-a",
        "/v1/events",
    ] {
        all.push(Ask::get(path));
    }
    for ask in all {
        let said = talk_once(daemon.addr(), &ask.header("x-api-key", KEY));
        assert_eq!(statuses(&said), [403], "{said:.400}");
    }
    let chat = Ask::chat(vllm::ask(false)).header("x-api-key", KEY);
    assert_eq!(chat.reply(daemon.addr()).status(), 200);
}
