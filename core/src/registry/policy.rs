//! What an entry says about requests to its model (SPEC 4.2, 5).
//!
//! Owns: the fields that request policies go by. Must never do: guess; what is not said is not known.

use serde_json::{Map, Value};

use super::entry::Entry;
use super::truth::is_truthy;
use crate::chat::policy::ModelFacts;
use crate::chat::think::Opener;
use crate::engine::launch::is_flag;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EntryPolicy {
    /// `probes.vision.vision_ok`: somebody has tried.
    pub vision_probe: Option<bool>,
    /// `metadata.default_system_prompt`.
    pub system_prompt: Option<String>,
    /// `generation_defaults`.
    pub defaults: Map<String, Value>,
    /// The long edge that images are scaled to, in pixels.
    pub vision_target_long_edge: Option<u32>,
    /// `metadata.think_opened_by`: who writes the tag before thoughts.
    pub think_opener: Opener,
}

impl EntryPolicy {
    pub(super) fn of(
        metadata: &Map<String, Value>,
        capabilities: &Value,
        probes: &Map<String, Value>,
        defaults: Map<String, Value>,
    ) -> Result<Self, String> {
        let probe = probes.get("vision").and_then(|vision| match vision {
            Value::Object(fields) => fields.get("vision_ok").filter(|ok| !ok.is_null()),
            Value::Null => None,
            other => Some(other),
        });
        let prompt = metadata.get("default_system_prompt").and_then(Value::as_str);
        let inner = |value: Option<&Value>| edge(value?.get("target_long_edge")?);
        let opener = metadata.get("think_opened_by").filter(|value| !value.is_null());
        let think_opener = opener.map(opener_of).transpose()?.unwrap_or_default();
        Ok(EntryPolicy {
            think_opener,
            vision_probe: probe.map(is_truthy),
            system_prompt: prompt.filter(|prompt| !prompt.trim().is_empty()).map(str::to_owned),
            defaults,
            vision_target_long_edge: metadata
                .get("vision_target_long_edge")
                .and_then(edge)
                .or_else(|| inner(metadata.get("vision")))
                .or_else(|| inner(capabilities.get("vision"))),
        })
    }
}

fn opener_of(value: &Value) -> Result<Opener, String> {
    value.as_str().and_then(Opener::from_word).ok_or_else(|| {
        format!("`metadata.think_opened_by` is {value}; use \"prompt\" or \"model\"")
    })
}

/// A length in pixels; 0 says nothing.
fn edge(value: &Value) -> Option<u32> {
    let number = value.as_u64().or_else(|| value.as_str()?.trim().parse().ok())?;
    u32::try_from(number).ok().filter(|edge| *edge > 0)
}

impl Entry {
    /// Whether thoughts may stand in the text of its answers: it thinks, and its engine does not take
    /// them out.
    pub fn thinks_in_text(&self) -> bool {
        let parsed =
            self.backend_config.extra_args.iter().any(|arg| is_flag(arg, "--reasoning-parser"));
        self.capabilities.get("reasoning") == Some(true) && !parsed
    }

    /// What policies need to know. `reported`: what Ollama says of its model's eyes. A probe goes before
    /// capabilities; where capabilities are given and vision is not among them, it sees nothing.
    pub fn facts(&self, reported: Option<bool>) -> ModelFacts<'_> {
        let flags = &self.capabilities;
        let declared = flags.iter().next().is_some();
        let told = (!self.ollama_capabilities.is_empty())
            .then(|| self.ollama_capabilities.iter().any(|c| c.eq_ignore_ascii_case("vision")));
        let vision = self.policy.vision_probe.or(flags.get("vision"));
        ModelFacts {
            name: &self.name,
            backend: &self.backend,
            vision: vision.or(declared.then_some(false)).or(told).or(reported),
            reasoning: flags.get("reasoning") == Some(true),
            tools: flags.get("tools"),
            system_prompt: self.policy.system_prompt.as_deref(),
            defaults: &self.policy.defaults,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn entry(more: &Value) -> Entry {
        let mut all = json!({"name": "m", "backend": "vllm"});
        for (key, value) in more.as_object().unwrap() {
            all[key] = value.clone();
        }
        Entry::parse(all.as_object().unwrap()).unwrap()
    }

    #[test]
    fn a_probe_goes_before_capabilities_and_these_before_what_ollama_says() {
        let probed = |ok: Value| json!({"probes": {"vision": {"vision_ok": ok}}, "capabilities": {"vision": true}});
        for (more, reported, want) in [
            (json!({}), None, None),
            (json!({}), Some(true), Some(true)),
            (json!({"metadata": {"ollama_capabilities": ["completion"]}}), Some(true), Some(false)),
            (json!({"capabilities": {"tools": true}}), Some(true), Some(false)),
            (json!({"capabilities": ["vl"]}), None, Some(true)),
            (json!({"metadata": {"vision": {"enabled": true}}}), None, Some(true)),
            (probed(json!(false)), Some(true), Some(false)),
            (probed(Value::Null), None, Some(true)),
        ] {
            assert_eq!(entry(&more).facts(reported).vision, want, "{more}");
        }
    }

    #[test]
    fn thoughts_are_looked_for_where_no_engine_takes_them_out() {
        let thinks = json!({"capabilities": {"reasoning": true}});
        assert!(entry(&thinks).thinks_in_text());
        assert!(!entry(&json!({})).thinks_in_text());
        for args in [json!(["--reasoning-parser", "qwen3"]), json!(["--reasoning_parser=qwen3"])] {
            let mut parsed = thinks.clone();
            parsed["backend_config"] = json!({"extra_args": args});
            assert!(!entry(&parsed).thinks_in_text());
        }
    }

    #[test]
    fn lengths_and_prompts_are_read_wherever_they_stand() {
        for more in [
            json!({"metadata": {"vision_target_long_edge": 336}}),
            json!({"metadata": {"vision": {"target_long_edge": "336"}}}),
            json!({"capabilities": {"vision": {"enabled": true, "target_long_edge": 336}}}),
        ] {
            assert_eq!(entry(&more).policy.vision_target_long_edge, Some(336), "{more}");
        }
        let none = entry(
            &json!({"metadata": {"vision_target_long_edge": 0, "default_system_prompt": " "}}),
        );
        assert_eq!(none.policy, EntryPolicy::default());
        let opened = |by: Value| json!({"name": "m", "backend": "vllm", "metadata": {"think_opened_by": by}});
        let read = Entry::parse(opened(json!("prompt")).as_object().unwrap()).unwrap();
        assert_eq!(read.policy.think_opener, Opener::Prompt);
        let error = Entry::parse(opened(json!("me")).as_object().unwrap()).unwrap_err();
        assert!(error.contains("think_opened_by") && error.contains("prompt"), "{error}");
        let prompted = entry(
            &json!({"metadata": {"default_system_prompt": "be kind"}, "generation_defaults": {"top_p": 0.5}}),
        );
        assert_eq!(prompted.facts(None).system_prompt, Some("be kind"));
        assert_eq!(prompted.facts(None).defaults["top_p"], 0.5);
    }
}
