//! The model list as `GET /v1/models` shows it.
//!
//! Owns: which entries are shown, under which id, in which order. Must never do: ask a backend.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use super::entry::Entry;
use super::resolve::normalize;
use super::snapshot::{Snapshot, preference};

/// One line of the list, in `OpenAI`'s form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Item {
    /// The display name, or the logical one where display names clash.
    pub id: String,
    /// Always `model`.
    pub object: &'static str,
    /// Unix seconds.
    pub created: u64,
    /// Always `imageworks`.
    pub owned_by: &'static str,
}

/// What is shown.
#[derive(Debug, Clone, Copy, Default)]
pub struct Filter {
    /// Also entries that are fixtures for tests.
    pub include_test_models: bool,
}

impl Snapshot {
    /// The list, sorted by id without regard to case; `created` for entries that do not say.
    pub fn list(&self, filter: Filter, created: u64) -> Vec<Item> {
        let shown = self.shown(filter);
        let mut uses: HashMap<&str, usize> = HashMap::new();
        for entry in &shown {
            *uses.entry(entry.display()).or_default() += 1;
        }
        let mut items: Vec<Item> = shown
            .iter()
            .map(|entry| {
                let clash = uses.get(entry.display()).is_some_and(|n| *n > 1);
                let id = if clash { entry.name.as_str() } else { entry.display() };
                Item { id: id.to_owned(), object: "model", created, owned_by: "imageworks" }
            })
            .collect();
        items.sort_by_cached_key(|item| (item.id.to_lowercase(), item.id.clone()));
        items
    }

    fn shown(&self, filter: Filter) -> Vec<&Entry> {
        let mut order: Vec<usize> = (0..self.entries().len()).collect();
        order.sort_by_key(|i| preference(&self.entries()[*i]));
        let mut targets = HashSet::new();
        order.retain(|i| {
            let entry = &self.entries()[*i];
            !entry.deprecated
                && (filter.include_test_models || !is_test_model(entry))
                && targets.insert(self.target(*i))
        });
        order.into_iter().map(|i| &self.entries()[i]).collect()
    }
}

/// SPEC 4.4.
fn is_test_model(entry: &Entry) -> bool {
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
    use serde_json::json;

    #[test]
    fn the_list_is_sorted_deduplicated_and_free_of_fixtures() {
        let text = json!([
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
        let snapshot =
            Snapshot::load("r", text.to_string().as_bytes(), &EndpointRules::default()).unwrap();
        let ids =
            |filter| snapshot.list(filter, 7).into_iter().map(|item| item.id).collect::<Vec<_>>();
        assert_eq!(ids(Filter::default()), ["Alpha", "m1", "m2", "tag-a", "zeta"]);
        let all = ids(Filter { include_test_models: true });
        assert!(all.contains(&"fixture".to_owned()) && all.contains(&"testmodel-1".to_owned()));
    }
}
