//! Bytes into lines.
//!
//! Owns: what has been read of a line that has no end yet, and what becomes of a line that is too
//! long. Must never do: hold more than the longest line.

use chat_proxy_core::chat::sse::in_one_line;
use serde::Deserializer;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value, json};

/// What kind of lines a log has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// What a program says. A line ends with `\n`, `\r\n`, or a `\r` alone, by which programs write
    /// a progress bar over itself. Longer lines than `LONGEST_TEXT` come in pieces.
    Text,
    /// One JSON object a line, as the request log has them; it is never told in pieces. Of one that
    /// is longer than `LONGEST_RECORD` the fields of its beginning are told, and `left_out`. One
    /// whose end was never written is not told.
    Records,
}

/// Longer lines of text come in pieces of this length.
pub(super) const LONGEST_TEXT: usize = 64 << 10;
/// A record that is longer is told without its end. With what stands around it in an event it is
/// no larger than the largest event that readers of such streams take.
pub(super) const LONGEST_RECORD: usize = (16 << 20) - 1024;
/// So much is kept of a record that is too long: all but the conversation.
const BEGINNING: usize = 64 << 10;

/// Told of each line: its text, and how many of the bytes that were taken last are before its end.
pub(super) trait Told: FnMut(String, usize) {}
impl<T: FnMut(String, usize)> Told for T {}

/// See the module.
#[derive(Debug)]
pub(super) struct Lines {
    kind: Kind,
    part: Vec<u8>,
    /// So many bytes of the line are not in `part`.
    left_out: usize,
    /// A `\r` has just ended a line: a `\n` behind it is of the same end.
    returned: bool,
}

impl Lines {
    pub(super) fn new(kind: Kind) -> Self {
        Lines { kind, part: Vec::new(), left_out: 0, returned: false }
    }

    /// Begins anew behind a line that ended with this byte.
    pub(super) fn begin_behind(&mut self, byte: Option<u8>) {
        let returned = self.kind == Kind::Text && byte == Some(b'\r');
        *self = Lines { returned, ..Lines::new(self.kind) };
    }

    pub(super) fn take(&mut self, bytes: &[u8], mut told: impl Told) {
        match self.kind {
            Kind::Text => self.take_text(bytes, &mut told),
            Kind::Records => self.take_records(bytes, &mut told),
        }
    }

    /// Nothing comes that would end the last line. A record that is not whole is none.
    pub(super) fn end(&mut self, mut told: impl Told) {
        if self.kind == Kind::Records && serde_json::from_slice::<IgnoredAny>(&self.part).is_err() {
            self.part.clear();
            self.left_out = 0;
        }
        if !self.part.is_empty() {
            self.tell(0, &mut told);
        }
        self.returned = false;
    }

    fn take_text(&mut self, bytes: &[u8], told: &mut impl Told) {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let end = memchr::memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
            self.add_text(&rest[..end], at, told);
            let ended_by = rest.get(end);
            at += end + 1;
            match ended_by {
                Some(b'\r') if self.part.is_empty() => {}
                Some(b'\r') => {
                    self.tell(at, told);
                    self.returned = true;
                }
                Some(_) if std::mem::take(&mut self.returned) => {}
                Some(_) => self.tell(at, told),
                None => {}
            }
        }
    }

    fn add_text(&mut self, mut text: &[u8], mut at: usize, told: &mut impl Told) {
        if !text.is_empty() {
            self.returned = false;
        }
        while self.part.len() + text.len() > LONGEST_TEXT {
            let (head, rest) = text.split_at(LONGEST_TEXT - self.part.len());
            self.part.extend_from_slice(head);
            at += head.len();
            self.tell(at, told);
            text = rest;
        }
        self.part.extend_from_slice(text);
    }

    fn take_records(&mut self, bytes: &[u8], told: &mut impl Told) {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let end = memchr::memchr(b'\n', rest);
            self.add_to_record(&rest[..end.unwrap_or(rest.len())]);
            at += end.map_or(rest.len(), |end| end + 1);
            if end.is_some() && !self.part.is_empty() {
                self.tell(at, told);
            }
        }
    }

    fn add_to_record(&mut self, text: &[u8]) {
        if self.left_out == 0 && self.part.len() + text.len() <= LONGEST_RECORD {
            self.part.extend_from_slice(text);
            return;
        }
        let length = self.part.len() + text.len();
        let more = BEGINNING.saturating_sub(self.part.len()).min(text.len());
        self.part.extend_from_slice(&text[..more]);
        self.part.truncate(BEGINNING);
        self.part.shrink_to(BEGINNING);
        self.left_out += length - self.part.len();
    }

    fn tell(&mut self, at: usize, told: &mut impl Told) {
        let left_out = std::mem::take(&mut self.left_out);
        if left_out > 0 {
            let beginning = std::mem::take(&mut self.part);
            return told(beginning_of(&beginning, left_out), at);
        }
        if self.kind == Kind::Records {
            in_one_line(&mut self.part);
        }
        // A line that is not whole UTF-8 is made anew, the usual one is given away as it is.
        let text = match self.kind {
            Kind::Records => String::from_utf8(std::mem::take(&mut self.part))
                .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()),
            Kind::Text => {
                let text = String::from_utf8_lossy(&self.part).into_owned();
                self.part.clear();
                text
            }
        };
        told(text, at);
    }
}

