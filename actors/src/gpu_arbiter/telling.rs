//! What the arbiter tells those who listen to events.
//!
//! Owns: that the same thing is told once, and that a queue that changes all the time is not told all the time.
//! Must never do: be asked for on the way of a request.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use actix::{AsyncContext, Context};
use chat_proxy_core::gpu::TenantId;
use chat_proxy_core::gpu::scheduler::Reason;

use super::GpuArbiter;
use super::stories::{Swap, millis};
use crate::clock;
use crate::events::{Event, Waiting};

/// The queue is told so often at most.
const PACE: Duration = Duration::from_millis(500);

/// What was last told.
#[derive(Debug, Default)]
pub(super) struct Told {
    resident: Option<(&'static str, Option<TenantId>)>,
    queue: Vec<Waiting>,
    queue_at: Option<Instant>,
    /// It will be told when it is time.
    queue_later: bool,
}

impl GpuArbiter {
    pub(super) fn swap_begins(
        &mut self,
        from: Option<String>,
        to: Option<String>,
        reason: Reason,
        because: String,
        request_id: Option<String>,
    ) {
        let shown = |name: &Option<String>| name.clone().unwrap_or_else(|| "nothing".to_owned());
        let (was, comes, reason) = (shown(&from), shown(&to), reason.as_str());
        let id = request_id.as_deref();
        tracing::info!(from = was, to = comes, reason, because, request_id = id, "swap begins");
        let queue = self.queue();
        let (begins, at) = ((from.clone(), to.clone(), because.clone()), clock::unix_seconds());
        self.stories.swap_begins(Swap { at, from, to, reason, because, took_ms: None });
        let (from, to, because) = begins;
        let begins = Event::SwapBegins { from, to, reason, because, request_id, queue };
        self.parts.events.publish(&begins);
    }

    pub(super) fn swap_done(&mut self, to: &TenantId, reason: Reason, took: Duration) {
        let reason = reason.as_str();
        tracing::info!(%to, ?took, reason, "swap done");
        let metrics = &self.parts.metrics;
        metrics.swaps.with_label_values(&[reason]).inc();
        metrics.swap_seconds.observe(took.as_secs_f64());
        self.stories.swap_done(took);
        let (to, took_ms) = (to.to_string(), millis(took));
        self.parts.events.publish(&Event::SwapDone { to, reason, took_ms });
    }

    /// After every event: what has changed.
    pub(super) fn tell_events(&mut self, ctx: &mut Context<Self>) {
        let resident = self.holder();
        if self.told.resident.as_ref() != Some(&resident) {
            let (state, model) = (resident.0, resident.1.as_ref().map(ToString::to_string));
            self.parts.metrics.holds_gpu(model.as_deref());
            self.parts.events.publish(&Event::Resident { state, model });
            self.told.resident = Some(resident);
        }
        self.tell_queue(ctx);
    }

    fn tell_queue(&mut self, ctx: &mut Context<Self>) {
        if self.told.queue_later || (self.waiting.is_empty() && self.told.queue.is_empty()) {
            return;
        }
        let queue = self.queue();
        if queue == self.told.queue {
            return;
        }
        let now = Instant::now();
        let next = self.told.queue_at.map_or(now, |at| at + PACE);
        if now < next {
            self.told.queue_later = true;
            ctx.run_later(next - now, |arbiter, ctx| {
                arbiter.told.queue_later = false;
                arbiter.tell_queue(ctx);
            });
            return;
        }
        self.parts.events.publish(&Event::Queue { waiting: queue.clone() });
        (self.told.queue, self.told.queue_at) = (queue, Some(now));
    }

    /// Who waits, by model and class.
    fn queue(&self) -> Vec<Waiting> {
        let mut counts = BTreeMap::new();
        for waiter in self.core.waiting() {
            *counts.entry((waiter.tenant.id(), waiter.who.class)).or_insert(0) += 1;
        }
        let waiting = counts.into_iter().map(|((id, class), requests)| Waiting {
            model: id.to_string(),
            class: class.as_str(),
            requests,
        });
        waiting.collect()
    }
}
