//! One line of a native answer.
//!
//! Owns: reading it, and what is wrong with one that cannot be read. Must never do: change a number
//! or a tool's arguments; they stay the text that came.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::error::{ApiError, Code};

/// As much of a bad line is shown, in characters.
const MAX_SHOWN: usize = 200;

/// What is wrong with an answer of Ollama's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Nonsense {
    /// It is not JSON, or it was cut.
    #[error("Ollama's answer is not JSON: {shown}")]
    NotJson {
        /// How it begins.
        shown: String,
    },
    /// It is JSON, but no object.
    #[error("Ollama's answer is no JSON object: {shown}")]
    NotAnObject {
        /// How it begins.
        shown: String,
    },
    /// A field is missing or is not what it should be.
    #[error("Ollama's answer is not understood ({why}): {shown}")]
    Shape {
        /// What does not fit.
        why: String,
        /// How it begins.
        shown: String,
    },
    /// The line did not end in time.
    #[error("a line of Ollama's answer is larger than {} bytes", crate::chat::sse::MAX_EVENT_BYTES)]
    TooLong,
}

impl From<Nonsense> for ApiError {
    fn from(nonsense: Nonsense) -> Self {
        ApiError::new(Code::BackendUnavailable, nonsense.to_string()).quoting()
    }
}

/// What a line says. All of a whole answer is one such line.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Line<'a> {
    pub(super) model: Option<String>,
    created_at: Option<String>,
    pub(super) message: Option<Message<'a>>,
    done: Option<bool>,
    done_reason: Option<String>,
    prompt_eval_count: Option<u64>,
    eval_count: Option<u64>,
    #[serde(borrow)]
    logprobs: Option<Vec<Likelihood<'a>>>,
    #[serde(borrow)]
    pub(super) error: Option<&'a RawValue>,
}

/// The message of a line, or a piece of it.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Message<'a> {
    pub(super) content: Option<String>,
    pub(super) thinking: Option<String>,
    #[serde(borrow)]
    pub(super) tool_calls: Option<Vec<ToolCall<'a>>>,
}

/// A tool call; it always comes whole.
#[derive(Debug, Deserialize)]
pub(super) struct ToolCall<'a> {
    pub(super) id: Option<String>,
    #[serde(borrow)]
    pub(super) function: Function<'a>,
}

/// Which function is called, and with what.
#[derive(Debug, Deserialize)]
pub(super) struct Function<'a> {
    pub(super) name: String,
    #[serde(borrow)]
    pub(super) arguments: Option<&'a RawValue>,
}

/// A token and how likely it was.
#[derive(Debug, Deserialize)]
pub(super) struct Likelihood<'a> {
    #[serde(borrow)]
    pub(super) token: &'a RawValue,
    #[serde(borrow)]
    pub(super) logprob: &'a RawValue,
    #[serde(borrow)]
    pub(super) bytes: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) top_logprobs: Option<Vec<Likelihood<'a>>>,
}

/// How an answer ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End<'a> {
    /// It does not end here.
    NotYet,
    /// The connection to the model's runner closed: the answer is cut.
    Cut,
    /// For this reason.
    Reason(&'a str),
}

/// The error alone, for a line that is not understood otherwise.
#[derive(Deserialize)]
struct ErrorOnly<'a> {
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

impl<'a> Line<'a> {
    /// Reads a line.
    pub(super) fn read(text: &'a [u8]) -> Result<Self, Nonsense> {
        match object(text) {
            Ok(line) => Ok(line),
            // Whatever else stands there, what Ollama says went wrong is worth more.
            Err(nonsense) => match object::<ErrorOnly<'a>>(text) {
                Ok(ErrorOnly { error: error @ Some(_) }) => Ok(Line { error, ..Line::default() }),
                _ => Err(nonsense),
            },
        }
    }

    /// When it was made, in unix seconds.
    pub(super) fn created(&self) -> Option<u64> {
        let text = self.created_at.as_ref()?;
        // Whole seconds are wanted, and a fraction may be longer than the parser takes.
        let whole = match text.split_once('.') {
            Some((head, rest)) => format!("{head}{}", rest.trim_start_matches(char::is_numeric)),
            None => text.clone(),
        };
        let made: jiff::Timestamp = whole.parse().ok()?;
        // Before 1970 is Go's way to say that nobody has set it.
        u64::try_from(made.as_second()).ok()
    }

    /// How the answer ends.
    pub(super) fn end(&self) -> End<'_> {
        match (self.done, self.done_reason.as_deref()) {
            (None | Some(false), _) => End::NotYet,
            (Some(true), None | Some("")) => End::Cut,
            (Some(true), Some(reason)) => End::Reason(reason),
        }
    }

    /// The tokens of prompt and answer. Ollama leaves zeros out; both missing means not counted.
    pub(super) fn counts(&self) -> Option<(u64, u64)> {
        if self.prompt_eval_count.is_none() && self.eval_count.is_none() {
            return None;
        }
        Some((self.prompt_eval_count.unwrap_or(0), self.eval_count.unwrap_or(0)))
    }

    /// The tool calls of this line.
    pub(super) fn calls(&self) -> &[ToolCall<'a>] {
        self.message.as_ref().and_then(|m| m.tool_calls.as_deref()).unwrap_or_default()
    }

    /// The log probabilities of this line's tokens.
    pub(super) fn logprobs(&self) -> &[Likelihood<'a>] {
        self.logprobs.as_deref().unwrap_or_default()
    }
}

impl Message<'_> {
    /// Its text, if it has any.
    pub(super) fn content(&self) -> Option<&str> {
        self.content.as_deref().filter(|text| !text.is_empty())
    }

    /// Its reasoning, if it has any.
    pub(super) fn thinking(&self) -> Option<&str> {
        self.thinking.as_deref().filter(|text| !text.is_empty())
    }
}

/// Reads a JSON object.
pub(super) fn object<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, Nonsense> {
    let shown = || String::from_utf8_lossy(text).trim().chars().take(MAX_SHOWN).collect();
    let is_object = text.trim_ascii_start().first() == Some(&b'{');
    if !is_object {
        return Err(match serde_json::from_slice::<serde::de::IgnoredAny>(text) {
            Ok(_) => Nonsense::NotAnObject { shown: shown() },
            Err(_) => Nonsense::NotJson { shown: shown() },
        });
    }
    serde_json::from_slice(text).map_err(|e| match e.classify() {
        serde_json::error::Category::Data => Nonsense::Shape { why: e.to_string(), shown: shown() },
        _ => Nonsense::NotJson { shown: shown() },
    })
}
