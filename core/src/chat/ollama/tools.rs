//! The tools that a request offers, and how far it may say which one is used.
//!
//! Owns: `tools`, `tool_choice` and their legacy forms. Ollama has no `tool_choice`: what can be
//! said by leaving tools out is said so, the rest is named as lost. Must never do: change a tool.

use serde_json::{Value, json};

use super::fields::{Fields, wrong};
use super::losses::Losses;
use crate::error::ApiError;

/// What a request says about the use of tools.
enum Choice {
    Auto,
    None,
    Required,
    /// This one, as the named field has it.
    Named(&'static str, String),
}

/// The tools to offer.
pub(super) fn offered(fields: &mut Fields, losses: &mut Losses) -> Result<Vec<Value>, ApiError> {
    let mut tools = given(fields, losses)?;
    // The native API has no such switch; `true` is what it does.
    if fields.flag("parallel_tool_calls")? == Some(false) {
        losses.dropped("parallel_tool_calls");
    }
    match choice(fields)? {
        Choice::Auto => {}
        Choice::None => tools.clear(),
        Choice::Required => losses.free_tool_choice(),
        Choice::Named(field, name) => {
            tools.retain(|tool| tool_name(tool) == Some(&name));
            if tools.is_empty() {
                let message = format!("`{field}` names a tool that `tools` does not offer");
                return Err(ApiError::invalid(field, message));
            }
            losses.free_tool_choice();
        }
    }
    Ok(tools)
}

fn given(fields: &mut Fields, losses: &mut Losses) -> Result<Vec<Value>, ApiError> {
    let tools = fields.list("tools")?.unwrap_or_default();
    for (i, tool) in tools.iter().enumerate() {
        check(tool, &format!("tools[{i}]"))?;
    }
    let functions = fields.list("functions")?.unwrap_or_default();
    if !tools.is_empty() {
        if !functions.is_empty() {
            losses.dropped("functions");
        }
        return Ok(tools);
    }
    let mut wrapped = Vec::with_capacity(functions.len());
    for (i, function) in functions.into_iter().enumerate() {
        if function.get("name").is_none_or(|name| !name.is_string()) {
            return Err(wrong(&format!("functions[{i}].name"), "a string"));
        }
        wrapped.push(json!({"type": "function", "function": function}));
    }
    Ok(wrapped)
}

fn check(tool: &Value, at: &str) -> Result<(), ApiError> {
    if !tool.is_object() {
        return Err(wrong(at, "an object"));
    }
    if tool.get("type").is_some_and(|kind| kind != "function") {
        return Err(wrong(&format!("{at}.type"), "\"function\": Ollama has no other tools"));
    }
    if tool_name(tool).is_none() {
        return Err(wrong(&format!("{at}.function.name"), "a string"));
    }
    Ok(())
}

fn tool_name(tool: &Value) -> Option<&str> {
    tool.get("function")?.get("name")?.as_str()
}

/// `tool_choice`, else the legacy `function_call`.
fn choice(fields: &mut Fields) -> Result<Choice, ApiError> {
    let legacy = fields.take("function_call");
    if let Some(choice) = fields.take("tool_choice") {
        return read(&choice, "tool_choice", |c| c.get("function")?.get("name"));
    }
    match legacy {
        Some(choice) => read(&choice, "function_call", |c| c.get("name")),
        None => Ok(Choice::Auto),
    }
}

fn read(
    choice: &Value,
    field: &'static str,
    name: impl Fn(&Value) -> Option<&Value>,
) -> Result<Choice, ApiError> {
    match choice.as_str() {
        Some("none") => return Ok(Choice::None),
        Some("auto") => return Ok(Choice::Auto),
        Some("required") => return Ok(Choice::Required),
        _ => {}
    }
    match name(choice).and_then(Value::as_str) {
        Some(name) => Ok(Choice::Named(field, name.to_owned())),
        None => Err(wrong(field, "\"none\", \"auto\", \"required\" or name a function")),
    }
}
