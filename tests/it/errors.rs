//! Backends that fail, refuse or talk nonsense (SPEC 2.1, 6.3).

use std::net::TcpListener;

use serde_json::json;

use crate::support::daemon::entry;
use crate::support::{Ask, Daemon, End, Reply, Setup, Upstream, sse, vllm};

fn chat(daemon: &Daemon, stream: bool) -> Reply {
    let reply = Ask::chat(vllm::ask(stream)).reply(daemon.addr());
    assert_eq!(reply.end, End::Whole);
    reply
}

/// Asserts `err_backend_unavailable` as an answer of its own; gives message and hint.
#[track_caller]
fn unavailable(reply: &Reply) -> String {
    let error = reply.error(502, "err_backend_unavailable");
    assert_eq!(error["type"], "backend_unavailable");
    assert_eq!(reply.head.get("retry-after"), Some("2"));
    error.to_string()
}

#[test]
fn a_backends_own_refusal_passes_byte_for_byte() {
    let upstream =
        Upstream::answering("400 Bad Request", "application/json", vllm::BAD_TEMPERATURE);
    let daemon = Setup::with(&upstream).start();
    for stream in [false, true] {
        let reply = chat(&daemon, stream);
        assert_eq!((reply.status(), reply.text()), (400, vllm::BAD_TEMPERATURE.to_owned()));
        assert_eq!(reply.head.get("content-type"), Some("application/json"));
        assert_eq!(reply.head.get("x-should-retry"), Some("false"));
    }
    assert!(daemon.log_lines(2).iter().all(|line| line["status"] == 400));
}

