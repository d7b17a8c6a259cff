//! Owns the reading of `/api/chat` and `/api/generate`: what is asked for, and what is refused.
//!
//! The order of the refusals is Ollama's: first what Go cannot read, then what it does not want,
//! then what the model cannot do. Must never load a model.

use serde_json::{Value, json};

use super::errors::Refusal;
use super::keep::Keep;
use super::lines::Kind;
use super::models::Model;
use crate::ask::{Ask, Form, ToolChoice};
use crate::fault::Fault;
use crate::tokens;

/// The levels of thought that have a name.
const LEVELS: [&str; 4] = ["low", "medium", "high", "max"];

/// Options that are numbers.
const NUMBERS: [&str; 17] = [
    "num_ctx",
    "num_batch",
    "num_gpu",
    "main_gpu",
    "num_thread",
    "num_keep",
    "seed",
    "num_predict",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "repeat_last_n",
    "temperature",
    "repeat_penalty",
    "presence_penalty",
    "frequency_penalty",
];

/// A request that could be read.
#[derive(Debug)]
pub(super) struct Request {
    kind: Kind,
    body: Value,
    /// The model's name as the request spelt it.
    pub(super) model: String,
    /// None for an order to load or unload.
    messages: Vec<Value>,
    pub(super) keep: Option<Keep>,
    pub(super) stream: bool,
}

impl Request {
    /// Reads what Go would read.
    pub(super) fn read(kind: Kind, body: Value) -> Result<Self, Refusal> {
        let name = if kind == Kind::Chat { "ChatRequest" } else { "GenerateRequest" };
        for field in ["model", "prompt", "system", "suffix"] {
            expect(&body, name, field, "string", Value::is_string)?;
        }
        for field in ["stream", "logprobs", "truncate", "shift", "raw"] {
            expect(&body, name, field, "bool", Value::is_boolean)?;
        }
        expect(&body, name, "top_logprobs", "int", Value::is_i64)?;
        expect(&body, name, "messages", "[]api.Message", Value::is_array)?;
        expect(&body, name, "tools", "api.Tools", Value::is_array)?;
        expect(&body, name, "options", "map[string]interface {}", Value::is_object)?;
        let keep = Keep::read(&body["keep_alive"]).map_err(Refusal::bad)?;
        think(&body["think"])?;
        let messages = match kind {
            Kind::Chat => body["messages"].as_array().cloned().unwrap_or_default(),
            Kind::Generate => prompt(&body),
        };
        messages.iter().try_for_each(message)?;
        let model = body["model"].as_str().unwrap_or_default().to_owned();
        let stream = body["stream"].as_bool().unwrap_or(true);
        Ok(Self { kind, body, model, messages, keep, stream })
    }

    /// It is an order to load or unload.
    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// The options.
    pub(super) fn options(&self) -> &Value {
        &self.body["options"]
    }

    /// Refuses what Ollama does not want.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        let top = self.body["top_logprobs"].as_i64().unwrap_or(0);
        if !(0..=20).contains(&top) {
            return Err(Refusal::bad("top_logprobs must be between 0 and 20"));
        }
        Ok(())
    }

    /// Refuses what the model cannot do, and options of the wrong type.
    pub(super) fn check_for(&self, model: &Model) -> Result<(), Refusal> {
        let tools = self.body["tools"].as_array().is_some_and(|list| !list.is_empty());
        let word = if self.kind == Kind::Chat { "chat" } else { "generate" };
        for (refused, what) in [
            (model.embeds(), word),
            (tools && !model.calls_tools(), "tools"),
            (self.images() > 0 && !model.sees(), "vision"),
            (self.asks_for_thought() && !model.thinks(), "thinking"),
        ] {
            if refused {
                return Err(Refusal::not_supported(&self.model, what));
            }
        }
        self.check_options()
    }

    fn check_options(&self) -> Result<(), Refusal> {
        for (name, value) in self.options().as_object().into_iter().flatten() {
            let (wanted, fits) = match name.as_str() {
                name if NUMBERS.contains(&name) => ("integer", value.is_number()),
                "use_mmap" => ("boolean", value.is_boolean()),
                "stop" => ("array", value.is_array()),
                _ => continue,
            };
            if !fits && !value.is_null() {
                let text = format!("option {name:?} must be of type {wanted}");
                return Err(Refusal::inside(text));
            }
        }
        match &self.body["format"] {
            Value::Null | Value::Object(_) => Ok(()),
            Value::String(word) if word == "json" || word.is_empty() => Ok(()),
            other => Err(Refusal::inside(format!(
                "invalid format: {:?}; expected \"json\" or a valid JSON Schema object",
                other.to_string()
            ))),
        }
    }

    fn images(&self) -> usize {
        let images = self.messages.iter().filter_map(|m| m["images"].as_array());
        images.map(Vec::len).sum()
    }

    fn asks_for_thought(&self) -> bool {
        !matches!(self.body["think"], Value::Null | Value::Bool(false))
    }

    /// What is asked of the model, which has so long a context.
    pub(super) fn ask(&self, model: &Model, context: u64, fault: Fault) -> Ask {
        let last = self.messages.last().unwrap_or(&Value::Null);
        let user = self.messages.iter().rev().find(|m| role(m) == "user").unwrap_or(last);
        let said = if role(last) == "tool" { last } else { user };
        let tools = self.tools();
        let choice = if tools.is_empty() { ToolChoice::None } else { ToolChoice::Auto };
        let thinks = self.is_to_think(model);
        let prompt_tokens = self.prompt_tokens(context);
        let max_tokens = self.limit(&fault).unwrap_or(context - prompt_tokens);
        Ask {
            model: self.model.clone(),
            name: model.own_name().to_owned(),
            said: text(said),
            user: text(user).trim().to_lowercase(),
            last_role: role(last),
            raw_prompt: false,
            prompt_tokens,
            max_tokens,
            images: self.images(),
            tools,
            tool_choice: choice,
            form: self.form(),
            stop: stops(&self.options()["stop"]),
            ignore_end: false,
            n: 1,
            logprobs: self.logprobs(),
            stream: self.stream,
            include_usage: false,
            usage_everywhere: false,
            parse_reasoning: thinks,
            opened_only: true,
            parsed: true,
            thinking: thinks,
            include_reasoning: true,
            fault,
        }
    }

    fn tools(&self) -> Vec<String> {
        let tools = self.body["tools"].as_array().into_iter().flatten();
        let names = tools.filter_map(|tool| tool.pointer("/function/name"));
        names.filter_map(Value::as_str).map(str::to_owned).collect()
    }

    /// Thinking is on unless it is told not to.
    fn is_to_think(&self, model: &Model) -> bool {
        model.thinks() && (self.body["think"] != json!(false) || model.always_thinks())
    }

    /// What does not fit the context is cut off in front, so that one token at least follows.
    fn prompt_tokens(&self, context: u64) -> u64 {
        let all = tokens::of_chat(&self.messages, self.body.get("tools"));
        all.min(context.saturating_sub(1))
    }

    /// How many tokens may be generated, if that is said.
    fn limit(&self, fault: &Fault) -> Option<u64> {
        let limit = self.options()["num_predict"].as_f64().filter(|n| *n >= 1.0);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // as Go does it
        let limit = limit.map(|n| n as u64);
        limit.or(fault.tokens.map(|n| n.saturating_add(1)))
    }

    fn logprobs(&self) -> Option<usize> {
        let top = self.body["top_logprobs"].as_u64().and_then(|n| usize::try_from(n).ok());
        (self.body["logprobs"] == json!(true)).then(|| top.unwrap_or(0))
    }

    fn form(&self) -> Form {
        match &self.body["format"] {
            Value::String(word) if word == "json" => Form::Json,
            Value::Object(_) => Form::Schema(self.body["format"].clone()),
            _ => Form::Text,
        }
    }
}

