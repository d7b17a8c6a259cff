//! What a translated request no longer says, for the response header `x-imageworks-policy`.
//!
//! Owns: the names of what was lost, and how they are written. Must never do: put a client's
//! values, or characters that a header cannot hold, into the text.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::fields::Fields;

/// As many bytes of one list of names are written; the number of the others follows.
const MAX_LIST: usize = 400;
/// The longest name of a field that is written, in characters.
const MAX_NAME: usize = 64;

/// What a request said that Ollama's native API cannot be told, or must not be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Losses {
    /// A certain tool, or any tool, was demanded; Ollama decides by itself.
    tool_choice: bool,
    /// Fields with no native counterpart.
    dropped: BTreeSet<String>,
    /// Load-time options of the client: the registry's hold.
    pinned: BTreeSet<String>,
}

impl Losses {
    /// Whether the request says all that it said before.
    pub fn is_empty(&self) -> bool {
        *self == Losses::default()
    }

    /// The text for the header, such as `tool_choice=auto; dropped=logit_bias; pinned=num_ctx`;
    /// `None` where nothing was lost.
    pub fn header(&self) -> Option<String> {
        let mut parts = Vec::new();
        if self.tool_choice {
            parts.push("tool_choice=auto".to_owned());
        }
        for (name, list) in [("dropped", &self.dropped), ("pinned", &self.pinned)] {
            if !list.is_empty() {
                parts.push(format!("{name}={}", joined(list)));
            }
        }
        (!parts.is_empty()).then(|| parts.join("; "))
    }

    /// The choice of a tool is left to the model.
    pub(super) fn free_tool_choice(&mut self) {
        self.tool_choice = true;
    }

    /// A field has no counterpart.
    pub(super) fn dropped(&mut self, field: &str) {
        self.dropped.insert(header_safe(field));
    }

    /// Everything that nobody took out of an object has no counterpart.
    pub(super) fn rest(&mut self, object: &str, fields: &Fields) {
        for (field, _) in fields.rest() {
            self.dropped(&format!("{object}.{field}"));
        }
    }

    /// A load-time option was not the client's to set.
    pub(super) fn pinned(&mut self, option: &str) {
        self.pinned.insert(header_safe(option));
    }
}

/// Names are the client's words: what a header or our own list cannot hold becomes `_`.
fn header_safe(name: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    name.chars().take(MAX_NAME).map(safe).collect()
}

fn joined(names: &BTreeSet<String>) -> String {
    let mut text = String::new();
    for (written, name) in names.iter().enumerate() {
        if text.len() + name.len() > MAX_LIST {
            // Writing to a string does not fail.
            let _ = write!(text, ",+{}", names.len() - written);
            break;
        }
        if written > 0 {
            text.push(',');
        }
        text.push_str(name);
    }
    text
}
