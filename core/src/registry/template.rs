//! Where an entry's chat template may be (SPEC 5.1), and what a file says that holds one.
//!
//! Owns: the order of the places, and reading the files that tokenizers come with. Must never do: look
//! at the disk; whoever does asks here what to look for.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::entry::Entry;
use crate::engine::EngineRules;
use crate::engine::launch::is_flag;

/// The file of a tokenizer's settings, which may hold a template.
pub const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
/// Templates beside a model's own one, among which its engine chooses by the request.
pub const ADDITIONAL: &str = "additional_chat_templates";

/// How an entry comes by its template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Template {
    /// Its server has one, or is not ours to judge: `ollama`, `openai`, and whatever has a `base_url`.
    Elsewhere,
    /// The engine's arguments name one.
    Given,
    /// The entry says that there is none.
    Nowhere,
    /// It is one of these.
    Places(TemplatePlaces),
}

/// Where to look, best first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TemplatePlaces {
    /// The logical name: what extracted files are named after.
    pub model: String,
    /// `chat_template.path`.
    pub named: Option<PathBuf>,
    /// The model's files.
    pub files: Option<ModelFiles>,
    /// `template_dir/<name>.jinja`.
    pub by_name: Option<PathBuf>,
    /// The entry says that the model brings one along (`source: embedded`), and is believed where
    /// none is seen.
    pub declared: bool,
}

/// Where a model's files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFiles {
    /// A directory, seen from the engine's own; or the model's name at the Hugging Face hub.
    pub source: String,
    /// The hub's cache, where the engine's environment names it.
    pub hub: Option<PathBuf>,
    /// The engine's directory, if it is not ours.
    pub cwd: Option<PathBuf>,
}

impl Template {
    /// Where an entry's template may be.
    pub fn of(entry: &Entry, rules: &EngineRules) -> Template {
        let (config, said) = (&entry.backend_config, &entry.chat_template);
        if config.base_url.is_some() || matches!(entry.backend.as_str(), "ollama" | "openai") {
            return Template::Elsewhere;
        }
        if config.extra_args.iter().any(|arg| is_flag(arg, "--chat-template")) {
            return Template::Given;
        }
        if said.source.as_deref() == Some("none") {
            return Template::Nowhere;
        }
        let in_directory = |name: &str| rules.template_dir.join(name);
        let nameable = !entry.name.contains(['/', '\0']);
        Template::Places(TemplatePlaces {
            model: entry.name.clone(),
            named: said.path.as_deref().map(in_directory),
            files: Some(ModelFiles::of(entry, rules)),
            by_name: nameable.then(|| in_directory(&format!("{}.jinja", entry.name))),
            declared: said.source.as_deref() == Some("embedded"),
        })
    }
}

impl ModelFiles {
    fn of(entry: &Entry, rules: &EngineRules) -> ModelFiles {
        let config = &entry.backend_config;
        let variable = |name: &str| match config.env.get(name) {
            Some(value) => value.clone(),
            None => rules.env.get(name).cloned(),
        };
        let hub = variable("HF_HUB_CACHE")
            .map(PathBuf::from)
            .or_else(|| Some(Path::new(&variable("HF_HOME")?).join("hub")));
        ModelFiles { source: entry.source().to_owned(), hub, cwd: rules.cwd.clone() }
    }

    /// The directory in the hub's cache that holds all versions of the model, if its name can be one
    /// there: `models--org--name`.
    pub fn in_hub(&self) -> Option<String> {
        let plain = |part: &str| {
            let harmless = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
            !part.is_empty() && !part.starts_with('.') && part.chars().all(harmless)
        };
        let (owner, name) = self.source.split_once('/')?;
        (plain(owner) && plain(name)).then(|| format!("models--{owner}--{name}"))
    }
}

/// What a directory's names promise, best first.
pub fn candidates(names: &[String]) -> Vec<&str> {
    let ends = |name: &str, with: &str| Path::new(name).extension().is_some_and(|end| end == with);
    let rank = |name: &str| match name {
        "chat_template.jinja" => Some(0),
        name if ends(name, "jinja") => Some(1),
        "chat_template.json" => Some(2),
        name if name.starts_with("chat_template") && ends(name, "json") => Some(3),
        TOKENIZER_CONFIG => Some(4),
        _ => None,
    };
    let mut found: Vec<(u8, &str)> =
        names.iter().filter_map(|name| Some((rank(name)?, name.as_str()))).collect();
    found.sort_unstable();
    found.into_iter().map(|(_, name)| name).collect()
}

/// What a JSON file says about templates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Embedded {
    /// This one.
    One(String),
    /// Several, for requests of different kinds: the engine chooses.
    Several,
    /// None.
    None,
}

