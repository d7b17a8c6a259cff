//! What the autostart actor is told and what it answers.

use std::collections::BTreeMap;

use actix::Message;
use chat_proxy_core::ApiError;
use chat_proxy_core::registry::Endpoint;
use serde::Serialize;
use tokio::sync::oneshot;

/// Start a service, unless it is ready, and wait until it is. All who ask for one service get one
/// start. `reply` gets one answer; if it closes without one, the actor died.
#[derive(Message)]
#[rtype(result = "()")]
pub struct EnsureStarted {
    /// Which.
    pub service: String,
    /// The backend that is to answer then. It tells that the service is ready where that has no other
    /// sign, and the start is for this one.
    pub probe: Option<Endpoint>,
    /// A request needs it, and not a person by hand: that is refused where autostart is off.
    pub by_request: bool,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Result<(), ApiError>>,
}

/// Stop a service that we started, and prove it gone.
#[derive(Message)]
#[rtype(result = "()")]
pub struct StopService {
    /// Which.
    pub service: String,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Result<(), ApiError>>,
}

/// Stop all services that we started; answers when they are gone.
#[derive(Message, Debug, Clone, Copy)]
#[rtype(result = "()")]
pub struct StopAll {
    /// They run on, for the next daemon.
    pub keep: bool,
}

/// Whatever ends is killed at once.
#[derive(Message, Debug, Clone, Copy)]
#[rtype(result = "()")]
pub struct Hurry;

/// How every service is.
#[derive(Message, Debug, Clone, Copy)]
#[rtype(result = "AutostartStatus")]
pub struct GetServices;

/// `GET /v1/autostart/status`.
#[derive(Debug, Clone, Serialize, actix::MessageResponse)]
pub struct AutostartStatus {
    /// Requests start services.
    pub enabled: bool,
    /// Each by its name.
    pub services: BTreeMap<String, ServiceStatus>,
}

/// One service.
#[derive(Debug, Clone, Serialize)]
pub struct ServiceStatus {
    /// `shell`, `vllm` or `ollama`.
    pub adapter: &'static str,
    /// `stopped`, `starting`, `ready`, `stopping`, `failed`.
    pub state: &'static str,
    /// Its process.
    pub pid: Option<i32>,
    /// Since when it is in this state (Unix seconds).
    pub since: Option<f64>,
    /// Starts so far.
    pub starts: u64,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// Its log.
    pub log: Option<String>,
    /// Entries that it serves by name.
    pub models: Vec<String>,
    /// Backends that it is mapped to.
    pub backends: Vec<String>,
}
