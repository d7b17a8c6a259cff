//! Owns made-up probabilities.
//!
//! They depend on the token alone. Must never be taken for a model's.

use serde_json::{Value, json};

/// The entry of one token in a chat's answer, with so many alternatives, itself the first.
pub(crate) fn of(token: &str, top: usize) -> Value {
    let entry = |text: &str, logprob: f64| json!({"token": text, "logprob": logprob, "bytes": text.as_bytes()});
    let mut all = entry(token, logprob(token));
    let top: Vec<Value> = alternatives(token, top).iter().map(|(t, p)| entry(t, *p)).collect();
    all["top_logprobs"] = json!(top);
    all
}

/// The `logprobs` of a chunk of a chat.
pub(crate) fn content(tokens: &[String], top: usize) -> String {
    let all: Vec<Value> = tokens.iter().map(|t| of(t, top)).collect();
    json!({"content": all}).to_string()
}

/// The `logprobs` of a completion; `offset` is where its text begins.
pub(crate) fn completion(tokens: &[&String], top: usize, mut offset: usize) -> Value {
    let mut offsets = Vec::new();
    for token in tokens {
        offsets.push(offset);
        offset += token.chars().count();
    }
    let table = |token: &&String| {
        let all = alternatives(token, top.max(1));
        Value::Object(all.into_iter().map(|(t, p)| (t, json!(p))).collect())
    };
    json!({
        "text_offset": offsets,
        "token_logprobs": tokens.iter().map(|t| logprob(t)).collect::<Vec<_>>(),
        "tokens": tokens,
        "top_logprobs": tokens.iter().map(table).collect::<Vec<_>>(),
    })
}

fn alternatives(token: &str, top: usize) -> Vec<(String, f64)> {
    let other = |i: u32| (format!(" alt{i}"), -8.5 - f64::from(i));
    std::iter::once((token.to_owned(), logprob(token))).chain((1..).map(other)).take(top).collect()
}

fn logprob(token: &str) -> f64 {
    let some = token.bytes().fold(1_u8, u8::wrapping_add);
    -0.0001 * (1.0 + f64::from(some))
}
