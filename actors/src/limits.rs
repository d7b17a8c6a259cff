//! Places at models that no scheduler places (SPEC 6.6, `max_concurrent_per_model`).
//!
//! Owns: the core that counts them, and who is told when one is free. One for the daemon's life,
//! shared by all threads. Must never do: be asked where no limit is set, or lose a place: one that
//! is dropped, by whomever, goes to whoever is next.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chat_proxy_core::gpu::Asker;
use chat_proxy_core::gpu::model_limits::{Entered, LimitRules, ModelLimits};
use chat_proxy_core::gpu::scheduler::Refusal;
use chat_proxy_core::ids::{ModelName, Ticket};
use tokio::sync::oneshot;

use crate::clock;

/// When a lease ends nobody knows.
const COME_BACK: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug)]
pub struct Limits {
    inner: Option<Mutex<Inner>>,
    max_waiting: AtomicUsize,
    /// How many wait for the end of a lease.
    kept_out: AtomicUsize,
}

#[derive(Debug)]
struct Inner {
    core: ModelLimits,
    tickets: u64,
    told: HashMap<Ticket, oneshot::Sender<Slot>>,
}

/// A place at a model; free again when dropped.
#[derive(Debug)]
pub struct Slot {
    limits: Arc<Limits>,
    model: ModelName,
    since: Instant,
}

/// What somebody who came gets.
#[derive(Debug)]
pub enum Entry {
    /// A place; `None`: no limit is set.
    In(Option<Slot>),
    /// A place in the line.
    Waits(Queued, oneshot::Receiver<Slot>),
    /// Neither.
    Refused(Refusal),
}

/// A place in the line; given up when dropped.
#[derive(Debug)]
pub struct Queued {
    limits: Arc<Limits>,
    model: ModelName,
    ticket: Ticket,
}

impl Limits {
    /// `None`: no limit. So many may wait in any case.
    pub fn new(rules: Option<LimitRules>, max_waiting: usize) -> Arc<Self> {
        let inner = rules.map(|rules| {
            let core = ModelLimits::new(rules);
            Mutex::new(Inner { core, tickets: 0, told: HashMap::new() })
        });
        let max_waiting = AtomicUsize::new(max_waiting);
        Arc::new(Limits { inner, max_waiting, kept_out: AtomicUsize::new(0) })
    }

    /// Other bounds, from now on. Whether there is a limit at all is decided once.
    pub fn change(&self, rules: Option<LimitRules>, max_waiting: usize) {
        self.max_waiting.store(max_waiting, Ordering::SeqCst);
        if let (Some(mut inner), Some(rules)) = (self.inner(), rules) {
            inner.core.change(rules);
        }
    }

    /// Asks for a place. `arrived`: when the request came.
    pub fn enter(self: &Arc<Self>, model: &str, who: &Asker, arrived: Instant) -> Entry {
        let Some(mut inner) = self.inner() else { return Entry::In(None) };
        let model = ModelName::from(model);
        inner.tickets += 1;
        let ticket = Ticket(inner.tickets);
        match inner.core.enter(&model, ticket, who, clock::at(arrived)) {
            Entered::In => Entry::In(Some(Slot::new(self, model))),
            Entered::Refused(refusal) => Entry::Refused(refusal),
            Entered::Waits => {
                let (tell, came) = oneshot::channel();
                inner.told.insert(ticket, tell);
                Entry::Waits(Queued { limits: self.clone(), model, ticket }, came)
            }
        }
    }

    /// Whether somebody who came now would be refused.
    pub fn would_refuse(self: &Arc<Self>, model: &str) -> Option<Refusal> {
        self.inner()?.core.would_refuse(&model.into())
    }

    /// Counts somebody who waits for the end of a lease, until what is given back is dropped.
    pub fn wait_for_a_lease(self: &Arc<Self>) -> Result<KeptOut, Refusal> {
        let waiting = self.kept_out.fetch_add(1, Ordering::SeqCst);
        let counted = KeptOut(self.clone());
        if waiting < self.max_waiting.load(Ordering::SeqCst) {
            return Ok(counted);
        }
        Err(Refusal::QueueFull { waiting, retry_after: COME_BACK })
    }

