//! The history of a request, as Ollama's messages.
//!
//! Owns: roles, content, reasoning, tool calls and their results. One message stays one message:
//! its texts are joined by a newline, its images keep their order among themselves (Ollama puts
//! them before the text). Must never do: drop a message, or let a field go unnamed.

use std::collections::HashMap;
use std::hash::BuildHasher;

use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::fields::{Fields, wrong};
use super::losses::Losses;
use super::{arguments, images};
use crate::error::ApiError;

/// One message as `/api/chat` takes it.
#[derive(Debug, Default, Serialize)]
pub(super) struct Message {
    role: &'static str,
    content: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    thinking: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    images: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_call_id: Option<String>,
}

#[derive(Debug, Serialize)]
struct ToolCall {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    function: Function,
}

#[derive(Debug, Serialize)]
struct Function {
    name: String,
    arguments: Box<RawValue>,
}

/// Translates the messages; `fetched` holds the images of [`super::remote_images`].
pub(super) fn translate<S: BuildHasher>(
    messages: Vec<Value>,
    fetched: &HashMap<String, Bytes, S>,
    losses: &mut Losses,
) -> Result<Vec<Message>, ApiError> {
    let mut history = History { fetched, losses, names: HashMap::new() };
    let numbered = messages.into_iter().enumerate();
    numbered.map(|(i, message)| history.message(message, &format!("messages[{i}]"))).collect()
}

/// What is known while the messages are read one by one.
struct History<'a, S> {
    fetched: &'a HashMap<String, Bytes, S>,
    losses: &'a mut Losses,
    /// The names of the functions called so far, by the ids of the calls.
    names: HashMap<String, String>,
}

impl<S: BuildHasher> History<'_, S> {
    fn message(&mut self, message: Value, at: &str) -> Result<Message, ApiError> {
        let mut fields = Fields::of(at, message)?;
        let said = fields.text("role")?.unwrap_or_default().to_ascii_lowercase();
        let mut message = Message { role: role(&said, at)?, ..Message::default() };
        self.content(&mut fields, &mut message)?;
        match said.as_str() {
            "assistant" => self.assistant(&mut fields, &mut message)?,
            "tool" => self.result(&mut fields, &mut message)?,
            "function" => message.tool_name = fields.text("name")?,
            _ => {}
        }
        self.losses.rest("messages", &fields);
        Ok(message)
    }

    fn content(&mut self, fields: &mut Fields, message: &mut Message) -> Result<(), ApiError> {
        let at = fields.name("content");
        let mut texts = Vec::new();
        match fields.take("content") {
            None => {}
            Some(Value::String(text)) => texts.push(text),
            Some(Value::Array(parts)) => {
                for (j, part) in parts.into_iter().enumerate() {
                    self.part(part, &format!("{at}[{j}]"), &mut texts, &mut message.images)?;
                }
            }
            Some(_) => return Err(wrong(&at, "a string or a list of parts")),
        }
        message.content = texts.join("\n");
        Ok(())
    }

    fn part(
        &mut self,
        part: Value,
        at: &str,
        texts: &mut Vec<String>,
        images: &mut Vec<String>,
    ) -> Result<(), ApiError> {
        let mut fields = Fields::of(at, part)?;
        let kind = fields.text("type")?.unwrap_or_default();
        match kind.as_str() {
            "text" | "refusal" => {
                let text = fields.text(&kind)?;
                texts.push(text.ok_or_else(|| wrong(&fields.name(&kind), "a string"))?);
            }
            "image_url" => {
                let image = fields.take("image_url").unwrap_or_default();
                let url = images::url_of(&image).ok_or_else(|| wrong(at, "an image with a URL"))?;
                images.push(images::bare(url, self.fetched, at)?);
                self.image_extras(&image);
                // Ours, for models that cannot see.
                fields.take("alt_text");
            }
            _ => return Err(foreign_part(&kind, at)),
        }
        self.losses.rest("messages.content", &fields);
        Ok(())
    }

    /// What else an `image_url` says: how closely to look is not Ollama's to choose.
    fn image_extras(&mut self, image: &Value) {
        if image.get("detail").is_some_and(|detail| !detail.is_null() && detail != "auto") {
            self.losses.dropped("messages.image_url.detail");
        }
    }

    fn assistant(&mut self, fields: &mut Fields, message: &mut Message) -> Result<(), ApiError> {
        // Engines disagree on the name; the last of these that says something holds.
        for name in ["thinking", "reasoning_content", "reasoning"] {
            if let Some(text) = fields.text(name)?.filter(|text| !text.is_empty()) {
                message.thinking = text;
            }
        }
        if let Some(refusal) = fields.text("refusal")?.filter(|text| !text.is_empty()) {
            if !message.content.is_empty() {
                message.content.push('\n');
            }
            message.content.push_str(&refusal);
        }
        let at = fields.name("tool_calls");
        for (j, call) in fields.list("tool_calls")?.unwrap_or_default().into_iter().enumerate() {
            message.tool_calls.push(self.call(call, &format!("{at}[{j}]"))?);
        }
        if let Some(function) = fields.object("function_call")? {
            message.tool_calls.push(ToolCall { id: None, function: self.function(function)? });
        }
        Ok(())
    }

    fn call(&mut self, call: Value, at: &str) -> Result<ToolCall, ApiError> {
        let mut fields = Fields::of(at, call)?;
        if fields.text("type")?.is_some_and(|kind| kind != "function") {
            return Err(wrong(&fields.name("type"), "\"function\": Ollama has no other tools"));
        }
        let id = fields.text("id")?.filter(|id| !id.is_empty());
        let at = fields.name("function");
        let function = fields.object("function")?.ok_or_else(|| wrong(&at, "an object"))?;
        let function = self.function(function)?;
        // The order of the list says the same.
        fields.take("index");
        self.losses.rest("messages.tool_calls", &fields);
        if let Some(id) = &id {
            self.names.insert(id.clone(), function.name.clone());
        }
        Ok(ToolCall { id, function })
    }

    fn function(&mut self, mut fields: Fields) -> Result<Function, ApiError> {
        let name = fields.text("name")?.filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| wrong(&fields.name("name"), "the name of a function"))?;
        let at = fields.name("arguments");
        let arguments = arguments::to_object(fields.take("arguments"), &at)?;
        fields.take("index");
        self.losses.rest("messages.tool_calls.function", &fields);
        Ok(Function { name, arguments })
    }

    /// A tool's result. Ollama's templates want the name; OpenAI's clients send the call's id.
    fn result(&mut self, fields: &mut Fields, message: &mut Message) -> Result<(), ApiError> {
        let id = fields.text("tool_call_id")?;
        let called = id.as_ref().and_then(|id| self.names.get(id)).cloned();
        message.tool_name = called.or(fields.text("name")?);
        message.tool_call_id = id;
        Ok(())
    }
}

fn role(said: &str, at: &str) -> Result<&'static str, ApiError> {
    Ok(match said {
        "system" | "developer" => "system",
        "user" => "user",
        "assistant" => "assistant",
        "tool" | "function" => "tool",
        _ => {
            let known = "one of system, developer, user, assistant, tool, function";
            return Err(wrong(&format!("{at}.role"), known));
        }
    })
}

fn foreign_part(kind: &str, at: &str) -> ApiError {
    let kind = crate::chat::unary::shorten(kind, 40);
    ApiError::invalid(
        at,
        format!("`{at}` is of type \"{kind}\"; for Ollama it must be text or image_url"),
    )
    .quoting()
}
