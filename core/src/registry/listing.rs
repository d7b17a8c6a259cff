//! The model list as `GET /v1/models` shows it (SPEC 4.4).
//!
//! Owns: which entries are shown, under which id, in which order, with what said about them. Must
//! never do: ask a backend, or the disk itself; what is on it is asked through [`Disk`], when the
//! registry is loaded and not when the list is read.

mod activity;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::endpoint::Placement;
use super::entry::Entry;
use super::layers::Layer;
use super::ollama::OllamaModel;
use super::resolve::normalize;
use super::snapshot::{Snapshot, preference};
use super::template::{TOKENIZER_CONFIG, candidates};
use activity::STOPPED;
pub use activity::{Activity, EngineActivity, OllamaActivity, OllamaTag};

/// What is on the disk.
pub trait Disk {
    /// Whether the path exists.
    fn exists(&self, path: &Path) -> bool;
    /// The names in a directory; none if it cannot be read.
    fn names(&self, dir: &Path) -> Vec<String>;
}

/// What is shown, and how.
#[derive(Debug, Clone, Default)]
pub struct ListingRules {
    /// Also entries that are fixtures for tests.
    pub include_test_models: bool,
    /// Also entries whose files are not here.
    pub include_non_installed: bool,
    /// Say nothing about backend, format and quantisation.
    pub suppress_decorations: bool,
    /// Where templates are.
    pub template_dir: PathBuf,
}

/// When the layers were changed, Unix seconds: `created` of entries that do not say themselves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LayerTimes {
    /// The curated file.
    pub curated: u64,
    /// The discovered file.
    pub discovered: u64,
}

/// One line of the list, in OpenAI's form.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Item {
    /// The display name, or the logical one where display names clash.
    pub id: String,
    /// Always `model`.
    pub object: &'static str,
    /// Unix seconds.
    pub created: u64,
    /// Always `imageworks`.
    pub owned_by: &'static str,
    /// What OpenAI's form has no place for.
    pub extensions: Extensions,
}

/// What we say beyond OpenAI's form.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Extensions {
    display_id: String,
    display_name: String,
    logical_id: String,
    served_model_id: String,
    aliases: Vec<String>,
    backend: Option<String>,
    format: Option<String>,
    quantization: Option<String>,
    size_bytes: Option<u64>,
    installed: bool,
    active: bool,
    state: &'static str,
    capabilities: BTreeMap<String, bool>,
    modalities: Vec<&'static str>,
    context_window: Option<u64>,
    roles: Vec<String>,
    has_chat_template: bool,
    templates: Vec<String>,
    primary_template: Option<String>,
    schema_version: u32,
}

impl Item {
    /// Whether its files are here.
    pub fn is_installed(&self) -> bool {
        self.extensions.installed
    }

    /// What its entry, or else Ollama, says of a capability.
    pub fn capability(&self, canonical_name: &str) -> Option<bool> {
        self.extensions.capabilities.get(canonical_name).copied()
    }
}

/// What items are made from, besides their entries.
struct Places<'a> {
    rules: &'a ListingRules,
    times: LayerTimes,
    /// The names in the template directory.
    by_name: HashSet<String>,
    disk: &'a dyn Disk,
    activity: &'a Activity,
}

/// The list, and every entry's line by its position in the snapshot.
#[derive(Debug, Default, Clone)]
pub struct Listing {
    /// A line for each entry, shown or not.
    pub items: Vec<Item>,
    /// The positions that are shown, in order.
    pub shown: Vec<usize>,
    /// Those of Ollama.
    ollama: HashMap<usize, Arc<OllamaModel>>,
}

impl Snapshot {
    /// Makes the list.
    pub fn list(
        &self,
        rules: &ListingRules,
        times: LayerTimes,
        disk: &dyn Disk,
        activity: &Activity,
    ) -> Listing {
        let installed: Vec<bool> =
            (0..self.entries().len()).map(|i| self.is_installed(i, disk, activity)).collect();
        let shown = self.shown(rules, &installed);
        // One look into the directory instead of one for each entry: that is thousands.
        let by_name: HashSet<String> = disk.names(&rules.template_dir).into_iter().collect();
        let places = Places { rules, times, by_name, disk, activity };
        let mut uses: HashMap<&str, usize> = HashMap::new();
        for position in &shown {
            *uses.entry(self.entries()[*position].display()).or_default() += 1;
        }
        let items: Vec<Item> = (0..self.entries().len())
            .map(|i| {
                let clash = uses.get(self.entries()[i].display()).is_some_and(|n| *n > 1);
                self.item(i, clash, installed[i], &places)
            })
            .collect();
        let mut shown = shown;
        shown.sort_by_cached_key(|i| (items[*i].id.to_lowercase(), items[*i].id.clone()));
        let ollama = (0..self.entries().len()).filter_map(|i| match self.placement(i) {
            Placement::Ollama(model) => Some((i, model.clone())),
            _ => None,
        });
        let mut listing = Listing { items, shown, ollama: ollama.collect() };
        listing.mark(activity);
        listing
    }

