//! What becomes of each message, until it is written as edits.
//!
//! Owns: that edits of one request do not meet: a message that goes is not reworded, and what comes to
//! a message is written once. Must never do: decide; the policies do.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use serde_json::{Value, json};

use super::view::{Content, Message, Messages, Part, PartKind};
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
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) body: Bytes,
    pub(super) messages: Messages,
    pub(super) fates: Vec<Fate>,
    /// Images of messages that go, which come to the current user message.
    pub(super) carried: Vec<Range<usize>>,
    /// Comes before all messages.
    pub(super) system_prompt: Option<String>,
}

impl Plan {
    pub(super) fn new(body: Bytes, messages: Messages) -> Self {
        let fates = vec![Fate::Stays; messages.all.len()];
        Plan { body, messages, fates, carried: Vec::new(), system_prompt: None }
    }

    /// The messages that do not go.
    pub(super) fn kept(&self) -> impl Iterator<Item = (usize, &Message)> {
        let all = self.messages.all.iter().enumerate();
        all.filter(|(at, _)| self.fates[*at] != Fate::Goes)
    }

    /// Where the addresses of the inline images stand that are sent.
    pub(super) fn inline_images(&self) -> Vec<Range<usize>> {
        let stays = self.kept().filter(|(at, _)| self.fates[*at] == Fate::Stays);
        let staying = stays.flat_map(|(_, message)| message.images());
        let all = self.messages.all.iter().flat_map(Message::images);
        let carried = all.filter(|part| self.carried.contains(&part.place));
        staying.chain(carried).filter_map(inline).collect()
    }

    /// All of it, as changes of the body. `anew`: what stands instead of addresses of images, by where
    /// they begin.
    pub(super) fn edits(&self, anew: &BTreeMap<usize, Bytes>) -> Vec<Edit> {
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
                (Fate::Stays, _) => {
                    let urls = message.images().filter_map(inline);
                    edits.extend(urls.filter_map(|place| {
                        let pieces = vec![anew.get(&place.start)?.clone()];
                        Some(Edit { place, pieces })
                    }));
                }
                _ => {}
            }
        }
        edits.extend(self.carry(anew));
        edits
    }

    /// An image part that is carried over, with its new address if it has one.
    fn carried_pieces(&self, part: &Range<usize>, anew: &BTreeMap<usize, Bytes>) -> Vec<Bytes> {
        let all = self.messages.all.iter().flat_map(Message::images);
        let url = { all }.find(|image| image.place == *part).and_then(inline);
        match url.and_then(|url| Some((anew.get(&url.start)?.clone(), url))) {
            None => vec![self.body.slice(part.clone())],
            Some((new, url)) => {
                let (before, behind) = (part.start..url.start, url.end..part.end);
                vec![self.body.slice(before), new, self.body.slice(behind)]
            }
        }
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
    fn carry(&self, anew: &BTreeMap<usize, Bytes>) -> Option<Edit> {
        let current = &self.messages.all[self.messages.current()?];
        if self.carried.is_empty() {
            return None;
        }
        let comma = || vec![Bytes::from_static(b",")];
        let images = self.carried.iter().map(|image| self.carried_pieces(image, anew));
        let images = images.flat_map(|pieces| [comma(), pieces].concat());
        match &current.content {
            Content::Text(place) => {
                let text = self.body.slice(place.clone());
                let mut pieces = vec![Bytes::from_static(b"[{\"type\":\"text\",\"text\":"), text];
                pieces.push(Bytes::from_static(b"}"));
                pieces.extend(images);
                pieces.push(Bytes::from_static(b"]"));
                Some(Edit { place: place.clone(), pieces })
            }
            Content::Parts(place, parts) => {
                let end = place.end - 1;
                let mut pieces: Vec<Bytes> = images.collect();
                if parts.is_empty() {
                    pieces.remove(0);
                }
                Some(Edit { place: end..end, pieces })
            }
            Content::None => None,
        }
    }
}

/// Where the address of an inline image stands.
fn inline(part: &Part) -> Option<Range<usize>> {
    match &part.kind {
        PartKind::Image { url, inline: true, .. } => Some(url.clone()),
        _ => None,
    }
}
