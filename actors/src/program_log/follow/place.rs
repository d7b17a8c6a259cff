//! How far a file was read.
//!
//! Owns: the open file, the place in it, and the bytes before that. Must never do: look at the
//! file's name, which changes.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

use super::cursor::{Cursor, Identity, WINDOW, mark};
use super::lines::Kind;

/// Read at most in one step.
pub(super) const STEP: usize = 256 << 10;

/// See the module.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) file: File,
    pub(super) id: Identity,
    pub(super) at: u64,
    /// The last bytes before `at`, as they were read: [`WINDOW`], or all that are there.
    before: Vec<u8>,
    /// The file is what was taken from the head of the one that it was read in.
    pub(super) is_head: bool,
    /// The file before it in the row, when it was read: those that stand between them by now are
    /// heads that were taken from it since.
    pub(super) older: Option<Identity>,
}

/// What was read at once, behind the bytes that were known before.
pub(super) struct Chunk {
    bytes: Vec<u8>,
    known: usize,
    /// The place at its end, and of what file it is.
    end: Cursor,
}

impl Place {
    /// At the beginning of a file.
    pub(super) fn new(file: File) -> io::Result<Self> {
        let id = Identity::of(&file.metadata()?);
        Ok(Place { file, id, at: 0, before: Vec::new(), is_head: false, older: None })
    }

    /// Within a file, where what is before it is known by what stands there now.
    pub(super) fn within(file: File, at: u64) -> io::Result<Self> {
        let mut place = Place { at, ..Place::new(file)? };
        let from = at.saturating_sub(WINDOW as u64);
        place.before = read_at(&place.file, from, length(at - from))?;
        Ok(place)
    }

    /// The same, in a file that is a head, or none.
    pub(super) fn head(self, is_head: bool) -> Self {
        Place { is_head, ..self }
    }

    /// The same, in a file that stands behind this one.
    pub(super) fn after(self, older: Option<Identity>) -> Self {
        Place { older, ..self }
    }

    pub(super) fn cursor(&self) -> Cursor {
        let count = self.before.len().min(length(self.at));
        Cursor {
            file: self.id,
            at: self.at,
            before: mark(&self.before[self.before.len() - count..]),
            older: self.older.map_or(0, Identity::short),
            is_head: self.is_head,
        }
    }

    /// The byte before it.
    pub(super) fn last_byte(&self) -> Option<u8> {
        self.before.last().copied()
    }

    pub(super) fn read(&mut self) -> io::Result<Chunk> {
        let mut bytes = std::mem::take(&mut self.before);
        let known = bytes.len();
        read_behind(&mut bytes, &self.file, self.at, STEP)?;
        self.at += (bytes.len() - known) as u64;
        self.before = bytes[bytes.len().saturating_sub(WINDOW)..].to_vec();
        Ok(Chunk { bytes, known, end: self.cursor() })
    }

    /// Whether the bytes before it still stand there.
    pub(super) fn stays(&self) -> io::Result<bool> {
        let count = self.before.len().min(length(self.at));
        let found = read_at(&self.file, self.at - count as u64, count)?;
        Ok(found.len() == count && self.before.ends_with(&found))
    }

    /// A line may go on in the next file: heads are cut at whole blocks, and not between lines.
    /// Records are never shortened.
    pub(super) fn is_cut(&self, kind: Kind) -> io::Result<bool> {
        let block = self.file.metadata()?.blksize().max(1);
        Ok(kind == Kind::Text && (self.is_head || self.at.is_multiple_of(block)))
    }

    /// The place of a cursor in this file, if it is there.
    pub(super) fn back_to(&self, cursor: &Cursor) -> io::Result<Option<Self>> {
        if cursor.file != self.id || !stands_behind(&self.file, cursor.at, cursor)? {
            return Ok(None);
        }
        let place = Place::within(self.file.try_clone()?, cursor.at)?;
        Ok(Some(Place { is_head: cursor.is_head, older: self.older, ..place }))
    }
}

impl Chunk {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[self.known..]
    }

    /// There is more behind it, perhaps.
    pub(super) fn is_full(&self) -> bool {
        self.bytes().len() == STEP
    }

    /// The place behind so many of its bytes.
    pub(super) fn cursor(&self, behind: usize) -> Cursor {
        let at = self.end.at - (self.bytes().len() - behind) as u64;
        let cursor = Cursor { at, ..self.end };
        let end = self.known + behind;
        let begin = end.saturating_sub(cursor.window());
        Cursor { before: mark(&self.bytes[begin..end]), ..cursor }
    }
}

/// Whether a place in a file is behind the bytes that a cursor is behind.
pub(super) fn stands_behind(file: &File, at: u64, cursor: &Cursor) -> io::Result<bool> {
    let Some(from) = at.checked_sub(cursor.window() as u64) else { return Ok(false) };
    Ok(cursor.is_behind(&read_at(file, from, cursor.window())?) && file.metadata()?.len() >= at)
}

pub(super) fn length(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Up to `most` bytes; fewer where the file ends.
pub(super) fn read_at(file: &File, at: u64, most: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    read_behind(&mut bytes, file, at, most)?;
    Ok(bytes)
}

/// The same, behind bytes that are there.
fn read_behind(bytes: &mut Vec<u8>, file: &File, at: u64, most: usize) -> io::Result<()> {
    let begin = bytes.len();
    let there = length(file.metadata()?.len().saturating_sub(at)).min(most);
    bytes.reserve_exact(there);
    bytes.resize(begin + there, 0);
    let mut read = 0;
    while read < there {
        match file.read_at(&mut bytes[begin + read..], at + read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(begin + read);
    Ok(())
}