/// Reads `chat_template` off a tokenizer's or a processor's file.
pub fn embedded(file: &[u8]) -> Result<Embedded, serde_json::Error> {
    #[derive(serde::Deserialize)]
    struct File {
        chat_template: Option<Value>,
    }
    let file: File = serde_json::from_slice(file)?;
    Ok(match file.chat_template {
        Some(Value::String(text)) if !text.trim().is_empty() => Embedded::One(text),
        Some(Value::Array(list)) => match list.as_slice() {
            [] => Embedded::None,
            [only] => match only.get("template").and_then(Value::as_str) {
                Some(text) => Embedded::One(text.to_owned()),
                None => Embedded::None,
            },
            _ => Embedded::Several,
        },
        Some(Value::Object(named)) if !named.is_empty() => Embedded::Several,
        _ => Embedded::None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn template(more: &Value, rules: &EngineRules) -> Template {
        let mut all = json!({"name": "m", "backend": "vllm", "served_model_id": "org/Model-1"});
        for (key, value) in more.as_object().unwrap() {
            all[key] = value.clone();
        }
        Template::of(&Entry::parse(all.as_object().unwrap()).unwrap(), rules)
    }

    fn places(more: &Value, rules: &EngineRules) -> TemplatePlaces {
        match template(more, rules) {
            Template::Places(places) => places,
            other => panic!("{other:?}"),
        }
    }

    fn rules() -> EngineRules {
        EngineRules { template_dir: "t".into(), ..EngineRules::default() }
    }

    #[test]
    fn templates_are_looked_for_where_the_spec_says() {
        let found = places(&json!({"chat_template": {"path": "x.jinja"}}), &rules());
        assert_eq!(found.named, Some(PathBuf::from("t/x.jinja")));
        assert_eq!(found.by_name, Some(PathBuf::from("t/m.jinja")));
        let found = places(&json!({"chat_template": {"path": "/x.jinja"}}), &rules());
        assert_eq!(found.named, Some(PathBuf::from("/x.jinja")));
        let found =
            places(&json!({"name": "a/b", "chat_template": {"source": "embedded"}}), &rules());
        assert_eq!((found.by_name, found.declared), (None, true));
        let found = places(&json!({"download_path": "/models/m"}), &rules());
        assert_eq!(found.files.unwrap().source, "/models/m");
    }

    #[test]
    fn some_entries_need_none_have_one_or_say_that_there_is_none() {
        let flag = |flag: &str| json!({"backend_config": {"extra_args": [flag, "x"]}});
        for (more, want) in [
            (json!({"backend": "ollama"}), Template::Elsewhere),
            (json!({"backend": "openai"}), Template::Elsewhere),
            (json!({"backend_config": {"base_url": "http://h:1/v1"}}), Template::Elsewhere),
            (flag("--chat-template"), Template::Given),
            (flag("--chat_template=x"), Template::Given),
            (json!({"chat_template": {"source": "none"}}), Template::Nowhere),
        ] {
            assert_eq!(template(&more, &rules()), want, "{more}");
        }
        let _ = places(&json!({"backend": "lmdeploy"}), &rules());
    }

    #[test]
    fn models_of_the_hub_are_in_its_cache() {
        let env = |name: &str, value: &str| [(name.to_owned(), value.to_owned())].into();
        let mut rules = EngineRules { env: env("HF_HOME", "/hf"), ..rules() };
        let files = places(&json!({}), &rules).files.unwrap();
        assert_eq!(files.in_hub().as_deref(), Some("models--org--Model-1"));
        assert_eq!(files.hub, Some(PathBuf::from("/hf/hub")));
        let own = json!({"backend_config": {"env": {"HF_HUB_CACHE": "/cache"}}});
        assert_eq!(places(&own, &rules).files.unwrap().hub, Some(PathBuf::from("/cache")));
        rules.env.clear();
        assert_eq!(places(&json!({}), &rules).files.unwrap().hub, None);
        for local in ["/a/b", "a", "a/b/c", "../b", "a/..", "./b", "a/"] {
            let files = ModelFiles { source: local.to_owned(), hub: None, cwd: None };
            assert_eq!(files.in_hub(), None, "{local}");
        }
    }

    #[test]
    fn templates_of_their_own_go_before_those_within_other_files() {
        let names = [
            "tokenizer_config.json",
            "z.jinja",
            "chat_template_x.json",
            "a.jinja.bak",
            "chat_template.jinja",
            "config.json",
            "chat_template.json",
            "b.jinja",
        ];
        let names: Vec<String> = names.map(str::to_owned).to_vec();
        let want = [
            "chat_template.jinja",
            "b.jinja",
            "z.jinja",
            "chat_template.json",
            "chat_template_x.json",
            "tokenizer_config.json",
        ];
        assert_eq!(candidates(&names), want);
    }

    #[test]
    fn tokenizers_say_it_in_several_ways() {
        let one = |text: &str| Embedded::One(text.to_owned());
        let named = |name: &str| json!({"name": name, "template": "{{ x }}"});
        for (file, want) in [
            (json!({"chat_template": "{{ x }}", "other": [1]}), one("{{ x }}")),
            (json!({"chat_template": [named("default")]}), one("{{ x }}")),
            (json!({"chat_template": [named("default"), named("tool_use")]}), Embedded::Several),
            (json!({"chat_template": {"default": "a"}}), Embedded::Several),
            (json!({"chat_template": " "}), Embedded::None),
            (json!({"chat_template": null}), Embedded::None),
            (json!({"chat_template": []}), Embedded::None),
            (json!({"chat_template": [1]}), Embedded::None),
            (json!({}), Embedded::None),
        ] {
            assert_eq!(embedded(file.to_string().as_bytes()).unwrap(), want, "{file}");
        }
        assert!(embedded(b"no json").is_err());
    }
}
