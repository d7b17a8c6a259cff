//! What the data of one streamed event says, found in a single pass.
//!
//! Owns: reading `choices`, `usage` and `error` off a chat or completions chunk. Must never do:
//! build a tree, allocate for an ordinary chunk, or judge; text that is not a JSON object is
//! simply [`Chunk::Other`].

use std::ops::Range;

use super::fields::Level;
use crate::json::Walker;

/// One event's data.
#[derive(Debug, PartialEq, Eq)]
pub enum Chunk {
    /// `[DONE]`.
    Done,
    /// A JSON object.
    Object(Facts),
    /// Anything else: passed on as it is.
    Other,
}

/// What the rest of the chain wants to know about an object.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// `error` holds a value: the backend reports a failure in its stream.
    pub error: Option<Range<usize>>,
    /// `usage` holds a value, at this place.
    pub usage: Option<Range<usize>>,
    /// It has no choices: it can only carry usage.
    pub no_choices: bool,
    /// Some choice carries text, reasoning, a tool call or the like.
    pub content: bool,
    /// Where that lies, quotation marks included, if it is a single string.
    pub text: Option<Range<usize>>,
    /// Some choice carries reasoning, under either name.
    pub reasoning: bool,
    /// Some field that is not `OpenAI`'s holds a value.
    pub foreign: bool,
}

/// One choice of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice<'a> {
    /// Its index; 0 where the backend leaves it out.
    pub index: u32,
    /// The finish reason, if this chunk ends the choice.
    pub finish_reason: Option<&'a [u8]>,
}

/// As much of a finish reason is kept for the log, in bytes.
const MAX_REASON: usize = 64;

/// A finish reason as it is told.
pub(super) fn shown_reason(reason: &[u8]) -> String {
    String::from_utf8_lossy(&reason[..reason.len().min(MAX_REASON)]).into_owned()
}

impl Facts {
    fn says(&mut self, place: Range<usize>, value: &[u8]) {
        self.text = (!self.content && value.starts_with(b"\"")).then_some(place);
        self.content = true;
    }
}

impl Chunk {
    /// Reads an event's data; `choice` hears of every choice in it.
    pub fn read<'a>(data: &'a [u8], mut choice: impl FnMut(Choice<'a>)) -> Chunk {
        let trimmed = data.trim_ascii();
        if trimmed == b"[DONE]" {
            return Chunk::Done;
        }
        let mut facts = Facts { no_choices: true, ..Facts::default() };
        let mut walker = Walker::new(data);
        let walked = walker.object(|key, w| match key {
            // The form of older vLLM and of LMDeploy: the object itself is the error.
            b"object" => {
                let place = w.value()?;
                if w.slice(place) == b"\"error\"" {
                    facts.error = Some(0..data.len());
                }
                Some(())
            }
            b"choices" => choices(w, &mut facts, &mut choice),
            b"usage" => set_unless_null(w, &mut facts.usage),
            b"error" if facts.error.is_none() => set_unless_null(w, &mut facts.error),
            _ => other(Level::Root, key, w, &mut facts),
        });
        match walked {
            Some(()) if walker.at_end() => Chunk::Object(facts),
            _ => Chunk::Other,
        }
    }
}

/// A field that means nothing to us.
fn other(level: Level, key: &[u8], walker: &mut Walker<'_>, facts: &mut Facts) -> Option<()> {
    let place = walker.value()?;
    facts.foreign |= walker.slice(place) != b"null" && !level.knows(key);
    Some(())
}

fn set_unless_null(walker: &mut Walker<'_>, slot: &mut Option<Range<usize>>) -> Option<()> {
    let range = walker.value()?;
    *slot = (walker.slice(range.clone()) != b"null").then_some(range);
    Some(())
}

fn choices<'a>(
    walker: &mut Walker<'a>,
    facts: &mut Facts,
    hear: &mut impl FnMut(Choice<'a>),
) -> Option<()> {
    if walker.peek()? != b'[' {
        return walker.value().map(drop);
    }
    walker.array(|w| {
        facts.no_choices = false;
        if w.peek()? != b'{' {
            return w.value().map(drop);
        }
        let mut choice = Choice { index: 0, finish_reason: None };
        w.object(|key, w| match key {
            b"index" => {
                let range = w.value()?;
                choice.index = number(w.slice(range));
                Some(())
            }
            b"finish_reason" if w.peek()? == b'"' => {
                // Some gateways send an empty one with every chunk: it ends nothing.
                choice.finish_reason = Some(w.string()?).filter(|reason| !reason.is_empty());
                Some(())
            }
            b"delta" | b"message" if w.peek()? == b'{' => delta(w, facts),
            b"text" => {
                let place = w.value()?;
                let value = w.slice(place.clone());
                if says_something(value) {
                    facts.says(place, value);
                }
                Some(())
            }
            _ => other(Level::Choice, key, w, facts),
        })?;
        hear(choice);
        Some(())
    })
}

