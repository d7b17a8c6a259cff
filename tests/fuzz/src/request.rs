//! A chat request on its way to its backend.
//!
//! Switches: see `policies`.
//!
//! Owns: that what is taken for a request is JSON, and that what goes upstream is the same JSON but for
//! the fields that are edited. Must never do: judge policies.

use bytes::Bytes;
use chat_proxy_core::chat::request::ChatRequest;
use chat_proxy_core::chat::tool_calls::offered;
use serde_json::{Map, Value};

use crate::input::Input;
use crate::{json, policies};

const SERVED: &str = "served/\"id\"";

pub(crate) fn run(bytes: &[u8]) {
    let input = Input::of(bytes);
    let body = Bytes::copy_from_slice(input.content);
    let chat = match ChatRequest::parse(body.clone()) {
        Ok(chat) => chat,
        Err(error) => {
            assert!(error.status == 400 && !error.message.is_empty(), "{error:?}");
            assert!(error.message.len() < body.len() + 500);
            return;
        }
    };
    assert!(json::is_valid(&body), "what is taken for a request is JSON");
    assert_eq!((chat.body(), chat.text().as_bytes()), (&body, &body[..]));
    assert_eq!(chat.changed_body(), body, "nothing is changed yet");
    if let Some(offered) = offered(&chat) {
        assert!(!offered.is_empty() && (chat.offers_tools() || chat.offers_functions()));
    }
    let upstream = chat.upstream_body(SERVED).concat();
    assert!(json::is_valid(&upstream), "{}", String::from_utf8_lossy(&upstream));
    let object = json::strict(&body).and_then(|value| value.as_object().cloned());
    if let Some(object) = &object {
        let want = Value::Object(edited(object, &chat));
        let goes = json::strict(&upstream).unwrap_or_default();
        assert!(json::same(&goes, &want), "only the edits differ: {goes}, not {want}");
        is_understood(object, &chat);
    }
    policies::run(&input, &chat, object.as_ref());
}

/// The request with the edits that every one gets.
pub(crate) fn edited(object: &Map<String, Value>, chat: &ChatRequest) -> Map<String, Value> {
    let mut object = object.clone();
    object.insert("model".to_owned(), SERVED.into());
    if chat.stream() && !chat.wants_usage() {
        let options = object.entry("stream_options").or_insert(Value::Null);
        let mut all = options.as_object().cloned().unwrap_or_default();
        all.insert("include_usage".to_owned(), true.into());
        *options = Value::Object(all);
    }
    object
}

/// What goes upstream of a request.
pub(crate) fn upstream(chat: &ChatRequest) -> Vec<u8> {
    chat.upstream_body(SERVED).concat()
}

/// What is known of it is what it says.
fn is_understood(object: &Map<String, Value>, chat: &ChatRequest) {
    let model = object.get("model").and_then(Value::as_str).filter(|name| !name.is_empty());
    assert_eq!(chat.model(), model);
    assert_eq!(chat.stream(), object.get("stream") == Some(&Value::Bool(true)));
    let options = object.get("stream_options").and_then(|options| options.get("include_usage"));
    assert_eq!(chat.wants_usage(), options == Some(&Value::Bool(true)));
    assert_eq!(chat.metadata().as_ref(), object.get("metadata").and_then(Value::as_object));
    let messages = serde_json::from_slice(&chat.body()[chat.messages()]).ok();
    assert_eq!(messages.as_ref(), object.get("messages"));
    assert!(messages.is_some_and(|messages: Value| messages.is_array()));
}
