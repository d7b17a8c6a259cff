//! What the arbiter is told and what it answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use actix::Message;
use chat_proxy_core::ApiError;
use chat_proxy_core::engine::lifecycle::Moment;
use chat_proxy_core::engine::{Cause, EngineReport};
use chat_proxy_core::gpu::lease::{LeaseAsk, LeaseOrder};
use chat_proxy_core::gpu::scheduler::Stopping;
use chat_proxy_core::gpu::{Asker, Refusal, Side, Tenant};
use chat_proxy_core::ids::{Generation, Ticket};
use serde::Serialize;
use tokio::sync::oneshot;

use super::stories::{Story, Swap};
use crate::lease::{LeaseRecord, SavedModel};
use crate::permits::Permit;

/// The end of a wait.
#[derive(Debug)]
pub enum Outcome {
    /// A turn.
    Granted(Permit),
    /// The model that was asked for by hand serves.
    Activated,
    /// No turn.
    Refused(ApiError),
}

/// A request wants a turn. `reply` gets one [`Outcome`]; if it closes without one, the arbiter died
/// and its successor must be asked. A reply that nobody wants any more drops the permit.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Admit {
    /// The wait's number, from the ledger.
    pub ticket: Ticket,
    /// What is to be resident.
    pub tenant: Tenant,
    /// When the request came.
    pub arrived: Moment,
    /// The start that had granted a turn and then did not answer.
    pub refused_by: Option<Generation>,
    /// Who asks.
    pub who: Asker,
    /// The request's id, for whoever asks why it waits.
    pub request_id: Arc<str>,
    /// What the waiting client is told.
    pub progress: Arc<Progress>,
    /// Where the outcome goes.
    pub reply: oneshot::Sender<Outcome>,
}

/// Why a request would be refused just now: asked before anything is done for it.
#[derive(Message)]
#[rtype(result = "Option<Refusal>")]
pub struct WouldRefuse {
    /// What is to be resident.
    pub tenant: Tenant,
    /// Who asks.
    pub who: Asker,
}

/// Somebody does not want his turn any more.
#[derive(Message, Debug, Clone, Copy)]
#[rtype(result = "()")]
pub struct Abandon(pub Ticket);

/// Make a model resident, by hand. Nobody need wait for the outcome.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Activate {
    /// The wait's number.
    pub ticket: Ticket,
    /// What is to be resident.
    pub tenant: Tenant,
    /// Where the outcome goes.
    pub reply: oneshot::Sender<Outcome>,
}

/// Stop what is resident, if it is of that side, by hand; answers what that waits for.
#[derive(Message, Debug, Clone, Copy)]
#[rtype(result = "Stopping")]
pub struct Deactivate {
    /// Whose.
    pub side: Side,
    /// End what runs, instead of letting it finish.
    pub force: bool,
}

/// The engine as it is now. The whole truth, so that one more or less does no harm.
#[derive(Message, Debug, Clone)]
#[rtype(result = "()")]
pub struct EngineChanged {
    /// The report.
    pub report: EngineReport,
    /// The supervisor has just begun and does not know what its predecessor was told.
    pub fresh: bool,
}

/// Ollama has given the GPU back, or would not.
#[derive(Message, Debug, Clone, PartialEq, Eq)]
#[rtype(result = "()")]
pub struct OllamaVacated {
    /// Whose order it was.
    pub generation: Generation,
    /// What came of it.
    pub given: Result<(), Cause>,
}

/// Whoever asks Ollama has just begun, and does not know what its predecessor was told.
#[derive(Message, Debug, Clone, Copy)]
#[rtype(result = "()")]
pub struct OllamaForgot;

/// Whether requests start anything has been switched.
#[derive(Message, Debug, Clone, Copy)]
#[rtype(result = "()")]
pub struct StartsChanged;

/// Its bounds are others.
#[derive(Message, Debug, Clone, Copy)]
#[rtype(result = "()")]
pub struct BoundsChanged;

/// The published registry is another one.
#[derive(Message, Debug, Clone, Copy)]
#[rtype(result = "()")]
pub struct RegistryChanged;

/// Somebody wants to lease the GPU. `reply` gets the lease when it is written down; dropping the
/// other end withdraws the ask, or ends the lease.
#[derive(Message)]
#[rtype(result = "()")]
pub struct AcquireLease {
    /// What is asked for.
    pub ask: LeaseAsk,
    /// What for, in its words.
    pub reason: Option<String>,
    /// The engine that runs now, in case it makes room.
    pub running: Option<SavedModel>,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Result<Arc<LeaseRecord>, ApiError>>,
}

