//! What the bodies ask of the core: tools that were offered, how thoughts and fields leave.
//!
//! Owns: every rule that a body can set, by the switches of its input. Must never do: assert.

use std::sync::Arc;

use chat_proxy_core::chat::fields::{FieldRules, Foreign, ReasoningField};
use chat_proxy_core::chat::harmonise::{Offered, ToolFields};
use chat_proxy_core::chat::think::{Opener, ThinkFormat, Thinking};
use chat_proxy_core::chat::tool_calls::TextRules;
use serde_json::{Value, json};

use crate::input::Input;

/// A foreign field that was asked for.
pub(crate) const ASKED: &str = "token_ids";

/// What tools are offered; `format`: the request also asked for a form of the answer.
pub(crate) fn offered(format: bool) -> Arc<Offered> {
    let (tools, asked) = (tools(), json!({"type": "json_object"}));
    let fields = ToolFields {
        tools: Some(&tools),
        response_format: format.then_some(&asked),
        ..ToolFields::default()
    };
    Arc::new(Offered::read(&fields))
}

fn tools() -> Value {
    let function = |name: &str, parameters: Value| json!({"type": "function", "function": {"name": name, "parameters": parameters}});
    let run = json!({"type": "object", "properties": {
        "text": {"type": "string"}, "maybe": {"type": ["string", "null"]},
        "flag": {"type": "boolean"}, "count": {"type": "integer"}}});
    json!([
        function("run", run),
        function("runner", json!({})),
        function("get_weather", json!({"properties": {"city": {"enum": ["Bern", "Basel"]}}})),
        function("für", json!({"properties": true})),
    ])
}

/// How text is read: a format of the answer by the first of these switches, thoughts by the two behind
/// it, who opens them by the next two; with the last one no tool is offered.
pub(crate) fn text(input: &Input<'_>, from: u32) -> TextRules {
    let on = |switch: u32| input.on(from + switch);
    let format = match (on(1), on(2)) {
        (false, false) => None,
        (true, false) => Some(ThinkFormat::Keep),
        (false, true) => Some(ThinkFormat::Extract),
        (true, true) => Some(ThinkFormat::Strip),
    };
    let thinking = format.map(|format| Thinking { format, opener: opener(on(3), on(4)) });
    TextRules { offered: (!on(5)).then(|| offered(on(0))), thinking }
}

/// Who opens thoughts.
pub(crate) fn opener(prompt: bool, model: bool) -> Opener {
    match (prompt, model) {
        (true, _) => Opener::Prompt,
        (false, true) => Opener::Model,
        (false, false) => Opener::Unknown,
    }
}

/// Which fields leave.
pub(crate) fn fields(reasoning: ReasoningField, removes: bool) -> FieldRules {
    let foreign = if removes { Foreign::Go { asked: vec![ASKED] } } else { Foreign::Stay };
    FieldRules { reasoning, foreign }
}
