//! What runs, for the list: the engine of ours, and what Ollama says of itself.
//!
//! Owns: the states of both as the list shows them. Must never do: touch a line of a server that
//! somebody else runs, or ask anybody.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Listing;
use crate::chat::ollama::same_model;
use crate::registry::OllamaModel;

/// What is known of engines at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Activity {
    /// The model that holds the engine's port.
    pub engine: Option<EngineActivity>,
    /// Each Ollama that was asked, by its base address.
    pub ollama: Arc<BTreeMap<String, OllamaActivity>>,
}

/// The model that holds the engine's port, and how far it has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineActivity {
    /// Its logical name.
    pub model: String,
    /// `loading`, `ready`, `draining` or `stopping`.
    pub state: &'static str,
}

/// One Ollama.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OllamaActivity {
    /// It answered when it was last asked.
    pub reachable: bool,
    /// What it has, by the last list that it gave.
    pub tags: Vec<OllamaTag>,
    /// What it has loaded, as long as it is reachable.
    pub loaded: Vec<String>,
}

/// A model that Ollama has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OllamaTag {
    /// Its full name.
    pub name: String,
    /// What it can do; `None`: that Ollama does not say.
    pub capabilities: Option<Vec<String>>,
    /// Bytes on its disk.
    pub size: Option<u64>,
}

impl OllamaActivity {
    /// The tag of a model, by any of its names.
    pub fn tag(&self, name: &str) -> Option<&OllamaTag> {
        self.tags.iter().find(|tag| same_model(&tag.name, name))
    }

    /// Whether a model is loaded.
    pub fn has_loaded(&self, name: &str) -> bool {
        self.loaded.iter().any(|loaded| same_model(loaded, name))
    }
}

impl Activity {
    /// The Ollama of a model, if it was asked.
    pub fn ollama_of(&self, model: &OllamaModel) -> Option<&OllamaActivity> {
        self.ollama.get(model.server.base())
    }

    /// Whether the list must be made anew: what Ollama has decides which models are installed.
    pub fn lists_alike(&self, other: &Activity) -> bool {
        let tags = |activity: &Activity| -> Vec<_> {
            activity.ollama.iter().map(|(base, o)| (base.clone(), o.tags.clone())).collect()
        };
        Arc::ptr_eq(&self.ollama, &other.ollama) || tags(self) == tags(other)
    }
}

/// No engine of this model runs.
pub(super) const STOPPED: &str = "stopped";
/// Whatever an engine of ours can be.
const ENGINE_STATES: [&str; 5] = [STOPPED, "loading", "ready", "draining", "stopping"];

impl Listing {
    /// Says what runs now; answers whether that changed a line.
    pub fn mark(&mut self, activity: &Activity) -> bool {
        let mut changed = false;
        for (position, item) in self.items.iter_mut().enumerate() {
            let shown = &mut item.extensions;
            let engine = activity.engine.as_ref().filter(|e| e.model == shown.logical_id);
            let state = match self.ollama.get(&position) {
                Some(model) => ollama_state(model, activity),
                None if !ENGINE_STATES.contains(&shown.state) => continue, // somebody else's server
                None => engine.map_or(STOPPED, |engine| engine.state),
            };
            let active = matches!(state, "ready" | "draining");
            changed |= (shown.state, shown.active) != (state, active);
            (shown.state, shown.active) = (state, active);
        }
        changed
    }
}

