//! What verbs share that read and write the registry's files.
//!
//! Owns: the registry of this machine, opened and changed for a verb; names; hashing with its
//! progress. Must never do: take this machine's files for those of a daemon elsewhere, or write
//! what the curated layer would hide.

use std::path::PathBuf;
use std::time::Instant;

use chat_proxy_actors::artifacts::{Hashing, Listing, Places, Whereabouts, hash, list};
use chat_proxy_actors::registry::edit::{self, EditError, Edits, GHOSTS, Opened};
use chat_proxy_actors::registry::{RegistryError, RegistrySettings};
use chat_proxy_core::artifacts::normalize::Paths;
use chat_proxy_core::artifacts::record::Hashed;
use chat_proxy_core::registry::edit::Change;
use serde_json::{Map, Value};

use super::Tools;
use super::error::CliError;
use super::model::bytes;
use super::progress::{BEAT, Progress};
use crate::settings;

/// See the module.
pub(super) struct Registry {
    pub(super) settings: RegistrySettings,
}

/// An entry that somebody has named.
pub(super) struct Named {
    pub(super) name: String,
    /// As both layers together have it.
    pub(super) entry: Map<String, Value>,
    pub(super) opened: Opened,
}

impl Registry {
    /// That of the settings here; all of it, also what the deployment does not show.
    pub(super) fn of(tools: &Tools) -> Result<Self, CliError> {
        if !tools.place.is_here() {
            return Err(CliError::failed(
                "this is about files of this machine, and --url names a daemon elsewhere",
                "run it on the machine where that daemon runs",
            ));
        }
        let mut settings = settings::registry(tools.place.settings()?);
        settings.rules.deployment.clear();
        Ok(Registry { settings })
    }

    /// As it stands; what is wrong with it is said.
    pub(super) fn open(&self, tools: &Tools) -> Result<Opened, CliError> {
        self.read(tools)
            .map_err(|error| CliError::Failed { message: error.to_string(), hint: None })
    }

    /// The same, where there may be none yet.
    pub(super) fn open_or_empty(&self, tools: &Tools) -> Result<Opened, CliError> {
        match self.read(tools) {
            Err(RegistryError::Missing { .. }) => Ok(Opened::default()),
            Err(error) => Err(CliError::Failed { message: error.to_string(), hint: None }),
            Ok(opened) => Ok(opened),
        }
    }

    fn read(&self, tools: &Tools) -> Result<Opened, RegistryError> {
        let opened = edit::open(&self.settings)?;
        for problem in opened.problems() {
            tools.out.note(&format!("warning: {problem}"));
        }
        Ok(opened)
    }

    /// An entry by any of its names.
    pub(super) fn named(&self, tools: &Tools, name: &str) -> Result<Named, CliError> {
        let opened = self.open(tools)?;
        let (entry, _) = opened.snapshot.resolve(name)?;
        let name = entry.name.clone();
        let entry = opened.layers.merged(&name).unwrap_or_default();
        Ok(Named { name, entry, opened })
    }

    /// Changes it under its lock; says whether it is another one now.
    pub(super) fn change<T>(
        &self,
        decide: impl FnOnce(&Opened) -> (Edits, T),
    ) -> Result<(bool, T), CliError> {
        edit::change(&self.settings, decide).map_err(|error| {
            let hint = match &error {
                EditError::Busy { .. } => {
                    Some("wait until that one is done, or end it, and try again".to_owned())
                }
                EditError::Registry(_) => Some("nothing was written".to_owned()),
                EditError::Io { .. } => None,
            };
            CliError::Failed { message: error.to_string(), hint }
        })
    }

    /// Gives one entry these fields.
    pub(super) fn set(&self, name: &str, fields: Map<String, Value>) -> Result<bool, CliError> {
        let change = Change::Set { name: name.to_owned(), fields };
        let edits = Edits { changes: vec![change], dropped: Vec::new() };
        self.change(|_| (edits, ())).map(|(is_new, ())| is_new)
    }

