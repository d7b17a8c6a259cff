//! Streams: what goes upstream, what comes back, byte for byte (SPEC 2.1, 2.2).

use crate::support::{Ask, Daemon, End, Reply, Setup, Upstream, sse, vllm};

fn chat(daemon: &Daemon) -> Reply {
    let reply = Ask::chat(vllm::ask(true)).reply(daemon.addr());
    assert_eq!(reply.end, End::Whole);
    assert_eq!(reply.status(), 200, "{}", reply.text());
    reply
}

/// Streams `events` through a daemon of its own and gives what the client got.
fn through(events: Vec<String>) -> String {
    let upstream = Upstream::streaming(events);
    let daemon = Setup::with(&upstream).start();
    chat(&daemon).text()
}

fn thousand() -> Vec<String> {
    let words: Vec<String> = (0..997).map(|i| format!(" wörd{i} €")).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    vllm::stream(&words)
}

#[test]
fn a_thousand_chunks_arrive_as_they_left_but_for_the_usage_chunk() {
    let events = thousand();
    let upstream = Upstream::streaming(events.clone());
    let daemon = Setup::with(&upstream).start();
    let reply = chat(&daemon);
    let got: Vec<String> =
        reply.pieces.iter().map(|p| String::from_utf8(p.data.clone()).unwrap()).collect();
    let want = vllm::for_client(&events);
    assert_eq!(want.len(), events.len() - 1);
    assert_eq!(got, want, "HTTP chunks");
}

#[test]
fn the_usage_chunk_arrives_when_it_was_asked_for() {
    let events = thousand();
    let upstream = Upstream::streaming(events.clone());
    let daemon = Setup::with(&upstream).start();
    let body =
        r#"{"stream":true,"stream_options":{"include_usage":true},"model":"tiny-a","messages":[]}"#;
    let reply = Ask::chat(body).reply(daemon.addr());
    assert_eq!(reply.text(), events.concat());
    let sent = String::from_utf8(upstream.only().body).unwrap();
    assert_eq!(sent, body.replace("\"tiny-a\"", "\"served/tiny-a\""), "nothing else was edited");
}

#[test]
fn a_usage_chunk_is_not_wanted_when_the_client_declined_it() {
    let events = vllm::stream(&["a", "b"]);
    let upstream = Upstream::streaming(events.clone());
    let daemon = Setup::with(&upstream).start();
    let body = r#"{"model":"tiny-a","messages":[],"stream":true,"stream_options":{"include_usage":false,"x":1}}"#;
    let reply = Ask::chat(body).reply(daemon.addr());
    assert_eq!(reply.text(), vllm::for_client(&events).concat());
    let sent = upstream.only().json();
    assert_eq!(sent["stream_options"], serde_json::json!({"include_usage": true, "x": 1}));
}

#[test]
fn upstream_gets_the_body_as_sent_but_for_model_and_usage() {
    let upstream = Upstream::streaming(vllm::stream(&["a"]));
    let daemon = Setup::with(&upstream).start();
    let body = "{ \"messages\" : [{\"role\":\"user\",\"content\":\"h\\u00e9 €\"}],\n\t\"seed\": 12345678901234567890, \"top_p\": 1.0e0, \"x\": {\"model\": \"y\"}, \"model\"  :  \"tiny-a\" , \"stream\":true, \"zz\":[ ] }\n";
    assert_eq!(Ask::chat(body).reply(daemon.addr()).status(), 200);
    let sent = String::from_utf8(upstream.only().body).unwrap();
    let want = body.replace("\"tiny-a\"", "\"served/tiny-a\"");
    let (before, rest) =
        sent.split_at(sent.find("\"stream_options\"").expect("usage is asked for"));
    let edit = "\"stream_options\":{\"include_usage\":true},";
    let rest = rest.strip_prefix(edit).unwrap_or_else(|| panic!("{sent}"));
    assert_eq!(format!("{before}{rest}"), want);
}