/// A record that is too long: the fields that are whole in its beginning, and how long it was.
fn beginning_of(beginning: &[u8], left_out: usize) -> String {
    // A number that is cut would be another number.
    let whole = memchr::memrchr(b',', beginning).unwrap_or(0);
    let mut fields = Map::new();
    let mut json = serde_json::Deserializer::from_slice(&beginning[..whole]);
    // It ends where it was cut: that is no error. What is no object has no fields.
    let _ = json.deserialize_map(Fields(&mut fields));
    let bytes = beginning.len() + left_out;
    fields.insert("left_out".to_owned(), json!({"of_bytes": bytes, "longest": LONGEST_RECORD}));
    Value::Object(fields).to_string()
}

/// Gathers an object's fields as far as they go.
struct Fields<'a>(&'a mut Map<String, Value>);

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = ();

    fn expecting(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some((name, value)) = map.next_entry()? {
            self.0.insert(name, value);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(pieces: &[&[u8]]) -> Vec<String> {
        let (mut lines, mut all) = (Lines::new(Kind::Records), Vec::new());
        for piece in pieces {
            lines.take(piece, |text, _| all.push(text));
        }
        lines.end(|text, _| all.push(text));
        all
    }

    #[test]
    fn records_are_told_whole() {
        let long = format!("{{\"a\":\"{}\"}}\n", "x".repeat(2 * LONGEST_TEXT));
        let (first, second) = long.as_bytes().split_at(LONGEST_TEXT);
        assert_eq!(
            records(&[b"{}\n{\"b\"", b":1}\r\n\n", first, second, b"{\"last\":1}"]),
            ["{}", "{\"b\":1} ", long.trim_end(), "{\"last\":1}"]
        );
    }

    #[test]
    fn what_was_never_written_to_its_end_is_not_told() {
        assert_eq!(records(&[b"{}\n{\"a\":\"torn"]), ["{}"]);
        let much = vec![b'x'; LONGEST_RECORD];
        assert_eq!(records(&[b"{}\n{\"a\":\"torn", &much]), ["{}"]);
    }

    #[test]
    fn of_a_record_that_is_too_long_its_beginning_is_told() {
        let ordinary = b"{\"ts\":\"now\",\"status\":200,\"policy\":{\"a\":[1,2]},\"messages\":[";
        let much = vec![b'7'; 1 << 20];
        let mut pieces = vec![&ordinary[..]];
        pieces.extend(std::iter::repeat_n(&much[..], 18));
        pieces.extend([&b"]}\n"[..], b"{\"next\":1}\n"]);
        let all = records(&pieces);
        let bytes = ordinary.len() + (18 << 20) + 2;
        let told = json!({"ts": "now", "status": 200, "policy": {"a": [1, 2]},
            "left_out": {"of_bytes": bytes, "longest": LONGEST_RECORD}});
        assert_eq!(all, [told.to_string(), "{\"next\":1}".to_owned()]);
    }

    #[test]
    fn a_line_of_the_greatest_length_is_told_and_one_more_byte_is_too_long() {
        let text = |more: usize| {
            format!("{{\"a\":1,\"b\":\"{}\"}}", "x".repeat(LONGEST_RECORD - 14 + more))
        };
        let (longest, longer) = (text(0), text(1));
        assert_eq!(longest.len(), LONGEST_RECORD);
        let all = records(&[longest.as_bytes(), b"\n", longer.as_bytes(), b"\n"]);
        assert!(all[0] == longest, "it was changed");
        let told: Value = serde_json::from_str(&all[1]).unwrap();
        assert_eq!((&told["a"], &told["left_out"]["of_bytes"]), (&json!(1), &json!(longer.len())));
        assert_eq!(told.get("b"), None);
    }

    #[test]
    fn what_is_no_json_and_too_long_is_told_as_left_out() {
        let all = records(&[&vec![b'x'; LONGEST_RECORD], b"xx\n"]);
        let told: Value = serde_json::from_str(&all[0]).unwrap();
        assert_eq!(
            told,
            json!({"left_out": {"of_bytes": LONGEST_RECORD + 2, "longest": LONGEST_RECORD}})
        );
    }
}
