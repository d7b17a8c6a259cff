//! `check-config` and `print-config`: settings and registry, for people.

use std::io::{self, Write};
use std::process::ExitCode;

use chat_proxy_actors::registry;
use chat_proxy_core::config::{KEYS, Loaded, Origin, Problem, Stage};

use crate::settings;
use crate::terminal::say;

/// Loads everything and says what is wrong; 0 if nothing is.
pub(crate) fn check_config() -> ExitCode {
    let loaded = match settings::from_process() {
        Ok(loaded) => loaded,
        Err(problems) => {
            complain(&problems);
            return ExitCode::FAILURE;
        }
    };
    let out = &mut io::stdout();
    for warning in &loaded.warnings {
        say(out, &format!("warning: {warning}"));
    }
    name_later_keys(&loaded, out);
    if check_registry(&loaded, out) {
        say(out, "configuration: good");
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Keys that somebody set and that do nothing yet: better said than found out.
fn name_later_keys(loaded: &Loaded, out: &mut dyn Write) {
    for spec in KEYS.iter().filter(|spec| spec.stage == Stage::Later) {
        match loaded.origins.get(spec.name) {
            None | Some(Origin::Default) => {}
            Some(origin) => say(
                out,
                &format!(
                    "note: {origin}: {} is kept, but what it governs is not part of this version yet",
                    spec.name
                ),
            ),
        }
    }
}

fn check_registry(loaded: &Loaded, out: &mut dyn Write) -> bool {
    match registry::read(&settings::registry(&loaded.settings)) {
        Ok(view) => {
            let problems = view.snapshot.problems();
            for problem in problems {
                say(&mut io::stderr(), &format!("error: {problem}"));
            }
            let file = view.file.as_deref().unwrap_or(std::path::Path::new("registry"));
            say(out, &format!("{}: {} models", file.display(), view.snapshot.entries().len()));
            problems.is_empty()
        }
        Err(error) => {
            say(&mut io::stderr(), &format!("error: {error}"));
            false
        }
    }
}

/// Every setting, its value and where it came from.
pub(crate) fn print_config() -> ExitCode {
    let loaded = match settings::from_process() {
        Ok(loaded) => loaded,
        Err(problems) => {
            complain(&problems);
            return ExitCode::FAILURE;
        }
    };
    let out = &mut io::stdout();
    let mut section = "";
    for spec in KEYS {
        if spec.section != section {
            section = spec.section;
            say(out, &format!("\n[{section}]"));
        }
        let value = loaded.values.get(spec.name).cloned().flatten();
        let value = value.unwrap_or_else(|| "(unset)".to_owned());
        let origin = loaded.origins.get(spec.name).map_or_else(String::new, ToString::to_string);
        say(out, &format!("{:<32} {value:<34} # {origin}", format!("{} =", spec.name)));
    }
    ExitCode::SUCCESS
}

/// All problems, one line each, on stderr.
pub(crate) fn complain(problems: &[Problem]) {
    let out = &mut io::stderr();
    for problem in problems {
        say(out, &format!("error: {problem}"));
    }
    let count = problems.len();
    let things = if count == 1 { "problem" } else { "problems" };
    say(out, &format!("{count} {things} in the configuration; nothing was started"));
}