#[test]
fn upstream_gets_the_headers_that_it_needs_and_no_others() {
    let upstream = Upstream::streaming(vllm::stream(&["a"]));
    let daemon = Setup::with(&upstream).start();
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    Ask::chat(vllm::ask(true))
        .header("authorization", "Bearer client-secret")
        .header("cookie", "session=1")
        .header("x-api-key", "client-secret")
        .header("accept-encoding", "gzip, br")
        .header("user-agent", "OpenAI/Python 2.1")
        .header("traceparent", trace)
        .header("x-request-id", "mine-1")
        .header("x-gpu-lease-token", "t")
        .header("x-stainless-lang", "python")
        .reply(daemon.addr());
    let seen = upstream.only();
    assert!(seen.head.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"), "{}", seen.head);
    assert_eq!(seen.header("content-type"), Some("application/json"));
    assert_eq!(seen.header("accept"), Some("text/event-stream"));
    assert_eq!(seen.header("accept-encoding"), Some("identity"));
    assert_eq!(seen.header("user-agent"), Some("OpenAI/Python 2.1"));
    assert_eq!(seen.header("traceparent"), Some(trace));
    assert_eq!(seen.header("host"), Some(upstream.addr().to_string().as_str()));
    let id = seen.header("x-request-id").expect("an id of ours");
    assert!(!id.is_empty() && id != "mine-1", "{id}");
    let secret = seen.head.contains("secret") || seen.head.contains("session=1");
    assert!(!secret, "{}", seen.head);
    let known = "content-type accept accept-encoding user-agent traceparent host x-request-id content-length date";
    for line in seen.head.split("\r\n").skip(1).filter(|line| !line.is_empty()) {
        let name = line.split(':').next().unwrap().to_ascii_lowercase();
        assert!(known.split(' ').any(|k| k == name), "not to be sent: {line}");
    }
}

#[test]
fn the_response_head_is_that_of_a_stream() {
    let upstream = Upstream::streaming(vllm::stream(&["a"]));
    let daemon = Setup::with(&upstream).start();
    let head =
        Ask::chat(vllm::ask(true)).header("x-request-id", "mine-1:a.b_c").reply(daemon.addr()).head;
    assert_eq!(head.get("content-type"), Some("text/event-stream"));
    assert_eq!(head.get("cache-control"), Some("no-cache"));
    assert_eq!(head.get("x-accel-buffering"), Some("no"));
    assert_eq!(head.get("x-request-id"), Some("mine-1:a.b_c"));
    assert_eq!(head.get("x-imageworks-model"), Some("tiny-a"));
    assert_eq!(head.get("content-encoding"), None);
    let long = "x".repeat(129);
    for bad in ["a b", "a\"b", long.as_str(), "ä"] {
        let head = Ask::chat(vllm::ask(true)).header("x-request-id", bad).reply(daemon.addr()).head;
        let ours = head.get("x-request-id").expect("an id");
        assert!(!ours.is_empty() && ours != bad, "{ours}");
    }
}

#[test]
fn a_missing_done_is_added_when_every_choice_has_finished() {
    let mut events = vllm::stream(&["a", "b"]);
    events.pop();
    let want = vllm::for_client(&events).concat() + sse::DONE;
    assert_eq!(through(events.clone()), want);
    // Also where the last blank line is missing.
    let last = events.last_mut().unwrap();
    last.truncate(last.trim_end().len());
    assert_eq!(through(events), want);
}

#[test]
fn two_dones_become_one_and_what_follows_is_dropped() {
    let events = vllm::stream(&["a"]);
    let want = vllm::for_client(&events).concat();
    let twice = [events.clone(), vec![sse::DONE.to_owned()]].concat();
    assert_eq!(through(twice), want);
    let tail = [events.clone(), vec![vllm::word(0, "late"), "garbage".to_owned()]].concat();
    assert_eq!(through(tail), want);
    let mut joined = events;
    joined.last_mut().unwrap().push_str("data: [DONE]\n\n: x\n\n");
    assert_eq!(through(joined), want);
}

#[test]
fn events_cut_into_single_bytes_come_out_the_same() {
    let events = vllm::stream(&["€uro", " 𝄞", "日本", " ok"]);
    let want = vllm::for_client(&events).concat();
    let whole = events.concat();
    let bytes = whole.bytes().map(|b| vec![b]).collect::<Vec<_>>();
    let upstream = Upstream::start(move |_, wire| {
        wire.stream_head();
        for byte in &bytes {
            wire.chunk(byte);
        }
        wire.last_chunk();
    });
    let daemon = Setup::with(&upstream).start();
    assert_eq!(chat(&daemon).text(), want);
    // And as one HTTP chunk that dribbles in byte by byte on the wire.
    let upstream = Upstream::start(move |_, wire| {
        wire.stream_head();
        wire.send(format!("{:X}\r\n", whole.len()).as_bytes());
        for byte in whole.bytes() {
            wire.send(&[byte]);
        }
        wire.send(b"\r\n0\r\n\r\n");
    });
    let daemon = Setup::with(&upstream).start();
    assert_eq!(chat(&daemon).text(), want);
}

#[test]
fn each_chunk_leaves_before_the_next_one_comes() {
    let gate = crate::support::Gate::new();
    let (script_gate, events) = (gate.clone(), vllm::stream(&["a", "b", "c"]));
    let want = vllm::for_client(&events);
    let upstream = Upstream::start(move |_, wire| {
        wire.stream_head();
        for event in &events {
            script_gate.pass();
            wire.chunk(event.as_bytes());
        }
        wire.last_chunk();
    });
    let daemon = Setup::with(&upstream).start();
    let mut client = Ask::chat(vllm::ask(true)).open(daemon.addr());
    gate.admit(1);
    assert_eq!(client.head().status, 200);
    let mut rest = want.iter();
    assert_eq!(client.piece().unwrap().unwrap().data, rest.next().unwrap().as_bytes());
    for event in rest {
        if event == sse::DONE {
            gate.admit(1); // the usage chunk, which does not come out
        }
        gate.admit(1);
        assert_eq!(client.piece().unwrap().unwrap().data, event.as_bytes());
    }
    assert_eq!(client.rest().1, End::Whole);
}

#[test]
fn streams_that_end_with_the_connection_pass_too() {
    let events = vllm::stream(&["a"]);
    let want = vllm::for_client(&events).concat();
    let upstream = Upstream::start(move |_, wire| {
        wire.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n",
        );
        wire.send(events.concat().as_bytes());
        wire.fin();
    });
    let daemon = Setup::with(&upstream).start();
    assert_eq!(chat(&daemon).text(), want);
}

