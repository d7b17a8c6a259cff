//! The search for calls in text that comes in pieces.
//!
//! Owns: what of a model's text leaves when. Must never do: hold back text of which no call can
//! come any more, give different pieces for different cuts, or read text twice.
//!
//! **What is held back** after any push is white space at the end of the text so far (for white
//! space next to a call goes) and behind it at most one candidate: text whose every byte the
//! grammar allows where it stands. (One thing is judged only at the candidate's end: whether
//! arguments that are a JSON *string* hold an object.) A candidate ends at the byte that
//! completes it or makes it impossible; only form (d), whose end is the end of the text, is held
//! until then. Neither part grows over [`MAX_CANDIDATE`]; what does is text.

use std::sync::Arc;

use super::candidate::{Candidate, Step};
use super::fences::Fences;
use super::grammar::{MARK, Piece, TAGS};
use super::offered::Offered;

/// The largest candidate, in bytes, and the longest run of white space that is held back.
pub const MAX_CANDIDATE: usize = 1 << 20;

/// Finds the calls in one choice's text. The pieces that it puts out, text next to text joined,
/// are those that [`super::split`] has for the whole.
#[derive(Debug, Clone)]
pub struct TextScanner {
    offered: Arc<Offered>,
    scan: Scan,
}

impl TextScanner {
    /// Before the first text.
    pub fn new(offered: Arc<Offered>) -> Self {
        TextScanner { offered, scan: Scan::default() }
    }

    /// Takes more text; what is decided goes to `out`.
    pub fn push(&mut self, text: &str, out: &mut Vec<Piece>) {
        self.scan.push(&self.offered, text, out);
    }

    /// The text is at its end: all that is held goes to `out`.
    pub fn finish(&mut self, out: &mut Vec<Piece>) {
        self.scan.finish(&self.offered, out);
    }

    /// How many bytes are held back.
    pub fn held(&self) -> usize {
        self.scan.space.len() + self.scan.held.len()
    }
}

/// The search without the names that it searches for.
#[derive(Debug, Clone, Default)]
pub(super) struct Scan {
    /// White space that a call may follow.
    space: String,
    /// The candidate's text.
    held: String,
    candidate: Option<Candidate>,
    fences: Fences,
    /// Something but white space has come: the text as a whole is no call any more.
    begun: bool,
    /// Nothing but white space has come since the last call.
    behind_call: bool,
}

impl Scan {
    pub(super) fn push(&mut self, offered: &Offered, text: &str, out: &mut Vec<Piece>) {
        if offered.is_empty() {
            Piece::add_text(text, out);
            return;
        }
        let mut rest = text;
        while !rest.is_empty() {
            let taken = if self.candidate.is_some() {
                self.follow(offered, rest, out)
            } else {
                self.plain(offered, rest, out)
            };
            rest = &rest[taken..];
        }
    }

    pub(super) fn finish(&mut self, offered: &Offered, out: &mut Vec<Piece>) {
        if let Some(candidate) = self.candidate.take() {
            let text = std::mem::take(&mut self.held);
            let calls =
                if candidate.whole_at_end() { candidate.calls(&text, offered) } else { None };
            if let Some(calls) = calls {
                self.call(calls, out);
            } else {
                let begun = self.say_inner(&candidate, &text, offered, out);
                self.say(&text[begun..], out);
            }
        }
        Piece::add_text(&std::mem::take(&mut self.space), out);
    }

    /// Text with no candidate in hand: says everything up to the next one. Answers how much that
    /// is.
    fn plain(&mut self, offered: &Offered, text: &str, out: &mut Vec<Piece>) -> usize {
        for (at, byte) in text.bytes().enumerate() {
            self.candidate = self.opened_by(offered, byte);
            if self.candidate.is_some() {
                self.begun = true;
                self.say(&text[..at], out);
                return at;
            }
            self.begun |= !super::json::is_space(byte);
            self.fences.step(byte);
        }
        self.say(text, out);
        text.len()
    }

    fn opened_by(&self, offered: &Offered, byte: u8) -> Option<Candidate> {
        let unmarked = offered.unmarked();
        match byte {
            b'{' | b'[' if unmarked && !self.begun => Some(Candidate::bare()),
            b'<' => Some(Candidate::tag()),
            b'[' => Some(Candidate::mark()),
            b'`' if unmarked && self.fences.may_open() => Some(Candidate::fence()),
            _ => None,
        }
    }

