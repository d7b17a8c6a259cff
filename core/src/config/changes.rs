//! A partial change of the settings, as `PUT /v1/config/chat-proxy` brings it (SPEC 3.3, 12).
//!
//! Owns: which keys a flat object means, which of them really change, and whether each value could be
//! one. Must never do: take the placeholder of a secret for a secret.

use serde_json::{Map, Value as Json};
use toml_edit::{Array, InlineTable, Item, Value as Toml};

use super::keys::{KEYS, KeySpec};
use super::load::{Loaded, nearest, spec};
use super::shown::PLACEHOLDER;
use super::{Problem, parse};

/// Second names that clients of the original use (SPEC 12).
pub const LEGACY_NAMES: &[(&str, &str)] = &[
    ("autostart_map_raw", "autostart_map"),
    ("vllm_remote_executor_url", "vllm_remote_url"),
    ("vllm_executor_workdir", "vllm_executor_cwd"),
];

/// Keys and the values that the file is to give them, each checked by itself.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    /// `None`: the file says nothing of it any more.
    pub(super) keys: Vec<(&'static KeySpec, Option<Item>)>,
}

impl Changes {
    /// Reads a flat object, `key: value`; sections may stand around keys too. `null`, and `""` where
    /// a key may be unset, take a key out of the file. Keys that have that value already, as `known`
    /// shows it, are left out: forms send back all that they were given. `Err` holds every problem.
    pub fn read(object: &Map<String, Json>, known: &Loaded) -> Result<Self, Vec<Problem>> {
        let (mut changes, mut problems) = (Changes::default(), Vec::new());
        for (name, value) in object {
            changes.read_one(name, value, known, &mut problems);
        }
        if problems.is_empty() { Ok(changes) } else { Err(problems) }
    }

    /// The names of the keys.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.specs().map(|spec| spec.name)
    }

    /// The keys.
    pub fn specs(&self) -> impl Iterator<Item = &'static KeySpec> {
        self.keys.iter().map(|(spec, _)| *spec)
    }

    fn read_one(&mut self, name: &str, value: &Json, known: &Loaded, problems: &mut Vec<Problem>) {
        let mut say = |message: String| {
            problems.push(Problem { place: name.to_owned(), message });
        };
        let meant = LEGACY_NAMES.iter().find(|(old, _)| *old == name).map_or(name, |(_, new)| new);
        let Some(spec) = spec(meant) else {
            if let (Some(section), true) = (value.as_object(), is_section(name)) {
                for (key, value) in section {
                    self.read_one(key, value, known, problems);
                }
                return;
            }
            let near = nearest(meant, KEYS.iter().map(|key| key.name));
            let near = near.map_or_else(String::new, |near| format!("; did you mean {near}?"));
            return say(format!("there is no such setting{near}"));
        };
        if is_known(spec, value, known) {
            return;
        }
        match new_item(spec, value) {
            Ok(item) => match self.keys.iter().find(|(other, _)| other.name == spec.name) {
                Some((_, other)) if text(other.as_ref()) != text(item.as_ref()) => {
                    say(format!("{} is given twice, with two values", spec.name));
                }
                Some(_) => {}
                None => self.keys.push((spec, item)),
            },
            Err(message) => say(message),
        }
    }
}

/// Whether the file has this value already, or does not name the key and the value is in force.
fn is_known(spec: &KeySpec, value: &Json, known: &Loaded) -> bool {
    let unset = Json::Null;
    let is = |shown: &Json| same(shown, value) || (shown.is_null() && is_unset(spec, value));
    match known.file.get(spec.name) {
        Some(shown) => is(shown),
        None => is(known.values.get(spec.name).unwrap_or(&unset)) || value.is_null(),
    }
}

/// Whether two values are one; 30 and 30.0 are.
fn same(one: &Json, other: &Json) -> bool {
    one == other
        || matches!((one.as_f64(), other.as_f64()), (Some(a), Some(b)) if a.total_cmp(&b).is_eq())
}

fn is_unset(spec: &KeySpec, value: &Json) -> bool {
    value.is_null() || (spec.may_be_unset() && value.as_str() == Some(""))
}

/// What the file is to say; `None`: nothing.
pub(super) fn new_item(spec: &KeySpec, value: &Json) -> Result<Option<Item>, String> {
    if is_unset(spec, value) {
        return Ok(None);
    }
    if holds_placeholder(value) {
        return Err(format!(
            "{PLACEHOLDER} stands for a secret that is not shown; send the whole new value, or leave the key out"
        ));
    }
    let item = Item::Value(toml(value).ok_or("null stands inside of it; leave out what is unset")?);
    parse::from_toml(spec, &item)?;
    Ok(Some(item))
}

fn holds_placeholder(value: &Json) -> bool {
    match value {
        Json::String(text) => text.contains(PLACEHOLDER),
        Json::Array(list) => list.iter().any(holds_placeholder),
        Json::Object(map) => map.values().any(holds_placeholder),
        _ => false,
    }
}

/// A JSON value as TOML; `None` if there is a null in it.
fn toml(value: &Json) -> Option<Toml> {
    Some(match value {
        Json::Null => return None,
        Json::Bool(yes) => Toml::from(*yes),
        Json::Number(number) => match number.as_i64() {
            Some(whole) => Toml::from(whole),
            None => Toml::from(number.as_f64()?),
        },
        Json::String(text) => Toml::from(text.as_str()),
        Json::Array(list) => Toml::from(list.iter().map(toml).collect::<Option<Array>>()?),
        Json::Object(map) => {
            let pairs = map.iter().map(|(name, value)| Some((name.as_str(), toml(value)?)));
            Toml::from(pairs.collect::<Option<InlineTable>>()?)
        }
    })
}

fn is_section(name: &str) -> bool {
    KEYS.iter().any(|spec| spec.section == name)
}

fn text(item: Option<&Item>) -> Option<String> {
    item.map(ToString::to_string)
}
