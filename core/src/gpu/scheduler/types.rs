//! What the scheduler is told, what it says, and what it believes.
//!
//! Owns: the shapes. Must never do: decide.

use std::sync::Arc;
use std::time::Duration;

use super::waiters::Waiter;
use super::why::Because;
use crate::engine::lifecycle::Moment;
use crate::engine::{Cause, EngineReport, Launch};
use crate::gpu::lease::{Lease, LeaseAsk, LeaseEffect};
use crate::gpu::{Class, GpuBudget, Side, Tenant, TenantId};
use crate::ids::{Generation, ModelName, Ticket};

/// Bounds.
#[derive(Debug, Clone)]
pub struct SchedulerRules {
    /// Requests that may wait, over all models.
    pub max_queue: usize,
    /// Longest wait before its own load begins; `None`: no limit.
    pub max_wait: Option<Duration>,
    /// An interactive request causes a swap at the latest after this.
    pub swap_wait: Duration,
    /// A background request does.
    pub background_wait: Duration,
    /// So long after its last interactive work background requests cause no swap away from a model.
    pub background_idle: Duration,
    /// Requests at once for one model; `None`: no limit.
    pub max_concurrent: Option<usize>,
    /// A resident without requests is stopped after this, where its entry does not say; `None`: never.
    pub idle_unload: Option<Duration>,
    /// A swap cuts what still runs after this; `None`: it never does.
    pub swap_drain: Option<Duration>,
    /// A load that nobody waits for is ended after this; `None`: it goes on.
    pub abandoned_grace: Option<Duration>,
    /// Requests may cause a load; by hand it is always possible.
    pub start_on_request: bool,
    /// While the GPU is leased, requests wait instead of being refused.
    pub lease_wait: bool,
    /// What still runs when somebody asks for a lease is cut after this; `None`: never.
    pub lease_drain: Option<Duration>,
    /// Ollama runs on this GPU: what it has loaded must be gone before a vLLM starts.
    pub beside_ollama: bool,
    /// How many may be on it at once.
    pub budget: GpuBudget,
}

impl SchedulerRules {
    pub(super) fn bounds(&self) -> Bounds {
        Bounds { interactive: self.swap_wait, background: self.background_wait }
    }
}

/// How long a request of each class may wait before it causes a change of hands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    interactive: Duration,
    background: Duration,
}

impl Bounds {
    pub(super) fn of(self, class: Class) -> Duration {
        match class {
            Class::Interactive => self.interactive,
            Class::Background => self.background,
        }
    }
}

/// How a model is kept when nobody uses it, by its entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Keep {
    /// It is stopped after this; `None`: never.
    pub idle_unload: Option<Duration>,
    /// It is not stopped for being unused, nor for background work.
    pub pinned: bool,
}

/// What holds the GPU.
#[derive(Debug, Clone, PartialEq)]
pub enum Gpu {
    /// Not known yet.
    Unknown,
    /// Nothing.
    Empty,
    /// A vLLM that loads, since this moment.
    Loading(Generation, Arc<Launch>, Moment),
    /// A model that serves.
    Resident(Resident),
    /// A model that goes.
    Clearing(Clearing),
    /// Something that cannot be ended.
    Stuck(Stuck),
}

/// A model that serves.
#[derive(Debug, Clone, PartialEq)]
pub struct Resident {
    /// Which start of it.
    pub generation: Generation,
    /// What it is.
    pub tenant: Tenant,
    /// Since when.
    pub since: Moment,
    /// Permits that are out.
    pub in_flight: usize,
    /// It only finishes what it has.
    pub closing: Option<Closing>,
    /// Since when nobody uses it.
    pub idle_since: Option<Moment>,
    /// An interactive request has been among those that use it now.
    pub interactive_out: bool,
}

impl Resident {
    /// One that serves from now on. Who uses it already may be anybody.
    pub fn new(generation: Generation, tenant: Tenant, now: Moment, in_flight: usize) -> Self {
        let used = in_flight > 0;
        Resident {
            generation,
            tenant,
            since: now,
            in_flight,
            closing: None,
            idle_since: (!used).then_some(now),
            interactive_out: used,
        }
    }

    /// So many use it now; answers whether interactive work has just ended.
    pub(super) fn uses(&mut self, count: usize, now: Moment) -> bool {
        self.in_flight = count;
        if count > 0 {
            self.idle_since = None;
            return false;
        }
        self.idle_since = self.idle_since.or(Some(now));
        std::mem::take(&mut self.interactive_out)
    }
}

/// A resident that takes nothing new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closing {
    /// On whose account.
    pub cause: ClosingCause,
    /// When what still runs is cut.
    pub cut_at: Option<Moment>,
}

/// On whose account a resident closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClosingCause {
    /// Of somebody who waits for another model; when he goes, it opens again.
    Waiter,
    /// Of an order to stop.
    Order,
    /// Of somebody who wants to lease the GPU; when he goes, it opens again.
    Lease,
}

/// A model that goes.
#[derive(Debug, Clone, PartialEq)]
pub struct Clearing {
    /// Which start of it.
    pub generation: Generation,
    /// What it is.
    pub tenant: Tenant,
    /// Since when.
    pub since: Moment,
    /// Permits that are still out: only of an engine that died.
    pub in_flight: usize,
    /// When they are cut.
    pub cut_at: Option<Moment>,
    /// It had no turn: it is only asked whether it holds anything all the same.
    pub only_asked: bool,
}

