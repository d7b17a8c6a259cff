//! Owns the counters, and what came in last.
//!
//! Must never influence an answer.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// How many departures are remembered.
const DEPARTURES: usize = 1000;

/// What an engine has counted, as `GET /sim/stats` tells it.
///
/// Requests to `/sim/…` are not counted, and not remembered as the last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Connections that are open now.
    pub connections_open: u64,
    /// Connections that were accepted.
    pub connections_accepted: u64,
    /// Requests that were read in full.
    pub requests_total: u64,
    /// Those of them that were POSTs.
    pub posts_total: u64,
    /// Requests that are being answered now.
    pub in_flight: u64,
    /// Requests that were answered to the last byte.
    pub completed: u64,
    /// Requests whose client went away before that.
    pub aborted: u64,
    /// Answers that a fault cut off.
    pub cut: u64,
    /// When each departure was noticed, in microseconds of the UNIX epoch; the last 1000.
    pub aborted_at: Vec<u64>,
    /// The headers of the last POST, in their order.
    pub last_headers: Vec<(String, String)>,
    /// The body of the last POST as text.
    pub last_body: String,
    /// The models of an Ollama; its fields stand beside the others.
    #[serde(flatten)]
    pub models: Option<ModelStats>,
}

/// What an Ollama has counted of its models.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelStats {
    /// Names of the models that can be used or hold memory still, in the order of their loading.
    pub loaded: Vec<String>,
    /// Names of the models that are being loaded.
    pub loading: Vec<String>,
    /// Loads that were begun.
    pub loads: u64,
    /// Those of them that followed because other options were asked for.
    pub reloads: u64,
    /// Models whose memory was given back.
    pub unloads: u64,
    /// The most models that were loaded or being loaded at one time.
    pub most_loaded: u64,
}

/// The counters while they count.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) connections_open: AtomicU64,
    pub(crate) connections_accepted: AtomicU64,
    requests_total: AtomicU64,
    posts_total: AtomicU64,
    in_flight: AtomicU64,
    completed: AtomicU64,
    aborted: AtomicU64,
    cut: AtomicU64,
    /// Inference that goes on now.
    pub(crate) running: AtomicU64,
    pub(crate) prompt_tokens: AtomicU64,
    pub(crate) generation_tokens: AtomicU64,
    pub(crate) stopped: AtomicU64,
    pub(crate) truncated: AtomicU64,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    aborted_at: VecDeque<u64>,
    last_head: Bytes,
    last_body: Bytes,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Completed,
    Aborted,
    Cut,
}

/// Counts something as going on for as long as it lives.
#[derive(Debug)]
pub(crate) struct Going<'a>(&'a AtomicU64);

impl<'a> Going<'a> {
    pub(crate) fn on(counter: &'a AtomicU64) -> Self {
        counter.fetch_add(1, Relaxed);
        Self(counter)
    }
}

impl Drop for Going<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Counters {
    /// A request was read; the result counts it as in flight.
    pub(crate) fn request(&self, post: Option<(Bytes, Bytes)>) -> Going<'_> {
        self.requests_total.fetch_add(1, Relaxed);
        if let Some((head, body)) = post {
            self.posts_total.fetch_add(1, Relaxed);
            let mut kept = self.kept();
            kept.last_head = head;
            kept.last_body = body;
        }
        Going::on(&self.in_flight)
    }

    /// A request ended.
    pub(crate) fn ended(&self, end: End) {
        match end {
            End::Completed => self.completed.fetch_add(1, Relaxed),
            End::Cut => self.cut.fetch_add(1, Relaxed),
            End::Aborted => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let mut kept = self.kept();
                if kept.aborted_at.len() == DEPARTURES {
                    kept.aborted_at.pop_front();
                }
                kept.aborted_at.push_back(u64::try_from(now.as_micros()).unwrap_or(u64::MAX));
                self.aborted.fetch_add(1, Relaxed)
            }
        };
    }

    /// How many requests are being answered.
    pub(crate) fn in_flight(&self) -> u64 {
        self.in_flight.load(Relaxed)
    }

    /// How many clients went away.
    pub(crate) fn aborted(&self) -> u64 {
        self.aborted.load(Relaxed)
    }

    /// Everything that was counted to zero; what goes on now goes on being counted.
    pub(crate) fn reset(&self) {
        for counter in [
            &self.connections_accepted,
            &self.requests_total,
            &self.posts_total,
            &self.completed,
            &self.aborted,
            &self.cut,
            &self.prompt_tokens,
            &self.generation_tokens,
            &self.stopped,
            &self.truncated,
        ] {
            counter.store(0, Relaxed);
        }
        *self.kept() = Kept::default();
    }

    /// The counters now.
    pub(crate) fn snapshot(&self) -> Stats {
        let kept = self.kept();
        Stats {
            connections_open: self.connections_open.load(Relaxed),
            connections_accepted: self.connections_accepted.load(Relaxed),
            requests_total: self.requests_total.load(Relaxed),
            posts_total: self.posts_total.load(Relaxed),
            in_flight: self.in_flight.load(Relaxed),
            completed: self.completed.load(Relaxed),
            aborted: self.aborted.load(Relaxed),
            cut: self.cut.load(Relaxed),
            aborted_at: kept.aborted_at.iter().copied().collect(),
            last_headers: headers(&kept.last_head),
            last_body: String::from_utf8_lossy(&kept.last_body).into_owned(),
            models: None,
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a head apart that was understood before.
pub(crate) fn headers(head: &[u8]) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(head);
    let lines = text.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
    lines.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect()
}
