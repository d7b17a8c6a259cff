//! The fields of answers (SPEC 5.6): under which name reasoning leaves, and which fields do not leave.
//!
//! Owns: `OpenAI`'s schema of chunks and answers as far as their own fields go, and the changes that
//! follow. Must never do: look into a text, or touch an answer that is right already.

use std::ops::Range;

use bytes::Bytes;
use memchr::memmem;

use super::chunk::Facts;
use super::edits::Edit;
use crate::json::Walker;

/// Under which name reasoning leaves: engines disagree.
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

/// Which fields of an answer leave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldRules {
    /// Under which name reasoning does.
    pub reasoning: ReasoningField,
    /// What becomes of fields that are not `OpenAI`'s.
    pub foreign: Foreign,
}

impl FieldRules {
    /// Whether foreign fields go.
    pub fn removes(&self) -> bool {
        self.foreign != Foreign::Stay
    }

    /// Whether anything may follow from them for a chunk or an answer.
    pub fn concern(&self, facts: &Facts) -> bool {
        facts.reasoning || (facts.foreign && self.removes())
    }
}

/// What becomes of fields that are not `OpenAI`'s and hold a value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Foreign {
    /// They leave as they came.
    #[default]
    Stay,
    /// They go, but for those that the request asked for.
    Go {
        /// Their names.
        asked: Vec<&'static str>,
    },
}

/// Whose fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// The chunk or the answer.
    Root,
    /// One of its choices.
    Choice,
    /// The choice's `message` or `delta`.
    Message,
}

impl Level {
    /// Whether a field is `OpenAI`'s, or one of the two names of reasoning.
    pub fn knows(self, field: &[u8]) -> bool {
        // By its length first: nearly all comparisons end there.
        match (self, field.len()) {
            (Level::Root, 2) => field == b"id",
            (Level::Root, 5) => matches!(field, b"model" | b"usage" | b"error"),
            (Level::Root, 6) => field == b"object",
            (Level::Root, 7) => matches!(field, b"created" | b"choices"),
            (Level::Root, 12) => field == b"service_tier",
            (Level::Root, 18) => field == b"system_fingerprint",
            (Level::Choice, 5) => matches!(field, b"index" | b"delta"),
            (Level::Choice, 7) => field == b"message",
            (Level::Choice, 8) => field == b"logprobs",
            (Level::Choice, 13) => field == b"finish_reason",
            (Level::Message, 4) => field == b"role",
            (Level::Message, 5) => field == b"audio",
            (Level::Message, 7) => matches!(field, b"content" | b"refusal"),
            (Level::Message, 9) => field == b"reasoning",
            (Level::Message, 10) => field == b"tool_calls",
            (Level::Message, 11) => field == b"annotations",
            (Level::Message, 13) => field == b"function_call",
            (Level::Message, 17) => field == b"reasoning_content",
            _ => false,
        }
    }
}

/// One field.
#[derive(Debug, Clone)]
struct Member<'a> {
    name: &'a [u8],
    /// Its name's place, quotes included.
    key: Range<usize>,
    value: Range<usize>,
    is_null: bool,
}

impl<'a> Member<'a> {
    fn new(data: &'a [u8], name: &'a [u8], value: Range<usize>) -> Self {
        let start = name.as_ptr() as usize - data.as_ptr() as usize;
        let is_null = &data[value.clone()] == b"null";
        Member { name, key: start - 1..start + name.len() + 1, value, is_null }
    }
}

/// The changes of a chunk's or an answer's JSON.
pub fn edits(data: &[u8], rules: &FieldRules) -> Vec<Edit> {
    if !rules.removes() && memmem::find(data, b"\"reasoning").is_none() {
        return Vec::new();
    }
    let mut fields = Fields { data, rules, edits: Vec::new(), has_choices: false };
    // What cannot be read is not changed, and neither is what is no answer to a chat.
    let walked = fields.root();
    if walked.is_some() && fields.has_choices { fields.edits } else { Vec::new() }
}

