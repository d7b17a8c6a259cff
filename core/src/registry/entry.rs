//! One entry of the registry, read with tolerance (SPEC 4.2).
//!
//! Owns: the fields that we use, typed. Must never do: refuse an entry for what real files do
//! (nulls, the string "None", objects for bools, port 0, hosts with a scheme); unknown fields are
//! kept in the layers, and so in the merged file.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::capabilities::Capabilities;
use super::keeping::Keeping;
use super::policy::EntryPolicy;
use super::roles::RoleFacts;
use super::truth::is_truthy;

/// One model.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The logical name: unique, used in logs and metrics.
    pub name: String,
    /// The name that people see, if it has one of its own.
    pub display_name: Option<String>,
    /// The backend's kind, lower case: `vllm`, `ollama`, `lmdeploy`, `triton`, `gguf`, `openai`, …
    pub backend: String,
    /// Where and how the backend runs.
    pub backend_config: BackendConfig,
    /// The id that the backend knows the model by, where it is not the logical name.
    pub served_model_id: Option<String>,
    /// Other names for it.
    pub model_aliases: Vec<String>,
    /// What it can do.
    pub capabilities: Capabilities,
    /// Its quantisation, such as `Q4_K_M`.
    pub quantization: Option<String>,
    /// Not listed any more, but still answering.
    pub deprecated: bool,
    /// `metadata.testing`: a fixture, listed only with `include_test_models`.
    pub testing: bool,
    /// When it was downloaded, as the file says it.
    pub downloaded_at: Option<String>,
    /// Deployment profiles that it belongs to; empty: all.
    pub profiles: Vec<String>,
    /// What it is for.
    pub roles: Vec<String>,
    /// Form of its files, such as `gguf` or `awq`.
    pub download_format: Option<String>,
    /// Where its files are.
    pub download_path: Option<String>,
    /// Their size in bytes.
    pub download_size_bytes: Option<u64>,
    /// How much it can read, in tokens.
    pub context_window: Option<u64>,
    /// Its chat template.
    pub chat_template: ChatTemplate,
    /// `metadata.pricing`.
    pub pricing: Option<Pricing>,
    /// How its model is kept when nobody uses it.
    pub keeping: Keeping,
    /// What is to be done with requests to it.
    pub policy: EntryPolicy,
    /// `metadata.ollama_capabilities`: what Ollama has said that it can do; empty: not known.
    pub ollama_capabilities: Vec<String>,
    /// How good it is at what, and what it needs of the GPU.
    pub role_facts: RoleFacts,
}

/// Prices of a million tokens, in whatever currency the registry is kept in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pricing {
    /// Of prompts.
    pub input_per_mtok: f64,
    /// Of answers.
    pub output_per_mtok: f64,
}

impl Pricing {
    /// Prices that are no numbers count as none.
    fn of(metadata: &Map<String, Value>) -> Option<Pricing> {
        let pricing = metadata.get("pricing")?.as_object()?;
        let price = |name: &str| pricing.get(name).and_then(Value::as_f64).unwrap_or(0.0);
        let found = Pricing {
            input_per_mtok: price("input_per_mtok"),
            output_per_mtok: price("output_per_mtok"),
        };
        (found.input_per_mtok > 0.0 || found.output_per_mtok > 0.0).then_some(found)
    }

    /// What so many tokens cost.
    #[allow(clippy::cast_precision_loss)] // token counts are small
    pub fn cost(self, prompt_tokens: u64, completion_tokens: u64) -> f64 {
        let (prompt, completion) = (prompt_tokens as f64, completion_tokens as f64);
        (prompt * self.input_per_mtok + completion * self.output_per_mtok) / 1e6
    }
}

/// `chat_template`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ChatTemplate {
    /// `embedded`, `external` or `none`.
    #[serde(deserialize_with = "text")]
    pub source: Option<String>,
    /// The template's file, absolute or below `template_dir`.
    #[serde(deserialize_with = "text")]
    pub path: Option<String>,
}

