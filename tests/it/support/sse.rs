//! Events of a streamed body.

use serde_json::Value;

pub const DONE: &str = "data: [DONE]\n\n";

/// The events of a body, each with its blank line; panics if something is left over.
pub fn events(body: &[u8]) -> Vec<String> {
    let text = std::str::from_utf8(body).expect("a stream is UTF-8");
    let events: Vec<String> = text.split_inclusive("\n\n").map(str::to_owned).collect();
    let last = events.last();
    assert!(last.is_none_or(|last| last.ends_with("\n\n")), "half an event at the end: {last:?}");
    events
}

/// Comments go, events stay.
pub fn without_comments(events: Vec<String>) -> Vec<String> {
    events.into_iter().filter(|event| !event.starts_with(':')).collect()
}

/// The error object of an event, if it is one.
pub fn error_of(event: &str) -> Option<Value> {
    let data: Value = serde_json::from_str(event.strip_prefix("data: ")?.trim_end()).ok()?;
    data.get("error").filter(|error| !error.is_null()).cloned()
}

/// Asserts that the events end with an error of this code and status, that it is the only one and
/// that no `[DONE]` came; gives the error and the events before it.
#[track_caller]
pub fn broken(body: &[u8], code: &str, status: u16) -> (Value, Vec<String>) {
    let mut all = events(body);
    let last = all.pop().expect("a stream with an error has an event");
    let error = error_of(&last).unwrap_or_else(|| panic!("no error event at the end: {last:?}"));
    assert_eq!(error["code"], code, "{error}");
    assert_eq!(error["status"], status, "{error}");
    assert!(error["type"].is_string() && error["message"].is_string(), "{error}");
    assert!(all.iter().all(|event| event != DONE && error_of(event).is_none()), "{all:?}");
    (error, all)
}
