//! Owns the reading of a request: what is asked for, and whether it is refused.
//!
//! Must never answer.

use serde_json::Value;

use crate::errors::ApiError;
use crate::fault::Fault;
use crate::images;
use crate::options::Options;
use crate::tokens;

/// Who chooses whether a tool is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ToolChoice {
    /// Nobody: calls are not parsed either.
    None,
    /// The model.
    Auto,
    /// The request: some tool.
    Required,
    /// The request: this tool.
    Named(String),
}

/// The form that the answer's text must have.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Form {
    /// Any.
    Text,
    /// Some JSON object.
    Json,
    /// JSON by this schema.
    Schema(Value),
}

/// A request that was accepted.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    /// The model's name as the answer tells it.
    pub(crate) model: String,
    /// The name the model calls itself.
    pub(crate) name: String,
    /// The last user message: its text as it came, and as it is looked up.
    pub(crate) said: String,
    pub(crate) user: String,
    pub(crate) last_role: String,
    /// A prompt without a conversation.
    pub(crate) raw_prompt: bool,
    pub(crate) prompt_tokens: u64,
    pub(crate) max_tokens: u64,
    pub(crate) images: usize,
    /// Names of the tools.
    pub(crate) tools: Vec<String>,
    pub(crate) tool_choice: ToolChoice,
    pub(crate) form: Form,
    pub(crate) stop: Vec<String>,
    pub(crate) ignore_end: bool,
    /// How many answers.
    pub(crate) n: usize,
    /// Probabilities are told, with so many alternatives.
    pub(crate) logprobs: Option<usize>,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
    pub(crate) usage_everywhere: bool,
    /// A parser of reasoning looks at the answer.
    pub(crate) parse_reasoning: bool,
    /// That parser waits for the mark that opens a thought, and drops the space around it.
    pub(crate) opened_only: bool,
    /// Some parser looks, which changes how an end without text is told.
    pub(crate) parsed: bool,
    pub(crate) thinking: bool,
    pub(crate) include_reasoning: bool,
    pub(crate) fault: Fault,
}

impl Ask {
    /// Reads a body of `/v1/chat/completions`.
    pub(crate) fn chat(body: &Value, options: &Options, fault: Fault) -> Result<Self, ApiError> {
        let messages = messages(body)?;
        let mut ask = Self::common(body, options, fault)?;
        ask.read_tools(body, options)?;
        let Some(last) = messages.last() else {
            return Err(ApiError::bad_request(
                "Cannot apply chat template to an empty conversation. Provide at least one message.",
            ));
        };
        ask.images = images::check(messages, options, &ask.model)?;
        field(last, "role").clone_into(&mut ask.last_role);
        let user = messages.iter().rev().find(|m| field(m, "role") == "user").unwrap_or(last);
        let said = if ask.last_role == "tool" { last } else { user };
        ask.said = text_of(said.get("content"));
        ask.user = text_of(user.get("content")).trim().to_lowercase();
        ask.prompt_tokens = tokens::of_chat(messages, body.get("tools"));
        let thinking = body.pointer("/chat_template_kwargs/enable_thinking");
        ask.thinking = thinking != Some(&Value::Bool(false))
            && body.get("reasoning_effort") != Some(&Value::from("none"));
        ask.include_reasoning = body.get("include_reasoning") != Some(&Value::Bool(false));
        ask.logprobs = (body.get("logprobs") == Some(&Value::Bool(true)))
            .then(|| integer(body, "top_logprobs").unwrap_or(0));
        let limit = integer(body, "max_completion_tokens").or(integer(body, "max_tokens"));
        ask.limit(limit, None, options)?;
        Ok(ask)
    }

