//! Names of models that are paths, orders to a terminal, or endless: in bodies, paths and arguments.
//! They are never a path of ours, and never reach a line of a log or a terminal as they are.

use serde_json::{Value, json};

use super::{Siege, at_once, backend, hasty, statuses, talk_once};
use crate::support::{Ask, Daemon, Upstream};

/// Names, as a client may write them in JSON.
fn names() -> Vec<String> {
    let mut names: Vec<String> = [
        "../../../../etc/passwd",
        "/etc/passwd",
        "..%2f..%2f..%2fetc%2fpasswd",
        "%2e%2e/%2e%2e/etc/passwd",
        "....//....//etc/passwd",
        "..\\..\\etc\\passwd",
        "file:///etc/passwd",
        "tiny-x/../../chat_proxy.toml",
        "tiny-x\0",
        "\0",
        "tiny-x\nWARN forged=\"line\"",
        "tiny-x\r\nx-evil: 1",
        "\u{1b}[2J\u{1b}]0;owned\u{7}",
        "\u{1b}]52;c;ZXZpbA==\u{7}",
        "\u{9b}31m",
        "\u{7f}\u{8}\u{8}",
        "\u{202e}x-ynit",
        "\u{2066}tiny-x\u{2069}",
        "tiny-x\u{2028}forged",
        "$(touch owned)",
        "; touch owned #",
        "--help",
        "{{7*7}}",
        "${jndi:ldap://x}",
        "\u{feff}tiny-x",
        "\u{fdd0}\u{10ffff}",
    ]
    .map(str::to_owned)
    .into();
    names.push("A".repeat(10 << 20));
    names.push("../".repeat(1 << 20));
    names.push("\u{1b}[31m".repeat(1 << 18));
    names
}

/// Every byte that is not plain escaped.
fn in_path(name: &str) -> String {
    name.bytes().map(|byte| format!("%{byte:02x}")).collect::<Vec<_>>().concat()
}

/// What a terminal would obey, or be fooled by.
fn obeyed(text: &str) -> Option<char> {
    let bidi = |c: char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().find(|c| (c.is_control() && !matches!(c, '\n' | '\t')) || bidi(*c))
}

/// An answer in the usual shape, and nothing of a file in it.
#[track_caller]
fn assert_refused(said: &str, name: &str) {
    let status = statuses(said.split("\r\n\r\n").next().unwrap_or_default());
    assert!(matches!(status[..], [400 | 404 | 409 | 413 | 414]), "{name:.60}: {said:.500}");
    assert!(!said.contains("root:") && !said.contains("[server]"), "{said:.500}");
    assert!(said.len() < 8000, "{name:.60}: {} bytes", said.len());
    let (head, body) = said.split_once("\r\n\r\n").expect("a head");
    assert!(!head.to_lowercase().contains("\nx-evil"), "{head}");
    assert_eq!(obeyed(&head.replace('\r', "")), None, "{head}");
    if !body.is_empty() {
        let raw = body.bytes().find(u8::is_ascii_control);
        assert_eq!(raw, None, "{name:.60}: {body:.500}");
        let error: Value = serde_json::from_str(body).expect("JSON");
        assert!(error["error"]["message"].is_string(), "{body}");
    }
}

fn try_all(daemon: &Daemon) {
    at_once(&names(), |name| {
        let body = json!({"model": name, "messages": [], "input": "x", "stream": true});
        let name_alone = json!({"model": name});
        for ask in [
            Ask::chat(body.to_string()),
            Ask::post("/v1/embeddings", &body),
            Ask::post("/v1/backends/vllm/activate", &name_alone),
            Ask::post("/v1/backends/ollama/load", &name_alone),
            Ask::post("/v1/autostart/start", &json!({"service": name})),
            Ask::new("PUT", "/v1/config/profile").json_body(&json!({"name": name})),
        ] {
            assert_refused(&talk_once(daemon.addr(), &ask), name);
        }
        if name.len() > 20_000 {
            return; // longer than a head may be
        }
        let escaped = in_path(name);
        for path in [
            format!("/v1/models/{escaped}"),
            format!("/v1/logs/backends/{escaped}"),
            format!("/v1/logs/backends/{escaped}?follow=1"),
            format!("/v1/models/select_by_role?role={escaped}"),
            format!("/v1/logs/chat?last_event_id={escaped}"),
            format!("/v1/events?last_event_id={escaped}"),
            format!("/v1/{escaped}"),
        ] {
            assert_refused(&talk_once(daemon.addr(), &Ask::get(&path)), name);
        }
    });
    for path in ["/v1/models/%ff%fe", "/v1/logs/backends/%c3%28", "/v1/models/%00", "/v1/models/%"]
    {
        assert_refused(&talk_once(daemon.addr(), &Ask::get(path)), path);
    }
}

