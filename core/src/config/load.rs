//! Layers into settings: defaults, then the file, then the environment (SPEC 3.1).
//!
//! Owns: the walk over sections and variables, with a place for every problem. Must never do:
//! stop at the first problem.

use std::collections::BTreeMap;
use std::ops::Range;

use config::Config;
use toml_edit::{Document, Item, Key, TableLike};

use serde_json::{Map, Value as Json};

use super::keys::{Applies, KEYS, KeySpec, Settings};
use super::layers::{Layer, Origin};
use super::{Problem, check, parse, shown};

/// What settings are made from.
#[derive(Debug, Clone, Default)]
pub struct Input {
    /// The file's name and text, if there is a file.
    pub file: Option<(String, String)>,
    /// The whole environment; variables that are not ours are ignored.
    pub env: Vec<(String, String)>,
}

/// Settings, and what there is to say about them.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// Where each key's value came from.
    pub origins: BTreeMap<&'static str, Origin>,
    /// Effective values by key, secrets redacted; null: unset.
    pub values: BTreeMap<&'static str, Json>,
    /// What the file says by key, secrets redacted.
    pub file: BTreeMap<&'static str, Json>,
    /// What the environment says, by variable, secrets redacted.
    pub env_overrides: BTreeMap<String, Json>,
    /// What is odd but harmless.
    pub warnings: Vec<Problem>,
    /// Effective values as they are.
    raw: BTreeMap<&'static str, Json>,
}

/// Settings that were read again while others are in force.
#[derive(Debug, Clone)]
pub struct Reloaded {
    /// What the next start would read: all of file and environment.
    pub wanted: Loaded,
    /// What is in force now: keys that need a restart as they were, the others as wanted.
    pub effective: Loaded,
    /// Keys whose effective value is another one now.
    pub applied: Vec<&'static str>,
    /// Keys that have another value in file or environment than in force: they need a restart.
    pub pending: Vec<&'static str>,
}

/// Variables with a meaning of their own beside the keys.
const OTHER_VARIABLES: &[&str] = &["CHAT_PROXY_CONFIG_FILE"];

/// Second names of variables (SPEC 3.2).
const VARIABLE_ALIASES: &[(&str, &str)] =
    &[("IMAGEWORKS_REGISTRY_DIR", "registry_dir"), ("IMAGEWORKS_DEPLOYMENT_PROFILE", "profile")];

/// Names that existing files use (SPEC 12), and prefix-free ones of `[vllm]` (SPEC 3.2).
pub(super) const KEY_ALIASES: &[(&str, &str)] = &[
    ("autostart_map_raw", "autostart_map"),
    ("vllm_remote_executor_url", "vllm_remote_url"),
    ("vllm_executor_workdir", "vllm_executor_cwd"),
    ("command", "vllm_command"),
    ("env", "vllm_env"),
];

/// Existing files keep keys of the original in these, whatever their section is now.
pub(super) const LEGACY_SECTIONS: &[&str] = &["general", "misc"];

/// Reads all layers. `Err` holds every problem there is.
pub fn load(input: &Input) -> Result<Loaded, Vec<Problem>> {
    let mut reader = Reader::default();
    if let Some((path, text)) = &input.file {
        reader.read_file(path, text);
    }
    reader.read_env(&input.env);
    reader.finish()
}

/// Reads all layers for a daemon that runs with `running`: what can change while it runs does, the
/// rest stays. Both what is in force then and what the next start would read must be valid.
pub fn load_onto(input: &Input, running: &Loaded) -> Result<Reloaded, Vec<Problem>> {
    let wanted = load(input)?;
    let (mut raw, mut origins) = (wanted.raw.clone(), wanted.origins.clone());
    let mut pending = Vec::new();
    for spec in KEYS.iter().filter(|spec| spec.applies != Applies::Live) {
        let (name, old) = (spec.name, running.raw.get(spec.name).cloned().unwrap_or_default());
        if raw.insert(name, old.clone()) != Some(old) {
            pending.push(name);
            // The line it came from may say something else by now.
            origins.insert(name, running.origins.get(name).cloned().unwrap_or(Origin::Default));
        }
    }
    let applied = KEYS.iter().map(|spec| spec.name);
    let applied = applied.filter(|name| raw.get(name) != running.raw.get(name)).collect();
    let settings = typed(&raw, &origins).map_err(|problems| {
        let until_restart = |problem: Problem| Problem {
            message: format!(
                "{}; with what stays until a restart ({}) this cannot be taken over while running",
                problem.message,
                pending.join(", ")
            ),
            ..problem
        };
        problems.into_iter().map(until_restart).collect::<Vec<_>>()
    })?;
    let effective = Loaded { values: shown::all(&raw), settings, origins, raw, ..wanted.clone() };
    Ok(Reloaded { wanted, effective, applied, pending })
}

