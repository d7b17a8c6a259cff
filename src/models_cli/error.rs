//! Why a verb failed, as a sentence, a hint and an exit code.
//!
//! Owns: the exit codes. Must never do: print; [`super::output`] does.

use std::io;

use chat_proxy_actors::registry::RegistryError;
use chat_proxy_core::config::Problem;
use chat_proxy_core::{ApiError, Code};
use serde_json::{Map, Value, json};

/// See the module.
#[derive(Debug, thiserror::Error)]
pub(super) enum CliError {
    /// Nobody listens at that address.
    #[error("the daemon does not run: nobody listens at {url}")]
    NotRunning { url: String },
    /// A daemon that takes any free port says which; none has.
    #[error("the daemon does not run: no {file} says at which port it listens")]
    NoPort { file: String },
    /// It may be there.
    #[error("the daemon at {url} cannot be reached: {why}")]
    Unreachable { url: String, why: String },
    /// Somebody else answers there.
    #[error("what answers at {url} is no chat proxy (HTTP {status}, no JSON)")]
    Stranger { url: String, status: u16 },
    /// The daemon's own refusal.
    #[error("{}", .0.message)]
    Refused(Refusal),
    /// What was asked for is not there.
    #[error("{message}")]
    NotFound { message: String, hint: Option<String> },
    /// What was asked for cannot be done.
    #[error("{message}")]
    Failed { message: String, hint: Option<String> },
    /// The settings are wrong, and the answer hangs on them.
    #[error("the settings cannot be read: {}", listed(.0))]
    Settings(Vec<Problem>),
    /// No daemon runs, and the files cannot be read either.
    #[error("the daemon does not run, and the registry cannot be read: {0}")]
    Registry(#[from] RegistryError),
    /// Ctrl-C; says what goes on.
    #[error("{message}")]
    Interrupted { message: String, hint: String },
    /// Whoever read our output has gone.
    #[error("nobody reads any more")]
    Closed,
    /// The output cannot be written.
    #[error("the output cannot be written: {0}")]
    Write(io::Error),
}

/// An error object of the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) code: String,
    pub(super) message: String,
    pub(super) param: Option<String>,
    pub(super) hint: Option<String>,
}

impl Refusal {
    /// Reads the body of a refusal (SPEC 2.1).
    pub(super) fn read(status: u16, body: &Value) -> Option<Self> {
        let error = body.get("error")?;
        let text = |key: &str| error.get(key).and_then(Value::as_str).map(str::to_owned);
        Some(Refusal {
            status,
            code: text("code").or_else(|| text("type")).unwrap_or_default(),
            message: text("message")?,
            param: text("param"),
            hint: text("hint"),
        })
    }

    /// Whether the daemon complains of this field of the request.
    pub(super) fn is_about(&self, field: &str) -> bool {
        self.status == 400 && self.param.as_deref() == Some(field)
    }
}

/// What reading the registry's files says is said as the daemon would say it.
impl From<ApiError> for CliError {
    fn from(error: ApiError) -> Self {
        CliError::Refused(Refusal {
            status: error.status,
            code: error.code.as_str().to_owned(),
            message: error.message,
            param: error.param,
            hint: error.hint,
        })
    }
}

impl CliError {
    pub(super) fn failed(message: impl Into<String>, hint: &str) -> Self {
        CliError::Failed { message: message.into(), hint: Some(hint.to_owned()) }
    }

    pub(super) fn not_found(message: impl Into<String>, hint: impl Into<String>) -> Self {
        CliError::NotFound { message: message.into(), hint: Some(hint.into()) }
    }

    /// No daemon runs, as far as can be told from here.
    pub(super) fn is_absence(&self) -> bool {
        matches!(self, CliError::NotRunning { .. } | CliError::NoPort { .. })
    }

