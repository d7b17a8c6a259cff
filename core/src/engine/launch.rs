//! What it takes to start an entry's engine: made when the registry is loaded.
//!
//! Owns: the command line behind the command, the log's name, where the engine will answer. Must
//! never do: look for a program or a file; what depends on the disk is a list of candidates.

use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::state_file::StateFile;
use crate::ids::ModelName;
use crate::registry::{Endpoint, Entry, Template, TemplatePlaces};

/// What settings say about engines.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineRules {
    /// The program and its first arguments; `None`: found when it is needed.
    pub command: Option<Vec<String>>,
    /// The one port.
    pub port: u16,
    /// `--host` for entries without a host of their own.
    pub host: String,
    /// `--gpu-memory-utilization`.
    pub gpu_memory_utilization: f64,
    /// `--max-model-len`.
    pub max_model_len: Option<u32>,
    /// `[vllm] env`.
    pub env: BTreeMap<String, String>,
    /// Working directory; `None`: the daemon's own.
    pub cwd: Option<PathBuf>,
    /// From spawn to ready, for entries that say nothing themselves.
    pub start_timeout: Duration,
    /// Where chat templates are.
    pub template_dir: PathBuf,
    /// Where engines write their logs.
    pub log_dir: PathBuf,
}

impl Default for EngineRules {
    /// The defaults of the settings (SPEC 3.2).
    fn default() -> Self {
        EngineRules {
            command: None,
            port: 24001,
            host: "127.0.0.1".to_owned(),
            gpu_memory_utilization: 0.75,
            max_model_len: None,
            env: BTreeMap::new(),
            cwd: None,
            start_timeout: Duration::from_secs(600),
            template_dir: PathBuf::from("chat_templates"),
            log_dir: PathBuf::from("logs/vllm"),
        }
    }
}

/// The effective launch specification of one entry. Two entries, or two versions of one, with
/// equal launches are served by the same engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// The entry's logical name.
    pub model: ModelName,
    /// The id that the engine must list before it counts as ready.
    pub served_id: String,
    /// The program and its first arguments; `None`: found when it is needed.
    pub command: Option<Vec<String>>,
    /// What is loaded: a path, or a name that vLLM resolves itself.
    pub source: String,
    /// Arguments behind the model.
    arguments: Vec<String>,
    /// Where its chat template may be; `None`: none is passed on.
    pub template: Option<TemplatePlaces>,
    /// On top of the daemon's own environment; `None` unsets.
    pub environment: BTreeMap<String, Option<String>>,
    /// Working directory.
    pub cwd: Option<PathBuf>,
    /// The engine's output.
    pub log: PathBuf,
    /// From spawn to ready.
    pub start_timeout: Duration,
    /// Where it answers.
    pub endpoint: Endpoint,
    /// The port that must be free before, and ours afterwards.
    pub port: u16,
    /// Of an engine that was found running while its entry was not known: the hash of the launch that it
    /// was started by. All else is then only what is needed to watch and stop it.
    pub started_by: Option<String>,
}

/// Flags that the supervisor sets itself: with others it would wait at the wrong door.
const MANAGED: [&str; 4] = ["--model", "--host", "--port", "--served-model-name"];

impl Launch {
    /// The launch of an entry; the error names the field at fault.
    pub fn of(entry: &Entry, rules: &EngineRules) -> Result<Launch, String> {
        let config = &entry.backend_config;
        let host = bare_host(config.host.as_deref().unwrap_or(&rules.host));
        let endpoint = Endpoint::local(&reachable(&host), rules.port)
            .map_err(|e| format!("`backend_config.host` {host:?}: {e}"))?;
        let extra = without_managed(&config.extra_args);
        let own = |flag: &str| extra.iter().any(|arg| is_flag(arg, flag));
        let mut arguments = Vec::new();
        let mut push = |flag: &str, value: String| arguments.extend([flag.to_owned(), value]);
        push("--host", host);
        push("--port", rules.port.to_string());
        push("--served-model-name", entry.served_id().to_owned());
        if !own("--gpu-memory-utilization") {
            push("--gpu-memory-utilization", rules.gpu_memory_utilization.to_string());
        }
        if let Some(length) = rules.max_model_len.filter(|_| !own("--max-model-len")) {
            push("--max-model-len", length.to_string());
        }
        let template = match Template::of(entry, rules) {
            Template::Places(places) => Some(places),
            Template::Elsewhere | Template::Given | Template::Nowhere => None,
        };
        arguments.extend(extra);
        let mut environment: BTreeMap<String, Option<String>> =
            rules.env.iter().map(|(name, value)| (name.clone(), Some(value.clone()))).collect();
        environment.extend(config.env.clone());
        Ok(Launch {
            model: ModelName::from(entry.name.as_str()),
            served_id: entry.served_id().to_owned(),
            command: rules.command.clone(),
            source: entry.source().to_owned(),
            arguments,
            template,
            environment,
            cwd: rules.cwd.clone(),
            log: rules.log_dir.join(log_name(&entry.name)),
            start_timeout: config.start_timeout.unwrap_or(rules.start_timeout),
            endpoint,
            port: rules.port,
            started_by: None,
        })
    }