/// `backend_config`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct BackendConfig {
    /// Port of the backend; 0 counts as none.
    #[serde(deserialize_with = "port")]
    pub port: Option<u16>,
    /// Host of the backend, perhaps with a scheme before it.
    #[serde(deserialize_with = "text")]
    pub host: Option<String>,
    /// Full address; goes before host and port.
    #[serde(deserialize_with = "text")]
    pub base_url: Option<String>,
    /// Name of the variable that holds the backend's key.
    #[serde(deserialize_with = "text")]
    pub api_key_env: Option<String>,
    /// A file with the certificate authority of an HTTPS backend.
    #[serde(deserialize_with = "text")]
    pub ca_file: Option<String>,
    /// Where the model's files are.
    #[serde(deserialize_with = "text")]
    pub model_path: Option<String>,
    /// Further arguments of an engine that we start.
    #[serde(deserialize_with = "arguments")]
    pub extra_args: Vec<String>,
    /// Its environment; `None` unsets a variable.
    #[serde(deserialize_with = "environment")]
    pub env: BTreeMap<String, Option<String>>,
    /// From its spawn to ready.
    #[serde(rename = "start_timeout_s", deserialize_with = "seconds")]
    pub start_timeout: Option<Duration>,
    /// Whether it uses the GPU of this machine, where the file says so.
    #[serde(deserialize_with = "maybe_truth")]
    pub uses_gpu: Option<bool>,
    /// Ollama's options.
    #[serde(deserialize_with = "loose_map")]
    pub options: Map<String, Value>,
    /// How long Ollama keeps it loaded: seconds, or a duration such as `10m`.
    #[serde(deserialize_with = "some_value")]
    pub keep_alive: Option<Value>,
    /// Whether it thinks at Ollama where the client does not say: a bool or a level.
    #[serde(deserialize_with = "some_value")]
    pub think: Option<Value>,
}

/// The fields of an entry that need no cleaning beyond their own deserializer.
#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Wire {
    #[serde(deserialize_with = "text")]
    name: Option<String>,
    #[serde(deserialize_with = "loose_text")]
    display_name: Option<String>,
    #[serde(deserialize_with = "text")]
    backend: Option<String>,
    #[serde(deserialize_with = "or_default")]
    backend_config: BackendConfig,
    #[serde(deserialize_with = "text")]
    served_model_id: Option<String>,
    #[serde(deserialize_with = "texts")]
    model_aliases: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    capabilities: Value,
    #[serde(deserialize_with = "loose_text")]
    quantization: Option<String>,
    #[serde(deserialize_with = "truth")]
    deprecated: bool,
    #[serde(deserialize_with = "loose_map")]
    metadata: Map<String, Value>,
    #[serde(deserialize_with = "loose_text")]
    downloaded_at: Option<String>,
    #[serde(deserialize_with = "texts")]
    roles: Vec<String>,
    #[serde(deserialize_with = "loose_text")]
    download_format: Option<String>,
    #[serde(deserialize_with = "loose_text")]
    download_path: Option<String>,
    download_size_bytes: Value,
    #[serde(deserialize_with = "loose_map")]
    generation_defaults: Map<String, Value>,
    #[serde(deserialize_with = "loose_map")]
    probes: Map<String, Value>,
    role_priority: Value,
    vram_estimate_mb: Value,
    #[serde(deserialize_with = "or_default")]
    chat_template: ChatTemplate,
}

/// Names that mean something else and can be no model's.
pub const RESERVED_NAMES: &str = "`resident` and names that begin with `role:` are reserved";

/// Whether a name is reserved (SPEC 4.5).
pub fn is_reserved(name: &str) -> bool {
    name == "resident" || name.starts_with("role:")
}

impl Entry {
    /// Reads an entry; the error says what is wrong with it, in the words of the file.
    pub fn parse(object: &Map<String, Value>) -> Result<Entry, String> {
        let wire = Wire::deserialize(object).map_err(|e| e.to_string())?;
        let name = wire.name.ok_or("`name` is missing")?;
        if is_reserved(&name) {
            return Err(format!("`name` is {name:?}; {RESERVED_NAMES}"));
        }
        let backend = wire.backend.ok_or("`backend` is missing")?.to_ascii_lowercase();
        Ok(Entry {
            testing: wire.metadata.get("testing").is_some_and(is_truthy),
            profiles: texts_of(wire.metadata.get("profiles")),
            pricing: Pricing::of(&wire.metadata),
            keeping: Keeping::of(&wire.metadata)?,
            ollama_capabilities: texts_of(wire.metadata.get("ollama_capabilities")),
            capabilities: Capabilities::read(&wire.capabilities, &wire.metadata),
            name,
            display_name: wire.display_name,
            backend,
            backend_config: wire.backend_config,
            served_model_id: wire.served_model_id.filter(|id| id != "None"),
            model_aliases: wire.model_aliases,
            quantization: wire.quantization,
            deprecated: wire.deprecated,
            downloaded_at: wire.downloaded_at,
            role_facts: RoleFacts::of(&wire.role_priority, &wire.vram_estimate_mb, &wire.roles),
            roles: wire.roles,
            download_format: wire.download_format,
            download_path: wire.download_path,
            download_size_bytes: count(Some(&wire.download_size_bytes)),
            context_window: count(wire.generation_defaults.get("context_window")),
            policy: EntryPolicy::of(
                &wire.metadata,
                &wire.capabilities,
                &wire.probes,
                wire.generation_defaults,
            )?,
            chat_template: wire.chat_template,
        })
    }

