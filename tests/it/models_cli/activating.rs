//! `activate-model`, `current-model`: what is shown while a load lasts, and how it ends.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::run::{Models, masked};
use crate::support::{Engines, Upstream, daemon};

/// Long enough to be looked at in between.
const LOAD_MS: &str = "1500";

#[test]
fn a_load_is_shown_with_the_engines_log_and_its_end() {
    let it = Engines::new()
        .model("tiny-a", &["--like-vllm", "--sim-load-ms", LOAD_MS])
        .model("tiny-b", &["--like-vllm"])
        .start();
    let models = Models::of(&it.daemon);
    models.run(&["current-model"]).failed(3, "nothing is resident");
    let done = models.run(&["activate-model", "Tiny A"]);
    assert_eq!(masked(done.out()), "tiny-a is ready ([time])\n");
    assert!(done.stderr.contains("tiny-a: the engine is loading"), "{}", done.stderr);
    let log = done.stderr.lines().filter(|line| line.contains("  | ")).count();
    assert!(log > 3 && !done.stderr.contains('\x1b'), "{}", done.stderr);
    assert_eq!(models.run(&["current-model"]).out(), "tiny-a\n");
    let told = models.run(&["current-model", "--json"]).json();
    assert_eq!(told, json!({"model": "tiny-a", "backend": "vllm", "state": "ready"}));
    // It is there already.
    let again = models.run(&["activate-model", "tiny-a", "--json"]).json();
    assert_eq!((&again["model"], &again["state"]), (&json!("tiny-a"), &json!("ready")));
    assert_eq!(
        masked(models.run(&["activate-model", "tiny-b"]).out()),
        "tiny-b is ready ([time])\n"
    );
    assert_eq!(it.starts(), ["tiny-a", "tiny-b"]);
    assert_eq!(models.run(&["activate-model", "--stop"]).out(), "stopped: tiny-b\n");
    it.assert_nothing_left();
    assert_eq!(models.run(&["activate-model", "--stop"]).out(), "nothing is resident\n");
    let nothing: Value = models.run(&["activate-model", "--stop", "--json"]).json();
    assert_eq!(nothing, json!({"stopped": []}));
}

#[test]
fn an_order_may_be_given_without_waiting() {
    let it = Engines::two().start();
    let models = Models::of(&it.daemon);
    let given = models.run(&["activate-model", "tiny-a", "--no-wait"]);
    assert_eq!(given.out(), "tiny-a: loading\n");
    it.wait_engine("ready");
    let given = models.run(&["activate-model", "--stop", "--no-wait"]);
    assert_eq!(given.out(), "being stopped: tiny-a\n");
    it.wait_engine("stopped");
}

#[test]
fn a_stop_waits_for_streams_unless_it_is_forced() {
    let it = Engines::two().start();
    let models = Models::of(&it.daemon);
    it.assert_answers("tiny-a");
    let mut stream = it.stream("tiny-a", 100);
    let stopping = models.begin(&["activate-model", "--stop"]);
    stopping.until_err("tiny-a: requests finish first (1)");
    stream.rest();
    assert_eq!(stopping.end(), (Some(0), vec!["stopped: tiny-a".to_owned()]));
    it.assert_answers("tiny-a");
    let _endless = it.stream("tiny-a", 100_000);
    assert_eq!(models.run(&["activate-model", "--stop", "--force"]).out(), "stopped: tiny-a\n");
    it.assert_nothing_left();
}

#[test]
fn a_start_that_fails_says_why_with_the_telling_line() {
    let it = Engines::new().model("large", &["--sim-exit", "1", "--sim-exit-log", "oom"]).start();
    let models = Models::of(&it.daemon);
    let failed = models.run(&["activate-model", "large"]);
    failed.failed(1, "large");
    let hint = failed.stderr.lines().find(|line| line.starts_with("hint: ")).expect("a hint");
    assert!(hint.contains("CUDA out of memory"), "{hint}");
    let told = models.run(&["activate-model", "large", "--json"]);
    let error: Value = serde_json::from_str(&told.stdout).expect("JSON");
    assert_eq!((told.code, &error["error"]["code"]), (Some(1), &json!("err_model_start_failed")));
}

#[test]
fn who_does_not_wait_any_more_is_told_that_the_load_goes_on() {
    let it = Engines::new().model("slow", &["--sim-never-ready"]).start();
    let models = Models::of(&it.daemon);
    let waiting = models.begin(&["activate-model", "slow"]);
    waiting.until_err("slow: the engine is loading");
    waiting.signal(Signal::SIGINT);
    waiting.until_err("the load of slow goes on");
    waiting.until_err("hint: `imageworks-models activate-model --stop` stops it");
    assert_eq!(waiting.end(), (Some(130), Vec::new()));
    assert_eq!(it.engine()["state"], "starting");
    let late = models.run(&["activate-model", "slow", "--max-wait", "0.2"]);
    late.failed(1, "slow is not ready after 0.2 s; its load goes on");
    assert_eq!(models.run(&["activate-model", "--stop"]).out(), "stopped: slow\n");
    it.assert_nothing_left();
}

#[test]
fn a_daemon_that_ends_meanwhile_is_told() {
    let mut it = Engines::new().model("slow", &["--sim-never-ready"]).start();
    let models = Models::of(&it.daemon);
    let waiting = models.begin(&["activate-model", "slow"]);
    waiting.until_err("slow: the engine is loading");
    it.daemon.terminate();
    waiting.until_err("error: the proxy is shutting down");
    assert_eq!(waiting.end().0, Some(1));
    it.daemon.wait_exit(Duration::from_secs(20));
}

#[test]
fn somebody_elses_server_is_not_loaded_from_here() {
    let upstream = Upstream::answering("200 OK", "application/json", "{}");
    let it = Engines::two().entry(daemon::entry("there", &upstream)).start();
    let models = Models::of(&it.daemon);
    models.run(&["activate-model", "there"]).failed(1, "there is served by somebody else's server");
    models.run(&["activate-model", "tiny-x"]).failed(3, "tiny-x");
    assert_eq!(it.starts(), [""; 0]);
}
