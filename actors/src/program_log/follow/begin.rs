//! Where the last lines of a log begin.
//!
//! Owns: reading backwards, over the borders to the older parts. Must never do: hold what it reads,
//! or read more than it may.

use std::fs::File;
use std::io;

use super::cursor::Identity;
use super::lines::{Kind, LONGEST_TEXT};
use super::place::{Place, length, read_at};
use super::row::Row;

/// Read at once.
const BLOCK: u64 = 64 << 10;
/// As much of a log's end is looked at most for its last lines (bytes): of what programs say, and
/// of records, which may be large.
const MOST_TEXT: u64 = super::super::MOST;
const MOST_RECORDS: u64 = 256 << 20;

/// The last lines that have their end, up to a number.
pub(super) struct Last {
    /// Before the first of them.
    pub(super) place: Place,
    /// Where the last of them ends: the file, and how far in it.
    pub(super) end: (Identity, u64),
}

/// See the module. `newest`: the last file of the row.
pub(super) fn last_lines(row: &Row, newest: File, lines: usize, kind: Kind) -> io::Result<Last> {
    let last = (id(&newest)?, end_of_lines(&newest, kind)?);
    if lines == 0 {
        return Ok(Last { place: Place::within(newest, last.1)?, end: last });
    }
    let (room, mut parts) = match kind {
        Kind::Text => (MOST_TEXT, 1),
        Kind::Records => (MOST_RECORDS, u32::MAX),
    };
    let mut search = Search { wanted: lines, newlines: 0, room };
    let (mut file, mut end) = (newest, last.1);
    loop {
        if let Some(at) = search.back(&file, end)? {
            return Ok(Last { place: Place::within(file, at)?, end: last });
        }
        let older = if parts > 0 { row.open_older(id(&file)?)? } else { None };
        let Some(older) = older else { return Ok(Last { place: Place::new(file)?, end: last }) };
        parts -= 1;
        end = older.metadata()?.len();
        file = older;
    }
}

fn id(file: &File) -> io::Result<Identity> {
    Ok(Identity::of(&file.metadata()?))
}

/// Behind the last line that has its end; within a line of text that is longer than any.
fn end_of_lines(file: &File, kind: Kind) -> io::Result<u64> {
    let size = file.metadata()?.len();
    let most = match kind {
        Kind::Text => LONGEST_TEXT as u64,
        Kind::Records => MOST_RECORDS,
    };
    Ok(Search { wanted: 0, newlines: 0, room: most }.back(file, size)?.unwrap_or(0))
}

/// Counts newlines backwards, until there is one more than lines that are wanted.
struct Search {
    wanted: usize,
    newlines: usize,
    /// Bytes that may still be read.
    room: u64,
}

impl Search {
    /// Where the wanted lines begin; `None`: before this file.
    fn back(&mut self, file: &File, end: u64) -> io::Result<Option<u64>> {
        let (mut at, mut first) = (end, None);
        while at > 0 {
            let size = BLOCK.min(at).min(self.room);
            if size == 0 {
                // The line that is cut here is left out, however long it is.
                return Ok(Some(first.unwrap_or(end)));
            }
            at -= size;
            self.room -= size;
            let block = read_at(file, at, length(size))?;
            for newline in memchr::memrchr_iter(b'\n', &block) {
                self.newlines += 1;
                first = Some(at + newline as u64 + 1);
                if self.newlines > self.wanted {
                    return Ok(first);
                }
            }
        }
        Ok(None)
    }
}
