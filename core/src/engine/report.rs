//! What others are told of the engine: the arbiter above all.
//!
//! Owns: the shape. A report is the whole truth at its moment and not a change, so that one that
//! was lost, or comes twice, does no harm.

use std::sync::Arc;

use super::cause::Cause;
use super::launch::Launch;
use crate::ids::Generation;

/// The engine at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineReport {
    /// What holds the port, or failed to; `None`: nothing runs.
    pub held: Option<Held>,
    /// The newest start that the supervisor has heard of.
    pub newest: Generation,
}

/// One start of an engine and how far it has come.
#[derive(Debug, Clone, PartialEq)]
pub struct Held {
    /// Which start.
    pub generation: Generation,
    /// Of what.
    pub launch: Arc<Launch>,
    /// How far.
    pub phase: Phase,
}

/// How far a start has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// It waits out the pause after a failure.
    BackingOff,
    /// It loads.
    Starting,
    /// It serves.
    Ready,
    /// It goes, or what it left is being swept.
    Leaving,
    /// It is gone; nothing runs.
    Failed(Cause),
    /// It cannot be ended; nothing can be started.
    Stuck(Cause),
}

impl Phase {
    /// The word for it, in lists and metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Phase::BackingOff => "backoff",
            Phase::Starting => "starting",
            Phase::Ready => "ready",
            Phase::Leaving => "stopping",
            Phase::Failed(_) => "failed",
            Phase::Stuck(_) => "stuck",
        }
    }
}
