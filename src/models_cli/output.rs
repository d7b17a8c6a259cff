//! What a verb says: tables and sentences for people, or JSON for scripts.
//!
//! Owns: stdout, the words on stderr, whether there are colours. Must never do: hide that the
//! output could not be written; that nobody reads it any more is no error.

use std::cell::Cell;
use std::io::{self, IsTerminal, Write};

use serde_json::Value;

use super::error::CliError;
use super::table::{Table, shown};
use crate::terminal::say;

/// See the module.
pub(super) struct Output {
    pub(super) json: bool,
    /// Stdout is a terminal that shows colours.
    colours: bool,
    /// Something stands on stdout.
    spoke: Cell<bool>,
}

impl Output {
    /// As this process's streams are.
    pub(super) fn of_process(json: bool) -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Output { json, colours: wanted && is_screen(&io::stdout()), spoke: Cell::new(false) }
    }

    /// A line, or several, on stdout.
    pub(super) fn line(&self, text: &str) -> Result<(), CliError> {
        self.spoke.set(true);
        let mut out = io::stdout().lock();
        let written = writeln!(out, "{text}").and_then(|()| out.flush());
        written.map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => CliError::Closed,
            _ => CliError::Write(error),
        })
    }

    /// Text that has its own line ends.
    pub(super) fn text(&self, text: &str) -> Result<(), CliError> {
        match text.strip_suffix('\n').unwrap_or(text) {
            "" => Ok(()),
            text => self.line(text),
        }
    }

    pub(super) fn table(&self, table: &Table) -> Result<(), CliError> {
        self.text(&table.render(self.colours))
    }

    pub(super) fn value(&self, value: &Value) -> Result<(), CliError> {
        self.line(&format!("{value:#}"))
    }

    /// A word beside the answer, on stderr.
    #[allow(clippy::unused_self)] // what is said goes through it
    pub(super) fn note(&self, text: &str) {
        // Names are in it, and what others answered.
        let lines: Vec<String> = text.split('\n').map(shown).collect();
        say(&mut io::stderr(), &lines.join("\n"));
    }

    /// Says what went wrong; answers the exit code.
    pub(super) fn fail(&self, error: &CliError) -> u8 {
        if !matches!(error, CliError::Closed) {
            let said_before = matches!(error, CliError::Interrupted { .. });
            self.note(&format!("{}{error}", if said_before { "" } else { "error: " }));
            if let Some(hint) = error.hint() {
                self.note(&format!("hint: {hint}"));
            }
            // One document, not two.
            if self.json && !self.spoke.get() {
                // It has been said on stderr in any case.
                let _ = self.value(&error.to_json());
            }
        }
        error.exit_code()
    }
}

/// A terminal on which the cursor can be moved.
pub(super) fn is_screen(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}
