//! An Ollama model as the registry pins it (SPEC 6.2).
//!
//! Owns: where its Ollama is, and the options that decide how it is loaded: they come from here
//! alone, so that two clients' differing wishes cannot make Ollama load it anew. Must never do: ask
//! Ollama.

use serde_json::{Map, Value};
use url::Url;

use super::endpoint::{Endpoint, EndpointRules, with_scheme};
use super::entry::Entry;
use crate::chat::ollama::{Pinned, Think};

/// Ollama's own default port.
const PORT: u16 = 11434;

/// Whether Ollama takes turns at the GPU with the supervised vLLM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sharing {
    /// As its address tells: loopback, its alias, and names without a dot are here.
    #[default]
    Auto,
    /// It does, wherever it is.
    Always,
    /// It does not: it has a machine or a GPU of its own.
    Never,
}

/// What settings have to say about Ollama.
#[derive(Debug, Clone, Default)]
pub struct OllamaRules {
    /// `ollama_base_url`; empty: Ollama's own default.
    pub base_url: String,
    /// `ollama_shares_gpu`.
    pub sharing: Sharing,
    /// `ollama_keep_alive`, for entries that do not say.
    pub keep_alive: Option<Value>,
}

/// One model at Ollama.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OllamaModel {
    /// Where its Ollama answers; the base ends in `/v1`, where its OpenAI routes are.
    pub server: Endpoint,
    /// What Ollama calls it.
    pub tag: String,
    /// Options of the registry: those that decide how it is loaded, and defaults for others.
    pub options: Map<String, Value>,
    /// How long it stays loaded after a request.
    pub keep_alive: Option<Value>,
    /// Whether, and how much, it thinks where the client does not say.
    pub think: Option<Think>,
    /// Known abilities: whether it can think.
    pub can_think: Option<bool>,
    /// Its Ollama takes turns at the GPU with the supervised vLLM.
    pub server_shares_gpu: bool,
    /// So does the model: it is to run on that GPU.
    pub shares_gpu: bool,
    /// It is to run on the GPU.
    pub uses_gpu: bool,
}

impl OllamaModel {
    /// How an entry is asked for; the error names the field at fault.
    pub fn of(entry: &Entry, rules: &EndpointRules) -> Result<OllamaModel, String> {
        let config = &entry.backend_config;
        let server = server_of(entry, rules)?;
        let mut options = config.options.clone();
        let (mut keep_alive, mut think) = (config.keep_alive.clone(), config.think.clone());
        for (name, value) in arguments(&config.extra_args)? {
            match name.as_str() {
                "keep_alive" => keep_alive = Some(value),
                "think" => think = Some(value),
                _ => {
                    options.insert(name, value);
                }
            }
        }
        if let Some(window) = entry.context_window {
            options.entry("num_ctx").or_insert_with(|| Value::from(window));
        }
        let uses_gpu = config.uses_gpu.unwrap_or(true);
        if !uses_gpu {
            options.insert("num_gpu".to_owned(), Value::from(0));
        }
        // Where no vLLM is supervised there is nobody to take turns with.
        let server_shares_gpu = shares(&server, rules) && rules.vllm_single_port;
        Ok(OllamaModel {
            tag: entry.served_id().to_owned(),
            options,
            keep_alive: keep_alive.or_else(|| rules.ollama.keep_alive.clone()),
            think: think.as_ref().map(read_think).transpose()?,
            can_think: can_think(entry),
            server_shares_gpu,
            shares_gpu: server_shares_gpu && uses_gpu,
            uses_gpu,
            server,
        })
    }

    /// What a translated request needs of it.
    pub fn pinned(&self) -> Pinned {
        Pinned {
            tag: self.tag.clone(),
            options: self.options.clone(),
            keep_alive: self.keep_alive.clone(),
            think: self.think,
            can_think: self.can_think,
        }
    }

    /// An address of Ollama's own protocol, such as `/api/chat`.
    pub fn native(&self, path: &str) -> String {
        native(&self.server, path)
    }
}

/// An address of Ollama's own protocol at a server.
pub fn native(server: &Endpoint, path: &str) -> String {
    format!("{}{path}", server.origin())
}

/// How long a model stays loaded, as settings and entries write it: numbers are seconds, else a
/// duration as Ollama reads it.
pub fn keep_alive(text: &str) -> Value {
    typed(text.trim())
}

/// The Ollama of `ollama_base_url`, if it takes turns at the GPU with the supervised vLLM.
pub fn shared_server(rules: &EndpointRules) -> Option<Endpoint> {
    let server = default_server(rules).ok()?;
    (rules.vllm_single_port && shares(&server, rules)).then_some(server)
}