    /// Enough of a launch to watch and stop an engine that the registry does not know any more.
    pub fn remembered(state: &StateFile) -> Launch {
        Launch {
            model: state.logical_name.clone(),
            served_id: state.served_model_id.clone(),
            command: None,
            source: String::new(),
            arguments: Vec::new(),
            template: None,
            environment: BTreeMap::new(),
            cwd: None,
            log: PathBuf::from(&state.log_path),
            start_timeout: Duration::ZERO,
            endpoint: Endpoint::loopback(state.port),
            port: state.port,
            started_by: Some(state.spec_hash.clone()),
        }
    }

    /// The whole command line: the model stands right behind `serve` where the command ends so,
    /// else behind `--model`.
    pub fn command_line(&self, command: &[String], template: Option<&Path>) -> Vec<String> {
        let mut line = command.to_vec();
        if line.last().is_none_or(|last| last != "serve") {
            line.push("--model".to_owned());
        }
        line.push(self.source.clone());
        if let Some(template) = template {
            line.extend(["--chat-template".to_owned(), template.display().to_string()]);
        }
        line.extend(self.arguments.iter().cloned());
        line
    }

    /// Whether the engine of the other launch does as well for this one: what only says how it is
    /// watched may differ.
    pub fn same_engine(&self, other: &Launch) -> bool {
        if other.started_by.is_some() {
            return self.spec_hash() == other.spec_hash();
        }
        let (log, start_timeout) = (other.log.clone(), other.start_timeout);
        *other == Launch { log, start_timeout, ..self.clone() }
    }

    /// The specification as text: equal texts mean that a running engine still fits. Not shown to
    /// people, for the environment may hold secrets; only its hash is kept.
    fn fingerprint(&self) -> String {
        format!("{self:?}")
    }

    /// The first 16 hexadecimal digits of its SHA-256, as the state file has them.
    pub fn spec_hash(&self) -> String {
        if let Some(hash) = &self.started_by {
            return hash.clone();
        }
        let hash = Sha256::digest(self.fingerprint().as_bytes());
        hash.iter().take(8).fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
    }
}

/// Whether `arg` is `flag` in one of the forms `--x`, `--x=v`, underscores counted as dashes.
pub fn is_flag(arg: &str, flag: &str) -> bool {
    let name = arg.split_once('=').map_or(arg, |(name, _)| name);
    name.starts_with("--") && name.replace('_', "-") == flag
}

/// Arguments without the managed flags and their values.
fn without_managed(args: &[String]) -> Vec<String> {
    let mut kept = Vec::new();
    let mut dropping = false;
    for arg in args {
        if arg.starts_with("--") {
            let managed = MANAGED.iter().any(|flag| is_flag(arg, flag));
            dropping = managed && !arg.contains('=');
            if managed {
                continue;
            }
        } else if dropping {
            continue;
        }
        kept.push(arg.clone());
    }
    kept
}

/// A host without the scheme and port that real files put around it.
fn bare_host(text: &str) -> String {
    let text = text.trim();
    let text = text.split_once("://").map_or(text, |(_, rest)| rest);
    let text = text.split('/').next().unwrap_or(text);
    if let Some(end) = text.strip_prefix('[').and_then(|rest| rest.find(']')) {
        return text[1..=end].to_owned();
    }
    match text.split_once(':') {
        Some((host, port)) if !port.contains(':') => host.to_owned(),
        _ => text.to_owned(),
    }
}