    fn shown(&self, rules: &ListingRules, installed: &[bool]) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.entries().len()).collect();
        order.sort_by_key(|i| preference(&self.entries()[*i]));
        let mut targets = HashSet::new();
        order.retain(|i| {
            let entry = &self.entries()[*i];
            !entry.deprecated
                && (rules.include_test_models || !is_test_model(entry))
                && (rules.include_non_installed || installed[*i])
                && targets.insert(self.target(*i))
        });
        order
    }

    /// SPEC 4.4; a server that somebody else runs, and that names no files, is where it is.
    fn is_installed(&self, position: usize, disk: &dyn Disk, activity: &Activity) -> bool {
        let entry = &self.entries()[position];
        if entry.served_model_id.is_some() {
            return true;
        }
        if let Placement::Ollama(model) = self.placement(position)
            && let Some(ollama) = activity.ollama_of(model)
            && ollama.tag(&model.tag).is_some()
        {
            return true;
        }
        let paths = [&entry.download_path, &entry.backend_config.model_path];
        let mut named = paths.into_iter().flatten().peekable();
        if named.peek().is_none() {
            return match self.placement(position) {
                Placement::SinglePort(_) => false,
                // It has been asked, and does not have it; before that it may.
                Placement::Ollama(model) => activity
                    .ollama_of(model)
                    .is_none_or(|ollama| ollama.tags.is_empty() && !ollama.reachable),
                Placement::External(_) => true,
            };
        }
        named.any(|path| disk.exists(Path::new(path)))
    }

    fn item(&self, position: usize, clash: bool, installed: bool, places: &Places<'_>) -> Item {
        let Places { rules, times, activity, .. } = places;
        let entry = &self.entries()[position];
        let id = if clash { entry.name.clone() } else { entry.display().to_owned() };
        let templates = templates(entry, places);
        let tag = match self.placement(position) {
            Placement::Ollama(model) => activity.ollama_of(model).and_then(|o| o.tag(&model.tag)),
            _ => None,
        };
        let capabilities = capabilities(entry, tag);
        let decoration =
            |value: &Option<String>| value.clone().filter(|_| !rules.suppress_decorations);
        let written = match self.layers(position).first() {
            Some(Layer::Discovered) => times.discovered,
            _ => times.curated,
        };
        Item {
            created: entry.downloaded_at.as_deref().and_then(unix_seconds).unwrap_or(written),
            object: "model",
            owned_by: "imageworks",
            extensions: Extensions {
                display_id: id.clone(),
                display_name: entry.display().to_owned(),
                logical_id: entry.name.clone(),
                served_model_id: entry.served_id().to_owned(),
                aliases: entry.model_aliases.clone(),
                backend: decoration(&Some(entry.backend.clone())),
                format: decoration(&entry.download_format),
                quantization: decoration(&entry.quantization),
                size_bytes: entry.download_size_bytes.or(tag.and_then(|tag| tag.size)),
                installed,
                active: false,
                state: state_of(self.placement(position)),
                modalities: modalities(&capabilities),
                capabilities,
                context_window: entry.context_window,
                roles: entry.roles.clone(),
                has_chat_template: !templates.is_empty(),
                primary_template: templates.first().cloned(),
                templates,
                schema_version: 1,
            },
            id,
        }
    }
}

/// What is known without asking anybody; [`Listing::mark`] says which engine runs.
fn state_of(placement: &Placement) -> &'static str {
    match placement {
        Placement::SinglePort(_) => STOPPED,
        Placement::Ollama(_) => "unknown",
        Placement::External(_) => "external",
    }
}

/// What the entry says; where it is silent, what Ollama says.
fn capabilities(entry: &Entry, tag: Option<&OllamaTag>) -> BTreeMap<String, bool> {
    let said = tag.and_then(|tag| tag.capabilities.as_deref()).unwrap_or_default();
    let said = said.iter().filter_map(|word| match word.as_str() {
        "thinking" => Some("reasoning"),
        known @ ("vision" | "tools" | "embedding" | "audio") => Some(known),
        _ => None,
    });
    let mut all: BTreeMap<String, bool> = said.map(|word| (word.to_owned(), true)).collect();
    all.extend(entry.capabilities.iter().map(|(name, yes)| (name.to_owned(), yes)));
    all
}