/// Refuses a field that is there and of another type.
fn expect(
    body: &Value,
    object: &str,
    field: &str,
    wanted: &str,
    is: fn(&Value) -> bool,
) -> Result<(), Refusal> {
    match body.get(field).filter(|value| !value.is_null() && !is(value)) {
        Some(value) => Err(Refusal::wrong_type(value, &format!("{object}.{field}"), wanted)),
        None => Ok(()),
    }
}

fn think(value: &Value) -> Result<(), Refusal> {
    const CHOICE: &str = "\"high\", \"medium\", \"low\", \"max\", true, or false";
    match value {
        Value::Null | Value::Bool(_) => Ok(()),
        Value::String(word) if LEVELS.contains(&word.as_str()) => Ok(()),
        Value::String(word) => {
            Err(Refusal::bad(format!("invalid think value: {word:?} (must be {CHOICE})")))
        }
        _ => Err(Refusal::bad(format!("think must be a boolean or string ({CHOICE})"))),
    }
}

/// The prompt of `/api/generate` as messages; none if there is no prompt.
fn prompt(body: &Value) -> Vec<Value> {
    let Some(prompt) = body["prompt"].as_str().filter(|text| !text.is_empty()) else {
        return Vec::new();
    };
    let mut messages = Vec::new();
    if let Some(system) = body["system"].as_str() {
        messages.push(json!({"role": "system", "content": system}));
    }
    let mut user = json!({"role": "user", "content": prompt});
    if let Some(images) = body.get("images") {
        user["images"] = images.clone();
    }
    messages.push(user);
    messages
}

fn message(message: &Value) -> Result<(), Refusal> {
    if !message.is_object() {
        return Err(Refusal::wrong_type(message, "ChatRequest.messages", "api.Message"));
    }
    for field in ["role", "content", "thinking", "tool_name", "tool_call_id"] {
        expect(message, "ChatRequest.messages", field, "string", Value::is_string)?;
    }
    expect(message, "ChatRequest.messages", "images", "[]api.ImageData", Value::is_array)?;
    for image in message["images"].as_array().into_iter().flatten() {
        let Some(text) = image.as_str() else {
            return Err(Refusal::wrong_type(image, "ChatRequest.messages.images", "[]uint8"));
        };
        if let Some(place) = not_base64(text) {
            return Err(Refusal::bad(format!("illegal base64 data at input byte {place}")));
        }
    }
    for call in message["tool_calls"].as_array().into_iter().flatten() {
        let field = "ChatRequest.messages.tool_calls.function";
        let wanted = "api.ToolCallFunctionArguments";
        expect(&call["function"], field, "arguments", wanted, Value::is_object)?;
    }
    Ok(())
}

/// Where a text stops to be padded base64.
fn not_base64(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let padding = bytes.iter().rev().take(2).take_while(|b| **b == b'=').count();
    let digits = &bytes[..bytes.len() - padding];
    let is_digit = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/');
    let strange = digits.iter().position(|b| !is_digit(b));
    strange.or((!bytes.len().is_multiple_of(4)).then_some(bytes.len()))
}

fn text(message: &Value) -> String {
    message["content"].as_str().unwrap_or_default().to_owned()
}

fn role(message: &Value) -> String {
    message["role"].as_str().unwrap_or_default().to_lowercase()
}

fn stops(stop: &Value) -> Vec<String> {
    let stops = stop.as_array().into_iter().flatten().filter_map(Value::as_str);
    stops.map(str::to_owned).collect()
}
