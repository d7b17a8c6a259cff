//! One test for each row of what was measured of the real vLLM as a process.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal::{self, SIGKILL, SIGTERM};
use nix::sys::signal::kill;
use nix::unistd::Pid;
use serde_json::json;

use super::{
    Engine, can_bind, free_port, group, is_alive, is_refused, parent, stays, until, until_gone,
};
use crate::client::{Client, End, chat, find};

/// What the real server says when the engine dies in a stream: the end of the capture.
const DIED_AND_DONE: &str = "a9\r\ndata: {\"error\": {\"message\": \"EngineCore encountered an \
    issue. See stack trace (above) for the root cause.\", \"type\": \"InternalServerError\", \
    \"param\": null, \"code\": 500}}\n\n\r\ne\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";

fn send(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

/// A stream that goes on for ever, of which something was read.
fn stream(engine: &Engine) -> Client {
    let mut client = engine.client();
    client.post("/v1/chat/completions", &chat("sing", true, &json!({"delay_token_ms": 5})));
    client.until(|b| find(b, b"\"content\":\"").is_some());
    client
}

#[test]
fn a_leader_has_an_engine_core_and_that_a_worker_in_one_group() {
    let engine = Engine::ready("--like-vllm");
    let (core, worker) = (engine.child_pid("engine-core"), engine.child_pid("worker"));
    assert_eq!((parent(core), parent(worker)), (engine.pid(), core));
    assert_eq!((group(core), group(worker)), (engine.pid(), engine.pid()));
}

#[test]
fn as_a_subcommand_it_starts_its_children_by_the_same_subcommand() {
    let engine = Engine::spawn(&["sim-engine", "serve", "a", "--port", "0"], "--like-vllm");
    let argv = engine.get("/sim/argv").json();
    assert_eq!(argv[0], "serve");
    for role in ["engine-core", "worker"] {
        let line = super::command_line(engine.child_pid(role));
        let words: Vec<&str> = line.split('\0').collect();
        assert_eq!(words[1..6], ["sim-engine", "serve", "a", "--port", "0"]);
        assert!(words.contains(&format!("--sim-role={role}").as_str()), "{line}");
    }
}

#[test]
fn while_loading_it_refuses_all_the_time_and_ignores_sigterm() {
    let port = free_port();
    let mut engine = Engine::start_at(port, "--like-vllm --sim-load-ms 800");
    engine.await_event("worker", "start");
    assert!(is_refused(port) && !can_bind(port, false) && can_bind(port, true));
    engine.signal(SIGTERM);
    assert!(stays(Duration::from_millis(300), || is_refused(port)));
    assert_eq!(engine.addr().port(), port);
    assert_eq!(engine.get("/health").status_line, "HTTP/1.1 200 OK");
    assert_eq!(engine.events("leader"), ["start", "sigterm", "ready"]);
    assert!(!engine.has_exited());
}

#[test]
fn told_to_end_while_idle_its_children_die_at_once_and_it_a_moment_later() {
    let mut engine = Engine::ready("--like-vllm --sim-stop-ms 700");
    let (core, worker) = (engine.child_pid("engine-core"), engine.child_pid("worker"));
    let told = Instant::now();
    engine.signal(SIGTERM);
    until_gone(core);
    until_gone(worker);
    assert!(told.elapsed() < Duration::from_millis(600), "{:?}", told.elapsed());
    assert!(!engine.has_exited());
    assert_eq!(engine.exit(), Some(0));
    assert!(told.elapsed() >= Duration::from_millis(700));
}

#[test]
fn told_to_end_with_a_stream_open_it_waits_for_ever_and_the_client_hears_nothing() {
    let mut engine = Engine::ready("--like-vllm");
    let (addr, worker) = (engine.addr(), engine.child_pid("worker"));
    let mut client = stream(&engine);
    engine.signal(SIGTERM);
    until_gone(worker);
    until("nobody listens", || is_refused(addr.port()).then_some(()));
    // What was under way has arrived by now.
    until("silence", || client.is_silent(Duration::from_millis(50)).then_some(()));
    assert!(client.is_silent(Duration::from_secs(1)), "no byte, no error, no end");
    engine.signal(SIGTERM);
    assert!(!engine.has_exited());
    drop(client);
    assert_eq!(engine.exit(), Some(0));
}

#[test]
fn with_a_shutdown_timeout_it_drains_and_takes_nothing_new() {
    let mut engine = Engine::ready("--like-vllm --shutdown-timeout 20");
    let mut client = engine.client();
    let slow = json!({"tokens": 20, "delay_token_ms": 30});
    client.post("/v1/chat/completions", &chat("x", true, &slow));
    client.until(|b| find(b, b"tok0").is_some());
    engine.signal(SIGTERM);
    engine.await_event("leader", "sigterm");
    let mut late = engine.client();
    let refused = until("new requests are refused", || {
        late.post("/v1/chat/completions", &chat("x", false, &json!({"tokens": 1})));
        Some(late.response()).filter(|r| r.status_line.contains("500"))
    });
    assert_eq!(refused.json()["error"]["message"], "cannot schedule new futures after shutdown");
    let response = client.response();
    assert!(response.text().ends_with("data: [DONE]\n\n"));
    assert!(response.content().ends_with("tok19"));
    assert_eq!(engine.exit(), Some(0));
}

#[test]
fn a_drain_that_takes_too_long_is_given_up() {
    let mut engine = Engine::ready("--like-vllm --shutdown-timeout=1");
    let worker = engine.child_pid("worker");
    let client = stream(&engine);
    let told = Instant::now();
    engine.signal(SIGTERM);
    until_gone(worker);
    assert!(told.elapsed() >= Duration::from_secs(1));
    drop(client);
    assert_eq!(engine.exit(), Some(0));
}

#[test]
fn if_the_leader_is_killed_the_client_is_cut_off_and_the_others_stay_as_orphans() {
    let mut engine = Engine::ready("--like-vllm");
    let (core, worker) = (engine.child_pid("engine-core"), engine.child_pid("worker"));
    let mut client = stream(&engine);
    engine.signal(SIGKILL);
    let (bytes, end) = client.rest();
    assert!(matches!(end, End::Fin | End::Rst));
    assert!(!bytes.ends_with(b"0\r\n\r\n") && find(&bytes, b"error").is_none());
    assert_eq!(engine.exit(), None);
    assert!(stays(Duration::from_millis(500), || is_alive(core) && is_alive(worker)));
    assert_ne!(parent(core), engine.pid());
    engine.signal_group(SIGTERM);
    until_gone(core);
    until_gone(worker);
}

#[test]
fn if_engine_core_is_killed_streams_end_with_an_error_and_the_leader_with_code_0() {
    let mut engine = Engine::ready("--like-vllm --sim-linger-ms 2500");
    let (core, worker) = (engine.child_pid("engine-core"), engine.child_pid("worker"));
    let mut whole = engine.client();
    whole.post("/v1/chat/completions", &chat("x", false, &json!({"delay_unary_ms": 60_000})));
    let mut hung = engine.client();
    hung.post("/v1/chat/completions", &chat("x", true, &json!({"hang_after_events": 2})));
    hung.until(|b| find(b, b"\"content\":\"tiny\"").is_some());
    let mut client = stream(&engine);
    let killed = Instant::now();
    send(core, SIGKILL);
    for mut client in [client.rest(), hung.rest()] {
        assert_eq!(client.1, End::Fin);
        let end = client.0.split_off(client.0.len() - DIED_AND_DONE.len());
        assert_eq!(String::from_utf8(end).unwrap(), DIED_AND_DONE);
    }
    let whole = whole.response();
    assert_eq!(whole.status_line, "HTTP/1.1 500 Internal Server Error");
    assert_eq!(whole.json()["error"]["code"], 500);
    assert_eq!(whole.header("content-length"), Some("153"));
    assert_eq!(engine.exit(), Some(0));
    assert!(killed.elapsed() < Duration::from_millis(2400), "{:?}", killed.elapsed());
    assert!(is_alive(worker), "it lingers");
    until_gone(worker);
    assert!(killed.elapsed() >= Duration::from_millis(2500));
    assert_eq!(engine.events("worker"), ["start", "exit"]);
}

#[test]
fn if_the_worker_is_killed_health_fails_at_once_and_the_leader_ends_later_with_code_0() {
    let mut engine = Engine::ready("--like-vllm --sim-worker-exit-ms 900");
    let worker = engine.child_pid("worker");
    let killed = Instant::now();
    send(worker, SIGKILL);
    until("503", || {
        let health = engine.get("/health");
        (health.status_line == "HTTP/1.1 503 Service Unavailable").then_some(())
    });
    assert!(killed.elapsed() < Duration::from_millis(600), "{:?}", killed.elapsed());
    let mut client = engine.client();
    client.post("/v1/chat/completions", &chat("x", true, &json!({})));
    assert_eq!(client.response().status_line, "HTTP/1.1 500 Internal Server Error");
    assert_eq!(engine.exit(), Some(0));
    assert!(killed.elapsed() >= Duration::from_millis(900));
}

#[test]
fn an_engine_core_that_dies_while_loading_is_a_failed_start() {
    let mut engine = Engine::start("--like-vllm --sim-never-ready");
    engine.await_event("worker", "start");
    let journal = engine.journal();
    let core = journal.iter().find(|(_, role, _)| role == "engine-core").unwrap().0;
    send(core, SIGKILL);
    assert_eq!(engine.exit(), Some(1));
    assert!(engine.log().contains("RuntimeError: Engine core initialization failed."));
    for (pid, _, _) in journal {
        until_gone(pid);
    }
}

#[test]
fn after_an_end_with_connections_open_only_a_bind_with_reuse_succeeds() {
    let port = free_port();
    let mut engine = Engine::start_at(port, "--like-vllm");
    engine.addr();
    let mut client = stream(&engine);
    engine.signal_group(SIGKILL);
    assert_eq!(engine.exit(), None);
    until("nobody listens", || is_refused(port).then_some(()));
    assert!(!can_bind(port, false), "rows that close are in the way");
    assert!(can_bind(port, true));
    client.rest();
}

#[test]
fn a_group_that_is_told_to_end_ends() {
    let mut engine = Engine::ready("--like-vllm");
    let (core, worker) = (engine.child_pid("engine-core"), engine.child_pid("worker"));
    engine.signal_group(SIGTERM);
    assert_eq!(engine.exit(), Some(0));
    until_gone(core);
    until_gone(worker);
}

#[test]
fn ordered_to_ignore_sigterm_none_of_its_processes_heeds_it() {
    let mut engine = Engine::ready("--like-vllm --sim-ignore-sigterm");
    let (core, worker) = (engine.child_pid("engine-core"), engine.child_pid("worker"));
    engine.signal_group(SIGTERM);
    engine.await_event("worker", "sigterm");
    assert!(stays(Duration::from_millis(200), || is_alive(core) && is_alive(worker)));
    assert!(!engine.has_exited());
    engine.signal_group(SIGKILL);
    assert_eq!(engine.exit(), None);
}