fn modalities(capabilities: &BTreeMap<String, bool>) -> Vec<&'static str> {
    let mut modalities = vec!["text"];
    modalities.extend((capabilities.get("vision") == Some(&true)).then_some("image"));
    modalities
}

/// SPEC 5.1's places, best first: the named file, those beside the model, the template directory.
fn templates(entry: &Entry, places: &Places<'_>) -> Vec<String> {
    let (template_dir, disk) = (&places.rules.template_dir, places.disk);
    if entry.chat_template.source.as_deref() == Some("none") {
        return Vec::new();
    }
    let mut found = Vec::new();
    let named = entry.chat_template.path.as_ref().map(|path| template_dir.join(path));
    found.extend(named.into_iter().filter(|path| disk.exists(path)));
    if let Some(dir) = &entry.download_path {
        let names = disk.names(Path::new(dir));
        // What stands inside of a tokenizer's settings is not looked for here: that is thousands of files.
        let own = candidates(&names).into_iter().filter(|name| *name != TOKENIZER_CONFIG);
        found.extend(own.map(|name| Path::new(dir).join(name)));
    }
    let by_name = format!("{}.jinja", entry.name);
    if places.by_name.contains(&by_name) {
        let path = template_dir.join(by_name);
        if !found.contains(&path) {
            found.push(path);
        }
    }
    let mut shown: Vec<String> = found.iter().map(|path| path.display().to_string()).collect();
    if shown.is_empty() && entry.chat_template.source.as_deref() == Some("embedded") {
        shown.push("embedded".to_owned());
    }
    shown
}

/// Times as tools write them: RFC 3339, or the same without a zone, which then is UTC.
fn unix_seconds(text: &str) -> Option<u64> {
    let zoned = text.parse::<jiff::Timestamp>().ok();
    let time = zoned.or_else(|| {
        let plain: jiff::civil::DateTime = text.parse().ok()?;
        Some(plain.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp())
    })?;
    let seconds = time.as_second();
    u64::try_from(seconds).ok()
}