#[test]
fn two_choices_tool_calls_refusals_and_logprobs_pass_untouched() {
    let delta = |delta: &str| {
        let choice =
            format!(r#"{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":null}}"#);
        vllm::chunk(&choice, "")
    };
    let logprobs = vllm::chunk(
        r#"{"index":0,"delta":{"content":"Hi"},"logprobs":{"content":[{"token":"Hi","logprob":-1.2e-05,"bytes":[72,105],"top_logprobs":[{"token":"Hi","logprob":-1.2e-05,"bytes":[72,105]}]}]},"finish_reason":null,"token_ids":null}"#,
        "",
    );
    let tools =
        r#"{"index":0,"delta":{},"logprobs":null,"finish_reason":"tool_calls","stop_reason":null}"#;
    let streams = [
        vec![
            vllm::role(0),
            vllm::role(1),
            vllm::word(1, "one"),
            vllm::word(0, "zero"),
            vllm::finish(1),
            vllm::word(0, "!"),
            vllm::finish(0),
        ],
        vec![
            vllm::role(0),
            delta(
                r#"{"content":null,"tool_calls":[{"id":"chatcmpl-tool-8","type":"function","index":0,"function":{"name":"weather"}}]}"#,
            ),
            delta(
                r#"{"content":null,"tool_calls":[{"index":0,"function":{"arguments":"{\"city\": "}}]}"#,
            ),
            delta(
                r#"{"content":null,"tool_calls":[{"index":0,"function":{"arguments":"\"Bern\"}"}}]}"#,
            ),
            vllm::chunk(tools, ""),
        ],
        vec![vllm::role(0), delta(r#"{"refusal":"no"}"#), logprobs, vllm::finish(0)],
    ];
    for mut events in streams {
        events.extend([vllm::usage(1, 2), sse::DONE.to_owned()]);
        assert_eq!(through(events.clone()), vllm::for_client(&events).concat());
    }
}

#[test]
fn usage_beside_choices_stays() {
    let continuous = vllm::chunk(
        r#"{"index":0,"delta":{"content":"a"},"logprobs":null,"finish_reason":null}"#,
        r#","usage":{"prompt_tokens":1,"total_tokens":2,"completion_tokens":1}"#,
    );
    let events = vec![vllm::role(0), continuous, vllm::finish(0), sse::DONE.to_owned()];
    assert_eq!(through(events.clone()), events.concat());
}

#[test]
fn a_panic_in_one_stream_ends_that_stream_only() {
    let gate = crate::support::Gate::new();
    let (script_gate, good) = (gate.clone(), vllm::stream(&["a", "b"]));
    let want = vllm::for_client(&good).concat();
    let upstream = Upstream::start(move |seen, wire| {
        wire.stream_head();
        wire.chunk(good[0].as_bytes());
        script_gate.pass();
        if seen.json()["seed"] == 13 {
            wire.chunk(vllm::word(0, "boom").as_bytes());
            return wire.until_gone();
        }
        for event in &good[1..] {
            wire.chunk(event.as_bytes());
        }
        wire.last_chunk();
    });
    let daemon = Setup::with(&upstream).env("IMAGEWORKS_TEST_PANIC_ON", "boom").start();
    let body =
        |seed: u32| format!(r#"{{"model":"tiny-a","messages":[],"stream":true,"seed":{seed}}}"#);
    let mut clients: Vec<_> =
        [13, 1, 2, 3].iter().map(|seed| Ask::chat(body(*seed)).open(daemon.addr())).collect();
    let firsts: Vec<Vec<u8>> = clients
        .iter_mut()
        .map(|client| {
            assert_eq!(client.head().status, 200);
            client.read_until("\n\n")
        })
        .collect();
    gate.open();
    let mut bodies = clients.iter_mut().zip(firsts).map(|(client, mut body)| {
        let (pieces, end) = client.rest();
        body.extend(pieces.into_iter().flat_map(|piece| piece.data));
        (body, end)
    });
    let (broken, end) = bodies.next().unwrap();
    assert_eq!(end, End::Whole);
    let (_, before) = sse::broken(&broken, "err_internal", 500);
    assert_eq!(before.len(), 1);
    for (body, end) in bodies {
        assert_eq!((String::from_utf8(body).unwrap(), end), (want.clone(), End::Whole));
    }
    upstream.wait_gone(1, std::time::Duration::from_secs(1));
    let lines = daemon.log_lines(4);
    let failed: Vec<_> = lines.iter().filter(|line| line.get("error").is_some()).collect();
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0]["error"]["code"], "err_internal");
    assert_eq!(failed[0]["status"], 200);
    daemon.assert_serves();
}

#[test]
fn a_panic_before_the_head_is_a_500_of_its_own() {
    let upstream = Upstream::streaming(vec![vllm::word(0, "boom")]);
    let daemon = Setup::with(&upstream).env("IMAGEWORKS_TEST_PANIC_ON", "boom").start();
    Ask::chat(vllm::ask(true)).reply(daemon.addr()).error(500, "err_internal");
    let line = daemon.log_line();
    assert_eq!((&line["status"], &line["error"]["code"]), (&500.into(), &"err_internal".into()));
    daemon.assert_serves();
}
