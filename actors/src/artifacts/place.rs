//! Where the files are that an entry names.
//!
//! Owns: what is a path and what is a name at the Hugging Face hub, and where that one's files are.
//! Must never do: take what it does not understand for something that is not there.

use std::path::{Path, PathBuf};

use chat_proxy_core::artifacts::normalize::Paths;
use chat_proxy_core::registry::template::ModelFiles;

use super::is_there;
use crate::templates::directory_of;

/// Where engines look for what is no absolute path.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// The engines' directory, if it is not ours.
    pub cwd: Option<PathBuf>,
    /// The hub's cache, where the engines' environment names it.
    pub hub: Option<PathBuf>,
}

/// What came of a search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whereabouts {
    /// Here: a directory, or a file.
    At(PathBuf),
    /// Nowhere: every path is one of this machine, and none is there.
    Gone,
    /// Nowhere that could be looked at.
    Unclear(String),
}

impl Places {
    /// Searches for the first that is there.
    pub fn find(&self, paths: &Paths) -> Whereabouts {
        let mut doubt = None;
        let named = [(&paths.download, false), (&paths.model, true)];
        for (path, may_be_a_name) in named {
            let Some(path) = path else { continue };
            match self.find_one(path, may_be_a_name) {
                Whereabouts::At(found) => return Whereabouts::At(found),
                Whereabouts::Gone => {}
                Whereabouts::Unclear(why) => doubt = doubt.or(Some(why)),
            }
        }
        doubt.map_or(Whereabouts::Gone, Whereabouts::Unclear)
    }

    fn find_one(&self, text: &str, may_be_a_name: bool) -> Whereabouts {
        if text.contains("://") {
            return Whereabouts::Unclear(format!("{text} is no path of this machine"));
        }
        if text.starts_with('~') {
            return Whereabouts::Unclear(format!("{text}: `~` means nothing here, write it out"));
        }
        let own = PathBuf::from(text);
        let engines = self.cwd.as_ref().map(|cwd| cwd.join(text));
        for path in [Some(&own), engines.as_ref()].into_iter().flatten() {
            match is_there(path) {
                Ok(true) => return Whereabouts::At(absolute(path)),
                Ok(false) => {}
                Err(error) => return Whereabouts::Unclear(format!("{text}: {error}")),
            }
        }
        let files =
            ModelFiles { source: text.to_owned(), hub: self.hub.clone(), cwd: self.cwd.clone() };
        if let Some(snapshot) = directory_of(&files) {
            return Whereabouts::At(absolute(&snapshot));
        }
        if may_be_a_name && files.in_hub().is_some() {
            return Whereabouts::Unclear(format!("{text} is not in the hub's cache"));
        }
        Whereabouts::Gone
    }
}

/// What is written down holds wherever it is read.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