/// SPEC 4.4.
pub(crate) fn is_test_model(entry: &Entry) -> bool {
    let plain = normalize(&entry.name);
    entry.testing
        || ["testmodel", "synthetictest", "demomodel"].iter().any(|p| plain.starts_with(p))
        || plain.contains("testzzz")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::registry::EndpointRules;
    use serde_json::{Value, json};

    /// A disk with these paths on it.
    struct Paths(&'static [&'static str]);

    impl Disk for Paths {
        fn exists(&self, path: &Path) -> bool {
            self.0.iter().any(|known| Path::new(known) == path)
        }

        fn names(&self, dir: &Path) -> Vec<String> {
            let inside = |known: &&str| {
                let path = Path::new(known);
                (path.parent() == Some(dir))
                    .then(|| path.file_name().unwrap().to_string_lossy().into_owned())
            };
            self.0.iter().filter_map(inside).collect()
        }
    }

    fn list(entries: &Value, rules: &ListingRules, disk: &Paths) -> Vec<Item> {
        let endpoints = EndpointRules { vllm_single_port: true, ..EndpointRules::default() };
        let snapshot = Snapshot::load("r", entries.to_string().as_bytes(), &endpoints).unwrap();
        let times = LayerTimes { curated: 7, discovered: 8 };
        let listing = snapshot.list(rules, times, disk, &Activity::default());
        listing.shown.iter().map(|i| listing.items[*i].clone()).collect()
    }

    fn ids(items: &[Item]) -> Vec<&str> {
        items.iter().map(|item| item.id.as_str()).collect()
    }

    #[test]
    fn the_list_is_sorted_deduplicated_and_free_of_fixtures() {
        let entries = json!([
            {"name": "zeta", "backend": "gguf", "backend_config": {"port": 1}},
            {"name": "Alpha", "backend": "gguf", "backend_config": {"port": 2}},
            {"name": "m1", "display_name": "Same", "backend": "gguf", "backend_config": {"port": 3}},
            {"name": "m2", "display_name": "Same", "backend": "gguf", "backend_config": {"port": 4}},
            {"name": "tag-a", "backend": "ollama", "served_model_id": "t:1"},
            {"name": "tag-b", "backend": "ollama", "served_model_id": "t:1"},
            {"name": "gone", "backend": "gguf", "deprecated": true},
            {"name": "testmodel-1", "backend": "gguf"},
            {"name": "fixture", "backend": "gguf", "backend_config": {"port": 9}, "metadata": {"testing": true}},
        ]);
        let seen = list(&entries, &ListingRules::default(), &Paths(&[]));
        assert_eq!(ids(&seen), ["Alpha", "m1", "m2", "tag-a", "zeta"]);
        let rules = ListingRules { include_test_models: true, ..ListingRules::default() };
        let all = list(&entries, &rules, &Paths(&[]));
        assert!(ids(&all).contains(&"fixture") && ids(&all).contains(&"testmodel-1"));
    }

    #[test]
    fn what_is_not_installed_is_listed_only_on_request() {
        let entries = json!([
            {"name": "here", "backend": "vllm", "backend_config": {"model_path": "/m/here"}},
            {"name": "away", "backend": "vllm", "backend_config": {"model_path": "/m/away"}},
            {"name": "served", "backend": "vllm", "served_model_id": "s"},
            {"name": "downloaded", "backend": "gguf", "download_path": "/m/d", "backend_config": {"port": 1}},
            {"name": "server", "backend": "openai", "backend_config": {"base_url": "http://h"}},
        ]);
        let disk = Paths(&["/m/here"]);
        assert_eq!(
            ids(&list(&entries, &ListingRules::default(), &disk)),
            ["here", "served", "server"]
        );
        let rules = ListingRules { include_non_installed: true, ..ListingRules::default() };
        let all = list(&entries, &rules, &disk);
        assert_eq!(ids(&all), ["away", "downloaded", "here", "served", "server"]);
        assert!(!all[0].extensions.installed && all[2].extensions.installed);
    }

    #[test]
    fn an_item_has_every_field_of_the_specification() {
        let entries = json!([{
            "name": "q", "display_name": "Q", "backend": "vllm", "served_model_id": "org/q",
            "model_aliases": ["k"], "quantization": "awq", "download_format": "awq",
            "download_path": "/m/q", "download_size_bytes": 12.0, "downloaded_at": "2025-10-05T00:00:00",
            "capabilities": {"vl": true, "tools": false}, "roles": ["caption"],
            "generation_defaults": {"context_window": 4096}, "chat_template": {"source": "external", "path": "q.jinja"}
        }]);
        let rules = ListingRules { template_dir: "/t".into(), ..ListingRules::default() };
        let disk = Paths(&["/m/q", "/m/q/a.jinja", "/m/q/weights", "/t/q.jinja"]);
        let seen = serde_json::to_value(&list(&entries, &rules, &disk)[0]).unwrap();
        assert_eq!(
            seen,
            json!({"id": "Q", "object": "model", "created": 1_759_622_400, "owned_by": "imageworks", "extensions": {
                "display_id": "Q", "display_name": "Q", "logical_id": "q", "served_model_id": "org/q",
                "aliases": ["k"], "backend": "vllm", "format": "awq", "quantization": "awq",
                "size_bytes": 12, "installed": true, "active": false, "state": "stopped",
                "capabilities": {"tools": false, "vision": true}, "modalities": ["text", "image"],
                "context_window": 4096, "roles": ["caption"], "has_chat_template": true,
                "templates": ["/t/q.jinja", "/m/q/a.jinja"], "primary_template": "/t/q.jinja",
                "schema_version": 1}})
        );
        let rules = ListingRules { suppress_decorations: true, ..rules };
        let seen = serde_json::to_value(&list(&entries, &rules, &disk)[0]).unwrap();
        for field in ["backend", "format", "quantization"] {
            assert_eq!(seen["extensions"][field], Value::Null, "{field}");
        }
    }

    #[test]
    fn created_is_the_download_or_the_layers_own_time() {
        let at = |text: &str| unix_seconds(text);
        assert_eq!(at("2025-10-05T00:00:00Z"), Some(1_759_622_400));
        assert_eq!(at("2025-10-05T02:00:00.5+02:00"), Some(1_759_622_400));
        assert_eq!(at("2025-10-05T00:00:00.123456"), Some(1_759_622_400));
        assert_eq!(at("yesterday"), None);
        let items =
            list(&json!([{"name": "a", "backend": "gguf"}]), &ListingRules::default(), &Paths(&[]));
        assert_eq!(items[0].created, 7);
    }
}
