//! Which requests are background work, by rules that the operator wrote (SPEC 6.6).
//!
//! Owns: reading the rules, and trying a request's head and its metadata against them. Must never
//! do: beat what a request says of itself (`x-request-class`); that is its caller's to see to.
//!
//! A rule is `HEADER: PATTERN` or `metadata.FIELD: PATTERN`. In a pattern `*` stands for any text
//! and `?` for one character; case does not matter.

use serde_json::{Map, Value};
use wildmatch::WildMatch;

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct ClassRules {
    headers: Vec<(String, WildMatch)>,
    metadata: Vec<(String, WildMatch)>,
}

impl ClassRules {
    /// Reads the rules; the error names the one that is none.
    pub fn read(rules: &[String]) -> Result<Self, String> {
        let mut read = ClassRules::default();
        for rule in rules {
            let wrong = |what: &str| {
                format!(
                    "{rule:?} {what}; a rule is `HEADER: PATTERN` or `metadata.FIELD: PATTERN`, \
                     such as \"user-agent: *batch*\""
                )
            };
            let (name, pattern) = rule.split_once(':').ok_or_else(|| wrong("has no colon"))?;
            let (name, pattern) = (name.trim(), pattern.trim());
            if pattern.is_empty() {
                return Err(wrong("has no pattern"));
            }
            let pattern = WildMatch::new_case_insensitive(pattern);
            match name.strip_prefix("metadata.") {
                Some("") => return Err(wrong("names no field")),
                Some(field) => read.metadata.push((field.to_owned(), pattern)),
                None if is_header(name) => {
                    read.headers.push((name.to_ascii_lowercase(), pattern));
                }
                None => return Err(wrong("names no header")),
            }
        }
        Ok(read)
    }

    /// Whether a request's head makes it background work. `header`: all values of one.
    pub fn head_matches<'a, I: Iterator<Item = &'a str>>(
        &self,
        mut header: impl FnMut(&str) -> I,
    ) -> bool {
        let mut tried = self.headers.iter();
        tried.any(|(name, pattern)| header(name).any(|value| pattern.matches(value)))
    }

    /// Whether the rules look at metadata at all.
    pub fn look_at_metadata(&self) -> bool {
        !self.metadata.is_empty()
    }

    /// Whether a request's `metadata` makes it background work.
    pub fn metadata_matches(&self, metadata: &Map<String, Value>) -> bool {
        self.metadata.iter().any(|(field, pattern)| match metadata.get(field) {
            Some(Value::String(text)) => pattern.matches(text),
            Some(scalar @ (Value::Bool(_) | Value::Number(_))) => {
                pattern.matches(&scalar.to_string())
            }
            _ => false,
        })
    }
}

/// RFC 9110, section 5.1.
fn is_header(name: &str) -> bool {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !name.is_empty() && name.bytes().all(token)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn rules(rules: &[&str]) -> Result<ClassRules, String> {
        ClassRules::read(&rules.iter().map(|&rule| rule.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn headers_match_by_pattern_and_without_regard_to_case() {
        let rules = rules(&["User-Agent: *batch*", "x-job:?*"]).unwrap();
        let head = |name: &'static str, value: &'static str| {
            rules.head_matches(|asked| (asked == name).then_some(value).into_iter())
        };
        assert!(head("user-agent", "My-Batch/1.0") && head("x-job", "7"));
        assert!(!head("user-agent", "openai-python") && !head("x-job", "") && !head("x", "batch"));
        assert!(!rules.look_at_metadata());
    }

    #[test]
    fn metadata_matches_by_field() {
        let rules = rules(&["metadata.task: title*", "metadata.low: true"]).unwrap();
        let metadata = |text: &str| rules.metadata_matches(&serde_json::from_str(text).unwrap());
        assert!(metadata(r#"{"task": "title_generation"}"#) && metadata(r#"{"low": true}"#));
        assert!(!metadata(r#"{"task": ["title"], "low": null, "other": "title"}"#));
    }

    #[test]
    fn a_rule_that_is_none_is_named() {
        for (bad, why) in [
            ("batch", "has no colon"),
            ("user-agent: ", "has no pattern"),
            ("metadata.: x", "names no field"),
            ("user agent: x", "names no header"),
            (": x", "names no header"),
        ] {
            let error = rules(&[bad]).unwrap_err();
            assert!(error.contains(&format!("{bad:?} {why}")), "{error}");
        }
    }
}
