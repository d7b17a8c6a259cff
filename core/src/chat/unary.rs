//! Answers that come in one piece, and backends' error bodies.
//!
//! Owns: whether such an answer is whole, what it says about tokens, and how a backend's own error
//! is passed on (SPEC 2.1). Must never do: change a body that is already right.

use serde_json::{Value, json};

use super::chunk::{Chunk, Facts, shown_reason};
use super::usage::Usage;
use crate::error::ApiError;
use crate::json::Walker;

/// What the log wants to know about a whole answer.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Token counts, where the backend gave them.
    pub usage: Option<Usage>,
    /// The first choice's finish reason.
    pub finish_reason: Option<String>,
}

/// Whether an upstream body that ended is all of what its head promised.
///
/// `content_length`: the promise. Without it a JSON body must parse; of other types the
/// connection's own end is all there is to go by.
pub fn is_complete(content_length: Option<u64>, content_type: &str, body: &[u8]) -> bool {
    match content_length {
        Some(promised) => promised == body.len() as u64,
        None => !is_json(content_type) || parses(body),
    }
}

/// Whether a good response's body is a whole chat answer: that is JSON, whatever the head calls
/// it, and never nothing.
pub fn is_chat_answer(content_length: Option<u64>, body: &[u8]) -> bool {
    !body.is_empty() && content_length.map_or_else(|| parses(body), |n| n == body.len() as u64)
}

fn parses(body: &[u8]) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok()
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json") || essence.ends_with("+json")
}

/// What a whole answer says of itself, and what the rules about fields have to know of it: read in one
/// pass, for answers are long.
pub fn read(body: &[u8]) -> (Summary, Option<Facts>) {
    let mut reason = None;
    let chunk = Chunk::read(body, |choice| {
        if reason.is_none() {
            reason = choice.finish_reason.map(shown_reason);
        }
    });
    match chunk {
        // Whatever has no choices says it in other words.
        Chunk::Object(facts) if !facts.no_choices => {
            let usage = facts.usage.clone().and_then(|place| Usage::parse(&body[place]));
            (Summary { usage, finish_reason: reason }, Some(facts))
        }
        Chunk::Object(facts) => (summarize(body), Some(facts)),
        Chunk::Done | Chunk::Other => (summarize(body), None),
    }
}

/// Reads usage and finish reason off an answer.
pub fn summarize(body: &[u8]) -> Summary {
    let mut summary = Summary::default();
    let mut walker = Walker::new(body);
    // What cannot be read stays absent: the body has been judged whole already.
    let _ = walker.object(|key, w| match key {
        b"usage" => {
            let place = w.value()?;
            summary.usage = Usage::parse(w.slice(place));
            Some(())
        }
        // What `/v1/messages` calls it; and `/v1/responses`, where nothing else has a status.
        b"stop_reason" | b"status" if w.peek()? == b'"' => {
            let reason = shown_reason(w.string()?);
            summary.finish_reason.get_or_insert(reason);
            Some(())
        }
        b"choices" if w.peek()? == b'[' => w.array(|w| {
            if w.peek()? != b'{' {
                return w.value().map(drop);
            }
            w.object(|key, w| {
                if key == b"finish_reason" && w.peek()? == b'"' {
                    let reason = shown_reason(w.string()?);
                    if !reason.is_empty() {
                        summary.finish_reason.get_or_insert(reason);
                    }
                    return Some(());
                }
                w.value().map(drop)
            })
        }),
        _ => w.value().map(drop),
    });
    summary
}

/// A backend's own 4xx: the body to send instead, or `None` if it is an `OpenAI` error already.
pub fn reshape_client_error(status: u16, body: &[u8]) -> Option<Value> {
    let parsed: Option<Value> = serde_json::from_slice(body).ok();
    let is_openai = parsed
        .as_ref()
        .and_then(|v| v.get("error"))
        .and_then(|e| e.get("message"))
        .is_some_and(Value::is_string);
    if is_openai {
        return None;
    }
    let message = message_of(parsed.as_ref(), body)
        .unwrap_or_else(|| format!("the backend answered HTTP {status}"));
    let kind = if status == 404 { "not_found_error" } else { "invalid_request_error" };
    Some(json!({"error": {"message": message, "type": kind, "code": status, "param": null}}))
}

/// A backend's own 4xx as the event that ends a stream which has begun: its error object as it
/// is, with the status that the response can no longer have.
pub fn client_error_event(status: u16, body: &[u8]) -> String {
    let shape = reshape_client_error(status, body)
        .or_else(|| serde_json::from_slice(body).ok())
        .unwrap_or_default();
    let mut error = shape.get("error").cloned().unwrap_or_default();
    if let Some(object) = error.as_object_mut() {
        object.insert("status".to_owned(), json!(status));
    }
    format!("data: {}\n\n", json!({ "error": error }))
}

/// A backend's 5xx as our error: its status and message are kept.
pub fn server_error(status: u16, body: &[u8]) -> ApiError {
    let parsed: Option<Value> = serde_json::from_slice(body).ok();
    ApiError::backend(status, message_of(parsed.as_ref(), body))
}

/// The message of an `error` value in a stream: an object's `message`, or the text itself.
pub fn error_message(error: &[u8]) -> String {
    let text = match serde_json::from_slice::<Value>(error) {
        Ok(Value::String(text)) => text,
        Ok(value) => match value.get("message") {
            Some(Value::String(text)) => text.clone(),
            _ => value.to_string(),
        },
        Err(_) => String::from_utf8_lossy(error).into_owned(),
    };
    shorten(&text, MAX_MESSAGE)
}

