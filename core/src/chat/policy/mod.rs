//! What is done to a chat request before it goes to its backend (SPEC 5).
//!
//! Owns: the order of the policies and what is said of them. Must never do: wait, decode an image, or
//! touch a byte that no policy changes.

mod changes;
mod defaults;
mod history;
mod plan;
mod strip;
#[cfg(test)]
mod tests;
mod view;

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use memchr::memmem;
use serde_json::{Map, Value};

pub use changes::Changes;
pub use history::Keep;
use plan::Plan;
use view::{Messages, Role};

use super::edits::Edit;
use super::request::ChatRequest;
use crate::error::{ApiError, Code};

/// What is known of the model.
#[derive(Debug, Clone, Copy)]
pub struct ModelFacts<'a> {
    /// Its logical name.
    pub name: &'a str,
    /// The kind of its backend.
    pub backend: &'a str,
    /// Whether it sees images; `None`: nobody knows, and its backend shall say.
    pub vision: Option<bool>,
    /// It is a reasoning model.
    pub reasoning: bool,
    /// Whether it can call tools.
    pub tools: Option<bool>,
    /// `metadata.default_system_prompt`.
    pub system_prompt: Option<&'a str>,
    /// `generation_defaults`.
    pub defaults: &'a Map<String, Value>,
}

/// What the operator wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PolicyRules {
    /// What stays of requests with images; `None`: all.
    pub vision_history: Option<Keep>,
    /// What stays of requests to reasoning models; `None`: all.
    pub reasoning_history: Option<Keep>,
    /// Tools are refused for models that are flagged as having none.
    pub strict_capabilities: bool,
}

/// What the policies do to a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Changes of its body.
    pub edits: Vec<Edit>,
    /// What is said of them.
    pub changes: Changes,
}

/// What is to be done, but for the images: those cost too much to be done here.
#[derive(Debug, Default)]
pub struct Planned {
    plan: Option<Plan>,
    edits: Vec<Edit>,
    changes: Changes,
}

impl Planned {
    /// Where the addresses of the inline images stand that are sent, quotes included.
    pub fn images(&self) -> Vec<Range<usize>> {
        self.plan.as_ref().map(Plan::inline_images).unwrap_or_default()
    }

    /// All of it. `anew`: other addresses of images, by where the old ones begin.
    pub fn finish(mut self, anew: &BTreeMap<usize, Bytes>) -> Outcome {
        self.edits.extend(self.plan.iter().flat_map(|plan| plan.edits(anew)));
        self.changes.images_downscaled = anew.len();
        Outcome { edits: self.edits, changes: self.changes }
    }
}

/// Finds out what is to be done; an error: the model cannot do what is asked.
pub fn plan(
    chat: &ChatRequest,
    model: &ModelFacts<'_>,
    rules: &PolicyRules,
) -> Result<Planned, ApiError> {
    if rules.strict_capabilities && model.tools == Some(false) && chat.offers_tools() {
        let message = format!("{} cannot call tools", model.name);
        return Err(ApiError::new(Code::CapabilityMismatch, message)
            .param("tools")
            .hint("choose another model, or turn strict_capabilities off"));
    }
    let mut planned = Planned::default();
    if looks_at_messages(chat.body(), model, rules) {
        let messages = Messages::read(chat.text(), chat.messages())?;
        let mut plan = Plan::new(chat.body().clone(), messages);
        change_messages(&mut plan, model, rules, &mut planned.changes)?;
        planned.plan = Some(plan);
    }
    if !model.defaults.is_empty() {
        let (edits, filled) =
            defaults::fill_in(chat.text(), chat.insert_at(), model.defaults, model.backend);
        planned.edits = edits;
        planned.changes.defaults = filled;
    }
    Ok(planned)
}

/// Whether anything can follow from the messages. To read them costs more than all else here.
fn looks_at_messages(body: &Bytes, model: &ModelFacts<'_>, rules: &PolicyRules) -> bool {
    let reasons = model.reasoning && rules.reasoning_history.is_some();
    // No image goes without one of these words, whatever its form.
    let images = || memmem::find(body, b"image").is_some() || memmem::find(body, b"\\u").is_some();
    reasons || model.system_prompt.is_some() || images()
}

fn change_messages(
    plan: &mut Plan,
    model: &ModelFacts<'_>,
    rules: &PolicyRules,
    changes: &mut Changes,
) -> Result<(), ApiError> {
    let has_images = plan.messages.all.iter().any(view::Message::has_image);
    if has_images && model.vision == Some(false) {
        changes.images_stripped = strip::strip_images(plan, model.name)?;
    }
    let sees = has_images && model.vision == Some(true);
    let vision = rules.vision_history.filter(|_| sees);
    let reasoning = rules.reasoning_history.filter(|_| model.reasoning && !sees);
    if let Some(keep) = vision.or(reasoning) {
        let cut = history::truncate(plan, keep, vision.is_some());
        (changes.turns_dropped, changes.images_carried) = (cut.turns, cut.images);
    }
    let has_system = plan.kept().any(|(_, m)| matches!(m.role, Role::System { .. }));
    if let Some(prompt) = model.system_prompt.filter(|_| !has_system) {
        plan.system_prompt = Some(prompt.to_owned());
        changes.system_prompt = true;
    }
    Ok(())
}
