//! A gate at which scripts wait for the test.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::BOUND;

/// Closed at first; clones share it.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<usize>, Condvar)>);

impl Gate {
    pub fn new() -> Self {
        Gate::default()
    }

    /// Lets `n` more through.
    pub fn admit(&self, n: usize) {
        let mut permits = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        *permits = permits.saturating_add(n);
        self.0.1.notify_all();
    }

    /// Lets everybody through.
    pub fn open(&self) {
        self.admit(usize::MAX / 2);
    }

    /// Waits for a permit and takes it; panics if none comes.
    pub fn pass(&self) {
        let permits = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut permits, late) = self
            .0
            .1
            .wait_timeout_while(permits, BOUND, |permits| *permits == 0)
            .unwrap_or_else(PoisonError::into_inner);
        assert!(!late.timed_out(), "the test never opened the gate");
        *permits -= 1;
    }
}
