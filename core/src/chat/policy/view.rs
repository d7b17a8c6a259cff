//! The messages of a request as policies see them, over the client's own bytes.
//!
//! Owns: roles, turns, and where contents and images stand. Must never do: copy what it shows, or
//! refuse what it does not understand: a message of another shape is one without images.

use std::borrow::Cow;
use std::ops::Range;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::error::ApiError;

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// `system` or `developer`.
    System {
        /// It is `developer`.
        developer: bool,
    },
    /// A turn begins.
    User,
    /// Anything else: answers, results of tools.
    Other,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    /// Where the whole object stands.
    pub(super) place: Range<usize>,
    /// Who speaks.
    pub(super) role: Role,
    /// Where its content stands, and what it is.
    pub(super) content: Content,
}

/// The content of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    /// None, `null`, or of an unknown shape.
    None,
    /// A text.
    Text(Range<usize>),
    /// A list of parts.
    Parts(Range<usize>, Vec<Part>),
}

/// One part of a content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    /// Where it stands.
    pub(super) place: Range<usize>,
    /// What it is.
    pub(super) kind: PartKind,
}

/// What a part is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PartKind {
    /// Text.
    Text(String),
    /// An image.
    Image {
        /// Where its address stands, quotes included.
        url: Range<usize>,
        /// Its address is a `data:` URI.
        inline: bool,
        /// What it shows, in words.
        alt_text: Option<String>,
    },
    /// Something else.
    Other,
}

impl Part {
    /// Whether it is an image.
    pub(super) fn is_image(&self) -> bool {
        matches!(self.kind, PartKind::Image { .. })
    }
}

impl Message {
    /// Its parts, if it has any.
    pub(super) fn parts(&self) -> &[Part] {
        match &self.content {
            Content::Parts(_, parts) => parts,
            Content::None | Content::Text(_) => &[],
        }
    }

    /// Its images.
    pub(super) fn images(&self) -> impl Iterator<Item = &Part> {
        self.parts().iter().filter(|part| part.is_image())
    }

    /// Whether it has an image.
    pub(super) fn has_image(&self) -> bool {
        self.images().next().is_some()
    }
}

/// All messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Messages {
    /// In their order.
    pub(super) all: Vec<Message>,
    /// Where the list stands, brackets included.
    pub(super) place: Range<usize>,
}

#[derive(Deserialize)]
struct WireMessage<'a> {
    #[serde(borrow, default)]
    role: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct WirePart<'a> {
    #[serde(rename = "type", borrow, default)]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    text: Option<&'a RawValue>,
    #[serde(borrow, default)]
    image_url: Option<&'a RawValue>,
    #[serde(borrow, default)]
    alt_text: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct WireImage<'a> {
    #[serde(borrow, default)]
    url: Option<&'a RawValue>,
    #[serde(borrow, default)]
    alt_text: Option<&'a RawValue>,
}

impl Messages {
    /// Reads the list that stands at `place` of `body`.
    pub(super) fn read(body: &str, place: Range<usize>) -> Result<Self, ApiError> {
        let list: Vec<&RawValue> = serde_json::from_str(&body[place.clone()])
            .map_err(|_| ApiError::invalid("messages", "`messages` must be a list"))?;
        let at = |raw: &RawValue| locate(body, raw.get());
        Ok(Messages {
            all: list.into_iter().map(|raw| message(body, raw, at(raw))).collect(),
            place,
        })
    }

    /// Where the current turn begins: its user message; nothing if there is none.
    pub(super) fn current(&self) -> Option<usize> {
        self.all.iter().rposition(|message| message.role == Role::User)
    }

    /// Where turns begin, the first one first.
    pub(super) fn turns(&self) -> Vec<usize> {
        let users = self.all.iter().enumerate().filter(|(_, message)| message.role == Role::User);
        users.map(|(at, _)| at).collect()
    }
}

/// The place of a slice of the body.
fn locate(body: &str, part: &str) -> Range<usize> {
    let start = part.as_ptr() as usize - body.as_ptr() as usize;
    start..start + part.len()
}

fn message(body: &str, raw: &RawValue, place: Range<usize>) -> Message {
    let wire: Option<WireMessage<'_>> = serde_json::from_str(raw.get()).ok();
    let Some(WireMessage { role, content }) = wire else {
        return Message { place, role: Role::Other, content: Content::None };
    };
    let role = match role.as_deref() {
        Some("system") => Role::System { developer: false },
        Some("developer") => Role::System { developer: true },
        Some("user") => Role::User,
        _ => Role::Other,
    };
    let content = content.map_or(Content::None, |content| read_content(body, content));
    Message { place, role, content }
}

