//! The timers of a streamed request, kept without touching the timer wheel for every chunk.
//!
//! Owns: one sleeping timer and the times that matter. The timer is set anew only when it fires:
//! a chunk costs one reading of the clock. Must never do: count a client's slowness as the
//! backend's silence; the pump notes the time after every wait for room.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use chat_proxy_core::{ApiError, Code};
use tokio::time::{Instant, Sleep, sleep_until};

use super::ForwardSettings;

/// What a timer that fired asks for.
#[derive(Debug)]
pub(super) enum Due {
    /// Tell the client that it waits.
    Heartbeat,
    /// The backend took too long.
    Timeout(ApiError),
}

/// How far the answer has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No head yet.
    Head,
    /// No content yet.
    FirstToken,
    /// Content flows.
    Flowing,
}

/// See the module.
pub(super) struct Deadlines {
    timer: Pin<Box<Sleep>>,
    phase: Phase,
    sent: Instant,
    last_activity: Instant,
    next_heartbeat: Option<Instant>,
    heartbeat: Option<Duration>,
    head: Option<Duration>,
    first_token: Option<Duration>,
    idle: Option<Duration>,
}

/// As good as never.
const FAR: Duration = Duration::from_secs(86_400 * 365);

impl Deadlines {
    /// `head`: until the head comes; `heard`: when the client heard of us last.
    pub(super) fn start(
        settings: &ForwardSettings,
        head: Option<Duration>,
        heard: Instant,
    ) -> Self {
        let now = Instant::now();
        let heartbeat = settings.heartbeat.limit();
        let mut deadlines = Deadlines {
            timer: Box::pin(sleep_until(now + FAR)),
            phase: Phase::Head,
            sent: now,
            last_activity: now,
            next_heartbeat: heartbeat.map(|every| heard + every),
            heartbeat,
            head,
            first_token: settings.first_token_timeout.limit(),
            idle: settings.idle_timeout.limit(),
        };
        deadlines.arm();
        deadlines
    }

    /// The head has come.
    pub(super) fn head_came(&mut self) {
        self.phase = Phase::FirstToken;
        self.arm();
    }

    /// The first bytes for the client have come: no comments from now on.
    pub(super) fn data_came(&mut self) {
        self.next_heartbeat = None;
    }

    /// Something came from the backend, or the client has made room again.
    pub(super) fn activity(&mut self, content: bool) {
        self.last_activity = Instant::now();
        if content && self.phase != Phase::Flowing {
            self.phase = Phase::Flowing;
            self.arm();
        }
    }

