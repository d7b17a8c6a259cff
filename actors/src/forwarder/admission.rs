//! The wait for a turn at the GPU.
//!
//! Owns: asking the arbiter, again if it died, and what a waiting client is told meanwhile. Must
//! never do: hold a place for a client that has gone; dropping the wait, on whatever path, abandons
//! the place.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use chat_proxy_core::gpu::{Asker, Refusal, Tenant};
use chat_proxy_core::ids::{Generation, Ticket};
use chat_proxy_core::{ApiError, Code};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::Shared;
use super::reply::{Interrupt, Reply};
use crate::clock;
use crate::gpu_arbiter::messages::{Abandon, Admit, Outcome, Progress};
use crate::permits::Permit;
use crate::port::Port;
use crate::transcript::Transcript;

/// An arbiter that died is rebuilt within milliseconds; it is looked for this often.
const LOOK: Duration = Duration::from_millis(10);
/// And for this long.
const PATIENCE: Duration = Duration::from_secs(15);
/// So many arbiters may die while a request waits: if it is the request that kills them, it must not
/// have them all.
const MAX_DEATHS: u32 = 3;

/// What is asked for.
pub(super) struct Wanted<'a> {
    pub(super) tenant: &'a Tenant,
    /// Streaming clients are told that they wait.
    pub(super) stream: bool,
    /// The start that had granted a turn and then did not answer.
    pub(super) refused_by: Option<Generation>,
    /// Who asks.
    pub(super) who: &'a Asker,
    /// The request's id.
    pub(super) request_id: &'a str,
}

enum NoTurn {
    Interrupted(Interrupt),
    Refused(ApiError),
}

/// What became of a wait for a turn.
pub(super) enum Admitted {
    /// A turn.
    Granted(Permit, Reply),
    /// The request has ended, and its reply with it.
    Over,
    /// It wanted what is loaded, and this is not any more.
    Elsewhere(Reply, ApiError),
}

/// Waits for a turn.
pub(super) async fn admit(
    shared: &Shared,
    wanted: &Wanted<'_>,
    mut reply: Reply,
    transcript: &mut Transcript,
) -> Admitted {
    match turn(shared, wanted, &mut reply, transcript).await {
        Ok(permit) => {
            // The arbiter counts from the arrival; some of that may be written down already.
            let known = transcript.waited_so_far();
            transcript.waited(permit.queued.saturating_sub(known), permit.loading);
            if !permit.loading.is_zero() {
                // By the generation it is found with those who load.
                let (generation, queued, loading) =
                    (permit.generation, permit.queued, permit.loading);
                tracing::info!(%generation, ?queued, ?loading, "its model was loaded for it");
            }
            reply.uses(Some(permit.generation));
            Admitted::Granted(permit, reply)
        }
        Err(NoTurn::Interrupted(why)) => {
            reply.interrupted(why, transcript);
            Admitted::Over
        }
        Err(NoTurn::Refused(error)) if error.code == Code::NoResident => {
            Admitted::Elsewhere(reply, error)
        }
        Err(NoTurn::Refused(error)) => {
            reply.refuse(error, transcript);
            Admitted::Over
        }
    }
}

async fn turn(
    shared: &Shared,
    wanted: &Wanted<'_>,
    reply: &mut Reply,
    transcript: &mut Transcript,
) -> Result<Permit, NoTurn> {
    let every = shared.settings.heartbeat.limit().filter(|_| wanted.stream);
    let mut heart = Heart::new(every, reply.heard());
    let mut alone_since: Option<Instant> = None;
    let mut deaths = 0;
    while deaths < MAX_DEATHS {
        let Some(mut wait) = Wait::begin(shared, wanted, transcript) else {
            if shared.turns.ledger.is_draining() {
                // There will be no other one.
                let model = wanted.tenant.id().to_string();
                return Err(NoTurn::Refused(Refusal::Draining.error(&model)));
            }
            if alone_since.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                break;
            }
            pause(reply).await?;
            continue;
        };
        alone_since = None;
        match wait.end(&mut heart, reply, transcript).await? {
            Some(Outcome::Granted(permit)) => return Ok(permit),
            Some(Outcome::Refused(error)) => return Err(NoTurn::Refused(error)),
            // The arbiter died and took the place in the queue with it, or answered somebody
            // else's question: its successor is asked, with the arrival that orders us.
            Some(Outcome::Activated) | None => deaths += 1,
        }
    }
    let message = "nobody decides about the GPU: a part of the proxy failed";
    Err(NoTurn::Refused(ApiError::new(Code::Internal, message)))
}