fn read_content(body: &str, content: &RawValue) -> Content {
    let text = content.get();
    let place = locate(body, text);
    match text.as_bytes().first() {
        Some(b'"') => Content::Text(place),
        Some(b'[') => match serde_json::from_str::<Vec<&RawValue>>(text) {
            Ok(parts) => {
                let parts = parts.into_iter().map(|raw| part(body, raw)).collect();
                Content::Parts(place, parts)
            }
            Err(_) => Content::None,
        },
        _ => Content::None,
    }
}

fn part(body: &str, raw: &RawValue) -> Part {
    let place = locate(body, raw.get());
    let kind = serde_json::from_str::<WirePart<'_>>(raw.get()).ok().and_then(|wire| {
        match wire.kind.as_deref()? {
            "text" | "input_text" => Some(PartKind::Text(string(wire.text)?)),
            "image_url" | "input_image" | "image" => image(body, &wire),
            _ => None,
        }
    });
    Part { place, kind: kind.unwrap_or(PartKind::Other) }
}

/// `image_url` is an object with a `url`, or the address itself.
fn image(body: &str, wire: &WirePart<'_>) -> Option<PartKind> {
    let raw = wire.image_url?;
    let (url, inner) = match raw.get().as_bytes().first()? {
        b'"' => (raw, None),
        b'{' => {
            let inner: WireImage<'_> = serde_json::from_str(raw.get()).ok()?;
            (inner.url?, inner.alt_text)
        }
        _ => return None,
    };
    let alt_text = string(inner).or_else(|| string(wire.alt_text));
    let place = locate(body, url.get());
    let inline = url.get().get(1..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("data:"));
    Some(PartKind::Image {
        url: place,
        inline,
        alt_text: alt_text.filter(|alt| !alt.trim().is_empty()),
    })
}

fn string(raw: Option<&RawValue>) -> Option<String> {
    serde_json::from_str(raw?.get()).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(body: &str) -> Messages {
        Messages::read(body, 0..body.len()).unwrap()
    }

    #[test]
    fn roles_turns_and_places_are_found() {
        let body = r#"[{"role":"system","content":"s"}, {"role":"developer","content":null},
            {"role":"user","content":"a"},{"role":"assistant","tool_calls":[]},
            {"role":"tool","content":"r"},{"role":"user","content":[{"type":"text","text":"b"}]}]"#;
        let messages = read(body);
        assert_eq!(messages.turns(), [2, 5]);
        assert_eq!(messages.current(), Some(5));
        assert_eq!(messages.all[1].role, Role::System { developer: true });
        assert_eq!(&body[messages.all[4].place.clone()], r#"{"role":"tool","content":"r"}"#);
        let Content::Text(place) = &messages.all[2].content else { panic!() };
        assert_eq!(&body[place.clone()], "\"a\"");
    }

    #[test]
    fn images_are_found_in_all_their_forms() {
        let body = r#"[{"role":"user","content":[
            {"type":"image_url","image_url":{"url":"data:image/png;base64,AA","alt_text":"in"}},
            {"type":"image_url","image_url":{"url":"https://x/y.png"},"alt_text":"out"},
            {"type":"input_image","image_url":"DATA:image/png;base64,AA","alt_text":" "},
            {"type":"image_url","image_url":7}, {"type":"audio"}, {"type":"text","text":"t"}, 7]}]"#;
        let messages = read(body);
        let images: Vec<_> = messages.all[0]
            .images()
            .map(|part| match &part.kind {
                PartKind::Image { url, inline, alt_text } => {
                    (&body[url.clone()], *inline, alt_text.as_deref())
                }
                _ => panic!(),
            })
            .collect();
        assert_eq!(
            images,
            [
                ("\"data:image/png;base64,AA\"", true, Some("in")),
                ("\"https://x/y.png\"", false, Some("out")),
                ("\"DATA:image/png;base64,AA\"", true, None),
            ]
        );
        assert_eq!(messages.all[0].parts().len(), 7);
    }

    #[test]
    fn what_is_not_understood_is_no_image_and_no_error() {
        let messages = read(
            r#"[7, null, {"role":5,"content":{}}, {"content":[{]}]"#.replace("[{]", "[]").as_str(),
        );
        assert!(messages.all.iter().all(|m| !m.has_image() && m.role == Role::Other));
        assert_eq!(messages.current(), None);
        assert!(Messages::read("{}", 0..2).is_err());
    }
}
