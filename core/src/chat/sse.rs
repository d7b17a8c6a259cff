//! Server-sent events: where one ends, and what its data is.
//!
//! Source: WHATWG HTML, "Server-sent events", 9.2.6 (line ends are LF, CR LF or CR; a blank line
//! ends an event; a line that begins with a colon is a comment). Owns: framing. Must never do:
//! look into the data, or copy an event that lies whole in one chunk.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use memchr::memchr2;

/// The largest single event that is held together; a backend that exceeds it breaks the protocol.
pub const MAX_EVENT_BYTES: usize = 16 << 20;

/// One event as found in the bytes that were pushed.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// It lies in the pushed chunk.
    InPlace(Range<usize>),
    /// It began in an earlier chunk; these are its bytes put together.
    Joined(Bytes),
}

/// The event grew over [`MAX_EVENT_BYTES`] without ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("one event of the backend's stream is larger than {MAX_EVENT_BYTES} bytes")]
pub struct EventTooLarge;

/// Makes JSON one line of data: between its tokens a line end is as good as a space, and within its
/// strings there is none.
pub fn in_one_line(json: &mut [u8]) {
    if memchr2(b'\n', b'\r', json).is_some() {
        json.iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
    }
}

/// Cuts a byte stream into events, wherever the chunks are cut.
#[derive(Debug)]
pub struct Splitter {
    /// Bytes of an event that has not ended yet.
    tail: BytesMut,
    /// Nothing but a line end would make the current line blank.
    line_empty: bool,
    /// The last byte seen was a CR whose LF may still come; tells whether its line was blank.
    after_cr: Option<bool>,
}

impl Default for Splitter {
    fn default() -> Self {
        Splitter { tail: BytesMut::new(), line_empty: true, after_cr: None }
    }
}

impl Splitter {
    /// The next event of `chunk` from `*at` on, or `None` when the rest is no whole event (it is
    /// kept). Call until `None` with the same chunk, then with the next.
    pub fn next(&mut self, chunk: &Bytes, at: &mut usize) -> Result<Option<Found>, EventTooLarge> {
        let start = *at;
        if let Some(end) = self.blank_line_end(&chunk[start..]) {
            *at = start + end;
            if self.tail.is_empty() {
                return Ok(Some(Found::InPlace(start..*at)));
            }
            self.tail.extend_from_slice(&chunk[start..*at]);
            return Ok(Some(Found::Joined(self.tail.split().freeze())));
        }
        *at = chunk.len();
        if self.tail.len() + chunk.len() - start > MAX_EVENT_BYTES {
            return Err(EventTooLarge);
        }
        self.tail.extend_from_slice(&chunk[start..]);
        Ok(None)
    }

    /// Nothing of an event has been seen yet, not even a part of a line end.
    pub fn is_between_events(&self) -> bool {
        self.tail.is_empty() && self.line_empty && self.after_cr.is_none()
    }

    /// What was left without a blank line when the stream ended.
    pub fn rest(&mut self) -> Bytes {
        self.tail.split().freeze()
    }

    /// Index just behind the next blank line's end; keeps the line state across calls.
    fn blank_line_end(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        if let (Some(blank), Some(&first)) = (self.after_cr, bytes.first()) {
            self.after_cr = None;
            at = usize::from(first == b'\n');
            self.line_empty = true;
            if blank {
                return Some(at);
            }
        }
        loop {
            let Some(found) = memchr2(b'\n', b'\r', &bytes[at..]) else {
                self.line_empty &= at == bytes.len();
                return None;
            };
            let blank = self.line_empty && found == 0;
            at += found + 1;
            self.line_empty = true;
            if bytes[at - 1] == b'\r' {
                if at == bytes.len() {
                    self.after_cr = Some(blank);
                    return None;
                }
                at += usize::from(bytes[at] == b'\n');
            }
            if blank {
                return Some(at);
            }
        }
    }
}

