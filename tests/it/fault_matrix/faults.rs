//! How each fault is brought about, and the request that follows it.

use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::case::{Case, Seen, told};
use crate::support::daemon::PROGRAM;
use crate::support::engines::{Life, hello, is_alive, kill_process};
use crate::support::{Ask, BOUND, Engines, eventually};

/// `tiny-a`, whose engine has these habits on top of vLLM's, and `tiny-b` without them. The daemon
/// has little patience, and no breaker that gets in the way.
pub(super) fn quick(habits: &[&str]) -> Engines {
    with(habits, json!({}))
}

fn with(habits: &[&str], more: Value) -> Engines {
    Engines::new()
        .model_with("tiny-a", &[&["--like-vllm"], habits].concat(), more)
        .model("tiny-b", &["--like-vllm"])
        .set("vllm", "loading_stop_grace_s", 0.3)
        .set("vllm", "breaker_failures", 20)
}

/// Its engine is asked often how it is.
pub(super) fn probed() -> Engines {
    quick(&[]).set("vllm", "health_interval_s", 0.1)
}

/// And has to answer soon: not so soon that one that only gets no turn on a busy machine is dead.
pub(super) fn hurried() -> Engines {
    probed().set("vllm", "health_probe_timeout_s", 0.5)
}

pub(super) fn never_ready() -> Engines {
    with(&["--sim-never-ready"], json!({"start_timeout_s": 0.7}))
}

/// Three deaths open its breaker.
pub(super) fn breaking() -> Engines {
    quick(&[]).set("vllm", "vllm_restart_backoff_s", 0.05).set("vllm", "breaker_failures", 3).set(
        "vllm",
        "breaker_open_s",
        OPEN.as_secs_f64(),
    )
}

const OPEN: Duration = Duration::from_millis(1500);

/// One request, and nothing else.
pub(super) fn ask(case: &Case) -> Seen {
    let since = Instant::now();
    Seen::of_reply(&case.it.hello("tiny-a"), "tiny-a", since)
}

pub(super) fn slow_start(case: &Case) -> Seen {
    let seen = ask(case);
    assert!(seen.took >= Duration::from_secs(2), "it was waited for: {:?}", seen.took);
    seen
}

pub(super) fn leader_killed_while_loading(case: &Case) -> Seen {
    let mut waiting = hello("tiny-a", false, json!({})).open(case.it.daemon.addr());
    case.pid_of("worker");
    case.it.wait_engine("starting");
    let leader = case.it.pid();
    case.condemn(leader);
    let since = Instant::now();
    kill_process(leader, Signal::SIGKILL);
    Seen::of_reply(&waiting.reply(), "tiny-a", since)
}

pub(super) fn crash_while_idle(case: &Case) -> Seen {
    let leader = case.up();
    eventually("the engine crashes", BOUND, || {
        case.it.journal().into_iter().find(|life| life.pid == leader && life.event == "exit")
    });
    ask(case)
}

/// The time is that from the sixteenth of twenty tokens to the error.
pub(super) fn crash_while_streaming(case: &Case) -> Seen {
    case.up();
    let sim = json!({"tokens": 200, "delay_token_ms": 5});
    let mut stream = hello("tiny-a", true, sim).open(case.it.daemon.addr());
    assert_eq!(stream.head().status, 200);
    stream.read_until("tok15");
    let since = Instant::now();
    Seen::of_stream(&mut stream, since)
}

pub(super) fn leader_killed(case: &Case) -> Seen {
    kill_process(case.up(), Signal::SIGKILL);
    ask(case)
}

pub(super) fn killed_while_streaming(case: &Case, role: &str) -> Seen {
    case.up();
    let mut stream = case.it.stream("tiny-a", 100_000);
    let victim = case.pid_of(role);
    let since = Instant::now();
    kill_process(victim, Signal::SIGKILL);
    Seen::of_stream(&mut stream, since)
}

/// Until the probes have told, the engine answers for itself.
pub(super) fn worker_killed(case: &Case) -> Seen {
    case.up();
    kill_process(case.pid_of("worker"), Signal::SIGKILL);
    let engine = ([127, 0, 0, 1], case.it.port).into();
    eventually("the engine says that it is not well", BOUND, || {
        (Ask::get("/health").reply(engine).status() == 503).then_some(())
    });
    ask(case)
}

fn order_health(case: &Case, order: Value) {
    let engine = ([127, 0, 0, 1], case.it.port).into();
    assert_eq!(Ask::post("/sim/health", &order).reply(engine).status(), 200);
}

/// The request is sent as soon as the daemon has noticed.
pub(super) fn health_hangs(case: &Case) -> Seen {
    case.up();
    order_health(case, json!({"hang": true}));
    let since = Instant::now();
    eventually("it is noticed", BOUND, || (case.it.engine()["state"] != "ready").then_some(()));
    Seen::of_reply(&case.it.hello("tiny-a"), "tiny-a", since)
}

/// It is busy and not dead: nothing happens to it.
pub(super) fn health_hangs_beside_a_stream(case: &Case) -> Seen {
    let leader = case.up();
    let mut stream = case.it.stream("tiny-a", 250);
    order_health(case, json!({"hang": true}));
    let since = Instant::now();
    stream.read_until("tok200");
    order_health(case, json!({"ok": true}));
    let seen = Seen::of_stream(&mut stream, since);
    assert!(seen.took > Duration::from_millis(1500), "probes had time to fail: {:?}", seen.took);
    assert_eq!(case.it.pid(), leader);
    case.spare();
    seen
}

