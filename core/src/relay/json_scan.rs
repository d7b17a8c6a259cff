//! A scanner for JSON objects that come in pieces: finds a few fields of the outermost object.
//!
//! Owns: where their values lie. Must never do: hold more than those values and the key that is
//! being read. It checks what it must to be sure of its place (strings, brackets, the order of keys
//! and values in the outermost object); what lies deeper is the backend's to judge.

use std::ops::Range;

use memchr::memchr2;
use serde_json::{Map, Value};

use super::scan::Found;
use crate::chat::request::MAX_DEPTH;
use crate::error::ApiError;

/// The longest value that is read, in bytes.
const MAX_VALUE: usize = 8 << 10;
/// The longest key that can be one of ours, escapes counted.
const MAX_KEY: usize = 128;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    /// The opening brace.
    Object,
    /// A key, or the end of an object that is empty so far.
    FirstKey,
    /// A key.
    Key,
    /// The colon behind a key.
    Colon,
    /// A value of the outermost object.
    Value,
    /// A comma or the end.
    Comma,
    /// Nothing more.
    Nothing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Inside {
    /// Between tokens of the outermost object.
    Between(Expect),
    /// A string: a key, a value, or one within a nested value.
    Text { key: bool, escaped: bool },
    /// A number or a word, as a value of the outermost object.
    Bare,
    /// A nested value.
    Nested,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Model,
    Stream,
    StreamOptions,
    Metadata,
    Other,
}

/// See the module.
#[derive(Debug)]
pub struct JsonScan {
    /// Bytes before the present piece.
    at: u64,
    inside: Inside,
    /// Open brackets, the outermost object's included.
    depth: usize,
    /// The key, or the value of one of our fields, as far as it has come.
    kept: Vec<u8>,
    field: Field,
    value_at: u64,
    insert_at: u64,
    model: Option<(String, Range<u64>)>,
    stream: Option<bool>,
    stream_options: Option<(Map<String, Value>, Range<u64>)>,
    metadata: Option<Map<String, Value>>,
    seen: bool,
    is_empty: bool,
}

impl Default for JsonScan {
    fn default() -> Self {
        JsonScan {
            at: 0,
            inside: Inside::Between(Expect::Object),
            depth: 0,
            kept: Vec::new(),
            field: Field::Other,
            value_at: 0,
            insert_at: 0,
            model: None,
            stream: None,
            stream_options: None,
            metadata: None,
            seen: false,
            is_empty: true,
        }
    }
}

impl JsonScan {
    /// Takes the next piece.
    pub fn push(&mut self, piece: &[u8]) -> Result<(), ApiError> {
        let mut i = 0;
        while i < piece.len() {
            i += match self.inside {
                Inside::Text { escaped, .. } => self.text(&piece[i..], escaped),
                Inside::Bare => self.bare(&piece[i..], i)?,
                Inside::Nested => self.nested(&piece[i..], i)?,
                Inside::Between(expect) => self.between(piece[i], i, expect)?,
            };
            // A value ends behind its last byte.
            if self.inside == Inside::Between(Expect::Comma) && self.field != Field::Other {
                self.take_value(self.at + i as u64)?;
            }
        }
        self.at += piece.len() as u64;
        Ok(())
    }

    /// The body has ended.
    pub fn finish(self) -> Result<Found, ApiError> {
        if self.inside != Inside::Between(Expect::Nothing) {
            let message = if self.seen {
                "the request body is not valid JSON: it ends before its object does"
            } else {
                "the request body is empty; send a JSON object"
            };
            return Err(ApiError::invalid("", message));
        }
        Ok(Found {
            model: self.model,
            stream: self.stream.unwrap_or_default(),
            stream_options: self.stream_options,
            metadata: self.metadata,
            insert_at: self.insert_at,
            is_empty: self.is_empty,
            boundary: None,
        })
    }

