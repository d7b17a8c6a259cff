//! Connections, counters, and the command line.

use std::time::Duration;

use serde_json::{Value, json};
use sim_engine::{Command, Options};

use crate::client::{Client, End, ask, chat, engine, find, request, wait_for};

#[test]
fn requests_follow_each_other_on_one_connection_even_unasked() {
    let engine = engine(Options::default());
    let mut client = Client::connect(engine.addr());
    let body = chat("hello", true, &json!({}));
    let mut three = request("POST", "/v1/chat/completions", "application/json", &body);
    three.extend(b"\r\nGET /health HTTP/1.1\r\nHost: x\r\n\r\n");
    three.extend(request("POST", "/v1/completions", "application/json", r#"{"prompt":"x"}"#));
    client.send(&three);
    assert_eq!(client.response().content(), "Hello! I am tiny-a, a tiny test model.");
    assert_eq!(client.response().header("content-length"), Some("0"));
    assert_eq!(client.response().json()["object"], "text_completion");
    let stats = wait_for(&engine, "completed", |s| s.completed == 3);
    assert_eq!((stats.connections_accepted, stats.posts_total), (1, 2));
}

#[test]
fn bodies_come_in_chunks_and_after_being_asked_for() {
    let engine = engine(Options::default());
    let mut client = Client::connect(engine.addr());
    let body = chat("hello", false, &json!({}));
    let (a, b) = body.split_at(11);
    client.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.send(
        format!("{:X};a=b\r\n{a}\r\n{:x}\r\n{b}\r\n0\r\nX: y\r\n\r\n", a.len(), b.len()).as_bytes(),
    );
    assert_eq!(client.response().json()["object"], "chat.completion");
    client.send(format!("POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\nExpect: 100-continue\r\n\r\n", body.len()).as_bytes());
    client.until(|b| b == b"HTTP/1.1 100 Continue\r\n\r\n");
    client.skip();
    client.send(body.as_bytes());
    assert_eq!(client.response().json()["object"], "chat.completion");
    assert_eq!(engine.stats().last_body, body);
}

#[test]
fn connections_end_when_they_are_to() {
    let engine = engine(Options::default());
    let mut client = Client::connect(engine.addr());
    client.send(b"GET /version HTTP/1.1\r\nConnection: close\r\n\r\n");
    assert_eq!(client.response().header("connection"), Some("close"));
    assert_eq!(client.rest().1, End::Fin);

    let mut client = Client::connect(engine.addr());
    let body = chat("hello", true, &json!({}));
    client.send(format!("POST /v1/chat/completions HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
    let (got, end) = client.rest();
    assert_eq!(end, End::Fin);
    assert!(find(&got, b"transfer-encoding").is_none() && got.ends_with(b"data: [DONE]\n\n"));

    for bad in [
        &b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n"[..],
        b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
    ] {
        let mut client = Client::connect(engine.addr());
        client.send(bad);
        assert_eq!(client.response().status_line, "HTTP/1.1 400 Bad Request");
        assert_eq!(client.rest().1, End::Fin);
    }
    let mut client = Client::connect(engine.addr());
    client.send(b"POST / HTTP/1.1\r\nContent-Length: 999999999999\r\n\r\n");
    assert!(client.response().status_line.starts_with("HTTP/1.1 413"));
    let mut client = Client::connect(engine.addr());
    client.send(&vec![b'a'; 100 * 1024]);
    assert!(client.response().status_line.starts_with("HTTP/1.1 400"));
}

#[test]
fn a_head_request_has_no_body_in_its_answer() {
    let engine = engine(Options::default());
    let mut client = Client::connect(engine.addr());
    client.send(b"HEAD /health HTTP/1.1\r\n\r\nGET /ping HTTP/1.1\r\n\r\n");
    let two = client.until(|b| b.ends_with(b"\r\n\r\n") && find(b, b"200 OK").is_some());
    let two = String::from_utf8(two.to_vec()).unwrap();
    assert!(two.starts_with("HTTP/1.1 405 Method Not Allowed") && two.contains("allow: GET\r\n"));
    assert!(two.contains("\r\n\r\nHTTP/1.1 200 OK"), "{two}");
}

#[test]
fn the_last_post_is_told_as_it_came() {
    let engine = engine(Options::default());
    let mut client = Client::connect(engine.addr());
    client.send(
        b"POST /v1/nope HTTP/1.1\r\nHost: h\r\nX-One: 1\r\nx-one: 2\r\nContent-Length: 2\r\n\r\nhi",
    );
    client.response();
    client.send(b"GET /sim/stats HTTP/1.1\r\n\r\n");
    let stats = client.response().json();
    assert_eq!(
        stats["last_headers"],
        json!([["Host", "h"], ["X-One", "1"], ["x-one", "2"], ["Content-Length", "2"]])
    );
    assert_eq!((&stats["last_body"], &stats["requests_total"]), (&json!("hi"), &json!(1)));
    client.send(b"POST /sim/reset HTTP/1.1\r\n\r\n");
    client.response();
    client.send(b"GET /sim/stats HTTP/1.1\r\n\r\n");
    let stats = client.response().json();
    let keys: Vec<&String> = stats.as_object().unwrap().keys().collect();
    assert_eq!(
        keys[..4],
        ["connections_open", "connections_accepted", "requests_total", "posts_total"]
    );
    assert_eq!((&stats["requests_total"], &stats["connections_open"]), (&json!(0), &json!(1)));
}

#[test]
fn its_health_is_what_was_ordered_last_and_chats_go_on() {
    let engine = engine(Options { health: 500, ..Options::default() });
    let mut client = Client::connect(engine.addr());
    let mut health = |order: Option<&str>| {
        if let Some(order) = order {
            client.post("/sim/health", order);
            assert_eq!(client.response().text(), "{}");
        }
        client.send(b"GET /health HTTP/1.1\r\n\r\n");
        let response = client.response();
        assert_eq!(response.header("content-length"), Some("0"));
        response.status_line
    };
    assert_eq!(health(None), "HTTP/1.1 500 Internal Server Error");
    assert_eq!(health(Some(r#"{"status": 503}"#)), "HTTP/1.1 503 Service Unavailable");
    assert_eq!(health(None), "HTTP/1.1 503 Service Unavailable");
    assert_eq!(ask(&engine, "hello", false, &json!({})).status_line, "HTTP/1.1 200 OK");
    assert_eq!(health(Some(r#"{"ok": true}"#)), "HTTP/1.1 200 OK");
    client.post("/sim/health", r#"{"well": true}"#);
    let refused = client.response();
    assert_eq!(refused.status_line, "HTTP/1.1 400 Bad Request");
    assert!(refused.text().contains("`well`"), "{}", refused.text());
}

#[test]
fn its_health_hangs_until_another_is_ordered() {
    let engine = engine(Options::default());
    let mut orders = Client::connect(engine.addr());
    orders.post("/sim/health", r#"{"hang": true}"#);
    orders.response();
    let mut hung = Client::connect(engine.addr());
    hung.send(b"GET /health HTTP/1.1\r\n\r\n");
    wait_for(&engine, "in flight", |s| s.in_flight == 1);
    assert_eq!(ask(&engine, "hello", false, &json!({})).status_line, "HTTP/1.1 200 OK");
    orders.post("/sim/health", r#"{"ok": true}"#);
    orders.response();
    orders.send(b"GET /health HTTP/1.1\r\n\r\n");
    assert_eq!(orders.response().status_line, "HTTP/1.1 200 OK");
    assert!(hung.is_silent(Duration::from_millis(100)), "it was never to be answered");
    drop(hung);
    wait_for(&engine, "aborted", |s| (s.in_flight, s.aborted) == (0, 1));
}

#[test]
fn the_metrics_count_what_was_generated() {
    let engine = engine(Options::default());
    ask(&engine, "hello", false, &json!({}));
    ask(&engine, "x", true, &json!({"tokens": 10}));
    let mut client = Client::connect(engine.addr());
    client.send(b"GET /metrics HTTP/1.1\r\n\r\n");
    let got = client.response();
    assert_eq!(got.header("content-type"), Some("text/plain; version=1.0.0; charset=utf-8"));
    let text = got.text();
    for line in [
        "vllm:generation_tokens_total{engine=\"0\",model_name=\"tiny-a\"} 27.0",
        "vllm:num_requests_running{engine=\"0\",model_name=\"tiny-a\"} 0.0",
        "vllm:request_success_total{engine=\"0\",finished_reason=\"stop\",model_name=\"tiny-a\"} 2.0",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    }
}

#[test]
fn an_engine_tells_its_command_line_and_serves_all_its_names() {
    let line = ["serve", "/m/x", "--served-model-name", "a", "b", "--port", "0", "--wild=1"];
    let Ok(Command::Serve(options, _)) = Options::from_args(line.iter().map(Into::into)) else {
        panic!("not understood");
    };
    let engine = engine(*options);
    let mut client = Client::connect(engine.addr());
    client.send(b"GET /sim/argv HTTP/1.1\r\n\r\n");
    assert_eq!(client.response().json(), json!(line));
    client.send(b"GET /v1/models HTTP/1.1\r\n\r\n");
    let models = client.response().json();
    let ids: Vec<&Value> = models["data"].as_array().unwrap().iter().map(|m| &m["id"]).collect();
    assert_eq!(ids, ["a", "b"]);
    assert_eq!(models["data"][1]["root"], "/m/x");
}

#[test]
fn many_streams_are_served_at_once_and_a_stop_ends_them() {
    let engine = engine(Options::default());
    let mut clients: Vec<Client> = (0..100).map(|_| Client::connect(engine.addr())).collect();
    for client in &mut clients {
        client.post("/v1/chat/completions", &chat("sing", true, &json!({"hang_after_events": 2})));
    }
    wait_for(&engine, "all in flight", |s| s.in_flight == 100);
    let addr = engine.addr();
    engine.stop();
    for client in &mut clients {
        assert_ne!(client.rest().1, End::Open);
    }
    assert!(std::net::TcpStream::connect(addr).is_err());
}

#[test]
fn an_address_in_use_is_an_error() {
    let first = engine(Options::default());
    let second = Options { port: first.addr().port(), ..Options::default() };
    let error = sim_engine::Engine::start(second).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
}

#[test]
fn stop_strings_take_back_what_they_span() {
    let engine = engine(Options::default());
    let mut client = Client::connect(engine.addr());
    for (stop, text) in [
        ("am tiny-a", "Hello! I "),
        ("o! ", "Hell"),
        ("Hello", ""),
        ("nope", "Hello! I am tiny-a, a tiny test model."),
    ] {
        let body = json!({"messages": [{"role": "user", "content": "hello"}], "stop": stop, "stream": true});
        client.post("/v1/chat/completions", &body.to_string());
        assert_eq!(client.response().content(), text);
    }
}

#[test]
fn an_engine_can_run_on_when_it_should_end() {
    let engine = engine(Options::default());
    let mut client = Client::connect(engine.addr());
    let body = json!({"messages": [{"role": "user", "content": "hello"}], "max_tokens": 40, "ignore_eos": true});
    client.post("/v1/chat/completions", &body.to_string());
    let got = client.response().json();
    assert_eq!(got["usage"]["completion_tokens"], 40);
    assert_eq!(got["choices"][0]["finish_reason"], "length");
}
