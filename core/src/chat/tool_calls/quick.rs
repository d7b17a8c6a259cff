//! Chunks that say nothing but a piece of text: nearly all of them, read without a tree.
//!
//! Owns: telling them from others, and writing another text into them. Must never do: decide what the
//! text comes to, or take a chunk that says anything that must be looked at.

use std::borrow::Cow;
use std::ops::Range;

use super::index_of_text;
use crate::json::Walker;

/// A chunk of one choice that goes on, with text or reasoning or neither.
#[derive(Debug, Default)]
pub(super) struct Quick<'a> {
    /// Which choice.
    pub(super) index: u32,
    /// Its text, if there is any.
    pub(super) content: Option<Content<'a>>,
    /// It says a thought in a field of its own.
    pub(super) thinks: bool,
    /// It says something beside its text, so it must leave.
    pub(super) says: bool,
    choices: usize,
}

/// The text and its place.
#[derive(Debug)]
pub(super) struct Content<'a> {
    pub(super) text: Cow<'a, str>,
    /// The string, quotes included.
    value: Range<usize>,
    /// The same with its name.
    member: Range<usize>,
}

impl<'a> Quick<'a> {
    /// Reads a chunk; `None`: it is of another kind, or nothing that we know.
    pub(super) fn of(data: &'a [u8]) -> Option<Self> {
        let mut quick = Quick::default();
        let mut walker = Walker::new(data);
        walker.object(|key, w| match key {
            b"choices" => w.array(|w| quick.choice(data, w)),
            b"usage" => {
                quick.says |= !says_nothing(value(w)?);
                Some(())
            }
            _ => w.value().map(drop),
        })?;
        (walker.at_end() && quick.choices == 1).then_some(quick)
    }

    fn choice(&mut self, data: &'a [u8], walker: &mut Walker<'a>) -> Option<()> {
        self.choices += 1;
        walker.object(|key, w| match key {
            b"delta" => self.delta(data, w),
            b"index" => {
                self.index = index_of_text(value(w)?)?;
                Some(())
            }
            b"finish_reason" => matches!(value(w)?, b"null" | b"\"\"").then_some(()),
            b"logprobs" => {
                self.says |= value(w)? != b"null";
                Some(())
            }
            _ => w.value().map(drop),
        })
    }

    fn delta(&mut self, data: &'a [u8], walker: &mut Walker<'a>) -> Option<()> {
        walker.object(|key, w| {
            let place = w.value()?;
            let said = w.slice(place.clone());
            match key {
                b"content" if said.starts_with(b"\"") => {
                    let start = key.as_ptr() as usize - data.as_ptr() as usize - 1;
                    let text = text(said)?;
                    let member = start..place.end;
                    // A second one would leave the first behind.
                    let twice = self.content.replace(Content { text, value: place, member });
                    twice.is_none().then_some(())
                }
                b"role" => {
                    self.says |= !says_nothing(said);
                    Some(())
                }
                b"reasoning" | b"reasoning_content" => {
                    let thinks = !says_nothing(said);
                    self.thinks |= thinks;
                    self.says |= thinks;
                    Some(())
                }
                _ => says_nothing(said).then_some(()),
            }
        })
    }
}

impl Content<'_> {
    /// The chunk with another text.
    pub(super) fn with_text(&self, data: &[u8], text: &str) -> Option<String> {
        written(data, self.value.clone(), "", text)
    }

    /// The chunk with a thought instead of its text.
    pub(super) fn with_thought(&self, data: &[u8], thought: &str) -> Option<String> {
        written(data, self.member.clone(), "\"reasoning\":", thought)
    }
}

fn written(data: &[u8], place: Range<usize>, name: &str, text: &str) -> Option<String> {
    let (before, after) = (&data[..place.start], &data[place.end..]);
    let text = serde_json::to_string(text).ok()?;
    let all = [before, name.as_bytes(), text.as_bytes(), after].concat();
    String::from_utf8(all).ok()
}

fn value<'a>(walker: &mut Walker<'a>) -> Option<&'a [u8]> {
    let place = walker.value()?;
    Some(walker.slice(place))
}

fn says_nothing(value: &[u8]) -> bool {
    matches!(value, b"null" | b"\"\"" | b"[]")
}

/// What a JSON string says.
fn text(string: &[u8]) -> Option<Cow<'_, str>> {
    let inner = string.get(1..string.len().checked_sub(1)?)?;
    if memchr::memchr(b'\\', inner).is_some() || inner.iter().any(|byte| *byte < b' ') {
        return serde_json::from_slice::<String>(string).ok().map(Cow::Owned);
    }
    std::str::from_utf8(inner).ok().map(Cow::Borrowed)
}
