//! How soon it is noticed that an engine died, and how soon one that ignores SIGTERM is gone.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::engines::{families, kill_process};
use crate::support::{BOUND, End, Engines, alone, eventually, sse};

const ROUNDS: usize = 20;

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[test]
fn a_death_is_with_the_client_within_a_tenth_of_a_second() {
    let _alone = alone();
    let it = Engines::new()
        .model("tiny-a", &["--like-vllm"])
        .set("vllm", "breaker_failures", 1000)
        .set("vllm", "vllm_restart_backoff_s", 0.01)
        .start();
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let order = json!({"model": "tiny-a", "wait": true});
        assert_eq!(it.order("activate", order).status(), 200, "round {round}");
        let mut stream = it.stream("tiny-a", 1_000_000);
        let leader = it.pid();
        let died = Instant::now();
        kill_process(leader, Signal::SIGKILL);
        let (pieces, end) = stream.rest();
        assert_eq!(end, End::Whole);
        let last = pieces.last().expect("an error event");
        times.push(last.at.saturating_duration_since(died));
        let body: Vec<u8> = pieces.iter().flat_map(|piece| piece.data.clone()).collect();
        let from = body.windows(8).rposition(|at| at == b"\n\ndata: ").map_or(0, |at| at + 2);
        let (error, _) = sse::broken(&body[from..], "err_backend_unavailable", 502);
        let message = error["message"].as_str().expect("a message");
        assert!(message.contains("ended while it served (signal SIGKILL)"), "{message}");
    }
    let (worst, median) = (times.iter().max().copied(), median(times));
    eprintln!(
        "an engine's death is with the client after {median:?} (median of 20; worst {worst:?})"
    );
    assert!(median < Duration::from_millis(100), "{median:?}");
}

#[test]
fn an_engine_that_ignores_sigterm_is_gone_a_second_after_its_time() {
    let _alone = alone();
    let stop = Duration::from_millis(300);
    let it = Engines::new()
        .model("tiny-a", &["--like-vllm", "--sim-ignore-sigterm"])
        .set("vllm", "vllm_stop_timeout_s", stop.as_secs_f64())
        .start();
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let order = json!({"model": "tiny-a", "wait": true});
        assert_eq!(it.order("activate", order).status(), 200, "round {round}");
        let told = Instant::now();
        it.order("deactivate", json!({}));
        eventually("nothing of it lives, and its port is free", BOUND, || {
            let gone = families(it.port).is_empty();
            (gone && TcpListener::bind(("127.0.0.1", it.port)).is_ok()).then_some(())
        });
        times.push(told.elapsed());
        it.wait_engine("stopped");
    }
    let (worst, median) = (times.iter().max().copied().unwrap_or_default(), median(times));
    eprintln!(
        "an engine that ignores SIGTERM is gone after {median:?} (median of 20; worst {worst:?}), of which {stop:?} are its stop timeout"
    );
    assert!(worst <= stop + Duration::from_secs(1), "median {median:?}, worst {worst:?}");
}
