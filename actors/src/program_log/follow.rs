//! Reading a log on as it is written, whatever becomes of its files.
//!
//! Owns: up to where a reader has read, and in which file that is by now. Must never do: hold more
//! of a log in memory than one step, or keep whoever shortens it waiting between two steps.
//!
//! A log is a row of files, the oldest first: … `x.2`, `x.1`, `x`. What happens to them, and what
//! is done about it:
//! - **A start renames**: `x` becomes `x.1` and a new `x` comes. The file that was being read is
//!   read to its end, wherever it stands in the row by then, and next are those behind it.
//! - **It is shortened** (see `shorten`): the head moves to `x.1` and everything behind it gets
//!   another place. The bytes before the own place are known: where they are found, there it goes on.
//! - **Somebody empties it** by hand: those bytes are nowhere, and it goes on at the beginning.
//! - **It is not there yet**: it is waited for, and then read from its beginning.

use std::fs::{File, Metadata, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::{MOST, open_to_read, tail};
use crate::rotation::numbered;

/// Read at most in one step.
const STEP: usize = 256 << 10;
/// Longer lines come in pieces of this length.
const LONGEST_LINE: usize = 64 << 10;
/// By so many bytes before it a place is known.
const BEFORE: usize = 64;
/// A file is looked for up to this number in the row.
const PARTS: u32 = 100;

/// Somebody who reads a log on. Each call of [`Follower::step`] is blocking.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    /// So many lines of what was there before are wanted; `None`: nothing was, or they were told.
    wanted: Option<usize>,
    place: Option<Place>,
    lines: Lines,
}

/// What a step has found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Whole lines, without what ended them. What is not UTF-8 is replaced.
    pub lines: Vec<String>,
    /// There is more to be read at once.
    pub more: bool,
}

impl Follower {
    /// One who begins with the last `lines` lines that are there, if there are any.
    pub fn new(path: &Path, lines: usize) -> Self {
        let (path, wanted) = (path.to_owned(), Some(lines));
        Follower { path, wanted, place: None, lines: Lines::default() }
    }

    /// Reads on. Nothing new is no error, nor is a file that is not there.
    pub fn step(&mut self) -> io::Result<Step> {
        let mut step = Step::default();
        let live = open_to_read(&self.path)?;
        // While it is shortened its lines are in two files, and then they move. Where there are
        // no locks, nothing is shortened.
        let locked = live.as_ref().map(File::try_lock_shared);
        if let Some(Err(TryLockError::WouldBlock)) = locked {
            return Ok(step);
        }
        let mut place = match (self.place.take(), &live) {
            (Some(place), _) => self.read(place, &mut step)?,
            (None, Some(live)) => self.begin(live.try_clone()?, &mut step)?,
            (None, None) => {
                // What comes is new, all of it.
                self.wanted = None;
                return Ok(step);
            }
        };
        place.older = self.older(&place)?;
        self.place = Some(place);
        if let Some(live) = live {
            let _ = live.unlock(); // the place may share it
        }
        Ok(step)
    }

    fn begin(&mut self, file: File, step: &mut Step) -> io::Result<Place> {
        let Some(wanted) = self.wanted.take() else {
            return self.enter(Place::new(file), step);
        };
        let mut place = Place::at_last_line(file)?;
        for line in tail::tail_before(&self.path, &place.file, place.at, wanted, MOST)? {
            self.lines.take(line.as_bytes(), &mut step.lines);
            self.lines.take(b"\n", &mut step.lines);
        }
        place.remember()?;
        step.more = true;
        Ok(place)
    }

    /// Begins with a file. The first bytes are read at once: by them the place is known if the
    /// file is shortened before the next step.
    fn enter(&mut self, mut place: Place, step: &mut Step) -> io::Result<Place> {
        self.lines.take(&place.read()?, &mut step.lines);
        step.more = true;
        Ok(place)
    }

