//! What becomes of each message, until it is written as edits.
//!
//! Owns: that edits of one request do not meet: a message that goes is not reworded, and what comes to
//! a message is written once. Must never do: decide; the policies do.

use std::ops::Range;

use bytes::Bytes;
use serde_json::{Value, json};

use super::view::{Content, Message, Messages};
use crate::chat::edits::Edit;

/// What becomes of one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    /// It stays, byte for byte.
    Stays,
    /// It goes.
    Goes,
    /// It gets another content: this text.
    Reworded(String),
    /// Some of its parts become these texts.
    Parts(Vec<(Range<usize>, String)>),
}

/// See the module.
pub(super) struct Plan<'a> {
    pub(super) body: &'a Bytes,
    pub(super) messages: Messages,
    pub(super) fates: Vec<Fate>,
    /// Images of messages that go, which come to the current user message.
    pub(super) carried: Vec<Range<usize>>,
    /// Comes before all messages.
    pub(super) system_prompt: Option<String>,
}

impl<'a> Plan<'a> {
    pub(super) fn new(body: &'a Bytes, messages: Messages) -> Self {
        let fates = vec![Fate::Stays; messages.all.len()];
        Plan { body, messages, fates, carried: Vec::new(), system_prompt: None }
    }

    /// The messages that do not go.
    pub(super) fn kept(&self) -> impl Iterator<Item = (usize, &Message)> {
        let all = self.messages.all.iter().enumerate();
        all.filter(|(at, _)| self.fates[*at] != Fate::Goes)
    }

    /// All of it, as changes of the body.
    pub(super) fn edits(&self) -> Vec<Edit> {
        let mut edits = self.removals();
        if let Some(prompt) = &self.system_prompt {
            let at = self.messages.place.start + 1;
            let comma = if self.messages.all.is_empty() { "" } else { "," };
            let message = json!({"role": "system", "content": prompt});
            edits.push(Edit::text(at..at, format!("{message}{comma}")));
        }
        for (at, message) in self.kept() {
            match (&self.fates[at], &message.content) {
                (Fate::Reworded(text), Content::Text(place) | Content::Parts(place, _)) => {
                    edits.push(Edit::text(place.clone(), Value::from(text.as_str()).to_string()));
                }
                (Fate::Parts(parts), _) => edits.extend(parts.iter().map(|(place, text)| {
                    Edit::text(place.clone(), json!({"type": "text", "text": text}).to_string())
                })),
                _ => {}
            }
        }
        edits.extend(self.carry());
        edits
    }

    /// Messages that go, each with the comma behind it: the current turn always stays behind them.
    fn removals(&self) -> Vec<Edit> {
        let all = &self.messages.all;
        let mut edits = Vec::new();
        let mut first = None;
        for (at, message) in all.iter().enumerate() {
            match (&self.fates[at], first) {
                (Fate::Goes, None) => first = Some(message.place.start),
                (Fate::Goes, Some(_)) | (_, None) => {}
                (_, Some(start)) => {
                    edits.push(Edit::remove(start..message.place.start));
                    first = None;
                }
            }
        }
        edits
    }

    /// Puts the images that are carried over behind the content of the current user message.
    fn carry(&self) -> Option<Edit> {
        let current = &self.messages.all[self.messages.current()?];
        let images = || self.carried.iter().map(|image| self.body.slice(image.clone()));
        let comma = || Bytes::from_static(b",");
        if self.carried.is_empty() {
            return None;
        }
        match &current.content {
            Content::Text(place) => {
                let text = self.body.slice(place.clone());
                let mut pieces = vec![Bytes::from_static(b"[{\"type\":\"text\",\"text\":"), text];
                pieces.push(Bytes::from_static(b"}"));
                pieces.extend(images().flat_map(|image| [comma(), image]));
                pieces.push(Bytes::from_static(b"]"));
                Some(Edit { place: place.clone(), pieces })
            }
            Content::Parts(place, parts) => {
                let end = place.end - 1;
                let mut pieces: Vec<Bytes> = images().flat_map(|image| [comma(), image]).collect();
                if parts.is_empty() {
                    pieces.remove(0);
                }
                Some(Edit { place: end..end, pieces })
            }
            Content::None => None,
        }
    }
}
