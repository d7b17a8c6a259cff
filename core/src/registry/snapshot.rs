//! One immutable view of the registry: what requests are answered by from start to end.
//!
//! Owns: merged entries as typed ones, skipping and reporting bad ones. Must never do: change
//! after it was built.

use serde::Serialize;
use serde_json::Value;

use super::endpoint::{EndpointRules, Placement};
use super::entry::{Entry, is_reserved};
use super::layers::{self, Layer, LayerFile, Merged, Place};
use super::resident::RESIDENT;
use super::resolve::{self, Index};
use super::template::Template;
use crate::error::{ApiError, Code};

/// A layer as a whole could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// Not JSON.
    #[error("{place}: {message}{}", entry.as_ref().map_or(String::new(), |e| format!(" (in or behind entry {e:?})")))]
    Syntax {
        /// Where the parser stopped.
        place: Place,
        /// The last name before that place.
        entry: Option<String>,
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
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize)]
#[error("{place}: entry{}: {message}", name.as_ref().map_or(String::new(), |n| format!(" {n:?}")))]
pub struct Problem {
    /// Where it begins.
    pub place: Place,
    /// The entry's name, where it has one.
    pub name: Option<String>,
    /// What is wrong.
    pub message: String,
}

/// What a snapshot is built by.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// How addresses are read.
    pub endpoints: EndpointRules,
    /// Entries that name profiles, and not this one, are not there. Empty: all are.
    pub deployment: String,
}

/// The registry at one moment.
#[derive(Debug, Default)]
pub struct Snapshot {
    entries: Vec<Entry>,
    placements: Vec<Placement>,
    templates: Vec<Template>,
    layers: Vec<Vec<Layer>>,
    index: Index,
    problems: Vec<Problem>,
    /// Entries of other deployments: their names, and what they belong to.
    elsewhere: Vec<(String, Vec<String>)>,
    deployment: String,
}

impl Snapshot {
    /// Builds the view of two layers; also answers the merged list, to be materialised.
    pub fn build(curated: LayerFile, discovered: LayerFile, rules: &Rules) -> (Self, Vec<Merged>) {
        let merged = layers::merge(curated.entries, discovered.entries);
        let problems = [curated.problems, discovered.problems].concat();
        let deployment = rules.deployment.clone();
        let mut snapshot = Snapshot { problems, deployment, ..Snapshot::default() };
        for item in &merged {
            snapshot.add(item, rules);
        }
        snapshot.index = Index::build(&snapshot.entries);
        (snapshot, merged)
    }

    fn add(&mut self, merged: &Merged, rules: &Rules) {
        let read = Entry::parse(&merged.value).and_then(|entry| {
            let placement = Placement::of(&entry, &rules.endpoints)?;
            Ok((entry, placement))
        });
        match read {
            Ok((entry, _)) if !entry.belongs_to(&rules.deployment) => {
                self.elsewhere.push((entry.name, entry.profiles));
            }
            Ok((entry, placement)) => {
                self.templates.push(Template::of(&entry, &rules.endpoints.engine));
                self.entries.push(entry);
                self.placements.push(placement);
                self.layers.push(merged.layers.clone());
            }
            Err(message) => self.problems.push(Problem {
                place: merged.place.clone(),
                name: merged.value.get("name").and_then(Value::as_str).map(str::to_owned),
                message,
            }),
        }
    }

    /// Reads one text as the only layer; for tests and single files.
    pub fn load(file: &str, text: &[u8], rules: &EndpointRules) -> Result<Snapshot, LoadError> {
        let layer = layers::read_layer(file, text)?;
        let rules = Rules { endpoints: rules.clone(), deployment: String::new() };
        Ok(Self::build(layer, LayerFile::default(), &rules).0)
    }

    /// The layers that an entry came from.
    pub fn layers(&self, position: usize) -> &[Layer] {
        &self.layers[position]
    }

    /// Where an entry lives.
    pub fn placement(&self, position: usize) -> &Placement {
        &self.placements[position]
    }

    /// How an entry comes by its chat template.
    pub fn template(&self, position: usize) -> &Template {
        &self.templates[position]
    }

    /// The position of the entry that `name` means, as [`Snapshot::resolve`] finds it.
    pub fn position(&self, name: &str) -> Result<usize, ApiError> {
        if is_reserved(name) {
            return Err(reserved(name));
        }
        if name.len() > MAX_NAME {
            return Err(resolve::not_found(name, &[]));
        }
        let found = self.index.find(name);
        let Some(best) = found.iter().copied().min_by_key(|i| preference(&self.entries[*i])) else {
            let refusal = resolve::not_found(name, &resolve::nearest(name, &self.entries));
            return Err(match self.why_missing(name) {
                Some(why) => refusal.hint(why),
                None => refusal,
            });
        };
        if found.iter().any(|other| self.target(*other) != self.target(best)) {
            let candidates: Vec<&str> =
                found.iter().map(|i| self.entries[*i].name.as_str()).collect();
            return Err(resolve::ambiguous(name, &candidates));
        }
        Ok(best)
    }

    /// Why a name that stands in the files is nobody's, and what to do.
    fn why_missing(&self, name: &str) -> Option<String> {
        if let Some((name, profiles)) = self.elsewhere.iter().find(|(hidden, _)| hidden == name) {
            return Some(format!(
                "{name} belongs to the deployment {}, and this proxy serves {}: switch with PUT /v1/config/profile, or change its metadata.profiles",
                profiles.join(", "),
                self.deployment
            ));
        }
        let skipped = self.problems.iter().any(|problem| problem.name.as_deref() == Some(name));
        skipped.then(|| {
            format!("the entry {name} is wrong and was skipped: GET /v1/debug/registry says why")
        })
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
        let position = self.position(name)?;
        Ok((&self.entries[position], &self.placements[position]))
    }

    /// Whether two entries are one model at its backend.
    pub fn is_same_model(&self, one: usize, other: usize) -> bool {
        self.target(one) == self.target(other)
    }

    /// What an entry really is at its backend: two entries of one target are one model.
    pub(super) fn target(&self, position: usize) -> Target<'_> {
        let entry = &self.entries[position];
        let place = match &self.placements[position] {
            Placement::SinglePort(launch) => launch.source.as_str(),
            Placement::Ollama(model) => model.server.base(),
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

pub(super) fn reserved(name: &str) -> ApiError {
    if name == RESIDENT {
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