    /// Reads a body of `/v1/completions`, of whose prompts this is one.
    pub(crate) fn completion(
        body: &Value,
        prompt: &Value,
        options: &Options,
        fault: Fault,
    ) -> Result<Self, ApiError> {
        let mut ask = Self::common(body, options, fault)?;
        ask.raw_prompt = true;
        ask.parsed = false;
        ask.parse_reasoning = false;
        ask.said = text_of(Some(prompt));
        ask.prompt_tokens = match prompt {
            Value::Array(ids) => ids.len() as u64,
            _ => tokens::count(&ask.said),
        };
        ask.logprobs = integer(body, "logprobs");
        ask.limit(integer(body, "max_tokens"), Some(16), options)?;
        Ok(ask)
    }

    /// What all surfaces share; the model's name is checked first, as the engine does.
    fn common(body: &Value, options: &Options, fault: Fault) -> Result<Self, ApiError> {
        let model = model(body, options)?;
        let stream_options = |name: &str| {
            body.get("stream_options").and_then(|o| o.get(name)) == Some(&Value::Bool(true))
        };
        let temperature = body.get("temperature").and_then(Value::as_f64).unwrap_or(0.0);
        if temperature < 0.0 {
            return Err(ApiError::bad_parameter(
                &format!("temperature must be non-negative, got {temperature:?}."),
                "temperature",
                &format!("{temperature:?}"),
            ));
        }
        Ok(Self {
            model,
            name: options.served[0].rsplit('/').next().unwrap_or_default().to_owned(),
            said: String::new(),
            user: String::new(),
            last_role: String::new(),
            raw_prompt: false,
            prompt_tokens: 0,
            max_tokens: 0,
            images: 0,
            tools: Vec::new(),
            tool_choice: ToolChoice::None,
            form: form(body),
            stop: stops(body),
            ignore_end: body.get("ignore_eos") == Some(&Value::Bool(true)),
            n: integer(body, "n").unwrap_or(1).max(1),
            logprobs: None,
            stream: body.get("stream") == Some(&Value::Bool(true)),
            include_usage: stream_options("include_usage") || fault.usage_always == Some(true),
            usage_everywhere: stream_options("continuous_usage_stats"),
            parse_reasoning: options.reasoning_parser.is_some(),
            opened_only: options.ollama.is_some(),
            parsed: options.reasoning_parser.is_some() || options.tool_call_parser.is_some(),
            thinking: true,
            include_reasoning: true,
            fault,
        })
    }

    fn read_tools(&mut self, body: &Value, options: &Options) -> Result<(), ApiError> {
        let tools = body.get("tools").and_then(Value::as_array);
        let names = tools.into_iter().flatten().filter_map(|t| t.pointer("/function/name"));
        self.tools = names.filter_map(Value::as_str).map(str::to_owned).collect();
        if self.tools.is_empty() {
            return Ok(());
        }
        self.tool_choice = match body.get("tool_choice") {
            Some(Value::String(word)) if word == "none" => ToolChoice::None,
            Some(Value::String(word)) if word == "required" => ToolChoice::Required,
            Some(Value::Object(choice)) => {
                let name = choice.get("function").map_or("", |f| field(f, "name"));
                ToolChoice::Named(name.to_owned())
            }
            _ => ToolChoice::Auto,
        };
        let parser = options.tool_call_parser.is_some();
        let needs = match &self.tool_choice {
            ToolChoice::Auto if !(parser && options.auto_tool_choice) => {
                "\"auto\" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set".to_owned()
            }
            ToolChoice::Required if !parser => {
                "tool_choice=\"required\" requires --tool-call-parser to be set".to_owned()
            }
            ToolChoice::Named(name) if !parser => {
                format!("tool_choice=function \"{name}\" requires --tool-call-parser to be set")
            }
            _ => return Ok(()),
        };
        Err(ApiError::bad_request(needs))
    }

