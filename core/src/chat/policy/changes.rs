//! What policies have changed, as clients and the log are told.
//!
//! Owns: the names. Must never do: tell what was said in a request.

use serde_json::{Map, Value};

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Images that were replaced by words.
    pub images_stripped: usize,
    /// Images that were scaled down or written anew.
    pub images_downscaled: usize,
    /// Images that were carried over from a turn that went.
    pub images_carried: usize,
    /// Turns that went.
    pub turns_dropped: usize,
    /// The model's own system prompt was put in.
    pub system_prompt: bool,
    /// Parameters that were filled in.
    pub defaults: Vec<&'static str>,
}

impl Changes {
    fn counts(&self) -> [(&'static str, usize); 4] {
        [
            ("images_stripped", self.images_stripped),
            ("images_downscaled", self.images_downscaled),
            ("images_carried", self.images_carried),
            ("turns_dropped", self.turns_dropped),
        ]
    }

    /// For `x-imageworks-policy`; nothing if nothing was changed.
    pub fn header(&self) -> Option<String> {
        let counts = self.counts().into_iter().filter(|(_, count)| *count > 0);
        let mut all: Vec<String> = counts.map(|(name, count)| format!("{name}={count}")).collect();
        if self.system_prompt {
            all.push("system_prompt=default".to_owned());
        }
        if !self.defaults.is_empty() {
            all.push(format!("defaults={}", self.defaults.join(",")));
        }
        (!all.is_empty()).then(|| all.join("; "))
    }

    /// For the record's `policy`.
    pub fn record(&self) -> Map<String, Value> {
        let counts = self.counts().into_iter().filter(|(_, count)| *count > 0);
        let mut record: Map<String, Value> =
            counts.map(|(name, count)| (name.to_owned(), count.into())).collect();
        if self.system_prompt {
            record.insert("system_prompt".to_owned(), true.into());
        }
        if !self.defaults.is_empty() {
            record.insert("defaults".to_owned(), self.defaults.clone().into());
        }
        record
    }
}
