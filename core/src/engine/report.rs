//! What others are told of the engine: the arbiter above all.
//!
//! Owns: the shape. A report is the whole truth at its moment and not a change, so that one that
//! was lost, or comes twice, does no harm.

use std::sync::Arc;
use std::time::Duration;

use super::cause::Cause;
use super::launch::Launch;
use super::lifecycle::Moment;
use crate::ids::Generation;

/// The engine at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineReport {
    /// What holds the port, or failed to; `None`: nothing runs.
    pub held: Option<Held>,
    /// The newest start that the supervisor has heard of.
    pub newest: Generation,
    /// Models in a crash loop, by name.
    pub broken: Vec<Broken>,
}

/// A model whose breaker has opened: until then nothing is started for it; then one start is let
/// through, and the breaker stays in this list until that has served for long.
#[derive(Debug, Clone, PartialEq)]
pub struct Broken {
    /// What failed; a changed entry has another launch, which is not broken.
    pub launch: Arc<Launch>,
    /// Failures in a row.
    pub failures: u32,
    /// The last one.
    pub cause: Cause,
    /// When the next start is let through.
    pub until: Moment,
}

impl Broken {
    /// Why a start that is asked for now is refused.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // at most 900 s
    pub fn cause(&self, now: Moment) -> Cause {
        Cause::CrashLoop {
            failures: self.failures,
            // Whole seconds: it is read by people.
            left: Duration::from_secs(self.until.saturating_sub(now).as_secs_f64().ceil() as u64),
            last: Box::new(self.cause.clone()),
        }
    }
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
