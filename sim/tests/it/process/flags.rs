//! How an engine that serves dies, stops and leaves things behind.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal::SIGTERM;
use serde_json::{Value, json};
use sim_engine::Options;

use super::{Engine, can_bind, free_port, is_refused, until, until_gone};
use crate::client::{Client, End, chat, find};

#[test]
fn it_crashes_in_the_middle_of_a_stream_after_so_many_tokens_of_all_requests() {
    let mut engine = Engine::ready("--sim-crash-after-tokens 9 --like-vllm");
    let worker = engine.child_pid("worker");
    let mut client = engine.client();
    client.post("/v1/chat/completions", &chat("x", false, &json!({"tokens": 3})));
    // The end of an answer is a token as well.
    assert_eq!(client.response().json()["usage"]["completion_tokens"], 4);
    client.post("/v1/chat/completions", &chat("x", true, &json!({"tokens": 50})));
    let (bytes, end) = client.rest();
    let text = String::from_utf8(bytes).unwrap();
    assert_eq!(text.matches("\"content\":\"").count(), 6, "the role and five tokens: {text}");
    assert!(!text.contains("[DONE]") && !text.ends_with("0\r\n\r\n"));
    assert_ne!(end, End::Open);
    assert_eq!(engine.exit(), Some(1));
    until_gone(worker);
    assert!(engine.log().contains("CUDA error"));
}

#[test]
fn a_whole_answer_is_not_given_if_its_tokens_bring_the_crash() {
    let mut engine = Engine::ready("--sim-crash-after-tokens 2");
    let mut client = engine.client();
    client.post("/v1/chat/completions", &chat("x", false, &json!({"tokens": 3})));
    assert_eq!(client.rest().0, b"");
    assert_eq!(engine.exit(), Some(1));
}

#[test]
fn it_crashes_some_time_after_it_was_ready() {
    let mut engine = Engine::ready("--sim-crash-idle-ms 300");
    let ready = Instant::now();
    assert_eq!(engine.exit(), Some(1));
    assert!(ready.elapsed() >= Duration::from_millis(250));
    assert_eq!(engine.events("leader"), ["start", "ready", "exit"]);
}

#[test]
fn told_to_end_it_ends_at_once_with_code_0() {
    let mut engine = Engine::ready("");
    engine.signal(SIGTERM);
    assert_eq!(engine.exit(), Some(0));
    assert_eq!(engine.events("leader"), ["start", "ready", "sigterm", "exit"]);
}

#[test]
fn it_serves_on_while_it_takes_its_time_to_end() {
    let mut engine = Engine::ready("--sim-stop-ms 500");
    let told = Instant::now();
    engine.signal(SIGTERM);
    engine.await_event("leader", "sigterm");
    assert_eq!(engine.get("/health").status_line, "HTTP/1.1 200 OK");
    assert_eq!(engine.exit(), Some(0));
    assert!(told.elapsed() >= Duration::from_millis(500));
}

#[test]
fn the_port_is_held_for_a_while_after_the_end() {
    let port = free_port();
    let mut engine = Engine::start_at(port, "--sim-hold-port-ms 600");
    engine.addr();
    engine.signal(SIGTERM);
    assert_eq!(engine.exit(), Some(0));
    let gone = Instant::now();
    assert!(!can_bind(port, true), "somebody listens");
    let mut unheard = TcpStream::connect(("127.0.0.1", port)).unwrap();
    std::io::Write::write_all(&mut unheard, b"GET /health HTTP/1.1\r\n\r\n").unwrap();
    until("nobody listens", || is_refused(port).then_some(()));
    assert!(gone.elapsed() >= Duration::from_millis(400));
    assert_eq!(engine.events("child"), ["start", "exit"]);
}

#[test]
fn the_journal_names_who_did_what_when() {
    let mut engine = Engine::ready("--served-model-name mine");
    engine.signal(SIGTERM);
    engine.exit();
    let text = std::fs::read_to_string(engine.path("journal")).unwrap();
    let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let times: Vec<u64> = lines.iter().map(|l| l["at_us"].as_u64().unwrap()).collect();
    assert!(times.is_sorted() && lines.len() == 4);
    for line in lines {
        assert_eq!((&line["model"], &line["role"]), (&json!("mine"), &json!("leader")));
        assert_eq!(line["pid"], engine.pid());
        assert_eq!(line["ppid"], std::process::id());
    }
}

#[test]
fn it_tells_its_environment_and_its_processes() {
    let engine = Engine::ready("--like-vllm");
    assert_eq!(engine.get("/sim/env").json()["SIM_TEST_SECRET"], "s3cret");
    let told = engine.get("/sim/process").json();
    assert_eq!((&told["pid"], &told["pgid"]), (&json!(engine.pid()), &json!(engine.pid())));
    assert_eq!(told["children"].as_array().unwrap().len(), 2);
    let cwd = std::fs::canonicalize(engine.dir.path()).unwrap();
    assert_eq!(told["cwd"], cwd.to_str().unwrap());
}

#[test]
fn an_embedded_engine_tells_nothing_of_the_program_around_it() {
    let engine = crate::client::engine(Options::default());
    for path in ["/sim/env", "/sim/process"] {
        let mut client = Client::connect(engine.addr());
        client.send(&crate::client::request("GET", path, "text/plain", ""));
        assert_eq!(client.response().status_line, "HTTP/1.1 404 Not Found");
    }
}

#[test]
fn a_client_that_leaves_is_noticed_at_once_streamed_or_not() {
    let engine = Engine::ready("--like-vllm");
    let stats = || engine.get("/sim/stats").json();
    for (n, stream) in [(1, true), (2, false)] {
        let mut client = engine.client();
        client.post("/v1/chat/completions", &chat("x", stream, &json!({"delay_token_ms": 60_000})));
        until("it is answered", || (stats()["in_flight"] == 1).then_some(()));
        if stream {
            client.until(|b| find(b, b"data: ").is_some());
        }
        let left = Instant::now();
        drop(client);
        until("it is aborted", || (stats()["aborted"] == n).then_some(()));
        assert!(left.elapsed() < Duration::from_millis(300), "{:?}", left.elapsed());
    }
}

#[test]
fn as_an_ollama_it_serves_at_once_and_its_models_load() {
    let flags = "--ollama --sim-models a,b:7b --sim-load-ms 600000";
    let mut engine = Engine::spawn(&["serve", "--port=0"], flags);
    assert_eq!(engine.get("/").text(), "Ollama is running");
    assert_eq!(engine.get("/api/tags").json()["models"][1]["name"], "b:7b");
    assert!(engine.log().contains("msg=\"Listening on 127.0.0.1:"));
    let load = engine.order("/api/chat", &json!({"model": "a"}));
    until("it loads", || {
        let stats = engine.get("/sim/stats").json();
        (stats["loading"] == json!(["a:latest"]) && stats["in_flight"] == 1).then_some(())
    });
    engine.signal(SIGTERM);
    assert_eq!(engine.exit(), Some(0));
    drop(load);
}

#[test]
fn as_an_ollama_it_crashes_in_the_middle_of_a_stream() {
    let mut engine = Engine::spawn(&["serve", "--port=0"], "--ollama --sim-crash-after-tokens 3");
    let mut client = engine.client();
    let message = json!({"role": "user", "content": "count"});
    client.post("/api/chat", &json!({"model": "tiny-a", "messages": [message]}).to_string());
    let text = String::from_utf8(client.rest().0).unwrap();
    assert_eq!(text.matches("\"done\":false").count(), 3, "{text}");
    assert!(!text.contains("\"done\":true"));
    assert_eq!(engine.exit(), Some(1));
}
