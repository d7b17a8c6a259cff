//! The registry's files: reading layers, materialising the merged view, splitting an old file.
//!
//! Owns: every effect on the registry directory (SPEC 4.1). Must never do: run on a thread that
//! serves requests, or leave half a file: all writing is done beside and renamed into place.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use chat_proxy_core::registry::layers::{self, LayerFile, materialize, split_legacy};
use chat_proxy_core::registry::listing::{Disk, LayerTimes};
use sha2::{Digest, Sha256};

use super::{RegistryError, RegistrySettings};
use crate::digest;

pub(super) const CURATED: &str = "model_registry.curated.json";
pub(super) const DISCOVERED: &str = "model_registry.discovered.json";
/// The merged view; ours to write, nobody's to edit.
pub(super) const MERGED: &str = "model_registry.json";
/// Where an old single file is kept after it was split.
const BACKUP: &str = "model_registry.legacy.json";

/// What there is of one layer, as far as changes go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark {
    inode: u64,
    modified_ns: i128,
    size: u64,
    hash: [u8; 32],
}

/// Both layers' marks: when they are the same, there is nothing to reload.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Fingerprint([Option<Mark>; 2]);

/// Both layers as they stand on the disk.
pub(super) struct Texts {
    pub(super) curated: Option<Vec<u8>>,
    pub(super) discovered: Option<Vec<u8>>,
    pub(super) times: LayerTimes,
    pub(super) fingerprint: Fingerprint,
}

/// Reads the layers; splits an old single file first, where that is all there is.
pub(super) fn read(settings: &RegistrySettings) -> Result<Texts, RegistryError> {
    let texts = read_layers(&settings.dir)?;
    if texts.curated.is_some() || texts.discovered.is_some() {
        return Ok(texts);
    }
    if split_old_file(settings)? {
        return read_layers(&settings.dir);
    }
    Ok(texts)
}

/// Reads the layers without splitting anything: an old single file counts as the curated layer.
pub(super) fn peek(settings: &RegistrySettings) -> Result<Texts, RegistryError> {
    let mut texts = read_layers(&settings.dir)?;
    if texts.curated.is_none() && texts.discovered.is_none() {
        texts.curated = read_layer(&settings.dir.join(MERGED))?.map(|(text, _)| text);
    }
    Ok(texts)
}

fn read_layers(dir: &Path) -> Result<Texts, RegistryError> {
    let (curated, curated_mark) = read_layer(&dir.join(CURATED))?.unzip();
    let (discovered, discovered_mark) = read_layer(&dir.join(DISCOVERED))?.unzip();
    let seconds = |mark: &Option<Mark>| {
        mark.as_ref().map_or(0, |m| u64::try_from(m.modified_ns / 1_000_000_000).unwrap_or(0))
    };
    let times =
        LayerTimes { curated: seconds(&curated_mark), discovered: seconds(&discovered_mark) };
    let fingerprint = Fingerprint([curated_mark, discovered_mark]);
    Ok(Texts { curated, discovered, times, fingerprint })
}

fn read_layer(path: &Path) -> Result<Option<(Vec<u8>, Mark)>, RegistryError> {
    let read = || -> io::Result<(Vec<u8>, Mark)> {
        let mut file = fs::File::open(path)?;
        let mut text = Vec::new();
        io::Read::read_to_end(&mut file, &mut text)?;
        let meta = file.metadata()?;
        let modified_ns = meta.modified().map_or(0, nanos);
        let hash = Sha256::digest(&text).into();
        let mark = Mark { inode: meta.ino(), modified_ns, size: meta.len(), hash };
        Ok((text, mark))
    };
    match read() {
        Ok(layer) => Ok(Some(layer)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error(path, &error)),
    }
}

fn nanos(time: SystemTime) -> i128 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i128::try_from(after.as_nanos()).unwrap_or(0),
        Err(_) => 0,
    }
}

