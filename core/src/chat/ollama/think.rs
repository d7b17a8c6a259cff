//! How much a model shall think: `reasoning_effort` and its relatives, as Ollama's `think`.
//!
//! Owns: the ways in which a request can ask for it, and which of them holds. Must never do: send
//! a wish that Ollama refuses because the model cannot think.

use serde_json::Value;

use super::Pinned;
use super::fields::{Fields, wrong};
use super::losses::Losses;
use crate::error::ApiError;

/// What Ollama's `think` can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Think {
    /// Not at all.
    Off,
    /// As much as the model likes.
    On,
    /// A little.
    Low,
    /// Some.
    Medium,
    /// Much.
    High,
    /// As much as it can.
    Max,
}

impl Think {
    /// Reads a level as OpenAI's `reasoning_effort` names them; `None`: there is no such level.
    /// Those that Ollama does not know become the nearest that it does.
    pub fn from_effort(effort: &str) -> Option<Think> {
        Some(match effort {
            "none" => Think::Off,
            "minimal" | "low" => Think::Low,
            "medium" => Think::Medium,
            "high" => Think::High,
            "max" | "xhigh" | "ultra" => Think::Max,
            _ => return None,
        })
    }

    /// The value of the native field.
    pub fn value(self) -> Value {
        match self {
            Think::Off => Value::Bool(false),
            Think::On => Value::Bool(true),
            Think::Low => "low".into(),
            Think::Medium => "medium".into(),
            Think::High => "high".into(),
            Think::Max => "max".into(),
        }
    }
}

impl From<bool> for Think {
    fn from(on: bool) -> Self {
        if on { Think::On } else { Think::Off }
    }
}

/// A wish and the field that it stood in.
type Wish = Option<(&'static str, Think)>;

/// What to send as `think`, if anything. The first field that says something holds.
pub(super) fn wanted(
    fields: &mut Fields,
    pinned: &Pinned,
    losses: &mut Losses,
) -> Result<Option<Think>, ApiError> {
    // All are read, also those that do not hold: each must make sense.
    let wishes =
        [effort(fields)?, reasoning(fields, losses)?, native(fields)?, template(fields, losses)?];
    let wish = wishes.into_iter().flatten().next();
    if pinned.can_think == Some(false) {
        if let Some((field, think)) = wish
            && think != Think::Off
        {
            losses.dropped(field);
        }
        return Ok(None);
    }
    Ok(wish.map(|(_, think)| think).or(pinned.think))
}

fn effort(fields: &mut Fields) -> Result<Wish, ApiError> {
    let effort = fields.text("reasoning_effort")?;
    effort.map(|effort| level("reasoning_effort", &effort)).transpose()
}

/// `reasoning.effort`, as OpenAI's newer API and several gateways have it.
fn reasoning(fields: &mut Fields, losses: &mut Losses) -> Result<Wish, ApiError> {
    let Some(mut reasoning) = fields.object("reasoning")? else {
        return Ok(None);
    };
    let effort = reasoning.text("effort")?;
    losses.rest("reasoning", &reasoning);
    effort.map(|effort| level("reasoning.effort", &effort)).transpose()
}

/// Ollama's own field.
fn native(fields: &mut Fields) -> Result<Wish, ApiError> {
    match fields.take("think") {
        None => Ok(None),
        Some(Value::Bool(on)) => Ok(Some(("think", on.into()))),
        Some(Value::String(text)) => level("think", &text).map(Some),
        Some(_) => Err(wrong("think", "true, false or a level such as \"low\"")),
    }
}

/// The switch of the chat templates of vLLM's models.
fn template(fields: &mut Fields, losses: &mut Losses) -> Result<Wish, ApiError> {
    let Some(mut kwargs) = fields.object("chat_template_kwargs")? else {
        return Ok(None);
    };
    let first = kwargs.flag("enable_thinking")?;
    let second = kwargs.flag("thinking")?;
    losses.rest("chat_template_kwargs", &kwargs);
    let wish = |field, on: bool| (field, on.into());
    Ok(first
        .map(|on| wish("chat_template_kwargs.enable_thinking", on))
        .or(second.map(|on| wish("chat_template_kwargs.thinking", on))))
}

fn level(field: &'static str, effort: &str) -> Result<(&'static str, Think), ApiError> {
    match Think::from_effort(effort) {
        Some(think) => Ok((field, think)),
        None => Err(wrong(field, "one of none, minimal, low, medium, high, xhigh, max")),
    }
}
