//! The error table of SPEC 2.1: every error that a client can see, in one place.
//!
//! Owns: code, type, HTTP status and retry advice of each error, and their JSON. Must never do:
//! know an HTTP library; `http/error.rs` of the daemon turns an [`ApiError`] into a response.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

/// One row of the error table. The name is the code without its `err_`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// No entry of that name.
    ModelNotFound,
    /// The model cannot do what the request needs.
    CapabilityMismatch,
    /// The entry has no chat template and one is required.
    TemplateRequired,
    /// Images or body over the limit.
    PayloadTooLarge,
    /// The GPU is leased to someone else.
    GpuLeaseActive,
    /// Two different entries answer to that name.
    ModelAmbiguous,
    /// A lease was asked for while another holds it.
    GpuLeaseBusy,
    /// Cannot connect, the backend died, or it broke the protocol.
    BackendUnavailable,
    /// The engine exited while starting.
    ModelStartFailed,
    /// The engine was not healthy in time.
    ModelStartTimeout,
    /// No head, no content, or no further content in time.
    BackendTimeout,
    /// The queue, or the memory for waiting bodies, is full.
    QueueFull,
    /// The request waited too long for its turn.
    QueueTimeout,
    /// The daemon is shutting down.
    Draining,
    /// `model: "resident"` with nothing loaded.
    NoResident,
    /// The backend answered with a server error; its status is kept.
    BackendError,
    /// No such endpoint.
    NotFound,
    /// The endpoint exists, but not with this method.
    MethodNotAllowed,
    /// Metrics are off.
    MetricsDisabled,
    /// The lease token is wrong.
    LeaseToken,
    /// A defect of ours.
    Internal,
    /// The request is not what the endpoint understands.
    InvalidRequest,
    /// No key, or a wrong one.
    Unauthorized,
    /// The key, or the browser's page, has not the right.
    Forbidden,
}

/// What a client should do next, as headers say it to OpenAI's SDKs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Retry {
    /// Nothing is said: the client's own habit.
    Unsaid,
    /// `x-should-retry: false`: the same request would fail again, or would do its work twice.
    Never,
    /// `Retry-After`, in seconds.
    After(u32),
    /// `Retry-After` as the backend put it: seconds or a date.
    Kept(String),
}

impl Code {
    /// All codes, for tests and documentation.
    pub const ALL: [Code; 24] = [
        Code::ModelNotFound,
        Code::CapabilityMismatch,
        Code::TemplateRequired,
        Code::PayloadTooLarge,
        Code::GpuLeaseActive,
        Code::ModelAmbiguous,
        Code::GpuLeaseBusy,
        Code::BackendUnavailable,
        Code::ModelStartFailed,
        Code::ModelStartTimeout,
        Code::BackendTimeout,
        Code::QueueFull,
        Code::QueueTimeout,
        Code::Draining,
        Code::NoResident,
        Code::BackendError,
        Code::NotFound,
        Code::MethodNotAllowed,
        Code::MetricsDisabled,
        Code::LeaseToken,
        Code::Internal,
        Code::InvalidRequest,
        Code::Unauthorized,
        Code::Forbidden,
    ];

    /// Code, type, status and retry advice: the table itself.
    fn row(self) -> (&'static str, &'static str, u16, Retry) {
        use Retry::{After, Never, Unsaid};
        match self {
            Code::ModelNotFound => ("err_model_not_found", "model_not_found", 404, Never),
            Code::CapabilityMismatch => {
                ("err_capability_mismatch", "capability_mismatch", 409, Never)
            }
            Code::TemplateRequired => ("err_template_required", "template_required", 409, Never),
            Code::PayloadTooLarge => ("err_payload_too_large", "payload_too_large", 413, Never),
            Code::GpuLeaseActive => ("err_gpu_lease_active", "gpu_lease_active", 423, After(30)),
            Code::ModelAmbiguous => ("err_model_ambiguous", "model_ambiguous", 409, Never),
            Code::GpuLeaseBusy => ("err_gpu_lease_busy", "gpu_lease_busy", 409, Never),
            Code::BackendUnavailable => {
                ("err_backend_unavailable", "backend_unavailable", 502, After(2))
            }
            Code::ModelStartFailed => ("err_model_start_failed", "model_start_failed", 502, Never),
            Code::ModelStartTimeout => {
                ("err_model_start_timeout", "model_start_timeout", 504, Never)
            }
            Code::BackendTimeout => ("err_backend_timeout", "backend_timeout", 504, Never),
            Code::QueueFull => ("err_queue_full", "queue_full", 429, After(1)),
            Code::QueueTimeout => ("err_queue_timeout", "queue_timeout", 503, After(5)),
            Code::Draining => ("err_draining", "draining", 503, After(5)),
            Code::NoResident => ("err_no_resident", "no_resident", 503, After(5)),
            Code::BackendError => ("err_backend_error", "backend_error", 502, Unsaid),
            Code::NotFound => ("err_not_found", "not_found", 404, Never),
            Code::MethodNotAllowed => ("err_method_not_allowed", "method_not_allowed", 405, Never),
            Code::MetricsDisabled => ("err_metrics_disabled", "metrics_disabled", 404, Never),
            Code::LeaseToken => ("err_lease_token", "lease_token", 400, Never),
            Code::Internal => ("err_internal", "internal", 500, Unsaid),
            Code::InvalidRequest => ("err_invalid_request", "invalid_request_error", 400, Never),
            Code::Unauthorized => ("err_unauthorized", "authentication_error", 401, Never),
            Code::Forbidden => ("err_forbidden", "permission_error", 403, Never),
        }
    }

