//! JSON read byte by byte, as strictly as RFC 8259 has it.
//!
//! Owns: saying at the very byte where text stops being JSON that it does, and where keys, values
//! and brackets lie. Must never do: keep the text, or look at a byte twice. (Whole texts are the
//! business of [`crate::json`], which is lenient.)

/// Deeper nesting is no call: clients refuse it too, and the stack stays small.
pub(super) const MAX_DEPTH: usize = 128;

/// White space as JSON knows it. All of this folder knows no other.
pub(super) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// What one byte did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// Nothing that anyone waits for.
    Inside,
    /// A key's opening quote.
    KeyBegins,
    /// A key's closing quote.
    KeyEnds,
    /// The first byte of a value.
    Begins,
    /// The closing quote of a string that is a value.
    StringEnds,
    /// A closing bracket.
    Closes,
}

/// The text is not JSON from this byte on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotJson;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    Minus,
    Zero,
    Whole,
    Point,
    Fraction,
    Exponent,
    Sign,
    Power,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Text {
    Plain,
    Escaped,
    /// So many hexadecimal digits are still to come.
    Hex(u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Value,
    ValueOrClose,
    Key,
    KeyOrClose,
    Colon,
    CommaOrClose,
    String {
        key: bool,
        text: Text,
    },
    Number(Number),
    /// The rest of `true`, `false` or `null`.
    Word(&'static [u8]),
}

/// The reader of one value.
#[derive(Debug, Clone)]
pub(super) struct Json {
    state: State,
    /// For each open bracket, whether it is an object's.
    open: Vec<bool>,
}

impl Json {
    /// Before the first byte.
    pub(super) fn new() -> Self {
        Json { state: State::Value, open: Vec::new() }
    }

    /// How many brackets are open.
    pub(super) fn depth(&self) -> usize {
        self.open.len()
    }

    /// Whether the value is whole, so that only white space may follow.
    pub(super) fn whole(&self) -> bool {
        use Number::{Fraction, Power, Whole, Zero};
        self.open.is_empty()
            && matches!(
                self.state,
                State::CommaOrClose | State::Number(Zero | Whole | Fraction | Power)
            )
    }

    /// Takes the next byte.
    pub(super) fn step(&mut self, byte: u8) -> Result<Event, NotJson> {
        match self.state {
            State::String { key, text } => self.string(key, text, byte),
            State::Number(number) => match number.next(byte) {
                Some(next) => Ok(self.goes_to(State::Number(next))),
                None if number.may_end() => {
                    self.state = State::CommaOrClose;
                    self.step(byte)
                }
                None => Err(NotJson),
            },
            State::Word(rest) => match rest.split_first() {
                Some((expected, [])) if *expected == byte => Ok(self.goes_to(State::CommaOrClose)),
                Some((expected, rest)) if *expected == byte => Ok(self.goes_to(State::Word(rest))),
                _ => Err(NotJson),
            },
            _ if is_space(byte) => Ok(Event::Inside),
            State::ValueOrClose if byte == b']' => Ok(self.close(byte)),
            State::Value | State::ValueOrClose => self.begin(byte),
            State::KeyOrClose if byte == b'}' => Ok(self.close(byte)),
            State::Key | State::KeyOrClose if byte == b'"' => {
                self.state = State::String { key: true, text: Text::Plain };
                Ok(Event::KeyBegins)
            }
            State::Colon if byte == b':' => Ok(self.goes_to(State::Value)),
            State::CommaOrClose => self.after_value(byte),
            State::Key | State::KeyOrClose | State::Colon => Err(NotJson),
        }
    }

    fn goes_to(&mut self, state: State) -> Event {
        self.state = state;
        Event::Inside
    }

    fn string(&mut self, key: bool, text: Text, byte: u8) -> Result<Event, NotJson> {
        let next = match (text, byte) {
            (Text::Plain, b'"') if key => {
                self.state = State::Colon;
                return Ok(Event::KeyEnds);
            }
            (Text::Plain, b'"') => {
                self.state = State::CommaOrClose;
                return Ok(Event::StringEnds);
            }
            (Text::Plain, b'\\') => Text::Escaped,
            (Text::Escaped, b'u') => Text::Hex(4),
            (Text::Plain, 0x20..)
            | (Text::Escaped, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't')
            | (Text::Hex(1), b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => Text::Plain,
            (Text::Hex(left), b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => Text::Hex(left - 1),
            _ => return Err(NotJson),
        };
        Ok(self.goes_to(State::String { key, text: next }))
    }

    fn begin(&mut self, byte: u8) -> Result<Event, NotJson> {
        self.state = match byte {
            b'{' | b'[' if self.open.len() == MAX_DEPTH => return Err(NotJson),
            b'{' => {
                self.open.push(true);
                State::KeyOrClose
            }
            b'[' => {
                self.open.push(false);
                State::ValueOrClose
            }
            b'"' => State::String { key: false, text: Text::Plain },
            b'-' => State::Number(Number::Minus),
            b'0' => State::Number(Number::Zero),
            b'1'..=b'9' => State::Number(Number::Whole),
            b't' => State::Word(b"rue"),
            b'f' => State::Word(b"alse"),
            b'n' => State::Word(b"ull"),
            _ => return Err(NotJson),
        };
        Ok(Event::Begins)
    }

    fn after_value(&mut self, byte: u8) -> Result<Event, NotJson> {
        match (byte, self.open.last()) {
            (b',', Some(true)) => Ok(self.goes_to(State::Key)),
            (b',', Some(false)) => Ok(self.goes_to(State::Value)),
            (b'}', Some(true)) | (b']', Some(false)) => Ok(self.close(byte)),
            _ => Err(NotJson),
        }
    }

    fn close(&mut self, byte: u8) -> Event {
        debug_assert_eq!(self.open.last(), Some(&(byte == b'}')));
        self.open.pop();
        self.state = State::CommaOrClose;
        Event::Closes
    }
}

impl Number {
    fn next(self, byte: u8) -> Option<Number> {
        use Number::{Exponent, Fraction, Minus, Point, Power, Sign, Whole, Zero};
        match (self, byte) {
            (Minus, b'0') => Some(Zero),
            (Minus, b'1'..=b'9') | (Whole, b'0'..=b'9') => Some(Whole),
            (Zero | Whole, b'.') => Some(Point),
            (Point | Fraction, b'0'..=b'9') => Some(Fraction),
            (Zero | Whole | Fraction, b'e' | b'E') => Some(Exponent),
            (Exponent, b'+' | b'-') => Some(Sign),
            (Exponent | Sign | Power, b'0'..=b'9') => Some(Power),
            _ => None,
        }
    }

    fn may_end(self) -> bool {
        matches!(self, Number::Zero | Number::Whole | Number::Fraction | Number::Power)
    }
}

/// Whether the text is one JSON value, and with what byte that value begins.
pub(super) fn value_in(text: &str) -> Option<u8> {
    let mut json = Json::new();
    let valid = text.bytes().all(|byte| json.step(byte).is_ok());
    let first = text.bytes().find(|byte| !is_space(*byte))?;
    (valid && json.whole()).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    #[test]
    fn it_is_as_strict_as_the_rfc() {
        for good in
            ["0", "-0.5e+10", " [ ] ", "{}", r#"{"a":[1,{"b":null}],"c":"\u00e9\n"}"#, "1E5"]
        {
            assert!(value_in(good).is_some(), "{good}");
        }
        for bad in [
            "",
            " ",
            "01",
            "-",
            "1.",
            "1e",
            ".5",
            "[1,]",
            "{,}",
            r#"{"a"}"#,
            r#"{"a":1,}"#,
            "tru",
            "nulll",
            "'a'",
            r#""\x""#,
            r#""\u12g4""#,
            "\"a\nb\"",
            "[1 2]",
            "[}",
            "{]",
            "1 2",
            "+1",
        ] {
            assert!(value_in(bad).is_none(), "{bad}");
        }
        assert!(value_in(&"[".repeat(MAX_DEPTH + 1)).is_none());
        assert!(value_in(&format!("{}{}", "[".repeat(128), "]".repeat(128))).is_some());
    }

    proptest! {
        #[test]
        fn it_takes_what_serde_json_takes(text in "[\\[\\]{}\",:0-2eE.+tn\\\\u -]{0,12}") {
            let raw: Result<&RawValue, _> = serde_json::from_str(&text);
            prop_assert_eq!(value_in(&text).is_some(), raw.is_ok(), "{}", text);
        }
    }
}