    /// Settles how many tokens may be generated, or refuses what does not fit the context.
    fn limit(
        &mut self,
        asked: Option<usize>,
        default: Option<u64>,
        options: &Options,
    ) -> Result<(), ApiError> {
        let length = u64::from(options.max_model_len);
        let asked = asked.map(|n| n as u64);
        if let Some(asked) = asked.filter(|&n| n > length) {
            let message = format!(
                "max_tokens={asked} cannot be greater than max_model_len={length}. Please request fewer output tokens."
            );
            return Err(ApiError::bad_parameter(&message, "max_tokens", &asked.to_string()));
        }
        if asked == Some(0) && !self.raw_prompt {
            let message = "max_tokens must be at least 1, got 0.";
            return Err(ApiError::bad_parameter(message, "max_tokens", "0"));
        }
        let room = length.saturating_sub(self.prompt_tokens);
        if room == 0 || asked.is_some_and(|n| n > room) {
            return Err(overflow(length, asked));
        }
        let counted = self.fault.tokens.map(|n| n.saturating_add(1));
        self.max_tokens = asked.or(counted).or(default).unwrap_or(room);
        Ok(())
    }
}

/// The name under which the answer is given, or the refusal of a name that is not served.
pub(crate) fn model(body: &Value, options: &Options) -> Result<String, ApiError> {
    match body.get("model").and_then(Value::as_str).unwrap_or_default() {
        "" => Ok(options.served[0].clone()),
        name if options.served.iter().any(|s| s == name) => Ok(name.to_owned()),
        name => Err(ApiError::unknown_model(name, &options.served)),
    }
}

/// The messages of a conversation.
pub(crate) fn messages(body: &Value) -> Result<&Vec<Value>, ApiError> {
    for (name, kind, wanted) in [
        ("max_tokens", "int_type", "integer"),
        ("max_completion_tokens", "int_type", "integer"),
        ("n", "int_type", "integer"),
        ("temperature", "float_type", "number"),
        ("top_p", "float_type", "number"),
    ] {
        if let Some(value) = body.get(name).filter(|v| !v.is_null() && !v.is_number()) {
            return Err(ApiError::wrong_type(name, kind, wanted, value));
        }
    }
    match body.get("messages") {
        Some(Value::Array(list)) => Ok(list),
        Some(other) => Err(ApiError::wrong_type("messages", "list_type", "list", other)),
        None => Err(ApiError::missing("messages", body)),
    }
}

/// The text of a message's content, or of a prompt.
pub(crate) fn text_of(content: Option<&Value>) -> String {
    match content {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => {
            let texts = parts.iter().filter_map(|p| p.get("text").and_then(Value::as_str));
            texts.collect::<Vec<_>>().concat()
        }
        _ => String::new(),
    }
}

fn overflow(length: u64, asked: Option<u64>) -> ApiError {
    let at_least = length + 1 - asked.unwrap_or(0);
    let message = match asked {
        None => format!(
            "This model's maximum context length is {length} tokens. However, your prompt contains at least {at_least} input tokens, which exceeds this limit even without any output tokens. Please reduce the length of the input prompt."
        ),
        Some(asked) => format!(
            "This model's maximum context length is {length} tokens. However, you requested {asked} output tokens and your prompt contains at least {at_least} input tokens, for a total of at least {} tokens. Please reduce the length of the input prompt or the number of requested output tokens.",
            at_least + asked
        ),
    };
    ApiError::bad_parameter(&message, "input_tokens", &at_least.to_string())
}

fn form(body: &Value) -> Form {
    let Some(format) = body.get("response_format") else {
        return Form::Text;
    };
    match field(format, "type") {
        "json_object" => Form::Json,
        "json_schema" => {
            Form::Schema(format.pointer("/json_schema/schema").cloned().unwrap_or_default())
        }
        _ => Form::Text,
    }
}

fn stops(body: &Value) -> Vec<String> {
    match body.get("stop") {
        Some(Value::String(one)) => vec![one.clone()],
        Some(Value::Array(list)) => {
            list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
        }
        _ => Vec::new(),
    }
}

fn field<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn integer(body: &Value, name: &str) -> Option<usize> {
    body.get(name).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok())
}
