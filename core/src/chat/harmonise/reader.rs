//! A call, or a list of calls, written as JSON.
//!
//! Owns: telling at each byte whether JSON can still be `{"name":…,"arguments":…}` with a name
//! that was offered, and where name and arguments lie. Must never do: keep the text.
//!
//! Where a mark stands before the JSON, members that we do not know are passed over. Without one
//! they end it: a JSON answer leaves at its first key, and the *definition* of a tool, which has a
//! name and `parameters` too, is given away by its `description`.

use std::ops::Range;

use super::json::{Event, Json, NotJson};
use super::offered::Offered;
use super::words::Prefix;

/// The members of a call in what models write; `function` is OpenAI's own wire form, in which the
/// call stands one level deeper. Sorted.
const KEYS: &[&str] = &["arguments", "function", "id", "index", "name", "parameters", "type"];
/// Those under `function`: with `parameters` there a tool is defined, not called.
const INNER_KEYS: &[&str] = &["arguments", "id", "index", "name", "type"];

/// A call that was found whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Written {
    /// Its place in [`Offered::names`].
    pub(super) tool: usize,
    /// Where the arguments lie: a JSON object or a JSON string.
    pub(super) arguments: Range<usize>,
}

#[derive(Debug, Clone, Copy)]
enum Reading {
    Nothing,
    Key(Prefix),
    Name(Prefix),
}

/// The reader of one such JSON text.
#[derive(Debug, Clone)]
pub(super) struct CallReader {
    json: Json,
    marked: bool,
    list: bool,
    /// How many brackets are open between the members of the call.
    level: usize,
    /// The members are those of the object under `function`.
    wrapped: bool,
    reading: Reading,
    key: &'static str,
    value_begins: usize,
    tool: Option<usize>,
    arguments: Option<Range<usize>>,
    parameters: Option<Range<usize>>,
    calls: Vec<Written>,
}

impl CallReader {
    /// Before the first byte. `marked`: something before it says that a call follows.
    pub(super) fn new(marked: bool) -> Self {
        CallReader {
            json: Json::new(),
            marked,
            list: false,
            level: 1,
            wrapped: false,
            reading: Reading::Nothing,
            key: "",
            value_begins: 0,
            tool: None,
            arguments: None,
            parameters: None,
            calls: Vec::new(),
        }
    }

    /// Takes the byte at this place; true once everything is whole. An error: from this byte on
    /// the text is no call any more.
    pub(super) fn step(&mut self, offered: &Offered, byte: u8, at: usize) -> Result<bool, NotJson> {
        let depth = self.json.depth();
        match self.json.step(byte)? {
            Event::Inside => self.inside(offered, byte)?,
            Event::KeyBegins if depth == self.level => {
                self.reading = Reading::Key(Prefix::new(self.keys()));
            }
            Event::KeyEnds => self.key_ends()?,
            Event::Begins => self.value_begins(offered, byte, depth, at)?,
            Event::StringEnds => self.string_ends(offered, depth, at)?,
            Event::Closes => return self.closes(depth - 1, at),
            Event::KeyBegins => {}
        }
        Ok(false)
    }

    /// The calls, once whole.
    pub(super) fn take_calls(&mut self) -> Vec<Written> {
        std::mem::take(&mut self.calls)
    }

