//! Owns the faults that can be ordered, and how a request's order joins the engine's defaults.
//!
//! Must never act on them: the wire, the stream driver and the routes do.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How a connection is cut.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    /// An orderly end of the byte stream (FIN).
    #[default]
    Fin,
    /// A reset (RST).
    Rst,
}

/// Where and how a connection is cut.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cut {
    /// After exactly so many bytes of the raw response, its head included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_byte: Option<u64>,
    /// After exactly so many events of a stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_events: Option<u64>,
    /// By FIN unless said otherwise.
    #[serde(default)]
    pub how: How,
}

/// How a whole answer is framed when it has no `content-length`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Framing {
    /// In HTTP chunks.
    Chunked,
    /// By the end of the connection.
    Close,
}

/// The name of the field that carries what a model thought.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReasoningField {
    /// `reasoning`, as vLLM has it now.
    #[default]
    Reasoning,
    /// `reasoning_content`, as vLLM had it and others still do.
    ReasoningContent,
}

impl ReasoningField {
    /// The JSON key.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Reasoning => "reasoning",
            Self::ReasoningContent => "reasoning_content",
        }
    }
}

macro_rules! faults {
    ($($(#[$meta:meta])* $name:ident: $kind:ty,)*) => {
        /// What goes differently from a healthy engine, and how much is generated how fast.
        ///
        /// A request orders it in the field `sim` of its JSON body; an engine's defaults are
        /// in [`Options::fault`](crate::Options::fault). What a request says wins, field by field.
        #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct Fault {
            $($(#[$meta])* #[serde(default, skip_serializing_if = "Option::is_none")]
            pub $name: Option<$kind>,)*
        }

        impl Fault {
            /// These faults, and for what they leave open those of `defaults`.
            #[must_use]
            pub fn or(self, defaults: &Self) -> Self {
                Self { $($name: self.$name.or_else(|| defaults.$name.clone()),)* }
            }
        }
    };
}

faults! {
    /// Generate so many tokens, `tok0 tok1 …`, whatever was asked.
    tokens: u64,
    /// Each token's text has so many bytes (with `tokens`).
    token_bytes: u64,
    /// Wait before the head of the answer.
    delay_head_ms: u64,
    /// Wait in a stream between its head and its first event.
    #[serde(alias = "silent_before_role")]
    silent_before_role_ms: u64,
    /// Wait in a stream between the role's event and the first token.
    delay_first_ms: u64,
    /// Wait before each further token; an answer that is not streamed waits the sum.
    delay_token_ms: u64,
    /// Wait before an answer that is not streamed.
    delay_unary_ms: u64,
    /// So many events in one HTTP chunk and one write; 1 by default.
    events_per_write: u64,
    /// Cut every write in pieces of so many bytes, each its own HTTP chunk and write.
    split_writes: usize,
    /// Answer with this status and nothing else.
    status: u16,
    /// The body that goes with `status`, as it is.
    body: String,
    /// The content type that goes with `status`, or that of a stream.
    content_type: String,
    /// Answer 307 with this location.
    redirect: String,
    /// Cut the connection.
    cut: Cut,
    /// Fall silent after so many events, until the client goes.
    hang_after_events: u64,
    /// Send nothing at all, until the client goes.
    hang_before_head: bool,
    /// After so many events: an error inside the stream, `[DONE]`, and a clean end.
    error_after_events: u64,
    /// After so many events: one whose data is no JSON; the stream goes on behind it.
    malformed_after_events: u64,
    /// After so many events: a clean HTTP end, as if there were no more to say.
    end_after_events: u64,
    /// Leave out `[DONE]`.
    no_done: bool,
    /// Leave out all that says how the stream finished, and `[DONE]`; the HTTP end is clean.
    no_finish: bool,
    /// Send `[DONE]` twice.
    extra_done: bool,
    /// Comment lines between the events.
    comments: bool,
    /// Lines of a stream end in CR LF.
    crlf: bool,
    /// Status 200, an event stream, and nothing in it.
    empty_stream: bool,
    /// Send the chunk with the usage even if nobody asked for it.
    usage_always: bool,
    /// How an answer that is not streamed is framed instead of by `content-length`.
    no_content_length: Framing,
    /// The field that carries what a model thought.
    reasoning_field: ReasoningField,
    /// Ollama: the text of the error that an answer breaks off with.
    error_text: String,
    /// Ollama: leave out why an answer ended.
    no_done_reason: bool,
    /// Ollama: leave out the counts of tokens.
    no_counts: bool,
    /// Ollama: the line that ends a stream also has the last piece of the answer.
    full_done: bool,
    /// Ollama: where a tool is called, call so many, each in a line of its own.
    calls: u64,
    /// Ollama: a load that this request begins takes so long.
    load_ms: u64,
    /// Ollama: a load that this request begins fails with this text; empty is Ollama's own.
    load_error: String,
    /// Ollama: a load that this request begins does not end before it is released.
    load_hangs: bool,
    /// Ollama: an order to unload is answered and not carried out.
    unload_never: bool,
    /// Ollama: the memory of a model that is ordered to unload is not free before it is released.
    unload_hangs: bool,
}

/// What Ollama says when its runner dies under an answer.
const RUNNER_DIED: &str = "an error was encountered while running the model: CUDA error: an \
    illegal memory access was encountered";

impl Fault {
    /// The text of the error that an answer of an Ollama breaks off with.
    pub(crate) fn error_text(&self) -> &str {
        self.error_text.as_deref().unwrap_or(RUNNER_DIED)
    }

    /// Reads the order of faults out of a request's body.
    pub(crate) fn from_request(body: &Value, defaults: &Self) -> Result<Self, String> {
        match body.get("sim") {
            None | Some(Value::Null) => Ok(defaults.clone()),
            Some(order) => {
                Self::deserialize(order).map(|f| f.or(defaults)).map_err(|e| e.to_string())
            }
        }
    }
}