fn shares(server: &Endpoint, rules: &EndpointRules) -> bool {
    match rules.ollama.sharing {
        Sharing::Auto => is_here(server.base(), rules.loopback_alias.as_deref()),
        Sharing::Always => true,
        Sharing::Never => false,
    }
}

/// The Ollama of `ollama_base_url`; the error says what is wrong with it.
pub fn default_server(rules: &EndpointRules) -> Result<Endpoint, String> {
    let text = match rules.ollama.base_url.trim() {
        "" => "http://127.0.0.1:11434",
        text => text,
    };
    server_at("ollama_base_url", &with_scheme(text), None, rules)
}

fn server_of(entry: &Entry, rules: &EndpointRules) -> Result<Endpoint, String> {
    let config = &entry.backend_config;
    let mut server = match (&config.base_url, &config.host) {
        (Some(base), _) => server_at("`backend_config.base_url`", &with_scheme(base), None, rules)?,
        (None, Some(host)) => {
            let port = config.port.unwrap_or(PORT);
            server_at("`backend_config.host`", &with_scheme(host), Some(port), rules)?
        }
        // A bare port is ignored: sloppy files carry vLLM's.
        (None, None) => default_server(rules)?,
    };
    server.api_key_env.clone_from(&config.api_key_env);
    server.ca_file.clone_from(&config.ca_file);
    Ok(server)
}

fn server_at(
    field: &str,
    text: &str,
    port: Option<u16>,
    rules: &EndpointRules,
) -> Result<Endpoint, String> {
    let mut url = super::endpoint::address(field, text)?;
    if let (Some(port), None, "http") = (port, url.port(), url.scheme()) {
        // Cannot fail: the address has a host.
        let _ = url.set_port(Some(port));
    }
    // Its own protocol is beside `/v1`, not below it.
    let path = url.path().trim_end_matches('/');
    let path = format!("{}/v1", path.strip_suffix("/v1").unwrap_or(path));
    url.set_path(&path);
    Endpoint::at(field, url, rules)
}

/// Whether an address is one of this machine, as far as an address can tell: loopback, the alias
/// for it, or a name that container engines give to their host or to a neighbour (no dot in it).
fn is_here(base: &str, alias: Option<&str>) -> bool {
    let Some(host) = Url::parse(base).ok().and_then(|url| url.host_str().map(str::to_owned)) else {
        return true;
    };
    if alias.is_some_and(|alias| alias.eq_ignore_ascii_case(&host)) {
        return true;
    }
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<std::net::IpAddr>() {
        Ok(address) => address.is_loopback() || address.is_unspecified(),
        Err(_) => {
            !host.contains('.')
                || host.ends_with(".localhost")
                || matches!(host.as_str(), "host.docker.internal" | "host.containers.internal")
        }
    }
}

/// `--num-ctx 4096 --num-gpu=35 --use-mmap` as names and values.
fn arguments(args: &[String]) -> Result<Vec<(String, Value)>, String> {
    let mut found = Vec::new();
    let mut rest = args.iter().peekable();
    while let Some(word) = rest.next() {
        let Some(name) = word.strip_prefix("--") else {
            return Err(format!(
                "`backend_config.extra_args`: {word:?} is no option; Ollama's are written --num-ctx 4096"
            ));
        };
        let (name, value) = match name.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (name, rest.next_if(|next| !next.starts_with("--")).map(String::as_str)),
        };
        found.push((name.replace('-', "_"), value.map_or(Value::Bool(true), typed)));
    }
    Ok(found)
}

/// Numbers and bools as such, all else as text.
pub(super) fn typed(text: &str) -> Value {
    match serde_json::from_str::<Value>(text) {
        Ok(value @ (Value::Number(_) | Value::Bool(_))) => value,
        _ => Value::from(text),
    }
}

/// What Ollama has said goes before what people wrote.
fn can_think(entry: &Entry) -> Option<bool> {
    if entry.ollama_capabilities.is_empty() {
        return entry.capabilities.get("reasoning");
    }
    Some(entry.ollama_capabilities.iter().any(|ability| ability == "thinking"))
}

