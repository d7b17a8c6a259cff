//! What the registry is to be told of its downloads (SPEC 9, `normalize-formats`).
//!
//! Owns: which facts are filled in, overwritten or left alone, and which entries are ghosts. Must
//! never do: touch the curated layer, or what it says; change the facts of a locked entry; drop an
//! entry that somebody has curated.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::Found;
use crate::registry::edit::{Change, Layers, is_locked};
use crate::registry::layers::Layer;

/// The paths that an entry names; what was looked at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Paths {
    /// `download_path`.
    pub download: Option<String>,
    /// `backend_config.model_path`.
    pub model: Option<String>,
}

impl Paths {
    /// Of an entry; none, if it names none. Addresses, such as earlier tools have given to Ollama's
    /// models, are no paths.
    pub fn of(entry: &Map<String, Value>) -> Option<Paths> {
        let text = |value: Option<&Value>| {
            let text = value?.as_str()?.trim();
            let is_path = !text.is_empty() && text != "None" && !text.contains("://");
            is_path.then(|| text.to_owned())
        };
        let model = entry.get("backend_config").and_then(|config| config.get("model_path"));
        let paths = Paths { download: text(entry.get("download_path")), model: text(model) };
        (paths.download.is_some() || paths.model.is_some()).then_some(paths)
    }

    /// Both, the download's first.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        [&self.download, &self.model].into_iter().flatten().map(String::as_str)
    }

    /// One for people.
    pub fn shown(&self) -> &str {
        self.iter().next().unwrap_or_default()
    }
}

/// What a look at an entry's paths came to.
#[derive(Debug, Clone, PartialEq)]
pub enum Look {
    /// A model.
    Found(Box<Sight>),
    /// None of them is there.
    Gone,
    /// It is not known whether they are there, or what they are.
    Unclear(String),
}

/// A model, and its template as the registry writes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Sight {
    /// What it is.
    pub found: Found,
    /// `chat_template`; none: there is no template.
    pub template: Option<Map<String, Value>>,
}

/// Looks by the paths that were looked at.
pub type Looks = BTreeMap<Paths, Look>;

/// How far it may go.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rules {
    /// Overwrite what tools have written.
    pub rebuild: bool,
}

/// What is to be done.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// To the discovered layer.
    pub changes: Vec<Change>,
    /// Fields that get another value.
    pub fields: Vec<FieldChange>,
    /// Entries that are dropped.
    pub ghosts: Vec<Ghost>,
    /// What is to be said of entries that were left as they are.
    pub notes: Vec<Note>,
    /// Entries that name paths.
    pub looked_at: usize,
}

/// A field that gets another value.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldChange {
    /// The entry.
    pub name: String,
    /// The field.
    pub field: &'static str,
    /// What it was; `null`: nothing.
    pub was: Value,
    /// What it is to be.
    pub now: Value,
}

/// An entry without files.
#[derive(Debug, Clone, PartialEq)]
pub struct Ghost {
    /// Its name.
    pub name: String,
    /// Where its files were to be.
    pub path: String,
    /// All of it.
    pub entry: Map<String, Value>,
}

impl Ghost {
    /// As it is written down: whoever wants the entry back finds all of it.
    pub fn record(&self, reason: &str, at: &str) -> Value {
        json!({"name": self.name, "dropped_at": at, "reason": reason, "path": self.path,
            "entry": self.entry})
    }
}

/// A word on an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The entry.
    pub name: String,
    /// What it is about: `locked`, `missing`, `differs`, `odd`, `unclear`.
    pub kind: &'static str,
    /// In words.
    pub message: String,
}

/// Backends whose templates are their own affair.
const OWN_TEMPLATES: [&str; 2] = ["ollama", "openai"];
/// So many ghosts may be all that there is; more look like a disk that is away.
const FEW: usize = 1;

/// Decides what is to be done, of what was seen.
pub fn plan(layers: &Layers, looks: &Looks, rules: Rules) -> Plan {
    let mut plan = Plan::default();
    for name in layers.names() {
        let Some(entry) = layers.merged(name) else { continue };
        // Paths that were not looked at are newer than the look.
        let Some(paths) = Paths::of(&entry) else { continue };
        let Some(look) = looks.get(&paths) else { continue };
        plan.looked_at += 1;
        match look {
            Look::Found(sight) => plan.found(layers, name, &entry, sight, rules),
            Look::Gone => plan.gone(layers, name, &paths),
            Look::Unclear(why) => plan.note(name, "unclear", why.clone()),
        }
    }
    plan.doubt_a_missing_disk(rules);
    plan
}

impl Plan {
    fn note(&mut self, name: &str, kind: &'static str, message: impl Into<String>) {
        self.notes.push(Note { name: name.to_owned(), kind, message: message.into() });
    }

