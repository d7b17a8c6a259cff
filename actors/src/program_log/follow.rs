//! Reading a log on as it is written, whatever becomes of its files.
//!
//! Owns: up to where a reader has read, and in which file that is by now. Must never do: hold more
//! of a log in memory than one step and the longest line, or keep whoever shortens it waiting
//! between two steps.
//!
//! A log is a row of files, the oldest first: … `x.2`, `x.1`, `x`. What happens to them, and what
//! is done about it:
//! - **A start renames, and so does whoever writes the request log**: `x` becomes `x.1` and a new
//!   `x` comes. The file that was being read is read to its end, wherever it stands in the row by
//!   then, and next are those behind it. If it has left the row, those that are kept come next,
//!   and that there is a **gap** is told.
//! - **It is shortened** (see `shorten`): the head moves to `x.1` and everything behind it gets
//!   another place. The bytes before the own place are known: where they are found, there it goes on.
//! - **Somebody empties it** by hand: those bytes are nowhere. The gap is told, and it goes on at
//!   the beginning.
//! - **It is not there yet**: it is waited for, and then read from its beginning.
//! - **The reader was away** and comes again with the [`Cursor`] of the last line that it has: it
//!   is looked for in the same ways. If it is nowhere, the gap is told, and it begins as a new one.

mod begin;
mod cursor;
mod lines;
mod place;
mod row;

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;

use cursor::Identity;
use lines::Lines;
use place::Place;
use row::Row;

pub use cursor::{Cursor, NoCursor};
pub use lines::Kind;

/// Somebody who reads a log on. Each call of [`Follower::step`] is blocking.
#[derive(Debug)]
pub struct Follower {
    row: Row,
    kind: Kind,
    start: Start,
    place: Option<Place>,
    lines: Lines,
    /// Behind what was told last.
    told: Option<Cursor>,
    /// Where the lines end that were there when it began, if there were any.
    end: Option<(Identity, u64)>,
}

/// Where a reader begins.
#[derive(Debug, Clone, Copy)]
enum Start {
    /// With so many lines of what was there before.
    Last(usize),
    /// Behind this; if it is not there any more, with so many lines.
    Behind(Cursor, usize),
    /// With whatever is there: nothing was, when it was looked for before.
    Beginning,
}

/// What a reader is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// It begins here: who goes on behind this loses no line.
    Begin(Cursor),
    /// A whole line, without what ended it, and the place behind it. What is not UTF-8 is replaced.
    Line(String, Option<Cursor>),
    /// Lines are missing here: they are not kept any more.
    Gap,
}

/// What a step has found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// In their order.
    pub news: Vec<News>,
    /// There is more to be read at once.
    pub more: bool,
}

impl Follower {
    /// One who begins with the last `lines` lines that are there, if there are any.
    pub fn new(path: &Path, kind: Kind, lines: usize) -> Self {
        Follower::at(path, kind, Start::Last(lines))
    }

    /// One who was here before. If that place is not there any more, he is told so and begins as a
    /// new one.
    pub fn again(path: &Path, kind: Kind, behind: Cursor, lines: usize) -> Self {
        Follower::at(path, kind, Start::Behind(behind, lines))
    }

    fn at(path: &Path, kind: Kind, start: Start) -> Self {
        let (row, lines) = (Row::new(path), Lines::new(kind));
        Follower { row, kind, start, place: None, lines, told: None, end: None }
    }

    /// Reads on. Nothing new is no error, nor is a file that is not there.
    pub fn step(&mut self) -> io::Result<Step> {
        let mut step = Step::default();
        let live = self.row.live()?;
        // While it is shortened its lines are in two files, and then they move. Where there are
        // no locks, nothing is shortened. Nor are records, and who writes them has locks of his own.
        let to_lock = live.as_ref().filter(|_| self.kind == Kind::Text);
        if let Some(Err(TryLockError::WouldBlock)) = to_lock.map(File::try_lock_shared) {
            return Ok(step);
        }
        let place = match self.place.take() {
            Some(place) => Some(self.read(place, &mut step)?),
            None => self.begin(live.as_ref(), &mut step)?,
        };
        self.place = place.map(|place| {
            let older = self.older_of(place.id);
            place.after(older)
        });
        if let Some(live) = to_lock {
            let _ = live.unlock(); // the place may share it
        }
        Ok(step)
    }

    fn begin(&mut self, live: Option<&File>, step: &mut Step) -> io::Result<Option<Place>> {
        if let Start::Behind(cursor, lines) = self.start {
            if let Some(place) = self.row.find(&cursor, self.kind)? {
                self.lines.begin_behind(place.last_byte());
                (self.told, step.more) = (Some(cursor), true);
                return Ok(Some(place));
            }
            step.news.push(News::Gap);
            self.start = Start::Last(lines);
        }
        let live = live.map(File::try_clone).transpose()?;
        let place = match self.start {
            Start::Last(lines) => self.begin_with(lines, live)?,
            _ => self.row.oldest()?.map(Place::new).transpose()?,
        };
        let Some(mut place) = place else {
            // What comes is new, all of it.
            self.start = Start::Beginning;
            return Ok(None);
        };
        step.more = true;
        if place.at == 0 {
            return self.enter(place, step).map(Some);
        }
        place.older = self.older_of(place.id);
        let cursor = place.cursor();
        self.told = Some(cursor);
        step.news.push(News::Begin(cursor));
        Ok(Some(place))
    }

