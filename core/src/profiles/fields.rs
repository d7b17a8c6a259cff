//! One table of the profiles' file, key by key.
//!
//! Owns: kinds, unknown keys, and a line for every problem. Must never do: know what a key is for.

use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use crate::config::nearest;
use toml_edit::{Item, Key, TableLike};

use crate::config::Problem;

/// A file, and what is wrong with it so far.
#[derive(Debug)]
pub(super) struct Source<'a> {
    pub(super) path: &'a str,
    pub(super) text: &'a str,
    pub(super) problems: Vec<Problem>,
}

impl Source<'_> {
    pub(super) fn problem(&mut self, span: Option<Range<usize>>, message: impl Into<String>) {
        let end = span.map_or(0, |span| span.start).min(self.text.len());
        let line = self.text.as_bytes()[..end].iter().filter(|byte| **byte == b'\n').count() + 1;
        self.problems
            .push(Problem { place: format!("{}:{line}", self.path), message: message.into() });
    }
}

/// A table with a name, such as `hardware.small`.
pub(super) struct Fields<'a, 'b> {
    pub(super) source: &'a mut Source<'b>,
    pub(super) name: String,
    pub(super) table: &'a dyn TableLike,
    /// Where its name stands.
    pub(super) head: Option<Range<usize>>,
}

impl Fields<'_, '_> {
    /// Keys that are none of these are problems.
    pub(super) fn only(&mut self, known: &[&str]) {
        for (key, item) in self.table.iter().filter(|(key, _)| !known.contains(key)) {
            let near = did_you_mean(key, known.iter().copied())
                .unwrap_or_else(|| format!("; there are {}", known.join(", ")));
            let span = self.table.key(key).and_then(Key::span).or_else(|| item.span());
            self.source.problem(span, format!("[{}] has no key {key}{near}", self.name));
        }
    }

    pub(super) fn whole(&mut self, key: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        let read = |item: &Item| {
            let number = item.as_integer().ok_or_else(|| item.type_name().to_owned())?;
            u64::try_from(number)
                .ok()
                .filter(|number| range.contains(number))
                .ok_or_else(|| number.to_string())
        };
        self.read(key, &expected, read)
    }

    pub(super) fn seconds(&mut self, key: &str, range: RangeInclusive<u64>) -> Option<Duration> {
        self.whole(key, range).map(Duration::from_secs)
    }

    pub(super) fn truth(&mut self, key: &str) -> Option<bool> {
        self.read(key, "true or false", |item| item.as_bool().ok_or_else(|| item.type_name()))
    }

    pub(super) fn text(&mut self, key: &str) -> Option<String> {
        let read = |item: &Item| item.as_str().map(str::to_owned).ok_or_else(|| item.type_name());
        self.read(key, "a text", read)
    }

    pub(super) fn choice<T: Copy>(&mut self, key: &str, words: &[(&str, T)]) -> Option<T> {
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let expected = format!("one of {}", known.join(", "));
        let read = |item: &Item| {
            let text = item.as_str().ok_or_else(|| item.type_name().to_owned())?;
            let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
            found.ok_or_else(|| {
                let near = did_you_mean(text, known.iter().copied()).unwrap_or_default();
                format!("{text:?}{near}")
            })
        };
        self.read(key, &expected, read)
    }

    /// A list of texts; what is none in it is a problem at its own line.
    pub(super) fn texts(&mut self, key: &str) -> Vec<String> {
        let list = |item: &Item| item.as_array().cloned().ok_or_else(|| item.type_name());
        let Some(list) = self.read(key, "a list of texts", list) else { return Vec::new() };
        let mut texts = Vec::new();
        for value in &list {
            match value.as_str().map(str::trim) {
                Some(text) if !text.is_empty() => texts.push(text.to_owned()),
                other => {
                    let found = other.map_or(value.type_name(), |_| "an empty one");
                    let message = self.expected(key, "a list of texts", &format!("in it {found}"));
                    self.source.problem(value.span(), message);
                }
            }
        }
        texts
    }

    fn read<T, E: Display>(
        &mut self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&Item) -> Result<T, E>,
    ) -> Option<T> {
        let item = self.table.get(key)?;
        match read(item) {
            Ok(value) => Some(value),
            Err(found) => {
                let span = self.span(key);
                let message = self.expected(key, expected, &found.to_string());
                self.source.problem(span, message);
                None
            }
        }
    }

    fn expected(&self, key: &str, expected: &str, found: &str) -> String {
        format!("{key} of [{}]: expected {expected}, found {found}", self.name)
    }

    /// Where a key stands, or the table.
    pub(super) fn span(&self, key: &str) -> Option<Range<usize>> {
        self.table.key(key).and_then(Key::span).or_else(|| self.head.clone())
    }
}

/// `; did you mean X?` with the nearest word, if one is near.
pub(super) fn did_you_mean<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    nearest(word, known).map(|known| format!("; did you mean {known}?"))
}