    /// How many wait for a model.
    pub fn waiting_for(&self, model: &str) -> usize {
        self.inner().map_or(0, |inner| inner.core.waiting_for(&model.into()))
    }

    /// How many wait, for whatever model.
    pub fn waiting(&self) -> usize {
        let in_line = self.inner().map_or(0, |inner| inner.told.len());
        in_line + self.kept_out.load(Ordering::SeqCst)
    }

    fn inner(&self) -> Option<MutexGuard<'_, Inner>> {
        Some(self.inner.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Somebody who waits for the end of a lease.
#[derive(Debug)]
pub struct KeptOut(Arc<Limits>);

impl Drop for KeptOut {
    fn drop(&mut self) {
        self.0.kept_out.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Slot {
    fn new(limits: &Arc<Limits>, model: ModelName) -> Self {
        Slot { limits: limits.clone(), model, since: Instant::now() }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Some(mut inner) = self.limits.inner() else { return };
        let stayed = self.since.elapsed();
        let Some(next) = inner.core.leave(&self.model, stayed, clock::now()) else { return };
        let tell = inner.told.remove(&next);
        drop(inner);
        let slot = Slot::new(&self.limits, self.model.clone());
        // Whoever has gone just now drops it, and with that it goes on to the next.
        if let Some(tell) = tell {
            let _ = tell.send(slot);
        }
    }
}

impl Queued {
    /// The place in the line, from 1.
    pub fn position(&self) -> usize {
        let inner = self.limits.inner();
        inner.map_or(1, |inner| inner.core.position(&self.model, self.ticket, clock::now()))
    }

    /// How it is refused if it has waited for too long.
    pub fn too_long(&self, waited: Duration) -> Option<Refusal> {
        Some(self.limits.inner()?.core.too_long(&self.model, waited))
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        let Some(mut inner) = self.limits.inner() else { return };
        inner.core.withdraw(&self.model, self.ticket);
        inner.told.remove(&self.ticket);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn limits(at_once: usize) -> Arc<Limits> {
        let rules = LimitRules {
            at_once,
            max_waiting: 2,
            interactive_bound: Duration::from_secs(120),
            background_bound: Duration::from_secs(600),
        };
        Limits::new(Some(rules), 2)
    }

    fn enter(limits: &Arc<Limits>) -> Entry {
        limits.enter("m", &Asker::default(), Instant::now())
    }

    fn slot(entry: Entry) -> Slot {
        let Entry::In(Some(slot)) = entry else { panic!("{entry:?}") };
        slot
    }

    fn queued(entry: Entry) -> (Queued, oneshot::Receiver<Slot>) {
        let Entry::Waits(queued, came) = entry else { panic!("{entry:?}") };
        (queued, came)
    }

    #[actix_rt::test]
    async fn a_place_goes_to_the_next_and_past_those_who_have_gone() {
        let limits = limits(1);
        let first = slot(enter(&limits));
        let gone = queued(enter(&limits));
        let (second, came) = queued(enter(&limits));
        assert_eq!((second.position(), limits.waiting_for("m")), (2, 2));
        assert!(matches!(enter(&limits), Entry::Refused(Refusal::QueueFull { waiting: 2, .. })));
        drop(gone);
        drop(first);
        let held = came.await.unwrap();
        drop(second);
        let (_third, came) = queued(enter(&limits));
        drop(held);
        assert!(came.await.is_ok());
    }

    #[test]
    fn a_place_that_comes_when_nobody_wants_it_any_more_is_free() {
        let limits = limits(1);
        let first = slot(enter(&limits));
        let waits = queued(enter(&limits));
        drop(first); // it is on its way to the one who waits
        drop(waits);
        slot(enter(&limits));
    }

    #[test]
    fn without_a_limit_nobody_counts() {
        let limits = Limits::new(None, 0);
        assert!(matches!(enter(&limits), Entry::In(None)));
        assert_eq!(limits.waiting_for("m"), 0);
    }
}