    /// Reads on at a place; gives the one where it goes on.
    fn read(&mut self, mut place: Place, step: &mut Step) -> io::Result<Place> {
        let stays = place.is_in(&place.file, place.at)?;
        let is_shorter = self.older(&place)? != place.older;
        if (is_shorter || !stays)
            && let Some(found) = self.find(&place)?
        {
            step.more = true;
            return Ok(found);
        }
        if !stays {
            if let Some(at) = place.look_for()? {
                return self.enter(Place { at, ..place }, step);
            }
            self.lines.end(&mut step.lines);
            return self.enter(Place::new(place.file), step);
        }
        let bytes = place.read()?;
        self.lines.take(&bytes, &mut step.lines);
        step.more = bytes.len() == STEP;
        if step.more {
            return Ok(place);
        }
        let Some(next) = self.behind(&place)? else { return Ok(place) };
        // What was written between the last look and the rename.
        let rest = place.read()?;
        self.lines.take(&rest, &mut step.lines);
        step.more = true;
        if rest.len() == STEP {
            return Ok(place);
        }
        if !place.is_cut()? {
            self.lines.end(&mut step.lines);
        }
        self.enter(next, step)
    }

    /// Where it goes on when heads were taken from the file, perhaps more than once.
    fn find(&self, place: &Place) -> io::Result<Option<Place>> {
        let number = self.number(&place.file)?.unwrap_or(0);
        let (mut heads, mut likely) = (Vec::new(), None);
        for taken in 1..=PARTS {
            let Some(head) = open_to_read(&self.part(number + taken))? else { break };
            heads.push(head);
            // What the file was when it was read: these heads, and then itself.
            let found = place.within(heads.iter().rev().chain([&place.file]))?;
            if self.identity_of(number + taken + 1) == place.older {
                return Ok(found);
            }
            // Where few parts are kept, the one that was older is gone.
            likely = likely.or(found);
        }
        Ok(likely)
    }

    fn older(&self, place: &Place) -> io::Result<Option<Identity>> {
        Ok(self.number(&place.file)?.and_then(|number| self.identity_of(number + 1)))
    }

    /// The file behind this one in the row; `None`: it is the last one, or the next is still to come.
    fn behind(&self, place: &Place) -> io::Result<Option<Place>> {
        let (number, is_head) = match self.number(&place.file)? {
            Some(0) => return Ok(None),
            Some(number) => (number - 1, place.is_head && number > 1),
            None => (0, false),
        };
        let next = open_to_read(&self.part(number))?.map(Place::new);
        Ok(next.map(|next| Place { is_head, ..next }))
    }

    /// Where in the row a file stands; 0 is the one that is written.
    fn number(&self, file: &File) -> io::Result<Option<u32>> {
        let ours = Some(identity(&file.metadata()?));
        Ok((0..=PARTS).find(|number| self.identity_of(*number) == ours))
    }

    fn part(&self, number: u32) -> PathBuf {
        if number == 0 { self.path.clone() } else { numbered(&self.path, number) }
    }

    fn identity_of(&self, number: u32) -> Option<Identity> {
        std::fs::metadata(self.part(number)).ok().map(|meta| identity(&meta))
    }
}

/// Device and inode.
type Identity = (u64, u64);

fn identity(meta: &Metadata) -> Identity {
    (meta.dev(), meta.ino())
}

/// How far a file was read.
#[derive(Debug)]
struct Place {
    file: File,
    at: u64,
    /// The bytes before `at`, as they were read.
    before: Vec<u8>,
    /// The file is what was taken from the head of the one that it was read in.
    is_head: bool,
    /// The file before it in the row, when it was read: those that stand between them by now are
    /// heads that were taken from it since.
    older: Option<Identity>,
}

impl Place {
    fn new(file: File) -> Self {
        Place { file, at: 0, before: Vec::new(), is_head: false, older: None }
    }

    fn moved(&self, file: &File, at: u64) -> io::Result<Self> {
        let is_head = identity(&file.metadata()?) != identity(&self.file.metadata()?);
        let before = self.before.clone();
        Ok(Place { file: file.try_clone()?, at, before, is_head, older: None })
    }