    /// The members that are known here.
    fn keys(&self) -> &'static [&'static str] {
        if self.wrapped && !self.marked { INNER_KEYS } else { KEYS }
    }

    fn inside(&mut self, offered: &Offered, byte: u8) -> Result<(), NotJson> {
        let keys = self.keys();
        let known = match &mut self.reading {
            Reading::Nothing => return Ok(()),
            Reading::Key(word) => word.step(keys, byte) || self.marked,
            Reading::Name(word) => word.step(offered.names(), byte),
        };
        if known { Ok(()) } else { Err(NotJson) }
    }

    fn key_ends(&mut self) -> Result<(), NotJson> {
        if let Reading::Key(word) = self.reading {
            self.reading = Reading::Nothing;
            let keys = self.keys();
            self.key = match word.whole(keys) {
                Some(known) => keys[known],
                None if self.marked => "",
                None => return Err(NotJson),
            };
        }
        Ok(())
    }

    fn value_begins(
        &mut self,
        offered: &Offered,
        byte: u8,
        depth: usize,
        at: usize,
    ) -> Result<(), NotJson> {
        match (depth, byte) {
            (0, b'{') => return Ok(()),
            (0, b'[') => {
                (self.list, self.level) = (true, 2);
                return Ok(());
            }
            (1, b'{') if self.list => return Ok(()),
            (1, _) if self.list => return Err(NotJson),
            (0, _) => return Err(NotJson),
            _ if depth != self.level => return Ok(()),
            _ => {}
        }
        match (self.key, byte) {
            ("name", b'"') => self.reading = Reading::Name(Prefix::new(offered.names())),
            ("arguments" | "parameters", b'{' | b'"') => self.value_begins = at,
            ("function", b'{') if !self.wrapped => {
                (self.wrapped, self.level) = (true, self.level + 1);
            }
            ("name" | "arguments" | "parameters", _) => return Err(NotJson),
            ("function", _) if !self.marked => return Err(NotJson),
            _ => {}
        }
        Ok(())
    }

    fn string_ends(&mut self, offered: &Offered, depth: usize, at: usize) -> Result<(), NotJson> {
        if let Reading::Name(word) = self.reading {
            self.reading = Reading::Nothing;
            self.tool = Some(word.whole(offered.names()).ok_or(NotJson)?);
        } else if depth == self.level {
            self.value_ends(at);
        }
        Ok(())
    }

    fn value_ends(&mut self, at: usize) {
        let place = self.value_begins..at + 1;
        match self.key {
            "arguments" => self.arguments = Some(place),
            "parameters" => self.parameters = Some(place),
            _ => {}
        }
    }

    /// A bracket has closed; `depth` is what is still open.
    fn closes(&mut self, depth: usize, at: usize) -> Result<bool, NotJson> {
        if depth == self.level {
            self.value_ends(at);
        } else if depth + 1 == self.level && self.wrapped {
            (self.wrapped, self.level, self.key) = (false, self.level - 1, "");
        } else if depth + 1 == self.level {
            let arguments = self.arguments.take();
            let arguments = arguments.or(self.parameters.take()).ok_or(NotJson)?;
            self.parameters = None;
            let tool = self.tool.take().ok_or(NotJson)?;
            self.calls.push(Written { tool, arguments });
        } else if depth == 0 && self.calls.is_empty() {
            return Err(NotJson); // `[]`
        }
        Ok(depth == 0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::chat::harmonise::tests::offering;

    /// How many bytes it takes until nothing can come of it, or else the calls.
    fn read(text: &str, marked: bool) -> Result<Vec<(String, String)>, usize> {
        let offered = offering(&["f", "find"]);
        let mut reader = CallReader::new(marked);
        for (at, byte) in text.bytes().enumerate() {
            if reader.step(&offered, byte, at).map_err(|_| at)? {
                let found = reader.take_calls().into_iter();
                let words =
                    |w: Written| (offered.names()[w.tool].clone(), text[w.arguments].to_owned());
                return Ok(found.map(words).collect());
            }
        }
        panic!("never whole: {text}");
    }

    #[test]
    fn every_shape_of_a_call_is_read() {
        for text in [
            r#"{"name":"f","arguments":{"a":[1]}}"#,
            r#"{ "arguments" : {"a":[1]} , "name" : "f" }"#,
            r#"{"name":"f","parameters":{"a":[1]}}"#,
            r#"{"name":"f","parameters":{"b":2},"arguments":{"a":[1]}}"#,
            r#"{"type":"function","name":"f","parameters":{"a":[1]},"id":null,"index":0}"#,
            r#"{"id":"c","type":"function","function":{"name":"f","arguments":{"a":[1]}}}"#,
            r#"[{"name":"f","arguments":{"a":[1]}}]"#,
            r#"[{"function":{"name":"f","arguments":{"a":[1]}},"id":"c"}]"#,
        ] {
            for marked in [false, true] {
                let expected = vec![("f".to_owned(), r#"{"a":[1]}"#.to_owned())];
                assert_eq!(read(text, marked), Ok(expected), "{text}");
            }
        }
        let two = r#"[{"name":"f","arguments":{}},{"parameters":"{}","name":"find"}]"#;
        let calls = read(two, false).unwrap();
        assert_eq!(calls[0], ("f".to_owned(), "{}".to_owned()));
        assert_eq!(calls[1], ("find".to_owned(), r#""{}""#.to_owned()));
        let deep = r#"{"note":{"name":"x"},"name":"f","arguments":{"name":1,"arguments":2}}"#;
        assert_eq!(read(deep, true).unwrap()[0].1, r#"{"name":1,"arguments":2}"#);
    }

    #[test]
    fn it_ends_at_the_first_byte_that_cannot_belong_to_a_call() {
        for (text, dead_at) in [
            (r#"{"title":"x"}"#, r#"{"ti"#),
            (r#"{"answer":1}"#, r#"{"an"#),
            (r#"{"names":[]}"#, r#"{"names"#),
            (r#"{"na":[]}"#, r#"{"na""#),
            (r#"{"name":"bob"}"#, r#"{"name":"b"#),
            (r#"{"name":"fi"}"#, r#"{"name":"fi""#),
            (r#"{"name":1}"#, r#"{"name":1"#),
            (r#"{"name":"f","arguments":[1]}"#, r#"{"name":"f","arguments":["#),
            (r#"{"name":"f","arguments":null}"#, r#"{"name":"f","arguments":n"#),
            (r#"{"name":"f"}"#, r#"{"name":"f"}"#),
            (r#"{"arguments":{}}"#, r#"{"arguments":{}}"#),
            (r#"{"name":"f","description":""}"#, r#"{"name":"f","d"#),
            (r#"{"function":{"name":"f","parameters":{}}}"#, r#"{"function":{"name":"f","p"#),
            (r#"{"function":"f"}"#, r#"{"function":""#),
            ("[]", "[]"),
            ("[1]", "[1"),
            (r#"[{"name":"f","arguments":{}},2]"#, r#"[{"name":"f","arguments":{}},2"#),
            (r#""text""#, "\""),
            (r#"{"name":"f","arguments":{"a":tru}}"#, r#"{"name":"f","arguments":{"a":tru}"#),
        ] {
            assert_eq!(read(text, false), Err(dead_at.len() - 1), "{text}");
        }
    }
}
