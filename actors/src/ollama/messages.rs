//! What the Ollama actor is told and what it answers.

use std::sync::Arc;

use actix::Message;
use chat_proxy_core::ApiError;
use chat_proxy_core::ids::Generation;
use chat_proxy_core::registry::OllamaModel;
use serde::Serialize;
use tokio::sync::oneshot;

/// Unload everything on this GPU and tell the arbiter when it is gone. Whoever asks has seen to it
/// that no request of ours is at Ollama.
#[derive(Message, Debug, Clone, Copy, PartialEq, Eq)]
#[rtype(result = "()")]
pub struct Vacate(pub Generation);

/// Load a model, unless it is there. The one who asks holds a permit where the model shares the
/// GPU, until the load is done. `reply` gets one answer; if it closes without one, the actor died.
#[derive(Message)]
#[rtype(result = "()")]
pub struct EnsureLoaded {
    /// Which.
    pub model: Arc<OllamaModel>,
    /// Of the request that asks; what the load says, it says there.
    pub span: tracing::Span,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Result<(), LoadFailure>>,
}

/// Why a model was not loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadFailure {
    /// What a client is told.
    pub error: ApiError,
    /// Nobody answers there: a service that can be started may help.
    pub unreachable: bool,
}

/// Unload one model, or all; answers the names of those that went. By hand.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Unload {
    /// Which; `None`: all of every Ollama that shares the GPU.
    pub model: Option<Arc<OllamaModel>>,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Result<Vec<String>, ApiError>>,
}

/// How every Ollama is.
#[derive(Message, Debug, Clone, Copy)]
#[rtype(result = "Vec<OllamaStatus>")]
pub struct GetOllama;

/// One Ollama.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OllamaStatus {
    /// Its address.
    pub base: String,
    /// Its port.
    pub port: Option<u16>,
    /// It takes turns at the GPU with vLLM.
    pub shares_gpu: bool,
    /// `unknown`, `ready` or `unreachable`.
    pub state: &'static str,
    /// What it has loaded.
    pub loaded: Vec<String>,
    /// Models that it has.
    pub installed: usize,
    /// What went wrong last.
    pub last_error: Option<String>,
}
