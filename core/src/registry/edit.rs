//! Changes to the text of a layer.
//!
//! Owns: entries that are added, removed, or given other fields. Must never do: lose a field, an
//! entry or an order that it does not know; or answer another text where nothing has changed.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::layers::{self, Layer, LayerEntry};
use super::snapshot::LoadError;
use super::truth::is_truthy;

/// One change.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Gives the entry of this name these fields: objects are merged, all else replaced, and `null`
    /// takes a field away. Where there is no such entry it is added at the end.
    Set {
        /// The entry's name.
        name: String,
        /// What it is to have.
        fields: Map<String, Value>,
    },
    /// Takes the entry away.
    Remove {
        /// The entry's name.
        name: String,
    },
}

/// Carries out changes on a layer's text; a layer that is not there is an empty one. `None`: the text
/// says all that already.
pub fn apply(
    file: &str,
    text: Option<&[u8]>,
    changes: &[Change],
) -> Result<Option<String>, LoadError> {
    let before = read_list(file, text)?;
    let mut list = before.clone();
    for change in changes {
        match change {
            Change::Set { name, fields } => set(&mut list, name, fields),
            Change::Remove { name } => remove(&mut list, name),
        }
    }
    Ok((list != before).then(|| format!("{:#}\n", Value::Array(list))))
}

/// Adds objects at the end of a list in a file.
pub fn append(file: &str, text: Option<&[u8]>, more: Vec<Value>) -> Result<String, LoadError> {
    let mut list = read_list(file, text)?;
    list.extend(more);
    Ok(format!("{:#}\n", Value::Array(list)))
}

fn read_list(file: &str, text: Option<&[u8]>) -> Result<Vec<Value>, LoadError> {
    let Some(text) = text else { return Ok(Vec::new()) };
    // The place of what is wrong is told by the reader.
    layers::read_layer(file, text)?;
    let bytes = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    serde_json::from_slice(bytes).map_err(|_| LoadError::NotAList { file: file.to_owned() })
}

/// The entry that counts is the first one of its name.
fn find(list: &[Value], name: &str) -> Option<usize> {
    list.iter().position(|entry| {
        entry.as_object().and_then(|e| e.get("name")?.as_str()).map(str::trim) == Some(name)
    })
}

fn set(list: &mut Vec<Value>, name: &str, fields: &Map<String, Value>) {
    if let Some(entry) = find(list, name).and_then(|position| list[position].as_object_mut()) {
        return merge(entry, fields);
    }
    let mut entry = Map::from_iter([("name".to_owned(), Value::from(name))]);
    merge(&mut entry, fields);
    // A name alone says nothing.
    if entry.len() > 1 {
        list.push(Value::Object(entry));
    }
}

fn merge(under: &mut Map<String, Value>, over: &Map<String, Value>) {
    for (key, value) in over {
        match (under.get_mut(key), value) {
            (_, Value::Null) => {
                under.shift_remove(key);
            }
            (Some(Value::Object(under)), Value::Object(over)) => merge(under, over),
            (_, value) => {
                under.insert(key.clone(), without_nulls(value));
            }
        }
    }
}

/// What a field becomes; in lists `null` is a value.
fn without_nulls(value: &Value) -> Value {
    let Value::Object(map) = value else { return value.clone() };
    let kept = map.iter().filter(|(_, value)| !value.is_null());
    Value::Object(kept.map(|(key, value)| (key.clone(), without_nulls(value))).collect())
}

fn remove(list: &mut Vec<Value>, name: &str) {
    if let Some(position) = find(list, name) {
        list.remove(position);
    }
}

/// Both layers, each entry as it stands there.
#[derive(Debug, Clone, Default)]
pub struct Layers {
    /// Written by hand.
    pub curated: Vec<LayerEntry>,
    /// Written by tools.
    pub discovered: Vec<LayerEntry>,
}

impl Layers {
    /// An entry as one layer has it.
    pub fn in_layer(&self, layer: Layer, name: &str) -> Option<&Map<String, Value>> {
        let entries = match layer {
            Layer::Curated => &self.curated,
            Layer::Discovered => &self.discovered,
        };
        entries.iter().find(|entry| entry.name == name).map(|entry| &entry.value)
    }

    /// An entry as both layers together have it.
    pub fn merged(&self, name: &str) -> Option<Map<String, Value>> {
        let of = |entries: &[LayerEntry]| {
            entries.iter().filter(|entry| entry.name == name).take(1).cloned().collect()
        };
        layers::merge(of(&self.curated), of(&self.discovered)).pop().map(|merged| merged.value)
    }

    /// All names, those of the curated layer first.
    pub fn names(&self) -> Vec<&str> {
        let mut seen = BTreeSet::new();
        let all = self.curated.iter().chain(&self.discovered).map(|entry| entry.name.as_str());
        all.filter(|name| seen.insert(*name)).collect()
    }

    /// Whether the curated layer itself says something of this field.
    pub fn is_curated(&self, name: &str, path: &[&str]) -> bool {
        let entry = self.in_layer(Layer::Curated, name);
        let Some((first, rest)) = path.split_first() else { return entry.is_some() };
        let field = entry.and_then(|entry| entry.get(*first));
        let found = rest.iter().try_fold(field, |value, key| Some(value?.get(key)));
        found.flatten().is_some_and(says_something)
    }
}

/// `null` says nothing, and neither does an object of such.
fn says_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Object(map) => map.values().any(says_something),
        _ => true,
    }
}

/// Whether an entry's version must not change.
pub fn is_locked(entry: &Map<String, Value>) -> bool {
    match entry.get("version_lock") {
        Some(Value::Object(lock)) => lock.get("locked").is_some_and(is_truthy),
        Some(value) => is_truthy(value),
        None => false,
    }
}

#[cfg(test)]
mod tests;
