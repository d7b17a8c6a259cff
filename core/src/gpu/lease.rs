//! A lease of the GPU to somebody else (SPEC 6.5): the shapes.
//!
//! Owns: what is asked for and what is held, on the monotonic clock. Must never do: know the wall
//! clock or a file; whoever keeps leases translates.

use std::time::Duration;

use crate::engine::lifecycle::Moment;
use crate::gpu::LeaseToken;
use crate::gpu::scheduler::Refusal;
use crate::ids::{ModelName, Ticket};

/// What somebody wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseAsk {
    /// The ask's own number.
    pub ticket: Ticket,
    /// What it will be held by.
    pub token: LeaseToken,
    /// For whom.
    pub owner: String,
    /// Load again what was resident, when it ends.
    pub restart_model: bool,
    /// How long it lives without being renewed.
    pub ttl: Duration,
}

/// A lease that is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// What its holder shows.
    pub token: LeaseToken,
    /// For whom.
    pub owner: String,
    /// Load again what was resident, when it ends.
    pub restart_model: bool,
    /// How long it lives without being renewed.
    pub ttl: Duration,
    /// When it was granted.
    pub granted: Moment,
    /// When it ends by itself.
    pub until: Moment,
    /// The vLLM model that made room.
    pub saved: Option<ModelName>,
}

/// Who has the GPU, as far as leases go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Hold {
    /// Nobody: the scheduler.
    #[default]
    Free,
    /// Somebody waits for it, and what is there makes room.
    Acquiring {
        /// What was asked for.
        ask: LeaseAsk,
        /// What made room.
        saved: Option<ModelName>,
    },
    /// Somebody.
    Held {
        /// The lease.
        lease: Lease,
        /// What was found on the GPU when the lease was read from before; it must go.
        clearing: bool,
    },
}

/// What is to be done with a lease that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseOrder {
    /// It lives on for its time to live, or for another one.
    Renew {
        /// Its token.
        token: LeaseToken,
        /// Another time to live.
        ttl: Option<Duration>,
    },
    /// It ends.
    Release {
        /// Its token.
        token: LeaseToken,
        /// Another wish than at its beginning.
        restart_model: Option<bool>,
    },
    /// It ends, whoever holds it, if all that is named fits.
    Force {
        /// Its token.
        token: Option<LeaseToken>,
        /// Its owner.
        owner: Option<String>,
        /// It has lived for at least so long.
        max_age: Option<Duration>,
        /// Another wish than at its beginning.
        restart_model: Option<bool>,
    },
}

/// What came of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseOutcome {
    /// It lives on.
    Renewed(Lease),
    /// It has ended.
    Released,
    /// There was none.
    Idle,
    /// That is not its token, or there is no lease.
    WrongToken,
    /// It is not the one that was meant: this owner holds it.
    Other {
        /// Who.
        owner: String,
    },
}

/// Why a lease ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseEnd {
    /// Its holder has given it back.
    Released,
    /// Somebody has taken it away.
    Forced,
    /// It was not renewed in time.
    Expired,
}

impl LeaseEnd {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            LeaseEnd::Released => "released",
            LeaseEnd::Forced => "forced",
            LeaseEnd::Expired => "expired",
        }
    }
}

/// What is to be done about leases.
#[derive(Debug, Clone, PartialEq)]
pub enum LeaseEffect {
    /// The GPU is free for it: it is to be written down, then told.
    Granted(Ticket, Lease),
    /// No.
    Refused(Ticket, Refusal),
    /// It is over: what was written down goes.
    Ended(Lease, LeaseEnd),
    /// Somebody wants what was resident before back: name it anew, for its entry may have changed.
    Restore(ModelName),
}
