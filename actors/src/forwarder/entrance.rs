//! What a request passes before a backend that the arbiter does not place (SPEC 6.5, 6.6): the lease
//! of the GPU, where its server uses it, and the limit of its model.
//!
//! Owns: both waits, and what the client is told meanwhile. Must never do: wait without a bound, or
//! hold a place for a client that has gone.

use std::time::{Duration, Instant};

use chat_proxy_core::ApiError;
use chat_proxy_core::gpu::{Refusal, Tenant};
use chat_proxy_core::registry::Placement;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Shared;
use super::patience;
use super::prepare::Prepared;
use super::reply::{Interrupt, Reply};
use super::task::Request;
use crate::clock;
use crate::gpu_arbiter::messages::WouldRefuse;
use crate::lease::LeaseRecord;
use crate::limits::{Entry, Queued, Slot};
use crate::transcript::Transcript;

/// The arbiter is not waited for longer by those who only look.
const LOOK: Duration = Duration::from_secs(1);

/// Why a request would be refused just now: a look before costly work is done for it. What it lets pass
/// may still be refused.
pub(super) async fn foresee(shared: &Shared, prepared: &Prepared) -> Result<(), ApiError> {
    let (found, turns) = (&prepared.found, &shared.turns);
    if prepared.who.only_there {
        // What it asks for may have gone: then it follows, and is not refused.
        return Ok(());
    }
    let refusal = match &found.placement {
        Placement::SinglePort(launch) => {
            let tenant = Tenant::Vllm(launch.clone());
            let look = WouldRefuse { tenant, who: prepared.who.clone() };
            // Without an answer it is found out when the turn is asked for.
            turns.foresee.ask(look, LOOK).await.ok().flatten()
        }
        Placement::External(_) => turns.limits.would_refuse(&found.model),
        Placement::Ollama(_) => None,
    };
    refusal.map_or(Ok(()), |refusal| Err(refusal.error(&found.model)))
}

impl Request<'_> {
    /// Passes, or waits for the end of, a lease that others hold; `None`: the request has ended.
    pub(super) async fn past_lease(
        &self,
        mut reply: Reply,
        transcript: &mut Transcript,
    ) -> Option<Reply> {
        let began = Instant::now();
        let waited = self.lease_ends(&mut reply, transcript).await;
        transcript.waited(began.elapsed(), Duration::ZERO);
        patience::settled(waited, reply, transcript).map(|((), reply)| reply)
    }

    async fn lease_ends(
        &self,
        reply: &mut Reply,
        transcript: &mut Transcript,
    ) -> Result<Result<(), ApiError>, Interrupt> {
        let (shared, model) = (self.shared, &self.prepared.found.model);
        let mut changes = shared.turns.leases.watch();
        let mut place = None;
        loop {
            let record = changes.borrow_and_update().clone();
            let Some(record) = record.filter(|record| !self.may_pass(record)) else {
                return Ok(Ok(()));
            };
            if !shared.settings.lease_wait {
                return Ok(Err(leased(&record).error(model)));
            }
            if place.is_none() {
                place = match shared.turns.limits.wait_for_a_lease() {
                    Ok(place) => Some(place),
                    Err(refusal) => return Ok(Err(refusal.error(model))),
                };
            }
            let state = format!("the GPU is leased to {}", record.owner);
            let change = timeout(self.left(transcript.arrived()), changes.changed());
            let stream = self.prepared.stream;
            let waited = patience::wait(shared, stream, &state, change, reply, transcript).await?;
            if waited.is_err() {
                return Ok(Err(self.too_long(transcript.arrived(), None)));
            }
        }
    }

    /// Whether others hold a lease now.
    pub(super) fn is_kept_out(&self) -> bool {
        self.shared.turns.leases.current().is_some_and(|record| !self.may_pass(&record))
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
            Entry::Waits(queued, came) => {
                Box::pin(self.in_line(&queued, came, reply, transcript)).await
            }
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
        let place = timeout(self.left(transcript.arrived()), came);
        let tell = || format!("position {}, waiting for a place at the model", queued.position());
        let waited =
            patience::wait_telling(shared, stream, &tell, place, &mut reply, transcript).await;
        transcript.waited(began.elapsed(), Duration::ZERO);
        match waited {
            Err(why) => reply.interrupted(why, transcript),
            Ok(Ok(slot)) => return Some((slot.ok(), reply)),
            Ok(Err(_)) => {
                let arrived = transcript.arrived();
                let refusal = queued.too_long(arrived.elapsed());
                reply.refuse(self.too_long(arrived, refusal), transcript);
            }
        }
        None
    }

    /// How much of `max_queue_wait_s` is left: all waits of a request are within it.
    fn left(&self, arrived: Instant) -> Duration {
        let limit = self.shared.settings.max_queue_wait;
        limit.map_or(Duration::MAX, |limit| limit.saturating_sub(arrived.elapsed()))
    }

    fn too_long(&self, arrived: Instant, refusal: Option<Refusal>) -> ApiError {
        let waited = arrived.elapsed();
        let unknown = Refusal::QueueTimeout { waited, retry_after: Duration::from_secs(5) };
        refusal.unwrap_or(unknown).error(&self.prepared.found.model)
    }
}

/// The longest that a client is told to stay away (SPEC 2.1).
const COME_BACK: Duration = Duration::from_secs(30);

fn leased(record: &LeaseRecord) -> Refusal {
    let left = (record.expires_at - clock::unix_seconds()).max(0.0);
    let retry_after = Duration::try_from_secs_f64(left).unwrap_or_default().min(COME_BACK);
    Refusal::Leased { owner: record.owner.clone(), retry_after }
}