    /// Ready when a timer has fired for good.
    pub(super) fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<Due> {
        while self.timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            if self.next_heartbeat.is_some_and(|at| at <= now) {
                self.next_heartbeat = self.heartbeat.map(|every| now + every);
                self.arm();
                return Poll::Ready(Due::Heartbeat);
            }
            if self.limit().is_some_and(|(at, ..)| at <= now) {
                return Poll::Ready(Due::Timeout(self.timeout()));
            }
            self.arm();
        }
        Poll::Pending
    }

    /// When the present phase is over, its length, and what was awaited.
    fn limit(&self) -> Option<(Instant, Duration, &'static str)> {
        match self.phase {
            Phase::Head => self.head.map(|d| (self.sent + d, d, "no response head")),
            Phase::FirstToken => self.first_token.map(|d| (self.sent + d, d, "no content")),
            Phase::Flowing => self.idle.map(|d| (self.last_activity + d, d, "no further content")),
        }
    }

    fn timeout(&self) -> ApiError {
        let (what, key) = match self.phase {
            Phase::Head => ("no response head", "backend_timeout_ms"),
            Phase::FirstToken => ("no content", "first_token_timeout_ms"),
            Phase::Flowing => ("no further content", "stream_idle_timeout_ms"),
        };
        let millis = self.limit().map_or(0, |(_, length, _)| length.as_millis());
        ApiError::new(Code::BackendTimeout, format!("the backend sent {what} within {millis} ms"))
            .hint(format!("raise {key} if the backend may take longer"))
    }

    fn arm(&mut self) {
        let limit = self.limit().map(|(at, ..)| at);
        let next = [self.next_heartbeat, limit].into_iter().flatten().min();
        self.timer.as_mut().reset(next.unwrap_or_else(|| Instant::now() + FAR));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic)]
    use super::*;
    use chat_proxy_core::config::Millis;
    use std::future::poll_fn;

    fn settings() -> ForwardSettings {
        ForwardSettings {
            default_model: None,
            heartbeat: Millis(10_000),
            head_timeout: Millis(25_000),
            first_token_timeout: Millis(60_000),
            idle_timeout: Millis(5_000),
            unary_timeout: Millis(0),
            ollama_load_timeout: None,
            autostart: std::sync::Arc::default(),
            lease_wait: false,
            max_queue_wait: None,
            require_template: true,
            answers: crate::forwarder::AnswerSettings {
                normalises_tools: true,
                think_format: chat_proxy_core::chat::think::ThinkFormat::Keep,
                reasoning_field: chat_proxy_core::chat::fields::ReasoningField::Both,
                suppress_decorations: true,
            },
            policies: chat_proxy_core::chat::policy::PolicyRules::default(),
            class_rules: std::sync::Arc::default(),
            images: crate::forwarder::ImageRules { fetch: false, private: false, max_bytes: 0 },
        }
    }

    async fn due(deadlines: &mut Deadlines) -> (u64, Due) {
        let due = poll_fn(|cx| deadlines.poll_due(cx)).await;
        let at = deadlines.sent.elapsed().as_millis();
        (u64::try_from(at).unwrap_or(u64::MAX) / 100 * 100, due)
    }

    fn message(due: Due) -> String {
        match due {
            Due::Timeout(error) => error.hint.unwrap_or_default(),
            Due::Heartbeat => "heartbeat".into(),
        }
    }

    #[actix_rt::test]
    async fn heartbeats_come_until_the_head_is_too_late() {
        tokio::time::pause();
        let mut deadlines =
            Deadlines::start(&settings(), settings().head_timeout.limit(), Instant::now());
        for at in [10_000, 20_000] {
            let (when, what) = due(&mut deadlines).await;
            assert_eq!((when, message(what).as_str()), (at, "heartbeat"));
        }
        let (when, what) = due(&mut deadlines).await;
        assert_eq!(when, 25_000);
        assert!(message(what).contains("backend_timeout_ms"));
    }

    #[actix_rt::test]
    async fn the_first_content_has_its_own_limit_and_data_ends_the_heartbeats() {
        tokio::time::pause();
        let mut deadlines =
            Deadlines::start(&settings(), settings().head_timeout.limit(), Instant::now());
        deadlines.head_came();
        deadlines.data_came();
        let (when, what) = due(&mut deadlines).await;
        assert_eq!(when, 60_000);
        assert!(message(what).contains("first_token_timeout_ms"));
    }

    #[actix_rt::test]
    async fn silence_counts_from_the_last_chunk() {
        tokio::time::pause();
        let mut deadlines =
            Deadlines::start(&settings(), settings().head_timeout.limit(), Instant::now());
        deadlines.head_came();
        deadlines.data_came();
        deadlines.activity(true);
        tokio::time::advance(Duration::from_secs(4)).await;
        deadlines.activity(true);
        let (when, what) = due(&mut deadlines).await;
        assert_eq!(when, 9_000);
        assert!(message(what).contains("stream_idle_timeout_ms"));
    }

    #[actix_rt::test]
    async fn no_limits_means_no_timers() {
        tokio::time::pause();
        let none = ForwardSettings {
            heartbeat: Millis(0),
            head_timeout: Millis(0),
            first_token_timeout: Millis(0),
            idle_timeout: Millis(0),
            ..settings()
        };
        let mut deadlines = Deadlines::start(&none, None, Instant::now());
        let waited = tokio::time::timeout(Duration::from_secs(86_400), due(&mut deadlines)).await;
        assert!(waited.is_err());
    }
}
