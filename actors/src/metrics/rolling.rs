//! `MetricsActor`: the rolling view of the last requests.
//!
//! Owns: the window (core: `telemetry::rolling`). Accepts: samples through [`Samples`] (never waits
//! and wakes nobody), [`GetRolling`]. Emits: nothing. Stops with the daemon. Restarts: with what
//! nobody has looked at yet; the window refills with the next requests, and the totals are atomics
//! that outlive it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use actix::{Actor, Context, Handler, Message, MessageResult};
use chat_proxy_core::telemetry::rolling::{MAX_SAMPLES, Rolling, Sample, Summary};

use crate::clock;
use crate::guard::Guard;

/// Samples on their way into the window, taken in when somebody looks at it: requests end far more
/// often than that, and a message each would wake a thread each.
#[derive(Debug, Clone, Default)]
pub struct Samples(Arc<Mutex<VecDeque<Sample>>>);

impl Samples {
    /// A request has ended.
    pub fn add(&self, sample: Sample) {
        let mut waiting = self.waiting();
        if waiting.len() == MAX_SAMPLES {
            // The window would not keep it either.
            waiting.pop_front();
        }
        waiting.push_back(sample);
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Sample>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The window, summed up.
#[derive(Message, Debug, Clone, Copy)]
#[rtype(result = "Summary")]
pub struct GetRolling;

/// See the module.
pub struct MetricsActor {
    rolling: Rolling,
    samples: Samples,
    _guard: Guard,
}

impl MetricsActor {
    /// An empty window over what comes.
    pub fn new(samples: Samples, guard: Guard) -> Self {
        MetricsActor { rolling: Rolling::default(), samples, _guard: guard }
    }
}

impl Actor for MetricsActor {
    type Context = Context<Self>;
}

impl Handler<GetRolling> for MetricsActor {
    type Result = MessageResult<GetRolling>;

    fn handle(&mut self, _: GetRolling, _: &mut Self::Context) -> Self::Result {
        let waiting = std::mem::take(&mut *self.samples.waiting());
        for sample in waiting {
            self.rolling.add(sample);
        }
        MessageResult(self.rolling.summary(clock::now()))
    }
}
