//! Two layers into one registry (SPEC 4.1).
//!
//! Owns: reading a layer's text with the place of every entry, merging by name, the materialised
//! text, and the split of an old single file. Must never do: touch a file, or lose a field that it
//! does not know.

use std::collections::HashMap;

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::snapshot::{LoadError, Problem};

/// Which layer an entry came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    /// Written by hand; goes before the other.
    Curated,
    /// Written by tools.
    Discovered,
}

/// An entry as it stands in its layer.
#[derive(Debug, Clone)]
pub struct LayerEntry {
    /// Its name, which is what layers are merged by.
    pub name: String,
    /// All of it.
    pub value: Map<String, Value>,
    /// Where it begins.
    pub place: Place,
}

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Place {
    /// The file's name.
    pub file: String,
    /// Counted from 1.
    pub line: usize,
    /// Counted from 1, in bytes.
    pub column: usize,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// A layer that was read: its entries, and those that are none.
#[derive(Debug, Default)]
pub struct LayerFile {
    /// In file order, each name once.
    pub entries: Vec<LayerEntry>,
    /// Entries without a name, or with a name that was there before.
    pub problems: Vec<Problem>,
}

/// An entry of the merged registry.
#[derive(Debug, Clone)]
pub struct Merged {
    /// The merged object.
    pub value: Map<String, Value>,
    /// The layers it came from, the one that goes before first.
    pub layers: Vec<Layer>,
    /// Where its first layer has it, for messages.
    pub place: Place,
}

/// Reads one layer's text.
pub fn read_layer(file: &str, text: &[u8]) -> Result<LayerFile, LoadError> {
    // Editors on other systems begin files with a byte order mark.
    let bytes = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let message = "the file is not UTF-8".to_owned();
        LoadError::Syntax { place: place_of(file, bytes, e.valid_up_to()), entry: None, message }
    })?;
    let list: Vec<&RawValue> =
        serde_json::from_str(text).map_err(|e| syntax_error(file, text, &e))?;
    let mut layer = LayerFile::default();
    let mut seen: HashMap<String, Place> = HashMap::new();
    let mut places = Places::new(file, text);
    for raw in list {
        let place = places.at(raw.get().as_ptr() as usize - text.as_ptr() as usize);
        let (name, value) = match named_object(raw) {
            Ok(named) => named,
            Err((name, message)) => {
                layer.problems.push(Problem { place, name, message });
                continue;
            }
        };
        if let Some(first) = seen.get(&name) {
            let line = first.line;
            let message = format!("the name stands at line {line} already; the first one counts");
            layer.problems.push(Problem { message, name: Some(name), place });
            continue;
        }
        seen.insert(name.clone(), place.clone());
        layer.entries.push(LayerEntry { name, value, place });
    }
    Ok(layer)
}

type NoEntry = (Option<String>, String);

fn named_object(raw: &RawValue) -> Result<(String, Map<String, Value>), NoEntry> {
    let value: Value = serde_json::from_str(raw.get()).map_err(|e| (None, e.to_string()))?;
    let Value::Object(object) = value else {
        return Err((None, "an entry must be an object".to_owned()));
    };
    match object.get("name") {
        Some(Value::String(name)) if !name.trim().is_empty() => {
            Ok((name.trim().to_owned(), object))
        }
        None | Some(Value::Null) => Err((None, "`name` is missing".to_owned())),
        Some(_) => Err((None, "`name` must be a text that is not empty".to_owned())),
    }
}

/// Merges the layers: curated entries in their order, then those that are only discovered.
pub fn merge(curated: Vec<LayerEntry>, discovered: Vec<LayerEntry>) -> Vec<Merged> {
    let mut below: Vec<Option<LayerEntry>> = discovered.into_iter().map(Some).collect();
    let places: HashMap<String, usize> =
        below.iter().flatten().enumerate().map(|(i, entry)| (entry.name.clone(), i)).collect();
    let mut merged = Vec::with_capacity(curated.len() + below.len());
    for entry in curated {
        let under = places.get(&entry.name).and_then(|place| below[*place].take());
        merged.push(match under {
            None => alone(entry, Layer::Curated),
            Some(under) => {
                let mut value = under.value;
                overlay(&mut value, entry.value);
                let layers = vec![Layer::Curated, Layer::Discovered];
                Merged { value, layers, place: entry.place }
            }
        });
    }
    merged.extend(below.into_iter().flatten().map(|entry| alone(entry, Layer::Discovered)));
    merged
}