    fn found(
        &mut self,
        layers: &Layers,
        name: &str,
        entry: &Map<String, Value>,
        sight: &Sight,
        rules: Rules,
    ) {
        for oddity in &sight.found.oddities {
            self.note(name, "odd", oddity.clone());
        }
        if is_locked(entry) {
            self.note(name, "locked", "it is locked: its facts are left alone (see `unlock`)");
            return;
        }
        let mut fields = Map::new();
        for (field, now) in facts(entry, sight) {
            let was = layers.in_layer(Layer::Discovered, name).and_then(|entry| entry.get(field));
            let was = was.filter(|was| !is_nothing(was));
            if layers.is_curated(name, &[field]) || was.is_some_and(|was| is_same(was, &now)) {
                continue;
            }
            if was.is_some() && !rules.rebuild {
                let message = format!("{field} is {}, found was {}", shown(was), shown(Some(&now)));
                self.note(name, "differs", format!("{message} (--rebuild writes that)"));
                continue;
            }
            let was = was.cloned().unwrap_or_default();
            self.fields.push(FieldChange { name: name.to_owned(), field, was, now: now.clone() });
            fields.insert(field.to_owned(), now);
        }
        if !fields.is_empty() {
            self.changes.push(Change::Set { name: name.to_owned(), fields });
        }
    }

    fn gone(&mut self, layers: &Layers, name: &str, paths: &Paths) {
        let path = paths.shown().to_owned();
        let discovered = layers.in_layer(Layer::Discovered, name);
        match discovered.filter(|_| !layers.is_curated(name, &[])) {
            None => {
                let message = format!("{path} is not there; the entry is curated, so it stays");
                self.note(name, "missing", message);
            }
            Some(entry) if is_locked(entry) => {
                let message = format!("{path} is not there; the entry is locked, so it stays");
                self.note(name, "missing", message);
            }
            Some(entry) => {
                self.changes.push(Change::Remove { name: name.to_owned() });
                self.ghosts.push(Ghost { name: name.to_owned(), path, entry: entry.clone() });
            }
        }
    }

    /// Where nothing at all is there any more, it is rather the disk than the models.
    fn doubt_a_missing_disk(&mut self, rules: Rules) {
        let many = self.ghosts.len();
        if rules.rebuild || many <= FEW || many < self.looked_at {
            return;
        }
        self.changes.clear();
        for ghost in std::mem::take(&mut self.ghosts) {
            let message = format!(
                "{} is not there, and neither is any other model: is a disk away? (--rebuild drops all {many})",
                ghost.path
            );
            self.note(&ghost.name, "missing", message);
        }
    }
}

/// What was seen, as the registry writes it.
fn facts(entry: &Map<String, Value>, sight: &Sight) -> Vec<(&'static str, Value)> {
    let found = &sight.found;
    let mut facts = vec![("download_format", json!(found.format))];
    facts.extend(found.quantization.as_ref().map(|name| ("quantization", json!(name))));
    facts.push(("download_size_bytes", json!(found.size_bytes)));
    facts.push(("download_files", json!(found.files)));
    let backend = entry.get("backend").and_then(Value::as_str).unwrap_or_default();
    if !OWN_TEMPLATES.iter().any(|own| own.eq_ignore_ascii_case(backend)) {
        let template = sight.template.clone();
        facts.extend(template.map(|template| ("chat_template", Value::Object(template))));
    }
    facts
}

/// `null`, empty and "None" say nothing; neither does an object of such.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => matches!(text.trim(), "" | "None"),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.values().all(is_nothing),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Case and punctuation of a quantisation, and the order of files, do not matter, nor does how
/// whole a number is written, nor what else a template's object has.
fn is_same(was: &Value, now: &Value) -> bool {
    match (was, now) {
        (Value::String(was), Value::String(now)) => {
            let plain = crate::registry::resolve::normalize;
            was == now || plain(was) == plain(now)
        }
        (Value::Number(was), Value::Number(now)) => was == now || was.as_f64() == now.as_f64(),
        (Value::Array(was), Value::Array(now)) => {
            was.len() == now.len() && now.iter().all(|item| was.contains(item))
        }
        (Value::Object(was), Value::Object(now)) => {
            now.iter().all(|(key, value)| was.get(key) == Some(value))
        }
        _ => was == now,
    }
}

/// A value for people.
pub fn shown(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(list)) if list.len() == 1 => "1 file".to_owned(),
        Some(Value::Array(list)) => format!("{} files", list.len()),
        Some(Value::Object(map)) => {
            let said = ["source", "path"].iter().filter_map(|key| map.get(*key)?.as_str());
            said.collect::<Vec<_>>().join(" ")
        }
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests;
