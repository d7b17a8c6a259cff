//! A key walker over JSON text: finds values without building a tree.
//!
//! Owns: moving through well-formed JSON and saying where a value lies. Must never do: allocate,
//! copy, or decide what a value means. On text that is not JSON every step answers `None`; callers
//! then leave the text as it is. It is lenient (it does not check numbers or escapes): what must
//! be *valid* goes through `serde_json`.

use std::ops::Range;

use memchr::memchr2;

/// A cursor over one JSON text.
#[derive(Debug, Clone)]
pub struct Walker<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Walker<'a> {
    /// A walker at the start of `text`.
    pub fn new(text: &'a [u8]) -> Self {
        Walker { text, at: 0 }
    }

    /// The bytes of a range that the walker has answered.
    pub fn slice(&self, range: Range<usize>) -> &'a [u8] {
        &self.text[range]
    }

    /// How far it has come, in bytes.
    pub fn place(&self) -> usize {
        self.at
    }

    /// Skips white space and answers the next byte without taking it.
    pub fn peek(&mut self) -> Option<u8> {
        while let Some(&byte) = self.text.get(self.at) {
            if !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                return Some(byte);
            }
            self.at += 1;
        }
        None
    }

    fn take(&mut self, expected: u8) -> Option<()> {
        (self.peek()? == expected).then(|| self.at += 1)
    }

    /// Takes a string; answers what stands between the quotes, escapes untouched.
    pub fn string(&mut self) -> Option<&'a [u8]> {
        self.take(b'"')?;
        let start = self.at;
        loop {
            let found = find_quote(self.text.get(self.at..)?)?;
            self.at += found;
            if self.text[self.at] == b'"' {
                self.at += 1;
                return Some(&self.text[start..self.at - 1]);
            }
            self.at += 2; // the backslash and what it escapes
        }
    }

    /// Skips one value of any kind; answers where it lies.
    pub fn value(&mut self) -> Option<Range<usize>> {
        let first = self.peek()?;
        let start = self.at;
        match first {
            b'"' => {
                self.string()?;
            }
            b'{' | b'[' => self.nested()?,
            b'}' | b']' | b',' | b':' => return None,
            _ => self.bare(),
        }
        Some(start..self.at)
    }

    /// Number, `true`, `false`, `null`: up to the next delimiter.
    fn bare(&mut self) {
        // Engines send it more often than all others.
        if self.text[self.at..].starts_with(b"null") {
            self.at += 4;
        }
        while let Some(byte) = self.text.get(self.at) {
            if matches!(byte, b',' | b'}' | b']' | b':' | b'"' | b' ' | b'\t' | b'\n' | b'\r') {
                break;
            }
            self.at += 1;
        }
    }

    /// Object or array, by counting brackets outside strings.
    fn nested(&mut self) -> Option<()> {
        let mut depth = 0usize;
        loop {
            match *self.text.get(self.at)? {
                b'"' => {
                    self.string()?;
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                return Some(());
            }
        }
    }

    /// Walks an object. `visit` gets each key and the walker at its value, and must take the value.
    pub fn object(
        &mut self,
        mut visit: impl FnMut(&'a [u8], &mut Self) -> Option<()>,
    ) -> Option<()> {
        self.take(b'{')?;
        if self.peek()? == b'}' {
            self.at += 1;
            return Some(());
        }
        loop {
            let key = self.string()?;
            self.take(b':')?;
            visit(key, self)?;
            match self.peek()? {
                b',' => self.at += 1,
                b'}' => {
                    self.at += 1;
                    return Some(());
                }
                _ => return None,
            }
        }
    }

    /// Walks an array. `visit` gets the walker at each element and must take it.
    pub fn array(&mut self, mut visit: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.take(b'[')?;
        if self.peek()? == b']' {
            self.at += 1;
            return Some(());
        }
        loop {
            visit(self)?;
            match self.peek()? {
                b',' => self.at += 1,
                b']' => {
                    self.at += 1;
                    return Some(());
                }
                _ => return None,
            }
        }
    }

    /// Nothing but white space is left.
    pub fn at_end(&mut self) -> bool {
        self.peek().is_none()
    }
}

/// Where the first quotation mark or backslash stands. Most strings are short, and a search costs more to
/// begin than to look at sixteen bytes, eight at once.
fn find_quote(text: &[u8]) -> Option<usize> {
    for at in [0, 8] {
        let Some(Ok(bytes)) = text.get(at..at + 8).map(<[u8; 8]>::try_from) else { break };
        let word = u64::from_le_bytes(bytes);
        let found = zero_bytes(word ^ splat(b'"')) | zero_bytes(word ^ splat(b'\\'));
        if found != 0 {
            return Some(at + (found.trailing_zeros() / 8) as usize);
        }
    }
    memchr2(b'"', b'\\', text)
}

const fn splat(byte: u8) -> u64 {
    u64::from_le_bytes([byte; 8])
}

/// The high bit of bytes that are zero; the lowest is exact.
/// Source: <https://graphics.stanford.edu/~seander/bithacks.html#ZeroInWord>.
const fn zero_bytes(word: u64) -> u64 {
    word.wrapping_sub(splat(1)) & !word & splat(0x80)
}

/// How deep brackets nest outside strings, at most. One pass, for the depth limit of SPEC 10.
pub fn depth(text: &[u8]) -> usize {
    let (mut depth, mut deepest, mut at) = (0usize, 0usize, 0usize);
    while let Some(&byte) = text.get(at) {
        match byte {
            b'"' => {
                let mut walker = Walker { text, at };
                if walker.string().is_none() {
                    return deepest;
                }
                at = walker.at;
                continue;
            }
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    deepest
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    /// Rebuilds a tree with nothing but the walker, to hold it against `serde_json`.
    fn rebuild(walker: &mut Walker<'_>) -> Option<Value> {
        match walker.peek()? {
            b'{' => {
                let mut map = serde_json::Map::new();
                walker.object(|key, w| {
                    let key =
                        serde_json::from_str(&format!("\"{}\"", std::str::from_utf8(key).ok()?));
                    map.insert(key.ok()?, rebuild(w)?);
                    Some(())
                })?;
                Some(Value::Object(map))
            }
            b'[' => {
                let mut list = Vec::new();
                walker.array(|w| {
                    list.push(rebuild(w)?);
                    Some(())
                })?;
                Some(Value::Array(list))
            }
            _ => {
                let range = walker.value()?;
                serde_json::from_slice(walker.slice(range)).ok()
            }
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<i32>().prop_map(|n| Value::from(f64::from(n) / 8.0)),
            "[ -~\\\\\"é😀\n]{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map("[a-z\\\\\"{}\\[\\]]{0,5}", inner, 0..6)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn it_sees_what_serde_json_sees(value in any_json(), pretty: bool) {
            let text = if pretty {
                serde_json::to_string_pretty(&value).unwrap()
            } else {
                value.to_string()
            };
            let mut walker = Walker::new(text.as_bytes());
            prop_assert_eq!(rebuild(&mut walker), Some(value.clone()));
            prop_assert!(walker.at_end());
            let mut skipper = Walker::new(text.as_bytes());
            prop_assert_eq!(skipper.value().map(|r| r.len()), Some(text.trim_end().len()));
        }

        #[test]
        fn it_never_panics_or_loops_on_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = rebuild(&mut Walker::new(&bytes));
            let _ = Walker::new(&bytes).value();
            let _ = depth(&bytes);
        }
    }

    #[test]
    fn depth_counts_brackets_outside_strings() {
        assert_eq!(depth(br#"{"a":[1,{"b":"[[[{{{"}]}"#), 3);
        assert_eq!(depth(b"1"), 0);
        assert_eq!(depth("[".repeat(500).as_bytes()), 500);
    }
}
