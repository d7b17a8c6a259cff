//! A chat request as we see it: the few fields that we act on, over the client's own bytes.
//!
//! Owns: checking that the body is a chat request at all, and the edits that every request needs
//! (served model id, usage in streams). Must never do: rebuild the body; bytes that no edit
//! touches go upstream as they came.

use std::ops::Range;

use bytes::Bytes;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::edits::{Edit, splice};
use crate::error::ApiError;
use crate::json;

/// How deep a request's JSON may nest.
pub const MAX_DEPTH: usize = 128;

/// A validated chat request over the body it came in.
#[derive(Debug, Clone)]
pub struct ChatRequest {
    body: Bytes,
    model: Option<(String, Range<usize>)>,
    stream: bool,
    stream_options: StreamOptions,
    metadata: Option<Range<usize>>,
    messages: Range<usize>,
    offers_tools: bool,
    offers_functions: bool,
    asked: Vec<&'static str>,
    /// What policies change.
    edits: Vec<Edit>,
    /// Where a field can be put in: right behind the opening brace.
    insert_at: usize,
}

#[derive(Debug, Clone)]
enum StreamOptions {
    Absent,
    Present { place: Range<usize>, options: Map<String, Value> },
}

/// The fields that we read. A `null` is present too: it has a place that an edit replaces.
#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    model: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    messages: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    stream: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    stream_options: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    metadata: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    tools: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    functions: Option<&'a RawValue>,
    #[serde(borrow, default)]
    return_token_ids: Option<&'a RawValue>,
    #[serde(borrow, default)]
    prompt_logprobs: Option<&'a RawValue>,
    #[serde(borrow, default)]
    kv_transfer_params: Option<&'a RawValue>,
    #[serde(borrow, default)]
    stop_token_ids: Option<&'a RawValue>,
    #[serde(borrow, default)]
    timings_per_token: Option<&'a RawValue>,
    #[serde(borrow, default)]
    return_progress: Option<&'a RawValue>,
}