/// Whatever a delta holds besides the role is content.
fn delta(walker: &mut Walker<'_>, facts: &mut Facts) -> Option<()> {
    walker.object(|key, w| {
        let place = w.value()?;
        let value = w.slice(place.clone());
        let says = says_something(value);
        if says && key != b"role" {
            facts.says(place, value);
        }
        facts.reasoning |= says && matches!(key, b"reasoning" | b"reasoning_content");
        facts.foreign |= value != b"null" && !Level::Message.knows(key);
        Some(())
    })
}

fn says_something(value: &[u8]) -> bool {
    !matches!(value, b"null" | b"\"\"" | b"[]" | b"{}")
}

fn number(text: &[u8]) -> u32 {
    std::str::from_utf8(text).ok().and_then(|t| t.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(data: &str) -> (Chunk, Vec<(u32, Option<String>)>) {
        let mut heard = Vec::new();
        let chunk = Chunk::read(data.as_bytes(), |c| {
            let reason = c.finish_reason.map(|r| String::from_utf8(r.to_vec()).unwrap());
            heard.push((c.index, reason));
        });
        (chunk, heard)
    }

    fn facts(data: &str) -> Facts {
        match read(data).0 {
            Chunk::Object(facts) => facts,
            other => panic!("{other:?} from {data}"),
        }
    }

    #[test]
    fn vllm_chunks_are_read_as_they_come() {
        let role = r#"{"id":"c","object":"chat.completion.chunk","created":1,"model":"t","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"prompt_token_ids":null}"#;
        assert_eq!(facts(role), Facts { no_choices: false, ..Facts::default() });
        let word = r#"{"choices":[{"index":0,"delta":{"content":" tiny"},"logprobs":null,"finish_reason":null,"token_ids":null}]}"#;
        assert!(facts(word).content);
        let (chunk, heard) = read(
            r#"{"choices":[{"index":1,"delta":{},"finish_reason":"stop","stop_reason":null}],"usage":null}"#,
        );
        assert_eq!(chunk, Chunk::Object(Facts { no_choices: false, ..Facts::default() }));
        assert_eq!(heard, [(1, Some("stop".to_owned()))]);
        for alone in [r#"{"usage":{"prompt_tokens":1}}"#, r#"{"choices":null,"usage":{}}"#] {
            assert!(facts(alone).no_choices && facts(alone).usage.is_some(), "{alone}");
        }
        let (_, heard) =
            read(r#"{"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":""}]}"#);
        assert_eq!(heard, [(0, None)], "an empty finish reason ends nothing");
        let usage = r#"{"choices":[],"usage":{"prompt_tokens":13}}"#;
        let seen = facts(usage);
        assert!(seen.no_choices && !seen.content);
        assert_eq!(&usage[seen.usage.unwrap()], r#"{"prompt_tokens":13}"#);
    }

    #[test]
    fn content_is_anything_but_the_role() {
        for (delta, content) in [
            (r#"{"role":"assistant"}"#, false),
            (r#"{"content":null}"#, false),
            (r#"{"reasoning":"hm"}"#, true),
            (r#"{"content":null,"tool_calls":[{"index":0}]}"#, true),
            (r#"{"refusal":"no"}"#, true),
        ] {
            let data = format!(r#"{{"choices":[{{"index":0,"delta":{delta}}}]}}"#);
            assert_eq!(facts(&data).content, content, "{delta}");
        }
        assert!(facts(r#"{"choices":[{"text":" la","finish_reason":null}]}"#).content);
    }

    #[test]
    fn foreign_fields_are_seen_where_they_hold_a_value() {
        for (data, foreign) in [
            (r#"{"id":"c","choices":[{"index":0,"delta":{"content":"a"},"logprobs":{}}]}"#, false),
            (r#"{"choices":[{"delta":{"x":null},"stop_reason":null}],"y":null}"#, false),
            (r#"{"choices":[{"delta":{"x":""}}]}"#, true),
            (r#"{"choices":[{"delta":{},"stop_reason":"a"}]}"#, true),
            (r#"{"choices":[{"delta":{}}],"prompt_token_ids":[1]}"#, true),
        ] {
            assert_eq!(facts(data).foreign, foreign, "{data}");
        }
    }

    #[test]
    fn errors_done_and_noise_are_told_apart() {
        assert!(facts(r#"{"error": {"message": "x", "code": 500}}"#).error.is_some());
        assert_eq!(facts(r#"{"error": null}"#).error, None);
        assert!(facts(r#"{"object":"error","message":"x","code":500}"#).error.is_some());
        assert_eq!(read("[DONE]").0, Chunk::Done);
        assert_eq!(read(" [DONE] ").0, Chunk::Done);
        for noise in ["", "hello", "[1]", r#"{"choices":["#, r#"{"a":1} x"#, "{]"] {
            assert_eq!(read(noise).0, Chunk::Other, "{noise}");
        }
    }
}