/// Values by key into settings, and the checks that need several of them.
fn typed(
    raw: &BTreeMap<&'static str, Json>,
    origins: &BTreeMap<&'static str, Origin>,
) -> Result<Settings, Vec<Problem>> {
    let mut sections = Map::new();
    for spec in KEYS {
        let section = sections.entry(spec.section).or_insert_with(|| Json::Object(Map::new()));
        if let Some(section) = section.as_object_mut() {
            let value = raw.get(spec.name).cloned().unwrap_or_default();
            section.insert(spec.name.to_owned(), value);
        }
    }
    // The kinds have been checked key by key, so a failure is about a table's inside.
    let settings: Settings = serde_json::from_value(Json::Object(sections)).map_err(|error| {
        vec![Problem { place: "settings".to_owned(), message: error.to_string() }]
    })?;
    let mut problems = Vec::new();
    check::together(&settings, origins, &mut problems);
    if problems.is_empty() { Ok(settings) } else { Err(problems) }
}

#[derive(Default)]
struct Reader {
    file: Layer,
    env: Layer,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
}

pub(super) fn spec(name: &str) -> Option<&'static KeySpec> {
    KEYS.iter().find(|spec| spec.name == name)
}

impl Reader {
    fn problem(&mut self, place: impl Into<String>, message: impl Into<String>) {
        self.problems.push(Problem { place: place.into(), message: message.into() });
    }

    fn read_file(&mut self, path: &str, text: &str) {
        let place = |span: Option<Range<usize>>| format!("{path}:{}", line_of(text, span));
        let document = match Document::parse(text) {
            Ok(document) => document,
            Err(error) => {
                let message = error.message().lines().collect::<Vec<_>>().join(", ");
                return self.problem(place(error.span()), format!("not TOML: {message}"));
            }
        };
        for (section, item) in document.iter() {
            let key_span = document.as_table().key(section).and_then(Key::span);
            if !is_section(section) {
                let message = unknown_section(section);
                self.problem(place(key_span), message);
                continue;
            }
            match item.as_table_like() {
                Some(table) => self.read_section(path, text, section, table),
                None => self.problem(place(key_span), format!("[{section}] must be a table")),
            }
        }
    }

    fn read_section(&mut self, path: &str, text: &str, section: &str, table: &dyn TableLike) {
        for (name, item) in table.iter() {
            let span = table.key(name).and_then(Key::span).or_else(|| item.span());
            let origin = Origin::File { path: path.to_owned(), line: line_of(text, span) };
            match place_key(section, name) {
                Ok(spec) => self.read_item(spec, name, item, origin),
                Err(message) => self.problem(origin.to_string(), message),
            }
        }
    }

    fn read_item(&mut self, spec: &'static KeySpec, name: &str, item: &Item, origin: Origin) {
        if self.file.values.iter().any(|(path, ..)| *path == spec.path()) {
            return self.problem(origin.to_string(), format!("{name} is given twice"));
        }
        match parse::from_toml(spec, item) {
            Ok(Some(value)) => self.file.set(spec.path(), value, origin),
            Ok(None) => {}
            Err(message) => self.problem(origin.to_string(), format!("{name}: {message}")),
        }
    }

    fn read_env(&mut self, env: &[(String, String)]) {
        for (alias, name) in VARIABLE_ALIASES {
            if let (Some((_, text)), Some(spec)) =
                (env.iter().find(|(n, _)| n == alias), spec(name))
            {
                self.read_variable(spec, alias, text);
            }
        }
        let mut links = Vec::new();
        for (name, text) in env.iter().filter(|(name, _)| name.starts_with("CHAT_PROXY_")) {
            if is_service_link(name, text) {
                links.push(name.as_str());
                continue;
            }
            if OTHER_VARIABLES.contains(&name.as_str()) {
                continue;
            }
            let key = name["CHAT_PROXY_".len()..].to_ascii_lowercase();
            if let Some(spec) = spec(&key) {
                self.read_variable(spec, name, text);
            } else {
                let near = nearest(&key, KEYS.iter().map(|k| k.name))
                    .map_or_else(String::new, |n| {
                        format!("; did you mean CHAT_PROXY_{}?", n.to_ascii_uppercase())
                    });
                self.problem(name, format!("there is no such setting{near}"));
            }
        }
        if !links.is_empty() {
            links.sort_unstable();
            let message =
                "ignored: these look like service links of a container platform".to_owned();
            self.warnings.push(Problem { place: links.join(", "), message });
        }
    }

    fn read_variable(&mut self, spec: &'static KeySpec, name: &str, text: &str) {
        match parse::from_env(spec, text) {
            Ok(Some(value)) => self.env.set(spec.path(), value, Origin::Env(name.to_owned())),
            Ok(None) => {}
            Err(message) => self.problem(name, message),
        }
    }