fn daemon(upstream: &Upstream, format: &str) -> Daemon {
    hasty(upstream)
        .set("logging", "log_format", format!("{format:?}"))
        .env("RUST_LOG", "debug")
        .start()
}

#[test]
fn names_are_never_paths_and_never_reach_a_log_as_they_are() {
    for format in ["human", "json"] {
        let upstream = backend();
        let daemon = daemon(&upstream, format);
        let siege = Siege::lay(&daemon);
        let before = upstream.seen().len();
        siege.attack(|| try_all(&daemon));
        assert_eq!(upstream.seen().len(), before);
        let stderr = daemon.stderr();
        assert!(stderr.contains("request refused"), "{stderr:.1000}");
        let line = stderr.lines().find(|line| obeyed(line).is_some());
        assert_eq!(line, None, "{format}");
        let longest = stderr.lines().map(str::len).max().unwrap_or(0);
        assert!(longest < 8000, "{format}: a line of {longest} bytes");
        assert!(!stderr.lines().any(|line| line.starts_with("WARN forged")), "{format}");
        let log = std::fs::read_to_string(daemon.path("logs/chat.jsonl")).expect("a log");
        let longest = log.lines().map(str::len).max().unwrap_or(0);
        assert!(longest < 8000, "a record of {longest} bytes");
        assert!(log.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()));
        assert!(!log.chars().any(|c| c.is_control() && c != '\n'));
        let found = crate::support::files_below(&daemon.path(""));
        assert!(found.iter().all(|path| !path.to_string_lossy().contains("owned")), "{found:?}");
        siege.lift();
    }
}

#[test]
fn names_in_arguments_never_reach_a_terminal_as_they_are() {
    let upstream = backend();
    let daemon = hasty(&upstream).start();
    let arguments: Vec<String> = names().into_iter().filter(|name| !name.contains('\0')).collect();
    for name in arguments.iter().filter(|name| name.len() < 50_000) {
        for args in [
            &["models", "show", "--", name][..],
            &["models", "logs", "--", name],
            &["models", "activate-model", "--", name],
            &["models", "select", "--", name],
            &["models", "lock", "--", name],
            &["models", "verify", "--", name],
            &["models", "list", "--role", name],
        ] {
            let (code, said) = daemon.program(args);
            assert!(code.is_some(), "{args:?}: it was killed: {said}");
            assert_eq!(obeyed(&said), None, "{args:?}: {said:?}");
            assert!(!said.contains("root:"), "{args:?}: {said}");
        }
    }
    let found = crate::support::files_below(&daemon.path(""));
    assert!(found.iter().all(|path| !path.to_string_lossy().contains("owned")), "{found:?}");
}

/// What a registry says is shown to people too: it may come from a model that somebody downloaded.
#[test]
fn names_of_a_registry_never_reach_a_terminal_as_they_are() {
    let upstream = backend();
    let evil = "evil\u{1b}[31m\u{202e}\u{9b}2J\u{7}";
    let daemon = hasty(&upstream)
        .entry(json!({
            "name": evil, "display_name": evil, "backend": "openai", "model_aliases": [evil],
            "served_model_id": evil, "roles": ["caption"],
            "backend_config": {"base_url": upstream.base_url()},
        }))
        .start();
    for args in [
        &["models", "list"][..],
        &["models", "show", evil],
        &["models", "select", "caption", "--explain"],
        &["models", "backends"],
        &["models", "activate-model", evil],
        &["check-config"],
    ] {
        let (_, said) = daemon.program(args);
        assert_eq!(obeyed(&said), None, "{args:?}: {said:?}");
    }
    let reply = Ask::chat(json!({"model": evil, "messages": []}).to_string()).reply(daemon.addr());
    assert_eq!(reply.status(), 200);
    assert!(reply.head.get("x-imageworks-model").is_none_or(|name| obeyed(name).is_none()));
    assert_eq!(obeyed(&daemon.stderr()), None, "{}", daemon.stderr());
}
