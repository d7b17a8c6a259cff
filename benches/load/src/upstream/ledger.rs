//! Who came and when it was noticed that they had left. It must never decide that somebody has left.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use crate::clock::monotonic_ns;

#[derive(Clone, Copy)]
struct Visit {
    arrived_ns: u64,
    departed_ns: Option<u64>,
}

/// The visits of named requests, and how many chats there are at all.
#[derive(Default)]
pub(crate) struct Ledger {
    visits: Mutex<BTreeMap<String, Visit>>,
    present: AtomicUsize,
}

/// One chat that is being answered; dropping it is its end, whichever way it came.
pub(crate) struct Presence<'a>(&'a AtomicUsize);

impl Drop for Presence<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Ledger {
    /// A chat, named or not, begins.
    pub(crate) fn presence(&self) -> Presence<'_> {
        self.present.fetch_add(1, Ordering::Relaxed);
        Presence(&self.present)
    }

    /// How many chats are being answered now.
    pub(crate) fn present(&self) -> usize {
        self.present.load(Ordering::Relaxed)
    }

    /// The request `id` has been read whole.
    pub(crate) fn arrived(&self, id: &str) {
        let visit = Visit { arrived_ns: monotonic_ns(), departed_ns: None };
        self.visits.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), visit);
    }

    /// The peer of request `id` is gone, as of now.
    pub(crate) fn departed(&self, id: &str) {
        let now = monotonic_ns();
        let mut visits = self.visits.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(visit) = visits.get_mut(id) {
            visit.departed_ns = Some(now);
        }
    }

    /// All visits, or that of one id, as the control endpoint publishes them.
    pub(crate) fn render(&self, only: Option<&str>) -> Value {
        let visits = self.visits.lock().unwrap_or_else(PoisonError::into_inner);
        let rows: Vec<Value> = visits
            .iter()
            .filter(|(id, _)| only.is_none_or(|wanted| wanted == id.as_str()))
            .map(|(id, v)| {
                json!({"id": id, "arrived_ns": v.arrived_ns, "departed_ns": v.departed_ns})
            })
            .collect();
        json!({ "departures": rows })
    }
}
