//! Pages of other web sites that call the daemon through somebody's browser: with what a browser
//! sends without asking first, and with what it sends when a name means another address by now.

use serde_json::json;

use super::{Siege, at_once, backend, hasty, statuses, talk_once};
use crate::support::{Ask, Daemon, vllm};

/// Everything that does or shows something.
fn all() -> Vec<Ask> {
    let post = |path: &str| Ask::post(path, &json!({}));
    let mut all: Vec<Ask> = [
        "/v1/backends/vllm/activate",
        "/v1/backends/vllm/deactivate",
        "/v1/backends/ollama/load",
        "/v1/backends/ollama/unload",
        "/v1/autostart/start",
        "/v1/autostart/stop",
        "/v1/gpu/lease",
        "/v1/gpu/renew",
        "/v1/gpu/release",
        "/v1/gpu/force_release",
        "/v1/gpu/unload_all",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/audio/transcriptions",
    ]
    .map(post)
    .into();
    for path in ["/v1/config/chat-proxy", "/v1/config/profile", "/v1/autostart/enabled"] {
        all.push(Ask::new("PUT", path).json_body(&json!({"logging": {"log_prompts": true}})));
    }
    for path in [
        "/v1/config/chat-proxy",
        "/v1/models",
        "/v1/debug/registry",
        "/v1/logs/chat",
        "/v1/logs/backends/tiny-a?follow=1",
        "/v1/events",
        "/metrics",
        "/v1/healthz",
    ] {
        all.push(Ask::get(path));
    }
    all.push(Ask::chat(vllm::ask(false)));
    all
}

/// The settings, the GPU and the backends, in words.
fn state(daemon: &Daemon) -> String {
    let shown = ["/v1/config/chat-proxy", "/v1/gpu/status", "/v1/config/profile"];
    shown.map(|path| Ask::get(path).reply(daemon.addr()).text()).concat()
}

#[test]
fn pages_of_others_can_do_nothing_and_see_nothing() {
    let upstream = backend();
    let daemon = hasty(&upstream).set("server", "enable_metrics", true).start();
    let siege = Siege::lay(&daemon);
    let (before, was) = (upstream.seen().len(), state(&daemon));
    let pages: [&[(&str, &str)]; 9] = [
        &[("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")],
        &[("origin", "https://evil.example"), ("content-type", "text/plain")],
        &[("origin", "null"), ("sec-fetch-mode", "no-cors"), ("content-type", "text/plain")],
        &[("origin", "null")],
        &[("origin", "")],
        &[("origin", "file://")],
        &[("origin", "http://localhost:3000"), ("sec-fetch-site", "same-site")],
        &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")],
        // The name of a page that has come to mean this machine.
        &[("host", "evil.example:8100"), ("sec-fetch-site", "same-origin")],
    ];
    siege.attack(|| {
        for headers in pages {
            at_once(&all(), |ask| {
                let ask = headers.iter().fold(ask.clone(), |ask, (n, v)| ask.header(n, v));
                let said = talk_once(daemon.addr(), &ask);
                assert_eq!(statuses(&said), [403], "{headers:?}: {said:.600}");
                assert!(!said.to_lowercase().contains("access-control-allow"), "{said:.600}");
            });
        }
    });
    assert_eq!(upstream.seen().len(), before);
    assert_eq!(state(&daemon), was);
    siege.lift();
}

/// Old browsers say nothing of where a form comes from; no form can send JSON.
#[test]
fn forms_of_old_browsers_give_no_orders() {
    let upstream = backend();
    let daemon = hasty(&upstream).start();
    let siege = Siege::lay(&daemon);
    let was = state(&daemon);
    let order = json!({"model": "tiny-a", "owner": "evil", "service": "x", "enabled": false});
    let kinds = [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=application/json",
        "text/plain; application/json",
        "text/application/json",
        "",
    ];
    siege.attack(|| {
        for kind in kinds {
            for (method, path) in [
                ("POST", "/v1/backends/vllm/activate"),
                ("POST", "/v1/backends/vllm/deactivate"),
                ("POST", "/v1/backends/ollama/unload"),
                ("POST", "/v1/gpu/lease"),
                ("POST", "/v1/gpu/force_release"),
                ("POST", "/v1/autostart/stop"),
                ("PUT", "/v1/autostart/enabled"),
                ("PUT", "/v1/config/chat-proxy"),
                ("PUT", "/v1/config/profile"),
            ] {
                let ask = Ask::new(method, path).header("content-type", kind);
                let said = talk_once(daemon.addr(), &ask.body(&order.to_string()));
                assert_eq!(statuses(&said), [400], "{kind} {path}: {said}");
            }
        }
    });
    assert_eq!(state(&daemon), was);
    siege.lift();
}
