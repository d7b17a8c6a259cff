//! Hours of mixed work with random faults: memory, descriptors and latency stay flat, every request is
//! answered and logged. `IMAGEWORKS_IT_SOAK_MINUTES` (2), `IMAGEWORKS_SEED` (the time).

mod clients;
mod faults;
mod samples;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::json;

use crate::support::daemon::entry;
use crate::support::{BOUND, Engines, Upstream, alone, vllm};
use clients::{Counts, KINDS};
use samples::Slice;

/// What everybody shares.
struct Soak {
    addr: std::net::SocketAddr,
    over: AtomicBool,
    counts: Counts,
    faults: AtomicUsize,
}

/// Numbers that look random and are the same for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

fn number(name: &str, otherwise: f64) -> f64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

/// A server that somebody else runs: slow enough to be left in the middle, and it breaks when told so.
fn external(breaks: Arc<AtomicBool>) -> Upstream {
    let events = vllm::stream(&["a", " b", " c", " d", " e"]);
    Upstream::start(move |seen, wire| {
        if !seen.body.windows(13).any(|part| part == b"\"stream\":true") {
            return wire.answer("200 OK", "application/json", vllm::WHOLE.as_bytes());
        }
        wire.stream_head();
        for (number, event) in events.iter().enumerate() {
            if number == 2 && breaks.load(Ordering::Relaxed) {
                return wire.rst();
            }
            thread::sleep(Duration::from_millis(10)); // its pace is the load
            if !wire.chunk(event.as_bytes()) {
                return;
            }
        }
        wire.last_chunk();
    })
}

#[test]
#[ignore = "minutes; see .ci/full"]
fn soak() {
    let _alone = alone();
    let minutes = number("IMAGEWORKS_IT_SOAK_MINUTES", 2.0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let seed = number("IMAGEWORKS_SEED", now as f64) as u64;
    eprintln!("{minutes} minutes, IMAGEWORKS_SEED={seed}");
    let breaks: Arc<AtomicBool> = Arc::default();
    let upstream = external(breaks.clone());
    let mut it = Engines::two()
        .entry(entry("ext", &upstream))
        .entry(json!({"name": "gone", "backend": "openai", "backend_config": {"base_url": "http://127.0.0.1:1/v1"}}))
        .set("server", "max_log_bytes", 1_000_000)
        .set("logging", "max_log_files", 1000)
        .set("scheduler", "max_swap_wait_s", 3)
        .set("vllm", "breaker_failures", 100)
        .start();
    let soak = &Soak {
        addr: it.daemon.addr(),
        over: AtomicBool::new(false),
        counts: Counts::default(),
        faults: AtomicUsize::new(0),
    };
    let until = Instant::now() + Duration::from_secs_f64(minutes * 60.0);
    let slices = thread::scope(|scope| {
        for (number, (_, client)) in (1u64..).zip(KINDS) {
            let mut dice = Dice(seed.wrapping_mul(number) | 1);
            scope.spawn(move || {
                while !soak.over.load(Ordering::Relaxed) {
                    client(soak, &mut dice);
                }
            });
        }
        let (daemon, breaks, mut dice) = (&it, &breaks, Dice(seed | 1));
        scope.spawn(move || {
            while !soak.over.load(Ordering::Relaxed) {
                faults::one(daemon, soak, breaks, &mut dice);
                faults::pause(soak, Duration::from_millis(500 + dice.below(3000)));
            }
        });
        let sampled = samples::until(until, it.daemon.pid(), soak);
        soak.over.store(true, Ordering::Relaxed);
        sampled
    });
    it.daemon.terminate();
    assert_eq!(it.daemon.wait_exit(3 * BOUND).code(), Some(0));
    judge(&slices, soak, &it.daemon.path("logs"));
}

fn judge(slices: &[Slice], soak: &Soak, logs: &std::path::Path) {
    eprintln!(
        "| slice | s | requests | p50 ms | p99 ms | RSS MB | descriptors | threads |\n|---|---|---|---|---|---|---|"
    );
    for (number, slice) in (1..).zip(slices) {
        eprintln!("| {number} {}", slice.row());
    }
    eprintln!("{}, {} faults", soak.counts, soak.faults.load(Ordering::Relaxed));
    assert!(soak.counts.lost().is_empty(), "requests without an answer: {:?}", soak.counts.lost());
    let lines: usize = fs::read_dir(logs)
        .unwrap()
        .filter_map(|item| fs::read_to_string(item.unwrap().path()).ok())
        .map(|text| {
            text.lines().filter(|line| line.starts_with("{\"ts\":") && line.ends_with('}')).count()
        })
        .sum();
    let (sent, perhaps) = (soak.counts.sent(), soak.counts.perhaps());
    eprintln!("{lines} lines for {sent} requests, of which {perhaps} were left at once");
    assert!((sent - perhaps..=sent).contains(&lines), "lines in the request log");
    samples::assert_flat(slices);
}
