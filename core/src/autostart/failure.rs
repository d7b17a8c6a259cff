//! Why a service is not there, and how a client is told.
//!
//! Owns: the causes, their sentences, their errors (SPEC 2.1). Must never do: decide what follows.

use std::time::Duration;

use crate::error::{ApiError, Code};

/// What went wrong with a service.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Its program could not be started at all.
    #[error("the service could not be started: {message}")]
    NotStarted {
        /// The system's words.
        message: String,
    },
    /// It ended before it was ready.
    #[error("the service ended while it was starting ({status})")]
    EndedAtStart {
        /// Exit code or signal.
        status: String,
        /// The telling line of its log.
        telling: Option<String>,
    },
    /// It was not ready in time.
    #[error("the service was not ready within {} s", grace.as_secs_f64())]
    TooSlow {
        /// The grace period.
        grace: Duration,
    },
    /// It ended by itself after it had been ready.
    #[error("the service ended ({status})")]
    Died {
        /// Exit code or signal.
        status: String,
        /// The telling line of its log.
        telling: Option<String>,
    },
    /// It runs, but nobody answers.
    #[error("the service runs but does not answer any more")]
    Hung,
    /// It was stopped by hand, or by the daemon's end, while somebody waited for it.
    #[error("the service was stopped meanwhile")]
    Stopped,
    /// It cannot be ended.
    #[error("what is left of the service cannot be ended: {who}")]
    Stuck {
        /// Its processes.
        who: String,
    },
}

impl Failure {
    /// The telling line of the log, where there is one.
    pub fn telling(&self) -> Option<&str> {
        match self {
            Failure::EndedAtStart { telling, .. } | Failure::Died { telling, .. } => {
                telling.as_deref()
            }
            _ => None,
        }
    }

    /// In one line, for `last_error` and the log.
    pub fn in_full(&self) -> String {
        match self.telling() {
            Some(line) => format!("{self}: {line}"),
            None => self.to_string(),
        }
    }

    /// What is answered to those who wanted the service; `log`: where its output is.
    pub fn error(&self, service: &str, log: &str) -> ApiError {
        let (code, hint) = match self {
            Failure::TooSlow { .. } => (
                Code::ModelStartTimeout,
                format!(
                    "raise grace_period_s of autostart.services.{service} (or autostart_grace_period_s); its log {log} shows how far it came"
                ),
            ),
            Failure::NotStarted { .. } => (
                Code::ModelStartFailed,
                format!("look at command and cwd of autostart.services.{service}"),
            ),
            Failure::EndedAtStart { telling, .. } => {
                (Code::ModelStartFailed, told(telling.as_deref(), log))
            }
            Failure::Died { telling, .. } => {
                (Code::BackendUnavailable, told(telling.as_deref(), log))
            }
            Failure::Hung => (Code::BackendUnavailable, format!("look at its log {log}")),
            Failure::Stopped => (Code::BackendUnavailable, "send the request again".to_owned()),
            Failure::Stuck { .. } => (
                Code::ModelStartFailed,
                "it is not started again until that is gone; look at those processes".to_owned(),
            ),
        };
        ApiError::new(code, format!("{service}: {self}")).hint(hint)
    }
}

fn told(telling: Option<&str>, log: &str) -> String {
    telling
        .map_or_else(|| format!("it wrote nothing that tells why; its log is {log}"), str::to_owned)
}

/// A service that no setting names.
pub fn unknown(service: &str) -> ApiError {
    let message = format!("there is no service {service:?}");
    ApiError::new(Code::BackendUnavailable, message)
        .hint(format!("add [autostart.services.{service}] to the settings, or an entry of that name to the registry"))
}

/// The same for who wants it stopped.
pub fn no_such(service: &str) -> ApiError {
    ApiError::new(Code::NotFound, format!("there is no service {service:?}"))
        .hint("GET /v1/autostart/status lists the services")
}

/// Requests start nothing.
pub fn disabled(service: &str) -> ApiError {
    let message = format!("the service {service} does not answer, and autostart is off");
    ApiError::new(Code::BackendUnavailable, message)
        .hint("set autostart_enabled = true, or start the service by hand")
}

/// It runs, but not where that entry says.
pub fn nobody_listens(service: &str, address: &str) -> ApiError {
    let message = format!("the service {service} runs, but nothing listens at {address}");
    ApiError::new(Code::BackendUnavailable, message)
        .hint("correct the address of the entry, or what autostart_map says for its backend")
}

/// An entry of another machine, for which a service of this one is no help.
pub fn elsewhere(service: &str, address: &str) -> ApiError {
    let message = format!(
        "nothing listens at {address}, and the service {service} is started on this machine"
    );
    ApiError::new(Code::BackendUnavailable, message).hint(format!(
        "start that server where it runs; if {service} serves the entry, name it in models of autostart.services.{service}"
    ))
}

/// The daemon ends.
pub fn ending() -> ApiError {
    ApiError::new(Code::Draining, "the proxy is shutting down; nothing is started any more")
}

/// It runs, but somebody else started it.
pub fn not_ours(service: &str) -> ApiError {
    ApiError::new(Code::InvalidRequest, format!("{service} was not started by this proxy"))
        .hint("stop it where it was started")
}

/// An entry of the registry is stopped elsewhere.
pub fn is_an_entry(service: &str) -> ApiError {
    ApiError::new(
        Code::InvalidRequest,
        format!("{service} is an entry of the registry and no program"),
    )
    .hint("use the endpoints of its backend: /v1/backends/…/deactivate, /v1/gpu/unload_all")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_says_what_to_do_next() {
        let (status, telling) = ("exit code 3".to_owned(), Some("ValueError: x".to_owned()));
        for (failure, code, hint) in [
            (Failure::NotStarted { message: "no".into() }, Code::ModelStartFailed, "command"),
            (
                Failure::TooSlow { grace: Duration::from_secs(3) },
                Code::ModelStartTimeout,
                "grace_period_s",
            ),
            (
                Failure::TooSlow { grace: Duration::from_secs(3) },
                Code::ModelStartTimeout,
                "/the.log",
            ),
            (
                Failure::EndedAtStart { status: status.clone(), telling: telling.clone() },
                Code::ModelStartFailed,
                "ValueError: x",
            ),
            (
                Failure::EndedAtStart { status: status.clone(), telling: None },
                Code::ModelStartFailed,
                "/the.log",
            ),
            (Failure::Died { status, telling }, Code::BackendUnavailable, "ValueError: x"),
            (Failure::Hung, Code::BackendUnavailable, "/the.log"),
            (Failure::Stopped, Code::BackendUnavailable, "again"),
            (Failure::Stuck { who: "pid 7".into() }, Code::ModelStartFailed, "processes"),
        ] {
            let error = failure.error("svc", "/the.log");
            assert_eq!(error.code, code, "{failure:?}");
            assert!(error.hint.as_deref().is_some_and(|text| text.contains(hint)), "{error:?}");
            assert!(error.message.starts_with("svc: "), "{error:?}");
        }
        for error in [nobody_listens("svc", "http://h:1/v1"), elsewhere("svc", "http://h:1/v1")] {
            assert_eq!(error.code, Code::BackendUnavailable);
            assert!(error.message.contains("http://h:1/v1") && error.hint.is_some(), "{error:?}");
        }
        assert!(disabled("svc").hint.is_some_and(|hint| hint.contains("autostart_enabled = true")));
    }
}