/// A model that cannot be ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Stuck {
    /// Which start of it.
    pub generation: Generation,
    /// What is known of it.
    pub cause: Cause,
}

/// Why the GPU changes hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A request for another model.
    Request,
    /// By hand.
    Manual,
    /// Nobody has used it for a while.
    Idle,
    /// A lease, or the end of one.
    Lease,
    /// Its entry is another one now.
    Changed,
    /// Its entry has gone.
    Removed,
}

impl Reason {
    /// What is loaded for it is for nobody yet: it was there before.
    pub(super) fn brings_back(self) -> bool {
        matches!(self, Reason::Lease | Reason::Changed)
    }

    /// The word for it, in lists and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Request => "request",
            Reason::Manual => "manual",
            Reason::Idle => "idle",
            Reason::Lease => "lease",
            Reason::Changed => "changed",
            Reason::Removed => "removed",
        }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Somebody wants a turn.
    Admit(Waiter),
    /// Somebody does not want it any more.
    Abandon(Ticket),
    /// So many permits of a generation are out, by the ledger.
    InFlight(Generation, usize),
    /// The engine, as it is now; and the permits that are out of the generation it names.
    /// `fresh`: its supervisor has just begun, and may not know what it was told before.
    Engine {
        /// The report.
        report: EngineReport,
        /// Permits of that generation that are out.
        in_flight: usize,
        /// Whether its supervisor has just begun.
        fresh: bool,
    },
    /// Ollama is used under this generation: permits for it are out that an earlier scheduler gave.
    OllamaInUse(Generation, usize),
    /// Ollama has given the GPU back, or would not.
    Vacated(Generation, Result<(), Cause>),
    /// Whoever asks Ollama has just begun, and does not know what its predecessor was told.
    OllamaForgot,
    /// Stop what is resident, if it is of this side; `force` cuts what runs.
    Deactivate {
        /// Whose.
        side: Side,
        /// Cut, instead of letting finish.
        force: bool,
    },
    /// Somebody wants to lease the GPU.
    Lease(LeaseAsk),
    /// A lease of before: it is held.
    LeaseKept {
        /// The lease.
        lease: Lease,
        /// Whatever is on the GPU must go; else it is there for its holder.
        clearing: bool,
    },
    /// A lease has ended, and this was resident before.
    Restore(Arc<Launch>),
    /// The daemon ends: nobody waits any more.
    Drain,
    /// Time has passed.
    Tick,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// A permit for this ticket.
    Grant {
        /// Whose.
        ticket: Ticket,
        /// For which start.
        generation: Generation,
        /// Of what.
        tenant: Tenant,
        /// How long it waited for a turn.
        queued: Duration,
        /// How long it waited for the load.
        loading: Duration,
    },
    /// The model that was asked for by hand serves.
    Activated(Ticket),
    /// No.
    Refuse(Ticket, Refusal),
    /// Somebody asked for this model by hand: its failures do not count any more. Comes before the
    /// start that it makes possible.
    Pardon(ModelName),
    /// Start this.
    Run(Generation, Arc<Launch>),
    /// Stop what runs.
    Stop(Generation),
    /// Ollama has the GPU, under this number.
    Open(Generation),
    /// Ollama is to unload what it has loaded, and say when that is gone.
    Vacate(Generation),
    /// End the requests that use this.
    Cut(Generation),
    /// About leases.
    Lease(LeaseEffect),
    /// The GPU goes from one model to another, or to the first one.
    SwapBegan {
        /// What was resident.
        from: Option<TenantId>,
        /// What shall be.
        to: TenantId,
        /// Why.
        reason: Reason,
        /// In particular.
        because: Because,
    },
    /// The resident is stopped and nothing comes in its place.
    Unload {
        /// What was resident.
        of: TenantId,
        /// Why.
        reason: Reason,
    },
    /// It serves, so long after the decision.
    SwapDone {
        /// What is resident now.
        to: TenantId,
        /// Why.
        reason: Reason,
        /// From the decision to ready.
        took: Duration,
    },
}

/// Why somebody gets no turn.
#[derive(Debug, Clone, PartialEq)]
pub enum Refusal {
    /// Too many wait already.
    QueueFull {
        /// So many.
        waiting: usize,
        /// When it is worth trying again.
        retry_after: Duration,
    },
    /// It waited for as long as it may.
    QueueTimeout {
        /// So long.
        waited: Duration,
        /// When it is worth trying again.
        retry_after: Duration,
    },
    /// The model did not come up.
    Failed(Cause),
    /// Requests start nothing here.
    AutostartOff,
    /// Somebody stopped it by hand.
    Stopped,
    /// The daemon ends.
    Draining,
    /// The GPU is leased.
    Leased {
        /// To whom.
        owner: String,
        /// When it is worth trying again.
        retry_after: Duration,
    },
    /// Somebody else holds a lease already, or is about to.
    LeaseBusy {
        /// Who.
        owner: String,
    },
    /// It wanted to be served by what is there, and that is not there any more.
    NoResident,
}

/// What an order to stop met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stopping {
    /// Nothing was there.
    Idle,
    /// It goes now.
    Now(TenantId),
    /// It goes when so many requests have finished.
    WaitsFor(TenantId, usize),
}
