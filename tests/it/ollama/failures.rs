//! An Ollama that is down, slow, or speaks nonsense: an error of the table, within a bound, and the
//! next request works when it is well again.

use super::*;

/// A fault of all chats that generate.
fn fault(ollama: &Ollama, fault: Value) {
    ollama.order(json!({"on": "/api/chat", "fault": fault}));
}

#[track_caller]
fn assert_well(daemon: &Daemon, ollama: &Ollama) {
    ollama.order(json!([]));
    let reply = ask("tiny-a", json!({})).reply(daemon.addr());
    assert_eq!(reply.status(), 200, "{}", reply.text());
}

#[test]
fn one_that_is_away_is_said_to_be_and_serves_when_it_is_back() {
    let mut ollama = Ollama::start(MODELS, &[]);
    let daemon = daemon(&ollama);
    ollama.kill();
    for stream in [false, true] {
        let reply = ask("tiny-a", json!({"stream": stream})).reply(daemon.addr());
        let error = reply.error(502, "err_backend_unavailable");
        assert!(error["message"].as_str().expect("a text").contains("nothing listens"), "{error}");
        assert!(error["hint"].as_str().expect("a text").contains("ollama serve"), "{error}");
        assert_eq!(reply.head.get("retry-after"), Some("2"));
    }
    ollama.restart();
    assert_well(&daemon, &ollama);
    // It has been loaded; then it goes away with it.
    ollama.restart();
    assert_well(&daemon, &ollama);
}

#[test]
fn a_stream_that_fails_ends_with_an_error_and_without_done() {
    let ollama = Ollama::start(MODELS, &[]);
    let daemon = daemon(&ollama);
    assert_well(&daemon, &ollama);
    for (ordered, code, status, message) in [
        (
            json!({"error_after_events": 2, "error_text": "runner died"}),
            "err_backend_error",
            502,
            "runner died",
        ),
        (json!({"end_after_events": 2}), "err_backend_unavailable", 502, "broke off"),
        (json!({"no_finish": true}), "err_backend_unavailable", 502, "broke off"),
        (json!({"malformed_after_events": 2}), "err_backend_unavailable", 502, "Ollama"),
        (json!({"no_done_reason": true}), "err_backend_unavailable", 502, "runner"),
        (json!({"cut": {"after_events": 2, "how": "rst"}}), "err_backend_unavailable", 502, ""),
        (json!({"cut": {"after_events": 2, "how": "fin"}}), "err_backend_unavailable", 502, ""),
    ] {
        fault(&ollama, ordered.clone());
        let reply = ask("tiny-a", json!({"stream": true})).reply(daemon.addr());
        assert_eq!(reply.status(), 200, "{ordered}: {}", reply.text());
        let (error, _) = broken(&reply.body(), code, status);
        assert!(error["message"].as_str().expect("a text").contains(message), "{ordered}: {error}");
    }
    assert_well(&daemon, &ollama);
}

#[test]
fn lines_that_come_in_pieces_are_put_together() {
    let ollama = Ollama::start(MODELS, &[]);
    let daemon = daemon(&ollama);
    fault(&ollama, json!({"split_writes": 1}));
    let unicode = json!({"stream": true, "messages": [{"role": "user", "content": "unicode"}]});
    let cut = ask("tiny-a", unicode.clone()).reply(daemon.addr());
    ollama.order(json!([]));
    let whole = ask("tiny-a", unicode).reply(daemon.addr());
    assert!(!text_of(&whole).is_ascii());
    assert_eq!(text_of(&cut), text_of(&whole));
}

#[test]
fn errors_before_the_answer_have_their_status_and_words() {
    let ollama = Ollama::start(MODELS, &[]);
    let daemon = setup(&ollama).entry(ollama.entry("gone", "gone:7b")).start();
    assert_well(&daemon, &ollama);
    for stream in [false, true] {
        ollama.order(json!([]));
        let more = json!({"stream": stream});
        let error =
            ask("gone", more.clone()).reply(daemon.addr()).error(404, "err_model_not_found");
        assert!(error["hint"].as_str().expect("a text").contains("ollama pull gone:7b"), "{error}");

        fault(&ollama, json!({"status": 500, "body": "{\"error\":\"out of memory\"}"}));
        let error =
            ask("tiny-a", more.clone()).reply(daemon.addr()).error(500, "err_backend_error");
        assert_eq!(error["message"], "out of memory");
        fault(&ollama, json!({"status": 503}));
        let error =
            ask("tiny-a", more.clone()).reply(daemon.addr()).error(503, "err_backend_error");
        assert!(error["message"].as_str().expect("a text").contains("server busy"), "{error}");
        fault(
            &ollama,
            json!({"status": 200, "body": "<html>hello</html>", "content_type": "text/html"}),
        );
        ask("tiny-a", more.clone()).reply(daemon.addr()).error(502, "err_backend_unavailable");
        fault(
            &ollama,
            json!({"status": 400, "body": "{\"error\":\"\\\"m\\\" does not support tools\"}"}),
        );
        let reply = ask("tiny-a", more).reply(daemon.addr());
        assert_eq!(
            (reply.status(), &reply.json()["error"]["message"]),
            (400, &json!("\"m\" does not support tools"))
        );
    }
    assert_well(&daemon, &ollama);
}

#[test]
fn a_load_that_fails_or_never_ends_is_an_error_in_bounded_time() {
    let ollama = Ollama::start(MODELS, &[]);
    let daemon = setup(&ollama).set("ollama", "ollama_load_timeout_s", 0.4).start();
    fault(&ollama, json!({"load_error": "model requires more system memory (9 GiB)"}));
    let error = ask("tiny-a", json!({})).reply(daemon.addr()).error(502, "err_model_start_failed");
    assert!(error["hint"].as_str().expect("a text").contains("9 GiB"), "{error}");
    fault(&ollama, json!({"load_hangs": true}));
    let begun = Instant::now();
    let error = ask("tiny-a", json!({})).reply(daemon.addr()).error(504, "err_model_start_timeout");
    assert!(error["hint"].as_str().expect("a text").contains("ollama_load_timeout_s"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(5));
    ollama.release();
    assert_well(&daemon, &ollama);
}

#[test]
fn silence_is_bounded_as_for_any_backend() {
    let ollama = Ollama::start(MODELS, &[]);
    let daemon = setup(&ollama)
        .set("timeouts", "backend_timeout_ms", 300)
        .set("timeouts", "first_token_timeout_ms", 300)
        .set("timeouts", "stream_idle_timeout_ms", 300)
        .set("timeouts", "unary_timeout_ms", 400)
        .set("ollama", "ollama_load_timeout_s", 1.5)
        .start();
    assert_well(&daemon, &ollama);
    fault(&ollama, json!({"hang_before_head": true}));
    for stream in [false, true] {
        ask("tiny-a", json!({"stream": stream}))
            .reply(daemon.addr())
            .error(504, "err_backend_timeout");
    }
    fault(&ollama, json!({"hang_after_events": 3}));
    let reply = ask("tiny-a", json!({"stream": true})).reply(daemon.addr());
    broken(&reply.body(), "err_backend_timeout", 504);
    assert_well(&daemon, &ollama);
}