    /// The stable machine-readable code, such as `err_model_not_found`.
    pub fn as_str(self) -> &'static str {
        self.row().0
    }

    /// The `type` field of the error object.
    pub fn kind(self) -> &'static str {
        self.row().1
    }

    /// The HTTP status; [`Code::BackendError`] usually carries the backend's own instead.
    pub fn status(self) -> u16 {
        self.row().2
    }
}

/// An error on its way to a client.
///
/// Shown by `{}` it is fit for logs: words that may quote the conversation are withheld there
/// ([`ApiError::for_log`]); a client gets [`ApiError::body`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {}", code.as_str(), self.for_log())]
pub struct ApiError {
    /// Which row of the table.
    pub code: Code,
    /// HTTP status: the row's, or the backend's own for [`Code::BackendError`].
    pub status: u16,
    /// What went wrong and where, for a person.
    pub message: String,
    /// The request field at fault.
    pub param: Option<String>,
    /// What to do next.
    pub hint: Option<String>,
    /// Advice for the client's retry logic.
    pub retry: Retry,
    /// The message is in the words of a backend or of the request, and may quote the conversation.
    quotes: bool,
}

impl ApiError {
    /// An error of the given row with its usual status and advice.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let (_, _, status, retry) = code.row();
        ApiError {
            code,
            status,
            message: message.into(),
            param: None,
            hint: None,
            retry,
            quotes: false,
        }
    }

    /// Names the request field at fault.
    #[must_use]
    pub fn param(mut self, field: impl Into<String>) -> Self {
        self.param = Some(field.into());
        self
    }

    /// Says what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Its message may quote the conversation: engines like to show what they did not understand.
    #[must_use]
    pub fn quoting(mut self) -> Self {
        self.quotes = true;
        self
    }

    /// The message as logs may have it (SPEC 7.1: no prompt is written unless that was asked for).
    pub fn for_log(&self) -> Cow<'_, str> {
        if !self.quotes {
            return Cow::Borrowed(&self.message);
        }
        let bytes = self.message.len();
        Cow::Owned(format!(
            "{bytes} bytes that may quote the conversation are not shown here (log_prompts keeps them)"
        ))
    }

    /// A request that is not understood; names the field.
    pub fn invalid(field: &str, message: impl Into<String>) -> Self {
        let error = ApiError::new(Code::InvalidRequest, message);
        if field.is_empty() { error } else { error.param(field) }
    }

    /// A backend's server error: its status is kept, a missing message is made up from it.
    pub fn backend(status: u16, message: Option<String>) -> Self {
        let quotes = message.is_some();
        let message = message.unwrap_or_else(|| format!("the backend answered HTTP {status}"));
        let mut error = ApiError::new(Code::BackendError, message);
        error.quotes = quotes;
        error.status = status;
        error.retry = passthrough_retry(status);
        error
    }

    /// The error object of SPEC 2.1 without the surrounding `error` key.
    pub(crate) fn object(&self) -> Map<String, Value> {
        let mut object = Map::new();
        object.insert("message".into(), json!(self.message));
        object.insert("type".into(), json!(self.code.kind()));
        object.insert("code".into(), json!(self.code.as_str()));
        object.insert("param".into(), json!(self.param));
        if let Some(hint) = &self.hint {
            object.insert("hint".into(), json!(hint));
        }
        object
    }

    /// The body of an error response.
    pub fn body(&self) -> Value {
        json!({ "error": self.object() })
    }

    /// The error as the one event that ends a broken stream: the object also carries `status`,
    /// because the response's own status has long left (SPEC 2.2).
    pub fn event(&self) -> String {
        let mut object = self.object();
        object.insert("status".into(), json!(self.status));
        format!("data: {}\n\n", json!({ "error": object }))
    }
}