fn alone(entry: LayerEntry, layer: Layer) -> Merged {
    Merged { value: entry.value, layers: vec![layer], place: entry.place }
}

/// Non-null values go over; objects are merged, all else is replaced.
fn overlay(under: &mut Map<String, Value>, over: Map<String, Value>) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(_), Value::Null) => {}
            (Some(Value::Object(under)), Value::Object(over)) => overlay(under, over),
            (Some(slot), value) => *slot = value,
            (None, value) => {
                under.insert(key, value);
            }
        }
    }
}

/// The merged registry as a file.
pub fn materialize(merged: &[Merged]) -> String {
    let list: Vec<&Map<String, Value>> = merged.iter().map(|m| &m.value).collect();
    let text = serde_json::to_string_pretty(&list);
    // Values that came out of JSON go back into it.
    text.map_or_else(|_| String::new(), |text| text + "\n")
}

/// An old single file as two layers: what tools had written, and the rest (SPEC 4.1).
pub fn split_legacy(entries: &[LayerEntry]) -> (String, String) {
    let (discovered, curated): (Vec<&LayerEntry>, Vec<&LayerEntry>) =
        entries.iter().partition(|entry| is_discovered(&entry.value));
    let text = |entries: Vec<&LayerEntry>| {
        let list = entries.iter().map(|entry| Value::Object(entry.value.clone())).collect();
        format!("{:#}\n", Value::Array(list))
    };
    (text(curated), text(discovered))
}

fn is_discovered(value: &Map<String, Value>) -> bool {
    let created = value.get("metadata").and_then(|m| m.get("created_from_download"));
    let backend = value.get("backend").and_then(Value::as_str).unwrap_or_default();
    created.is_some_and(super::truth::is_truthy)
        || ["ollama", "unassigned"].iter().any(|known| backend.eq_ignore_ascii_case(known))
}

/// Offsets into lines and columns, in one pass for growing offsets.
struct Places<'a> {
    file: &'a str,
    text: &'a str,
    offset: usize,
    line: usize,
    line_start: usize,
}

impl<'a> Places<'a> {
    fn new(file: &'a str, text: &'a str) -> Self {
        Places { file, text, offset: 0, line: 1, line_start: 0 }
    }

    fn at(&mut self, offset: usize) -> Place {
        for found in memchr::memchr_iter(b'\n', &self.text.as_bytes()[self.offset..offset]) {
            self.line += 1;
            self.line_start = self.offset + found + 1;
        }
        self.offset = offset;
        Place { file: self.file.to_owned(), line: self.line, column: offset - self.line_start + 1 }
    }
}

fn place_of(file: &str, text: &[u8], offset: usize) -> Place {
    let before = &text[..offset.min(text.len())];
    let line_start = memchr::memrchr(b'\n', before).map_or(0, |at| at + 1);
    let line = memchr::memchr_iter(b'\n', before).count() + 1;
    Place { file: file.to_owned(), line, column: before.len() - line_start + 1 }
}

/// The parser's words with the place, and the entry that the place is in.
fn syntax_error(file: &str, text: &str, error: &serde_json::Error) -> LoadError {
    if error.classify() == serde_json::error::Category::Data {
        return LoadError::NotAList { file: file.to_owned() };
    }
    let place = Place { file: file.to_owned(), line: error.line(), column: error.column() };
    let offset = text
        .split_inclusive('\n')
        .take(error.line().saturating_sub(1))
        .map(str::len)
        .sum::<usize>()
        + error.column();
    let entry = entry_before(text, offset);
    LoadError::Syntax { place, entry, message: plain(error) }
}

/// The name that was read last before a place: that of the broken entry, or of the one before it.
fn entry_before(text: &str, offset: usize) -> Option<String> {
    let before = text.get(..offset.min(text.len()))?;
    let key = before.rfind("\"name\"")?;
    let value = before[key + 6..].trim_start().strip_prefix(':')?.trim_start();
    let name = value.strip_prefix('"')?.split('"').next()?;
    Some(name.to_owned())
}

/// serde_json's message without its own "at line … column …".
fn plain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests;
