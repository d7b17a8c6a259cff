//! What is left on purpose when a daemon ends, and what `sweep` does with what is left.

use std::fs;

use serde_json::json;

use super::house::{House, quick, repeats, side_by_side, two};
use super::meanwhile::{CHILDREN, orphans};
use crate::support::engines::{STATE, is_alive};
use crate::support::{Engines, alone};

fn keeping(load: &str) -> House {
    let engines = quick(Engines::new(), "tiny-a", &["--sim-load-ms", load]);
    House::start(engines.set("server", "keep_backends_on_exit", true))
}

impl House {
    /// `sweep` with these arguments: whether it did well, and what it says.
    fn sweep(&self, args: &[&str]) -> (bool, String) {
        let (code, said) = self.it.daemon.program(&[&["sweep"], args].concat());
        assert!(matches!(code, Some(0 | 1)), "{code:?}: {said}");
        (code == Some(0), said)
    }

    /// `sweep` ends all that is left, and finds nothing when it is called again.
    #[track_caller]
    fn assert_swept(&self) {
        let (well, said) = self.sweep(&[]);
        assert!(well && said.contains("\nnothing is left\n"), "{said}");
        self.assert_nothing_left();
        let (well, said) = self.sweep(&[]);
        assert!(well && said.contains("nothing is left of any engine"), "{said}");
    }
}

#[test]
fn an_engine_that_is_kept_is_taken_over_by_the_next_daemon() {
    let _alone = alone();
    for _ in 0..repeats() {
        let mut house = keeping("100");
        house.it.assert_answers("tiny-a");
        let pid = house.it.pid();
        house.end_daemon();
        assert!(is_alive(pid));
        assert_eq!(house.named(), pid);
        house.start_daemon();
        house.assert_adopted(pid);
        house.end_daemon();
        assert!(is_alive(pid), "kept again");
        house.assert_swept();
    }
}

#[test]
fn an_engine_that_is_kept_while_it_loads_is_taken_over_and_finishes() {
    side_by_side(&[()].repeat(repeats()), |()| {
        let mut house = keeping("1500");
        assert_eq!(house.it.order("activate", json!({"model": "tiny-a"})).status(), 202);
        let pid = house.loading();
        house.end_daemon();
        assert!(is_alive(pid) && !house.has("ready"));
        house.start_daemon();
        house.it.assert_answers("tiny-a");
        house.assert_same(pid);
        house.end_daemon();
        house.assert_swept();
    });
}

#[test]
fn sweep_touches_nothing_while_a_daemon_lives() {
    for _ in 0..repeats() {
        let house = House::start(two());
        house.it.assert_answers("tiny-a");
        let (pid, daemon) = (house.it.pid(), house.it.daemon.pid());
        let (well, said) = house.sweep(&[]);
        assert!(!well && said.contains(&format!("pid {daemon}")), "{said}");
        house.it.assert_answers("tiny-a");
        house.assert_same(pid);
        house.end();
    }
}

#[test]
fn sweep_ends_what_a_dead_daemon_left() {
    let children: [&[&str]; 2] = [&[], &["--sim-leave-child=session"]];
    let cases = [false, true].map(|forgotten| children.map(|child| (forgotten, child)));
    side_by_side(cases.as_flattened(), |(forgotten, child)| {
        let mut house = House::start(quick(Engines::new(), "tiny-a", child));
        house.it.assert_answers("tiny-a");
        let pid = house.it.pid();
        house.kill_daemon();
        if *forgotten {
            fs::remove_file(house.it.daemon.path(STATE)).unwrap();
        }
        let (well, said) = house.sweep(&["--dry-run"]);
        assert!(well && said.contains(&format!("pid {pid} ")), "{said}");
        assert_eq!(house.it.ask_engine("/sim/process")["pid"], pid, "it serves on");
        house.assert_swept();
    });
}

#[test]
fn sweep_ends_what_is_left_of_an_engine_that_died_too() {
    side_by_side(&CHILDREN, |child| orphans(child).assert_swept());
}

/// One that loads hears no SIGTERM.
#[test]
fn sweep_ends_an_engine_that_loads() {
    for _ in 0..repeats() {
        let engines = quick(Engines::new(), "tiny-a", &["--sim-never-ready"]);
        let mut house = House::start(engines.set("vllm", "vllm_stop_timeout_s", 0.3));
        assert_eq!(house.it.order("activate", json!({"model": "tiny-a"})).status(), 202);
        house.loading();
        house.kill_daemon();
        house.assert_swept();
    }
}