struct Fields<'a> {
    data: &'a [u8],
    rules: &'a FieldRules,
    edits: Vec<Edit>,
    has_choices: bool,
}

impl<'a> Fields<'a> {
    fn root(&mut self) -> Option<()> {
        let mut walker = Walker::new(self.data);
        let members = self.members(&mut walker, |fields, key, w| {
            let list = key == b"choices" && w.peek()? == b'[';
            fields.has_choices |= list;
            if list { w.array(|w| fields.choice(w)).map(Some) } else { Some(None) }
        })?;
        self.remove(Level::Root, &members, None);
        Some(())
    }

    fn choice(&mut self, walker: &mut Walker<'a>) -> Option<()> {
        if walker.peek()? != b'{' {
            return walker.value().map(drop);
        }
        let members = self.members(walker, |fields, key, w| {
            let inner = matches!(key, b"delta" | b"message") && w.peek()? == b'{';
            if inner { fields.message(w).map(Some) } else { Some(None) }
        })?;
        self.remove(Level::Choice, &members, None);
        Some(())
    }

    fn message(&mut self, walker: &mut Walker<'a>) -> Option<()> {
        let members = self.members(walker, |_, _, _| Some(None))?;
        let place = |name: &[u8]| members.iter().position(|member| member.name == name);
        let found = (place(b"reasoning"), place(b"reasoning_content"));
        let surplus = match (found, self.rules.reasoning) {
            ((Some(one), Some(other)), field) => {
                let goes = match field {
                    ReasoningField::Both => None,
                    ReasoningField::Reasoning => Some(other),
                    ReasoningField::ReasoningContent => Some(one),
                };
                for (to, from) in [(one, other), (other, one)] {
                    if goes != Some(to) {
                        self.fill(&members[to], &members[from]);
                    }
                }
                goes
            }
            ((Some(one), None), ReasoningField::Both) => self.copy(&members[one], NAMES[1]),
            ((None, Some(one)), ReasoningField::Both) => self.copy(&members[one], NAMES[0]),
            ((Some(one), None), ReasoningField::ReasoningContent) => {
                self.rename(&members[one], NAMES[1])
            }
            ((None, Some(one)), ReasoningField::Reasoning) => self.rename(&members[one], NAMES[0]),
            _ => None,
        };
        self.remove(Level::Message, &members, surplus);
        Some(())
    }

