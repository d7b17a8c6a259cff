//! The search for thoughts in text that comes in pieces.
//!
//! Owns: where a thought begins and ends. Must never do: hold back more than a possible tag, the white
//! space before it, or a thought in the midst of the text that may not be closed.

use super::{Opener, Part};

/// A thought in the midst of a text, and text that may still turn out to be a thought, are that many
/// bytes at most.
pub const MAX_UNSURE: usize = 1 << 20;

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

/// Splits one text; see [`super`].
#[derive(Debug, Clone)]
pub struct ThinkSplitter {
    opener: Opener,
    state: State,
    /// Text that has come and is not put out.
    held: String,
    /// So much of it has been searched.
    searched: usize,
    /// The byte before it.
    before: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing but white space has come.
    Start,
    /// A line end here goes with the tag before it; then this goes on.
    Behind(Inner),
    In(Inner),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Inner {
    /// In a thought that ends with its tag or with the text.
    Thought,
    /// Put out as unsure; so many bytes of it.
    Unsure(usize),
    /// In text.
    Answer,
    /// Held from an opening tag on.
    Within,
}

/// What a search for tags came to.
enum Found {
    Tag {
        at: usize,
        closes: bool,
    },
    /// None; what may become one begins there.
    None {
        safe: usize,
    },
}

impl ThinkSplitter {
    /// Before the first text.
    pub fn new(opener: Opener) -> Self {
        let (held, before) = (String::new(), b'\n');
        ThinkSplitter { opener, state: State::Start, held, searched: 0, before }
    }

    /// Takes more text; what is decided goes to `out`.
    pub fn push(&mut self, text: &str, out: &mut Vec<Part>) {
        let mut rest = text;
        // What is bounded is bounded at the same byte however the text is cut.
        while !rest.is_empty() {
            let (now, later) = split_at(rest, self.room());
            if now.is_empty() {
                self.settle_as_text(out);
            }
            self.held.push_str(now);
            while self.step(out) {}
            rest = later;
        }
    }

    /// The text is at its end.
    pub fn finish(&mut self, out: &mut Vec<Part>) {
        let blank = self.held.trim_ascii_start().is_empty();
        if self.state == State::Start && self.opener == Opener::Prompt && !blank {
            self.state = State::Behind(Inner::Thought);
            while self.step(out) {}
        }
        match self.state {
            State::Behind(Inner::Thought) | State::In(Inner::Thought) => {
                self.put(self.held.len(), Part::Thought, out);
            }
            _ => self.settle_as_text(out),
        }
    }

    /// The engine tells thoughts itself: what comes is text.
    pub fn leave_to_the_engine(&mut self, out: &mut Vec<Part>) {
        if self.state == State::Start || matches!(self.state, State::In(Inner::Unsure(_))) {
            self.opener = Opener::Model;
            self.finish(out);
        }
    }

    /// How many bytes may come before something has to be decided.
    fn room(&self) -> usize {
        match self.state {
            State::In(Inner::Unsure(said)) => MAX_UNSURE.saturating_sub(said + self.held.len()),
            State::In(Inner::Within) | State::Start => MAX_UNSURE.saturating_sub(self.held.len()),
            _ => usize::MAX,
        }
    }

    fn settle_as_text(&mut self, out: &mut Vec<Part>) {
        match self.state {
            State::In(Inner::Unsure(_)) => {
                self.put(self.held.len(), Part::Unsure, out);
                out.push(Part::Settled(false));
            }
            _ => self.put(self.held.len(), Part::Answer, out),
        }
        self.state = State::In(Inner::Answer);
    }

    /// One step over what is held; whether there is another one.
    fn step(&mut self, out: &mut Vec<Part>) -> bool {
        match self.state {
            State::Start => self.start(out),
            State::Behind(inner) => self.behind(inner, out),
            State::In(Inner::Thought) => self.thought(out),
            State::In(Inner::Unsure(said)) => self.unsure(said, out),
            State::In(Inner::Answer) => self.answer(out),
            State::In(Inner::Within) => self.within(out),
        }
    }

    fn start(&mut self, out: &mut Vec<Part>) -> bool {
        let text = self.held.trim_ascii_start();
        if text.len() < OPEN.len() && OPEN.starts_with(text) {
            return false;
        }
        if text.starts_with(OPEN) {
            let end = self.held.len() - text.len() + OPEN.len();
            self.put(end, Part::Mark, out);
            self.state = State::Behind(Inner::Thought);
            return true;
        }
        self.state = match self.opener {
            Opener::Prompt => State::Behind(Inner::Thought),
            Opener::Unknown => State::In(Inner::Unsure(0)),
            Opener::Model => State::In(Inner::Answer),
        };
        true
    }

    /// Takes a line end that goes with the tag before it.
    fn behind(&mut self, inner: Inner, out: &mut Vec<Part>) -> bool {
        if self.held.is_empty() || self.held == "\r" {
            return false;
        }
        let end = if self.held.starts_with("\r\n") { 2 } else { 1 };
        if self.held.starts_with('\n') || end == 2 {
            self.put(end, Part::Mark, out);
        }
        self.state = State::In(inner);
        true
    }

