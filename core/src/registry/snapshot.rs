//! One immutable view of the registry: what requests are answered by from start to end.
//!
//! Owns: loading a file's text into entries, skipping and reporting bad ones. Must never do:
//! change after it was built.

use std::collections::HashMap;

use serde_json::Value;

use super::endpoint::{EndpointRules, Placement};
use super::entry::{Entry, is_reserved};
use super::resolve::{self, Index};
use crate::error::{ApiError, Code};

/// The file as a whole could not be read as a registry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// Not JSON.
    #[error("{file}:{line}:{column}: {message}")]
    Syntax {
        /// The file's name.
        file: String,
        /// Counted from 1.
        line: usize,
        /// Counted from 1.
        column: usize,
        /// The parser's words.
        message: String,
    },
    /// JSON, but no list.
    #[error("{file}: a registry is a list of entries: [ {{\"name\": …, \"backend\": …}}, … ]")]
    NotAList {
        /// The file's name.
        file: String,
    },
}

/// An entry that was skipped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}: entry {index}{}: {message}", name.as_ref().map_or(String::new(), |n| format!(" ({n:?})")))]
pub struct Problem {
    /// The file's name.
    pub file: String,
    /// Position in the list, counted from 1.
    pub index: usize,
    /// The entry's name, where it has one.
    pub name: Option<String>,
    /// What is wrong.
    pub message: String,
}

/// The registry at one moment.
#[derive(Debug, Default)]
pub struct Snapshot {
    entries: Vec<Entry>,
    placements: Vec<Placement>,
    index: Index,
    problems: Vec<Problem>,
}

impl Snapshot {
    /// Reads the text of `file`.
    pub fn load(file: &str, text: &[u8], rules: &EndpointRules) -> Result<Snapshot, LoadError> {
        // Editors on other systems begin files with a byte order mark.
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let value: Value = serde_json::from_slice(text).map_err(|e| LoadError::Syntax {
            file: file.to_owned(),
            line: e.line(),
            column: e.column(),
            message: e.to_string(),
        })?;
        let Value::Array(list) = value else {
            return Err(LoadError::NotAList { file: file.to_owned() });
        };
        Ok(Self::from_list(file, &list, rules))
    }

    fn from_list(file: &str, list: &[Value], rules: &EndpointRules) -> Snapshot {
        let mut snapshot = Snapshot::default();
        let mut seen: HashMap<String, usize> = HashMap::new();
        for (position, value) in list.iter().enumerate() {
            let read = Entry::parse(value).and_then(|entry| {
                if let Some(first) = seen.insert(entry.name.clone(), position + 1) {
                    return Err(format!("entry {first} has the same name; the first one counts"));
                }
                let placement = Placement::of(&entry, rules)?;
                Ok((entry, placement))
            });
            match read {
                Ok((entry, placement)) => {
                    snapshot.entries.push(entry);
                    snapshot.placements.push(placement);
                }
                Err(message) => snapshot.problems.push(Problem {
                    file: file.to_owned(),
                    index: position + 1,
                    name: value.get("name").and_then(Value::as_str).map(str::to_owned),
                    message,
                }),
            }
        }
        snapshot.index = Index::build(&snapshot.entries);
        snapshot
    }

    /// All entries in file order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Entries that were skipped, and why.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Finds the entry that `name` means, and where it lives.
    pub fn resolve(&self, name: &str) -> Result<(&Entry, &Placement), ApiError> {
        if is_reserved(name) {
            return Err(reserved(name));
        }
        if name.len() > MAX_NAME {
            return Err(resolve::not_found(name, &[]));
        }
        let found = self.index.find(name);
        let Some(best) = found.iter().copied().min_by_key(|i| preference(&self.entries[*i])) else {
            return Err(resolve::not_found(name, &resolve::nearest(name, &self.entries)));
        };
        if found.iter().any(|other| self.target(*other) != self.target(best)) {
            let candidates: Vec<&str> =
                found.iter().map(|i| self.entries[*i].name.as_str()).collect();
            return Err(resolve::ambiguous(name, &candidates));
        }
        Ok((&self.entries[best], &self.placements[best]))
    }

    /// What an entry really is at its backend: two entries of one target are one model.
    pub(super) fn target(&self, position: usize) -> Target<'_> {
        let entry = &self.entries[position];
        let place = match &self.placements[position] {
            Placement::SinglePort => entry.backend_config.model_path.as_deref().unwrap_or_default(),
            Placement::Ollama => entry.backend_config.base_url.as_deref().unwrap_or_default(),
            Placement::External(endpoint) => endpoint.base(),
        };
        (&entry.backend, place, entry.served_id())
    }
}

/// Backend, address or path, served id.
pub(super) type Target<'a> = (&'a str, &'a str, &'a str);

/// Of several entries for one target the smallest is listed and chosen.
pub(super) fn preference(entry: &Entry) -> (bool, bool, &str) {
    (entry.deprecated, entry.testing, &entry.name)
}

/// Longer names are nobody's; looking for what resembles them would cost the thread seconds.
const MAX_NAME: usize = 512;

fn reserved(name: &str) -> ApiError {
    if name == "resident" {
        return ApiError::new(Code::NoResident, "no model is loaded that `resident` could mean")
            .param("model")
            .hint("name a model; GET /v1/models lists them");
    }
    ApiError::new(Code::ModelNotFound, format!("{name:?}: no role has a model yet"))
        .param("model")
        .hint("name a model; GET /v1/models lists them")
}

#[cfg(test)]
mod tests;
