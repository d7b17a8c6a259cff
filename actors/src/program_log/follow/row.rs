//! The row of a log's files, the oldest first: … `x.2`, `x.1`, `x`.
//!
//! Owns: which file stands where by now, what is before and behind it, and where a place is that
//! was known. Must never do: trust a name for longer than a look: files move up while it looks, one
//! after the other, and while they do so one name is free for a moment.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::super::open_to_read;
use super::cursor::{Cursor, Identity};
use super::lines::Kind;
use super::place::{Place, STEP, length, read_at, stands_behind};
use crate::rotation::numbered;

/// A file is looked for up to this number.
const PARTS: u32 = 1000;
/// Where so many names in a row are free, it has ended.
const END: u32 = 16;
/// Heads that one file may have lost since somebody looked.
const HEADS: u32 = 100;
/// It is looked again at most so often when files move meanwhile.
const LOOKS: usize = 16;

/// See the module.
#[derive(Debug)]
pub(super) struct Row {
    path: PathBuf,
}

/// The file behind another one.
pub(super) struct Behind {
    pub(super) file: File,
    /// Where it stands.
    pub(super) number: u32,
    /// The other one has left the row: those between the two may have, too.
    pub(super) is_far: bool,
}

impl Row {
    pub(super) fn new(path: &Path) -> Self {
        Row { path: path.to_owned() }
    }

    /// The one that is written now.
    pub(super) fn live(&self) -> io::Result<Option<File>> {
        open_to_read(&self.path)
    }

    /// The newest of those that are written no more.
    pub(super) fn last(&self) -> io::Result<Option<File>> {
        open_to_read(&self.part(1))
    }

    /// The oldest of all.
    pub(super) fn oldest(&self) -> io::Result<Option<File>> {
        for _ in 0..LOOKS {
            let Some((number, id)) = self.oldest_since(SystemTime::UNIX_EPOCH) else { break };
            if let Some(file) = self.open(number, id)? {
                return Ok(Some(file));
            }
        }
        Ok(None)
    }

    /// The oldest head that was taken from a cursor's file since and that is kept.
    pub(super) fn oldest_head(&self, cursor: &Cursor) -> io::Result<Option<File>> {
        let Some(number) = self.number(cursor.file) else { return Ok(None) };
        Ok(self.heads(number, cursor.older)?.0.pop())
    }

    /// The file before this one; `None`: there is none, or this one has left the row.
    pub(super) fn older_of(&self, id: Identity) -> Option<Identity> {
        for _ in 0..LOOKS {
            let number = self.number(id)?;
            let older = self.identity_of(number + 1).or_else(|| self.identity_of(number + 2));
            if older != Some(id) && self.number(id) == Some(number) {
                return older;
            }
        }
        None
    }

    /// The same, open.
    pub(super) fn open_older(&self, id: Identity) -> io::Result<Option<File>> {
        for _ in 0..LOOKS {
            let (Some(older), Some(number)) = (self.older_of(id), self.number(id)) else { break };
            for place in [number + 1, number + 2] {
                if let Some(file) = self.open(place, older)? {
                    return Ok(Some(file));
                }
            }
        }
        Ok(None)
    }

    /// The file behind this one; `None`: it is the last one, or the next is still to come.
    pub(super) fn behind(&self, place: &Place) -> io::Result<Option<Behind>> {
        for _ in 0..LOOKS {
            let is_far = self.number(place.id).is_none();
            let next = if is_far {
                self.oldest_since(place.file.metadata()?.modified()?)
            } else {
                self.next_of(place.id)
            };
            let Some((number, next)) = next else { return Ok(None) };
            // It may have moved up since.
            for number in [number, number + 1] {
                if let Some(file) = self.open(number, next)? {
                    return Ok(Some(Behind { file, number, is_far }));
                }
            }
        }
        Ok(None)
    }

    /// Who has moved up has left a name free, and next is who stands behind that. Files move up
    /// from the oldest on: as long as one stands where it stood and the names behind it are as
    /// free as they were, the next one has not moved either.
    fn next_of(&self, id: Identity) -> Option<(u32, Identity)> {
        for _ in 0..LOOKS {
            let number = self.number(id)?;
            let next = (0..number).rev().find_map(|next| Some((next, self.identity_of(next)?)));
            let (place, next) = next?;
            let are_free = (place + 1..number).all(|free| self.identity_of(free).is_none());
            if are_free && self.identity_of(number) == Some(id) {
                return Some((place, next));
            }
        }
        None
    }

    /// The oldest of those files that all were written to later: what an earlier, larger row has
    /// left at the end of this one is not meant.
    fn oldest_since(&self, written: SystemTime) -> Option<(u32, Identity)> {
        let later = |meta: &Metadata| meta.modified().is_ok_and(|at| at >= written);
        let parts = self.parts().take_while(|(_, meta)| later(meta));
        parts.last().map(|(number, meta)| (number, Identity::of(&meta)))
    }

