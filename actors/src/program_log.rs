//! The log of a program that we started, an engine or a service: opened anew for each start,
//! shortened while it runs, read at its end.
//!
//! Owns: its rotation before a start and during a run, its last lines, reading it on as it is
//! written, and the way from its tail to the telling line. Must never do: stand between the
//! program and the file.

mod follow;
mod shorten;
mod tail;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use chat_proxy_core::engine::telling::{TAIL, telling_line, telling_line_of_the_killed};

use crate::rotation;

pub use follow::{Cursor, Excerpt, Follower, Kind, News, NoCursor, Step};
pub(crate) use shorten::shorten;
use tail::tail;

/// As much of a log's end is read at most for its last lines (bytes).
const MOST: u64 = 8 << 20;

/// The last lines of a log, oldest first. Blocking.
pub fn last_lines(path: &Path, lines: usize) -> io::Result<Vec<String>> {
    tail(path, lines, MOST)
}

/// The file for a new start; what an earlier one wrote is kept beside it.
pub(crate) fn open(path: &Path, keep: u32) -> io::Result<File> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    if fs::metadata(path).is_ok_and(|meta| meta.len() > 0) {
        rotation::rotate(path, keep)?;
    }
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    // A pipe that nobody reads would block the open for ever, and one that somebody reads the
    // program.
    let file = options.custom_flags(nonblocking()).open(path)?;
    is_regular(&file)?;
    rustix::fs::fcntl_setfl(&file, rustix::fs::OFlags::APPEND)?;
    Ok(file)
}

fn nonblocking() -> i32 {
    rustix::fs::OFlags::NONBLOCK.bits().cast_signed()
}

fn is_regular(file: &File) -> io::Result<()> {
    if file.metadata()?.is_file() {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"))
}

/// The file to be read, if it is there.
fn open_to_read(path: &Path) -> io::Result<Option<File>> {
    match File::options().read(true).custom_flags(nonblocking()).open(path) {
        Ok(file) => is_regular(&file).map(|()| Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The line that tells why the program ended; `killed`: by a signal. Blocking.
pub(crate) fn why(path: &Path, killed: bool) -> Option<String> {
    match end(path) {
        Ok(text) if killed => telling_line_of_the_killed(&text),
        Ok(text) => telling_line(&text),
        Err(error) => Some(format!("its log {} cannot be read: {error}", path.display())),
    }
}

/// Of this start alone: what is beside the file may be of an earlier one.
fn end(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(TAIL)))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// How much it holds now. It grows, until it is shortened.
pub(crate) fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |meta| meta.len())
}

#[cfg(test)]
mod tests;
