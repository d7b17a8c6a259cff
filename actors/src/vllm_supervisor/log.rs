//! An engine's log: opened anew for each start, read at its end.
//!
//! Owns: its rotation before a start, and the way from its tail to the telling line. Must never
//! do: stand between the engine and the file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use chat_proxy_core::engine::telling::{TAIL, telling_line};

use crate::rotation;

/// The file for a new start; what an earlier one wrote is kept beside it.
pub(super) fn open(path: &Path, keep: u32) -> io::Result<File> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    if fs::metadata(path).is_ok_and(|meta| meta.len() > 0) {
        rotation::rotate(path, keep)?;
    }
    OpenOptions::new().create(true).append(true).open(path)
}

/// The line that tells why the engine ended. Blocking.
pub(super) fn why(path: &Path) -> Option<String> {
    match tail(path) {
        Ok(text) => telling_line(&text),
        Err(error) => Some(format!("its log {} cannot be read: {error}", path.display())),
    }
}

fn tail(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(TAIL)))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// How much it has written so far.
pub(super) fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |meta| meta.len())
}
