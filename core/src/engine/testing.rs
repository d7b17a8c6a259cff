//! Launches for tests.

use std::sync::Arc;

use super::Launch;
use crate::registry::{EndpointRules, Placement, Snapshot};

/// The launches of vLLM entries of these names, as the registry makes them.
pub(crate) fn launches(models: &[&str]) -> Vec<Arc<Launch>> {
    let rules = EndpointRules { vllm_single_port: true, ..EndpointRules::default() };
    let entry = |name: &&str| format!(r#"{{"name": "{name}", "backend": "vllm"}}"#);
    let entries: Vec<String> = models.iter().map(entry).collect();
    let text = format!("[{}]", entries.join(","));
    let snapshot = Snapshot::load("r", text.as_bytes(), &rules).unwrap();
    let launch = |at| match snapshot.placement(at) {
        Placement::SinglePort(launch) => launch.clone(),
        other => panic!("{other:?}"),
    };
    (0..models.len()).map(launch).collect()
}
