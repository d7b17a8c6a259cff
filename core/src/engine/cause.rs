//! Why an engine is not there, and how a client is told.
//!
//! Owns: the causes, their sentences, their errors (SPEC 2.1). Must never do: name a file or an
//! address of the inside beyond what helps: the log's path is the operator's.

use std::time::Duration;

use crate::error::{ApiError, Code};

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// Somebody else has the port.
    #[error("port {port} is taken by {by}")]
    PortTaken {
        /// The port.
        port: u16,
        /// Who: pid and command line where they can be seen.
        by: String,
    },
    /// The program could not be started at all.
    #[error("the engine could not be started: {message}")]
    NotStarted {
        /// The system's words.
        message: String,
    },
    /// It ended before it was ready.
    #[error("the engine ended while it was starting ({status})")]
    EndedAtStart {
        /// Exit code or signal.
        status: String,
        /// The telling line of its log.
        telling: Option<String>,
    },
    /// It was not ready in time.
    #[error("the engine was not ready within {} s", .after.as_secs_f64())]
    TooSlow {
        /// The bound.
        after: Duration,
    },
    /// It wrote nothing for too long while it loaded.
    #[error("the engine was not ready and wrote nothing for {} s", .after.as_secs_f64())]
    Silent {
        /// The bound.
        after: Duration,
    },
    /// It ended while it served.
    #[error("the engine ended while it served ({status})")]
    Crashed {
        /// Exit code or signal.
        status: String,
        /// The telling line of its log.
        telling: Option<String>,
    },
    /// A process of the old engine could not be ended.
    #[error("the old engine cannot be ended: {who}")]
    Stuck {
        /// Who still lives, or what is still held.
        who: String,
    },
}

impl Cause {
    /// The telling line of the log, where there is one.
    pub fn telling(&self) -> Option<&str> {
        match self {
            Cause::EndedAtStart { telling, .. } | Cause::Crashed { telling, .. } => {
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

    /// What a request that waited for the engine is answered.
    pub fn error(&self, model: &str) -> ApiError {
        let message = format!("{model}: {self}");
        match self {
            Cause::TooSlow { .. } => ApiError::new(Code::ModelStartTimeout, message).hint(
                "raise vllm_start_timeout_s, or the entry's backend_config.start_timeout_s; the engine's log shows how far it came",
            ),
            Cause::Silent { .. } => ApiError::new(Code::ModelStartTimeout, message)
                .hint("raise vllm_health_timeout_s if this engine loads without a word"),
            Cause::PortTaken { .. } => ApiError::new(Code::ModelStartFailed, message)
                .hint("stop that program, or set vllm_port to another port"),
            Cause::NotStarted { .. } => ApiError::new(Code::ModelStartFailed, message)
                .hint("set vllm_command to the program that starts vLLM"),
            Cause::Stuck { .. } => ApiError::new(Code::ModelStartFailed, message)
                .hint("nothing can be started until it is gone; look at that process"),
            Cause::EndedAtStart { telling, .. } => {
                let hint = telling.clone();
                ApiError::new(Code::ModelStartFailed, message)
                    .hint(hint.unwrap_or_else(|| "the engine's log is empty".to_owned()))
            }
            Cause::Crashed { telling, .. } => {
                let hint = telling.clone();
                ApiError::new(Code::BackendUnavailable, message)
                    .hint(hint.unwrap_or_else(|| "the engine's log says nothing".to_owned()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hint_carries_the_telling_line() {
        let cause = Cause::EndedAtStart {
            status: "exit code 1".into(),
            telling: Some("ValueError: no".into()),
        };
        let error = cause.error("tiny-a");
        assert_eq!(error.code, Code::ModelStartFailed);
        assert_eq!(error.message, "tiny-a: the engine ended while it was starting (exit code 1)");
        assert_eq!(error.hint.as_deref(), Some("ValueError: no"));
        assert_eq!(
            cause.in_full(),
            "the engine ended while it was starting (exit code 1): ValueError: no"
        );
    }

    #[test]
    fn every_cause_says_what_to_do() {
        let after = Duration::from_secs(3);
        let causes = [
            (Cause::PortTaken { port: 1, by: "pid 7 (x)".into() }, 502),
            (Cause::NotStarted { message: "x".into() }, 502),
            (Cause::EndedAtStart { status: "exit code 0".into(), telling: None }, 502),
            (Cause::TooSlow { after }, 504),
            (Cause::Silent { after }, 504),
            (Cause::Crashed { status: "signal 9".into(), telling: None }, 502),
            (Cause::Stuck { who: "pid 7".into() }, 502),
        ];
        for (cause, status) in causes {
            let error = cause.error("m");
            assert_eq!(error.status, status, "{cause:?}");
            assert!(error.hint.is_some() && error.message.starts_with("m: "), "{cause:?}");
        }
    }
}