/// What an event carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// Comments or blank lines only: nothing to say to the client.
    Nothing,
    /// The data is one line, at this place of the event's bytes.
    Line(Range<usize>),
    /// The data was spread over several lines; joined with LF as the standard says.
    Lines(Vec<u8>),
}

impl Payload {
    /// Reads an event's bytes.
    pub fn of(event: &[u8]) -> Payload {
        // The one form that every engine sends gets the short way.
        if event.starts_with(b"data: ")
            && event.ends_with(b"\n\n")
            && memchr2(b'\n', b'\r', event) == Some(event.len() - 2)
        {
            return Payload::Line(6..event.len() - 2);
        }
        Self::of_any(event)
    }

    fn of_any(event: &[u8]) -> Payload {
        let mut data: Option<Payload> = None;
        let mut other = false;
        for line in lines(event) {
            let text = &event[line.clone()];
            if text.starts_with(b":") || text.is_empty() {
                continue;
            }
            let Some(value) = field_value(text, b"data") else {
                other = true;
                continue;
            };
            let range = line.start + value..line.end;
            data = Some(match data {
                None => Payload::Line(range),
                Some(Payload::Line(first)) => {
                    Payload::Lines([&event[first], b"\n", &event[range]].concat())
                }
                Some(Payload::Lines(mut joined)) => {
                    joined.push(b'\n');
                    joined.extend_from_slice(&event[range]);
                    Payload::Lines(joined)
                }
                Some(Payload::Nothing) => Payload::Nothing,
            });
        }
        match data {
            Some(payload) => payload,
            // Fields without data (a bare `event:` or `id:`) are passed on with empty data.
            None if other => Payload::Lines(Vec::new()),
            None => Payload::Nothing,
        }
    }

    /// The data itself.
    pub fn data<'a>(&'a self, event: &'a [u8]) -> &'a [u8] {
        match self {
            Payload::Nothing => &[],
            Payload::Line(range) => &event[range.clone()],
            Payload::Lines(joined) => joined,
        }
    }
}

/// Whether the event is named `error`, as some servers name theirs.
pub fn is_error_event(event: &[u8]) -> bool {
    if event.starts_with(b"data:") {
        return false; // the usual event has no name, or has it behind its data: rarer still
    }
    lines(event).any(|line| {
        let text = &event[line];
        field_value(text, b"event").is_some_and(|value| &text[value..] == b"error")
    })
}

/// Offset of a field's value in its line, if the line is that field: one space after the colon goes.
fn field_value(line: &[u8], name: &[u8]) -> Option<usize> {
    let rest = line.strip_prefix(name)?;
    match rest.first() {
        None => Some(line.len()),
        Some(b':') => Some(name.len() + 1 + usize::from(rest.get(1) == Some(&b' '))),
        Some(_) => None,
    }
}

