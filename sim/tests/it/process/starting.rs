//! How an engine starts, or does not.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal::{SIGKILL, SIGTERM};

use super::{Engine, can_bind, free_port, is_refused, stays};

#[test]
fn while_it_loads_the_port_is_taken_and_refuses_and_then_it_serves() {
    let (port, start) = (free_port(), Instant::now());
    let engine = Engine::start_at(port, "--sim-load-ms 700");
    engine.await_event("leader", "start");
    super::until("the port is bound", || (!can_bind(port, false)).then_some(()));
    assert!(can_bind(port, true), "beside one that does not listen a bind with reuse succeeds");
    assert!(is_refused(port));
    assert_eq!(engine.addr().port(), port);
    assert!(start.elapsed() >= Duration::from_millis(700));
    assert_eq!(engine.get("/health").status_line, "HTTP/1.1 200 OK");
    engine.await_event("leader", "ready");
    let log = engine.log();
    for told in ["model   tiny-a", "Loading safetensors", "Application startup complete."] {
        assert!(log.contains(told), "{told} in {log}");
    }
}

#[test]
fn a_silent_load_tells_nothing_before_it_is_ready() {
    for flags in ["--sim-load-ms 100 --sim-silent-load", ""] {
        let engine = Engine::ready(flags);
        engine.await_event("leader", "ready");
        assert_eq!(engine.log(), "INFO:     Application startup complete.\n");
    }
}

#[test]
fn one_that_is_never_ready_refuses_and_ends_when_told() {
    let port = free_port();
    let mut engine = Engine::start_at(port, "--sim-never-ready");
    engine.await_event("leader", "start");
    assert!(stays(Duration::from_millis(300), || is_refused(port)));
    engine.signal(SIGTERM);
    assert_eq!(engine.exit(), Some(0));
    assert_eq!(engine.events("leader"), ["start", "sigterm", "exit"]);
}

#[test]
fn it_lists_another_model_when_ordered() {
    let engine = Engine::ready("--served-model-name mine --sim-wrong-id other");
    let models = engine.get("/v1/models").json();
    assert_eq!(models["data"].as_array().unwrap().len(), 1);
    assert_eq!(models["data"][0]["id"], "other");
}

#[test]
fn its_health_is_what_was_ordered() {
    let engine = Engine::ready("--sim-health=500");
    assert_eq!(engine.get("/health").status_line, "HTTP/1.1 500 Internal Server Error");
    assert_eq!(engine.get("/v1/models").status_line, "HTTP/1.1 200 OK");
}

#[test]
fn it_exits_while_starting_with_the_log_that_was_ordered() {
    for (flags, code, telling, last) in [
        ("--sim-exit 1", 1, "torch.OutOfMemoryError: CUDA out of memory.", "RuntimeError: Engine"),
        ("--sim-exit=3 --sim-exit-log oom --like-vllm", 3, "OutOfMemoryError", "RuntimeError: E"),
        (
            "--sim-exit 1 --sim-exit-log=bad-path",
            1,
            "Repo id must be in the form 'repo_name' or 'namespace/repo_name': 'tiny-a'",
            "huggingface_hub.errors.HFValidationError: ",
        ),
        (
            "--sim-exit 1 --sim-exit-log max-len --max-model-len 7777 --like-vllm",
            1,
            "User-specified max_model_len (7777) is greater",
            "    For further information visit https://",
        ),
        ("--sim-exit 0 --sim-exit-log port", 0, "Traceback", "OSError: [Errno 98] Address"),
    ] {
        let mut engine = Engine::start(flags);
        assert_eq!(engine.exit(), Some(code), "{flags}");
        let log = engine.log();
        assert!(log.contains(telling), "{telling} in {log}");
        assert!(log.lines().last().unwrap().starts_with(last), "{log}");
        assert_eq!(engine.events("leader"), ["start", "exit"]);
        for (pid, _, _) in engine.journal() {
            super::until_gone(pid);
        }
    }
}

#[test]
fn it_exits_after_some_time_even_if_it_would_be_ready_before() {
    let (port, start) = (free_port(), Instant::now());
    let mut engine = Engine::start_at(port, "--sim-exit 9 --sim-exit-after-ms 300");
    engine.await_event("leader", "start");
    assert!(is_refused(port));
    assert_eq!(engine.exit(), Some(9));
    assert!(start.elapsed() >= Duration::from_millis(300));
}

#[test]
fn a_port_in_use_ends_it_as_it_ends_the_real_one() {
    let first = Engine::ready("");
    let mut second = Engine::start_at(first.addr().port(), "");
    assert_eq!(second.exit(), Some(1));
    assert_eq!(second.log(), "OSError: [Errno 98] Address already in use\n");
}

#[test]
fn of_two_that_load_at_one_port_the_later_fails_late() {
    let port = free_port();
    let mut later = Engine::start_at(port, "--sim-load-ms 800 --like-vllm");
    later.await_event("worker", "start");
    let first = Engine::start_at(port, "");
    assert_eq!(first.addr().port(), port);
    assert_eq!(later.exit(), Some(1));
    assert!(later.log().ends_with("OSError: [Errno 98] Address already in use\n"));
    for (pid, _, _) in later.journal() {
        super::until_gone(pid);
    }
}

#[test]
fn it_goes_on_loading_when_sigterm_is_to_be_ignored() {
    let mut engine = Engine::start("--sim-load-ms 400 --sim-ignore-sigterm");
    engine.await_event("leader", "start");
    engine.signal(SIGTERM);
    engine.addr();
    engine.signal(SIGTERM);
    assert!(stays(Duration::from_millis(200), || !engine.has_exited()));
    engine.signal(SIGKILL);
    assert_eq!(engine.exit(), None);
    assert_eq!(engine.events("leader"), ["start", "sigterm", "ready", "sigterm"]);
}
