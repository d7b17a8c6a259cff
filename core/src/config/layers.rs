//! One layer of settings with the place that each value came from.
//!
//! Owns: the bridge to the `config` crate, which merges layers and types the result. Must never
//! do: decide what is valid.

use std::collections::BTreeMap;
use std::fmt;

use config::{ConfigError, Map, Source, Value};
use serde_json::Value as Json;

use super::keys::{KEYS, KeySpec};
use super::shown;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// The file, at this line.
    File {
        /// As it was named.
        path: String,
        /// Counted from 1.
        line: usize,
    },
    /// A variable of the environment.
    Env(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File { path, line } => write!(f, "{path}:{line}"),
            Origin::Env(name) => write!(f, "env {name}"),
        }
    }
}

/// Checked values by `section.name`.
#[derive(Debug, Clone, Default)]
pub(super) struct Layer {
    pub(super) values: Vec<(String, Value, Origin)>,
}

impl Layer {
    pub(super) fn set(&mut self, path: String, kind: config::ValueKind, origin: Origin) {
        let value = Value::new(Some(&origin.to_string()), kind);
        self.values.push((path, value, origin));
    }
}

impl Layer {
    /// What it says, secrets redacted, under whatever name `key` gives it.
    pub(super) fn shown<K: Ord>(
        &self,
        key: impl Fn(&'static KeySpec, &Origin) -> K,
    ) -> BTreeMap<K, Json> {
        let one = |(path, value, origin): &(String, Value, Origin)| {
            let spec = KEYS.iter().find(|spec| spec.path() == *path)?;
            let value = value.clone().try_deserialize().ok()?;
            Some((key(spec, origin), shown::redact(spec, value)))
        };
        self.values.iter().filter_map(one).collect()
    }
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        Ok(self.values.iter().map(|(path, value, _)| (path.clone(), value.clone())).collect())
    }
}