fn ollama_state(model: &OllamaModel, activity: &Activity) -> &'static str {
    match activity.ollama_of(model) {
        None => "unknown",
        Some(ollama) if !ollama.reachable => "unreachable",
        Some(ollama) if ollama.has_loaded(&model.tag) => "ready",
        Some(ollama) if ollama.tag(&model.tag).is_some() => STOPPED,
        Some(_) => "missing",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::listing::{Disk, LayerTimes, ListingRules};
    use crate::registry::{EndpointRules, Snapshot};
    use std::path::Path;

    struct Empty;

    impl Disk for Empty {
        fn exists(&self, _: &Path) -> bool {
            false
        }

        fn names(&self, _: &Path) -> Vec<String> {
            Vec::new()
        }
    }

    fn list(text: &[u8], rules: &ListingRules, activity: &Activity) -> Listing {
        let endpoints = EndpointRules { vllm_single_port: true, ..EndpointRules::default() };
        let snapshot = Snapshot::load("r", text, &endpoints).unwrap();
        snapshot.list(rules, LayerTimes::default(), &Empty, activity)
    }

    fn states(listing: &Listing) -> Vec<(&'static str, bool)> {
        listing.items.iter().map(|i| (i.extensions.state, i.extensions.active)).collect()
    }

    fn running(model: &str, state: &'static str) -> Activity {
        let engine = Some(EngineActivity { model: model.to_owned(), state });
        Activity { engine, ..Activity::default() }
    }

    #[test]
    fn one_model_of_ours_is_marked_and_those_of_others_never() {
        let text = br#"[{"name": "a", "backend": "vllm"}, {"name": "b", "backend": "vllm"},
            {"name": "c", "backend": "gguf"}]"#;
        let mut listing = list(text, &ListingRules::default(), &Activity::default());
        let external = ("external", false);
        assert_eq!(states(&listing), [("stopped", false), ("stopped", false), external]);
        assert!(listing.mark(&running("b", "ready")));
        assert_eq!(states(&listing), [("stopped", false), ("ready", true), external]);
        assert!(!listing.mark(&running("b", "ready")), "no news");
        assert!(listing.mark(&running("a", "loading")));
        assert_eq!(states(&listing), [("loading", false), ("stopped", false), external]);
        assert!(listing.mark(&running("c", "ready")));
        assert!(!listing.mark(&Activity::default()));
        assert_eq!(states(&listing), [("stopped", false), ("stopped", false), external]);
    }

    fn asked(reachable: bool, tags: &[&str], loaded: &[&str]) -> Activity {
        let tag = |name: &&str| OllamaTag {
            name: (*name).to_owned(),
            capabilities: Some(vec!["completion".into(), "vision".into(), "thinking".into()]),
            size: Some(7),
        };
        let ollama = OllamaActivity {
            reachable,
            tags: tags.iter().map(tag).collect(),
            loaded: loaded.iter().map(|name| (*name).to_owned()).collect(),
        };
        let base = "http://127.0.0.1:11434/v1".to_owned();
        Activity { engine: None, ollama: Arc::new(BTreeMap::from([(base, ollama)])) }
    }

    #[test]
    fn ollama_says_what_it_has_and_what_it_has_loaded() {
        let text = br#"[{"name": "x", "backend": "ollama"}, {"name": "y:7b", "backend": "ollama"},
            {"name": "ready", "backend": "ollama", "backend_config": {"host": "elsewhere.example"}}]"#;
        let rules = ListingRules::default();
        let unknown = list(text, &rules, &Activity::default());
        assert_eq!(states(&unknown), [("unknown", false); 3]);
        assert_eq!(unknown.shown.len(), 3, "not asked yet: all may be there");

        let first = asked(true, &["x:latest"], &["X:latest"]);
        let listing = list(text, &rules, &first);
        let elsewhere = ("unknown", false);
        assert_eq!(states(&listing), [("ready", true), ("missing", false), elsewhere]);
        let shown = |listing: &Listing| -> Vec<_> {
            listing.shown.iter().map(|i| listing.items[*i].id.clone()).collect()
        };
        assert_eq!(shown(&listing), ["ready", "x"]);
        let x = serde_json::to_value(&listing.items[0].extensions).unwrap();
        assert_eq!(x["capabilities"], serde_json::json!({"reasoning": true, "vision": true}));
        assert_eq!(x["modalities"], serde_json::json!(["text", "image"]));
        assert_eq!(x["size_bytes"], 7);

        let mut listing = list(text, &rules, &asked(true, &["x:latest", "y:7b"], &["x:latest"]));
        assert!(listing.mark(&asked(true, &["x:latest", "y:7b"], &["y:7b"])));
        assert_eq!(states(&listing), [("stopped", false), ("ready", true), elsewhere]);
        // One that is away has been there: its models stay in the list.
        let away = asked(false, &["x:latest", "y:7b"], &[]);
        assert!(listing.mark(&away));
        assert_eq!(states(&listing), [("unreachable", false), ("unreachable", false), elsewhere]);
        assert!(away.lists_alike(&asked(true, &["x:latest", "y:7b"], &["y:7b"])));
        assert!(!away.lists_alike(&first));
    }
}
