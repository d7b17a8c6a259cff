//! Whether a request asks for an answer without thoughts.
//!
//! Owns: the ways to say so. Must never do: refuse what it does not understand; the backend will say.

use crate::json::Walker;

/// Whether a chat request's body turns thinking off: `reasoning_effort` (OpenAI), `think` (Ollama), or
/// the switches of vLLM's templates in `chat_template_kwargs`.
pub fn is_off(body: &[u8]) -> bool {
    let mut off = false;
    // What cannot be read has been refused before.
    let _ = Walker::new(body).object(|key, w| {
        if key == b"chat_template_kwargs" && w.peek()? == b'{' {
            return w.object(|key, w| {
                let place = w.value()?;
                let switch = matches!(key, b"enable_thinking" | b"thinking");
                off |= switch && w.slice(place) == b"false";
                Some(())
            });
        }
        let place = w.value()?;
        off |= matches!(
            (key, w.slice(place)),
            (b"reasoning_effort", b"\"none\"") | (b"think", b"false" | b"\"none\"")
        );
        Some(())
    });
    off
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinking_is_turned_off_in_several_ways() {
        for (body, off) in [
            (r#"{"messages":[],"reasoning_effort":"none"}"#, true),
            (r#"{"think":false}"#, true),
            (r#"{"chat_template_kwargs":{"x":1,"enable_thinking":false}}"#, true),
            (r#"{"chat_template_kwargs":{"thinking": false }}"#, true),
            (r#"{"chat_template_kwargs":{"enable_thinking":true}}"#, false),
            (r#"{"chat_template_kwargs":null,"reasoning_effort":"low","think":true}"#, false),
            (r#"{"messages":[{"think":false}]}"#, false),
        ] {
            assert_eq!(is_off(body.as_bytes()), off, "{body}");
        }
    }
}