    /// Where a place is by now, in which file of the row; `None`: nowhere any more.
    pub(super) fn find(&self, cursor: &Cursor, kind: Kind) -> io::Result<Option<Place>> {
        for _ in 0..LOOKS {
            let Some(number) = self.number(cursor.file) else { return Ok(None) };
            let Some(file) = self.open(number, cursor.file)? else { continue };
            let found = match kind {
                Kind::Records => found_in(&[&file], cursor)?,
                Kind::Text => self.find_text(number, &file, cursor)?,
            };
            let Some(mut place) = found else { return Ok(None) };
            place.is_head = cursor.is_head || place.id != cursor.file;
            return Ok(Some(place));
        }
        Ok(None)
    }

    /// The file is what it was behind the heads that were taken from it, if there are any.
    fn find_text(&self, number: u32, file: &File, cursor: &Cursor) -> io::Result<Option<Place>> {
        let (heads, taken) = self.heads(number, cursor.older)?;
        // Where few parts are kept, the one that was older is gone, and all that are left are
        // heads. Otherwise it is known how many were taken.
        for count in taken.into_iter().chain((0..=heads.len()).rev()) {
            let files: Vec<&File> = heads[..count].iter().rev().chain([file]).collect();
            if let Some(place) = found_in(&files, cursor)? {
                return Ok(Some(place));
            }
        }
        without_head(file, cursor)
    }

    /// Those that stand before a file, the newest first, up to the one that was older; and how
    /// many there are between the two, if that one is there.
    fn heads(&self, number: u32, older: u32) -> io::Result<(Vec<File>, Option<usize>)> {
        let mut heads = Vec::new();
        for taken in 1..=HEADS {
            let Some(head) = open_to_read(&self.part(number + taken))? else {
                let all = heads.len();
                return Ok((heads, (older == 0).then_some(all)));
            };
            if Identity::of(&head.metadata()?).short() == older {
                let all = heads.len();
                return Ok((heads, Some(all)));
            }
            heads.push(head);
        }
        Ok((heads, None))
    }

    /// Where in the row a file stands; 0 is the one that is written.
    fn number(&self, id: Identity) -> Option<u32> {
        // Files move up, and so does the look: it misses none.
        let mut parts = self.parts();
        parts.find_map(|(number, meta)| (Identity::of(&meta) == id).then_some(number))
    }

    /// Those that are there, the newest first.
    fn parts(&self) -> impl Iterator<Item = (u32, Metadata)> {
        let mut free = 0;
        let there = (0..=PARTS).map(|number| (number, self.meta(number)));
        let there = there.take_while(move |(_, meta)| {
            free = if meta.is_some() { 0 } else { free + 1 };
            free < END
        });
        there.filter_map(|(number, meta)| Some((number, meta?)))
    }

    /// The file at this number, if it is this one.
    fn open(&self, number: u32, id: Identity) -> io::Result<Option<File>> {
        let Some(file) = open_to_read(&self.part(number))? else { return Ok(None) };
        Ok((Identity::of(&file.metadata()?) == id).then_some(file))
    }

    fn identity_of(&self, number: u32) -> Option<Identity> {
        self.meta(number).map(|meta| Identity::of(&meta))
    }

    fn meta(&self, number: u32) -> Option<Metadata> {
        std::fs::metadata(self.part(number)).ok()
    }

    fn part(&self, number: u32) -> PathBuf {
        if number == 0 { self.path.clone() } else { numbered(&self.path, number) }
    }
}

/// A place in files of which its own was made up, the oldest first.
fn found_in(files: &[&File], cursor: &Cursor) -> io::Result<Option<Place>> {
    let from = cursor.at - cursor.window() as u64;
    let (mut before, mut begin) = (Vec::with_capacity(cursor.window()), 0);
    for file in files {
        let end = begin + file.metadata()?.len();
        let (first, last) = (from.max(begin), cursor.at.min(end));
        if first < last {
            before.extend_from_slice(&read_at(file, first - begin, length(last - first))?);
        }
        if cursor.at <= end {
            let is_it = cursor.is_behind(&before);
            let place = is_it.then(|| Place::within(file.try_clone()?, cursor.at - begin));
            return place.transpose();
        }
        begin = end;
    }
    Ok(None)
}

/// A place in a file whose head was taken, whole blocks, and not kept. What stays is no more than a
/// step. Where it could be in two places it is in none.
fn without_head(file: &File, cursor: &Cursor) -> io::Result<Option<Place>> {
    let meta = file.metadata()?;
    let (block, last) = (meta.blksize().max(512), cursor.at.min(meta.len()).min(STEP as u64));
    let mut found = None;
    let mut at = cursor.at % block;
    while at <= last {
        if at != cursor.at && cursor.window() > 0 && stands_behind(file, at, cursor)? {
            if found.is_some() {
                return Ok(None);
            }
            found = Some(at);
        }
        at += block;
    }
    found.map(|at| Place::within(file.try_clone()?, at)).transpose()
}
