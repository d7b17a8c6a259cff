//! Changes to the registry's files by a command line.
//!
//! Owns: the lock beside the layers, so that of two command lines none loses the other's change;
//! both layers read under it; the discovered layer and the list of dropped entries put in their
//! place at once. Must never do: write the curated layer, or a layer that could not be read. A
//! daemon needs no lock: it reads layers that are whole at every moment, and hears of new ones.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chat_proxy_core::registry::edit::{self, Change, Layers};
use chat_proxy_core::registry::{LoadError, Problem, Snapshot};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde_json::Value;

use super::files::{self, DISCOVERED};
use super::view::{RegistryError, RegistrySettings};
use crate::config::replace;

/// The file whose lock it is.
const LOCK: &str = ".model_registry.lock";
/// Where dropped entries are kept.
pub const GHOSTS: &str = "model_registry.ghosts.json";
/// A change is a matter of milliseconds; whoever holds the lock longer hangs.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(10);

/// Why the registry cannot be changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// Somebody else changes it all the time.
    #[error("{path} has been held by {owner} for {} s", PATIENCE.as_secs())]
    Busy {
        /// The lock's file.
        path: PathBuf,
        /// Who holds it, as far as can be told.
        owner: String,
    },
    /// It cannot be read.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A file cannot be written.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's words.
        error: io::Error,
    },
}

impl From<LoadError> for EditError {
    fn from(error: LoadError) -> Self {
        EditError::Registry(error.into())
    }
}

/// Both layers, and what they mean together.
#[derive(Debug, Default)]
pub struct Opened {
    /// Entries as they stand in their layers.
    pub layers: Layers,
    /// The same as the daemon would have them.
    pub snapshot: Snapshot,
}

impl Opened {
    /// Entries that were skipped.
    pub fn problems(&self) -> &[Problem] {
        self.snapshot.problems()
    }
}

/// What is to be written.
#[derive(Debug, Default)]
pub struct Edits {
    /// To the discovered layer.
    pub changes: Vec<Change>,
    /// To be added to the list of dropped entries.
    pub dropped: Vec<Value>,
}

/// Reads both layers as they are, without the lock.
pub fn open(settings: &RegistrySettings) -> Result<Opened, RegistryError> {
    let texts = files::peek(settings)?;
    if texts.curated.is_none() && texts.discovered.is_none() {
        return Err(RegistryError::Missing { dir: settings.dir.display().to_string() });
    }
    opened(settings, &texts)
}

fn opened(settings: &RegistrySettings, texts: &files::Texts) -> Result<Opened, RegistryError> {
    let [curated, discovered] = files::parse(settings, texts)?;
    let layers =
        Layers { curated: curated.entries.clone(), discovered: discovered.entries.clone() };
    let (snapshot, _) = Snapshot::build(curated, discovered, &settings.rules);
    Ok(Opened { layers, snapshot })
}

/// Changes the registry under its lock: `decide` sees it as it is at that moment. Says whether the
/// discovered layer is another one now. Blocking.
pub fn change<T>(
    settings: &RegistrySettings,
    decide: impl FnOnce(&Opened) -> (Edits, T),
) -> Result<(bool, T), EditError> {
    let lock = Lock::take(&settings.dir, PATIENCE)?;
    lock.sweep();
    // An old single file is split before it would be hidden behind a layer of ours.
    let texts = files::read(settings)?;
    let (edits, told) = decide(&opened(settings, &texts)?);
    let path = settings.dir.join(DISCOVERED);
    let name = path.display().to_string();
    let text = edit::apply(&name, texts.discovered.as_deref(), &edits.changes)?;
    // What is dropped is written down before it is gone.
    if !edits.dropped.is_empty() {
        write_down(&settings.dir.join(GHOSTS), edits.dropped)?;
    }
    if let Some(text) = &text {
        write(&path, text)?;
    }
    Ok((text.is_some(), told))
}

fn write_down(path: &Path, dropped: Vec<Value>) -> Result<(), EditError> {
    let fail = |error: io::Error| EditError::Io { path: path.to_owned(), error };
    let text = match fs::read(path) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(fail(error)),
    };
    let name = path.display().to_string();
    write(path, &edit::append(&name, text.as_deref(), dropped)?)
}

fn write(path: &Path, text: &str) -> Result<(), EditError> {
    replace(path, text).map_err(|error| EditError::Io { path: path.to_owned(), error })
}

/// The lock; given back when dropped, and by the kernel when the process ends.
struct Lock {
    dir: PathBuf,
    _file: Flock<File>,
}

impl Lock {
    fn take(dir: &Path, patience: Duration) -> Result<Lock, EditError> {
        let path = dir.join(LOCK);
        let fail = |error: io::Error| EditError::Io { path: path.clone(), error };
        fs::create_dir_all(dir).map_err(fail)?;
        let mut options = OpenOptions::new();
        let opened = options.create(true).truncate(false).read(true).write(true).open(&path);
        let mut file = opened.map_err(fail)?;
        let until = Instant::now() + patience;
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(mut file) => {
                    // For the message of another one; the lock itself is the fact.
                    let pid = std::process::id();
                    let _ = file.set_len(0).and_then(|()| writeln!(file, "{pid}"));
                    return Ok(Lock { dir: dir.to_owned(), _file: file });
                }
                Err((mut busy, Errno::EWOULDBLOCK)) if Instant::now() >= until => {
                    return Err(EditError::Busy { owner: owner(&mut busy), path });
                }
                Err((busy, Errno::EWOULDBLOCK | Errno::EINTR)) => file = busy,
                Err((_, error)) => return Err(fail(error.into())),
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Removes what command lines that were killed had begun to write: nobody else writes now.
    fn sweep(&self) {
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        for entry in entries.flatten() {
            if is_left_over(&entry.file_name().to_string_lossy()) {
                // What cannot be removed does no harm.
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// As [`replace`] names what it has not put in its place yet.
fn is_left_over(name: &str) -> bool {
    [DISCOVERED, GHOSTS].iter().any(|own| {
        let middle = name
            .strip_prefix('.')
            .and_then(|name| name.strip_prefix(own)?.strip_prefix('.')?.strip_suffix(".new"));
        middle.is_some_and(|pid| !pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit()))
    })
}

fn owner(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.take(32).read_to_string(&mut text));
    match text.trim().parse::<u32>() {
        Ok(pid) if read.is_ok() => format!("process {pid}"),
        _ => "another process".to_owned(),
    }
}

#[cfg(test)]
mod tests;
