//! The fault matrix: every way in which an engine goes wrong, and what is promised for it (SPEC 6.1).
//!
//! [`GROUPS`] is the table. `faults` sets each fault up and brings it about, `case` looks at what is
//! left of the engine afterwards, `page` holds the table against `docs/RELIABILITY.md`.

mod case;
mod faults;
mod page;

use std::thread;
use std::time::Duration;

use crate::support::{BOUND, Engines};
use case::{Case, Seen};
use faults::*;

/// What stands in the column of processes, in each row.
const NONE_LEFT: &str = "none";

/// A fault, and what is promised for it. The texts are those of the document.
struct Row {
    fault: &'static str,
    engines: fn() -> Engines,
    /// Brings the fault about, and tells what a client saw of it.
    happens: fn(&Case) -> Seen,
    sees: &'static str,
    /// From the fault to what the client sees; where nobody was served, from the request sent then.
    within: Duration,
    /// Who listens at the engine's port afterwards.
    port: &'static str,
    /// Makes the next request, and tells what it got.
    next: fn(&Case) -> String,
    gets: &'static str,
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const STARTS: [Row; 4] = [
    Row {
        fault: "slow start: a load of 2 s",
        engines: || quick(&["--sim-load-ms", "2000"]),
        happens: slow_start,
        sees: "whole answer",
        within: ms(5000),
        port: "the engine's",
        next: ask_again,
        gets: "whole answer",
    },
    Row {
        fault: "never ready: a start deadline of 0.7 s",
        engines: never_ready,
        happens: ask,
        sees: "504 `err_model_start_timeout`",
        within: ms(3000),
        port: "free",
        next: ask_again_then_another,
        gets: "the same; another model: whole answer, new engine",
    },
    Row {
        fault: "exit while starting",
        engines: || quick(&["--sim-exit", "1"]),
        happens: ask,
        sees: "502 `err_model_start_failed`",
        within: ms(3000),
        port: "free",
        next: ask_again_then_another,
        gets: "the same; another model: whole answer, new engine",
    },
    Row {
        fault: "crash while loading: leader SIGKILLed",
        engines: || quick(&["--sim-load-ms", "1000"]),
        happens: leader_killed_while_loading,
        sees: "502 `err_model_start_failed`",
        within: ms(1000),
        port: "free",
        next: ask_again,
        gets: "whole answer, new engine",
    },
];

const DEATHS: [Row; 6] = [
    Row {
        fault: "crash while idle",
        engines: || quick(&["--sim-crash-idle-ms", "2000"]),
        happens: crash_while_idle,
        sees: "whole answer",
        within: ms(4000),
        port: "the engine's",
        next: ask_again,
        gets: "whole answer",
    },
    Row {
        fault: "crash while streaming",
        engines: || quick(&["--sim-crash-after-tokens", "20"]),
        happens: crash_while_streaming,
        sees: "error event `err_backend_unavailable`, no `[DONE]`",
        within: ms(1000),
        port: "free",
        next: ask_again,
        gets: "whole answer, new engine",
    },
    Row {
        fault: "leader SIGKILLed while idle",
        engines: || quick(&[]),
        happens: leader_killed,
        sees: "whole answer",
        within: ms(4000),
        port: "the engine's",
        next: ask_again,
        gets: "whole answer",
    },
    Row {
        fault: "leader SIGKILLed while streaming",
        engines: || quick(&[]),
        happens: |case| killed_while_streaming(case, "leader"),
        sees: "error event `err_backend_unavailable`, no `[DONE]`",
        within: ms(1000),
        port: "free",
        next: ask_again,
        gets: "whole answer, new engine",
    },
    Row {
        fault: "EngineCore SIGKILLed while streaming",
        engines: || quick(&[]),
        happens: |case| killed_while_streaming(case, "engine-core"),
        sees: "the engine's own error event, no `[DONE]`",
        within: ms(1000),
        port: "free",
        next: ask_again,
        gets: "whole answer, new engine",
    },
    Row {
        fault: "Worker SIGKILLed while idle",
        engines: || quick(&[]).set("vllm", "health_interval_s", 0.3),
        happens: worker_killed,
        sees: "500 `err_backend_error`",
        within: ms(1000),
        port: "free",
        next: ask_again,
        gets: "whole answer, new engine",
    },
];

const HANGS: [Row; 4] = [
    Row {
        fault: "`/health` hangs while idle",
        engines: hurried,
        happens: health_hangs,
        sees: "whole answer",
        within: ms(5000),
        port: "the engine's",
        next: ask_again,
        gets: "whole answer",
    },
    Row {
        fault: "`/health` hangs while a stream moves",
        engines: hurried,
        happens: health_hangs_beside_a_stream,
        sees: "whole answer",
        within: ms(5000),
        port: "the engine's",
        next: ask_again,
        gets: "whole answer",
    },
    Row {
        fault: "`/health` answers 503 while streaming",
        engines: probed,
        happens: health_is_bad,
        sees: "error event `err_backend_unavailable`, no `[DONE]`",
        within: ms(3000),
        port: "free",
        next: ask_again,
        gets: "whole answer, new engine",
    },
    Row {
        fault: "leader frozen (SIGSTOP), a request waits",
        engines: hurried,
        happens: leader_frozen,
        sees: "whole answer",
        within: ms(5000),
        port: "the engine's",
        next: ask_again,
        gets: "whole answer",
    },
];

const STOPS: [Row; 3] = [
    Row {
        fault: "SIGTERM ignored for ever, at a swap",
        engines: || quick(&["--sim-ignore-sigterm"]).set("vllm", "vllm_stop_timeout_s", 0.5),
        happens: swap_from_a_stubborn_one,
        sees: "whole answer",
        within: ms(4000),
        port: "the engine's",
        next: ask_the_other,
        gets: "whole answer",
    },
    Row {
        fault: "SIGTERM ignored while loading, at a stop by hand",
        engines: || quick(&["--sim-load-ms", "1500"]),
        happens: stopped_while_loading,
        sees: "502 `err_backend_unavailable`",
        within: ms(1000),
        port: "free",
        next: ask_again,
        gets: "whole answer, new engine",
    },
    Row {
        fault: "port held after the exit, at a swap",
        engines: || quick(&["--sim-hold-port-ms", "60000"]),
        happens: swap_from_a_late_mother,
        sees: "whole answer",
        within: ms(6000),
        port: "the engine's",
        next: ask_the_other,
        gets: "whole answer",
    },
];

const LEFT: [Row; 6] = [
    Row {
        fault: "child in the group that ignores SIGTERM, at a swap",
        engines: || quick(&["--sim-leave-child"]),
        happens: swap_from_a_mother,
        sees: "whole answer",
        within: ms(6000),
        port: "the engine's",
        next: ask_the_other,
        gets: "whole answer",
    },
    Row {
        fault: "child that ignores SIGTERM, started while the engine ends",
        engines: || quick(&["--sim-late-child-ms", "800", "--sim-stop-ms", "1500"]),
        happens: swap_from_a_late_mother,
        sees: "whole answer",
        within: ms(7000),
        port: "the engine's",
        next: ask_the_other,
        gets: "whole answer",
    },
    Row {
        fault: "grandchild in a session of its own, at a swap",
        engines: || quick(&["--sim-leave-child=session"]),
        happens: swap_from_a_mother,
        sees: "whole answer",
        within: ms(6000),
        port: "the engine's",
        next: ask_the_other,
        gets: "whole answer",
    },
    Row {
        fault: "daemonised grandchild, at a swap",
        engines: || quick(&["--sim-leave-child=daemon"]),
        happens: swap_from_a_mother,
        sees: "whole answer",
        within: ms(6000),
        port: "the engine's",
        next: ask_the_other,
        gets: "whole answer",
    },
    Row {
        fault: "daemonised grandchild without environment, at a swap",
        engines: || quick(&["--sim-leave-child=stray"]),
        happens: swap_from_a_mother,
        sees: "whole answer",
        within: ms(6000),
        port: "the engine's",
        next: ask_the_other,
        gets: "whole answer",
    },
    Row {
        fault: "grandchild without environment, leader SIGKILLed while idle",
        engines: || quick(&["--sim-leave-child=bare"]),
        happens: mother_killed,
        sees: "whole answer",
        within: ms(4000),
        port: "the engine's",
        next: ask_again,
        gets: "whole answer",
    },
];

const OTHERS: [Row; 2] = [
    Row {
        fault: "stranger on the port",
        engines: || quick(&[]),
        happens: stranger_on_the_port,
        sees: "502 `err_model_start_failed`, names its pid",
        within: ms(5000),
        port: "the stranger's",
        next: ask_when_the_stranger_left,
        gets: "when it has left: whole answer, new engine",
    },
    Row {
        fault: "crash loop: three deaths in a row",
        engines: breaking,
        happens: crash_loop,
        sees: "502 `err_model_start_failed`",
        within: ms(500),
        port: "free",
        next: ask_until_the_breaker_closes,
        gets: "after `breaker_open_s`: whole answer, new engine",
    },
];

/// The table, in the document's order.
const GROUPS: [&[Row]; 6] = [&STARTS, &DEATHS, &HANGS, &STOPS, &LEFT, &OTHERS];

fn rows() -> impl Iterator<Item = &'static Row> {
    GROUPS.into_iter().flatten()
}

