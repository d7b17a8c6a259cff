//! Loading a model by hand, or at the start: as a request would, and with the same turn.
//!
//! Owns: the order of the steps. Must never do: load beside a vLLM.

use std::sync::Arc;
use std::time::Duration;

use chat_proxy_core::gpu::{Asker, Tenant};
use chat_proxy_core::ids::Ticket;
use chat_proxy_core::registry::OllamaModel;
use chat_proxy_core::{ApiError, Code};
use tokio::sync::oneshot;

use super::messages::EnsureLoaded;
use crate::clock;
use crate::gpu_arbiter::messages::{Abandon, Activate, Admit, Outcome, Progress};
use crate::permits::{Permit, PermitLedger};
use crate::port::Port;

/// What it takes.
#[derive(Clone)]
pub struct ByHand {
    /// Makes somebody resident.
    pub activate: Port<Activate>,
    /// Gives a turn.
    pub admit: Port<Admit>,
    /// Is told that nobody wants it any more.
    pub abandon: Port<Abandon>,
    /// Loads.
    pub load: Port<EnsureLoaded>,
    /// Numbers the waits.
    pub ledger: Arc<PermitLedger>,
}

/// An actor that died is rebuilt within milliseconds; it is looked for this often,
const LOOK: Duration = Duration::from_millis(20);
/// and so many times.
const TRIES: u32 = 100;

impl ByHand {
    /// Makes `tenant` resident and waits until it is.
    pub async fn activate(&self, tenant: &Tenant) -> Result<(), ApiError> {
        let order = || {
            let (reply, outcome) = oneshot::channel();
            let ticket = self.ledger.ticket();
            (Activate { ticket, tenant: tenant.clone(), reply }, outcome, self.place(ticket))
        };
        match until_answered(&self.activate, order).await? {
            Outcome::Refused(error) => Err(error),
            Outcome::Activated | Outcome::Granted(_) => Ok(()),
        }
    }

    /// A place in the queue; given up when dropped. One that has been answered is none any more.
    fn place(&self, ticket: Ticket) -> Place {
        Place { ticket, abandon: self.abandon.clone() }
    }

    /// Loads a model of Ollama; what had the GPU before makes room.
    pub async fn load(&self, model: &Arc<OllamaModel>) -> Result<(), ApiError> {
        let _permit = if model.shares_gpu { Some(self.turn().await?) } else { None };
        let order = || {
            let (reply, outcome) = oneshot::channel();
            let span = tracing::Span::current();
            (EnsureLoaded { model: model.clone(), span, reply }, outcome, ())
        };
        until_answered(&self.load, order).await?.map_err(|failure| failure.error)
    }

    /// Held while the load lasts: so nothing else gets the GPU meanwhile.
    async fn turn(&self) -> Result<Permit, ApiError> {
        self.activate(&Tenant::Ollama).await?;
        let order = || {
            let (reply, outcome) = oneshot::channel();
            let (now, ticket) = (clock::now(), self.ledger.ticket());
            let admit = Admit {
                ticket,
                tenant: Tenant::Ollama,
                arrived: now,
                refused_by: None,
                who: Asker::default(),
                request_id: "by hand".into(),
                progress: Arc::new(Progress::default()),
                reply,
            };
            (admit, outcome, self.place(ticket))
        };
        match until_answered(&self.admit, order).await? {
            Outcome::Granted(permit) => Ok(permit),
            Outcome::Refused(error) => Err(error),
            Outcome::Activated => Err(lost()),
        }
    }
}

/// See [`ByHand::place`].
struct Place {
    ticket: Ticket,
    abandon: Port<Abandon>,
}

impl Drop for Place {
    fn drop(&mut self) {
        // An arbiter that is not there has forgotten it already.
        let _ = self.abandon.tell(Abandon(self.ticket));
    }
}

/// Asks, and its successor if the actor dies over it.
async fn until_answered<M, T, P>(
    port: &Port<M>,
    order: impl Fn() -> (M, oneshot::Receiver<T>, P),
) -> Result<T, ApiError>
where
    M: actix::Message<Result = ()> + Send + 'static,
{
    for _ in 0..TRIES {
        let (message, outcome, _place) = order();
        if port.tell(message).is_ok()
            && let Ok(outcome) = outcome.await
        {
            return Ok(outcome);
        }
        tokio::time::sleep(LOOK).await;
    }
    Err(lost())
}

fn lost() -> ApiError {
    let message = "the order was lost: a part of the proxy keeps failing";
    ApiError::new(Code::Internal, message).hint("the proxy's own log tells more")
}