    /// Text that goes on with the candidate. Answers how much of it was taken.
    fn follow(&mut self, offered: &Offered, text: &str, out: &mut Vec<Piece>) -> usize {
        let Some(candidate) = &mut self.candidate else { return 0 };
        let room = MAX_CANDIDATE - self.held.len();
        for (at, byte) in text.bytes().enumerate() {
            let step = if at < room { candidate.step(offered, byte) } else { Step::Dead };
            match step {
                Step::More => {}
                Step::Whole => {
                    self.held.push_str(&text[..=at]);
                    self.complete(offered, out);
                    return at + 1;
                }
                Step::Dead => {
                    // A name may be left in the midst of a character, at its second byte.
                    let end = (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
                    self.held.push_str(&text[..end]);
                    self.give_up(offered, out);
                    return end;
                }
            }
        }
        self.held.push_str(text);
        text.len()
    }

    fn complete(&mut self, offered: &Offered, out: &mut Vec<Piece>) {
        let calls = self.candidate.as_ref().and_then(|c| c.calls(&self.held, offered));
        match calls {
            Some(calls) => {
                self.held.clear();
                self.candidate = None;
                self.fences.call();
                self.call(calls, out);
            }
            None => self.give_up(offered, out),
        }
    }

    /// The candidate is none: its text leaves, but for an opening word at its end, which becomes
    /// the next candidate. That word opens with its only `<` or `[`, so this happens once a byte.
    fn give_up(&mut self, offered: &Offered, out: &mut Vec<Piece>) {
        let Some(candidate) = self.candidate.take() else { return };
        let text = std::mem::take(&mut self.held);
        let begun = self.say_inner(&candidate, &text, offered, out);
        // A bare call may have begun with the `[` of a mark; any other is not to begin again.
        let from = if candidate.is_bare() { begun } else { begun.max(1) };
        let end = opening_word(&text, from);
        self.fences.text(&text[begun..end]);
        self.say(&text[begun..end], out);
        self.push(offered, &text[end..], out);
    }

    /// If a tag that is none holds a whole function, says everything up to that function's end.
    /// Answers where the rest begins.
    fn say_inner(
        &mut self,
        candidate: &Candidate,
        text: &str,
        offered: &Offered,
        out: &mut Vec<Piece>,
    ) -> usize {
        let inner = candidate.inner().zip(candidate.calls(text, offered));
        let Some((place, calls)) = inner else { return 0 };
        self.say(&text[..place.start], out);
        self.fences.call();
        self.call(calls, out);
        place.end
    }

    fn call(&mut self, calls: Vec<Piece>, out: &mut Vec<Piece>) {
        self.space.clear();
        self.behind_call = true;
        out.extend(calls);
    }

    /// Text that stays text; white space at its end is held.
    fn say(&mut self, text: &str, out: &mut Vec<Piece>) {
        let text = if self.behind_call { text.trim_start_matches(SPACE) } else { text };
        let body = text.trim_end_matches(SPACE);
        if !body.is_empty() {
            self.behind_call = false;
            Piece::add_text(&self.space, out);
            Piece::add_text(body, out);
            self.space.clear();
        }
        let mut space = &text[body.len()..];
        while !space.is_empty() {
            let (now, later) = space.split_at(space.len().min(MAX_CANDIDATE - self.space.len()));
            self.space.push_str(now);
            space = later;
            if self.space.len() == MAX_CANDIDATE {
                Piece::add_text(&std::mem::take(&mut self.space), out);
            }
        }
    }
}

/// As [`super::json::is_space`] has it.
const SPACE: [char; 4] = [' ', '\t', '\n', '\r'];

/// Where the end of the text begins that is an opening word or the beginning of one, not before
/// `from`; the text's length where there is none.
fn opening_word(text: &str, from: usize) -> usize {
    let bytes = text.as_bytes();
    let longest = TAGS.iter().chain(MARK).map(|word| word.len()).max().unwrap_or(0);
    let from = from.max(bytes.len().saturating_sub(longest));
    let tail = bytes.get(from..).unwrap_or_default();
    let Some(place) = tail.iter().rposition(|byte| matches!(byte, b'<' | b'[')) else {
        return bytes.len();
    };
    let begins = |word: &&&str| word.as_bytes().starts_with(&tail[place..]);
    let opens = TAGS.iter().chain(MARK).any(|word| begins(&word));
    if opens { from + place } else { bytes.len() }
}
