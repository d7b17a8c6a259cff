//! From a client's body to a request that can be sent.
//!
//! Owns: reading the request, finding its model, and the order in which things can be refused
//! (SPEC 5: all that can refuse does so before anything costs). Must never do: wait.

use bytes::Bytes;
use chat_proxy_core::chat::request::ChatRequest;
use chat_proxy_core::registry::{Endpoint, Entry, Placement};
use chat_proxy_core::{ApiError, Code};

use super::Shared;
use super::messages::RequestMeta;
use super::upstream::Upstream;
use crate::transcript::Transcript;

/// A request that is ready to go upstream.
pub(super) struct Prepared {
    pub(super) request: ChatRequest,
    pub(super) model: String,
    pub(super) endpoint: Endpoint,
    served_id: String,
}

/// Reads the request and finds its model.
pub(super) fn prepare(
    shared: &Shared,
    body: Bytes,
    transcript: &mut Transcript,
) -> Result<Prepared, ApiError> {
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
    let endpoint = external(entry, placement)?.clone();
    let (model, served_id) = (entry.name.clone(), entry.served_id().to_owned());
    Ok(Prepared { request, model, endpoint, served_id })
}

fn keep_prompt(request: &ChatRequest, transcript: &mut Transcript) {
    if transcript.keeps_prompts() {
        let body: Option<serde_json::Value> = serde_json::from_slice(request.body()).ok();
        transcript.record().messages =
            body.and_then(|mut body| body.get_mut("messages").map(serde_json::Value::take));
    }
}

/// This version relays to servers that run already; what it would have to start it names.
fn external<'a>(entry: &Entry, placement: &'a Placement) -> Result<&'a Endpoint, ApiError> {
    let unavailable = |message: String, hint: &str| {
        Err(ApiError::new(Code::BackendUnavailable, message).hint(hint))
    };
    match placement {
        Placement::External(endpoint) => Ok(endpoint),
        Placement::SinglePort => unavailable(
            format!("{} is a vLLM model, and this version does not start engines yet", entry.name),
            "start vLLM yourself and give the entry a backend_config.base_url, or set vllm_single_port = false",
        ),
        Placement::Ollama => unavailable(
            format!(
                "{} is an Ollama model, and this version does not speak Ollama's protocol yet",
                entry.name
            ),
            "use backend \"openai\" with backend_config.base_url = \"http://127.0.0.1:11434/v1\"",
        ),
    }
}

pub(super) fn dispatch(
    shared: &Shared,
    prepared: &Prepared,
    meta: &RequestMeta,
) -> Result<Upstream, ApiError> {
    let endpoint = &prepared.endpoint;
    let client = shared
        .clients
        .get(endpoint)
        .map_err(|e| ApiError::new(Code::BackendUnavailable, e.to_string()))?;
    let body = prepared.request.upstream_body(&prepared.served_id);
    Upstream::send(&client, endpoint, "/chat/completions", prepared.request.stream(), meta, body)
}