pub(super) fn health_is_bad(case: &Case) -> Seen {
    case.up();
    let mut stream = case.it.stream("tiny-a", 100_000);
    order_health(case, json!({"status": 503}));
    let since = Instant::now();
    Seen::of_stream(&mut stream, since)
}

/// It takes connections and says nothing, and hears no SIGTERM either.
pub(super) fn leader_frozen(case: &Case) -> Seen {
    kill_process(case.up(), Signal::SIGSTOP);
    ask(case)
}

/// A request for another model is what ends the engine.
pub(super) fn swap(case: &Case) -> Seen {
    case.up();
    let since = Instant::now();
    Seen::of_reply(&case.it.hello("tiny-b"), "tiny-b", since)
}

/// A swap from an engine that has a child that stays behind.
pub(super) fn swap_from_a_mother(case: &Case) -> Seen {
    case.up();
    assert_child(case);
    swap(case)
}

/// There is one, and it would be counted.
fn assert_child(case: &Case) {
    let all = case.all();
    assert!(all.iter().any(|line| line.contains("--sim-role=child")), "{all:?}");
}

/// A swap from an engine of which something stays that comes only when it ends.
pub(super) fn swap_from_a_late_mother(case: &Case) -> Seen {
    let seen = swap(case);
    let late = |life: &Life| life.role == "child" && life.event == "start";
    assert!(case.it.journal().iter().any(late), "nothing came");
    seen
}

/// It was told to end, in vain, for as long as it had.
pub(super) fn swap_from_a_stubborn_one(case: &Case) -> Seen {
    let seen = swap(case);
    assert!(seen.took >= Duration::from_millis(500), "{:?}", seen.took);
    assert!(case.it.journal().iter().any(|life| life.event == "sigterm"), "it was asked");
    seen
}

pub(super) fn mother_killed(case: &Case) -> Seen {
    let leader = case.up();
    assert_child(case);
    kill_process(leader, Signal::SIGKILL);
    ask(case)
}

pub(super) fn stopped_while_loading(case: &Case) -> Seen {
    let mut waiting = hello("tiny-a", false, json!({})).open(case.it.daemon.addr());
    case.pid_of("worker");
    case.it.wait_engine("starting");
    let leader = case.it.pid();
    case.condemn(leader);
    let since = Instant::now();
    case.it.order("deactivate", json!({}));
    let seen = Seen::of_reply(&waiting.reply(), "tiny-a", since);
    case.it.wait_engine("stopped");
    let journal = case.it.journal();
    let lived = |event| journal.iter().any(|life| life.pid == leader && life.event == event);
    assert!(lived("sigterm") && !lived("exit"), "it was asked, and then killed: {journal:?}");
    seen
}

/// An engine that somebody else started.
pub(super) fn stranger_on_the_port(case: &Case) -> Seen {
    let port = case.it.port.to_string();
    let stranger = Command::new(PROGRAM)
        .args(["sim-engine", "serve", "tiny-a", "--port", &port])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    case.stranger.replace(Some(stranger.expect("the program")));
    let engine: SocketAddr = ([127, 0, 0, 1], case.it.port).into();
    eventually("the stranger listens", BOUND, || TcpStream::connect(engine).ok());
    let since = Instant::now();
    let reply = case.it.hello("tiny-a");
    let mut seen = Seen::of_reply(&reply, "tiny-a", since);
    let pid = case.stranger_pid().expect("a stranger");
    let message = reply.json()["error"]["message"].as_str().unwrap_or_default().to_owned();
    if message.contains(&format!("pid {pid} ")) {
        seen.what += ", names its pid";
    }
    assert!(is_alive(pid), "it is not touched");
    seen
}

pub(super) fn crash_loop(case: &Case) -> Seen {
    for death in 0..3 {
        if death > 0 {
            assert_eq!(told(&case.it.hello("tiny-a"), "tiny-a"), "whole answer");
        }
        kill_process(case.up(), Signal::SIGKILL);
        case.it.wait_engine("failed");
    }
    let seen = ask(case);
    assert_eq!(case.it.engine()["in_crash_loop"][0]["model"], "tiny-a");
    seen
}

/// What that model's next request gets, and whether an engine was started for it.
fn next(case: &Case, model: &str) -> String {
    let before = case.engine();
    let told = told(&case.it.hello(model), model);
    let now = case.engine();
    if now.is_some() && now != before { told + ", new engine" } else { told }
}

pub(super) fn ask_again(case: &Case) -> String {
    next(case, "tiny-a")
}

pub(super) fn ask_the_other(case: &Case) -> String {
    next(case, "tiny-b")
}

pub(super) fn ask_again_then_another(case: &Case) -> String {
    let error = case.it.engine()["last_error"].clone();
    let again = case.it.hello("tiny-a");
    assert!(again.status() >= 500, "{}", again.text());
    assert_eq!(case.it.engine()["last_error"], error);
    format!("the same; another model: {}", next(case, "tiny-b"))
}

pub(super) fn ask_when_the_stranger_left(case: &Case) -> String {
    let mut stranger = case.stranger.take().expect("a stranger");
    assert!(stranger.try_wait().expect("wait").is_none(), "it lived to this moment");
    stranger.kill().expect("a living stranger");
    stranger.wait().expect("its end");
    format!("when it has left: {}", next(case, "tiny-a"))
}

pub(super) fn ask_until_the_breaker_closes(case: &Case) -> String {
    let gets = eventually("a start is let through", BOUND, || {
        let gets = next(case, "tiny-a");
        (gets != "502 `err_model_start_failed`").then_some(gets)
    });
    format!("after `breaker_open_s`: {gets}")
}