    /// What an engine is told to load: where the files are, else the name that its backend knows.
    pub fn source(&self) -> &str {
        let paths = [&self.backend_config.model_path, &self.download_path];
        paths.into_iter().flatten().next().map_or(self.served_id(), String::as_str)
    }

    /// Whether a deployment profile shows it; an empty name is every profile.
    pub fn belongs_to(&self, deployment: &str) -> bool {
        deployment.is_empty()
            || self.profiles.is_empty()
            || self.profiles.iter().any(|p| p.eq_ignore_ascii_case(deployment))
    }

    /// The id to send to the backend.
    pub fn served_id(&self) -> &str {
        self.served_model_id.as_deref().unwrap_or(&self.name)
    }

    /// The name that people see.
    pub fn display(&self) -> &str {
        self.display_name.as_deref().unwrap_or(&self.name)
    }
}

/// A list of texts, or one.
fn texts_of(value: Option<&Value>) -> Vec<String> {
    match value {
        Some(Value::Array(list)) => {
            list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
        }
        Some(Value::String(one)) => vec![one.clone()],
        _ => Vec::new(),
    }
}

/// A whole number, also where a tool wrote it as a float or a text.
fn count(value: Option<&Value>) -> Option<u64> {
    match value? {
        Value::Number(number) => number.as_u64().or_else(|| number.as_f64().and_then(whole)),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// A string; `null`, blank and missing are all `None`.
fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    Ok(text.map(|t| t.trim().to_owned()).filter(|t| !t.is_empty()))
}

/// A text that nothing depends on: numbers are taken as text, all else as nothing.
fn loose_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Value::deserialize(deserializer).map(|value| text_of(&value))
}

fn text_of(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text.trim().to_owned(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    Some(text).filter(|text| !text.is_empty())
}

/// A list of texts; what is none is skipped, and one text counts as a list of one.
fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::Array(list) => list.iter().filter_map(text_of).collect(),
        one => text_of(&one).into_iter().collect(),
    })
}

/// A list of texts and numbers, or one text that is split as a shell would.
fn arguments<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::String(line) => shell_words::split(&line)
            .map_err(|e| serde::de::Error::custom(format!("extra_args {line:?}: {e}"))),
        Value::Array(list) => Ok(list.iter().filter_map(text_of).collect()),
        _ => Ok(Vec::new()),
    }
}

/// Names to texts; numbers and bools are taken as text, `null` unsets.
fn environment<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, Option<String>>, D::Error> {
    let mut environment = BTreeMap::new();
    for (name, value) in loose_map(deserializer)? {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(serde::de::Error::custom(format!("env: {name:?} is no variable's name")));
        }
        let value = match value {
            Value::Null => None,
            Value::String(text) => Some(text),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(yes) => Some(yes.to_string()),
            _ => return Err(serde::de::Error::custom(format!("env: {name} must be a text"))),
        };
        environment.insert(name, value);
    }
    Ok(environment)
}

/// A positive number of seconds; anything else says nothing.
fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let seconds = match Value::deserialize(deserializer)? {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    let positive = seconds.filter(|seconds| *seconds > 0.0);
    Ok(positive.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()))
}

/// An object; anything else counts as an empty one.
fn loose_map<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Map<String, Value>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::Object(map) => map,
        _ => Map::new(),
    })
}

fn truth<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Value::deserialize(deserializer).map(|value| is_truthy(&value))
}

fn maybe_truth<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<bool>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    Ok((!value.is_null()).then(|| is_truthy(&value)))
}

/// Numbers and bools also where they are written as texts; `null` and blank are none.
fn some_value<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::Null => None,
        Value::String(text) if text.trim().is_empty() => None,
        Value::String(text) => Some(super::ollama::typed(text.trim())),
        value => Some(value),
    })
}

fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// A port as number or string; 0, `null` and blank are none.
fn port<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u16>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    let number = match &value {
        Value::Null => return Ok(None),
        Value::Number(number) => number.as_u64().or_else(|| number.as_f64().and_then(whole)),
        Value::String(text) if matches!(text.trim(), "" | "None" | "null") => return Ok(None),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    match number.and_then(|n| u16::try_from(n).ok()) {
        Some(0) => Ok(None),
        Some(port) => Ok(Some(port)),
        None => {
            Err(serde::de::Error::custom(format!("port {value} is not a number from 1 to 65535")))
        }
    }
}

/// 24001.0 is a port too: some tools write every number as a float.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // checked: whole and in range
fn whole(number: f64) -> Option<u64> {
    (number.fract() == 0.0 && (0.0..=9.0e15).contains(&number)).then_some(number as u64)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn parse(value: &Value) -> Result<Entry, String> {
        Entry::parse(value.as_object().unwrap())
    }

    #[test]
    fn sloppy_entries_load() {
        let entry = parse(&json!({
            "name": " qwen ", "backend": "VLLM", "display_name": null, "served_model_id": "None",
            "backend_config": {"port": 0, "host": null, "extra_args": null, "base_url": ""},
            "model_aliases": ["q", null, ""], "capabilities": null, "metadata": null,
            "deprecated": null, "quantization": "", "probes": null, "mystery": [1, 2]
        }))
        .unwrap();
        assert_eq!(entry.name, "qwen");
        assert_eq!(entry.backend, "vllm");
        assert_eq!(entry.served_id(), "qwen");
        assert_eq!(entry.display(), "qwen");
        assert_eq!(entry.backend_config, BackendConfig::default());
        assert_eq!(entry.model_aliases, ["q"]);
    }

    #[test]
    fn a_missing_or_null_backend_config_and_ports_of_all_sorts() {
        for (config, want) in [
            (json!(null), Some(None)),
            (json!({"port": 24001}), Some(Some(24001))),
            (json!({"port": "8000"}), Some(Some(8000))),
            (json!({"port": 8000.0}), Some(Some(8000))),
            (json!({"port": "0"}), Some(None)),
            (json!({"port": 70000}), None),
            (json!({"port": "x"}), None),
        ] {
            let entry = parse(&json!({"name": "a", "backend": "gguf", "backend_config": config}));
            assert_eq!(entry.ok().map(|e| e.backend_config.port), want, "{config}");
        }
    }

    #[test]
    fn what_cannot_be_an_entry_says_why() {
        for (value, why) in [
            (json!({"backend": "vllm"}), "`name` is missing"),
            (json!({"name": "a"}), "`backend` is missing"),
            (json!({"name": {"a": 1}, "backend": "vllm"}), "string"),
            (json!({"name": "resident", "backend": "vllm"}), "reserved"),
            (json!({"name": "role:x", "backend": "vllm"}), "reserved"),
            (json!({"name": "a", "backend": "x", "backend_config": {"port": 99999}}), "65535"),
        ] {
            let error = parse(&value).unwrap_err();
            assert!(error.contains(why), "{value}: {error}");
        }
    }

    #[test]
    fn odd_values_of_fields_that_nothing_depends_on_cost_no_model() {
        let entry = parse(&json!({
            "name": "a", "backend": "gguf", "backend_config": {"port": "None"}, "metadata": [],
            "downloaded_at": 1_700_000_000, "quantization": 4, "display_name": true,
            "model_aliases": ["x", 7, {}, null]
        }))
        .unwrap();
        assert_eq!((entry.display(), entry.quantization.as_deref()), ("a", Some("4")));
        assert_eq!(entry.model_aliases, ["x", "7"]);
    }

    #[test]
    fn prices_are_read_and_costs_counted() {
        let pricing = |value: Value| {
            parse(&json!({"name": "a", "backend": "vllm", "metadata": {"pricing": value}}))
                .unwrap()
                .pricing
        };
        let found = pricing(json!({"input_per_mtok": 2, "output_per_mtok": 10.0})).unwrap();
        assert!((found.cost(500_000, 100_000) - 2.0).abs() < 1e-9);
        assert_eq!(pricing(json!(null)), None);
        assert_eq!(pricing(json!({"input_per_mtok": "x"})), None);
    }

    #[test]
    fn testing_and_deprecated_are_read_in_every_spelling() {
        let entry = parse(&json!({
            "name": "a", "backend": "vllm", "deprecated": "true", "metadata": {"testing": {"enabled": true}}
        }))
        .unwrap();
        assert!(entry.testing && entry.deprecated);
    }
}
