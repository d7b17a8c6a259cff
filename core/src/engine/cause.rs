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
    /// It lived, and did not answer its health probes.
    #[error("the engine did not answer its health probes any more ({what}) and was ended")]
    Unhealthy {
        /// What they met.
        what: String,
        /// The telling line of its log.
        telling: Option<String>,
    },
    /// It failed again and again: for a while nothing is tried.
    #[error("the engine failed {failures} times in a row and is not started again for {} s; the last time: {last}", .left.as_secs())]
    CrashLoop {
        /// So often.
        failures: u32,
        /// Until one start is let through.
        left: Duration,
        /// The last failure.
        last: Box<Cause>,
    },
    /// Ollama did not give the GPU back.
    #[error("Ollama did not give the GPU back: {why}")]
    OllamaStays {
        /// What it still holds, or why that cannot be known.
        why: String,
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
            Cause::EndedAtStart { telling, .. }
            | Cause::Crashed { telling, .. }
            | Cause::Unhealthy { telling, .. } => telling.as_deref(),
            Cause::CrashLoop { last, .. } => last.telling(),
            _ => None,
        }
    }

    /// Whether the engine itself is at fault, and not whoever has its port.
    pub fn is_of_the_engine(&self) -> bool {
        !matches!(self, Cause::PortTaken { .. } | Cause::Stuck { .. } | Cause::OllamaStays { .. })
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
            Cause::OllamaStays { .. } => ApiError::new(Code::ModelStartFailed, message)
                .hint("look at `ollama ps`; if it runs on another GPU, set ollama_shares_gpu = \"never\""),
            Cause::Stuck { .. } => ApiError::new(Code::ModelStartFailed, message)
                .hint("nothing can be started until it is gone; look at that process"),
            Cause::EndedAtStart { status, telling } => {
                let hint = telling.clone().unwrap_or_else(|| untold(status));
                ApiError::new(Code::ModelStartFailed, message).hint(hint)
            }
            Cause::CrashLoop { last, .. } => {
                let hint = last.error(model).hint.unwrap_or_default();
                let hint = format!("{hint} (activate it by hand, or change its entry, to try at once)");
                ApiError::new(Code::ModelStartFailed, message).hint(hint)
            }
            Cause::Crashed { status, telling } => {
                let hint = telling.clone().unwrap_or_else(|| untold(status));
                ApiError::new(Code::BackendUnavailable, message).hint(hint)
            }
            Cause::Unhealthy { telling, .. } => {
                let hint = telling.clone();
                let hint = hint.unwrap_or_else(|| "the engine's log says nothing of it".to_owned());
                ApiError::new(Code::BackendUnavailable, message).hint(hint)
            }
        }
    }
}

/// What to say when the log does not.
fn untold(status: &str) -> String {
    let hint = if status.starts_with("signal") {
        "its log says nothing of it, and the proxy did not do it: the kernel when memory ran out (`journalctl -k` tells), or a person"
    } else {
        "the engine's log says nothing of it"
    };
    hint.to_owned()
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
    fn a_crash_loop_says_how_long_and_why_and_what_helps() {
        let last =
            Cause::Crashed { status: "signal 9".into(), telling: Some("out of memory".into()) };
        let cause =
            Cause::CrashLoop { failures: 3, left: Duration::from_secs(57), last: Box::new(last) };
        let error = cause.error("tiny-a");
        assert_eq!((error.code, error.status), (Code::ModelStartFailed, 502));
        assert_eq!(
            error.message,
            "tiny-a: the engine failed 3 times in a row and is not started again for 57 s; \
             the last time: the engine ended while it served (signal 9)"
        );
        let hint = error.hint.unwrap();
        assert!(hint.starts_with("out of memory (activate it by hand"), "{hint}");
        assert_eq!(cause.telling(), Some("out of memory"));
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
            (Cause::Unhealthy { what: "503".into(), telling: None }, 502),
            (Cause::Stuck { who: "pid 7".into() }, 502),
        ];
        for (cause, status) in causes {
            let error = cause.error("m");
            assert_eq!(error.status, status, "{cause:?}");
            assert!(error.hint.is_some() && error.message.starts_with("m: "), "{cause:?}");
        }
    }
}
