//! What becomes of answers on their way to the client (SPEC 5.6), by settings, model and request.
//!
//! Owns: which rules an answer gets. Must never do: apply them; `core::chat` does.

use std::sync::Arc;

use chat_proxy_core::chat::fields::{FieldRules, Foreign, ReasoningField};
use chat_proxy_core::chat::harmonise::Offered;
use chat_proxy_core::chat::request::ChatRequest;
use chat_proxy_core::chat::think::{self, Opener, ThinkFormat, Thinking};
use chat_proxy_core::chat::tool_calls::{self, TextRules};
use chat_proxy_core::config::Settings;
use chat_proxy_core::registry::Entry;

/// What the operator wants of all answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnswerSettings {
    /// Calls are put into one form.
    pub normalises_tools: bool,
    /// What becomes of thoughts that stand in the text.
    pub think_format: ThinkFormat,
    /// The names under which clients get reasoning.
    pub reasoning_field: ReasoningField,
    /// Fields that are not `OpenAI`'s go.
    pub suppress_decorations: bool,
}

impl AnswerSettings {
    /// The part of the settings that decides.
    pub fn of(settings: &Settings) -> Self {
        let (general, limits) = (&settings.general, &settings.limits);
        AnswerSettings {
            normalises_tools: !general.disable_tool_normalization,
            think_format: ThinkFormat::from_word(&limits.reasoning_format).unwrap_or_default(),
            reasoning_field: ReasoningField::from_word(&limits.reasoning_field).unwrap_or_default(),
            suppress_decorations: general.suppress_decorations,
        }
    }
}

/// What becomes of one answer.
#[derive(Debug, Clone)]
pub(super) struct AnswerRules {
    /// Its fields.
    pub(super) fields: FieldRules,
    /// What stands in its text.
    pub(super) text: TextRules,
}

impl AnswerSettings {
    /// For the answer to a request of the chat endpoint.
    pub(super) fn of_chat(self, chat: &ChatRequest, entry: &Entry) -> AnswerRules {
        let offered = if self.normalises_tools { tool_calls::offered(chat) } else { None };
        let foreign = if self.suppress_decorations {
            Foreign::Go { asked: chat.asked_fields().to_vec() }
        } else {
            Foreign::Stay
        };
        AnswerRules {
            fields: FieldRules { reasoning: self.reasoning_field, foreign },
            text: TextRules { thinking: self.thinking(chat, entry, offered.as_ref()), offered },
        }
    }

    /// For the answer to any other request.
    pub(super) fn of_others(self) -> AnswerRules {
        let fields = FieldRules { reasoning: self.reasoning_field, foreign: Foreign::Stay };
        AnswerRules { fields, text: TextRules::default() }
    }

    fn thinking(
        self,
        chat: &ChatRequest,
        entry: &Entry,
        offered: Option<&Arc<Offered>>,
    ) -> Option<Thinking> {
        let format = self.think_format;
        // Where thoughts stay in the text they matter to the search for calls alone.
        let matters = format != ThinkFormat::Keep || offered.is_some();
        if !matters || !entry.thinks_in_text() {
            return None;
        }
        let off = think::is_off(chat.body());
        let opener = if off { Opener::Model } else { entry.policy.think_opener };
        Some(Thinking { format, opener })
    }
}
