//! Owns what differs from answer to answer: ids and times.
//!
//! Must never be asked for anything that a test could want to foresee.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

/// The fingerprint of the engine.
pub(crate) const FINGERPRINT: &str = "vllm-0.32.0-394d5b04";

/// The id and the time of one answer.
#[derive(Debug, Clone)]
pub(crate) struct Ids {
    pub(crate) id: String,
    pub(crate) created: u64,
}

impl Ids {
    /// A new id that begins so.
    pub(crate) fn new(prefix: &str) -> Self {
        Self { id: random_id(prefix), created: now() }
    }

    /// What all chunks of a stream begin with, up to the first choice.
    pub(crate) fn prefix(&self, object: &str, model: &str) -> String {
        let Self { id, created } = self;
        let model = quoted(model);
        format!(
            "{{\"id\":\"{id}\",\"object\":\"{object}\",\"created\":{created},\"model\":{model},\"choices\":["
        )
    }
}

/// Seconds of the UNIX epoch.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// An id that begins so and is not met twice.
pub(crate) fn random_id(prefix: &str) -> String {
    static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{prefix}{:016x}", KEY.hash_one(NEXT.fetch_add(1, Relaxed)))
}

/// A string as JSON.
pub(crate) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
