//! The endpoints that are passed on by their model: what goes upstream, what comes back, and how
//! large bodies wait.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::daemon::entry;
use crate::support::sse::DONE;
use crate::support::{Ask, BOUND, Client, End, Engines, Setup, Upstream, eventually};

/// Every endpoint that takes JSON, and where it is at a backend whose base ends in `/v1`.
const JSON: [(&str, &str); 10] = [
    ("/v1/completions", "/v1/completions"),
    ("/v1/embeddings", "/v1/embeddings"),
    ("/v1/responses", "/v1/responses"),
    ("/v1/messages", "/v1/messages"),
    ("/v1/messages/count_tokens", "/v1/messages/count_tokens"),
    ("/v1/rerank", "/v1/rerank"),
    ("/rerank", "/rerank"),
    ("/v1/score", "/v1/score"),
    ("/tokenize", "/tokenize"),
    ("/detokenize", "/detokenize"),
];

fn echo() -> Upstream {
    Upstream::answering("200 OK", "application/json", r#"{"answer": [1,  2]}"#)
}

fn post(path: &str, body: &str) -> Ask {
    Ask::new("POST", path).header("content-type", "application/json").body(body)
}

#[test]
fn only_the_model_changes_on_the_way_and_nothing_on_the_way_back() {
    let upstream = echo();
    let daemon = Setup::with(&upstream).start();
    for (number, (path, there)) in JSON.into_iter().enumerate() {
        let body =
            r#"{ "input" :["model", {"model":"x"}],"n": 1e3,  "model" : "tiny-a" ,"z":null }"#;
        let reply = post(path, body)
            .header("authorization", "Bearer client-secret")
            .header("x-api-key", "client-secret")
            .header("cookie", "a=b")
            .header("user-agent", "tests")
            .reply(daemon.addr());
        assert_eq!(
            (reply.status(), reply.text().as_str()),
            (200, r#"{"answer": [1,  2]}"#),
            "{path}"
        );
        assert_eq!(reply.head.get("x-imageworks-model"), Some("tiny-a"));
        let seen = upstream.seen().remove(number);
        assert!(seen.head.starts_with(&format!("POST {there} HTTP/1.1")), "{}", seen.head);
        assert_eq!(String::from_utf8_lossy(&seen.body), body.replace("tiny-a", "served/tiny-a"));
        assert_eq!(seen.header("content-type"), Some("application/json"));
        assert_eq!(seen.header("user-agent"), Some("tests"));
        for secret in ["authorization", "x-api-key", "cookie"] {
            assert_eq!(seen.header(secret), None, "{path}: {secret}");
        }
    }
    let lines = daemon.log_lines(JSON.len());
    let paths: Vec<&str> =
        lines.iter().map(|line| line["endpoint"].as_str().expect("a path")).collect();
    assert_eq!(paths, JSON.map(|(path, _)| path));
    assert!(lines.iter().all(|line| line["model_logical"] == "tiny-a"), "{lines:?}");
}

#[test]
fn a_base_url_without_v1_keeps_its_path_for_all_endpoints() {
    let upstream = echo();
    let mut at = entry("m", &upstream);
    at["backend_config"]["base_url"] = json!(format!("http://{}/deep/api", upstream.addr()));
    let daemon = Setup::new().entry(at).start();
    for path in ["/v1/responses", "/tokenize"] {
        assert_eq!(post(path, r#"{"model":"m"}"#).reply(daemon.addr()).status(), 200);
    }
    let heads: Vec<String> = upstream.seen().iter().map(|seen| seen.head.clone()).collect();
    assert!(heads[0].starts_with("POST /deep/api/responses "), "{heads:?}");
    assert!(heads[1].starts_with("POST /deep/api/tokenize "), "{heads:?}");
}

#[test]
fn a_form_is_passed_on_byte_for_byte_but_for_its_model() {
    let upstream = Upstream::answering("200 OK", "text/plain; charset=utf-8", "hello there\n");
    let daemon = Setup::with(&upstream).start();
    let audio: String = (b' '..b'z').cycle().take(40_000).map(char::from).collect();
    let form = |model: &str| {
        format!(
            "--XX\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\nContent-Type: audio/wav\r\n\r\n{audio}\r\n--XX\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n{model}\r\n--XX--\r\n"
        )
    };
    let kind = "multipart/form-data; boundary=XX";
    let ask = |body: &str| {
        Ask::new("POST", "/v1/audio/transcriptions").header("content-type", kind).body(body)
    };
    let reply = ask(&form("tiny-a")).reply(daemon.addr());
    assert_eq!((reply.status(), reply.text().as_str()), (200, "hello there\n"));
    assert_eq!(reply.head.get("content-type"), Some("text/plain; charset=utf-8"));
    let seen = upstream.only();
    assert!(seen.head.starts_with("POST /v1/audio/transcriptions "), "{}", seen.head);
    assert!(String::from_utf8_lossy(&seen.body) == form("served/tiny-a"));
    assert_eq!(seen.header("content-type"), Some(kind));

    ask("--XX\r\nhello").reply(daemon.addr()).error(400, "err_invalid_request");
    let error = post("/v1/audio/transcriptions", "{}")
        .reply(daemon.addr())
        .error(400, "err_invalid_request");
    assert!(error["message"].as_str().expect("a text").contains("multipart"), "{error}");
    let unknown = ask(&form("nobody")).reply(daemon.addr());
    unknown.error(404, "err_model_not_found");
}

#[test]
fn a_large_body_waits_on_the_disk_and_arrives_as_it_was() {
    const LARGE: usize = 9 << 20;
    let upstream = echo();
    let daemon = Setup::with(&upstream)
        .set("limits", "body_spool_bytes", 10_000)
        .set("limits", "max_buffered_bytes", 100_000)
        .start();
    let text: String = (b'a'..b'w').cycle().take(LARGE).map(char::from).collect();
    let body = |model: &str| format!(r#"{{"input":"{text}","model":"{model}","end":[1]}}"#);
    let before = daemon.fd_count();
    let reply = post("/v1/embeddings", &body("tiny-a")).reply(daemon.addr());
    assert_eq!(reply.status(), 200, "{}", reply.text());
    let seen = upstream.only();
    assert!(String::from_utf8_lossy(&seen.body) == body("served/tiny-a"));
    let length = body("served/tiny-a").len().to_string();
    assert_eq!(seen.header("content-length"), Some(length.as_str()));
    let names = std::fs::read_dir(daemon.path("_staging")).expect("a directory").flatten();
    let left: Vec<_> =
        names.filter(|e| e.file_name().to_string_lossy().starts_with(".tmp")).collect();
    assert!(left.is_empty(), "{left:?}");
    eventually("the file is closed", BOUND, || (daemon.fd_count() <= before + 2).then_some(()));
    // What waits in memory is still bounded, and what is spooled does not count there.
    let small = format!(r#"{{"input":"{}","model":"tiny-a"}}"#, "x".repeat(9000));
    assert_eq!(post("/v1/embeddings", &small).reply(daemon.addr()).status(), 200);
}

#[test]
fn the_disk_takes_so_much_and_gives_it_back() {
    let upstream = Upstream::start(|seen, wire| {
        if seen.body.ends_with(b"stay\"}") {
            wire.until_gone();
        }
        wire.answer("200 OK", "application/json", b"{}");
    });
    let daemon = Setup::with(&upstream)
        .set("limits", "body_spool_bytes", 1000)
        .set("limits", "max_spooled_bytes", 30_000)
        .start();
    let body = |length: usize, end: &str| {
        format!(r#"{{"model":"tiny-a","input":"{}{end}"}}"#, "x".repeat(length))
    };
    let stays = post("/v1/embeddings", &body(20_000, "stay")).open(daemon.addr());
    upstream.wait_seen(1);
    let error =
        post("/v1/embeddings", &body(20_000, "")).reply(daemon.addr()).error(429, "err_queue_full");
    assert!(error["message"].as_str().expect("a text").contains("max_spooled_bytes"), "{error}");
    for length in [100, 5000] {
        let reply = post("/v1/embeddings", &body(length, "")).reply(daemon.addr());
        assert_eq!(reply.status(), 200, "{}", reply.text());
    }
    drop(stays);
    eventually("the disk is free", BOUND, || {
        let reply = post("/v1/embeddings", &body(20_000, "")).reply(daemon.addr());
        (reply.status() == 200).then_some(())
    });
}

#[test]
fn bodies_that_cannot_be_taken_are_refused_with_the_field_and_the_limit() {
    let upstream = echo();
    let daemon = Setup::with(&upstream).set("limits", "max_body_bytes", 2000).start();
    for (path, body, status, code, told) in [
        ("/tokenize", "{", 400, "err_invalid_request", "JSON"),
        ("/tokenize", "[]", 400, "err_invalid_request", "object"),
        ("/v1/score", r#"{"model":7}"#, 400, "err_invalid_request", "model"),
        (
            "/v1/responses",
            r#"{"model":"tiny-a","stream":"x"}"#,
            400,
            "err_invalid_request",
            "stream",
        ),
        ("/v1/completions", "{}", 400, "err_invalid_request", "model"),
        ("/v1/rerank", r#"{"model":"nobody"}"#, 404, "err_model_not_found", "nobody"),
        (
            "/tokenize",
            &format!(r#"{{"model":"tiny-a","x":"{}"}}"#, "y".repeat(3000)),
            413,
            "err_payload_too_large",
            "2000",
        ),
    ] {
        let error = post(path, body).reply(daemon.addr()).error(status, code);
        assert!(error.to_string().contains(told), "{path}: {error}");
    }
    let reply = Ask::get("/v1/embeddings").reply(daemon.addr());
    reply.error(405, "err_method_not_allowed");
    let reply = Ask::get("/v1/messages").reply(daemon.addr());
    assert_eq!((reply.status(), &reply.json()["type"]), (405, &json!("error")));
    let reply = post("/v1/messages", "{").reply(daemon.addr());
    assert_eq!(reply.json()["type"], "error", "as Anthropic's clients read it");
    reply.error(400, "err_invalid_request");
    assert!(upstream.seen().is_empty());
}

#[test]
fn a_backends_own_errors_pass() {
    let upstream = Upstream::start(|seen, wire| {
        if seen.head.contains("/v1/messages ") {
            let body = r#"{"type":"error","error":{"type":"NotFoundError","message":"no such"}}"#;
            return wire.answer("404 Not Found", "application/json", body.as_bytes());
        }
        if seen.head.contains("/v1/score") {
            return wire.answer("500 Internal Server Error", "text/plain", b"it broke");
        }
        wire.answer("404 Not Found", "application/json", br#"{"detail":"Not Found"}"#);
    });
    let daemon = Setup::with(&upstream).start();
    let body = r#"{"model":"tiny-a"}"#;
    let reply = post("/v1/messages", body).reply(daemon.addr());
    assert_eq!((reply.status(), &reply.json()["error"]["message"]), (404, &json!("no such")));
    let reply = post("/v1/rerank", body).reply(daemon.addr());
    assert_eq!((reply.status(), &reply.json()["error"]["message"]), (404, &json!("Not Found")));
    let reply = post("/v1/messages/count_tokens", body).reply(daemon.addr());
    assert_eq!((reply.status(), &reply.json()["type"]), (404, &json!("error")));
    let error = post("/v1/score", body).reply(daemon.addr()).error(500, "err_backend_error");
    assert_eq!(error["message"], "it broke");
}

#[test]
fn streamed_completions_are_asked_for_usage_which_is_taken_out_again() {
    let usage =
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4}}\n\n";
    let text = "data: {\"choices\":[{\"index\":0,\"text\":\"a\",\"finish_reason\":\"stop\"}]}\n\n";
    let upstream = Upstream::streaming(vec![text.into(), usage.into(), DONE.into()]);
    let daemon = Setup::with(&upstream).start();
    let reply = post("/v1/completions", r#"{"model":"tiny-a","prompt":"x","stream":true}"#)
        .reply(daemon.addr());
    assert_eq!(reply.text(), format!("{text}{DONE}"));
    assert_eq!(upstream.only().json()["stream_options"], json!({"include_usage": true}));
    let line = daemon.log_line();
    assert_eq!((&line["prompt_tokens"], &line["completion_tokens"]), (&json!(3), &json!(4)));
}

fn messages() -> Vec<String> {
    [
        r#"message_start|{"type":"message_start","message":{"usage":{"input_tokens":19,"output_tokens":0}}}"#,
        r#"content_block_delta|{"type":"content_block_delta","delta":{"text":"é"},"index":0}"#,
        r#"message_delta|{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":7}}"#,
        r#"message_stop|{"type":"message_stop"}"#,
    ]
    .map(named)
    .into()
}

fn responses() -> Vec<String> {
    [
        r#"response.created|{"response":{},"type":"response.created"}"#,
        r#"response.output_text.delta|{"delta":"I","type":"response.output_text.delta"}"#,
        r#"response.completed|{"response":{"status":"completed","usage":{"input_tokens":19,"output_tokens":7}},"type":"response.completed"}"#,
    ]
    .map(named)
    .into()
}

fn named(line: &str) -> String {
    let (name, data) = line.split_once('|').expect("two parts");
    format!("event: {name}\ndata: {data}\n\n")
}

#[test]
fn streams_of_other_dialects_pass_byte_for_byte_and_tell_their_tokens() {
    for (path, events, reason) in
        [("/v1/messages", messages(), "end_turn"), ("/v1/responses", responses(), "completed")]
    {
        let upstream = Upstream::streaming(events.clone());
        let daemon = Setup::with(&upstream).start();
        let body = r#"{"model":"tiny-a","stream":true}"#;
        let reply = post(path, body).reply(daemon.addr());
        assert_eq!((reply.status(), reply.end.clone()), (200, End::Whole));
        assert_eq!(reply.text(), events.concat());
        assert_eq!(
            String::from_utf8_lossy(&upstream.only().body),
            body.replace("tiny-a", "served/tiny-a")
        );
        let line = daemon.log_line();
        assert_eq!((&line["prompt_tokens"], &line["completion_tokens"]), (&json!(19), &json!(7)));
        assert_eq!((&line["finish_reason"], &line["stream"]), (&json!(reason), &json!(true)));
        assert!(line["error"].is_null(), "{line}");
    }
}

#[test]
fn a_cut_stream_ends_with_the_error_event_of_its_dialect() {
    for (path, mut events) in [("/v1/messages", messages()), ("/v1/responses", responses())] {
        events.pop();
        let upstream = Upstream::streaming(events.clone());
        let daemon = Setup::with(&upstream).start();
        let reply = post(path, r#"{"model":"tiny-a","stream":true}"#).reply(daemon.addr());
        let told = reply.text();
        let last = told.strip_prefix(&events.concat()).expect("what came before it");
        let data = last.strip_prefix("event: error\ndata: ").expect("an error event");
        let data: Value = serde_json::from_str(data.trim_end()).expect("JSON");
        assert_eq!(data["type"], "error");
        let error = if path == "/v1/messages" { &data["error"] } else { &data };
        assert_eq!(
            (&error["code"], &error["status"]),
            (&json!("err_backend_unavailable"), &json!(502))
        );
        assert_eq!(daemon.log_line()["error"]["code"], "err_backend_unavailable");
    }
}

#[test]
fn what_is_not_streamed_although_it_was_asked_for_passes_whole() {
    let upstream = echo();
    let daemon = Setup::with(&upstream).start();
    let reply = post("/v1/responses", r#"{"model":"tiny-a","stream":true}"#).reply(daemon.addr());
    assert_eq!((reply.status(), reply.text().as_str()), (200, r#"{"answer": [1,  2]}"#));
    assert_eq!(reply.head.get("content-type"), Some("application/json"));
}

#[test]
fn what_cannot_be_streamed_is_waited_for_whole_whatever_was_asked_for() {
    let upstream = echo();
    let daemon = Setup::with(&upstream).set("server", "heartbeat_ms", 20).start();
    let reply = post("/v1/embeddings", r#"{"model":"tiny-a","stream":true}"#).reply(daemon.addr());
    assert_eq!((reply.status(), reply.text().as_str()), (200, r#"{"answer": [1,  2]}"#));
    assert_eq!(daemon.log_line()["stream"], false);
}

#[test]
fn answers_that_are_no_json_pass_where_their_endpoint_may_give_them() {
    // Without a length it is the form that tells whether an answer is whole.
    let upstream = Upstream::start(|_, wire| {
        let head =
            "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n";
        wire.send(head.as_bytes());
        wire.send(b"9\r\nit is 0.5\r\n0\r\n\r\n");
    });
    let daemon = Setup::with(&upstream).start();
    let body = r#"{"model":"tiny-a"}"#;
    let reply = post("/v1/embeddings", body).reply(daemon.addr());
    assert_eq!((reply.status(), reply.text().as_str()), (200, "it is 0.5"));
    assert_eq!(reply.head.get("content-type"), Some("text/plain"));
    // A sentence is no completion.
    post("/v1/completions", body).reply(daemon.addr()).error(502, "err_backend_unavailable");
}

#[test]
fn half_an_answer_is_none() {
    let upstream = Upstream::start(|_, wire| {
        wire.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 90\r\n\r\n{\"a\":");
        wire.fin();
    });
    let daemon = Setup::with(&upstream).start();
    for path in ["/v1/embeddings", "/tokenize", "/v1/messages"] {
        post(path, r#"{"model":"tiny-a"}"#)
            .reply(daemon.addr())
            .error(502, "err_backend_unavailable");
    }
}

#[test]
fn a_client_that_leaves_frees_its_backend() {
    let upstream = Upstream::start(|_, wire| wire.until_gone());
    let daemon = Setup::with(&upstream).start();
    let client: Client = post("/v1/embeddings", r#"{"model":"tiny-a"}"#).open(daemon.addr());
    upstream.wait_seen(1);
    drop(client);
    upstream.wait_gone(1, Duration::from_secs(2));
    assert_eq!(daemon.log_line()["cancelled"], true);
}

#[test]
fn a_relayed_request_activates_its_vllm_and_is_answered_by_it() {
    let engined = Engines::two().set("server", "heartbeat_ms", 50).start();
    let ask = |path: &str, body: &Value| Ask::post(path, body).reply(engined.daemon.addr());
    let messages = json!([{"role": "user", "content": "hello"}]);
    let body = json!({"model": "tiny-a", "messages": messages, "max_tokens": 40});
    let reply = ask("/v1/messages", &body);
    assert_eq!(reply.status(), 200, "{}", reply.text());
    assert_eq!(reply.json()["content"][0]["text"], "Hello! I am tiny-a, a tiny test model.");
    let body = json!({"model": "tiny-b", "input": "hello", "stream": true});
    let reply = ask("/v1/responses", &body);
    assert!(reply.text().contains("response.completed"), "{}", reply.text());
    let reply =
        ask("/v1/completions", &json!({"model": "tiny-b", "prompt": "hello", "max_tokens": 4}));
    assert_eq!(reply.json()["object"], "text_completion");
    assert_eq!(engined.starts(), ["tiny-a", "tiny-b"]);
    let lines = engined.daemon.log_lines(3);
    assert!(lines.iter().all(|line| line["completion_tokens"].as_u64() > Some(0)), "{lines:?}");
    assert!(lines[0]["activate_ms"].as_u64() > Some(0), "{}", lines[0]);
}

#[test]
fn a_bug_of_the_pump_ends_a_stream_in_its_dialect() {
    let upstream = Upstream::streaming(messages());
    let daemon = Setup::with(&upstream).env("IMAGEWORKS_TEST_PANIC_ON", "message_delta").start();
    let reply = post("/v1/messages", r#"{"model":"tiny-a","stream":true}"#).reply(daemon.addr());
    let told = reply.text();
    let at = told.find("event: error\ndata: ").expect("an error event");
    assert!(told[at..].contains("err_internal"), "{told}");
}
