//! What goes wrong, and what people do meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::json;

use super::{Dice, Soak};
use crate::support::Ask;
use crate::support::engines::Engined;

/// One of them.
pub(super) fn one(it: &Engined, soak: &Soak, breaks: &AtomicBool, dice: &mut Dice) {
    soak.faults.fetch_add(1, Ordering::Relaxed);
    match dice.below(24) {
        0 => {
            let pid = it.engine()["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
            if let Some(pid) = pid {
                // It may have ended by itself.
                let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        1..=3 => it.daemon.signal(Signal::SIGHUP),
        4..=7 => it.daemon.write_registry(&it.daemon.registry()),
        8..=11 => {
            // The other model waits for longer, or gets its turn sooner.
            let body = json!({"max_swap_wait_s": 1 + dice.below(4)}).to_string();
            let put = Ask::new("PUT", "/v1/config/chat-proxy").body(&body);
            put.header("content-type", "application/json").reply(it.daemon.addr());
        }
        12..=15 => {
            for path in ["/metrics", "/v1/metrics", "/v1/backends", "/v1/logs/chat?lines=50"] {
                Ask::get(path).reply(it.daemon.addr());
            }
        }
        16..=19 => {
            // A listener who is soon gone.
            let mut listener = Ask::get("/v1/logs/chat?follow=1").open(it.daemon.addr());
            listener.head();
            thread::sleep(Duration::from_millis(300));
        }
        _ => breaks.store(!breaks.load(Ordering::Relaxed), Ordering::Relaxed),
    }
}

/// Waits, but not beyond the end.
pub(super) fn pause(soak: &Soak, time: Duration) {
    let until = Instant::now() + time;
    while Instant::now() < until && !soak.over.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(50));
    }
}
