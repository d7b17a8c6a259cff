//! What all tests need: a daemon as a process, scripted backends, a client that sees the wire.

pub mod client;
pub mod daemon;
pub mod edits;
pub mod engines;
pub mod expected;
pub mod gate;
pub mod ollama;
pub mod sse;
pub mod tls;
pub mod tls_client;
pub mod upstream;
pub mod vllm;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use client::{Ask, Client, End, Reply};
pub use daemon::{Daemon, Setup};
pub use engines::Engines;
pub use gate::Gate;
pub use upstream::{Upstream, Wire};

/// No wait of a test is longer; a test that meets it has failed.
pub const BOUND: Duration = Duration::from_secs(20);

/// Polls until there is an answer; panics with `what` when the bound is reached.
pub fn eventually<T>(what: &str, within: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(begun.elapsed() < within, "not within {within:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Tests that measure times or load both cores run one at a time.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Every file below a directory.
pub fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for item in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = item.path();
        // What a link leads to is not below.
        if item.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(files_below(&path));
        } else {
            found.push(path);
        }
    }
    found
}

/// How often a test repeats what must never fail: `IMAGEWORKS_IT_REPEATS`, else 3.
pub fn repeats() -> usize {
    std::env::var("IMAGEWORKS_IT_REPEATS").map_or(3, |n| n.parse().expect("a number"))
}