/// Retry advice for a status that a backend chose itself and that passes through.
pub fn passthrough_retry(status: u16) -> Retry {
    match status {
        400 | 401 | 403 | 404 | 409 | 413 | 504 => Retry::Never,
        503 => Retry::After(5),
        _ => Retry::Unsaid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SPEC 2.1, typed off by hand: code, type, HTTP status.
    const SPEC: &[(&str, &str, u16)] = &[
        ("err_model_not_found", "model_not_found", 404),
        ("err_capability_mismatch", "capability_mismatch", 409),
        ("err_template_required", "template_required", 409),
        ("err_payload_too_large", "payload_too_large", 413),
        ("err_gpu_lease_active", "gpu_lease_active", 423),
        ("err_model_ambiguous", "model_ambiguous", 409),
        ("err_gpu_lease_busy", "gpu_lease_busy", 409),
        ("err_backend_unavailable", "backend_unavailable", 502),
        ("err_model_start_failed", "model_start_failed", 502),
        ("err_model_start_timeout", "model_start_timeout", 504),
        ("err_backend_timeout", "backend_timeout", 504),
        ("err_queue_full", "queue_full", 429),
        ("err_queue_timeout", "queue_timeout", 503),
        ("err_draining", "draining", 503),
        ("err_no_resident", "no_resident", 503),
        ("err_backend_error", "backend_error", 502),
        ("err_not_found", "not_found", 404),
        ("err_method_not_allowed", "method_not_allowed", 405),
        ("err_metrics_disabled", "metrics_disabled", 404),
        ("err_lease_token", "lease_token", 400),
        ("err_internal", "internal", 500),
        ("err_invalid_request", "invalid_request_error", 400),
        ("err_unauthorized", "authentication_error", 401),
        ("err_forbidden", "permission_error", 403),
    ];

    #[test]
    fn the_table_is_the_one_of_the_specification() {
        let ours: Vec<_> = Code::ALL.iter().map(|c| (c.as_str(), c.kind(), c.status())).collect();
        assert_eq!(ours, SPEC);
    }

    #[test]
    fn statuses_that_must_not_be_retried_say_so_and_waits_name_their_seconds() {
        for code in Code::ALL {
            let error = ApiError::new(code, "x");
            match error.status {
                400 | 401 | 403 | 404 | 405 | 409 | 413 | 504 => {
                    assert_eq!(error.retry, Retry::Never, "{code:?}");
                }
                423 | 429 | 503 => {
                    assert!(matches!(error.retry, Retry::After(_)), "{code:?}");
                }
                _ => {}
            }
        }
        assert_eq!(ApiError::new(Code::BackendUnavailable, "x").retry, Retry::After(2));
        assert_eq!(ApiError::new(Code::Draining, "x").retry, Retry::After(5));
        assert_eq!(ApiError::new(Code::ModelStartFailed, "x").retry, Retry::Never);
    }

    #[test]
    fn the_body_has_the_shape_that_openai_sdks_read() {
        let error = ApiError::invalid("stream", "must be true or false").hint("send a bool");
        assert_eq!(
            error.body().to_string(),
            r#"{"error":{"message":"must be true or false","type":"invalid_request_error","code":"err_invalid_request","param":"stream","hint":"send a bool"}}"#
        );
        let plain = ApiError::new(Code::Draining, "bye");
        assert_eq!(
            plain.event(),
            "data: {\"error\":{\"message\":\"bye\",\"type\":\"draining\",\"code\":\"err_draining\",\"param\":null,\"status\":503}}\n\n"
        );
    }

    #[test]
    fn what_may_quote_the_conversation_is_for_the_client_alone() {
        let error = ApiError::backend(400, Some("input was: secret".to_owned()));
        assert_eq!(error.body()["error"]["message"], "input was: secret");
        let shown = format!("{error} {}", error.for_log());
        assert!(shown.starts_with("err_backend_error: 17 bytes ") && !shown.contains("secret"));
        let ours = ApiError::new(Code::Draining, "bye");
        assert_eq!((ours.to_string(), &*ours.for_log()), ("err_draining: bye".to_owned(), "bye"));
    }

    #[test]
    fn a_backends_status_is_kept() {
        let error = ApiError::backend(507, None);
        assert_eq!((error.status, error.code), (507, Code::BackendError));
        assert_eq!(error.message, "the backend answered HTTP 507");
    }
}