#[test]
fn a_refusal_in_another_shape_is_reshaped() {
    for (status, code, kind, body, message) in [
        ("404 Not Found", 404, "application/json", r#"{"detail":"Not Found"}"#, "Not Found"),
        ("422 Unprocessable", 422, "application/json", r#"{"detail":[{"loc":["x"]}]}"#, "loc"),
        ("400 Bad Request", 400, "text/plain", "no such thing", "no such thing"),
        ("413 Too Large", 413, "text/html", "<html>nginx</html>", "413"),
    ] {
        let upstream = Upstream::answering(status, kind, body);
        let daemon = Setup::with(&upstream).start();
        for stream in [false, true] {
            let reply = chat(&daemon, stream);
            assert_eq!(reply.status(), code);
            let error = &reply.json()["error"];
            assert!(error["message"].as_str().unwrap().contains(message), "{error}");
            assert!(
                error["type"].is_string()
                    && error.get("code").is_some()
                    && error.get("param").is_some()
            );
        }
    }
}

#[test]
fn a_backends_own_retry_advice_is_kept() {
    for status in ["429 Too Many Requests", "503 Service Unavailable"] {
        let upstream = Upstream::start(move |_, wire| {
            let body = r#"{"error":{"message":"busy","type":"x","param":null,"code":429}}"#;
            let head = format!(
                "HTTP/1.1 {status}\r\nretry-after: 17\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            wire.send(head.as_bytes());
            wire.send(body.as_bytes());
        });
        let daemon = Setup::with(&upstream).start();
        for stream in [false, true] {
            let reply = chat(&daemon, stream);
            assert_eq!(reply.status().to_string(), status[..3]);
            assert_eq!(reply.head.get("retry-after"), Some("17"), "{status}, stream {stream}");
            assert_eq!(reply.json()["error"]["message"], "busy");
        }
    }
}

#[test]
fn a_backends_server_error_keeps_status_and_message() {
    for (status, code, kind, body, message) in [
        (
            "500 Internal Server Error",
            500,
            "text/plain",
            "Internal Server Error",
            "Internal Server Error",
        ),
        (
            "507 Full",
            507,
            "application/json",
            r#"{"error":{"message":"out of memory"}}"#,
            "out of memory",
        ),
        ("503 Unavailable", 503, "text/plain", "", "503"),
    ] {
        let upstream = Upstream::answering(status, kind, body);
        let daemon = Setup::with(&upstream).start();
        for stream in [false, true] {
            let error = chat(&daemon, stream).error(code, "err_backend_error");
            assert_eq!(error["type"], "backend_error");
            assert!(error["message"].as_str().unwrap().contains(message), "{error}");
        }
        assert!(daemon.log_lines(2).iter().all(|l| l["error"]["code"] == "err_backend_error"));
    }
}

#[test]
fn an_error_event_of_the_backend_ends_the_stream_without_done() {
    let error = "data: {\"error\":{\"message\":\"EngineCore encountered an issue.\",\"type\":\"InternalServerError\",\"param\":null,\"code\":500}}\n\n";
    let events = vec![vllm::role(0), vllm::word(0, "a"), error.to_owned(), sse::DONE.to_owned()];
    let upstream = Upstream::streaming(events.clone());
    let daemon = Setup::with(&upstream).start();
    let reply = chat(&daemon, true);
    assert_eq!((reply.status(), reply.text()), (200, events[..3].concat()));
    let line = daemon.log_line();
    assert_eq!(
        (&line["status"], &line["error"]["code"]),
        (&json!(200), &json!("err_backend_error"))
    );
    // In an engine's words, which may quote what it was asked: the client has them.
    assert!(!line.to_string().contains("EngineCore"), "{line}");
}

#[test]
fn a_redirect_is_not_followed_but_named() {
    let elsewhere = Upstream::answering("200 OK", "application/json", vllm::WHOLE);
    let location = format!("{}/chat/completions", elsewhere.base_url());
    let answer = format!(
        "HTTP/1.1 307 Temporary Redirect\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n"
    );
    let upstream = Upstream::start(move |_, wire| {
        wire.send(answer.as_bytes());
    });
    let daemon = Setup::with(&upstream).start();
    for stream in [false, true] {
        let said = unavailable(&chat(&daemon, stream));
        assert!(said.contains(&location), "{said}");
    }
    assert!(elsewhere.seen().is_empty());
}

#[test]
fn a_stream_without_any_event_is_a_failure() {
    for body in [&[][..], &[": comment\n\n"], &["\n\n"]] {
        let chunks: Vec<String> = body.iter().map(ToString::to_string).collect();
        let upstream = Upstream::streaming(chunks);
        let daemon = Setup::with(&upstream).start();
        unavailable(&chat(&daemon, true));
    }
}

#[test]
fn an_answer_in_one_piece_where_a_stream_was_due_is_a_failure() {
    for (kind, body) in [("application/json", vllm::WHOLE), ("text/html", "<html>login</html>")] {
        let upstream = Upstream::answering("200 OK", kind, body);
        let daemon = Setup::with(&upstream).start();
        let said = unavailable(&chat(&daemon, true));
        assert!(said.contains(kind), "{said}");
    }
}

#[test]
fn nothing_that_listens_is_unavailable_with_a_hint() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let entry = json!({"name": "tiny-a", "backend": "gguf", "chat_template": {"source": "embedded"}, "backend_config": {"port": free.port()}});
    let daemon = Setup::new().entry(entry).start();
    for stream in [false, true] {
        let said = unavailable(&chat(&daemon, stream));
        assert!(said.contains(&free.port().to_string()) && said.contains("hint"), "{said}");
    }
    assert!(
        daemon.log_lines(2).iter().all(|line| line["status"] == 502 && line["backend"] == "gguf")
    );
}

#[test]
fn what_is_no_http_is_a_broken_protocol() {
    for noise in ["SSH-2.0-OpenSSH_9.9\r\n", "HTTP/1.1 banana\r\n\r\n", "\0\0\0\0\r\n\r\n"] {
        let upstream = Upstream::start(move |_, wire| {
            wire.send(noise.as_bytes());
            wire.fin();
        });
        let daemon = Setup::with(&upstream).start();
        for stream in [false, true] {
            unavailable(&chat(&daemon, stream));
        }
    }
}

#[test]
fn broken_chunk_framing_is_a_broken_protocol() {
    let word = vllm::word(0, "a");
    let upstream = Upstream::start(move |_, wire| {
        wire.stream_head();
        wire.chunk(vllm::role(0).as_bytes());
        wire.chunk(word.as_bytes());
        wire.send(b"xyz\r\nnonsense");
        wire.until_gone();
    });
    let daemon = Setup::with(&upstream).start();
    let reply = chat(&daemon, true);
    assert_eq!(reply.status(), 200);
    sse::broken(&reply.body(), "err_backend_unavailable", 502);
}

#[test]
fn the_backends_own_key_is_sent_and_a_missing_one_is_named() {
    let upstream = Upstream::answering("200 OK", "application/json", vllm::WHOLE);
    let mut keyed = entry("tiny-a", &upstream);
    keyed["backend_config"]["api_key_env"] = json!("UPSTREAM_KEY");
    let daemon = Setup::new().entry(keyed.clone()).start();
    for stream in [false, true] {
        let said = unavailable(&chat(&daemon, stream));
        assert!(said.contains("UPSTREAM_KEY"), "{said}");
    }
    assert!(upstream.seen().is_empty());
    let daemon = Setup::new().entry(keyed).env("UPSTREAM_KEY", "up-s3cret").start();
    let ask = Ask::chat(vllm::ask(false)).header("authorization", "Bearer client-key");
    assert_eq!(ask.reply(daemon.addr()).status(), 200);
    assert_eq!(upstream.only().header("authorization"), Some("Bearer up-s3cret"));
    assert!(!daemon.stderr().contains("up-s3cret"));
    assert!(!daemon.log_line().to_string().contains("up-s3cret"));
}

/// Heads of requests are prepared by address: who shares it shares no key, no user agent and no trace.
#[test]
fn entries_with_one_address_keep_their_keys_and_requests_their_headers_apart() {
    let upstream = Upstream::answering("200 OK", "application/json", vllm::WHOLE);
    let mut setup = Setup::new().env("KEY_A", "a-s3cret").env("KEY_B", "b-s3cret");
    let mut entries = vec![entry("open", &upstream)];
    for (name, key) in [("a", "KEY_A"), ("b", "KEY_B")] {
        let mut keyed = entry(name, &upstream);
        keyed["backend_config"]["api_key_env"] = json!(key);
        entries.push(keyed);
    }
    for entry in entries {
        setup = setup.entry(entry);
    }
    let daemon = setup.start();
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    for (name, key, agent) in [
        ("open", None, None),
        ("a", Some("Bearer a-s3cret"), Some("one/1")),
        ("open", None, None),
        ("b", Some("Bearer b-s3cret"), Some("two/2")),
        ("a", Some("Bearer a-s3cret"), None),
    ] {
        let body = json!({"model": name, "messages": []}).to_string();
        let mut ask = Ask::chat(body);
        if let Some(agent) = agent {
            ask = ask.header("user-agent", agent).header("traceparent", trace);
        }
        assert_eq!(ask.reply(daemon.addr()).status(), 200);
        let seen = upstream.seen().pop().unwrap();
        assert_eq!(seen.header("authorization"), key, "{name}");
        assert_eq!(seen.header("traceparent"), agent.map(|_| trace), "{name}");
        let ours = concat!("imageworks-chat-proxy/", env!("CARGO_PKG_VERSION"));
        assert_eq!(seen.header("user-agent"), Some(agent.unwrap_or(ours)), "{name}");
        let host = upstream.addr().to_string();
        assert_eq!(seen.header("host"), Some(host.as_str()));
        assert_eq!(seen.head.to_lowercase().matches("\r\nhost:").count(), 1, "{}", seen.head);
    }
}

#[test]
fn a_base_url_without_a_path_means_v1() {
    let upstream = Upstream::answering("200 OK", "application/json", vllm::WHOLE);
    for (path, want) in [
        ("", "/v1/chat/completions"),
        ("/v1/", "/v1/chat/completions"),
        ("/api/x", "/api/x/chat/completions"),
    ] {
        let mut entry = entry("tiny-a", &upstream);
        entry["backend_config"]["base_url"] = json!(format!("http://{}{path}", upstream.addr()));
        let daemon = Setup::new().entry(entry).start();
        assert_eq!(chat(&daemon, false).status(), 200);
        let head = upstream.seen().pop().unwrap().head;
        assert!(head.starts_with(&format!("POST {want} HTTP/1.1\r\n")), "{head}");
    }
}