fn read_think(value: &Value) -> Result<Think, String> {
    let found = match value {
        Value::Bool(on) => Some(Think::from(*on)),
        Value::String(word) => match word.to_ascii_lowercase().as_str() {
            "on" => Some(Think::On),
            "off" => Some(Think::Off),
            level => Think::from_effort(level),
        },
        _ => None,
    };
    found.ok_or_else(|| format!("`think` is {value}; use true, false, low, medium, high or max"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn rules() -> EndpointRules {
        EndpointRules { vllm_single_port: true, ..EndpointRules::default() }
    }

    fn model(extra: &Value, rules: &EndpointRules) -> Result<OllamaModel, String> {
        let mut value = json!({"name": "m", "backend": "ollama", "served_model_id": "qwen3:8b"});
        value.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        OllamaModel::of(&Entry::parse(value.as_object().unwrap()).unwrap(), rules)
    }

    fn config(config: &Value) -> Value {
        json!({ "backend_config": config })
    }

    #[test]
    fn its_address_is_the_settings_unless_the_entry_has_one() {
        let cases = [
            ("", json!({}), "http://127.0.0.1:11434/v1"),
            ("", json!({"port": 24001}), "http://127.0.0.1:11434/v1"),
            ("http://box:1", json!({}), "http://box:1/v1"),
            ("http://box:1/v1/", json!({}), "http://box:1/v1"),
            ("http://box/ollama", json!({}), "http://box/ollama/v1"),
            ("http://box:1", json!({"host": "other"}), "http://other:11434/v1"),
            ("http://box:1", json!({"host": "other", "port": 7}), "http://other:7/v1"),
            ("http://box:1", json!({"base_url": "https://far.example"}), "https://far.example/v1"),
        ];
        for (base, entry, want) in cases {
            let mut rules = rules();
            rules.ollama.base_url = base.to_owned();
            let model = model(&config(&entry), &rules).unwrap();
            assert_eq!(model.server.base(), want, "{base} {entry}");
            assert!(model.native("/api/chat").ends_with("/api/chat"));
            assert!(!model.native("/api/chat").contains("/v1"));
        }
        let bad = model(&config(&json!({"base_url": "ftp://x"})), &rules()).unwrap_err();
        assert!(bad.contains("base_url"), "{bad}");
    }

    #[test]
    fn options_come_from_the_registry() {
        let entry = json!({
            "backend_config": {
                "extra_args": ["--num-ctx", "4096", "--num-gpu=35", "--use-mmap", "--keep-alive", "10m", "--think", "low"],
                "options": {"num_batch": 8, "num_ctx": 1},
            },
            "generation_defaults": {"context_window": 9000},
        });
        let found = model(&entry, &rules()).unwrap();
        let want = json!({"num_batch": 8, "num_ctx": 4096, "num_gpu": 35, "use_mmap": true});
        assert_eq!(Value::Object(found.options), want);
        assert_eq!(found.keep_alive, Some(json!("10m")));
        assert_eq!(found.think, Some(Think::Low));
        let window = json!({"generation_defaults": {"context_window": 9000}});
        assert_eq!(model(&window, &rules()).unwrap().options["num_ctx"], 9000);
        let cpu = model(&config(&json!({"uses_gpu": false})), &rules()).unwrap();
        assert_eq!((cpu.shares_gpu, &cpu.options["num_gpu"]), (false, &json!(0)));
        for (extra, why) in [
            (json!({"extra_args": ["num-ctx", "1"]}), "extra_args"),
            (json!({"think": "sometimes"}), "think"),
        ] {
            let bad = model(&config(&extra), &rules()).unwrap_err();
            assert!(bad.contains(why), "{bad}");
        }
    }

    #[test]
    fn it_shares_the_gpu_of_this_machine() {
        let cases = [
            ("http://127.0.0.1:11434", true),
            ("http://localhost:11434", true),
            ("http://[::1]:11434", true),
            ("http://ollama:11434", true),
            ("http://host.docker.internal:11434", true),
            ("http://imageworks.alias:11434", true),
            ("http://10.0.0.7:11434", false),
            ("http://ollama.example.org:11434", false),
        ];
        let mut rules = rules();
        rules.loopback_alias = Some("imageworks.alias".into());
        for (base, here) in cases {
            rules.ollama.base_url = base.into();
            assert_eq!(model(&json!({}), &rules).unwrap().shares_gpu, here, "{base}");
        }
        rules.ollama.sharing = Sharing::Always;
        assert!(model(&json!({}), &rules).unwrap().shares_gpu);
        (rules.ollama.base_url, rules.ollama.sharing) = (String::new(), Sharing::Never);
        assert!(!model(&json!({}), &rules).unwrap().shares_gpu);
        (rules.ollama.sharing, rules.vllm_single_port) = (Sharing::Auto, false);
        assert!(!model(&json!({}), &rules).unwrap().shares_gpu, "nobody to share with");
    }
}