/// The longest piece of a plain-text error that is worth passing on, in bytes.
const MAX_TEXT: usize = 2000;
/// The longest message that is taken out of an error of a backend, in bytes.
const MAX_MESSAGE: usize = 16 << 10;

/// At most `max` bytes of a text, cut between characters.
pub fn shorten(text: &str, max: usize) -> String {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mark = if end < text.len() { " …" } else { "" };
    format!("{}{mark}", &text[..end])
}

/// Engines say it in one of `error.message`, `error`, `message`, `detail`, or as plain text.
fn message_of(parsed: Option<&Value>, body: &[u8]) -> Option<String> {
    if let Some(value) = parsed {
        let error = value.get("error");
        let candidates = [
            error.and_then(|e| e.get("message")),
            error,
            value.get("message"),
            value.get("detail"),
        ];
        let found = candidates.into_iter().flatten().find(|v| !v.is_null());
        let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
        return found.map(|v| shorten(&text(v), MAX_MESSAGE));
    }
    let text = String::from_utf8_lossy(&body[..body.len().min(MAX_TEXT)]);
    let text = text.trim();
    let html = text.starts_with('<');
    (!text.is_empty() && !html).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_means_the_promised_length_or_json_that_parses() {
        let json = "application/json; charset=utf-8";
        for (length, kind, body, whole) in [
            (Some(2), json, "{}", true),
            (Some(3), json, "{}", false),
            (None, json, "{}", true),
            (None, json, "{\"a\":", false),
            (None, json, "", false),
            (None, "application/problem+json", "{", false),
            (None, "audio/mpeg", "xyz", true),
        ] {
            assert_eq!(is_complete(length, kind, body.as_bytes()), whole, "{kind} {body}");
        }
    }

    #[test]
    fn a_chat_answer_is_json_whatever_its_type_and_never_nothing() {
        for (length, body, whole) in [
            (Some(2), "{}", true),
            (Some(9), "{}", false),
            (None, "{}", true),
            (None, "{\"choices\":[{\"message\":{\"content\":\"half an", false),
            (Some(0), "", false),
            (None, "", false),
        ] {
            assert_eq!(is_chat_answer(length, body.as_bytes()), whole, "{length:?} {body}");
        }
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(shorten("abc", 3), "abc");
        assert_eq!(shorten("aéb", 2), "a …");
    }

    #[test]
    fn an_openai_error_passes_untouched_and_others_are_reshaped() {
        let vllm =
            br#"{"error":{"message":"too long","type":"BadRequestError","param":null,"code":400}}"#;
        assert_eq!(reshape_client_error(400, vllm), None);
        let cases: &[(u16, &str, &str)] = &[
            (404, r#"{"detail":"Not Found"}"#, "Not Found"),
            (400, r#"{"error":"no such tag"}"#, "no such tag"),
            (422, r#"{"detail":[{"loc":["body"]}]}"#, r#"[{"loc":["body"]}]"#),
            (400, "plain words", "plain words"),
            (400, "<html>nginx</html>", "the backend answered HTTP 400"),
            (400, "", "the backend answered HTTP 400"),
        ];
        for (status, body, message) in cases {
            let new = reshape_client_error(*status, body.as_bytes()).unwrap_or_default();
            assert_eq!(new["error"]["message"], *message);
            assert_eq!(new["error"]["code"], *status);
        }
    }

    #[test]
    fn a_4xx_in_a_stream_keeps_its_own_object() {
        let vllm =
            br#"{"error":{"message":"too long","type":"BadRequestError","param":"x","code":400}}"#;
        assert_eq!(
            client_error_event(400, vllm),
            "data: {\"error\":{\"message\":\"too long\",\"type\":\"BadRequestError\",\"param\":\"x\",\"code\":400,\"status\":400}}\n\n"
        );
        assert!(
            client_error_event(404, b"{\"detail\":\"Not Found\"}")
                .contains("\"message\":\"Not Found\"")
        );
    }

    #[test]
    fn a_server_error_keeps_status_and_message() {
        let error = server_error(500, b"Internal Server Error");
        assert_eq!((error.status, error.message.as_str()), (500, "Internal Server Error"));
        let error = server_error(503, br#"{"error":{"message":"busy","code":503}}"#);
        assert_eq!((error.status, error.message.as_str()), (503, "busy"));
    }

    #[test]
    fn usage_and_finish_reason_are_read_off_a_real_answer() {
        let body = br#"{"id":"c","choices":[{"index":0,"message":{"content":"finish_reason"},"finish_reason":"length"}],"usage":{"prompt_tokens":3,"completion_tokens":4}}"#;
        let (read, facts) = read(body);
        assert!(facts.is_some_and(|facts| facts.content && !facts.foreign));
        for summary in [read, summarize(body)] {
            assert_eq!(summary.finish_reason.as_deref(), Some("length"));
            assert_eq!(summary.usage.and_then(|u| u.completion_tokens), Some(4));
        }
        assert_eq!(summarize(b"not json"), Summary::default());
    }

    #[test]
    fn what_is_read_in_one_pass_is_what_is_read_alone() {
        for body in [
            r#"{"choices":[{"finish_reason":""},{"finish_reason":"stop"}],"usage":null}"#,
            r#"{"choices":[{"finish_reason":null}],"usage":{"prompt_tokens":1}}"#,
            r#"{"choices":[],"usage":{"prompt_tokens":1}}"#,
            r#"{"stop_reason":"end_turn","usage":{"input_tokens":5}}"#,
            r#"{"status":"completed","usage":{"output_tokens":5}}"#,
            "[1]",
            "",
        ] {
            assert_eq!(read(body.as_bytes()).0, summarize(body.as_bytes()), "{body}");
        }
    }
}
