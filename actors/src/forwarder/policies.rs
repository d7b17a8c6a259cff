//! The policies of a chat request (SPEC 5), once its model is known.
//!
//! Owns: what of the registry and the settings they are told, and what is said of their work. Must never
//! do: decide; `core::chat::policy` does.

use std::collections::BTreeMap;

use chat_proxy_core::chat::policy::{self, Keep, PolicyRules};
use chat_proxy_core::config::Settings;
use chat_proxy_core::registry::Placement;
use chat_proxy_core::{ApiError, Code};

use super::Shared;
use super::cargo::Outgoing;
use super::entrance;
use super::messages::Labels;
use super::patience;
use super::prepare::{Found, Prepared};
use super::reply::Reply;
use super::template;
use crate::transcript::Transcript;

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

/// The request as its model is to get it, and the way back to its client; `None`: the request has
/// ended.
pub(super) async fn apply(
    shared: &Shared,
    prepared: &Prepared,
    request: Outgoing,
    mut reply: Reply,
    transcript: &mut Transcript,
) -> Option<(Outgoing, Reply)> {
    let found = &prepared.found;
    let Outgoing::Chat(chat) = request else {
        reply.label(Labels { model: found.model.clone(), policy: None });
        return Some((request, reply));
    };
    let required = template::require(shared, prepared, &mut reply, transcript).await;
    let ((), reply) = patience::settled(required, reply, transcript)?;
    let mut facts = found.entry().facts(reported_vision(shared, found));
    if prepared.probes_vision {
        facts.vision = Some(true);
    }
    let planned = policy::plan(&chat, &facts, &shared.settings.policies);
    let planned = Ok(planned.map_err(|refusal| with_seers(shared, refusal)));
    let (planned, mut reply) = patience::settled(planned, reply, transcript)?;
    let images = planned.images();
    let sees = facts.vision == Some(true);
    let scaled = if images.is_empty() {
        Ok(Ok(BTreeMap::new()))
    } else {
        let scaling = async {
            // Images cost: not for those who are refused anyway.
            entrance::foresee(shared, prepared).await?;
            shared.turns.scaler.scale(chat.body(), &images, found.entry(), sees).await
        };
        let state = "images are scaled";
        patience::wait(shared, prepared.stream, state, scaling, &mut reply, transcript).await
    };
    let (anew, mut reply) = patience::settled(scaled, reply, transcript)?;
    let outcome = planned.finish(&anew);
    transcript.record().policy = outcome.changes.record();
    reply.label(Labels { model: found.model.clone(), policy: outcome.changes.header() });
    Some((Outgoing::Chat(chat.with_edits(outcome.edits)), reply))
}

/// Names those who see, to somebody who asked one who does not.
fn with_seers(shared: &Shared, refusal: ApiError) -> ApiError {
    const SHOWN: usize = 3;
    let view = shared.registry.load();
    let listed = view.listing.shown.iter().filter_map(|at| view.listing.items.get(*at));
    let seers = listed.filter(|item| item.capability("vision") == Some(true));
    let names: Vec<&str> = seers.take(SHOWN).map(|item| item.id.as_str()).collect();
    if names.is_empty() || refusal.code != Code::CapabilityMismatch || !is_about_images(&refusal) {
        return refusal;
    }
    refusal.hint(format!(
        "choose a model with vision, such as {}, or give each image an alt_text",
        names.join(", ")
    ))
}

fn is_about_images(refusal: &ApiError) -> bool {
    refusal.param.as_deref().is_some_and(|field| field.starts_with("messages["))
}

/// What Ollama says of its model's eyes, if it has been asked.
fn reported_vision(shared: &Shared, found: &Found) -> Option<bool> {
    let Placement::Ollama(model) = &found.placement else { return None };
    let view = shared.registry.load();
    let tag = view.activity.ollama_of(model)?.tag(&model.tag)?;
    Some(tag.capabilities.as_ref()?.iter().any(|ability| ability == "vision"))
}
