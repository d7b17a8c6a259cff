//! A model's text, searched for calls and for thoughts, whole and in pieces.
//!
//! Switches: 0 the request asked for a form of the answer; 1 no tool was offered; 2 the prompt opens the
//! thought; 3 the model does.
//!
//! Owns: that the pieces do not depend on the cuts, that little is held back, that every call has an
//! offered name and an object, and that no text is lost. Must never do: know the grammar.

use std::sync::Arc;

use chat_proxy_core::chat::harmonise::scanner::MAX_CANDIDATE;
use chat_proxy_core::chat::harmonise::{Offered, Piece, TextScanner, split};
use chat_proxy_core::chat::think::{Opener, Part, ThinkSplitter};

use crate::input::Input;
use crate::{json, rules};

pub(crate) fn run(bytes: &[u8]) {
    let input = Input::of(bytes);
    let offered = if input.on(1) { Arc::default() } else { rules::offered(input.on(0)) };
    let text = input.text();
    let whole = split(&text, &offered);
    check(&whole, &text, &offered);
    for pieces in input.texts(&text).each() {
        assert_eq!(in_pieces(&offered, pieces), whole, "in pieces, and whole");
    }
    let opener = rules::opener(input.on(2), input.on(3));
    let parts = input.texts(&text).same(|pieces| thoughts(opener, pieces));
    assert_eq!(parts.iter().map(|(_, text)| text.as_str()).collect::<String>(), text);
}

/// What kind of part a byte of the text belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Answer,
    Thought,
    Mark,
}

/// The parts of a text that comes in pieces, like next to like joined, and what is unsure settled.
fn thoughts(opener: Opener, pieces: &[&str]) -> Vec<(Kind, String)> {
    let mut splitter = ThinkSplitter::new(opener);
    let (mut all, mut unsure) = (Vec::new(), None::<String>);
    let mut out = Vec::new();
    for piece in pieces {
        splitter.push(piece, &mut out);
    }
    splitter.finish(&mut out);
    for part in out {
        let part = match part {
            Part::Unsure(text) => {
                unsure.get_or_insert_default().push_str(&text);
                continue;
            }
            Part::Settled(true) => (Kind::Thought, unsure.take().unwrap_or_default()),
            Part::Settled(false) => (Kind::Answer, unsure.take().unwrap_or_default()),
            Part::Answer(text) => (Kind::Answer, text),
            Part::Thought(text) => (Kind::Thought, text),
            Part::Mark(text) => (Kind::Mark, text),
        };
        assert_eq!(unsure, None, "what is unsure is settled before anything else comes");
        add(part, &mut all);
    }
    assert_eq!(unsure, None, "what is unsure is settled in the end");
    all
}

fn add((kind, text): (Kind, String), all: &mut Vec<(Kind, String)>) {
    match all.last_mut() {
        _ if text.is_empty() => {}
        Some((last, before)) if *last == kind => before.push_str(&text),
        _ => all.push((kind, text)),
    }
}

fn check(pieces: &[Piece], text: &str, offered: &Offered) {
    let mut rest = text;
    let mut calls = 0;
    for (at, piece) in pieces.iter().enumerate() {
        match piece {
            Piece::Text(said) => {
                assert!(!said.is_empty());
                let before = at.checked_sub(1).and_then(|before| pieces.get(before));
                assert!(!matches!(before, Some(Piece::Text(_))), "text next to text");
                let place = rest.find(said.as_str());
                assert!(place.is_some(), "{said:?} is not in {rest:?}");
                rest = place.map_or("", |place| &rest[place + said.len()..]);
            }
            Piece::Call { name, arguments } => {
                calls += 1;
                assert!(offered.names().contains(name), "{name} was not offered");
                let object = arguments.starts_with('{') && json::is_valid(arguments.as_bytes());
                assert!(object, "{arguments:?} is no object");
            }
        }
    }
    if calls == 0 {
        assert_eq!(joined(pieces), text, "without a call the text stays");
    }
    // The shortest call is longer than this.
    assert!(calls <= text.len() / 8);
}

/// The pieces, text next to text joined, of text that comes in parts.
fn in_pieces(offered: &Arc<Offered>, parts: &[&str]) -> Vec<Piece> {
    let mut scanner = TextScanner::new(offered.clone());
    let (mut all, mut came, mut calls) = (Vec::new(), 0, false);
    for part in parts {
        let mut out = Vec::new();
        scanner.push(part, &mut out);
        came += part.len();
        calls |= out.iter().any(|piece| matches!(piece, Piece::Call { .. }));
        join(out, &mut all);
        assert!(scanner.held() <= came.min(2 * MAX_CANDIDATE));
        if !calls {
            assert_eq!(joined(&all).len() + scanner.held(), came, "said or held");
        }
    }
    let mut out = Vec::new();
    scanner.finish(&mut out);
    assert_eq!(scanner.held(), 0, "nothing is held at the end");
    join(out, &mut all);
    all
}

fn join(pieces: Vec<Piece>, all: &mut Vec<Piece>) {
    for piece in pieces {
        match (piece, all.last_mut()) {
            (Piece::Text(more), Some(Piece::Text(before))) => before.push_str(&more),
            (piece, _) => all.push(piece),
        }
    }
}

fn joined(pieces: &[Piece]) -> String {
    let text = pieces.iter().map(|piece| match piece {
        Piece::Text(text) => text.as_str(),
        Piece::Call { .. } => "",
    });
    text.collect()
}