/// An order about a lease that is there. `reply` gets the answer when it is written down.
#[derive(Message)]
#[rtype(result = "()")]
pub struct OrderLease {
    /// The order.
    pub order: LeaseOrder,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Result<LeaseAnswer, ApiError>>,
}

/// What came of an order about a lease.
#[derive(Debug, Clone)]
pub enum LeaseAnswer {
    /// It lives on.
    Renewed(Arc<LeaseRecord>),
    /// It has ended.
    Released,
    /// There was none.
    Idle,
}

/// Nobody waits any more, nobody is admitted any more: the daemon ends.
#[derive(Message, Debug, Clone, Copy)]
#[rtype(result = "()")]
pub struct Drain;

/// How things stand.
#[derive(Message, Debug, Clone, Copy)]
#[rtype(result = "Status")]
pub struct GetStatus;

/// How things stand at the GPU.
#[derive(Debug, Clone, Serialize, actix::MessageResponse)]
pub struct Status {
    /// `unknown`, `empty`, `loading`, `ready`, `draining`, `stopping` or `stuck`.
    pub state: &'static str,
    /// What is resident, comes or goes: a model of ours, or `ollama`.
    pub model: Option<String>,
    /// It is Ollama.
    pub ollama: bool,
    /// Requests that use it.
    pub in_flight: usize,
    /// Who waits, the first in line first.
    pub queue: Vec<Queued>,
    /// How many may be on the GPU at once.
    pub budget: usize,
    /// Bounds that those who wait now cannot be given.
    pub infeasible: Vec<BrokenBound>,
    /// The last changes of hands, the newest first.
    pub swaps: Vec<Swap>,
}

/// A bound that cannot be kept: the change alone takes longer.
#[derive(Debug, Clone, Serialize)]
pub struct BrokenBound {
    /// The change to this.
    pub model: String,
    /// The class whose bound it breaks.
    pub class: &'static str,
    /// The bound.
    pub bound_s: f64,
    /// What the change takes, measured.
    pub change_takes_s: f64,
}

/// Why a request waited.
#[derive(Message, Debug, Clone)]
#[rtype(result = "Option<Story>")]
pub struct Explain(pub String);

/// Somebody who waits.
#[derive(Debug, Clone, Serialize)]
pub struct Queued {
    /// For which model, or `ollama`.
    pub model: String,
    /// It is Ollama.
    #[serde(skip)]
    pub ollama: bool,
    /// `request` or `activate`.
    pub purpose: &'static str,
    /// `interactive` or `background`.
    pub class: &'static str,
    /// The request's id.
    pub request_id: Option<Arc<str>>,
    /// What it waits for, in words.
    pub waits_for: Option<String>,
    /// When its bound is over.
    pub due_in_ms: Option<u64>,
    /// For how long.
    pub waiting_ms: u64,
}

/// What a waiting client is told in heartbeats: written by the arbiter, read without asking it.
#[derive(Debug, Default)]
pub struct Progress {
    position: AtomicU32,
    stage: AtomicU8,
}

/// What a wait waits for just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum WaitStage {
    /// Its turn.
    Queued = 0,
    /// That running requests of another model finish.
    Draining = 1,
    /// That the other model is gone.
    Stopping = 2,
    /// Its own model.
    Loading = 3,
    /// The end of a lease.
    Leased = 4,
}

impl Progress {
    pub(super) fn set(&self, position: u32, stage: WaitStage) {
        self.position.store(position, Ordering::Relaxed);
        self.stage.store(stage as u8, Ordering::Relaxed);
    }

    /// Position in the queue, counted from 1, and what is waited for.
    pub fn get(&self) -> (u32, WaitStage) {
        let stage = match self.stage.load(Ordering::Relaxed) {
            1 => WaitStage::Draining,
            2 => WaitStage::Stopping,
            3 => WaitStage::Loading,
            4 => WaitStage::Leased,
            _ => WaitStage::Queued,
        };
        (self.position.load(Ordering::Relaxed), stage)
    }
}

impl WaitStage {
    /// The words in a heartbeat.
    pub fn as_str(self) -> &'static str {
        match self {
            WaitStage::Queued => "queued",
            WaitStage::Draining => "other requests finish",
            WaitStage::Stopping => "the other model is stopping",
            WaitStage::Loading => "the model is loading",
            WaitStage::Leased => "the GPU is leased",
        }
    }
}