impl Wire<'_> {
    /// Fields of the answer that are not `OpenAI`'s and that a parameter of its own asks for. Sources:
    /// vLLM's extra parameters of its `OpenAI`-compatible server, llama.cpp's server documentation.
    fn asked(&self) -> Vec<&'static str> {
        let parameters: [(Option<&RawValue>, &[&'static str]); 6] = [
            (self.return_token_ids, &["token_ids", "prompt_token_ids"]),
            (self.prompt_logprobs, &["prompt_logprobs"]),
            (self.kv_transfer_params, &["kv_transfer_params"]),
            (self.stop_token_ids, &["stop_reason"]),
            (self.timings_per_token, &["timings"]),
            (self.return_progress, &["prompt_progress"]),
        ];
        let wants = |value: &RawValue| !matches!(value.get(), "null" | "false");
        let asked = parameters.into_iter().filter(|(value, _)| value.is_some_and(wants));
        asked.flat_map(|(_, fields)| fields.iter().copied()).collect()
    }
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

impl ChatRequest {
    /// Reads and checks a body; errors name the field.
    pub fn parse(body: Bytes) -> Result<Self, ApiError> {
        if json::depth(&body) > MAX_DEPTH {
            return Err(ApiError::invalid(
                "",
                format!("the JSON nests deeper than {MAX_DEPTH} levels"),
            ));
        }
        if body.trim_ascii_start().first().is_some_and(|first| *first != b'{') {
            return Err(ApiError::invalid("", "the request body must be a JSON object"));
        }
        // Checked as a whole: the parser does not look into the strings of fields that it skips.
        let text = std::str::from_utf8(&body).map_err(|e| {
            let at = e.valid_up_to();
            ApiError::invalid("", format!("the request body is not UTF-8 (at byte {at})"))
        })?;
        let wire: Wire<'_> = serde_json::from_str(text).map_err(|e| bad_json(text, &e))?;
        let messages = require_messages(wire.messages)?;
        let model = match wire.model {
            Some(raw) => Some((model_name(raw)?, place(&body, raw))),
            None => None,
        };
        let stream = flag(wire.stream)?;
        let stream_options = match wire.stream_options {
            None => StreamOptions::Absent,
            Some(raw) => StreamOptions::Present {
                place: place(&body, raw),
                options: serde_json::from_str::<Option<Map<_, _>>>(raw.get())
                    .map_err(|_| {
                        ApiError::invalid("stream_options", "`stream_options` must be an object")
                    })?
                    .unwrap_or_default(),
            },
        };
        let metadata = wire.metadata.map(|raw| place(&body, raw));
        let insert_at = body.iter().position(|b| *b == b'{').map_or(0, |at| at + 1);
        let messages = place(&body, messages);
        let some = |list: &RawValue| !matches!(list.get(), "null" | "[]");
        let offers_tools = wire.tools.is_some_and(some);
        let offers_functions = wire.functions.is_some_and(some);
        let asked = wire.asked();
        let edits = Vec::new();
        Ok(ChatRequest {
            body,
            model,
            stream,
            stream_options,
            metadata,
            messages,
            offers_tools,
            offers_functions,
            asked,
            edits,
            insert_at,
        })
    }

    /// The model that was asked for; `None` if the field is missing or empty.
    pub fn model(&self) -> Option<&str> {
        self.model.as_ref().map(|(name, _)| name.as_str()).filter(|name| !name.is_empty())
    }

    /// Whether the client wants a stream.
    pub fn stream(&self) -> bool {
        self.stream
    }

    /// `metadata`, if it is an object. Only our rules look at it; whether it is right is the backend's
    /// to say.
    pub fn metadata(&self) -> Option<Map<String, Value>> {
        serde_json::from_slice(&self.body[self.metadata.clone()?]).ok()
    }

    /// Whether the client itself asked for the usage chunk.
    pub fn wants_usage(&self) -> bool {
        match &self.stream_options {
            StreamOptions::Absent => false,
            StreamOptions::Present { options, .. } => {
                options.get("include_usage") == Some(&Value::Bool(true))
            }
        }
    }

    /// The client's body, as it came.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The same as text.
    pub fn text(&self) -> &str {
        // It was checked when it was read.
        std::str::from_utf8(&self.body).unwrap_or_default()
    }

    /// Where `messages` stands.
    pub fn messages(&self) -> Range<usize> {
        self.messages.clone()
    }

    /// Where a field can be put in: right behind the opening brace.
    pub fn insert_at(&self) -> usize {
        self.insert_at
    }

    /// Whether it names tools.
    pub fn offers_tools(&self) -> bool {
        self.offers_tools
    }

    /// Fields of its answer that are not `OpenAI`'s and that it asks for by their own parameters.
    pub fn asked_fields(&self) -> &[&'static str] {
        &self.asked
    }

    /// Whether it names functions, the older form of tools.
    pub fn offers_functions(&self) -> bool {
        self.offers_functions
    }

    /// The same request with these changes of its body; they do not overlap, and touch neither its
    /// model nor its stream options.
    #[must_use]
    pub fn with_edits(mut self, edits: Vec<Edit>) -> Self {
        self.edits.extend(edits);
        self
    }

    /// The body with its changes, for whoever translates it.
    pub fn changed_body(&self) -> Bytes {
        if self.edits.is_empty() {
            return self.body.clone();
        }
        splice(&self.body, self.edits.clone()).concat().into()
    }

    /// The body for the backend: served id as the model, usage asked for in streams. Pieces of the
    /// client's body stand beside the new ones; nothing else is copied.
    pub fn upstream_body(&self, served_id: &str) -> Vec<Bytes> {
        let model = Value::from(served_id).to_string();
        let mut edits = self.edits.clone();
        let here = self.insert_at..self.insert_at;
        edits.push(match &self.model {
            Some((_, place)) => Edit::text(place.clone(), model),
            None => Edit::text(here, format!("\"model\":{model},")),
        });
        if self.stream && !self.wants_usage() {
            edits.push(self.usage_edit());
        }
        splice(&self.body, edits)
    }

    fn usage_edit(&self) -> Edit {
        match &self.stream_options {
            StreamOptions::Absent => Edit::text(
                self.insert_at..self.insert_at,
                "\"stream_options\":{\"include_usage\":true},",
            ),
            StreamOptions::Present { place, options } => {
                let mut options = options.clone();
                options.insert("include_usage".into(), Value::Bool(true));
                Edit::text(place.clone(), Value::Object(options).to_string())
            }
        }
    }
}

/// Where a raw value, which borrows from the body, lies in it.
fn place(body: &Bytes, raw: &RawValue) -> Range<usize> {
    let start = raw.get().as_ptr() as usize - body.as_ptr() as usize;
    start..start + raw.get().len()
}

fn model_name(raw: &RawValue) -> Result<String, ApiError> {
    serde_json::from_str::<Option<String>>(raw.get())
        .map(Option::unwrap_or_default)
        .map_err(|_| ApiError::invalid("model", "`model` must be a string"))
}

fn flag(raw: Option<&RawValue>) -> Result<bool, ApiError> {
    match raw.map(RawValue::get) {
        None | Some("null" | "false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(ApiError::invalid("stream", "`stream` must be true or false")),
    }
}

fn require_messages(raw: Option<&RawValue>) -> Result<&RawValue, ApiError> {
    match raw {
        Some(list) if list.get().starts_with('[') => Ok(list),
        Some(_) => Err(ApiError::invalid("messages", "`messages` must be a list of messages")),
        None => Err(ApiError::invalid("messages", "`messages` is missing")),
    }
}

fn bad_json(body: &str, error: &serde_json::Error) -> ApiError {
    if body.trim_ascii().is_empty() {
        return ApiError::invalid("", "the request body is empty; send a JSON object");
    }
    ApiError::invalid("", format!("the request body is not a valid JSON object: {error}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn parse(text: &str) -> Result<ChatRequest, ApiError> {
        ChatRequest::parse(Bytes::copy_from_slice(text.as_bytes()))
    }

    fn upstream(text: &str) -> String {
        let pieces = parse(text).unwrap().upstream_body("served/id");
        String::from_utf8(pieces.concat()).unwrap()
    }

    #[test]
    fn only_model_and_usage_are_edited_and_every_other_byte_stays() {
        let cases = [
            (
                r#"{ "model" : "a" ,"messages":[],  "x":1e5}"#,
                r#"{ "model" : "served/id" ,"messages":[],  "x":1e5}"#,
            ),
            (
                r#"{"messages":[],"stream":true,"model":"a"}"#,
                r#"{"stream_options":{"include_usage":true},"messages":[],"stream":true,"model":"served/id"}"#,
            ),
            (
                r#"{"model":"a","messages":[],"stream":true,"stream_options":{"continuous_usage_stats":true}}"#,
                r#"{"model":"served/id","messages":[],"stream":true,"stream_options":{"continuous_usage_stats":true,"include_usage":true}}"#,
            ),
            (
                r#"{"model":"a","messages":[],"stream":true,"stream_options":{ "include_usage": true }}"#,
                r#"{"model":"served/id","messages":[],"stream":true,"stream_options":{ "include_usage": true }}"#,
            ),
            (
                r#"{"model":"a","messages":[],"stream":true,"stream_options":null}"#,
                r#"{"model":"served/id","messages":[],"stream":true,"stream_options":{"include_usage":true}}"#,
            ),
            (r#"{"messages":[]}"#, r#"{"model":"served/id","messages":[]}"#),
            (
                r#"{"model":null,"messages":[],"stream":false,"stream_options":{"include_usage":true}}"#,
                r#"{"model":"served/id","messages":[],"stream":false,"stream_options":{"include_usage":true}}"#,
            ),
        ];
        for (sent, want) in cases {
            assert_eq!(upstream(sent), want);
        }
    }

    #[test]
    fn what_the_client_asked_for_is_known() {
        let request = parse(r#"{"model":"m","messages":[],"stream":true}"#).unwrap();
        assert_eq!(
            (request.model(), request.stream(), request.wants_usage()),
            (Some("m"), true, false)
        );
        let request =
            parse(r#"{"model":"","messages":[],"stream_options":{"include_usage":true}}"#).unwrap();
        assert_eq!((request.model(), request.stream(), request.wants_usage()), (None, false, true));
    }

    #[test]
    fn requests_ask_for_foreign_fields_by_their_parameters() {
        for (more, want) in [
            ("", [].as_slice()),
            (r#","metadata":{"return_token_ids":true}"#, &[]),
            (r#","return_token_ids":false,"prompt_logprobs":null"#, &[]),
            (r#","return_token_ids":true"#, &["token_ids", "prompt_token_ids"]),
            (r#","prompt_logprobs":0,"timings_per_token":true"#, &["prompt_logprobs", "timings"]),
        ] {
            let body = format!("{{\"messages\":[]{more}}}");
            assert_eq!(parse(&body).unwrap().asked_fields(), want, "{body}");
        }
    }

    #[test]
    fn errors_name_the_field() {
        let deep = format!(r#"{{"messages":{}{}}}"#, "[".repeat(200), "]".repeat(200));
        let cases: &[(&str, Option<&str>, &str)] = &[
            ("", None, "empty"),
            ("{", None, "not a valid JSON object"),
            ("[null,[],true]", None, "must be a JSON object"),
            ("\"x\"", None, "must be a JSON object"),
            (r#"{"model":"a","model":"b","messages":[]}"#, None, "duplicate field `model`"),
            (r#"{"model":7,"messages":[]}"#, Some("model"), "string"),
            (r#"{"model":"a"}"#, Some("messages"), "missing"),
            (r#"{"model":"a","messages":"hi"}"#, Some("messages"), "list"),
            (r#"{"model":"a","messages":[],"stream":"yes"}"#, Some("stream"), "true or false"),
            (r#"{"messages":[],"stream_options":3}"#, Some("stream_options"), "object"),
            (&deep, None, "deeper than 128"),
        ];
        for (body, param, message) in cases {
            let error = parse(body).unwrap_err();
            assert_eq!((error.status, error.param.as_deref()), (400, *param), "{body:.60}");
            assert!(error.message.contains(message), "{}", error.message);
        }
        let error = ChatRequest::parse(Bytes::from_static(b"{\"a\":\"\xff\"}")).unwrap_err();
        assert!(error.message.contains("not UTF-8 (at byte 6)"), "{}", error.message);
    }

    proptest! {
        /// Whatever stands in the request: only the two fields differ afterwards.
        #[test]
        fn an_edited_request_differs_in_the_edited_fields_only(
            text in "[ -~é😀\"\\\\]{0,30}", model in "[ -~é\"\\\\]{1,12}", stream: bool, pretty: bool, first: bool,
        ) {
            let mut request = Map::new();
            if first { request.insert("model".into(), json!(model)); }
            request.insert("messages".into(), json!([{"role": "user", "content": text, "model": "inner"}]));
            request.insert("extra".into(), json!({"stream_options": 1, "model": [2]}));
            request.insert("stream".into(), json!(stream));
            if !first { request.insert("model".into(), json!(model)); }
            let mut want = request.clone();
            let sent = if pretty { serde_json::to_string_pretty(&request) } else { serde_json::to_string(&request) }.unwrap();
            let parsed = parse(&sent).unwrap();
            prop_assert_eq!(parsed.model(), Some(model.as_str()));
            want.insert("model".into(), json!("served/id"));
            if stream { want.insert("stream_options".into(), json!({"include_usage": true})); }
            let got: Map<String, Value> = serde_json::from_str(&upstream(&sent)).unwrap();
            prop_assert_eq!(got, want);
        }
    }
}
