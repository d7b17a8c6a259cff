//! Owns the tokeniser: three bytes are a token, reversibly.
//!
//! It makes counts plausible; it must never decide how an answer is cut into events.

use serde_json::{Value, json};

use crate::ask;
use crate::errors::ApiError;
use crate::options::Options;
use crate::wire::Reply;

/// Bytes of text in one token.
const WIDTH: usize = 3;

/// The tokens that open and close a message.
const OPEN: u64 = 603;
const CLOSE: u64 = 604;

/// What the template puts before the answer.
const ASSISTANT: &str = "assistant\n";

/// How many tokens a text has.
pub(crate) fn count(text: &str) -> u64 {
    text.len().div_ceil(WIDTH) as u64
}

/// How many tokens a conversation has, with its template around it.
pub(crate) fn of_chat(messages: &[Value], tools: Option<&Value>) -> u64 {
    let one = |m: &Value| 2 + count(role(m)).max(1) + count(&ask::text_of(m.get("content")));
    let texts: u64 = messages.iter().map(one).sum();
    let tools = tools.and_then(Value::as_array).filter(|t| !t.is_empty());
    texts + 1 + count(ASSISTANT) + tools.map_or(0, |t| count(&json!(t).to_string()))
}

fn role(message: &Value) -> &str {
    message.get("role").and_then(Value::as_str).unwrap_or_default()
}

fn encode(text: &str) -> Vec<u64> {
    let number = |bytes: &[u8]| bytes.iter().fold(1, |id, &b| id << 8 | u64::from(b));
    text.as_bytes().chunks(WIDTH).map(number).collect()
}

fn decode(ids: impl Iterator<Item = u64>) -> String {
    let mut bytes = Vec::new();
    for id in ids {
        let digits = id.to_be_bytes();
        // The leading 1 tells how many bytes follow; what has none is no token of ours.
        match digits.iter().position(|&b| b != 0) {
            Some(start) if digits[start] == 1 && (4..=6).contains(&start) => {
                bytes.extend_from_slice(&digits[start + 1..]);
            }
            _ => {
                let name = match id {
                    OPEN => "<|im_start|>".to_owned(),
                    CLOSE => "<|im_end|>".to_owned(),
                    other => format!("<{other}>"),
                };
                bytes.extend_from_slice(name.as_bytes());
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Answers `/tokenize`.
pub(crate) fn tokenize(body: &Value, options: &Options) -> Result<Reply, ApiError> {
    ask::model(body, options)?;
    let tokens = match body.get("prompt") {
        Some(prompt) => encode(&ask::text_of(Some(prompt))),
        None => encode_chat(ask::messages(body)?),
    };
    let strings = (body.get("return_token_strs") == Some(&Value::Bool(true)))
        .then(|| tokens.iter().map(|&t| decode([t].into_iter())).collect::<Vec<_>>());
    let body = json!({
        "count": tokens.len(), "max_model_len": options.max_model_len,
        "tokens": tokens, "token_strs": strings,
    });
    Ok(Reply::json(200, body.to_string()))
}

/// Answers `/detokenize`.
pub(crate) fn detokenize(body: &Value, options: &Options) -> Result<Reply, ApiError> {
    ask::model(body, options)?;
    let Some(ids) = body.get("tokens").and_then(Value::as_array) else {
        return Err(ApiError::missing("tokens", body));
    };
    let text = decode(ids.iter().filter_map(Value::as_u64));
    Ok(Reply::json(200, json!({"prompt": text}).to_string()))
}

fn encode_chat(messages: &[Value]) -> Vec<u64> {
    let mut ids = Vec::new();
    for message in messages {
        ids.push(OPEN);
        ids.extend(encode(if role(message).is_empty() { "?" } else { role(message) }));
        ids.extend(encode(&ask::text_of(message.get("content"))));
        ids.push(CLOSE);
    }
    ids.push(OPEN);
    ids.extend(encode(ASSISTANT));
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_back_from_their_tokens() {
        for text in ["", "a", "hello", "Grüße 😀\0\u{1}"] {
            let ids = encode(text);
            assert_eq!(ids.len() as u64, count(text));
            assert_eq!(decode(ids.into_iter()), text);
        }
        assert_eq!(decode([0, 264, 7].into_iter()), "<0>\u{8}<7>");
    }

    #[test]
    fn a_conversation_has_as_many_tokens_as_it_is_told_to_have() {
        let messages = [json!({"role": "user", "content": "hello"}), json!({"content": "ä"})];
        assert_eq!(encode_chat(&messages).len() as u64, of_chat(&messages, None));
    }
}