    /// Where dropped entries are kept.
    pub(super) fn ghosts(&self) -> PathBuf {
        self.settings.dir.join(GHOSTS)
    }

    /// Where engines look for files.
    pub(super) fn places(&self) -> Places {
        let engines = &self.settings.rules.endpoints.engine;
        let variable = |name: &str| engines.env.get(name).map(PathBuf::from);
        let hub = variable("HF_HUB_CACHE");
        let hub = hub.or_else(|| variable("HF_HOME").map(|home| home.join("hub")));
        Places { cwd: engines.cwd.clone(), hub }
    }
}

impl Named {
    /// What the curated layer says goes before what we could write.
    pub(super) fn refuse_if_curated(&self, fields: &[&[&str]]) -> Result<(), CliError> {
        let hidden = fields.iter().find(|field| self.opened.layers.is_curated(&self.name, field));
        let Some(field) = hidden else { return Ok(()) };
        let field = field.join(".");
        Err(CliError::failed(
            format!("the curated layer itself has `{field}` for {}", self.name),
            "change it there by hand: what is written by tools would have no effect",
        ))
    }

    /// The files of its download.
    pub(super) fn files(&self, places: &Places) -> Result<Listing, CliError> {
        let none = || {
            CliError::failed(
                format!("{} names no files: neither download_path nor model_path", self.name),
                "models of servers, such as Ollama's, are kept by those",
            )
        };
        let paths = Paths::of(&self.entry).ok_or_else(none)?;
        let path = match places.find(&paths) {
            Whereabouts::At(path) => path,
            Whereabouts::Gone => {
                let message = format!("the files of {} are gone: {}", self.name, paths.shown());
                return Err(CliError::failed(message, "`normalize-formats` drops such entries"));
            }
            Whereabouts::Unclear(message) => {
                return Err(CliError::Failed { message, hint: None });
            }
        };
        list(&path).map_err(|error| CliError::Failed {
            message: format!("{}: {error}", path.display()),
            hint: None,
        })
    }
}

/// Reads files to their ends, and says how far it is.
pub(super) struct Reader {
    progress: Progress,
    listing: Listing,
    total: u64,
    done: u64,
    drawn: Instant,
}

impl Reader {
    pub(super) fn new(listing: &Listing) -> Self {
        Reader {
            progress: Progress::begin(),
            total: listing.files.iter().map(|file| file.size).sum(),
            listing: listing.clone(),
            done: 0,
            drawn: Instant::now(),
        }
    }

    pub(super) fn read(&mut self, path: &str) -> std::io::Result<Hashed> {
        let Reader { progress, total, drawn, .. } = self;
        let mut tell = |at: Hashing<'_>| {
            progress.state(&how_far(at.done, *total));
            if drawn.elapsed() >= BEAT {
                progress.tick();
                *drawn = Instant::now();
            }
        };
        hash(&self.listing.root, path, &mut self.done, &mut tell)
    }
}

/// What is read in a moment needs no percents; of the rest each tenth is told once on paper.
fn how_far(done: u64, total: u64) -> String {
    const LONG: u64 = 200_000_000;
    if total < LONG {
        return format!("reading {}", bytes(total));
    }
    format!("reading {}: {} %", bytes(total), (done / (total / 10)).min(10) * 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_how_far_it_is() {
        let told = [
            (0, 0),
            (5, 9),
            (0, 4_000_000_000),
            (1_999_999_999, 4_000_000_000),
            (9_000_000_000, 4_000_000_000),
        ]
        .map(|(done, total)| how_far(done, total));
        insta::assert_snapshot!(told.join(", "), @"reading 0 B, reading 9 B, reading 4.0 GB: 0 %, reading 4.0 GB: 40 %, reading 4.0 GB: 100 %");
    }
}