/// Where a server that listens on `host` is reached from here.
fn reachable(host: &str) -> String {
    match host {
        "" | "0.0.0.0" | "*" => "127.0.0.1".to_owned(),
        "::" => "::1".to_owned(),
        other => other.to_owned(),
    }
}

/// Longest part of a log's name that comes from the model's.
const MAX_LOG_NAME: usize = 100;

/// The log file's name: harmless whatever the model is called, and of one model only.
fn log_name(model: &str) -> String {
    let harmless = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let plain = !model.is_empty() && model.chars().all(harmless) && !model.starts_with('.');
    if plain && model.len() <= MAX_LOG_NAME {
        return format!("{model}.log");
    }
    let safe: String =
        model.chars().map(|c| if harmless(c) { c } else { '_' }).take(MAX_LOG_NAME).collect();
    format!("_{}-{:08x}.log", safe.trim_start_matches('.'), fnv1a(model))
}

/// FNV-1a, 32 bits: tells names apart that look alike once they are harmless.
/// Source: <http://www.isthe.com/chongo/tech/comp/fnv/>.
fn fnv1a(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::{Value, json};

    fn launch(entry: &Value, rules: &EngineRules) -> Launch {
        let entry = Entry::parse(entry.as_object().unwrap()).unwrap();
        Launch::of(&entry, rules).unwrap()
    }

    fn line(entry: &Value, rules: &EngineRules, command: &str) -> String {
        let command: Vec<String> = command.split(' ').map(str::to_owned).collect();
        launch(entry, rules).command_line(&command, None).join(" ")
    }

    fn entry(config: &Value) -> Value {
        json!({"name": "tiny-a", "backend": "vllm", "backend_config": config})
    }

    #[test]
    fn an_engine_is_the_same_for_what_only_watches_it_differently_and_for_what_it_was_found_with() {
        let rules = EngineRules::default();
        let of =
            |path: &str, rules: &EngineRules| launch(&entry(&json!({"model_path": path})), rules);
        let (a, b) = (of("/a", &rules), of("/b", &rules));
        let patient = EngineRules { start_timeout: Duration::from_secs(7), ..rules.clone() };
        assert!(a.same_engine(&of("/a", &patient)) && !a.same_engine(&b));
        // Found by its state file alone: the hash tells.
        let found = Launch { source: String::new(), started_by: Some(a.spec_hash()), ..a.clone() };
        assert!(a.same_engine(&found) && !b.same_engine(&found));
        assert_eq!((found.spec_hash(), a.spec_hash().len()), (a.spec_hash(), 16));
    }

    #[test]
    fn the_model_stands_behind_serve_or_behind_its_flag() {
        let rules = EngineRules::default();
        let tail = "--host 127.0.0.1 --port 24001 --served-model-name tiny-a \
                    --gpu-memory-utilization 0.75";
        let of = entry(&json!({"model_path": "/m/a"}));
        assert_eq!(line(&of, &rules, "vllm serve"), format!("vllm serve /m/a {tail}"));
        assert_eq!(line(&of, &rules, "python3 -m x"), format!("python3 -m x --model /m/a {tail}"));
    }

    #[test]
    fn what_is_loaded_is_the_path_or_else_the_served_id() {
        let rules = EngineRules::default();
        let mut value = json!({"name": "n", "backend": "vllm", "served_model_id": "org/x"});
        assert_eq!(launch(&value, &rules).source, "org/x");
        value["download_path"] = json!("/d");
        assert_eq!(launch(&value, &rules).source, "/d");
        value["backend_config"] = json!({"model_path": "/p"});
        assert_eq!(launch(&value, &rules).source, "/p");
        assert_eq!(launch(&value, &rules).served_id, "org/x");
    }

    #[test]
    fn flags_of_the_entry_go_before_those_of_the_settings_in_either_form() {
        let rules = EngineRules { max_model_len: Some(4096), ..EngineRules::default() };
        let both = line(&entry(&json!({})), &rules, "vllm serve");
        assert!(both.contains("--gpu-memory-utilization 0.75 --max-model-len 4096"), "{both}");
        for args in [
            json!(["--gpu-memory-utilization", "0.5", "--max-model-len", "9"]),
            json!(["--gpu-memory-utilization=0.5", "--max-model-len=9"]),
            json!(["--gpu_memory_utilization=0.5", "--max_model_len", "9"]),
            json!("--gpu_memory_utilization=0.5 --max-model-len 9"),
        ] {
            let line = line(&entry(&json!({"extra_args": args})), &rules, "vllm serve");
            assert!(!line.contains("0.75") && !line.contains("4096"), "{line}");
            assert_eq!(line.matches("0.5").count(), 1, "{line}");
        }
    }

    #[test]
    fn what_the_supervisor_must_know_cannot_be_overridden() {
        let args = json!([
            "--port",
            "9",
            "--served-model-name",
            "x",
            "y",
            "--model=z",
            "--swap",
            "4",
            "--Host",
            "h"
        ]);
        let line =
            line(&entry(&json!({"extra_args": args})), &EngineRules::default(), "vllm serve");
        assert!(line.ends_with("0.75 --swap 4 --Host h"), "{line}");
        assert_eq!(line.matches("--port").count(), 1, "{line}");
    }

    #[test]
    fn hosts_of_all_sorts_are_listened_at_and_reached() {
        for (host, listens, reached) in [
            (json!("http://0.0.0.0"), "--host 0.0.0.0 ", "http://127.0.0.1:24001/v1"),
            (json!("localhost:8000"), "--host localhost ", "http://localhost:24001/v1"),
            (json!("::"), "--host :: ", "http://[::1]:24001/v1"),
            (json!("http://[::1]:80/v1"), "--host ::1 ", "http://[::1]:24001/v1"),
            (json!(null), "--host 127.0.0.1 ", "http://127.0.0.1:24001/v1"),
        ] {
            let entry = entry(&json!({"host": host}));
            let rules = EngineRules::default();
            assert!(line(&entry, &rules, "vllm serve").contains(listens), "{host}");
            assert_eq!(launch(&entry, &rules).endpoint.base(), reached);
        }
    }

    #[test]
    fn templates_come_from_the_entry_unless_its_arguments_name_one() {
        let rules = EngineRules { template_dir: "t".into(), ..EngineRules::default() };
        let mut value = entry(&json!({}));
        let by_name = launch(&value, &rules).template.unwrap().by_name;
        assert_eq!(by_name, Some(PathBuf::from("t/tiny-a.jinja")));
        value["chat_template"] = json!({"source": "external", "path": "x.jinja"});
        let found = launch(&value, &rules);
        assert_eq!(found.template.as_ref().unwrap().named, Some(PathBuf::from("t/x.jinja")));
        let line = found.command_line(&["v".into()], Some(Path::new("t/x.jinja")));
        assert!(line.join(" ").contains("--chat-template t/x.jinja"));
        value["backend_config"] = json!({"extra_args": ["--chat_template=y"]});
        assert_eq!(launch(&value, &rules).template, None);
    }

    #[test]
    fn an_entrys_environment_goes_over_the_settings_and_null_unsets() {
        let env = [("A", "1"), ("B", "2")];
        let env = env.map(|(n, v)| (n.to_owned(), v.to_owned())).into();
        let rules = EngineRules { env, ..EngineRules::default() };
        let found = launch(&entry(&json!({"env": {"B": null, "C": "3", "D": 4}})), &rules);
        let shown: Vec<_> =
            found.environment.iter().map(|(n, v)| (n.as_str(), v.as_deref())).collect();
        assert_eq!(shown, [("A", Some("1")), ("B", None), ("C", Some("3")), ("D", Some("4"))]);
    }

    #[test]
    fn log_names_are_harmless_and_of_one_model_only() {
        assert_eq!(log_name("qwen2.5-vl_7b"), "qwen2.5-vl_7b.log");
        for odd in ["../../etc/passwd", "a/b", "a b", ".hidden", "", &"x".repeat(300)] {
            let name = log_name(odd);
            assert!(!name.contains('/') && !name.starts_with('.') && name.len() < 130, "{name}");
        }
        assert_ne!(log_name("a/b"), log_name("a b"));
    }

    #[test]
    fn an_entrys_own_start_timeout_counts() {
        let found = launch(&entry(&json!({"start_timeout_s": 1.5})), &EngineRules::default());
        assert_eq!(found.start_timeout, Duration::from_millis(1500));
    }
}
