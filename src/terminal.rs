//! Words for people.

use std::io::Write;

/// Writes a line for a person; a closed pipe is their choice.
pub(crate) fn say(out: &mut dyn Write, line: &str) {
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