    fn thought(&mut self, out: &mut Vec<Part>) -> bool {
        let Some(at) = self.held[self.searched..].find(CLOSE).map(|at| self.searched + at) else {
            let safe = line_end_before(&self.held, begun(&self.held, &[CLOSE]));
            self.put(safe, Part::Thought, out);
            // All that is left is shorter than a tag.
            self.searched = 0;
            return false;
        };
        self.close(at, Part::Thought, out);
        true
    }

    /// Ends a thought whose closing tag stands at `at`.
    fn close(&mut self, at: usize, part: fn(String) -> Part, out: &mut Vec<Part>) {
        let inner = line_end_before(&self.held, at);
        let end = at - inner + CLOSE.len();
        self.put(inner, part, out);
        self.put(end, Part::Mark, out);
        self.state = State::Behind(Inner::Answer);
    }

    fn unsure(&mut self, said: usize, out: &mut Vec<Part>) -> bool {
        match self.search(&[CLOSE, OPEN]) {
            Found::Tag { at, closes: true } => {
                let inner = line_end_before(&self.held, at);
                self.put(inner, Part::Unsure, out);
                out.push(Part::Settled(true));
                self.close(at - inner, Part::Thought, out);
                true
            }
            Found::Tag { at, closes: false } => {
                self.put(at, Part::Unsure, out);
                out.push(Part::Settled(false));
                self.state = State::In(Inner::Within);
                self.searched = OPEN.len();
                true
            }
            Found::None { safe } => {
                let safe = line_end_before(&self.held, safe);
                self.put(safe, Part::Unsure, out);
                self.state = State::In(Inner::Unsure(said + safe));
                false
            }
        }
    }

    fn answer(&mut self, out: &mut Vec<Part>) -> bool {
        match self.search(&[OPEN]) {
            Found::Tag { at, .. } => {
                self.put(at, Part::Answer, out);
                self.state = State::In(Inner::Within);
                self.searched = OPEN.len();
                true
            }
            Found::None { safe } => {
                self.put(safe, Part::Answer, out);
                false
            }
        }
    }

    fn within(&mut self, out: &mut Vec<Part>) -> bool {
        let Some(at) = self.held[self.searched..].find(CLOSE).map(|at| self.searched + at) else {
            self.searched = begun(&self.held, &[CLOSE]);
            return false;
        };
        self.put(OPEN.len(), Part::Mark, out);
        let mut at = at - OPEN.len();
        for end in ["\n", "\r\n"] {
            if at >= end.len() && self.held.starts_with(end) {
                self.put(end.len(), Part::Mark, out);
                at -= end.len();
                break;
            }
        }
        self.close(at, Part::Thought, out);
        true
    }

    /// The first of the tags in what is held, if nobody speaks of it.
    fn search(&self, tags: &[&str]) -> Found {
        let bytes = self.held.as_bytes();
        let mut from = 0;
        while let Some(at) = memchr::memchr(b'<', &bytes[from..]).map(|at| from + at) {
            let behind = at.checked_sub(1).map_or(self.before, |before| bytes[before]);
            let spoken_of = matches!(behind, b'`' | b'"' | b'\'');
            let tag = tags.iter().find(|tag| self.held[at..].starts_with(**tag));
            if let Some(tag) = tag.filter(|_| !spoken_of) {
                return Found::Tag { at, closes: *tag == CLOSE };
            }
            from = at + 1;
        }
        Found::None { safe: begun(&self.held, tags) }
    }

    /// Puts out the first bytes of what is held.
    fn put(&mut self, end: usize, part: fn(String) -> Part, out: &mut Vec<Part>) {
        self.searched = 0;
        let Some(last) = end.checked_sub(1) else { return };
        self.before = self.held.as_bytes()[last];
        out.push(part(self.held.drain(..end).collect()));
    }
}

/// Where the beginning of one of the tags stands at the text's end; its length, if none does.
fn begun(text: &str, tags: &[&str]) -> usize {
    let Some(at) = memchr::memrchr(b'<', text.as_bytes()) else { return text.len() };
    let tail = &text[at..];
    let begins = |tag: &&str| tag.len() > tail.len() && tag.starts_with(tail);
    if tags.iter().any(begins) { at } else { text.len() }
}

/// Where a line end right before `at` begins; `at`, if there is none. A carriage return at the very end
/// may be half of one.
fn line_end_before(text: &str, at: usize) -> usize {
    let head = &text[..at];
    let head = head.strip_suffix('\n').unwrap_or(head);
    let at_end = at == text.len() || head.len() < at;
    if at_end { head.strip_suffix('\r').unwrap_or(head).len() } else { head.len() }
}

/// Cuts behind at most so many bytes, between characters.
fn split_at(text: &str, room: usize) -> (&str, &str) {
    let mut end = room.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.split_at(end)
}
