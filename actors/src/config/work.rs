//! Reading and changing the settings file: what blocks.
//!
//! Owns: the order: all is checked before anything is written, and written before anything is in force.
//! Must never do: hand anything out; the actor does.

use std::path::Path;

use chat_proxy_core::config::{Changes, Input, Problem, Reloaded, edit, load_onto};

use super::{ChangeConfig, Commit, ConfigError, ConfigParts, ConfigState, Outcome, files};

/// Somebody else's change between our look and our writing is looked at this often.
const TRIES: usize = 3;

/// What is to be handed out.
pub(super) struct Done {
    pub(super) state: ConfigState,
    /// `None`: nothing in force changes.
    pub(super) commit: Option<Commit>,
    pub(super) outcome: Outcome,
    /// Whether there is anything to tell.
    pub(super) news: bool,
}

/// Reads the file. `ordered`: what everybody holds is made anew even if nothing changed, for what it
/// names (key files, profiles) may have.
pub(super) fn reload(parts: &ConfigParts, ordered: bool) -> Done {
    let now = parts.state.load();
    // One that cannot be read is told about by whoever makes something of it.
    let beside = files::read(&parts.beside).unwrap_or_default();
    let read = read(parts, &parts.path);
    let read = read.and_then(|text| if ordered { Ok(text) } else { not_emptied(parts, text) });
    let read = read.and_then(|text| load(parts, text));
    let ordered = ordered || beside != now.beside;
    let problems = match read {
        Ok(again) if !ordered && again.applied.is_empty() => {
            let news = again.pending != now.pending || !now.problems.is_empty();
            return Done { news, commit: None, ..done(again, Vec::new(), beside) };
        }
        Ok(again) => match (parts.prepare)(&again.effective) {
            Ok(commit) => {
                let news = true;
                return Done { commit: Some(commit), news, ..done(again, Vec::new(), beside) };
            }
            Err(problems) => problems,
        },
        Err(ConfigError::Wrong(problems)) => problems,
        Err(error) => {
            vec![Problem { place: parts.path.display().to_string(), message: error.to_string() }]
        }
    };
    let news = now.problems != problems;
    let state = ConfigState { problems, beside, ..ConfigState::clone(&now) };
    Done { state, commit: None, outcome: Outcome::default(), news }
}

/// Somebody who writes in several steps empties the file first, or moves it away: without an order that
/// is not taken for a wish, for it would take away keys and limits.
fn not_emptied(parts: &ConfigParts, text: Option<String>) -> Result<Option<String>, ConfigError> {
    let is_empty = text.as_deref().is_none_or(|text| text.trim().is_empty());
    if !is_empty || parts.state.load().loaded.file.is_empty() {
        return Ok(text);
    }
    let message = "is gone or empty; what was in it stays in force until SIGHUP".to_owned();
    Err(ConfigError::Wrong(vec![Problem { place: parts.path.display().to_string(), message }]))
}

/// Changes keys in the file.
pub(super) fn change(parts: &ConfigParts, change: &ChangeConfig) -> Result<Done, ConfigError> {
    for _ in 0..TRIES {
        let text = read(parts, &parts.path)?;
        let name = parts.path.display().to_string();
        // What is known is what file and environment say at this moment.
        let known = load(parts, text.clone())?.effective;
        let changes = Changes::read(&change.object, &known).map_err(ConfigError::Wrong)?;
        let guarded = changes.specs().filter(|spec| spec.is_guarded() && !change.guarded);
        let guarded: Vec<_> = guarded.map(|spec| spec.name).collect();
        if !guarded.is_empty() {
            return Err(ConfigError::Guarded(guarded));
        }
        let old = text.clone().unwrap_or_default();
        let new =
            edit(&name, &old, &changes).map_err(|problem| ConfigError::Wrong(vec![problem]))?;
        let again = load(parts, Some(new.clone()))?;
        let commit = (parts.prepare)(&again.effective).map_err(ConfigError::Wrong)?;
        if read(parts, &parts.path)? != text {
            continue;
        }
        if new != old {
            files::replace(&parts.path, &new).map_err(|error| io_error(parts, &error))?;
        }
        let written: Vec<_> = changes.names().collect();
        let now_beside = parts.state.load().beside.clone();
        let news = !written.is_empty();
        return Ok(Done { commit: Some(commit), news, ..done(again, written, now_beside) });
    }
    Err(ConfigError::Busy(parts.path.display().to_string()))
}

fn done(again: Reloaded, written: Vec<&'static str>, beside: Option<String>) -> Done {
    let Reloaded { effective, applied, pending, .. } = again;
    Done {
        state: ConfigState { loaded: effective, pending, problems: Vec::new(), beside },
        commit: None,
        outcome: Outcome { written, applied },
        news: false,
    }
}

fn read(parts: &ConfigParts, path: &Path) -> Result<Option<String>, ConfigError> {
    files::read(path).map_err(|error| io_error(parts, &error))
}

fn load(parts: &ConfigParts, text: Option<String>) -> Result<Reloaded, ConfigError> {
    let file = text.map(|text| (parts.path.display().to_string(), text));
    let input = Input { file, env: parts.env.to_vec() };
    load_onto(&input, &parts.state.load().loaded).map_err(ConfigError::Wrong)
}

fn io_error(parts: &ConfigParts, error: &std::io::Error) -> ConfigError {
    ConfigError::Io { path: parts.path.display().to_string(), message: error.to_string() }
}

/// Tells the log what has changed.
pub(super) fn tell(before: &ConfigState, after: &ConfigState, outcome: &Outcome) {
    for problem in &after.problems {
        tracing::error!(%problem, "the settings cannot be used; those in force stay");
    }
    if !after.problems.is_empty() {
        return;
    }
    if !before.problems.is_empty() {
        tracing::info!("the settings file is good again");
    }
    if !outcome.applied.is_empty() {
        tracing::info!(keys = outcome.applied.join(", "), "settings changed");
    }
    if !after.pending.is_empty() && after.pending != before.pending {
        let keys = after.pending.join(", ");
        tracing::warn!(keys, "these settings take effect with the next start");
    }
}
