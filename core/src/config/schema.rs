//! The JSON Schema of the settings file, from the table of keys.
//!
//! Owns: each kind's schema. Must never do: say more or less than `parse` checks.

use serde_json::{Map, Value as Json, json};

use super::keys::{Applies, KEYS, KeySpec, Kind};

/// Draft 2020-12; for editors and tools, as `config-schema` prints it.
pub fn schema() -> Json {
    let mut sections = Map::new();
    for spec in KEYS {
        let section = sections.entry(spec.section).or_insert_with(
            || json!({"type": "object", "additionalProperties": false, "properties": {}}),
        );
        section["properties"][spec.name] = key(spec);
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Settings of the ImageWorks chat proxy",
        "type": "object",
        "additionalProperties": false,
        "properties": sections,
    })
}

fn key(spec: &KeySpec) -> Json {
    let mut schema = kind(spec.kind);
    if spec.may_be_unset() {
        let unset = json!({"const": "", "description": "unset"});
        schema = json!({"anyOf": [schema, unset]});
    }
    let applies = match spec.applies {
        Applies::Live => "A change takes effect at once.",
        Applies::Restart => "A change takes effect with the next start.",
    };
    schema["description"] = format!("{} {applies} Variable: {}.", spec.doc, spec.env()).into();
    if let Some(default) = default(spec) {
        schema["default"] = default;
    }
    schema
}

/// The default as JSON; none where a key is unset by default.
fn default(spec: &KeySpec) -> Option<Json> {
    let text = format!("v = {}", spec.default);
    let document = toml_edit::Document::parse(text.as_str()).ok()?;
    let kind = super::parse::from_toml(spec, document.get("v")?).ok()??;
    config::Value::new(None, kind).try_deserialize().ok()
}

fn kind(kind: Kind) -> Json {
    let texts = json!({"type": "array", "items": {"type": "string"}});
    match kind {
        Kind::Bool => json!({"type": "boolean"}),
        Kind::Int(low, high) => json!({"type": "integer", "minimum": low, "maximum": high}),
        Kind::Float(low, high) => json!({"type": "number", "minimum": low, "maximum": high}),
        Kind::Text => json!({"type": "string"}),
        Kind::List => texts,
        Kind::Choice(words) => json!({"enum": words}),
        Kind::Command => json!({"type": "array", "items": {"type": "string"}, "minItems": 1}),
        Kind::Map => json!({"type": "object", "additionalProperties": {"type": "string"}}),
        Kind::ApiKeys => api_keys(),
        Kind::Services => json!({"type": "object", "additionalProperties": service()}),
    }
}

fn api_keys() -> Json {
    let one_secret =
        ["key", "key_sha256", "key_file", "key_env"].map(|name| json!({"required": [name]}));
    json!({"type": "array", "items": {
        "type": "object",
        "additionalProperties": false,
        "required": ["name"],
        "oneOf": one_secret,
        "properties": {
            "name": {"type": "string"},
            "key": {"type": "string", "minLength": 1},
            "key_sha256": {"type": "string", "pattern": "^[0-9a-fA-F]{64}$"},
            "key_file": {"type": "string"},
            "key_env": {"type": "string"},
            "rights": {"type": "array", "minItems": 1, "items": {"enum": ["chat", "admin"]}},
        },
    }})
}

fn service() -> Json {
    let texts = json!({"type": "array", "items": {"type": "string"}});
    json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["command"],
        "properties": {
            "command": texts,
            "cwd": {"type": "string"},
            "env": {"type": "object", "additionalProperties": {"type": "string"}},
            "ready_url": {"type": "string"},
            "ready_log": {"type": "string"},
            "grace_period_s": {"type": "number"},
            "stop_signal": {"type": "string"},
            "models": texts,
        },
    })
}