    fn begin_with(&mut self, lines: usize, live: Option<File>) -> io::Result<Option<Place>> {
        // Whoever renames it is about to make a new one.
        let newest = match live {
            Some(live) => Some(live),
            None => self.row.last()?,
        };
        let Some(newest) = newest else { return Ok(None) };
        let last = begin::last_lines(&self.row, newest, lines, self.kind)?;
        let is_empty = last.place.at == 0 && last.end == (last.place.id, 0);
        self.end = (!is_empty).then_some(last.end);
        Ok(Some(last.place))
    }

    /// Begins with a file. The first bytes are read at once: by them the place is known if the
    /// file is shortened before the next step.
    fn enter(&mut self, mut place: Place, step: &mut Step) -> io::Result<Place> {
        place.older = self.older_of(place.id);
        self.take(&mut place, step)?;
        step.more = true;
        Ok(place)
    }

    /// Reads on at a place; gives the one where it goes on.
    fn read(&mut self, mut place: Place, step: &mut Step) -> io::Result<Place> {
        let stays = place.stays()?;
        if !stays || self.older_of(place.id) != place.older {
            let found = self.row.find(&place.cursor(), self.kind)?;
            match found.filter(|found| (found.id, found.at) != (place.id, place.at)) {
                Some(found) => {
                    step.more = true;
                    return Ok(found);
                }
                None if !stays => return self.lost(place, step),
                None => place.older = self.older_of(place.id),
            }
        }
        step.more = self.take(&mut place, step)?;
        if step.more {
            return Ok(place);
        }
        let Some(next) = self.row.behind(&place)? else { return Ok(place) };
        // What was written between the last look and the rename.
        step.more = true;
        if self.take(&mut place, step)? {
            return Ok(place);
        }
        if next.is_far || !place.is_cut(self.kind)? {
            self.end(&place, step);
        }
        if next.is_far {
            step.news.push(News::Gap);
        }
        let is_head = place.is_head && next.number > 0;
        self.enter(Place::new(next.file)?.head(is_head), step)
    }

    /// What was before the place is not there any more.
    fn lost(&mut self, place: Place, step: &mut Step) -> io::Result<Place> {
        // A full disk takes a line of which a part has been written; that part is taken back.
        if self.kind == Kind::Records
            && let Some(told) = &self.told
            && let Some(back) = place.back_to(told)?
        {
            self.lines.begin_behind(back.last_byte());
            step.more = true;
            return Ok(back);
        }
        let told = self.told;
        self.lines.end(|text, _| step.news.push(News::Line(text, told)));
        step.news.push(News::Gap);
        let head = match self.kind {
            Kind::Text => self.row.oldest_head(&place.cursor())?,
            Kind::Records => None,
        };
        let is_head = head.is_some();
        self.enter(Place::new(head.unwrap_or(place.file))?.head(is_head), step)
    }

    /// Reads once; whether there may be more.
    fn take(&mut self, place: &mut Place, step: &mut Step) -> io::Result<bool> {
        let (chunk, told) = (place.read()?, &mut self.told);
        self.lines.take(chunk.bytes(), |text, behind| {
            *told = Some(chunk.cursor(behind));
            step.news.push(News::Line(text, *told));
        });
        Ok(chunk.is_full())
    }

    /// Nothing comes behind this place that would end the last line.
    fn end(&mut self, place: &Place, step: &mut Step) {
        let told = &mut self.told;
        self.lines.end(|text, _| {
            *told = Some(place.cursor());
            step.news.push(News::Line(text, *told));
        });
    }

    /// Records are not shortened: there is nothing to be told apart.
    fn older_of(&self, id: Identity) -> Option<Identity> {
        if self.kind == Kind::Records { None } else { self.row.older_of(id) }
    }
}

/// The last lines that are there now, read step by step, and none that comes later.
#[derive(Debug)]
pub struct Excerpt {
    follower: Follower,
    is_over: bool,
}

impl Excerpt {
    /// The last `lines` lines, or fewer. Nothing is read yet.
    pub fn new(path: &Path, kind: Kind, lines: usize) -> Self {
        Excerpt { follower: Follower::new(path, kind, lines), is_over: false }
    }

    /// The next of them; `None`: these were all. Blocking. That nothing was written yet is an error
    /// here, `NotFound`.
    pub fn step(&mut self) -> io::Result<Option<Vec<String>>> {
        if self.is_over {
            return Ok(None);
        }
        let step = self.follower.step()?;
        let Some((file, end)) = self.follower.end else {
            return Err(io::ErrorKind::NotFound.into());
        };
        self.is_over = !step.more;
        let mut lines = Vec::new();
        for news in step.news {
            let at = match &news {
                News::Begin(cursor) | News::Line(_, Some(cursor)) if cursor.file == file => {
                    cursor.at
                }
                _ => 0,
            };
            if let News::Line(text, _) = news
                && at <= end
            {
                lines.push(text);
            }
            if at >= end.max(1) {
                self.is_over = true;
                break;
            }
        }
        Ok(Some(lines))
    }
}

#[cfg(test)]
mod tests;