    /// This place in files of which its own was made up.
    fn within<'a>(&self, files: impl Iterator<Item = &'a File>) -> io::Result<Option<Self>> {
        let mut at = self.at;
        for file in files {
            let size = file.metadata()?.len();
            if at <= size {
                let found = self.is_in(file, at)?;
                return found.then(|| self.moved(file, at)).transpose();
            }
            at -= size;
        }
        Ok(None)
    }

    /// A line may go on in the next file: heads are cut at whole blocks, and not between lines.
    fn is_cut(&self) -> io::Result<bool> {
        Ok(self.is_head || self.at.is_multiple_of(self.file.metadata()?.blksize().max(1)))
    }

    /// Behind the last line that has its end; within a line that is longer than any.
    fn at_last_line(file: File) -> io::Result<Self> {
        let size = file.metadata()?.len();
        let from = size.saturating_sub(LONGEST_LINE as u64);
        let end = read_at(&file, from, LONGEST_LINE)?;
        let at = match memchr::memrchr(b'\n', &end) {
            Some(newline) => from + newline as u64 + 1,
            None if from == 0 => 0,
            None => from + end.len() as u64,
        };
        Ok(Place { at, ..Place::new(file) })
    }

    /// Reads what is before it.
    fn remember(&mut self) -> io::Result<()> {
        let from = self.at.saturating_sub(BEFORE as u64);
        self.before = read_at(&self.file, from, BEFORE.min(length(self.at - from)))?;
        Ok(())
    }

    fn read(&mut self) -> io::Result<Vec<u8>> {
        let bytes = read_at(&self.file, self.at, STEP)?;
        self.at += bytes.len() as u64;
        if bytes.len() >= BEFORE {
            self.before.clear();
        }
        self.before.extend_from_slice(&bytes[bytes.len().saturating_sub(BEFORE)..]);
        self.before.drain(..self.before.len().saturating_sub(BEFORE));
        Ok(bytes)
    }

    /// Whether the bytes before it stand before this place in a file; those before its beginning
    /// do not count.
    fn is_in(&self, file: &File, at: u64) -> io::Result<bool> {
        let count = self.before.len().min(length(at));
        let found = read_at(file, at - count as u64, count)?;
        Ok(file.metadata()?.len() >= at && self.before.ends_with(&found) && found.len() == count)
    }

    /// Looks for the bytes before it at the beginning of its file, where no head was kept: what
    /// stays is no more.
    fn look_for(&self) -> io::Result<Option<u64>> {
        if self.before.len() < BEFORE {
            return Ok(None); // a few bytes are found anywhere
        }
        let begin = read_at(&self.file, 0, STEP)?;
        let found = memchr::memmem::rfind(&begin, &self.before);
        Ok(found.map(|found| (found + self.before.len()) as u64))
    }
}

fn length(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Up to `most` bytes; fewer where the file ends.
fn read_at(file: &File, at: u64, most: usize) -> io::Result<Vec<u8>> {
    let there = length(file.metadata()?.len().saturating_sub(at));
    let mut bytes = vec![0; there.min(most)];
    let mut read = 0;
    while read < bytes.len() {
        match file.read_at(&mut bytes[read..], at + read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(read);
    Ok(bytes)
}

/// Bytes into lines. A line ends with `\n`, `\r\n`, or a `\r` alone, by which programs write a
/// progress bar over itself.
#[derive(Debug, Default)]
struct Lines {
    part: Vec<u8>,
    /// A `\r` has just ended a line: a `\n` behind it is of the same end.
    returned: bool,
}

impl Lines {
    fn take(&mut self, mut bytes: &[u8], out: &mut Vec<String>) {
        while !bytes.is_empty() {
            let end = memchr::memchr2(b'\n', b'\r', bytes).unwrap_or(bytes.len());
            self.add(&bytes[..end], out);
            match bytes.get(end) {
                Some(b'\r') if self.part.is_empty() => {}
                Some(b'\r') => {
                    self.tell(out);
                    self.returned = true;
                }
                Some(_) if std::mem::take(&mut self.returned) => {}
                Some(_) => self.tell(out),
                None => {}
            }
            bytes = bytes.get(end + 1..).unwrap_or_default();
        }
    }

    fn add(&mut self, mut text: &[u8], out: &mut Vec<String>) {
        if !text.is_empty() {
            self.returned = false;
        }
        while self.part.len() + text.len() > LONGEST_LINE {
            let (head, rest) = text.split_at(LONGEST_LINE - self.part.len());
            self.part.extend_from_slice(head);
            self.tell(out);
            text = rest;
        }
        self.part.extend_from_slice(text);
    }

    fn tell(&mut self, out: &mut Vec<String>) {
        out.push(String::from_utf8_lossy(&self.part).into_owned());
        self.part.clear();
    }

    /// Nothing comes that would end the last line.
    fn end(&mut self, out: &mut Vec<String>) {
        if !self.part.is_empty() {
            self.tell(out);
        }
        self.returned = false;
    }
}

#[cfg(test)]
mod tests;
