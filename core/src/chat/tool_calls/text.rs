//! The text of one choice: thoughts taken apart first, then calls found in what is left.
//!
//! Owns: in which order the two searches see the text, and what is held while neither knows. Must never
//! do: find a call in a thought, or give other pieces for other cuts.

use std::sync::Arc;

use super::TextRules;
use crate::chat::harmonise::{Offered, Piece, TextScanner};
use crate::chat::think::{Part, ThinkFormat, ThinkSplitter};

/// See the module.
#[derive(Debug)]
pub(super) struct TextReader {
    offered: Arc<Offered>,
    scanner: TextScanner,
    thoughts: Option<Thoughts>,
}

#[derive(Debug)]
struct Thoughts {
    format: ThinkFormat,
    splitter: ThinkSplitter,
    /// What is unsure and has not left.
    unsure: String,
    /// What it comes to if it is no thought, from the first call on.
    pieces: Vec<Piece>,
}

/// What was read.
#[derive(Debug, Default)]
pub(super) struct Read {
    /// Text for the reader, and calls.
    pub(super) pieces: Vec<Piece>,
    /// Thoughts that go into their own field.
    pub(super) thought: String,
}

impl Read {
    /// Whether it is this text and nothing else.
    pub(super) fn is_text(&self, text: &str) -> bool {
        let same = match self.pieces.as_slice() {
            [] => text.is_empty(),
            [Piece::Text(only)] => only == text,
            _ => false,
        };
        same && self.thought.is_empty()
    }

    /// Whether all of it is held.
    pub(super) fn is_nothing(&self) -> bool {
        self.is_text("")
    }

    /// The text, if it is nothing else.
    pub(super) fn only_text(&self) -> Option<&str> {
        match self.pieces.as_slice() {
            [Piece::Text(only)] if self.thought.is_empty() => Some(only),
            _ => None,
        }
    }

    /// The thought, if it is nothing else.
    pub(super) fn only_thought(&self) -> Option<&str> {
        (self.pieces.is_empty() && !self.thought.is_empty()).then_some(&self.thought)
    }
}

impl TextReader {
    /// Before the first text.
    pub(super) fn new(rules: &TextRules) -> Self {
        let offered = rules.offered.clone().unwrap_or_default();
        let thoughts = rules.thinking.map(|thinking| Thoughts {
            format: thinking.format,
            splitter: ThinkSplitter::new(thinking.opener),
            unsure: String::new(),
            pieces: Vec::new(),
        });
        TextReader { scanner: TextScanner::new(offered.clone()), offered, thoughts }
    }

    /// Takes more text.
    pub(super) fn push(&mut self, text: &str, read: &mut Read) {
        let Some(thoughts) = &mut self.thoughts else {
            return self.scanner.push(text, &mut read.pieces);
        };
        let mut parts = Vec::new();
        thoughts.splitter.push(text, &mut parts);
        self.take(parts, read);
    }

    /// The text is at its end.
    pub(super) fn finish(&mut self, read: &mut Read) {
        if let Some(thoughts) = &mut self.thoughts {
            let mut parts = Vec::new();
            thoughts.splitter.finish(&mut parts);
            self.take(parts, read);
        }
        self.scanner.finish(&mut read.pieces);
    }

    /// The engine tells the thoughts of this answer itself.
    pub(super) fn leave_to_the_engine(&mut self, read: &mut Read) {
        if let Some(thoughts) = &mut self.thoughts {
            let mut parts = Vec::new();
            thoughts.splitter.leave_to_the_engine(&mut parts);
            self.take(parts, read);
        }
    }

    fn take(&mut self, parts: Vec<Part>, read: &mut Read) {
        let Some(thoughts) = &mut self.thoughts else { return };
        let format = thoughts.format;
        for part in parts {
            match part {
                Part::Answer(text) => self.scanner.push(&text, &mut read.pieces),
                Part::Thought(text) | Part::Mark(text) if format == ThinkFormat::Keep => {
                    // What the search holds stands before it.
                    self.scanner.finish(&mut read.pieces);
                    Piece::add_text(&text, &mut read.pieces);
                }
                Part::Thought(text) if format == ThinkFormat::Extract => {
                    read.thought.push_str(&text);
                }
                Part::Thought(_) | Part::Mark(_) => {}
                Part::Unsure(text) => thoughts.unsure(&text, &mut self.scanner, read),
                Part::Settled(thought) => {
                    thoughts.settled(thought, &mut self.scanner, read);
                    if thought {
                        self.scanner = TextScanner::new(self.offered.clone());
                    }
                }
            }
        }
    }
}

impl Thoughts {
    /// Text that may be a thought: it leaves only where it stays in the text in either case, and what
    /// looks like a call waits.
    fn unsure(&mut self, text: &str, scanner: &mut TextScanner, read: &mut Read) {
        self.unsure.push_str(text);
        if self.format != ThinkFormat::Keep {
            return;
        }
        scanner.push(text, &mut self.pieces);
        let waits = |piece: &Piece| matches!(piece, Piece::Call { .. });
        let first = self.pieces.iter().position(waits).unwrap_or(self.pieces.len());
        for piece in self.pieces.drain(..first) {
            // Up to the first call it is the text as it came.
            if let Piece::Text(text) = piece {
                self.unsure.drain(..text.len());
                Piece::add_text(&text, &mut read.pieces);
            }
        }
    }

    fn settled(&mut self, thought: bool, scanner: &mut TextScanner, read: &mut Read) {
        let (text, pieces) = (std::mem::take(&mut self.unsure), std::mem::take(&mut self.pieces));
        match self.format {
            ThinkFormat::Keep if thought => Piece::add_text(&text, &mut read.pieces),
            ThinkFormat::Keep => read.pieces.extend(pieces),
            _ if !thought => scanner.push(&text, &mut read.pieces),
            ThinkFormat::Extract => {
                let begun = text.strip_prefix("\r\n").or(text.strip_prefix('\n'));
                read.thought.push_str(begun.unwrap_or(&text));
            }
            ThinkFormat::Strip => {}
        }
    }
}