/// The lines of an event, without their ends.
fn lines(event: &[u8]) -> impl Iterator<Item = Range<usize>> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at >= event.len() {
            return None;
        }
        let start = at;
        let end = memchr2(b'\n', b'\r', &event[at..]).map_or(event.len(), |found| at + found);
        let crlf = event.get(end..end + 2) == Some(b"\r\n");
        at = end + if crlf { 2 } else { 1 };
        Some(start..end)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn split(chunks: &[&[u8]]) -> (Vec<Vec<u8>>, Vec<u8>) {
        let mut splitter = Splitter::default();
        let mut events = Vec::new();
        for chunk in chunks {
            let chunk = Bytes::copy_from_slice(chunk);
            let mut at = 0;
            while let Some(found) = splitter.next(&chunk, &mut at).unwrap() {
                events.push(match found {
                    Found::InPlace(range) => chunk[range].to_vec(),
                    Found::Joined(bytes) => bytes.to_vec(),
                });
            }
        }
        (events, splitter.rest().to_vec())
    }

    #[test]
    fn every_line_end_of_the_standard_ends_an_event() {
        for text in ["data: a\n\ndata: b\n\n", "data: a\r\n\r\ndata: b\r\n\r\n"] {
            let (events, rest) = split(&[text.as_bytes()]);
            let half = text.len() / 2;
            assert_eq!(
                events,
                [text.as_bytes()[..half].to_vec(), text.as_bytes()[half..].to_vec()]
            );
            assert!(rest.is_empty());
        }
        let (events, rest) = split(&[b"data: a\r\rdata: b\r\r", b"data"]);
        assert_eq!(events, [b"data: a\r\r".to_vec(), b"data: b\r\r".to_vec()]);
        assert_eq!(rest, b"data");
    }

    #[test]
    fn an_event_that_lies_in_one_chunk_is_not_copied() {
        let mut splitter = Splitter::default();
        let chunk = Bytes::from_static(b"data: a\n\ndata: b\n\n");
        let mut at = 0;
        assert_eq!(splitter.next(&chunk, &mut at), Ok(Some(Found::InPlace(0..9))));
        assert_eq!(splitter.next(&chunk, &mut at), Ok(Some(Found::InPlace(9..18))));
        assert_eq!(splitter.next(&chunk, &mut at), Ok(None));
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut splitter = Splitter::default();
        let chunk = Bytes::from(vec![b'x'; MAX_EVENT_BYTES / 2 + 1]);
        assert_eq!(splitter.next(&chunk, &mut 0), Ok(None));
        assert_eq!(splitter.next(&chunk, &mut 0), Err(EventTooLarge));
    }

    #[test]
    fn payloads_are_read_as_the_standard_says() {
        let cases: &[(&str, Option<&str>)] = &[
            ("data: {\"a\":1}\n\n", Some("{\"a\":1}")),
            ("data:x\n\n", Some("x")),
            ("data:  x\n\n", Some(" x")),
            ("data: a\ndata: b\ndata:c\n\n", Some("a\nb\nc")),
            ("event: e\ndata: x\r\n\r\n", Some("x")),
            (": comment\n\n", None),
            ("\n", None),
            (": c\ndata: x\n\n", Some("x")),
            ("id: 7\n\n", Some("")),
            ("data\n\n", Some("")),
        ];
        for (event, want) in cases {
            let payload = Payload::of(event.as_bytes());
            match want {
                None => assert_eq!(payload, Payload::Nothing, "{event:?}"),
                Some(data) => {
                    assert_eq!(payload.data(event.as_bytes()), data.as_bytes(), "{event:?}");
                }
            }
        }
    }

    proptest! {
        /// Wherever the chunks are cut, the same events come out and no byte is lost.
        #[test]
        fn cuts_do_not_matter(
            texts in prop::collection::vec("(data: ?[a-z€{}\":]{0,9}|: c|event: x)", 0..8),
            ends in prop::collection::vec(prop_oneof![Just("\n"), Just("\r\n"), Just("\r")], 1..4),
            cuts in prop::collection::vec(0usize..200, 0..12),
        ) {
            let mut whole = String::new();
            for (i, text) in texts.iter().enumerate() {
                let end = ends[i % ends.len()];
                whole.push_str(text);
                whole.push_str(end);
                whole.push_str(end);
            }
            let bytes = whole.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(bytes.len())).collect();
            cuts.sort_unstable();
            let mut chunks = Vec::new();
            let mut from = 0;
            for cut in cuts {
                chunks.push(&bytes[from..cut]);
                from = cut;
            }
            chunks.push(&bytes[from..]);
            let (one, one_rest) = split(&[bytes]);
            let (many, many_rest) = split(&chunks);
            prop_assert_eq!(&one, &many);
            prop_assert_eq!(&one_rest, &many_rest);
            let mut all = one.concat();
            all.extend(one_rest);
            prop_assert_eq!(all, bytes);
        }
    }
}
