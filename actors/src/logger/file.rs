//! The file of the request log.
//!
//! Owns: the open file, mending its end, and when it is rotated. Must never do: leave a part of a line in it, or cut what
//! another daemon is just writing.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use memchr::memrchr;
use serde_json::value::RawValue;

use super::LogSettings;
use crate::rotation;

/// The end of a log is looked at in pieces of this size.
const PIECE: u64 = 64 << 10;

/// See the module.
pub(super) struct LogFile {
    file: File,
    inode: u64,
    /// No pipe, terminal or device: it can be rotated and shortened.
    regular: bool,
    /// It could not be rotated, which has been said.
    stays: bool,
}

impl LogFile {
    /// Opens the log; a last line that somebody could not write whole is taken off.
    pub(super) fn open(path: &Path) -> io::Result<LogFile> {
        if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            std::fs::create_dir_all(parent)?;
        }
        // To read also: the end is looked at, and a pipe without a reader does not keep us waiting.
        let file = OpenOptions::new().create(true).append(true).read(true).open(path)?;
        let meta = file.metadata()?;
        let log = LogFile { file, inode: meta.ino(), regular: meta.is_file(), stays: false };
        if log.regular {
            log.mend(path)?;
        }
        Ok(log)
    }

    /// Writes several lines at once, or answers that they have to be written one by one: they do not
    /// all fit, or this is no file that could be shortened again. An error: nothing was written.
    pub(super) fn append_all(&mut self, lines: &[u8], settings: &LogSettings) -> io::Result<bool> {
        if !self.regular {
            return Ok(false);
        }
        let size = self.size(settings)?;
        let fits = size + lines.len() as u64 <= settings.max_bytes;
        if fits {
            self.put(lines, size)?;
        }
        Ok(fits)
    }

    /// Writes a line, into a new file if this one is full. An error: nothing of it was written.
    pub(super) fn append(&mut self, line: &[u8], settings: &LogSettings) -> io::Result<()> {
        if !self.regular {
            return self.file.write_all(line);
        }
        let mut size = self.size(settings)?;
        if size > 0 && size + line.len() as u64 > settings.max_bytes {
            size = self.rotate(settings, size)?;
        }
        self.put(line, size)
    }

    fn put(&mut self, lines: &[u8], size: u64) -> io::Result<()> {
        let written = self.file.write_all(lines);
        if written.is_err() {
            // What a full disk took of it goes; if it cannot, then when the file is opened next.
            self.file.set_len(size)?;
        }
        written
    }

    fn size(&mut self, settings: &LogSettings) -> io::Result<u64> {
        match std::fs::metadata(&settings.path) {
            Ok(meta) if meta.ino() == self.inode => Ok(meta.len()),
            // Somebody moved or removed it: a new one takes its place.
            _ => self.reopen(&settings.path),
        }
    }

    fn reopen(&mut self, path: &Path) -> io::Result<u64> {
        *self = LogFile { stays: self.stays, ..LogFile::open(path)? };
        Ok(self.file.metadata()?.len())
    }

    /// A log that cannot be rotated grows on: better too much of it than too little.
    fn rotate(&mut self, settings: &LogSettings, size: u64) -> io::Result<u64> {
        match rotation::rotate(&settings.path, settings.max_files) {
            Ok(()) => {
                self.stays = false;
                self.reopen(&settings.path)
            }
            Err(error) => {
                if !std::mem::replace(&mut self.stays, true) {
                    let path = settings.path.display().to_string();
                    tracing::warn!(%error, path, "the request log cannot be rotated: it grows on");
                }
                Ok(size)
            }
        }
    }

    /// A daemon that was killed in the middle of a line has left a part of it. Not where another
    /// one has the file open: it may be in the middle of one now.
    fn mend(&self, path: &Path) -> io::Result<()> {
        // Not every file system has locks; then there is nobody to be careful of.
        if matches!(self.file.try_lock(), Err(TryLockError::WouldBlock)) {
            return Ok(());
        }
        let mended = self.mend_end(path);
        // Those who follow the log may read, and others see that it is written. Without locks, so be it.
        let _ = self.file.lock_shared();
        mended
    }

    fn mend_end(&self, path: &Path) -> io::Result<()> {
        let size = self.file.metadata()?.len();
        let end = self.end_of_last_line(size)?;
        if end == size {
            return Ok(());
        }
        if self.is_whole(end, size)? {
            return (&self.file).write_all(b"\n");
        }
        self.file.set_len(end)?;
        let (path, bytes) = (path.display().to_string(), size - end);
        tracing::warn!(path, bytes, "a line of the request log was not written whole: taken off");
        Ok(())
    }

    /// Behind the last line that has its end.
    fn end_of_last_line(&self, size: u64) -> io::Result<u64> {
        let mut piece = Vec::new();
        let mut to = size;
        while to > 0 {
            let from = to.saturating_sub(PIECE);
            piece.resize(usize::try_from(to - from).unwrap_or(0), 0);
            self.file.read_exact_at(&mut piece, from)?;
            if let Some(newline) = memrchr(b'\n', &piece) {
                return Ok(from + newline as u64 + 1);
            }
            to = from;
        }
        Ok(0)
    }

    /// Whether what has no end is a whole record all the same.
    fn is_whole(&self, from: u64, to: u64) -> io::Result<bool> {
        let mut line = vec![0; usize::try_from(to - from).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut line, from)?;
        Ok(serde_json::from_slice::<&RawValue>(&line).is_ok_and(|raw| raw.get().starts_with('{')))
    }
}

#[cfg(test)]
mod tests;
