//! Token counts as backends report them (OpenAI's `usage` object).
//!
//! Owns: reading the counts. Must never do: make one up; what a backend does not say stays absent.

use serde::Deserialize;

/// What a backend said about the tokens of one answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: Option<u64>,
    /// Tokens of the answer.
    pub completion_tokens: Option<u64>,
    /// Those of the answer that were reasoning.
    pub reasoning_tokens: Option<u64>,
    /// Those of the prompt that came from a cache.
    pub cached_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct Wire {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    prompt_tokens_details: Option<PromptDetails>,
    completion_tokens_details: Option<CompletionDetails>,
}

#[derive(Deserialize)]
struct PromptDetails {
    cached_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct CompletionDetails {
    reasoning_tokens: Option<u64>,
}

impl Usage {
    /// Reads a `usage` object; anything else is `None`.
    pub fn parse(object: &[u8]) -> Option<Usage> {
        let wire: Wire = serde_json::from_slice(object).ok()?;
        Some(Usage {
            prompt_tokens: wire.prompt_tokens,
            completion_tokens: wire.completion_tokens,
            reasoning_tokens: wire.completion_tokens_details.and_then(|d| d.reasoning_tokens),
            cached_tokens: wire.prompt_tokens_details.and_then(|d| d.cached_tokens),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_and_absent_stays_absent() {
        let vllm = br#"{"prompt_tokens":13,"total_tokens":29,"completion_tokens":16,"prompt_tokens_details":null,"completion_tokens_details":null}"#;
        let usage = Usage::parse(vllm).unwrap_or_default();
        assert_eq!((usage.prompt_tokens, usage.completion_tokens), (Some(13), Some(16)));
        assert_eq!((usage.reasoning_tokens, usage.cached_tokens), (None, None));
        let rich = br#"{"prompt_tokens":5,"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":2}}"#;
        let usage = Usage::parse(rich).unwrap_or_default();
        assert_eq!((usage.cached_tokens, usage.reasoning_tokens), (Some(4), Some(2)));
        assert_eq!(usage.completion_tokens, None);
        assert_eq!(Usage::parse(b"null"), None);
        assert_eq!(Usage::parse(b"[1"), None);
    }
}
