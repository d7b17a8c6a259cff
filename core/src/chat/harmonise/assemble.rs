//! Found calls as the client gets them.
//!
//! Owns: the numbering of calls, their ids, and the JSON of one entry of `tool_calls`. Must never
//! do: draw ids at random; the same answer numbers its calls alike, streamed or not.

use serde_json::{Value, json};

/// Which call of a choice this is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallId {
    /// Its place among the calls of its choice, from 0.
    pub index: u32,
    /// `call_` and 24 hexadecimal digits.
    pub id: String,
}

/// Numbers the calls of one choice.
#[derive(Debug, Clone)]
pub struct CallIds {
    seed: String,
    choice: u32,
    next: u32,
}

impl CallIds {
    /// For one choice of the answer that `seed` names (its id, say): the ids follow from the seed,
    /// the choice and the index alone.
    pub fn new(seed: impl Into<String>, choice: u32) -> Self {
        CallIds { seed: seed.into(), choice, next: 0 }
    }

    /// Whether any call has been numbered.
    pub fn any(&self) -> bool {
        self.next > 0
    }

    /// The next call's.
    pub fn next_call(&mut self) -> CallId {
        let call = self.at(self.next);
        self.next = self.next.saturating_add(1);
        call
    }

    fn at(&self, index: u32) -> CallId {
        CallId { index, id: derive(&self.seed, self.choice, index) }
    }
}

/// Nobody must be hindered from guessing an id, only two calls from having the same: a plain hash.
fn derive(seed: &str, choice: u32, index: u32) -> String {
    let numbers = [choice.to_le_bytes(), index.to_le_bytes()];
    let bytes = || numbers.iter().flatten().copied().chain(seed.bytes());
    let (high, low) = (hash(bytes(), 0), hash(bytes(), 1));
    format!("call_{high:016x}{:08x}", low >> 32)
}

/// FNV-1a, stirred at the end as in `SplitMix64`, so that neighbours do not look alike.
fn hash(bytes: impl Iterator<Item = u8>, salt: u64) -> u64 {
    let mut state = 0xcbf2_9ce4_8422_2325 ^ salt.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for byte in bytes {
        state = (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

/// One entry of a streamed `delta.tool_calls`: the whole call in one piece.
pub fn delta_entry(call: &CallId, name: &str, arguments: &str) -> Value {
    json!({
        "index": call.index,
        "id": call.id,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    })
}

/// One entry of `message.tool_calls`.
pub fn message_entry(call: &CallId, name: &str, arguments: &str) -> Value {
    json!({
        "id": call.id,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ids_are_well_formed_repeatable_and_apart() {
        let mut seen = BTreeSet::new();
        for seed in ["", "chatcmpl-1", "chatcmpl-2"] {
            for choice in 0..8 {
                let mut ids = CallIds::new(seed, choice);
                for index in 0..64 {
                    let call = ids.next_call();
                    assert_eq!(call, CallIds::new(seed, choice).at(index));
                    let digits = call.id.strip_prefix("call_").unwrap();
                    assert!(digits.len() == 24 && digits.bytes().all(|b| b.is_ascii_hexdigit()));
                    assert!(seen.insert(call.id));
                }
            }
        }
    }

    #[test]
    fn entries_are_written_as_openai_has_them() {
        let call = CallId { index: 2, id: "call_x".to_owned() };
        assert_eq!(
            delta_entry(&call, "f", r#"{"a":"é"}"#).to_string(),
            r#"{"index":2,"id":"call_x","type":"function","function":{"name":"f","arguments":"{\"a\":\"é\"}"}}"#
        );
        assert_eq!(
            message_entry(&call, "f", "{}").to_string(),
            r#"{"id":"call_x","type":"function","function":{"name":"f","arguments":"{}"}}"#
        );
    }
}
