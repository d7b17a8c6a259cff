//! Which entry a requested name means (SPEC 4.5).
//!
//! Owns: the levels of the search, ambiguity and near misses. Must never do: prefer a later level
//! over an earlier one, or choose between two different backends that answer to one name.

use std::collections::HashMap;

use super::entry::Entry;
use crate::error::{ApiError, Code};

/// Names as they are, then the same names without case and punctuation.
const LEVELS: usize = 9;

/// The search index over a snapshot's entries; numbers are positions in its list.
#[derive(Debug, Default)]
pub(super) struct Index {
    levels: [HashMap<String, Vec<usize>>; LEVELS],
}

impl Index {
    pub(super) fn build(entries: &[Entry]) -> Index {
        let mut index = Index::default();
        for (position, entry) in entries.iter().enumerate() {
            for (level, name) in names(entry) {
                let slot = index.levels[level].entry(name).or_default();
                if !slot.contains(&position) {
                    slot.push(position);
                }
            }
        }
        index
    }

    /// The positions that answer to `name` on the first level where any does.
    pub(super) fn find(&self, name: &str) -> &[usize] {
        let plain = normalize(name);
        for (level, names) in self.levels.iter().enumerate() {
            let key = if level < 4 { name } else { plain.as_str() };
            if key.is_empty() {
                continue;
            }
            if let Some(found) = names.get(key) {
                return found;
            }
        }
        &[]
    }
}

/// Up to three entries whose names look most like `name`, each by its nearest name.
pub(super) fn nearest<'a>(name: &str, entries: &'a [Entry]) -> Vec<&'a str> {
    let wanted = normalize(name);
    let nearest_of = |entry: &'a Entry| {
        let score = |known: &'a str| (likeness(&wanted, &normalize(known)), known);
        let (shown, logical) = (score(entry.display()), score(&entry.name));
        if logical.0 > shown.0 { logical } else { shown }
    };
    let mut scored: Vec<(f64, &str)> =
        entries.iter().map(nearest_of).filter(|(score, _)| *score > 0.6).collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    scored.into_iter().take(3).map(|(_, known)| known).collect()
}

/// All names of an entry with their levels.
fn names(entry: &Entry) -> Vec<(usize, String)> {
    let mut names = vec![(0, entry.name.clone()), (3, entry.display().to_owned())];
    names.extend(entry.model_aliases.iter().map(|alias| (1, alias.clone())));
    names.extend(entry.served_model_id.iter().map(|id| (2, id.clone())));
    let plain: Vec<_> = names.iter().map(|(level, name)| (level + 4, normalize(name))).collect();
    names.extend(plain);
    // `display (QUANT)` and `display-quant` are the same without punctuation.
    if let Some(quant) = &entry.quantization {
        names.push((8, normalize(&format!("{}{quant}", entry.display()))));
    }
    names
}

/// Lower case, letters and digits only.
pub fn normalize(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// 1 for the same, 0 for nothing alike; a name that contains the other counts as near.
fn likeness(wanted: &str, known: &str) -> f64 {
    if wanted.is_empty() || known.is_empty() {
        return 0.0;
    }
    let base = strsim::jaro_winkler(wanted, known);
    if wanted.len() > 2 && (known.contains(wanted) || wanted.contains(known)) {
        return base.max(0.85);
    }
    base
}

/// The error for a name that no entry answers to.
pub(super) fn not_found(name: &str, nearest: &[&str]) -> ApiError {
    let shown: String = name.chars().take(200).collect();
    let error =
        ApiError::new(Code::ModelNotFound, format!("no model answers to the name {shown:?}"))
            .param("model");
    if nearest.is_empty() {
        error.hint(
            "GET /v1/models lists the models that there are; GET /v1/debug/registry says what was read, and from where",
        )
    } else {
        error.hint(format!("did you mean: {}?", nearest.join(", ")))
    }
}

/// The error for a name that several different backends answer to.
pub(super) fn ambiguous(name: &str, candidates: &[&str]) -> ApiError {
    let shown: String = name.chars().take(200).collect();
    ApiError::new(
        Code::ModelAmbiguous,
        format!("{shown:?} can mean several models: {}", candidates.join(", ")),
    )
    .param("model")
    .hint("ask for one of them by its full name")
}
