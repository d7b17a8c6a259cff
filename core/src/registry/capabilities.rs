//! What a model can do, out of the many spellings that registries use (SPEC 4.2).
//!
//! Owns: the synonyms. Must never do: guess from a model's name.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::truth::is_truthy;

const VISION: &[&str] = &["vision", "multimodal", "mm", "image", "images", "visual", "vl"];
const REASONING: &[&str] =
    &["reasoning", "thinking", "think", "cot", "chainofthought", "r1", "o1", "o3"];
const TOOLS: &[&str] =
    &["tools", "tool", "tooluse", "toolcalls", "toolcalling", "functioncalling", "functions"];

/// The capabilities of one entry, canonical names first to their truth.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capabilities {
    flags: BTreeMap<String, bool>,
}

impl Capabilities {
    /// Reads `capabilities` (an object of bools or objects, or a list of names) and
    /// `metadata.vision`, which counts where `capabilities` is silent.
    pub fn read(value: &Value, metadata: &Map<String, Value>) -> Self {
        let mut flags = BTreeMap::new();
        match value {
            Value::Object(map) => {
                for (name, value) in map.iter().filter(|(_, value)| !value.is_null()) {
                    *flags.entry(canonical(name)).or_default() |= is_truthy(value);
                }
            }
            Value::Array(names) => {
                flags.extend(names.iter().filter_map(Value::as_str).map(|n| (canonical(n), true)));
            }
            _ => {}
        }
        if let Some(vision) = metadata.get("vision").filter(|v| !v.is_null()) {
            flags.entry("vision".to_owned()).or_insert_with(|| is_truthy(vision));
        }
        Capabilities { flags }
    }

    /// Whether the entry says yes (`Some(true)`), no, or nothing.
    pub fn get(&self, canonical_name: &str) -> Option<bool> {
        self.flags.get(canonical_name).copied()
    }

    /// All flags, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, bool)> {
        self.flags.iter().map(|(name, yes)| (name.as_str(), *yes))
    }
}

/// The one name for all spellings of a capability.
pub(crate) fn canonical(name: &str) -> String {
    let plain: String =
        name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect();
    let groups = [("vision", VISION), ("reasoning", REASONING), ("tools", TOOLS)];
    groups
        .iter()
        .find(|(_, synonyms)| synonyms.contains(&plain.as_str()))
        .map_or_else(|| name.trim().to_lowercase(), |(one, _)| (*one).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(capabilities: &Value, metadata: &Value) -> Capabilities {
        Capabilities::read(capabilities, metadata.as_object().unwrap_or(&Map::new()))
    }

    #[test]
    fn every_synonym_means_its_one_capability() {
        for (name, want) in [
            ("multimodal", "vision"),
            ("MM", "vision"),
            ("vl", "vision"),
            ("thinking", "reasoning"),
            ("r1", "reasoning"),
            ("o1", "reasoning"),
            ("tool_use", "tools"),
            ("function_calling", "tools"),
            ("Function-Calling", "tools"),
            ("embedding", "embedding"),
        ] {
            assert_eq!(read(&json!({name: true}), &json!({})).get(want), Some(true), "{name}");
        }
    }

    #[test]
    fn objects_bools_and_nulls() {
        let caps = read(
            &json!({"vision": {"enabled": true, "target_long_edge": 448}, "tools": false, "reasoning": null}),
            &json!({}),
        );
        assert_eq!(
            (caps.get("vision"), caps.get("tools"), caps.get("reasoning")),
            (Some(true), Some(false), None)
        );
        assert_eq!(
            read(&json!({"vision": {"enabled": false}}), &json!({})).get("vision"),
            Some(false)
        );
        assert_eq!(read(&json!(["vision", "tools"]), &json!({})).get("tools"), Some(true));
    }

    #[test]
    fn metadata_vision_counts_where_capabilities_are_silent() {
        assert_eq!(
            read(&json!({}), &json!({"vision": {"target_long_edge": 448}})).get("vision"),
            Some(true)
        );
        assert_eq!(read(&json!({}), &json!({"vision": true})).get("vision"), Some(true));
        assert_eq!(
            read(&json!({"vision": false}), &json!({"vision": true})).get("vision"),
            Some(false)
        );
    }
}
