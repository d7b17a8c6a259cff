//! Token counts where the engine gives none (SPEC 7.1: marked as estimates).
//!
//! Owns: the rule of thumb. Must never do: be used where the engine counts.

use memchr::memmem;
use serde_json::Value;

/// A token is about so many bytes of text, in most languages with most tokenizers.
const BYTES_PER_TOKEN: u64 = 4;
/// Larger bodies are not looked through; they are mostly pictures.
const LARGEST: usize = 1 << 20;

/// Tokens of a request's body; `None`: it has pictures or the like, which nobody can estimate so.
pub fn of_request(body: &[u8]) -> Option<u64> {
    let plain = body.len() <= LARGEST && memmem::find(body, b";base64,").is_none();
    plain.then(|| tokens(body.len()))
}

/// Tokens of an answer in one piece, by its text; 0: it has none.
pub fn of_answer(body: &[u8]) -> u64 {
    let Ok(body) = serde_json::from_slice::<Value>(body) else { return 0 };
    let choices = body.get("choices").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let texts = choices.iter().flat_map(|choice| {
        let said = |name: &str| choice.pointer(name).and_then(Value::as_str);
        // The same thoughts may stand in both fields.
        let thoughts = said("/message/reasoning_content").or_else(|| said("/message/reasoning"));
        [said("/text"), said("/message/content"), thoughts].into_iter().flatten()
    });
    let bytes = texts.map(str::len).sum();
    if bytes == 0 { 0 } else { tokens(bytes) }
}

fn tokens(bytes: usize) -> u64 {
    (bytes as u64).div_ceil(BYTES_PER_TOKEN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn four_bytes_are_a_token() {
        assert_eq!(of_request(b"12345678"), Some(2));
        assert_eq!(of_request(b"123456789"), Some(3));
        let answer = json!({"choices": [
            {"message": {"content": "12345678", "reasoning": "1234", "reasoning_content": "1234"}}, {"text": "1"}
        ]});
        assert_eq!(of_answer(answer.to_string().as_bytes()), 4);
    }

    #[test]
    fn nothing_is_made_of_what_is_no_text() {
        assert_eq!(of_request(b"{\"url\":\"data:image/png;base64,AAAA\"}"), None);
        assert_eq!(of_request(&vec![b' '; LARGEST + 1]), None);
        for body in
            ["{\"data\":[{\"embedding\":[1,2]}]}", "{\"choices\":[{\"message\":{}}]}", "OggS"]
        {
            assert_eq!(of_answer(body.as_bytes()), 0, "{body}");
        }
    }
}
