//! What a request passes before a backend that the arbiter does not place (SPEC 6.5, 6.6): the lease
//! of the GPU, where its server uses it, and the limit of its model.
//!
//! Owns: both waits, and what the client is told meanwhile. Must never do: wait without a bound, or
//! hold a place for a client that has gone.

use std::time::{Duration, Instant};

use chat_proxy_core::ApiError;
use chat_proxy_core::gpu::Refusal;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::patience;
use super::reply::Reply;
use super::task::Request;
use crate::clock;
use crate::lease::LeaseRecord;
use crate::limits::{Entry, Queued, Slot};
use crate::transcript::Transcript;

impl Request<'_> {
    /// Passes, or waits for the end of, a lease that others hold; `None`: the request has ended.
    pub(super) async fn past_lease(
        &self,
        mut reply: Reply,
        transcript: &mut Transcript,
    ) -> Option<Reply> {
        let shared = self.shared;
        let mut changes = shared.turns.leases.watch();
        let began = Instant::now();
        loop {
            let record = changes.borrow_and_update().clone();
            let Some(record) = record.filter(|record| !self.may_pass(record)) else {
                transcript.waited(began.elapsed(), Duration::ZERO);
                return Some(reply);
            };
            if !shared.settings.lease_wait {
                reply.refuse(leased(&record).error(&self.prepared.found.model), transcript);
                return None;
            }
            let state = format!("the GPU is leased to {}", record.owner);
            let change = timeout(self.left(began), changes.changed());
            let stream = self.prepared.stream;
            let waited =
                patience::wait(shared, stream, &state, change, &mut reply, transcript).await;
            match waited {
                Err(why) => {
                    reply.interrupted(why, transcript);
                    return None;
                }
                Ok(Ok(_)) => {}
                Ok(Err(_)) => {
                    reply.refuse(self.too_long(began, None), transcript);
                    return None;
                }
            }
        }
    }

    fn may_pass(&self, record: &LeaseRecord) -> bool {
        self.prepared.who.pass.as_ref().is_some_and(|pass| record.token.key().is(pass))
    }

    /// Waits for a place at the model; `None`: the request has ended.
    pub(super) async fn place(
        &self,
        reply: Reply,
        transcript: &mut Transcript,
    ) -> Option<(Option<Slot>, Reply)> {
        let Request { shared, prepared, .. } = self;
        let arrived = transcript.arrived();
        match shared.turns.limits.enter(&prepared.found.model, &prepared.who, arrived) {
            Entry::In(slot) => Some((slot, reply)),
            Entry::Refused(refusal) => {
                reply.refuse(refusal.error(&prepared.found.model), transcript);
                None
            }
            Entry::Waits(queued, came) => self.in_line(&queued, came, reply, transcript).await,
        }
    }

    async fn in_line(
        &self,
        queued: &Queued,
        came: oneshot::Receiver<Slot>,
        mut reply: Reply,
        transcript: &mut Transcript,
    ) -> Option<(Option<Slot>, Reply)> {
        let began = Instant::now();
        let (shared, stream) = (self.shared, self.prepared.stream);
        let place = timeout(self.left(began), came);
        let tell = || format!("position {}, waiting for a place at the model", queued.position());
        let waited =
            patience::wait_telling(shared, stream, &tell, place, &mut reply, transcript).await;
        transcript.waited(began.elapsed(), Duration::ZERO);
        match waited {
            Err(why) => reply.interrupted(why, transcript),
            Ok(Ok(slot)) => return Some((slot.ok(), reply)),
            Ok(Err(_)) => {
                let refusal = queued.too_long(began.elapsed());
                reply.refuse(self.too_long(began, refusal), transcript);
            }
        }
        None
    }

    /// How much of `max_queue_wait_s` is left.
    fn left(&self, began: Instant) -> Duration {
        let limit = self.shared.settings.max_queue_wait;
        limit.map_or(Duration::MAX, |limit| limit.saturating_sub(began.elapsed()))
    }

    fn too_long(&self, began: Instant, refusal: Option<Refusal>) -> ApiError {
        let waited = began.elapsed();
        let unknown = Refusal::QueueTimeout { waited, retry_after: Duration::from_secs(5) };
        refusal.unwrap_or(unknown).error(&self.prepared.found.model)
    }
}

fn leased(record: &LeaseRecord) -> Refusal {
    let left = (record.expires_at - clock::unix_seconds()).max(0.0);
    let retry_after = Duration::try_from_secs_f64(left).unwrap_or_default();
    Refusal::Leased { owner: record.owner.clone(), retry_after }
}
