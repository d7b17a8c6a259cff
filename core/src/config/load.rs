//! Layers into settings: defaults, then the file, then the environment (SPEC 3.1).
//!
//! Owns: the walk over sections and variables, with a place for every problem. Must never do:
//! stop at the first problem.

use std::collections::BTreeMap;
use std::ops::Range;

use config::Config;
use toml_edit::{Document, Item, Key, TableLike};

use super::keys::{KEYS, KeySpec, Kind, Settings};
use super::layers::{Layer, Origin};
use super::{Problem, check, parse};

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
    /// Effective values as JSON text by key, secrets redacted; `None`: unset.
    pub values: BTreeMap<&'static str, Option<String>>,
    /// What is odd but harmless.
    pub warnings: Vec<Problem>,
}

/// Variables with a meaning of their own beside the keys.
const OTHER_VARIABLES: &[&str] = &["CHAT_PROXY_CONFIG_FILE"];

/// Second names of variables (SPEC 3.2).
const VARIABLE_ALIASES: &[(&str, &str)] =
    &[("IMAGEWORKS_REGISTRY_DIR", "registry_dir"), ("IMAGEWORKS_DEPLOYMENT_PROFILE", "profile")];

/// Names that existing files use (SPEC 12), and prefix-free ones of `[vllm]` (SPEC 3.2).
const KEY_ALIASES: &[(&str, &str)] = &[
    ("autostart_map_raw", "autostart_map"),
    ("vllm_remote_executor_url", "vllm_remote_url"),
    ("vllm_executor_workdir", "vllm_executor_cwd"),
    ("command", "vllm_command"),
    ("env", "vllm_env"),
];

/// Existing files keep keys of the original in these, whatever their section is now.
const LEGACY_SECTIONS: &[&str] = &["general", "misc"];

/// Reads all layers. `Err` holds every problem there is.
pub fn load(input: &Input) -> Result<Loaded, Vec<Problem>> {
    let mut reader = Reader::default();
    if let Some((path, text)) = &input.file {
        reader.read_file(path, text);
    }
    reader.read_env(&input.env);
    reader.finish()
}

#[derive(Default)]
struct Reader {
    file: Layer,
    env: Layer,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
}

fn spec(name: &str) -> Option<&'static KeySpec> {
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
        let typed = merged.and_then(|all| Ok((values(&all), all.try_deserialize::<Settings>()?)));
        match typed {
            Ok((values, settings)) => {
                check::together(&settings, &origins, &mut self.problems);
                if self.problems.is_empty() {
                    return Ok(Loaded { settings, origins, values, warnings: self.warnings });
                }
            }
            // The kinds have been checked key by key, so this is about a table's inside.
            Err(error) if self.problems.is_empty() => self.problem("settings", error.to_string()),
            Err(_) => {}
        }
        Err(self.problems)
    }
}

/// The key that `name` means in `section`, or what is wrong with it there.
fn place_key(section: &str, name: &str) -> Result<&'static KeySpec, String> {
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

fn is_section(name: &str) -> bool {
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

fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
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
fn line_of(text: &str, span: Option<Range<usize>>) -> usize {
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

/// Effective values for people, without secrets.
fn values(all: &Config) -> BTreeMap<&'static str, Option<String>> {
    let shown = |spec: &KeySpec| {
        let value: serde_json::Value = all.get(&spec.path()).ok()?;
        Some(redact(spec, value).to_string())
    };
    KEYS.iter().map(|spec| (spec.name, shown(spec))).collect()
}

fn redact(spec: &KeySpec, value: serde_json::Value) -> serde_json::Value {
    use serde_json::Value as Json;
    match (spec.kind, value) {
        (Kind::ApiKeys, Json::Array(keys)) => {
            let hide = |mut key: Json| {
                for field in ["key", "key_sha256"] {
                    if let Some(secret) = key.get_mut(field) {
                        *secret = Json::from("***");
                    }
                }
                key
            };
            Json::Array(keys.into_iter().map(hide).collect())
        }
        (Kind::Map, Json::Object(map)) => {
            Json::Object(map.into_iter().map(|(name, _)| (name, Json::from("***"))).collect())
        }
        (Kind::Services, mut services) => {
            services
                .as_object_mut()
                .into_iter()
                .flat_map(|map| map.values_mut())
                .for_each(hide_service);
            services
        }
        (Kind::Text, Json::String(text)) if spec.name == "autostart_map" => {
            Json::from(without_secrets_of_services(&text))
        }
        (Kind::Text, Json::String(text)) => Json::from(without_password(&text)),
        (_, value) => value,
    }
}

/// What a service's table says that is nobody's business.
fn hide_service(table: &mut serde_json::Value) {
    let env = table.get_mut("env").and_then(serde_json::Value::as_object_mut);
    for value in env.into_iter().flat_map(|env| env.values_mut()) {
        *value = "***".into();
    }
    if let Some(url) = table.get_mut("ready_url")
        && let Some(text) = url.as_str()
    {
        // A name alone may be a token.
        *url = without_userinfo(text).into();
    }
}

/// The map's JSON form has tables in it; what cannot be read may have anything.
fn without_secrets_of_services(map: &str) -> String {
    if !map.trim_start().starts_with('{') {
        return map.to_owned();
    }
    let Ok(mut services) = serde_json::from_str::<serde_json::Value>(map) else {
        return "***".to_owned();
    };
    services.as_object_mut().into_iter().flat_map(|map| map.values_mut()).for_each(hide_service);
    services.to_string()
}

fn without_userinfo(text: &str) -> String {
    match url::Url::parse(text) {
        Ok(mut url) if !url.username().is_empty() || url.password().is_some() => {
            // Neither can fail: an address with these has a host.
            let _ = url.set_password(None);
            let _ = url.set_username("***");
            url.to_string()
        }
        _ => text.to_owned(),
    }
}

/// `http://user:password@host` without the password.
fn without_password(text: &str) -> String {
    match url::Url::parse(text) {
        Ok(mut url) if url.password().is_some() => {
            // Cannot fail: an address with a password has a host.
            let _ = url.set_password(Some("***"));
            url.to_string()
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// How a setting is shown.
    fn shown(toml: &str, key: &str) -> String {
        let file = Some(("chat_proxy.toml".into(), toml.to_owned()));
        let loaded = load(&Input { file, env: Vec::new() }).unwrap();
        loaded.values[key].clone().unwrap_or_default()
    }

    #[test]
    fn what_services_are_given_to_keep_is_not_shown_in_the_table_nor_in_the_map() {
        let table =
            "command = [\"serve\"], env = { A = \"hush\" }, ready_url = \"http://hush@h:1/x\"";
        let services =
            shown(&format!("[autostart]\nservices = {{ s = {{ {table} }} }}"), "services");
        let map = r#"{"m": {"command": ["serve"], "env": {"A": "hush"}, "ready_url": "http://a:hush@h:1/x"}, "n": ["serve"]}"#;
        let map = shown(&format!("[autostart]\nautostart_map = '{map}'"), "autostart_map");
        for text in [services, map] {
            assert!(!text.contains("hush"), "{text}");
            assert!(text.contains("serve") && text.contains("***@h:1/x"), "{text}");
        }
        assert_eq!(without_secrets_of_services("{\"m\": hush"), "***");
        let plain = shown("[autostart]\nautostart_map = \"gguf:m, shell:n\"", "autostart_map");
        assert_eq!(plain, "\"gguf:m, shell:n\"");
    }
}
