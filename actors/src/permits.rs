//! Permits to use the GPU, and the ledger that counts them.
//!
//! Owns: a count per generation, and the numbers of generations and tickets. Made once, handed to
//! every arbiter that is built: so a drain survives the arbiter's death. Must never do: send a
//! message; a permit that is dropped, by whomever and wherever, is counted back, and whoever waits
//! for changes is woken.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chat_proxy_core::engine::Launch;
use chat_proxy_core::ids::{Generation, Ticket};
use tokio::sync::Notify;

/// See the module.
#[derive(Debug, Default)]
pub struct PermitLedger {
    counts: Mutex<HashMap<Generation, usize>>,
    changed: Notify,
    newest: AtomicU64,
    tickets: AtomicU64,
    draining: AtomicBool,
    pulse: Pulse,
}

/// Whether engines send anything: set by whoever carries their answers, looked at by whoever must
/// tell a busy engine from a dead one. Cheap for the former: it writes only after the latter looked.
#[derive(Debug, Clone, Default)]
pub struct Pulse(Arc<AtomicBool>);

impl Pulse {
    /// A byte of an answer has come.
    pub fn beat(&self) {
        if !self.0.load(Ordering::Relaxed) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// Whether one has come since the last look.
    pub fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

/// The right to send one request to one start of an engine.
#[derive(Debug)]
pub struct Permit {
    /// Which start.
    pub generation: Generation,
    /// Of what; says where it answers.
    pub launch: Arc<Launch>,
    /// How long the request waited for its turn.
    pub queued: Duration,
    /// How long it waited for the load.
    pub loading: Duration,
    ledger: Arc<PermitLedger>,
}

impl PermitLedger {
    /// A ledger whose generations begin behind `newest`.
    pub fn new(newest: Generation) -> Arc<Self> {
        Arc::new(PermitLedger { newest: AtomicU64::new(newest.0), ..PermitLedger::default() })
    }

    /// Hands out a permit.
    pub fn grant(
        self: &Arc<Self>,
        generation: Generation,
        launch: Arc<Launch>,
        queued: Duration,
        loading: Duration,
    ) -> Permit {
        *self.counts().entry(generation).or_default() += 1;
        Permit { generation, launch, queued, loading, ledger: self.clone() }
    }

    /// Permits of a generation that are out.
    pub fn in_flight(&self, generation: Generation) -> usize {
        self.counts().get(&generation).copied().unwrap_or(0)
    }

    /// Whether engines send anything.
    pub fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }

    /// Waits for a permit to come back. Wakes one waiter: the arbiter.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// A number for a wait.
    pub fn ticket(&self) -> Ticket {
        Ticket(self.tickets.fetch_add(1, Ordering::Relaxed))
    }

    /// The newest generation that was ever used.
    pub fn newest(&self) -> Generation {
        Generation(self.newest.load(Ordering::SeqCst))
    }

    /// A generation is used.
    pub fn used(&self, generation: Generation) {
        self.newest.fetch_max(generation.0, Ordering::SeqCst);
    }

    /// From now on nobody is admitted, by no arbiter: the daemon ends.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    /// See [`PermitLedger::drain`].
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<Generation, usize>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit {
    /// To be told when a byte of its answer has come.
    pub fn pulse(&self) -> Pulse {
        self.ledger.pulse()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut counts = self.ledger.counts();
        if let Some(count) = counts.get_mut(&self.generation) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.generation);
            }
        }
        drop(counts);
        self.ledger.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::launch;

    #[actix_rt::test]
    async fn every_permit_is_counted_back_once_also_by_a_panic() {
        let ledger = PermitLedger::new(Generation(7));
        let of = |g| ledger.grant(Generation(g), launch("a"), Duration::ZERO, Duration::ZERO);
        let (one, two, other) = (of(8), of(8), of(9));
        assert_eq!((ledger.in_flight(Generation(8)), ledger.in_flight(Generation(9))), (2, 1));
        drop(one);
        assert_eq!(ledger.in_flight(Generation(8)), 1);
        let died = actix_rt::spawn(async move {
            let _held = two;
            panic!("ordered by the test");
        });
        assert!(died.await.is_err());
        assert_eq!(ledger.in_flight(Generation(8)), 0);
        ledger.changed().await; // told before anybody waited
        drop(other);
        assert!(ledger.counts().is_empty());
    }

    #[test]
    fn numbers_only_grow() {
        let ledger = PermitLedger::new(Generation(7));
        ledger.used(Generation(9));
        ledger.used(Generation(8));
        assert_eq!(ledger.newest(), Generation(9));
        assert!(ledger.ticket() < ledger.ticket());
    }
}