    /// Keeps bytes of a key or of one of our values, as far as they can matter.
    fn keep(&mut self, bytes: &[u8]) {
        let limit = match self.inside {
            Inside::Text { key: true, .. } => MAX_KEY,
            _ if self.field == Field::Other => return,
            _ => MAX_VALUE,
        };
        // One byte too many tells that it was too long.
        let room = (limit + 1).saturating_sub(self.kept.len());
        self.kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// Within a string; answers how many bytes were taken.
    fn text(&mut self, bytes: &[u8], escaped: bool) -> usize {
        let Inside::Text { key, .. } = self.inside else { return 0 };
        if escaped {
            self.keep(&bytes[..1]);
            self.inside = Inside::Text { key, escaped: false };
            return 1;
        }
        let Some(found) = memchr2(b'"', b'\\', bytes) else {
            self.keep(bytes);
            return bytes.len();
        };
        self.keep(&bytes[..=found]);
        self.inside = match bytes[found] {
            b'\\' => Inside::Text { key, escaped: true },
            _ if key => Inside::Between(Expect::Colon),
            _ if self.depth > 1 => Inside::Nested,
            _ => Inside::Between(Expect::Comma),
        };
        found + 1
    }

    /// Within a number or a word.
    fn bare(&mut self, bytes: &[u8], i: usize) -> Result<usize, ApiError> {
        let ends = |b: &u8| matches!(b, b',' | b'}' | b' ' | b'\t' | b'\n' | b'\r');
        let end = bytes.iter().position(ends).unwrap_or(bytes.len());
        if let Some(bad) = bytes[..end].iter().position(|b| matches!(b, b'"' | b'{' | b'[' | b':'))
        {
            return Err(self.broken(i + bad));
        }
        self.keep(&bytes[..end]);
        if end < bytes.len() {
            self.inside = Inside::Between(Expect::Comma);
        }
        Ok(end)
    }

    /// Within a nested value, outside its strings.
    fn nested(&mut self, bytes: &[u8], i: usize) -> Result<usize, ApiError> {
        for (offset, byte) in bytes.iter().enumerate() {
            match byte {
                b'"' => {
                    self.keep(&bytes[..=offset]);
                    self.inside = Inside::Text { key: false, escaped: false };
                    return Ok(offset + 1);
                }
                b'{' | b'[' => self.deeper()?,
                b'}' | b']' => self.depth -= 1,
                _ => {}
            }
            if self.depth == 0 {
                return Err(self.broken(i + offset));
            }
            if self.depth == 1 {
                self.keep(&bytes[..=offset]);
                self.inside = Inside::Between(Expect::Comma);
                return Ok(offset + 1);
            }
        }
        self.keep(bytes);
        Ok(bytes.len())
    }

    fn deeper(&mut self) -> Result<(), ApiError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            let message = format!("the JSON nests deeper than {MAX_DEPTH} levels");
            return Err(ApiError::invalid("", message));
        }
        Ok(())
    }

    /// Between the tokens of the outermost object: one byte.
    fn between(&mut self, byte: u8, i: usize, expect: Expect) -> Result<usize, ApiError> {
        if matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
            return Ok(1);
        }
        self.seen = true;
        let next = match (expect, byte) {
            (Expect::Object, b'{') => {
                self.depth = 1;
                self.insert_at = self.at + i as u64 + 1;
                Inside::Between(Expect::FirstKey)
            }
            (Expect::Object, _) => {
                return Err(ApiError::invalid("", "the request body must be a JSON object"));
            }
            (Expect::FirstKey | Expect::Key, b'"') => {
                self.kept.clear();
                self.kept.push(b'"');
                Inside::Text { key: true, escaped: false }
            }
            (Expect::FirstKey | Expect::Comma, b'}') => {
                self.depth = 0;
                Inside::Between(Expect::Nothing)
            }
            (Expect::Colon, b':') => {
                self.is_empty = false;
                self.field = field(&self.kept)?;
                Inside::Between(Expect::Value)
            }
            (Expect::Value, _) => return self.value_begins(byte, i),
            (Expect::Comma, b',') => Inside::Between(Expect::Key),
            _ => return Err(self.broken(i)),
        };
        self.inside = next;
        Ok(1)
    }

    fn value_begins(&mut self, byte: u8, i: usize) -> Result<usize, ApiError> {
        self.value_at = self.at + i as u64;
        self.kept.clear();
        self.inside = match byte {
            b'"' => Inside::Text { key: false, escaped: false },
            b'{' | b'[' => {
                self.deeper()?;
                Inside::Nested
            }
            b'}' | b']' | b',' | b':' => return Err(self.broken(i)),
            _ => {
                self.inside = Inside::Bare;
                return Ok(0);
            }
        };
        self.keep(&[byte]);
        Ok(1)
    }

    /// One of our fields has its value.
    fn take_value(&mut self, end: u64) -> Result<(), ApiError> {
        let place = self.value_at..end;
        let kept = std::mem::take(&mut self.kept);
        match std::mem::replace(&mut self.field, Field::Other) {
            Field::Model => {
                let named: Option<String> = parse(&kept)
                    .ok_or_else(|| ApiError::invalid("model", "`model` must be a string"))?;
                let before = self.model.replace((named.unwrap_or_default(), place));
                once("model", before.is_some())
            }
            Field::Stream => {
                let wanted: Option<bool> = parse(&kept)
                    .ok_or_else(|| ApiError::invalid("stream", "`stream` must be true or false"))?;
                let before = self.stream.replace(wanted.unwrap_or_default());
                once("stream", before.is_some())
            }
            Field::StreamOptions => {
                let options: Option<Map<String, Value>> = parse(&kept).ok_or_else(|| {
                    ApiError::invalid("stream_options", "`stream_options` must be an object")
                })?;
                let before = self.stream_options.replace((options.unwrap_or_default(), place));
                once("stream_options", before.is_some())
            }
            // Only our rules look at it; whether it is right is the backend's to say.
            Field::Metadata => {
                self.metadata = parse(&kept);
                Ok(())
            }
            Field::Other => Ok(()),
        }
    }

    fn broken(&self, i: usize) -> ApiError {
        let at = self.at + i as u64;
        ApiError::invalid("", format!("the request body is not valid JSON (at byte {at})"))
    }
}

