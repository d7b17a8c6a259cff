//! What `model: "resident"` means (SPEC 6.6): whatever is loaded.
//!
//! Owns: the choice. Must never do: cause a load; what is not there is not chosen.

use super::endpoint::Placement;
use super::listing::Activity;
use super::snapshot::{Snapshot, preference, reserved};
use crate::error::ApiError;

/// The name that asks for it.
pub const RESIDENT: &str = "resident";

impl Snapshot {
    /// The position of the entry that is loaded, or loads: the engine's, else one that an Ollama on
    /// this GPU has loaded.
    pub fn resident(&self, activity: &Activity) -> Result<usize, ApiError> {
        let engine = activity.engine.as_ref();
        let engine = engine.filter(|e| matches!(e.state, "loading" | "ready" | "draining"));
        let at_engine = engine
            .and_then(|engine| self.entries().iter().position(|entry| entry.name == engine.model));
        at_engine.or_else(|| self.loaded_at_ollama(activity)).ok_or_else(|| reserved(RESIDENT))
    }

    fn loaded_at_ollama(&self, activity: &Activity) -> Option<usize> {
        let loaded = |position: &usize| match self.placement(*position) {
            Placement::Ollama(model) if model.shares_gpu => activity
                .ollama_of(model)
                .is_some_and(|ollama| ollama.reachable && ollama.has_loaded(&model.tag)),
            _ => false,
        };
        let entries = self.entries();
        (0..entries.len()).filter(loaded).min_by_key(|at| preference(&entries[*at]))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::error::Code;
    use crate::registry::EndpointRules;
    use crate::registry::listing::{EngineActivity, OllamaActivity};
    use std::collections::BTreeMap;
    use std::sync::Arc;

    const ENTRIES: &[u8] = br#"[
        {"name": "a", "backend": "vllm", "backend_config": {"model_path": "/m/a"}},
        {"name": "old", "backend": "ollama", "served_model_id": "t:1b", "deprecated": true},
        {"name": "tag", "backend": "ollama", "served_model_id": "t:1b"},
        {"name": "cpu", "backend": "ollama", "served_model_id": "c",
         "backend_config": {"uses_gpu": false}}
    ]"#;

    fn snapshot() -> Snapshot {
        let rules = EndpointRules { vllm_single_port: true, ..EndpointRules::default() };
        Snapshot::load("r", ENTRIES, &rules).unwrap()
    }

    fn name(snapshot: &Snapshot, activity: &Activity) -> Result<String, Code> {
        let found = snapshot.resident(activity).map_err(|error| error.code)?;
        Ok(snapshot.entries()[found].name.clone())
    }

    fn engine(model: &str, state: &'static str) -> Activity {
        let engine = Some(EngineActivity { model: model.to_owned(), state });
        Activity { engine, ..Activity::default() }
    }

    fn ollama(snapshot: &Snapshot, loaded: &[&str]) -> Arc<BTreeMap<String, OllamaActivity>> {
        let Placement::Ollama(model) = snapshot.placement(2) else { panic!("no Ollama") };
        let loaded = loaded.iter().map(|&tag| tag.to_owned()).collect();
        let activity = OllamaActivity { reachable: true, loaded, ..OllamaActivity::default() };
        Arc::new(BTreeMap::from([(model.server.base().to_owned(), activity)]))
    }

    #[test]
    fn it_is_the_engines_model_while_that_can_answer() {
        let snapshot = snapshot();
        for state in ["loading", "ready", "draining"] {
            let activity = engine("a", state);
            assert_eq!(name(&snapshot, &activity), Ok("a".to_owned()), "{state}");
        }
        let stopping = engine("a", "stopping");
        let unknown = engine("gone", "ready");
        for none in [stopping, unknown, Activity::default()] {
            assert_eq!(name(&snapshot, &none), Err(Code::NoResident), "{none:?}");
        }
    }

    #[test]
    fn or_what_ollama_has_on_the_gpu_by_the_name_that_is_listed() {
        let snapshot = snapshot();
        let loaded = ollama(&snapshot, &["t:1b", "c:latest"]);
        let activity = Activity { ollama: loaded, ..Activity::default() };
        assert_eq!(name(&snapshot, &activity), Ok("tag".to_owned()));
        let on_the_cpu = ollama(&snapshot, &["c:latest"]);
        let activity = Activity { ollama: on_the_cpu, ..Activity::default() };
        assert_eq!(name(&snapshot, &activity), Err(Code::NoResident));
    }
}
