//! Token counts as backends report them (OpenAI's and Anthropic's `usage` objects).
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
    // As `/v1/responses` and `/v1/messages` say the same.
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    input_tokens_details: Option<PromptDetails>,
    output_tokens_details: Option<CompletionDetails>,
    cache_read_input_tokens: Option<u64>,
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
        let prompt = wire.prompt_tokens_details.or(wire.input_tokens_details);
        let completion = wire.completion_tokens_details.or(wire.output_tokens_details);
        let cached = prompt.and_then(|details| details.cached_tokens);
        Some(Usage {
            prompt_tokens: wire.prompt_tokens.or(wire.input_tokens),
            completion_tokens: wire.completion_tokens.or(wire.output_tokens),
            reasoning_tokens: completion.and_then(|details| details.reasoning_tokens),
            cached_tokens: cached.or(wire.cache_read_input_tokens),
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