async fn pause(reply: &mut Reply) -> Result<(), NoTurn> {
    let mut over = Box::pin(sleep(LOOK));
    poll_fn(|cx| {
        if let Poll::Ready(why) = reply.poll_interrupt(cx) {
            return Poll::Ready(Err(NoTurn::Interrupted(why)));
        }
        over.as_mut().poll(cx).map(Ok)
    })
    .await
}

/// A place in the queue; gone when dropped.
struct Wait {
    ticket: Ticket,
    outcome: oneshot::Receiver<Outcome>,
    progress: Arc<Progress>,
    abandon: Port<Abandon>,
    over: bool,
}

impl Wait {
    /// `None`: there is no arbiter just now.
    fn begin(shared: &Shared, wanted: &Wanted<'_>, transcript: &Transcript) -> Option<Wait> {
        let (reply, outcome) = oneshot::channel();
        let (ticket, progress) = (shared.turns.ledger.ticket(), Arc::new(Progress::default()));
        let asked = shared.turns.admit.tell(Admit {
            ticket,
            tenant: wanted.tenant.clone(),
            arrived: clock::at(transcript.arrived()),
            refused_by: wanted.refused_by,
            who: wanted.who.clone(),
            request_id: wanted.request_id.into(),
            progress: progress.clone(),
            reply,
        });
        asked.ok()?;
        let abandon = shared.turns.abandon.clone();
        Some(Wait { ticket, outcome, progress, abandon, over: false })
    }

    /// Its end; `None`: the arbiter died.
    async fn end(
        &mut self,
        heart: &mut Heart,
        reply: &mut Reply,
        transcript: &mut Transcript,
    ) -> Result<Option<Outcome>, NoTurn> {
        loop {
            let ended = poll_fn(|cx| {
                if let Poll::Ready(why) = reply.poll_interrupt(cx) {
                    return Poll::Ready(Err(NoTurn::Interrupted(why)));
                }
                if let Poll::Ready(outcome) = Pin::new(&mut self.outcome).poll(cx) {
                    return Poll::Ready(Ok(Some(outcome.ok())));
                }
                heart.poll(cx).map(|()| Ok(None))
            });
            if let Some(outcome) = ended.await? {
                self.over = true;
                return Ok(outcome);
            }
            self.heartbeat(reply, transcript);
        }
    }

    fn heartbeat(&self, reply: &mut Reply, transcript: &mut Transcript) {
        let (position, stage) = self.progress.get();
        reply.comfort(&format!("position {position}, {}", stage.as_str()), transcript);
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        if !self.over {
            // An arbiter that is not there has forgotten us already.
            let _ = self.abandon.tell(Abandon(self.ticket));
        }
    }
}

/// When a waiting client hears from us.
pub(super) struct Heart {
    every: Option<Duration>,
    next: Pin<Box<Sleep>>,
}

impl Heart {
    /// `heard`: when the client heard of us last.
    pub(super) fn new(every: Option<Duration>, heard: Instant) -> Self {
        let first = heard + every.unwrap_or_default();
        Heart { every, next: Box::pin(sleep_until(first)) }
    }

    pub(super) fn poll(&mut self, cx: &mut std::task::Context<'_>) -> Poll<()> {
        let Some(every) = self.every else { return Poll::Pending };
        std::task::ready!(self.next.as_mut().poll(cx));
        self.next.as_mut().reset(Instant::now() + every);
        Poll::Ready(())
    }
}