/// So many rows at once, each with a daemon of its own: they mostly wait.
const WIDTH: usize = 3;

/// Holds the daemon to the rows of a group. A thread has its row's name, so that a failure tells it.
fn hold(group: &'static [Row]) {
    for some in group.chunks(WIDTH) {
        thread::scope(|scope| {
            for row in some {
                let named = thread::Builder::new().name(row.fault.to_owned());
                named.spawn_scoped(scope, || row.hold()).expect("a thread");
            }
        });
    }
}

impl Row {
    fn hold(&self) {
        let mut case = Case::start((self.engines)());
        let seen = (self.happens)(&case);
        assert_eq!(seen.what, self.sees);
        assert!(seen.took < self.within, "{:?}, and not within {:?}", seen.took, self.within);
        case.wait_settled();
        assert_eq!(case.left(), Vec::<String>::new(), "processes of the old engine");
        case.wait_reaped();
        assert_eq!(case.port_is(), self.port);
        assert_eq!((self.next)(&case), self.gets);
        page::measured(self, seen.took);
        case.it.daemon.terminate();
        assert!(case.it.daemon.wait_exit(BOUND).success());
        assert_eq!(case.all(), Vec::<String>::new(), "processes after the daemon's end");
        case.it.assert_nothing_left();
    }
}

#[test]
fn engines_that_do_not_start() {
    hold(&STARTS);
}

#[test]
fn engines_that_die() {
    hold(&DEATHS);
}

#[test]
fn engines_that_hang() {
    hold(&HANGS);
}

#[test]
fn engines_that_do_not_stop() {
    hold(&STOPS);
}

#[test]
fn engines_that_leave_something() {
    hold(&LEFT);
}

#[test]
fn strangers_and_crash_loops() {
    hold(&OTHERS);
}

#[test]
fn the_document_says_what_is_tested() {
    page::is_true();
}
