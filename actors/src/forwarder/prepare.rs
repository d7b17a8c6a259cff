//! From a client's body to a request that can be sent.
//!
//! Owns: reading the request, finding its model, and the order in which things can be refused
//! (SPEC 5: all that can refuse does so before anything costs). Must never do: wait.

use bytes::Bytes;
use chat_proxy_core::chat::request::ChatRequest;
use chat_proxy_core::registry::Placement;
use chat_proxy_core::{ApiError, Code};

use super::Shared;
use super::cargo::{Cargo, Target};
use super::messages::RequestMeta;
use super::upstream::Upstream;
use crate::transcript::Transcript;

/// What is known of a request before it goes upstream.
pub(super) struct Prepared {
    /// The client wants a stream.
    pub(super) stream: bool,
    /// The client asked for the usage chunk itself.
    pub(super) wants_usage: bool,
    /// The logical name.
    pub(super) model: String,
    /// What its backend calls it, by the registry.
    pub(super) served_id: String,
    /// Who answers for it.
    pub(super) placement: Placement,
}

/// Reads the request and finds its model; the second part is what is to be sent.
pub(super) fn prepare(
    shared: &Shared,
    body: Bytes,
    transcript: &mut Transcript,
) -> Result<(Prepared, ChatRequest), ApiError> {
    let request = ChatRequest::parse(body)?;
    transcript.record().stream = request.stream();
    let asked = request.model().or(shared.settings.default_model.as_deref());
    let asked = asked.ok_or_else(|| {
        ApiError::invalid("model", "`model` is missing")
            .hint("name a model (GET /v1/models lists them), or set default_model")
    })?;
    transcript.record().model_requested = Some(asked.chars().take(200).collect());
    keep_prompt(&request, transcript);
    let view = shared.registry.load();
    let (entry, placement) = view.snapshot.resolve(asked)?;
    let record = transcript.record();
    record.model_logical = Some(entry.name.clone());
    record.backend = Some(entry.backend.clone());
    record.model_backend_id = Some(entry.served_id().to_owned());
    transcript.priced(entry.pricing);
    let prepared = Prepared {
        stream: request.stream(),
        wants_usage: request.wants_usage(),
        model: entry.name.clone(),
        served_id: entry.served_id().to_owned(),
        placement: placement.clone(),
    };
    Ok((prepared, request))
}

fn keep_prompt(request: &ChatRequest, transcript: &mut Transcript) {
    if transcript.keeps_prompts() {
        let body: Option<serde_json::Value> = serde_json::from_slice(request.body()).ok();
        transcript.record().messages =
            body.and_then(|mut body| body.get_mut("messages").map(serde_json::Value::take));
    }
}

/// This version does not speak Ollama's own protocol.
pub(super) fn no_ollama(model: &str) -> ApiError {
    let message = format!(
        "{model} is an Ollama model, and this version does not speak Ollama's protocol yet"
    );
    ApiError::new(Code::BackendUnavailable, message)
        .hint("use backend \"openai\" with backend_config.base_url = \"http://127.0.0.1:11434/v1\"")
}

/// Sends the request. The client's body shall not stay in memory for as long as an answer streams:
/// it goes when the answer begins.
pub(super) fn dispatch(
    shared: &Shared,
    prepared: &Prepared,
    target: &Target<'_>,
    meta: &RequestMeta,
    cargo: Cargo,
) -> Result<Upstream, ApiError> {
    let client = shared.clients.get(target.endpoint).map_err(|error| {
        // The path is the operator's business, not the client's.
        tracing::error!(%error, model = prepared.model, "a backend cannot be trusted");
        ApiError::new(Code::BackendUnavailable, "the backend's ca_file cannot be used")
            .hint("the proxy's own log says why")
    })?;
    Upstream::send(&client, target, "/chat/completions", prepared.stream, meta, cargo)
}
