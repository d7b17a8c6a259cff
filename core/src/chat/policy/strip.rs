//! Images for a model that sees none (SPEC 5.2).
//!
//! Owns: what stands in an image's place. Must never do: take an image of the current turn away
//! that nobody has described.

use super::plan::{Fate, Plan};
use super::view::{Message, PartKind};
use crate::error::{ApiError, Code};

const PLACEHOLDER: &str = "[Image omitted: model does not support vision content]";

/// Takes the images out; answers how many.
pub(super) fn strip_images(plan: &mut Plan, model: &str) -> Result<usize, ApiError> {
    let current = plan.messages.current().unwrap_or(0);
    let mut stripped = 0;
    for (at, message) in plan.messages.all.iter().enumerate() {
        if !message.has_image() {
            continue;
        }
        let undescribed = |kind: &PartKind| matches!(kind, PartKind::Image { alt_text: None, .. });
        if at >= current && message.parts().iter().any(|part| undescribed(&part.kind)) {
            return Err(refusal(model, at));
        }
        stripped += message.images().count();
        plan.fates[at] = reworded(message);
    }
    Ok(stripped)
}

fn refusal(model: &str, at: usize) -> ApiError {
    ApiError::new(Code::CapabilityMismatch, format!("{model} cannot see images"))
        .param(format!("messages[{at}].content"))
        .hint("choose a model with vision (GET /v1/models), or give each image an alt_text")
}

/// One text, where there is nothing else than texts and images; else only the images are replaced.
fn reworded(message: &Message) -> Fate {
    let words = |kind: &PartKind| match kind {
        PartKind::Text(text) => Some(text.clone()),
        PartKind::Image { alt_text, .. } => Some(match alt_text {
            Some(alt) => format!("{PLACEHOLDER} (alt: {alt})"),
            None => PLACEHOLDER.to_owned(),
        }),
        PartKind::Other => None,
    };
    let all: Option<Vec<String>> = message.parts().iter().map(|part| words(&part.kind)).collect();
    if let Some(texts) = all {
        return Fate::Reworded(texts.join("\n"));
    }
    let images = message.images();
    let texts = images.filter_map(|part| Some((part.place.clone(), words(&part.kind)?)));
    Fate::Parts(texts.collect())
}
