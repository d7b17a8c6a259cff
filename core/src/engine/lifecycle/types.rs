//! What the lifecycle is told, what it says, and its states.
//!
//! Owns: the shapes: each state carries exactly its own data. Must never do: decide.

use std::sync::Arc;
use std::time::Duration;

use super::record::BreakerRules;
use crate::engine::cause::Cause;
use crate::engine::launch::Launch;
use crate::engine::state_file::Process;
use crate::ids::{Generation, ModelName};

/// A moment on the daemon's monotonic clock, counted from any fixed point.
pub type Moment = Duration;

/// The bounds of the ways down.
#[derive(Debug, Clone)]
pub struct LifecycleRules {
    /// From SIGTERM to SIGKILL for an engine that serves.
    pub stop_timeout: Duration,
    /// The same while it loads: real vLLM ignores SIGTERM then.
    pub loading_stop_grace: Duration,
    /// From SIGKILL until it is given up as stuck.
    pub kill_grace: Duration,
    /// First pause after a failure; it doubles up to a minute.
    pub backoff: Duration,
    /// When failures are a crash loop.
    pub breaker: BreakerRules,
    /// An adopted engine that had been ready must answer within this.
    pub adopt_timeout: Duration,
}

/// What is wanted.
#[derive(Debug, Clone, PartialEq)]
pub enum Goal {
    /// No engine.
    Down,
    /// This one; a new start has a new, larger generation.
    Run(Generation, Arc<Launch>),
}

/// A living engine.
#[derive(Debug, Clone, PartialEq)]
pub struct Engine {
    /// Which start it is.
    pub generation: Generation,
    /// What was started.
    pub launch: Arc<Launch>,
    /// The leader of its process group.
    pub process: Process,
    /// When it was started.
    pub spawned: Moment,
}

/// How far a stop has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// SIGTERM was sent; SIGKILL comes at this moment.
    Asked(Moment),
    /// SIGKILL was sent; it counts as stuck from this moment.
    Killed(Moment),
}

/// Why an engine goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// It was told to.
    Wanted,
    /// It failed.
    Failed(Cause),
}

/// Each state with exactly its own data.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// Nothing runs.
    Stopped,
    /// The next start waits out its pause.
    Backoff(Generation, Arc<Launch>, Moment),
    /// The port is looked at before the start.
    Checking(Generation, Arc<Launch>),
    /// The process is being made.
    Spawning(Generation, Arc<Launch>),
    /// It loads; the moment is its deadline.
    Starting(Engine, Moment),
    /// It serves since this moment.
    Ready(Engine, Moment),
    /// It was told to go.
    Stopping(Engine, Stage, Why),
    /// Its leader is gone; what it left is being ended and proved gone.
    Sweeping(Engine, Why),
    /// Nothing runs, and the last start or engine failed.
    Failed(Generation, Arc<Launch>, Cause),
    /// Something of it cannot be ended: nothing is started.
    Stuck(Engine, Cause),
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Something else is wanted, or the same again.
    Goal(Goal),
    /// The port is free.
    PortFree(Generation),
    /// Somebody has it.
    PortTaken(Generation, String),
    /// The process runs.
    Spawned(Generation, Process),
    /// It could not be made.
    NotSpawned(Generation, String),
    /// It answers, under the right name, and the socket is its own.
    Healthy(Generation),
    /// It has been loading without a word for this long.
    Silent(Generation, Duration),
    /// It was ready and does not answer its health probes any more.
    Unhealthy(Generation, Unhealthy),
    /// Its leader has ended.
    Exited(Generation, Exit),
    /// Nothing of it lives, and the port is free.
    Swept(Generation),
    /// Something of it remains.
    NotSwept(Generation, String),
    /// Somebody asked for this model by hand: what it did before does not count.
    Pardon(ModelName),
    /// No patience any more: what is being stopped is killed now.
    Hurry,
    /// An engine of an earlier daemon, or an earlier actor, was found.
    Found(Found),
    /// Time has passed.
    Tick,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// Exit code or signal, in words.
    pub status: String,
    /// The telling line of its log.
    pub telling: Option<String>,
}

/// What its probes found of an engine that does not serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unhealthy {
    /// What they met, in words.
    pub what: String,
    /// The telling line of its log.
    pub telling: Option<String>,
}

/// An engine that was found at the start.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The engine; `spawned` may lie before the clock's zero, and is zero then.
    pub engine: Engine,
    /// Its leader lives.
    pub alive: bool,
    /// The registry still wants it as it is.
    pub wanted: bool,
    /// It had been ready.
    pub was_ready: bool,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// See whether the port is free; answer `PortFree` or `PortTaken`.
    CheckPort(Generation, u16),
    /// Start it; answer `Spawned` or `NotSpawned`.
    Spawn(Generation, Arc<Launch>),
    /// Remember it on disk, hear of its end, and (until it is ready) ask whether it is healthy.
    Watch(Engine),
    /// It is ready: remember that.
    Settle(Engine),
    /// SIGTERM to the leader.
    Terminate(Engine),
    /// SIGKILL to the group.
    Kill(Engine),
    /// End what is left, prove it gone, see the port free; answer `Swept` or `NotSwept`.
    Sweep(Engine),
    /// Nothing of it is left: forget it on disk.
    Forget(Generation),
}