pub(super) fn io_error(path: &Path, error: &io::Error) -> RegistryError {
    RegistryError::Io { file: path.display().to_string(), message: error.to_string() }
}

/// The layers of texts; a layer that is not there has no entries.
pub(super) fn parse(
    settings: &RegistrySettings,
    texts: &Texts,
) -> Result<[LayerFile; 2], RegistryError> {
    let one = |name: &str, text: &Option<Vec<u8>>| match text {
        None => Ok(LayerFile::default()),
        Some(text) => layers::read_layer(&settings.dir.join(name).display().to_string(), text),
    };
    Ok([one(CURATED, &texts.curated)?, one(DISCOVERED, &texts.discovered)?])
}

/// Writes the merged view if it is another one; a directory that takes no file is no failure of
/// the registry, which serves from memory.
pub(super) fn write_merged(settings: &RegistrySettings, merged: &[layers::Merged]) {
    let text = materialize(merged);
    let path = settings.dir.join(MERGED);
    if fs::read(&path).is_ok_and(|old| old == text.as_bytes()) {
        return;
    }
    // The hash goes first: a file of ours must never be taken for a user's, whenever we die.
    let written =
        remember(settings, text.as_bytes()).and_then(|()| replace(&path, text.as_bytes()));
    if let Err(error) = written {
        tracing::warn!(%error, file = %path.display(), "the merged registry was not written");
    }
}

/// Whether a file of the registry's directory is one that we write.
pub(crate) fn is_ours(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name == MERGED || name.ends_with(".json.new")
}

/// Writes beside and renames into place.
fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("json.new");
    let mut file = fs::File::create(&beside)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&beside, path)
}

/// Like [`replace`], but never over a file that somebody has made meanwhile.
fn create(path: &Path, text: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("json.new");
    fs::write(&beside, text)?;
    let linked = fs::hard_link(&beside, path);
    fs::remove_file(&beside)?;
    match linked {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Where the hash of our own file is kept: one file for each registry directory.
fn memory(settings: &RegistrySettings) -> PathBuf {
    let dir = fs::canonicalize(&settings.dir).unwrap_or_else(|_| settings.dir.clone());
    let key = digest::short(dir.as_os_str().as_encoded_bytes());
    settings.state_dir.join(format!("registry-{key}.sha256"))
}

fn remember(settings: &RegistrySettings, text: &[u8]) -> io::Result<()> {
    fs::create_dir_all(&settings.state_dir)?;
    replace(&memory(settings), digest::whole(text).as_bytes())
}

/// Splits a single file that a user had, and keeps it as a backup. A file that we wrote is no
/// registry: its layers were removed on purpose.
fn split_old_file(settings: &RegistrySettings) -> Result<bool, RegistryError> {
    let path = settings.dir.join(MERGED);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(io_error(&path, &error)),
    };
    let ours =
        fs::read_to_string(memory(settings)).is_ok_and(|hash| hash.trim() == digest::whole(&text));
    if ours {
        return Ok(false);
    }
    let layer = layers::read_layer(&path.display().to_string(), &text)?;
    let (curated, discovered) = split_legacy(&layer.entries);
    let fail = |error: io::Error| io_error(&path, &error);
    // The discovered layer first: as long as it stands alone, the curated one is still the old file's.
    fs::copy(&path, settings.dir.join(BACKUP)).map_err(fail)?;
    create(&settings.dir.join(DISCOVERED), discovered.as_bytes()).map_err(fail)?;
    create(&settings.dir.join(CURATED), curated.as_bytes()).map_err(fail)?;
    tracing::info!(file = %path.display(), backup = BACKUP, "an old registry was split into its layers");
    Ok(true)
}

/// The disk itself, for the listing.
pub(super) struct RealDisk;

impl Disk for RealDisk {
    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }

    fn names(&self, dir: &Path) -> Vec<String> {
        let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }
}
