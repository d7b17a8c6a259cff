//! The one line that the JSONL log gets for each request (SPEC 7.1).
//!
//! Owns: field names and their order. Must never do: hold prompt text unless `log_prompts` put it
//! there.

use serde::Serialize;
use serde_json::Value;

use super::answer::Answer;
use crate::gpu::Class;

/// One finished request. Absent values are left out where SPEC marks them optional, else `null`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Record {
    /// End of the request, RFC 3339 UTC with milliseconds; the log writer fills it in.
    pub ts: String,
    /// Our id of the request, as in `x-request-id`.
    pub request_id: String,
    /// Key name or address of the client.
    pub client: String,
    /// `interactive` or `background`.
    pub class: Class,
    /// Path that was called.
    pub endpoint: String,
    /// The name that was asked for.
    pub model_requested: Option<String>,
    /// The entry's logical name.
    pub model_logical: Option<String>,
    /// The entry's backend.
    pub backend: Option<String>,
    /// The id sent to the backend.
    pub model_backend_id: Option<String>,
    /// Whether a stream was asked for.
    pub stream: bool,
    /// The HTTP status that the client got; 499 if it left before the end.
    pub status: u16,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<RecordError>,
    /// Milliseconds spent waiting for a turn.
    pub queue_ms: u64,
    /// Milliseconds spent loading a model.
    pub activate_ms: u64,
    /// Milliseconds from arrival to the first content.
    pub ttft_ms: Option<u64>,
    /// Milliseconds from arrival to the end.
    pub duration_ms: u64,
    /// Tokens of the prompt.
    pub prompt_tokens: Option<u64>,
    /// Tokens of the answer.
    pub completion_tokens: Option<u64>,
    /// Reasoning tokens of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_tokens: Option<u64>,
    /// Prompt tokens that came from a cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cached_tokens: Option<u64>,
    /// The backend gave no usage: `completion_tokens` was counted by events or by the text, and
    /// `prompt_tokens` by the text.
    pub tokens_estimated: bool,
    /// Completion tokens per second after the first.
    pub tokens_per_second: Option<f64>,
    /// What it cost, where the registry knows the model's prices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<f64>,
    /// The first choice's finish reason.
    pub finish_reason: Option<String>,
    /// What request policies changed.
    pub policy: serde_json::Map<String, Value>,
    /// The client left before the end.
    pub cancelled: bool,
    /// The conversation, only with `log_prompts`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages: Option<Value>,
    /// The answer, only with `log_prompts`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response: Option<Answer>,
}

/// Code and message of a failure.
#[derive(Debug, Clone, Serialize)]
pub struct RecordError {
    /// Such as `err_backend_unavailable`.
    pub code: String,
    /// For a person.
    pub message: String,
}

impl Record {
    /// What it takes in memory, roughly, in bytes.
    pub fn weight(&self) -> usize {
        let messages = self.messages.as_ref().map_or(0, weight);
        BASE_WEIGHT + messages + self.response.as_ref().map_or(0, Answer::bytes)
    }

    /// Adds the record as one line with its line end. An error: what was added of it is no line.
    pub fn write_line(&self, lines: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        lines.reserve(USUAL_LINE);
        serde_json::to_writer(&mut *lines, self)?;
        lines.push(b'\n');
        Ok(())
    }
}

/// What a line without conversation takes at most, as a rule.
const USUAL_LINE: usize = 768;
/// What a record without conversation takes, roughly.
const BASE_WEIGHT: usize = 1024;

/// Roughly how many bytes a value takes as text.
fn weight(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() + 2,
        Value::Array(list) => list.iter().map(weight).sum::<usize>() + 2,
        Value::Object(map) => map.iter().map(|(k, v)| k.len() + weight(v) + 4).sum::<usize>() + 2,
        _ => 8,
    }
}

/// Tokens per second: from the first content to the end, or over the whole time where nobody saw
/// the first content. `None` where there is nothing to divide.
#[allow(clippy::cast_precision_loss)] // token counts are small
pub fn tokens_per_second(tokens: u64, ttft_ms: Option<u64>, duration_ms: u64) -> Option<f64> {
    // The first token came at the start of the measured time, so it does not count into it.
    let (tokens, from) = ttft_ms.map_or((tokens, 0), |ttft| (tokens.saturating_sub(1), ttft));
    let millis = duration_ms.saturating_sub(from);
    if tokens == 0 || millis == 0 {
        return None;
    }
    let rate = tokens as f64 * 1000.0 / millis as f64;
    Some((rate * 100.0).round() / 100.0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_record_is_one_line_of_json_with_the_names_of_the_specification() {
        let mut line = Vec::new();
        Record { client: "a\nb".into(), ..Record::default() }.write_line(&mut line).unwrap();
        assert_eq!(line.iter().filter(|b| **b == b'\n').count(), 1);
        let value: Value = serde_json::from_slice(&line).unwrap();
        let keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
        // `class` is ours.
        let want = "ts request_id client class endpoint model_requested model_logical backend model_backend_id \
            stream status queue_ms activate_ms ttft_ms duration_ms prompt_tokens completion_tokens \
            tokens_estimated tokens_per_second finish_reason policy cancelled";
        assert_eq!(keys, want.split_whitespace().collect::<Vec<_>>());
    }

    #[test]
    fn speed_is_counted_from_the_first_token() {
        assert_eq!(tokens_per_second(101, Some(1000), 2000), Some(100.0));
        assert_eq!(tokens_per_second(100, None, 2000), Some(50.0));
        assert_eq!(tokens_per_second(1, Some(0), 10), None);
        assert_eq!(tokens_per_second(5, Some(10), 10), None);
    }
}
