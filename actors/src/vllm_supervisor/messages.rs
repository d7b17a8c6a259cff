//! What the supervisor is told and what it answers.

use std::sync::Arc;

use actix::Message;
use chat_proxy_core::engine::Launch;
use chat_proxy_core::ids::Generation;
use serde::Serialize;

/// What the arbiter wants. The answer is a report (`EngineChanged`), now and at every change.
#[derive(Message, Debug, Clone)]
#[rtype(result = "()")]
pub enum SetGoal {
    /// This engine; a new start has a new generation. What runs before is stopped first.
    Run(Generation, Arc<Launch>),
    /// No engine; names the one that was meant, for the log.
    Stop(Generation),
}

/// Report now, changed or not.
#[derive(Message, Debug, Clone, Copy)]
#[rtype(result = "()")]
pub struct Announce;

/// Stop the engine and start none any more; answered when nothing runs, or cannot be ended.
#[derive(Message, Debug, Clone, Copy)]
#[rtype(result = "Ended")]
pub struct ShutDown;

/// What a shutdown left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// Nothing.
    Clean,
    /// Something that cannot be ended.
    Left(String),
}

/// No patience any more: what is being stopped is killed.
#[derive(Message, Debug, Clone, Copy)]
#[rtype(result = "()")]
pub struct Hurry;

/// The engine for people.
#[derive(Message, Debug, Clone, Copy)]
#[rtype(result = "EngineStatus")]
pub struct GetEngine;

/// The engine for people.
#[derive(Debug, Clone, Serialize, actix::MessageResponse)]
pub struct EngineStatus {
    /// `stopped`, `backoff`, `starting`, `ready`, `stopping`, `failed` or `stuck`.
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
    /// The engine's log.
    pub log: Option<String>,
}
