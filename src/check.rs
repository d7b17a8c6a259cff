//! `check-config` and `print-config`: settings and registry, for people.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use chat_proxy_actors::registry;
use chat_proxy_core::config::{KEYS, Loaded, Problem};
use chat_proxy_core::registry::Snapshot;

use crate::http::Guard;
use crate::settings::{self, Profiled, Source};
use crate::terminal::say;
use crate::tls::Tls;

/// Loads everything and says what is wrong; 0 if nothing is.
pub(crate) fn check_config() -> ExitCode {
    let source = match settings::source() {
        Ok(source) => source,
        Err(problems) => {
            complain(&problems);
            return ExitCode::FAILURE;
        }
    };
    let (out, loaded) = (&mut io::stdout(), &source.loaded);
    for warning in &loaded.warnings {
        say(out, &format!("warning: {warning}"));
    }
    // Both say all that is wrong with them.
    let keys = check_keys(loaded) & check_certificate(loaded);
    let profiled = check_profiles(&source, out);
    if check_registry(loaded, profiled.as_ref(), out) && keys && profiled.is_some() {
        say(out, "configuration: good");
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// API keys whose secret cannot be had stop the start: so they are a problem here.
fn check_keys(loaded: &Loaded) -> bool {
    match Guard::new(&loaded.settings) {
        Ok(_) => true,
        Err(error) => {
            say(&mut io::stderr(), &format!("error: {error}"));
            false
        }
    }
}

/// So does a certificate that HTTPS cannot be served with.
fn check_certificate(loaded: &Loaded) -> bool {
    match Tls::open(&loaded.settings) {
        Ok(_) => true,
        Err(problem) => {
            say(&mut io::stderr(), &format!("error: {problem}"));
            false
        }
    }
}

/// Profiles, and which of them hold here.
fn check_profiles(source: &Source, out: &mut dyn Write) -> Option<Profiled> {
    let loaded = &source.loaded;
    match settings::profiled(loaded, &source.path, settings::gpus(&loaded.settings)) {
        Ok(profiled) => {
            let (profile, reason) = (&profiled.chosen.profile.name, &profiled.chosen.reason);
            let deployment = &loaded.settings.profiles.deployment;
            say(out, &format!("profiles: {deployment}, {profile} ({reason})"));
            Some(profiled)
        }
        Err(problems) => {
            for problem in problems {
                say(&mut io::stderr(), &format!("error: {problem}"));
            }
            None
        }
    }
}

fn check_registry(loaded: &Loaded, profiled: Option<&Profiled>, out: &mut dyn Write) -> bool {
    let rules = match profiled {
        Some(profiled) => settings::registry_with(&loaded.settings, profiled),
        None => settings::registry(&loaded.settings),
    };
    match registry::inspect(&rules) {
        Ok(view) => {
            let problems = view.snapshot.problems();
            for problem in problems {
                say(&mut io::stderr(), &format!("error: {problem}"));
            }
            for note in missing_things(&view.snapshot) {
                say(out, &format!("note: {note}"));
            }
            let dir = &loaded.settings.server.registry_dir;
            say(out, &format!("registry in {dir}: {} models", view.snapshot.entries().len()));
            problems.is_empty()
        }
        Err(error) => {
            say(&mut io::stderr(), &format!("error: {error}"));
            false
        }
    }
}

/// What entries name and this machine has not: their requests would fail.
fn missing_things(snapshot: &Snapshot) -> Vec<String> {
    let mut missing = Vec::new();
    for entry in snapshot.entries() {
        let (name, config) = (&entry.name, &entry.backend_config);
        let unset = |variable: &&String| std::env::var_os(variable).is_none();
        if let Some(variable) = config.api_key_env.as_ref().filter(unset) {
            missing.push(format!("{name}: the variable {variable} (api_key_env) is not set here"));
        }
        if let Some(path) = config.ca_file.as_ref().filter(|path| !Path::new(path).exists()) {
            missing.push(format!("{name}: ca_file {path} is not there"));
        }
    }
    missing
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
        let value = loaded.values.get(spec.name).filter(|value| !value.is_null());
        let value = value.map_or_else(|| "(unset)".to_owned(), ToString::to_string);
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
