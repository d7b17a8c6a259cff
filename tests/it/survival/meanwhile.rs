//! Between the two daemons something has changed.

use std::fs;

use nix::sys::signal::Signal;

use super::house::{House, quick, repeats, side_by_side, two};
use crate::support::engines::{STATE, families, is_alive, kill_process};
use crate::support::{BOUND, Engines, eventually};

/// `tiny-a` serves, and its daemon is dead.
fn orphaned(engines: Engines) -> (House, i32) {
    let mut house = House::start(engines);
    house.it.assert_answers("tiny-a");
    let pid = house.it.pid();
    house.kill_daemon();
    (house, pid)
}

#[test]
fn an_engine_that_no_file_names_is_ended_before_another_one_starts() {
    for _ in 0..repeats() {
        let (mut house, pid) = orphaned(two());
        fs::remove_file(house.it.daemon.path(STATE)).unwrap();
        house.start_daemon();
        house.it.assert_answers("tiny-a");
        assert!(!is_alive(pid));
        assert_eq!(house.it.starts(), ["tiny-a", "tiny-a"]);
        house.end();
    }
}

#[test]
fn an_engine_whose_file_cannot_be_understood_is_ended_too() {
    for text in ["", "{", "{\"pid\": 1}"] {
        let (mut house, pid) = orphaned(two());
        fs::write(house.it.daemon.path(STATE), text).unwrap();
        house.start_daemon();
        house.it.assert_answers("tiny-a");
        assert!(!is_alive(pid));
        house.end();
    }
}

/// Children of all kinds; the last one has neither group, nor environment, nor parents of its
/// engine: the file and the control group alone tell whose it is.
pub(super) const CHILDREN: [&str; 5] = [
    "--sim-leave-child",
    "--sim-leave-child=session",
    "--sim-leave-child=daemon",
    "--sim-leave-child=bare",
    "--sim-leave-child=stray",
];

/// `tiny-a` has died after its daemon, and a child of this kind lives.
pub(super) fn orphans(child: &str) -> House {
    let engines = quick(Engines::new(), "tiny-a", &[child]);
    let mut house = House::start(quick(engines, "tiny-b", &[]));
    house.it.assert_answers("tiny-a");
    let pid = house.it.pid();
    // Leader, two of vLLM's, and the child.
    house.wait_members(4);
    house.kill_daemon();
    kill_process(pid, Signal::SIGKILL);
    eventually("it is gone", BOUND, || (!is_alive(pid)).then_some(()));
    house
}

#[test]
fn what_an_engine_left_that_died_too_is_ended_before_another_one_starts() {
    side_by_side(&CHILDREN, |child| {
        let mut house = orphans(child);
        let left = families(house.it.port);
        assert!(!left.is_empty(), "{child}");
        house.start_daemon();
        house.it.assert_answers("tiny-b");
        let now = families(house.it.port);
        assert!(now.is_disjoint(&left), "{child}: of {left:?} there are {now:?}");
        house.end_daemon();
        house.assert_nothing_left();
    });
}

#[test]
fn an_engine_whose_entry_has_changed_is_ended_and_not_taken_over() {
    for _ in 0..repeats() {
        let (mut house, pid) = orphaned(two());
        let registry = house.it.daemon.registry();
        house.it.daemon.write_registry(&registry.replace("/models/tiny-a", "/models/newer"));
        house.start_daemon();
        // Whether anybody asks for it or not.
        eventually("it is ended", BOUND, || (!is_alive(pid)).then_some(()));
        house.it.assert_answers("tiny-a");
        assert_eq!(house.it.ask_engine("/sim/argv")[1], "/models/newer");
        house.end();
    }
}

#[test]
fn an_engine_stays_while_the_registry_cannot_be_read() {
    for _ in 0..repeats() {
        let (mut house, pid) = orphaned(two());
        let registry = house.it.daemon.registry();
        house.it.daemon.write_registry("[{");
        house.start_daemon();
        house.it.wait_engine("ready");
        house.it.hello("tiny-a").error(404, "err_model_not_found");
        house.assert_same(pid);
        house.it.daemon.write_registry(&registry);
        house.it.daemon.signal(Signal::SIGHUP);
        let mended = || (house.it.hello("tiny-a").status() == 200).then_some(());
        eventually("it is mended", BOUND, mended);
        house.it.assert_answers("tiny-a");
        house.assert_same(pid);
        house.it.assert_answers("tiny-b");
        house.end();
    }
}
