//! What a written call looks like, and the search of a whole text for calls.
//!
//! Owns: the words of the grammar (SPEC 5.6) and [`split`]. Must never do: find anything in a whole
//! text that [`super::TextScanner`] would not find in the same text in pieces; it is the same search.
//!
//! | form | text |
//! |---|---|
//! | (a) | `<tool_call>` JSON or (b) `</tool_call>` |
//! | (b) | `<function=NAME>` object, or `<parameter=K>V</parameter>`…, `</function>` |
//! | (c) | a fence with no tag, `json` or `tool_call` that holds JSON and nothing else |
//! | (d) | the whole text is JSON |
//! | (e) | `[TOOL_CALLS]` JSON, or `[TOOL_CALLS]NAME[ARGS]` object |
//!
//! JSON is here a call or a list of at least one call; a call is an object with a string `name`
//! that was offered and `arguments` or `parameters`, an object or a JSON string of one; OpenAI's own
//! `{"function":{…}}` around it is read through. In (c) and (d) it has no members but `type`, `id`
//! and `index` besides. White space may stand between any two parts but not around NAME and K. A
//! list is calls altogether or not at all. V goes to the first `</parameter>`.
//!
//! The search goes from left to right. What began like a call and is none is text up to the byte
//! that showed it; from there the search goes on. Two things are not lost with it: an opening word
//! of which that byte is the continuation, and a whole (b) within an (a) that is not closed.

use super::offered::Offered;
use super::scanner::Scan;

/// The words that open (a) and (b).
pub(super) const TAGS: &[&str] = &["<function=", "<tool_call>"];
/// The one that opens (b).
pub(super) const FUNCTION: &[&str] = &["<function="];
/// What may stand in a (b).
pub(super) const PARTS: &[&str] = &["</function>", "<parameter="];
/// What closes it.
pub(super) const END_FUNCTION: &[&str] = &["</function>"];
/// What closes a parameter.
pub(super) const END_PARAMETER: &[u8] = b"</parameter>";
/// What closes an (a).
pub(super) const END_TAG: &[&str] = &["</tool_call>"];
/// What opens an (e).
pub(super) const MARK: &[&str] = &["[TOOL_CALLS]"];
/// What stands between name and arguments there.
pub(super) const ARGS: &[&str] = &["[ARGS]"];
/// The tags of fences that may hold calls.
pub(super) const FENCE_TAGS: &[&str] = &["json", "tool_call"];

/// A part of a model's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Text that stays text.
    Text(String),
    /// A call that was written in it.
    Call {
        /// The tool, one of those offered.
        name: String,
        /// A JSON object.
        arguments: String,
    },
}

impl Piece {
    /// Adds text to the end, to the piece before it if that is text too.
    pub(in crate::chat) fn add_text(text: &str, pieces: &mut Vec<Piece>) {
        match pieces.last_mut() {
            _ if text.is_empty() => {}
            Some(Piece::Text(before)) => before.push_str(text),
            _ => pieces.push(Piece::Text(text.to_owned())),
        }
    }
}

/// The parts of a whole text.
pub fn split(text: &str, offered: &Offered) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut scan = Scan::default();
    scan.push(offered, text, &mut pieces);
    scan.finish(offered, &mut pieces);
    pieces
}
