//! Which of the listed models holds the engine's port.
//!
//! Owns: the states of our engines as the list shows them. Must never do: touch a line of a server
//! that somebody else runs.

use super::Listing;

/// The model that holds the engine's port, and how far it has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Activity {
    /// Its logical name.
    pub model: String,
    /// `loading`, `ready`, `draining` or `stopping`.
    pub state: &'static str,
}

/// No engine of this model runs.
pub(super) const STOPPED: &str = "stopped";
/// Whatever an engine of ours can be.
const ENGINE_STATES: [&str; 5] = [STOPPED, "loading", "ready", "draining", "stopping"];

impl Listing {
    /// Says which model holds the engine's port now; answers whether that changed a line.
    pub fn mark(&mut self, activity: Option<&Activity>) -> bool {
        let mut changed = false;
        for item in &mut self.items {
            let shown = &mut item.extensions;
            if !ENGINE_STATES.contains(&shown.state) {
                continue; // somebody else's server
            }
            let state =
                activity.filter(|a| a.model == shown.logical_id).map_or(STOPPED, |a| a.state);
            let active = matches!(state, "ready" | "draining");
            changed |= (shown.state, shown.active) != (state, active);
            (shown.state, shown.active) = (state, active);
        }
        changed
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

    #[test]
    fn one_model_of_ours_is_marked_and_those_of_others_never() {
        let text = br#"[{"name": "a", "backend": "vllm"}, {"name": "b", "backend": "vllm"},
            {"name": "c", "backend": "gguf"}]"#;
        let rules = EndpointRules { vllm_single_port: true, ..EndpointRules::default() };
        let snapshot = Snapshot::load("r", text, &rules).unwrap();
        let mut listing = snapshot.list(&ListingRules::default(), LayerTimes::default(), &Empty);
        let states = |listing: &Listing| -> Vec<_> {
            listing.items.iter().map(|i| (i.extensions.state, i.extensions.active)).collect()
        };
        let external = ("external", false);
        assert_eq!(states(&listing), [("stopped", false), ("stopped", false), external]);
        let of = |model: &str, state| Activity { model: model.to_owned(), state };
        assert!(listing.mark(Some(&of("b", "ready"))));
        assert_eq!(states(&listing), [("stopped", false), ("ready", true), external]);
        assert!(!listing.mark(Some(&of("b", "ready"))), "no news");
        assert!(listing.mark(Some(&of("a", "loading"))));
        assert_eq!(states(&listing), [("loading", false), ("stopped", false), external]);
        assert!(listing.mark(Some(&of("c", "ready"))));
        assert!(!listing.mark(None));
        assert_eq!(states(&listing), [("stopped", false), ("stopped", false), external]);
    }
}
