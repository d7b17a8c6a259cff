//! The end of the daemon is the end of its engine (SPEC 11).

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::engines::{families, hello};
use crate::support::{BOUND, Engines, eventually};

#[test]
fn the_end_of_the_daemon_is_the_end_of_its_engine() {
    let mut it = Engines::two().start();
    it.assert_answers("tiny-a");
    assert_eq!(families(it.port).len(), 1);
    it.daemon.terminate();
    assert!(it.daemon.wait_exit(BOUND).success());
    it.assert_nothing_left();
}

#[test]
fn an_engine_that_ignores_sigterm_is_killed_with_all_that_belongs_to_it() {
    let mut it = Engines::new()
        .model("tiny-a", &["--like-vllm", "--sim-ignore-sigterm", "--sim-leave-child"])
        .set("vllm", "vllm_stop_timeout_s", 0.5)
        .start();
    it.assert_answers("tiny-a");
    let begun = Instant::now();
    it.daemon.terminate();
    assert!(it.daemon.wait_exit(BOUND).success());
    assert!(begun.elapsed() >= Duration::from_millis(500));
    it.assert_nothing_left();
}

#[test]
fn a_second_signal_kills_the_engine_at_once() {
    let mut it = Engines::new()
        .model("tiny-a", &["--sim-ignore-sigterm"])
        .set("vllm", "vllm_stop_timeout_s", 600)
        .start();
    it.assert_answers("tiny-a");
    it.daemon.terminate();
    eventually("the engine has heard of it", BOUND, || {
        it.journal().iter().any(|life| life.event == "sigterm").then_some(())
    });
    it.daemon.terminate();
    assert!(it.daemon.wait_exit(BOUND).success());
    it.assert_nothing_left();
}

#[test]
fn the_daemon_may_end_while_a_model_loads_and_those_who_wait_are_told() {
    let mut it = Engines::new()
        .model("tiny-a", &["--like-vllm", "--sim-never-ready"])
        .set("vllm", "loading_stop_grace_s", 0.3)
        .start();
    let mut waiting = hello("tiny-a", false, json!({})).open(it.daemon.addr());
    it.wait_engine("starting");
    it.daemon.terminate();
    waiting.reply().error(503, "err_draining");
    assert!(it.daemon.wait_exit(BOUND).success());
    it.assert_nothing_left();
}
