//! Owns the journal: a file to which every process of an engine appends what it lived through.
//!
//! Must never keep a line back: a process may be killed right behind it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::process::parent_id;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::habits::{Habits, Role};

/// The journal, if one is kept.
#[derive(Debug)]
pub(super) struct Journal {
    file: Option<File>,
    role: &'static str,
    model: String,
}

impl Journal {
    pub(super) fn open(habits: &Habits, model: &str) -> io::Result<Self> {
        let open = |path| OpenOptions::new().append(true).create(true).open(path);
        let file = habits.journal.as_ref().map(open).transpose()?;
        let role = match habits.role {
            Role::Leader | Role::EngineCore | Role::Worker => habits.role,
            Role::Child | Role::Between | Role::Holder => Role::Child,
        };
        Ok(Self { file, role: role.word(), model: model.to_owned() })
    }

    /// Appends one line in one write, so that lines of several processes do not mix.
    pub(super) fn note(&self, event: &str) {
        let Some(mut file) = self.file.as_ref() else { return };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let line = json!({
            "at_us": u64::try_from(now.as_micros()).unwrap_or(u64::MAX), "pid": std::process::id(),
            "ppid": parent_id(), "role": self.role, "model": self.model, "event": event,
        });
        // An engine does not end because its journal cannot be written any more.
        let _ = file.write_all(format!("{line}\n").as_bytes());
    }
}
