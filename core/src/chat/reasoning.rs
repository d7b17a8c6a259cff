//! The field in which clients get reasoning (SPEC 5.6): engines disagree on its name.
//!
//! Owns: which of the two names leave, in events and in whole answers. Must never do: look into the
//! thoughts, or touch an answer that has none.

use std::ops::Range;

use bytes::Bytes;
use memchr::memmem;

use super::edits::Edit;
use crate::json::Walker;

/// Under which name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReasoningField {
    /// Under both: whatever a client looks for is there.
    #[default]
    Both,
    /// As today's engines have it.
    Reasoning,
    /// As earlier ones had it.
    ReasoningContent,
}

/// The two names, quotes included.
const NAMES: [&str; 2] = ["\"reasoning\"", "\"reasoning_content\""];

impl ReasoningField {
    /// Reads the setting.
    pub fn from_word(word: &str) -> Option<Self> {
        match word {
            "both" => Some(ReasoningField::Both),
            "reasoning" => Some(ReasoningField::Reasoning),
            "reasoning_content" => Some(ReasoningField::ReasoningContent),
            _ => None,
        }
    }
}

/// Where one of the two fields stands.
#[derive(Debug, Clone)]
struct Member {
    /// Its name, quotes included.
    key: Range<usize>,
    value: Range<usize>,
    says_something: bool,
}

/// The changes of a chunk's or an answer's JSON.
pub fn edits(data: &[u8], field: ReasoningField) -> Vec<Edit> {
    let mut edits = Vec::new();
    if memmem::find(data, b"\"reasoning").is_none() {
        return edits;
    }
    let mut walker = Walker::new(data);
    // What cannot be read is not changed.
    let walked = walker.object(|key, w| match key {
        b"choices" if w.peek()? == b'[' => w.array(|w| choice(data, w, field, &mut edits)),
        _ => w.value().map(drop),
    });
    if walked.is_some() { edits } else { Vec::new() }
}

fn choice(
    data: &[u8],
    walker: &mut Walker<'_>,
    field: ReasoningField,
    edits: &mut Vec<Edit>,
) -> Option<()> {
    if walker.peek()? != b'{' {
        return walker.value().map(drop);
    }
    walker.object(|key, w| match key {
        b"delta" | b"message" if w.peek()? == b'{' => {
            let found = members(data, w)?;
            edits.extend(change(data, found, field));
            Some(())
        }
        _ => w.value().map(drop),
    })
}

/// The two fields of one message.
fn members(data: &[u8], walker: &mut Walker<'_>) -> Option<[Option<Member>; 2]> {
    let mut found = [None, None];
    walker.object(|key, w| {
        let value = w.value()?;
        let which = match key {
            b"reasoning" => 0,
            b"reasoning_content" => 1,
            _ => return Some(()),
        };
        let start = key.as_ptr() as usize - data.as_ptr() as usize;
        let key = start - 1..start + key.len() + 1;
        let says_something = w.slice(value.clone()) != b"null";
        found[which] = Some(Member { key, value, says_something });
        Some(())
    })?;
    Some(found)
}

fn change(data: &[u8], found: [Option<Member>; 2], field: ReasoningField) -> Option<Edit> {
    let [one, other] = found;
    match (one, other, field) {
        (Some(both), Some(_), ReasoningField::ReasoningContent)
        | (Some(_), Some(both), ReasoningField::Reasoning) => {
            Some(Edit::remove(whole(data, &both)))
        }
        (Some(only), None, ReasoningField::Both) => copied(data, &only, NAMES[1]),
        (None, Some(only), ReasoningField::Both) => copied(data, &only, NAMES[0]),
        (Some(only), None, ReasoningField::ReasoningContent) => renamed(&only, NAMES[1]),
        (None, Some(only), ReasoningField::Reasoning) => renamed(&only, NAMES[0]),
        _ => None,
    }
}

fn copied(data: &[u8], only: &Member, name: &'static str) -> Option<Edit> {
    let end = only.value.end;
    let value = Bytes::copy_from_slice(&data[only.value.clone()]);
    let before = [Bytes::from_static(b","), Bytes::from_static(name.as_bytes())];
    let pieces = [before.as_slice(), &[Bytes::from_static(b":"), value]].concat();
    only.says_something.then_some(Edit { place: end..end, pieces })
}

fn renamed(only: &Member, name: &'static str) -> Option<Edit> {
    only.says_something.then(|| Edit::text(only.key.clone(), name))
}

/// A field with the comma that goes with it.
fn whole(data: &[u8], member: &Member) -> Range<usize> {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
    let before = data[..member.key.start].iter().rposition(|byte| !blank(byte));
    if let Some(comma) = before.filter(|at| data[*at] == b',') {
        return comma..member.value.end;
    }
    let behind = data[member.value.end..].iter().position(|byte| !blank(byte));
    match behind.map(|at| member.value.end + at).filter(|at| data[*at] == b',') {
        Some(comma) => member.key.start..comma + 1,
        None => member.key.start..member.value.end,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::chat::edits::splice;
    use serde_json::{Value, json};

    fn changed(text: &str, field: ReasoningField) -> String {
        let body = Bytes::copy_from_slice(text.as_bytes());
        let edits = edits(&body, field);
        String::from_utf8(splice(&body, edits).concat()).unwrap()
    }

    fn delta(fields: &Value) -> String {
        json!({"choices": [{"index": 0, "delta": fields}], "usage": null}).to_string()
    }

    #[test]
    fn each_setting_gives_its_names_whatever_came() {
        use ReasoningField::{Both, Reasoning, ReasoningContent};
        let new = json!({"content": "c", "reasoning": "a\"b"});
        let old = json!({"content": "c", "reasoning_content": "a\"b"});
        let both = json!({"content": "c", "reasoning": "a\"b", "reasoning_content": "a\"b"});
        let turned = json!({"content": "c", "reasoning_content": "a\"b", "reasoning": "a\"b"});
        for (came, field, left) in [
            (&new, Both, &both),
            (&old, Both, &turned),
            (&both, Both, &both),
            (&new, Reasoning, &new),
            (&old, Reasoning, &new),
            (&both, Reasoning, &new),
            (&turned, Reasoning, &new),
            (&new, ReasoningContent, &old),
            (&old, ReasoningContent, &old),
            (&both, ReasoningContent, &old),
        ] {
            assert_eq!(changed(&delta(came), field), delta(left), "{came} {field:?}");
        }
    }

    #[test]
    fn a_field_goes_with_its_comma_wherever_it_stands() {
        use ReasoningField::ReasoningContent;
        for (came, left) in [
            (r#"{"reasoning":"a","reasoning_content":"a"}"#, r#"{"reasoning_content":"a"}"#),
            (r#"{ "reasoning" : "a" , "reasoning_content":"a"}"#, r#"{  "reasoning_content":"a"}"#),
            (r#"{"reasoning_content":"a", "reasoning":"a"}"#, r#"{"reasoning_content":"a"}"#),
        ] {
            let around = |inner: &str| format!(r#"{{"choices":[{{"message":{inner}}}]}}"#);
            assert_eq!(changed(&around(came), ReasoningContent), around(left));
        }
    }

    #[test]
    fn what_says_nothing_or_cannot_be_read_stays() {
        for text in [
            delta(&json!({"content": "reasoning"})),
            delta(&json!({"reasoning": null})),
            json!({"reasoning": "not here"}).to_string(),
            r#"{"choices":[{"delta":{"reasoning":"a"}"#.to_owned(),
            "no json".to_owned(),
        ] {
            assert_eq!(changed(&text, ReasoningField::Both), text);
        }
    }
}
