//! What the supervisor is told and what it answers.

use std::sync::Arc;

use actix::Message;
use chat_proxy_core::engine::{Broken, Cause, Launch};
use chat_proxy_core::ids::{Generation, ModelName};
use serde::Serialize;

use crate::clock;

/// What the arbiter wants. The answer is a report (`EngineChanged`), now and at every change.
#[derive(Message, Debug, Clone)]
#[rtype(result = "()")]
pub enum SetGoal {
    /// This engine; a new start has a new generation. What runs before is stopped first.
    Run(Generation, Arc<Launch>),
    /// No engine; names the one that was meant, for the log.
    Stop(Generation),
    /// Somebody asked for this model by hand: its failures do not count any more.
    Pardon(ModelName),
}

/// Report now, changed or not.
#[derive(Message, Debug, Clone, Copy)]
#[rtype(result = "()")]
pub struct Announce;

/// Stop the engine and start none any more; answered when nothing runs, or cannot be ended.
#[derive(Message, Debug, Clone, Copy)]
#[rtype(result = "Ended")]
pub struct ShutDown {
    /// Leave an engine that loads or serves to the next daemon.
    pub keep: bool,
}

/// What a shutdown left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// Nothing.
    Clean,
    /// This model's engine, with its leader's pid, on purpose.
    Kept(ModelName, i32),
    /// Something that cannot be ended.
    Left(String),
}

/// No patience any more: what is being stopped is killed.
#[derive(Message, Debug, Clone, Copy)]
#[rtype(result = "()")]
pub struct Hurry;

/// What that start of an engine died of; waits for its end to be known. `None`: it did not fail.
/// Who asks has a bound of its own.
#[derive(Message, Debug, Clone, Copy)]
#[rtype(result = "Option<Cause>")]
pub struct Autopsy(pub Generation);

/// The engine for people.
#[derive(Message, Debug, Clone, Copy)]
#[rtype(result = "EngineStatus")]
pub struct GetEngine;

/// The engine for people.
#[derive(Debug, Clone, Serialize, actix::MessageResponse)]
pub struct EngineStatus {
    /// `unknown`, `stopped`, `backoff`, `starting`, `ready`, `stopping`, `failed` or `stuck`.
    pub state: &'static str,
    /// The logical name of what runs, or failed.
    pub model: Option<String>,
    /// The leader's pid.
    pub pid: Option<i32>,
    /// The one port.
    pub port: u16,
    /// When the process was started, Unix seconds.
    pub since: Option<f64>,
    /// Starts that followed a failure.
    pub restarts: u64,
    /// The last failure.
    pub last_error: Option<String>,
    /// Models whose breakers have opened.
    pub in_crash_loop: Vec<InCrashLoop>,
    /// The engine's log.
    pub log: Option<String>,
}

/// Its bounds are others.
#[derive(Message, Debug, Clone, Copy)]
#[rtype(result = "()")]
pub struct BoundsChanged;

/// A model that failed again and again.
#[derive(Debug, Clone, Serialize)]
pub struct InCrashLoop {
    /// Its logical name.
    pub model: String,
    /// Failures in a row.
    pub failures: u32,
    /// The last one.
    pub last_error: String,
    /// Requests start it again after so many seconds; 0: the next one does.
    pub retry_in_s: f64,
}

impl InCrashLoop {
    pub(super) fn of(broken: &Broken) -> Self {
        InCrashLoop {
            model: broken.launch.model.to_string(),
            failures: broken.failures,
            last_error: broken.cause.in_full(),
            retry_in_s: broken.until.saturating_sub(clock::now()).as_secs_f64(),
        }
    }
}