    fn finish(mut self) -> Result<Loaded, Vec<Problem>> {
        let mut origins: BTreeMap<&'static str, Origin> = BTreeMap::new();
        for spec in KEYS {
            let path = spec.path();
            // The last one of a layer counts, as it does when the layers are merged.
            let of = |layer: &'_ Layer| {
                let set = layer.values.iter().rev().find(|(p, ..)| *p == path);
                set.map(|(_, _, origin)| origin.clone())
            };
            let set = of(&self.env).or_else(|| of(&self.file));
            origins.insert(spec.name, set.unwrap_or(Origin::Default));
        }
        let merged = Config::builder()
            .add_source(defaults())
            .add_source(self.file.clone())
            .add_source(self.env.clone())
            .build();
        let settings = merged.map_err(|error| {
            vec![Problem { place: "settings".to_owned(), message: error.to_string() }]
        });
        let settings = settings.and_then(|all| {
            let raw = raw(&all);
            Ok((typed(&raw, &origins)?, raw))
        });
        match settings {
            Ok((settings, raw)) if self.problems.is_empty() => Ok(Loaded {
                settings,
                values: shown::all(&raw),
                file: self.file.shown(|spec, _| spec.name),
                env_overrides: self.env.shown(|_, origin| match origin {
                    Origin::Env(name) => name.clone(),
                    other => other.to_string(),
                }),
                origins,
                warnings: self.warnings,
                raw,
            }),
            Ok(_) => Err(self.problems),
            Err(more) => {
                self.problems.extend(more);
                Err(self.problems)
            }
        }
    }
}

/// Merged values by key; null: unset.
fn raw(all: &Config) -> BTreeMap<&'static str, Json> {
    KEYS.iter().map(|spec| (spec.name, all.get(&spec.path()).unwrap_or_default())).collect()
}

/// The key that `name` means in `section`, or what is wrong with it there.
pub(super) fn place_key(section: &str, name: &str) -> Result<&'static KeySpec, String> {
    let aliased = KEY_ALIASES.iter().find(|(alias, _)| *alias == name).map(|(_, key)| *key);
    let home = spec(aliased.unwrap_or(name));
    match home {
        Some(spec) if spec.section == section || LEGACY_SECTIONS.contains(&section) => Ok(spec),
        Some(spec) if aliased.is_none() => {
            Err(format!("{name} belongs in [{}], not in [{section}]", spec.section))
        }
        _ => {
            let candidates =
                KEYS.iter().filter(|k| k.section == section).chain(KEYS).map(|k| k.name);
            let near = nearest(name, candidates).map_or_else(String::new, |n| {
                let place = spec(n).map_or("", |s| s.section);
                format!("; did you mean {n} in [{place}]?")
            });
            Err(format!("there is no key {name}{near}"))
        }
    }
}

pub(super) fn is_section(name: &str) -> bool {
    LEGACY_SECTIONS.contains(&name) || KEYS.iter().any(|spec| spec.section == name)
}

fn unknown_section(name: &str) -> String {
    if let Some(spec) = spec(name) {
        return format!("{name} belongs in [{}]", spec.section);
    }
    let near = nearest(name, KEYS.iter().map(|k| k.section))
        .map_or_else(String::new, |n| format!("; did you mean [{n}]?"));
    format!("there is no section [{name}]{near}")
}

/// What was probably meant.
pub(crate) fn nearest<'a>(
    name: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    candidates
        .map(|known| (strsim::jaro_winkler(name, known), known))
        .filter(|(score, _)| *score > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known)
}

/// Variables that Docker links and Kubernetes services put into every container (SPEC 3.1).
fn is_service_link(name: &str, text: &str) -> bool {
    let rest = name.strip_prefix("CHAT_PROXY_").unwrap_or_default();
    let numbered =
        rest.strip_prefix("PORT_").is_some_and(|r| r.starts_with(|c: char| c.is_ascii_digit()));
    rest.starts_with("SERVICE_") || numbered || (rest == "PORT" && text.starts_with("tcp://"))
}

/// Line of a place in the text, counted from 1.
pub(super) fn line_of(text: &str, span: Option<Range<usize>>) -> usize {
    let end = span.map_or(0, |s| s.start).min(text.len());
    text.as_bytes()[..end].iter().filter(|b| **b == b'\n').count() + 1
}

fn defaults() -> Layer {
    let mut layer = Layer::default();
    for spec in KEYS.iter().filter(|spec| !spec.default.is_empty()) {
        let text = format!("v = {}", spec.default);
        let parsed = Document::parse(text.as_str()).ok();
        let value =
            parsed.and_then(|d| parse::from_toml(spec, d.as_table().get("v")?).ok().flatten());
        // Every default parses: a test goes through them all.
        if let Some(value) = value {
            layer.set(spec.path(), value, Origin::Default);
        }
    }
    layer
}
