//! Permits to use the GPU, and the ledger that counts them.
//!
//! Owns: a count per generation, and the numbers of generations and tickets. Made once, handed to
//! every arbiter that is built: so a drain survives the arbiter's death. It holds `streams.lock`
//! while any permit is out, and counts another process that holds it as one more. Must never do: send
//! a message; a permit that is dropped, by whomever and wherever, is counted back, and whoever waits
//! for changes is woken.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chat_proxy_core::gpu::Tenant;
use chat_proxy_core::ids::{Generation, Ticket};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::streams::StreamsLock;

/// See the module.
#[derive(Debug, Default)]
pub struct PermitLedger {
    counts: Mutex<HashMap<Generation, Out>>,
    changed: Notify,
    newest: AtomicU64,
    tickets: AtomicU64,
    draining: AtomicBool,
    pulse: Pulse,
    streams: Option<StreamsLock>,
    /// Another process has requests in flight: one that this one replaces.
    others: AtomicBool,
}

/// Permits that are out.
#[derive(Debug, Default)]
struct Out {
    count: usize,
    /// They are for Ollama: no supervisor's report tells an arbiter of them.
    ollama: bool,
}

/// Another process that has requests in flight is looked at this often.
const OTHERS_LOOK: Duration = Duration::from_millis(200);

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
    pub tenant: Tenant,
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

    /// The same, with the lock that tells other processes of permits, and us of theirs.
    pub fn with_streams(newest: Generation, streams: StreamsLock) -> Arc<Self> {
        let others = streams.holder().unwrap_or_default();
        if let Some(pid) = others {
            tracing::info!(pid, "another process still has requests in flight at the engine");
        }
        Arc::new(PermitLedger {
            newest: AtomicU64::new(newest.0),
            streams: Some(streams),
            others: AtomicBool::new(others.is_some()),
            ..PermitLedger::default()
        })
    }

    /// Waits until no other process has requests in flight, at most for so long: it has promised to
    /// end by then. Afterwards none can come: only the owner of the engine hands out permits.
    pub async fn outlive_others(&self, limit: Duration) {
        let Some(streams) = &self.streams else { return };
        let until = Instant::now() + limit;
        while self.others.load(Ordering::SeqCst) {
            match streams.holder() {
                Ok(Some(pid)) if Instant::now() >= until => {
                    tracing::warn!(
                        pid,
                        "another process has requests in flight for too long; they count no more"
                    );
                    break;
                }
                Ok(Some(_)) => sleep(OTHERS_LOOK).await,
                Ok(None) => break,
                Err(error) => {
                    tracing::error!(%error, "who else has requests in flight cannot be told");
                    break;
                }
            }
        }
        if self.others.swap(false, Ordering::SeqCst) {
            self.changed.notify_one();
        }
    }

    /// Hands out a permit.
    pub fn grant(
        self: &Arc<Self>,
        generation: Generation,
        tenant: Tenant,
        queued: Duration,
        loading: Duration,
    ) -> Permit {
        let mut counts = self.counts();
        if counts.is_empty() {
            self.tell_others(StreamsLock::hold);
        }
        let out = counts.entry(generation).or_default();
        out.count += 1;
        out.ollama = tenant == Tenant::Ollama;
        drop(counts);
        Permit { generation, tenant, queued, loading, ledger: self.clone() }
    }

    /// Permits of a generation that are out, and one more for another process that has some.
    pub fn in_flight(&self, generation: Generation) -> usize {
        let ours = self.counts().get(&generation).map_or(0, |out| out.count);
        ours + usize::from(self.others.load(Ordering::SeqCst))
    }

    /// Permits for Ollama that are out: of which generation, and how many.
    pub fn at_ollama(&self) -> Option<(Generation, usize)> {
        let counts = self.counts();
        let of = counts.iter().filter(|(_, out)| out.ollama);
        of.map(|(generation, out)| (*generation, out.count)).max()
    }

    fn tell_others(&self, what: impl Fn(&StreamsLock) -> io::Result<()>) {
        if let Some(Err(error)) = self.streams.as_ref().map(what) {
            tracing::error!(%error, "other processes cannot be told of requests in flight");
        }
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

    fn counts(&self) -> MutexGuard<'_, HashMap<Generation, Out>> {
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
        if let Some(out) = counts.get_mut(&self.generation) {
            out.count -= 1;
            if out.count == 0 {
                counts.remove(&self.generation);
            }
            if counts.is_empty() {
                self.ledger.tell_others(StreamsLock::release);
            }
        }
        drop(counts);
        self.ledger.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::streams::tests::other_holder;
    use crate::testing::launch;

    #[actix_rt::test]
    async fn every_permit_is_counted_back_once_also_by_a_panic() {
        let ledger = PermitLedger::new(Generation(7));
        let of =
            |g| ledger.grant(Generation(g), launch("a").into(), Duration::ZERO, Duration::ZERO);
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

    #[actix_rt::test]
    async fn another_process_with_requests_in_flight_counts_as_one_until_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("active_vllm.json");
        let mut other = other_holder(&state);
        let ledger =
            PermitLedger::with_streams(Generation(7), StreamsLock::beside(&state).unwrap());
        assert_eq!(ledger.in_flight(Generation(7)), 1);
        let permit =
            ledger.grant(Generation(7), launch("a").into(), Duration::ZERO, Duration::ZERO);
        assert_eq!(ledger.in_flight(Generation(7)), 2);
        other.kill().unwrap();
        other.wait().unwrap();
        ledger.outlive_others(Duration::from_secs(60)).await;
        assert_eq!(ledger.in_flight(Generation(7)), 1);
        ledger.changed().await;
        drop(permit);
        assert_eq!(ledger.in_flight(Generation(7)), 0);
    }

    #[actix_rt::test]
    async fn another_process_is_not_waited_for_without_end() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("active_vllm.json");
        let mut other = other_holder(&state);
        let ledger =
            PermitLedger::with_streams(Generation(7), StreamsLock::beside(&state).unwrap());
        ledger.outlive_others(Duration::ZERO).await;
        assert_eq!(ledger.in_flight(Generation(7)), 0);
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn permits_for_ollama_can_be_told_from_others() {
        let ledger = PermitLedger::new(Generation(7));
        let of = |g, tenant| ledger.grant(Generation(g), tenant, Duration::ZERO, Duration::ZERO);
        let _vllm = of(9, launch("a").into());
        assert_eq!(ledger.at_ollama(), None);
        let (one, two) = (of(8, Tenant::Ollama), of(8, Tenant::Ollama));
        assert_eq!(ledger.at_ollama(), Some((Generation(8), 2)));
        drop((one, two));
        assert_eq!(ledger.at_ollama(), None);
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
