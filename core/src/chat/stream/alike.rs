//! Events that differ from the one before in nothing but their text.
//!
//! Engines repeat some two hundred bytes around every word. Whoever has judged one such event knows
//! what the next one is as soon as all bytes around its text are the same, and comparing them costs a
//! fraction of reading them. Owns: those bytes. Must never do: take an event for the same whose text
//! could end earlier or later than it seems, or one that has no text.

/// More than this around a text is not remembered, in bytes: whatever is so large (log probabilities, for
/// one) differs each time, and would be copied each time.
const MOST_AROUND: usize = 4 << 10;

/// The bytes around the text of an event that passed.
#[derive(Debug, Default)]
pub(super) struct Alike {
    /// What stands before the text, the quotation mark included, and what stands behind it.
    around: Vec<u8>,
    /// Where the text stood between them; 0: nothing is known.
    text: usize,
}

impl Alike {
    /// Remembers an event with text at this place, without its quotation marks.
    pub(super) fn learn(&mut self, event: &[u8], text: std::ops::Range<usize>) {
        self.around.clear();
        if event.len() - text.len() > MOST_AROUND {
            self.text = 0;
            return;
        }
        self.around.extend_from_slice(&event[..text.start]);
        self.around.extend_from_slice(&event[text.end..]);
        self.text = text.start;
    }

    /// How long the event is that `bytes` begin with, if it is one of those.
    pub(super) fn length(&self, bytes: &[u8]) -> Option<usize> {
        let (before, behind) = self.around.split_at(self.text);
        if before.is_empty() {
            return None;
        }
        let rest = bytes.strip_prefix(before)?;
        let text = text_length(rest).filter(|length| *length > 0)?;
        rest[text..].starts_with(behind).then(|| before.len() + text + behind.len())
    }
}

/// Where the string that has begun ends; `None`: not in these bytes, or not in this line.
fn text_length(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let escapes = *bytes.get(at)? == b'\\';
        at += usize::from(escapes);
        match bytes.get(at)? {
            b'"' if !escapes => return Some(at),
            b'\n' | b'\r' => return None,
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const EVENT: &str = "data: {\"a\":\"word\",\"b\":1}\n\n";

    fn learnt() -> Alike {
        let mut alike = Alike::default();
        let start = EVENT.find("word").unwrap();
        alike.learn(EVENT.as_bytes(), start..start + 4);
        alike
    }

    #[test]
    fn only_the_text_may_differ() {
        let alike = learnt();
        for text in ["word", "x", "\\\"", "a\\\\", "é 😀", "\\n\\n", "}"] {
            let event = EVENT.replace("word", text);
            let next = format!("{event}data: more");
            assert_eq!(alike.length(next.as_bytes()), Some(event.len()), "{text}");
            assert_eq!(alike.length(&event.as_bytes()[..event.len() - 1]), None, "cut: {text}");
        }
        for text in ["", "\"", "a\\", "a\nb", "a\r", "\\\n", "x\",\"c\":\"y"] {
            assert_eq!(alike.length(EVENT.replace("word", text).as_bytes()), None, "{text:?}");
        }
        for other in ["", "data: [DONE]\n\n", "data: {\"a\":\"word\",\"b\":2}\n\n"] {
            assert_eq!(alike.length(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn what_is_large_is_not_remembered() {
        let mut alike = learnt();
        let large = format!("data: {{\"a\":\"word\",\"b\":\"{}\"}}\n\n", "x".repeat(MOST_AROUND));
        let start = large.find("word").unwrap();
        alike.learn(large.as_bytes(), start..start + 4);
        assert_eq!(alike.length(large.as_bytes()), None);
        assert_eq!(alike.length(EVENT.as_bytes()), None, "nor what was known before");
        assert!(alike.around.is_empty());
    }

    #[test]
    fn who_has_learnt_nothing_knows_nothing() {
        assert_eq!(Alike::default().length(b""), None);
        assert_eq!(Alike::default().length(EVENT.as_bytes()), None);
    }
}