    /// The fields of one object; `inner` takes the value of those that it looks into.
    fn members(
        &mut self,
        walker: &mut Walker<'a>,
        mut inner: impl FnMut(&mut Self, &'a [u8], &mut Walker<'a>) -> Option<Option<()>>,
    ) -> Option<Vec<Member<'a>>> {
        let data = self.data;
        let mut members = Vec::with_capacity(8);
        walker.object(|key, w| {
            w.peek()?;
            let start = w.place();
            let value = match inner(self, key, w)? {
                Some(()) => start..w.place(),
                None => w.value()?,
            };
            members.push(Member::new(data, key, value));
            Some(())
        })?;
        Some(members)
    }

    /// A name that says nothing beside one that does says the same.
    fn fill(&mut self, to: &Member<'_>, from: &Member<'_>) {
        if !self.says_something(to) && self.says_something(from) {
            let value = Bytes::copy_from_slice(&self.data[from.value.clone()]);
            self.edits.push(Edit { place: to.value.clone(), pieces: vec![value] });
        }
    }

    fn says_something(&self, member: &Member<'_>) -> bool {
        !member.is_null && &self.data[member.value.clone()] != b"\"\""
    }

    fn copy(&mut self, only: &Member<'_>, name: &'static str) -> Option<usize> {
        if !only.is_null {
            let end = only.value.end;
            let value = Bytes::copy_from_slice(&self.data[only.value.clone()]);
            let name = Bytes::from_static(name.as_bytes());
            let pieces = vec![Bytes::from_static(b","), name, Bytes::from_static(b":"), value];
            self.edits.push(Edit { place: end..end, pieces });
        }
        None
    }

    fn rename(&mut self, only: &Member<'_>, name: &'static str) -> Option<usize> {
        if !only.is_null {
            self.edits.push(Edit::text(only.key.clone(), name));
        }
        None
    }

    fn goes(&self, level: Level, member: &Member<'_>) -> bool {
        let Foreign::Go { asked } = &self.rules.foreign else { return false };
        !member.is_null
            && !level.knows(member.name)
            && !asked.iter().any(|name| name.as_bytes() == member.name)
    }

    /// Removes fields with the commas that go with them; `surplus` is one more of them.
    fn remove(&mut self, level: Level, members: &[Member<'_>], surplus: Option<usize>) {
        // The end of the last one that stays, and where a row of those before all others begins.
        let (mut kept, mut leading): (Option<usize>, Option<usize>) = (None, None);
        for (at, member) in members.iter().enumerate() {
            if surplus != Some(at) && !self.goes(level, member) {
                if let Some(start) = leading.take() {
                    self.edits.push(Edit::remove(start..member.key.start));
                }
                kept = Some(member.value.end);
            } else if let Some(end) = kept {
                self.edits.push(Edit::remove(end..member.value.end));
                kept = Some(member.value.end);
            } else {
                leading.get_or_insert(member.key.start);
            }
        }
        if let (Some(start), Some(last)) = (leading, members.last()) {
            self.edits.push(Edit::remove(start..last.value.end));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::chat::edits::splice;
    use serde_json::{Value, json};

    fn changed(text: &str, reasoning: ReasoningField) -> String {
        spliced(text, &FieldRules { reasoning, foreign: Foreign::Stay })
    }

    fn spliced(text: &str, rules: &FieldRules) -> String {
        let body = Bytes::copy_from_slice(text.as_bytes());
        let edits = edits(&body, rules);
        String::from_utf8(splice(&body, edits).concat()).unwrap()
    }

    fn without_foreign(text: &str, asked: &[&'static str]) -> String {
        let foreign = Foreign::Go { asked: asked.to_vec() };
        spliced(text, &FieldRules { reasoning: ReasoningField::Reasoning, foreign })
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
    fn a_thought_is_not_lost_beside_a_name_that_says_nothing() {
        use ReasoningField::{Both, Reasoning, ReasoningContent};
        for nothing in [Value::Null, json!("")] {
            for came in [
                json!({"reasoning": nothing, "reasoning_content": "a"}),
                json!({"reasoning": "a", "reasoning_content": nothing}),
            ] {
                let both = json!({"reasoning": "a", "reasoning_content": "a"});
                let (new, old) = (json!({"reasoning": "a"}), json!({"reasoning_content": "a"}));
                for (field, left) in [(Both, both), (Reasoning, new), (ReasoningContent, old)] {
                    assert_eq!(changed(&delta(&came), field), delta(&left), "{came} {field:?}");
                }
            }
        }
    }

    #[test]
    fn a_field_goes_with_its_comma_wherever_it_stands() {
        use ReasoningField::ReasoningContent;
        for (came, left) in [
            (r#"{"reasoning":"a","reasoning_content":"a"}"#, r#"{"reasoning_content":"a"}"#),
            (r#"{ "reasoning" : "a" , "reasoning_content":"a"}"#, r#"{ "reasoning_content":"a"}"#),
            (r#"{"reasoning_content":"a", "reasoning":"a"}"#, r#"{"reasoning_content":"a"}"#),
        ] {
            let around = |inner: &str| format!(r#"{{"choices":[{{"message":{inner}}}]}}"#);
            assert_eq!(changed(&around(came), ReasoningContent), around(left));
        }
    }

    use crate::chat::chunk::Chunk;

    fn concern(answer: &str, rules: &FieldRules) -> bool {
        match Chunk::read(answer.as_bytes(), |_| {}) {
            Chunk::Object(facts) => rules.concern(&facts),
            Chunk::Done | Chunk::Other => false,
        }
    }

    #[test]
    fn rules_concern_what_they_change() {
        let foreign = Foreign::Go { asked: Vec::new() };
        let rules = FieldRules { reasoning: ReasoningField::Both, foreign };
        for (answer, concerned) in [
            (r#"{"choices":[{"message":{"content":"reasoning"},"stop_reason":null}]}"#, false),
            (r#"{"choices":[{"message":{"reasoning":"a"}}]}"#, true),
            (r#"{"choices":[{"message":{},"stop_reason":7}]}"#, true),
            ("no json", false),
        ] {
            assert_eq!(concern(answer, &rules), concerned, "{answer}");
            assert_eq!(!edits(answer.as_bytes(), &rules).is_empty(), concerned, "{answer}");
        }
    }

    #[test]
    fn reasoning_is_found_wherever_it_has_a_value() {
        let rules = FieldRules::default();
        for (message, concerned) in [
            (r#"{"reasoning":null,"reasoning_content" : null}"#, false),
            (r#"{"reasoning":null,"reasoning_content":"a"}"#, true),
            ("{\"reasoning\" :\n \"a\"}", true),
            (r#"{"content":"\"reasoning\": 1"}"#, false),
            (r#"{"reasoning":""}"#, false),
        ] {
            let answer = format!(r#"{{"choices":[{{"message":{message}}}]}}"#);
            assert_eq!(concern(&answer, &rules), concerned, "{answer}");
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

    #[test]
    fn foreign_fields_that_hold_a_value_go_with_their_commas() {
        for (came, left) in [
            (r#"{"x":1,"y":{"a":[1]},"choices":[]}"#, r#"{"choices":[]}"#),
            (r#"{"choices":[],"x":1,"y":2}"#, r#"{"choices":[]}"#),
            (r#"{ "x":1 , "choices" : [] , "y":2 }"#, r#"{ "choices" : [] }"#),
            (
                r#"{"id":1,"x":1,"choices":[],"y":2,"usage":{"x":1}}"#,
                r#"{"id":1,"choices":[],"usage":{"x":1}}"#,
            ),
            (r#"{"choices":[{"x":1}]}"#, r#"{"choices":[{}]}"#),
            (r#"{"choices":[{"x":1,"y":"a"}]}"#, r#"{"choices":[{}]}"#),
            (
                r#"{"choices":[{"index":0,"delta":{"x":"","content":"a","y":0},"stop_reason":"b"},{"z":1,"index":1}],"k":{}}"#,
                r#"{"choices":[{"index":0,"delta":{"content":"a"}},{"index":1}]}"#,
            ),
            // One of the names of reasoning beside a foreign field.
            (
                r#"{"choices":[{"delta":{"reasoning_content":"a","x":1,"content":"b"}}]}"#,
                r#"{"choices":[{"delta":{"reasoning":"a","content":"b"}}]}"#,
            ),
            (
                r#"{"choices":[{"delta":{"x":1,"reasoning_content":"a","reasoning":"a"}}]}"#,
                r#"{"choices":[{"delta":{"reasoning":"a"}}]}"#,
            ),
        ] {
            assert_eq!(without_foreign(came, &[]), left);
        }
    }

    #[test]
    fn what_is_asked_for_what_is_null_and_what_is_no_answer_stays() {
        for text in [
            r#"{"choices":[{"delta":{"x":null},"stop_reason":null}],"y":null}"#,
            r#"{"x":1}"#,
            r#"{"choices":null,"x":1}"#,
            r#"{"x":1,"choices":[{"delta":{}}"#,
            r#"{"choices":[1,{"index":0,"message":{"tool_calls":[{"x":1}]},"logprobs":{"x":1}}]}"#,
        ] {
            assert_eq!(without_foreign(text, &[]), text);
        }
        let asked = r#"{"choices":[{"index":0,"token_ids":[1]}],"prompt_token_ids":[2]}"#;
        assert_eq!(without_foreign(asked, &["token_ids", "prompt_token_ids"]), asked);
        assert_eq!(
            without_foreign(asked, &["token_ids"]),
            r#"{"choices":[{"index":0,"token_ids":[1]}]}"#
        );
    }
}