fn parse<T: serde::de::DeserializeOwned>(kept: &[u8]) -> Option<T> {
    if kept.len() > MAX_VALUE {
        return None;
    }
    serde_json::from_slice(kept).ok()
}

/// A field that comes twice means one thing to us and another to the backend.
fn once(field: &str, twice: bool) -> Result<(), ApiError> {
    if twice {
        return Err(ApiError::invalid(field, format!("duplicate field `{field}`")));
    }
    Ok(())
}

/// Which of our fields a key is. Some parsers (Go's) take keys without regard to case: one that is
/// ours for them alone would mean one thing to us and another to the backend.
fn field(key: &[u8]) -> Result<Field, ApiError> {
    let name = if key.len() > MAX_KEY { None } else { serde_json::from_slice::<String>(key).ok() };
    let Some(name) = name else { return Ok(Field::Other) };
    let known = |name: &str| match name {
        "model" => Field::Model,
        "stream" => Field::Stream,
        "stream_options" => Field::StreamOptions,
        _ => Field::Other,
    };
    if name == "metadata" {
        return Ok(Field::Metadata);
    }
    let field = known(&name);
    if field == Field::Other && known(&folded(&name)) != Field::Other {
        let meant = folded(&name);
        return Err(ApiError::invalid(&name, format!("`{name}` is no field; write `{meant}`")));
    }
    Ok(field)
}

/// In lower case, as Unicode's simple folding has it: two signs fold to letters of ASCII.
fn folded(name: &str) -> String {
    name.replace('\u{17f}', "s").replace('\u{212a}', "k").to_lowercase()
}

#[cfg(test)]
mod tests;
