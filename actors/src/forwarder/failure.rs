//! Responses of backends that are no answer: their errors, and what nobody expects.
//!
//! Owns: what of them the client gets to see (SPEC 2.1). Must never do: read them; that is done.

use bytes::Bytes;
use chat_proxy_core::chat::unary as rules;
use chat_proxy_core::error::{Retry, passthrough_retry};
use chat_proxy_core::{ApiError, Code};

use super::messages::{Labels, WholeAnswer};
use super::reply::Reply;
use super::upstream::Head;
use crate::transcript::Transcript;

/// A body that ended before its time.
pub(super) fn broke_off(address: &str, bytes: usize) -> ApiError {
    let message = format!("the answer of {address} broke off after {bytes} bytes");
    ApiError::new(Code::BackendUnavailable, message)
        .hint("the backend may have crashed; its own log tells more")
}

/// A response that no rule covers: a redirect, or something else than a stream where one was due.
pub(super) fn not_an_answer(head: &Head, body: &Bytes, address: &str, stream: bool) -> ApiError {
    let status = head.status.as_u16();
    if let Some(location) = &head.location {
        // What stands behind the path is for that place alone.
        let location = location.split(['?', '#']).next().unwrap_or_default();
        let message = format!("{address} redirects to {location}");
        return ApiError::new(Code::BackendUnavailable, message)
            .hint("give the entry the address that it redirects to as its base_url");
    }
    let wanted = if stream { "a stream was asked for" } else { "an answer was asked for" };
    let kind = if head.content_type.is_empty() { "no content type" } else { &head.content_type };
    let start: String = String::from_utf8_lossy(body).chars().take(200).collect();
    let message = format!("{wanted}, but {address} sent HTTP {status} with {kind}: {start:?}");
    ApiError::new(Code::BackendUnavailable, message).quoting()
}

/// Passes on a backend's 4xx with its status and message, and its 5xx as `err_backend_error`.
pub(super) fn pass_error(reply: Reply, head: &Head, body: Bytes, transcript: &mut Transcript) {
    let status = head.status.as_u16();
    let mut error = rules::server_error(status, &body);
    if let Some(text) = &head.retry_after {
        error.retry = Retry::Kept(text.clone());
    }
    if head.status.is_server_error() {
        return reply.refuse(error, transcript);
    }
    if reply.is_streaming() {
        let event = match reply.dialect() {
            dialect if dialect.has_choices() => rules::client_error_event(status, &body),
            dialect => dialect.error_event(&error),
        };
        return reply.end_with(event, &error, transcript);
    }
    transcript.failed(&error);
    let (content_type, body) = match rules::reshape_client_error(status, &body) {
        Some(reshaped) => {
            let body = reply.dialect().in_its_form(reshaped).to_string();
            ("application/json".to_owned(), Bytes::from(body))
        }
        None => (head.content_type.clone(), body),
    };
    let answer = WholeAnswer {
        status,
        content_type,
        retry_after: head.retry_after.clone(),
        retry: passthrough_retry(status),
        body,
        labels: Labels::default(),
    };
    reply.whole(answer, transcript);
}
