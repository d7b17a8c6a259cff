//! Finding chat templates on the disk (SPEC 5.1).
//!
//! Owns: `_staging/chat_templates/`, where templates lie that stand inside of other files, and what has
//! been found before. Must never do: look at the disk on a thread that serves, or write anywhere else.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use chat_proxy_core::registry::template::{
    ADDITIONAL, Embedded, ModelFiles, TemplatePlaces, candidates, embedded,
};

use crate::digest;

/// No tokenizer's settings are larger.
const MAX_FILE: u64 = 64 << 20;

/// What a search came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// This file holds the template and nothing else.
    File(PathBuf),
    /// The model brings along what its engine is to choose from.
    WithTheModel,
    /// There is none.
    Missing,
}

/// Searches, and remembers what was found. All threads share one.
#[derive(Debug, Clone)]
pub struct Templates {
    staging: PathBuf,
    seen: Arc<RwLock<HashMap<String, TemplatePlaces>>>,
}

impl Templates {
    /// `staging`: where extracted templates are put.
    pub fn new(staging: PathBuf) -> Self {
        Templates { staging, seen: Arc::default() }
    }

    /// Whether a template was found at these places before: without a look at the disk.
    pub fn has_seen(&self, places: &TemplatePlaces) -> bool {
        let seen = self.seen.read().unwrap_or_else(PoisonError::into_inner);
        seen.get(&places.model) == Some(places)
    }

    /// Looks at all places, best first. Blocking.
    pub fn find(&self, places: &TemplatePlaces) -> Found {
        let found = self.search(places);
        let gone =
            places.named.as_ref().filter(|named| found != Found::Missing && !named.is_file());
        // Where nothing else is found, whoever asked is told.
        if let Some(named) = gone {
            tracing::warn!(model = %places.model, path = %named.display(), "the chat template that the entry names is not there; another one is used");
        }
        let mut seen = self.seen.write().unwrap_or_else(PoisonError::into_inner);
        if found == Found::Missing {
            seen.remove(&places.model);
        } else {
            seen.insert(places.model.clone(), places.clone());
        }
        found
    }

    fn search(&self, places: &TemplatePlaces) -> Found {
        let file = |path: &Option<PathBuf>| path.clone().filter(|path| path.is_file());
        let named = file(&places.named).and_then(|named| self.in_file(places, &named));
        if let Some(found) = named {
            return found;
        }
        let beside = places.files.as_ref().and_then(directory_of);
        if let Some(found) = beside.and_then(|directory| self.in_directory(places, &directory)) {
            return found;
        }
        match file(&places.by_name) {
            Some(by_name) => Found::File(by_name),
            None if places.declared => Found::WithTheModel,
            None => Found::Missing,
        }
    }

    fn in_directory(&self, places: &TemplatePlaces, directory: &Path) -> Option<Found> {
        let names = fs::read_dir(directory).ok()?.filter_map(|entry| {
            let entry = entry.ok()?;
            // Files of the hub's cache are links.
            let is_file = entry.path().is_file();
            entry.file_name().into_string().ok().filter(|_| is_file)
        });
        let names: Vec<String> = names.collect();
        if directory.join(ADDITIONAL).is_dir() {
            return Some(Found::WithTheModel);
        }
        candidates(&names).iter().find_map(|name| self.in_file(places, &directory.join(name)))
    }

    /// A file that is a template, or that holds one.
    fn in_file(&self, places: &TemplatePlaces, path: &Path) -> Option<Found> {
        if path.extension().is_none_or(|end| end != "json") {
            return Some(Found::File(path.to_owned()));
        }
        let read = read_bounded(path).and_then(|bytes| embedded(&bytes).map_err(io::Error::from));
        let extracted = match read {
            Ok(Embedded::One(text)) => self.extract(&places.model, &text),
            Ok(Embedded::Several) => return Some(Found::WithTheModel),
            Ok(Embedded::None) => return None,
            Err(error) => Err(error),
        };
        match extracted {
            Ok(path) => Some(Found::File(path)),
            Err(error) => {
                tracing::warn!(model = %places.model, path = %path.display(), %error, "a chat template cannot be read or put aside");
                None
            }
        }
    }

    /// Puts a template into a file of its own, once: the file's name is the content's.
    fn extract(&self, model: &str, text: &str) -> io::Result<PathBuf> {
        let harmless = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        let safe: String =
            model.chars().take(80).map(|c| if harmless(c) { c } else { '_' }).collect();
        let content = digest::short(text.as_bytes());
        let path = self.staging.join(format!("{safe}-{content}.jinja"));
        if path.is_file() {
            return Ok(path);
        }
        fs::create_dir_all(&self.staging)?;
        let mut file = tempfile::NamedTempFile::new_in(&self.staging)?;
        file.write_all(text.as_bytes())?;
        file.persist(&path).map_err(|error| error.error)?;
        Ok(path)
    }
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::Error::other(format!("it is larger than {MAX_FILE} bytes")));
    }
    Ok(bytes)
}

/// The directory of a model's files: as it is named, or in the hub's cache.
pub(crate) fn directory_of(files: &ModelFiles) -> Option<PathBuf> {
    let named = match &files.cwd {
        Some(cwd) => cwd.join(&files.source),
        None => PathBuf::from(&files.source),
    };
    if named.is_dir() {
        return Some(named);
    }
    // A file, such as a GGUF: what lies beside it belongs to it.
    if named.is_file() {
        return named.parent().map(Path::to_owned);
    }
    let model = hub(files)?.join(files.in_hub()?);
    let version = fs::read_to_string(model.join("refs/main")).ok()?;
    let snapshot = model.join("snapshots").join(version.trim());
    snapshot.is_dir().then_some(snapshot)
}

/// The hub's cache: <https://huggingface.co/docs/huggingface_hub/guides/manage-cache>.
fn hub(files: &ModelFiles) -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    files
        .hub
        .clone()
        .or_else(|| variable("HF_HUB_CACHE"))
        .or_else(|| Some(variable("HF_HOME")?.join("hub")))
        .or_else(|| Some(variable("XDG_CACHE_HOME")?.join("huggingface/hub")))
        .or_else(|| Some(variable("HOME")?.join(".cache/huggingface/hub")))
}

#[cfg(test)]
mod tests;
