//! `MetricsActor`: the rolling view of the last requests.
//!
//! Owns: the window (core: `telemetry::rolling`). Accepts: [`Observe`], [`GetRolling`]. Emits:
//! nothing. Stops with the daemon. Restarts: empty; the window refills with the next requests, and
//! the totals are atomics that outlive it.

use actix::{Actor, Context, Handler, Message, MessageResult};
use chat_proxy_core::telemetry::rolling::{Rolling, Sample, Summary};

use crate::clock;
use crate::guard::Guard;

/// A request has ended.
#[derive(Message, Debug, Clone, Copy)]
#[rtype(result = "()")]
pub struct Observe(pub Sample);

/// The window, summed up.
#[derive(Message, Debug, Clone, Copy)]
#[rtype(result = "Summary")]
pub struct GetRolling;

/// See the module.
pub struct MetricsActor {
    rolling: Rolling,
    _guard: Guard,
}

impl MetricsActor {
    /// An empty window.
    pub fn new(guard: Guard) -> Self {
        MetricsActor { rolling: Rolling::default(), _guard: guard }
    }
}

impl Actor for MetricsActor {
    type Context = Context<Self>;
}

impl Handler<Observe> for MetricsActor {
    type Result = ();

    fn handle(&mut self, Observe(sample): Observe, _: &mut Self::Context) {
        self.rolling.add(sample);
    }
}

impl Handler<GetRolling> for MetricsActor {
    type Result = MessageResult<GetRolling>;

    fn handle(&mut self, _: GetRolling, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.rolling.summary(clock::now()))
    }
}
