//! The policies of a chat request (SPEC 5), once its model is known.
//!
//! Owns: what of the registry and the settings they are told, and what is said of their work. Must never
//! do: decide; `core::chat::policy` does.

use chat_proxy_core::ApiError;
use chat_proxy_core::chat::policy::{self, Changes, Keep, PolicyRules};
use chat_proxy_core::config::Settings;
use chat_proxy_core::registry::Placement;

use super::Shared;
use super::cargo::Outgoing;
use super::prepare::Found;

/// What the operator wants.
pub(super) fn rules(settings: &Settings) -> PolicyRules {
    let (vision, reasoning) = (&settings.vision_history, &settings.reasoning_history);
    let keep = |system, turns: u32| Keep { system, turns: turns as usize };
    PolicyRules {
        vision_history: vision
            .vision_truncate_history
            .then(|| keep(vision.vision_keep_system, vision.vision_keep_last_n_turns)),
        reasoning_history: reasoning
            .reasoning_truncate_history
            .then(|| keep(reasoning.reasoning_keep_system, reasoning.reasoning_keep_last_n_turns)),
        strict_capabilities: settings.limits.strict_capabilities,
    }
}

/// The request as its model is to get it.
pub(super) fn apply(
    shared: &Shared,
    found: &Found,
    request: Outgoing,
) -> Result<(Outgoing, Changes), ApiError> {
    let Outgoing::Chat(chat) = request else { return Ok((request, Changes::default())) };
    let facts = found.entry().facts(reported_vision(shared, found));
    let outcome = policy::apply(&chat, &facts, &shared.settings.policies)?;
    Ok((Outgoing::Chat(chat.with_edits(outcome.edits)), outcome.changes))
}

/// What Ollama says of its model's eyes, if it has been asked.
fn reported_vision(shared: &Shared, found: &Found) -> Option<bool> {
    let Placement::Ollama(model) = &found.placement else { return None };
    let view = shared.registry.load();
    let tag = view.activity.ollama_of(model)?.tag(&model.tag)?;
    Some(tag.capabilities.as_ref()?.iter().any(|ability| ability == "vision"))
}