    /// What to do.
    pub(super) fn hint(&self) -> Option<String> {
        let hint = match self {
            CliError::NotRunning { .. } | CliError::NoPort { .. } => {
                "start it with `imageworks-chat-proxy`, or say with --url where another one is"
            }
            CliError::Unreachable { .. } | CliError::Stranger { .. } => {
                "check --url, IMAGEWORKS_PROXY_URL, or host and port in the settings"
            }
            CliError::Refused(refusal) if refusal.status == 401 => {
                "give a key with --api-key or IMAGEWORKS_API_KEY"
            }
            CliError::Settings(_) => {
                "`imageworks-chat-proxy check-config` tells more; with --url they are not needed"
            }
            CliError::Interrupted { hint, .. } => hint,
            CliError::Refused(Refusal { hint, .. })
            | CliError::NotFound { hint, .. }
            | CliError::Failed { hint, .. } => return hint.clone(),
            CliError::Registry(_) | CliError::Closed | CliError::Write(_) => return None,
        };
        Some(hint.to_owned())
    }

    pub(super) fn exit_code(&self) -> u8 {
        match self {
            CliError::Closed => 0,
            CliError::Refused(refusal) => exit_code_of(refusal),
            CliError::NotFound { .. } => 3,
            CliError::NotRunning { .. }
            | CliError::NoPort { .. }
            | CliError::Unreachable { .. }
            | CliError::Stranger { .. } => 4,
            CliError::Interrupted { .. } => 130,
            CliError::Failed { .. }
            | CliError::Settings(_)
            | CliError::Registry(_)
            | CliError::Write(_) => 1,
        }
    }

    /// The object for scripts, in the daemon's own form.
    pub(super) fn to_json(&self) -> Value {
        let code = match self {
            CliError::Refused(refusal) => refusal.code.as_str(),
            CliError::NotFound { .. } => "not_found",
            CliError::NotRunning { .. } | CliError::NoPort { .. } => "not_running",
            CliError::Unreachable { .. } | CliError::Stranger { .. } => "unreachable",
            CliError::Interrupted { .. } => "interrupted",
            CliError::Settings(_) => "settings",
            CliError::Registry(_) => "registry",
            CliError::Failed { .. } | CliError::Closed | CliError::Write(_) => "failed",
        };
        let mut error = Map::new();
        error.insert("message".into(), json!(self.to_string()));
        error.insert("code".into(), json!(code));
        if let Some(hint) = self.hint() {
            error.insert("hint".into(), json!(hint));
        }
        json!({ "error": error })
    }
}

fn exit_code_of(refusal: &Refusal) -> u8 {
    let not_found = [Code::ModelNotFound, Code::NotFound, Code::NoResident];
    if not_found.iter().any(|code| code.as_str() == refusal.code) || refusal.is_about("role") {
        return 3;
    }
    match refusal.status {
        401 | 403 | 409 | 423 | 429 => 5,
        _ => 1,
    }
}

fn listed(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_of_the_daemon_has_its_exit_code() {
        for code in Code::ALL {
            let want = match code {
                Code::ModelNotFound | Code::NotFound | Code::NoResident => 3,
                Code::CapabilityMismatch
                | Code::TemplateRequired
                | Code::ModelAmbiguous
                | Code::GpuLeaseActive
                | Code::GpuLeaseBusy
                | Code::QueueFull
                | Code::Unauthorized
                | Code::Forbidden => 5,
                _ => 1,
            };
            assert_eq!(CliError::from(ApiError::new(code, "x")).exit_code(), want, "{code:?}");
        }
        let role = ApiError::invalid("role", "there is no role x");
        assert_eq!(CliError::from(role).exit_code(), 3);
    }

    #[test]
    fn a_refusal_is_read_as_it_was_written() {
        let error = ApiError::invalid("model", "no").hint("do");
        let read = Refusal::read(400, &error.body()).unwrap();
        assert!(read.is_about("model") && !read.is_about("role"));
        assert_eq!(CliError::from(error).hint().as_deref(), Some("do"));
        insta::assert_snapshot!(
            CliError::Refused(read).to_json(),
            @r#"{"error":{"message":"no","code":"err_invalid_request","hint":"do"}}"#
        );
        assert_eq!(Refusal::read(500, &json!({"error": "x"})), None);
        assert_eq!(Refusal::read(500, &json!([])), None);
    }
}
