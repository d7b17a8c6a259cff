//! The daemon is killed in each state of its engine's life, and its successor goes on (SPEC 6.1).
//!
//! `stuck` is not among them: no test can make a process that SIGKILL does not end.

mod house;
mod left;
mod meanwhile;

use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::support::engines::{Engined, families, greeting, hello, is_alive, text_of};
use crate::support::{BOUND, Client, Engines, alone, eventually};
use house::{House, quick, repeats, side_by_side, two};

/// A request for `tiny-a` that waits for its engine.
fn waits(it: &Engined) -> Client {
    hello("tiny-a", false, json!({})).open(it.daemon.addr())
}

#[test]
fn stopped() {
    for _ in 0..repeats() {
        let mut house = House::start(two());
        house.next_daemon();
        house.it.assert_answers("tiny-a");
        house.end();
    }
}

/// Two models; one of them fails at its start, and has to wait before it is tried again.
fn one_fails() -> Engines {
    let engines = Engines::new().model("bad", &["--sim-exit", "1"]).model("tiny-a", &[]);
    engines.set("vllm", "vllm_restart_backoff_s", 30)
}

#[test]
fn failed() {
    for _ in 0..repeats() {
        let mut house = House::start(one_fails());
        house.it.hello("bad").error(502, "err_model_start_failed");
        house.it.wait_engine("failed");
        house.next_daemon();
        house.it.assert_answers("tiny-a");
        house.it.hello("bad").error(502, "err_model_start_failed");
        house.end();
    }
}

#[test]
fn backoff() {
    for _ in 0..repeats() {
        let mut house = House::start(one_fails());
        house.it.hello("bad").error(502, "err_model_start_failed");
        let _again = hello("bad", false, json!({})).open(house.it.daemon.addr());
        house.it.wait_engine("backoff");
        house.next_daemon();
        // Its failures are forgotten: it is tried at once.
        house.it.hello("bad").error(502, "err_model_start_failed");
        house.it.assert_answers("tiny-a");
        house.end();
    }
}

#[test]
fn checking() {
    for _ in 0..repeats() {
        let mut house = House::start(two());
        let stranger = TcpListener::bind(("127.0.0.1", house.it.port)).unwrap();
        let _lost = waits(&house.it);
        house.it.wait_engine("starting");
        house.next_daemon();
        assert!(house.state().is_none() && house.it.starts().is_empty(), "it was only looked");
        let mut waiting = waits(&house.it);
        house.it.wait_engine("starting");
        drop(stranger);
        assert_eq!(text_of(&waiting.reply()), greeting("tiny-a"));
        assert_eq!(house.it.starts(), ["tiny-a"]);
        house.end();
    }
}

/// Named in the state file, and not let go: it ends with its daemon and has begun nothing.
#[test]
fn spawning() {
    for _ in 0..repeats() {
        let mut house = House::start(two().env("IMAGEWORKS_TEST_HOLD_CHILDREN", "1"));
        let _lost = waits(&house.it);
        let held = house.named();
        assert!(is_alive(held));
        house.next_daemon();
        house.it.assert_answers("tiny-a");
        assert!(!is_alive(held));
        assert_eq!(house.it.starts(), ["tiny-a"]);
        house.end();
    }
}

#[test]
fn starting() {
    side_by_side(&[()].repeat(repeats()), |()| {
        let slow = quick(Engines::new(), "tiny-a", &["--sim-load-ms", "1500"]);
        let mut house = House::start(slow);
        let _lost = waits(&house.it);
        let pid = house.loading();
        house.kill_daemon();
        assert!(!house.has("ready"));
        house.start_daemon();
        house.it.assert_answers("tiny-a");
        house.assert_same(pid);
        house.end();
    });
}

/// What a load was begun for does not matter to its next daemon: another model may be wanted.
#[test]
fn starting_and_another_model_is_wanted() {
    for _ in 0..repeats() {
        let engines = quick(two(), "slow", &["--sim-never-ready"]);
        let mut house = House::start(engines.set("vllm", "loading_stop_grace_s", 0.3));
        let _lost = hello("slow", false, json!({})).open(house.it.daemon.addr());
        let pid = house.loading();
        house.next_daemon();
        house.it.assert_answers("tiny-a");
        assert!(!is_alive(pid));
        house.end();
    }
}

#[test]
fn ready() {
    let _alone = alone();
    for _ in 0..repeats() {
        let mut house = House::start(two());
        house.it.assert_answers("tiny-a");
        let pid = house.it.pid();
        house.next_daemon();
        house.assert_adopted(pid);
        // It is the new one's to stop.
        house.it.assert_answers("tiny-b");
        house.end();
    }
}

#[test]
fn ready_and_streaming() {
    let _alone = alone();
    for _ in 0..repeats() {
        let mut house = House::start(two());
        house.it.assert_answers("tiny-a");
        let pid = house.it.pid();
        let _cut = house.it.stream("tiny-a", 100_000);
        house.next_daemon();
        house.assert_adopted(pid);
        // What nobody hears does not hold up the next model: vLLM would not end before it.
        house.it.assert_answers("tiny-b");
        house.end();
    }
}

#[test]
fn stopping() {
    side_by_side(&["order", "signal"].repeat(repeats()), |by| {
        let engines = Engines::new().model("tiny-a", &["--sim-ignore-sigterm"]);
        let mut house = House::start(engines.set("vllm", "vllm_stop_timeout_s", 0.8));
        house.it.assert_answers("tiny-a");
        let pid = house.it.pid();
        if *by == "signal" {
            house.it.daemon.terminate();
        } else {
            house.it.order("deactivate", json!({}));
        }
        house.wait_told();
        house.kill_daemon();
        assert!(is_alive(pid));
        house.start_daemon();
        house.it.assert_answers("tiny-a");
        assert!(!is_alive(pid), "it was to end, and is not taken over");
        assert_eq!(house.it.starts(), ["tiny-a", "tiny-a"]);
        house.end();
    });
}

#[test]
fn sweeping() {
    side_by_side(&[()].repeat(repeats()), |()| {
        let engines = quick(Engines::new(), "tiny-a", &["--sim-leave-child"]);
        let mut house = House::start(quick(engines, "tiny-b", &[]));
        house.it.assert_answers("tiny-a");
        let pid = house.it.pid();
        house.it.order("deactivate", json!({}));
        eventually("its leader is gone", BOUND, || (!is_alive(pid)).then_some(()));
        house.kill_daemon();
        assert!(families(house.it.port).contains(&pid), "and a child of it is there");
        house.start_daemon();
        house.it.assert_answers("tiny-b");
        assert!(!families(house.it.port).contains(&pid));
        house.end();
    });
}

/// In no known state: whatever was half done, the next one finishes it or undoes it.
#[test]
fn at_any_moment() {
    let engines = two().set("vllm", "loading_stop_grace_s", 0.2);
    let mut house = House::start(engines);
    for moment in 0..repeats() * 6 {
        let _lost = ["tiny-a", "tiny-b"]
            .map(|model| hello(model, true, json!({})).open(house.it.daemon.addr()));
        // Nothing is waited for: these are the moments, 0 to 390 ms, in no order.
        thread::sleep(Duration::from_millis(moment as u64 * 70 % 400));
        house.next_daemon();
    }
    house.it.assert_answers("tiny-a");
    house.it.assert_answers("tiny-b");
    house.end();
}
