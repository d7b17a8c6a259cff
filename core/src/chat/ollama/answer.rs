//! OpenAI's shapes of an answer, and the answer in one piece.
//!
//! Owns: `chat.completion` and `chat.completion.chunk` as JSON. Must never do: keep state; what an
//! earlier line said comes in as an argument.

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use super::arguments;
use super::line::{self, End, Line};
use crate::chat::unary::error_message;
use crate::error::{ApiError, Code};

/// One event of a stream.
#[derive(Serialize)]
pub(super) struct Chunk<'a> {
    pub(super) id: &'a str,
    pub(super) object: &'static str,
    pub(super) created: u64,
    pub(super) model: &'a str,
    pub(super) choices: Vec<ChunkChoice<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) usage: Option<Usage>,
}

/// The one choice of an event.
#[derive(Serialize)]
pub(super) struct ChunkChoice<'a> {
    pub(super) index: u32,
    pub(super) delta: Said<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) logprobs: Option<Logprobs<'a>>,
    pub(super) finish_reason: Option<&'a str>,
}

impl<'a> ChunkChoice<'a> {
    /// A choice that says just this.
    pub(super) fn of(delta: Said<'a>) -> Self {
        ChunkChoice { index: 0, delta, logprobs: None, finish_reason: None }
    }
}

/// What is said: a delta of a stream.
#[derive(Default, Serialize)]
pub(super) struct Said<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reasoning: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reasoning_content: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) tool_calls: Vec<ToolCall<'a>>,
}

/// A tool call; its index stands in streams only.
#[derive(Serialize)]
pub(super) struct ToolCall<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
    id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    function: Function<'a>,
}

#[derive(Serialize)]
struct Function<'a> {
    name: &'a str,
    arguments: String,
}

/// Token counts.
#[derive(Serialize)]
pub(super) struct Usage {
    #[serde(rename = "prompt_tokens")]
    prompt: u64,
    #[serde(rename = "completion_tokens")]
    completion: u64,
    #[serde(rename = "total_tokens")]
    total: u64,
}

/// The log probabilities of a choice.
#[derive(Serialize)]
pub(super) struct Logprobs<'a> {
    content: Vec<Likelihood<'a>>,
}

/// OpenAI's SDKs want every field of these.
#[derive(Serialize)]
struct Likelihood<'a> {
    token: &'a RawValue,
    logprob: &'a RawValue,
    bytes: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_logprobs: Option<Vec<Likelihood<'a>>>,
}

#[derive(Serialize)]
struct Completion<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: [Choice<'a>; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
}

#[derive(Serialize)]
struct Choice<'a> {
    index: u32,
    message: Message<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<Logprobs<'a>>,
    finish_reason: &'a str,
}

/// As [`Said`], but the content is always there; `null` beside tool calls without a text.
#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall<'a>>,
}

/// Translates the answer to a request that did not stream. `id`: the completion's; `created`: unix
/// seconds, where Ollama does not say them. Errors: the backend's own, or an answer that is not
/// whole.
pub fn whole_answer(body: &[u8], id: &str, created: u64) -> Result<Bytes, ApiError> {
    let line = Line::read(body)?;
    if let Some(error) = line.error {
        return Err(backend_error(error));
    }
    let reason = match line.end() {
        End::NotYet | End::Cut => return Err(cut()),
        End::Reason(reason) => finish_reason(reason, !line.calls().is_empty()),
    };
    let said = said(&line, id, None);
    let content = said.content.or(said.tool_calls.is_empty().then_some(""));
    let message = Message {
        role: "assistant",
        content,
        reasoning: said.reasoning,
        reasoning_content: said.reasoning_content,
        tool_calls: said.tool_calls,
    };
    let completion = Completion {
        id,
        object: "chat.completion",
        created: line.created().unwrap_or(created),
        model: line.model.as_deref().unwrap_or_default(),
        choices: [Choice { index: 0, message, logprobs: logprobs(&line), finish_reason: reason }],
        usage: usage(&line),
    };
    let body = serde_json::to_vec(&completion)
        .map_err(|e| ApiError::new(Code::Internal, format!("cannot write the answer: {e}")))?;
    Ok(Bytes::from(body))
}

/// What a line says. `first_call`: the index of its first tool call in a stream.
pub(super) fn said<'a>(line: &'a Line<'_>, id: &str, first_call: Option<usize>) -> Said<'a> {
    let message = line.message.as_ref();
    let thinking = message.and_then(line::Message::thinking);
    let calls = line.calls().iter().enumerate();
    Said {
        role: None,
        content: message.and_then(line::Message::content),
        // Engines and clients disagree on the name.
        reasoning: thinking,
        reasoning_content: thinking,
        tool_calls: calls.map(|(n, call)| tool_call(call, id, first_call, n)).collect(),
    }
}

fn tool_call<'a>(
    call: &'a line::ToolCall<'_>,
    id: &str,
    first: Option<usize>,
    n: usize,
) -> ToolCall<'a> {
    let place = first.unwrap_or(0) + n;
    let own = call.id.clone().filter(|id| !id.is_empty());
    let suffix = id.strip_prefix("chatcmpl-").unwrap_or(id);
    ToolCall {
        index: first.map(|_| place),
        id: own.unwrap_or_else(|| format!("call_{suffix}_{place}")),
        kind: "function",
        function: Function {
            name: &call.function.name,
            arguments: arguments::to_text(call.function.arguments),
        },
    }
}

/// OpenAI's word for why an answer ended.
pub(super) fn finish_reason(reason: &str, any_calls: bool) -> &str {
    match reason {
        "stop" if any_calls => "tool_calls",
        "load" | "unload" => "stop",
        other => other,
    }
}

/// The token counts of a last line.
pub(super) fn usage(line: &Line<'_>) -> Option<Usage> {
    let (prompt, completion) = line.counts()?;
    Some(Usage { prompt, completion, total: prompt.saturating_add(completion) })
}

/// The log probabilities of a line.
pub(super) fn logprobs<'a>(line: &'a Line<'_>) -> Option<Logprobs<'a>> {
    let list = line.logprobs();
    (!list.is_empty()).then(|| Logprobs { content: list.iter().map(with_top).collect() })
}

fn with_top<'a>(of: &'a line::Likelihood<'_>) -> Likelihood<'a> {
    let top = of.top_logprobs.as_deref().unwrap_or_default();
    Likelihood { top_logprobs: Some(top.iter().map(alone).collect()), ..alone(of) }
}

fn alone<'a>(of: &'a line::Likelihood<'_>) -> Likelihood<'a> {
    Likelihood { token: of.token, logprob: of.logprob, bytes: of.bytes, top_logprobs: None }
}

/// What Ollama says went wrong.
pub(super) fn backend_error(error: &RawValue) -> ApiError {
    ApiError::new(Code::BackendError, error_message(error.get().as_bytes())).quoting()
}

/// An answer whose end is missing.
pub(super) fn cut() -> ApiError {
    ApiError::new(
        Code::BackendUnavailable,
        "Ollama's answer broke off: the model's runner ended before the answer was complete",
    )
}
