//! The story of one request, told to the log exactly once, whatever becomes of the request.
//!
//! Owns: a [`Record`] that fills up on the way and is sent when the transcript is dropped: also
//! by a panic, also when the client goes. Must never do: be written twice or forgotten.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use chat_proxy_core::ApiError;
use chat_proxy_core::chat::unary::shorten;
use chat_proxy_core::chat::usage::Usage;
use chat_proxy_core::registry::entry::Pricing;
use chat_proxy_core::telemetry::estimate;
use chat_proxy_core::telemetry::record::{Record, RecordError, tokens_per_second};

use crate::logger::LogHandle;
use crate::metrics::{InFlight, MetricsHandle};

/// As much of an error's message goes into the log, in bytes.
const MAX_MESSAGE: usize = 2000;

/// Who hears of finished requests.
#[derive(Clone)]
pub struct Audience {
    /// The request log.
    pub log: LogHandle,
    /// The figures.
    pub metrics: MetricsHandle,
}

/// The story so far.
pub struct Transcript {
    /// Boxed: it is handed on several times, to the log at last.
    record: Box<Record>,
    arrived: Instant,
    audience: Audience,
    pricing: Option<Pricing>,
    settled: bool,
    /// The log wants to have the conversation; asked once, for one half of it is of no use.
    keeps_prompts: bool,
    /// Tokens of the request, roughly.
    asked: Option<u64>,
}

impl Transcript {
    /// Begins the story of a request that has just arrived.
    pub fn begin(audience: Audience, request_id: String, client: String, endpoint: &str) -> Self {
        let endpoint = endpoint.to_owned();
        let record = Box::new(Record { request_id, client, endpoint, ..Record::default() });
        let keeps_prompts = audience.log.keeps_prompts();
        let arrived = Instant::now();
        let (pricing, settled, asked) = (None, false, None);
        Transcript { record, arrived, audience, pricing, settled, keeps_prompts, asked }
    }

    /// The fields, to be filled in as they become known.
    pub fn record(&mut self) -> &mut Record {
        &mut self.record
    }

    /// Whether conversations are to be kept.
    pub fn keeps_prompts(&self) -> bool {
        self.keeps_prompts
    }

    /// The request is at its backend until this is dropped.
    pub fn at_backend(&self) -> InFlight {
        let Record { model_logical, backend, .. } = &*self.record;
        self.audience.metrics.at_backend(model_logical.as_deref(), backend.as_deref())
    }

    /// What the model's tokens cost.
    pub fn priced(&mut self, pricing: Option<Pricing>) {
        self.pricing = pricing;
    }

    /// How long the request waited for its turn, and for its model to load.
    pub fn waited(&mut self, queued: Duration, loading: Duration) {
        self.record.queue_ms += millis(queued);
        self.record.activate_ms += millis(loading);
    }

    /// What has been said of waiting and loading until now.
    pub fn waited_so_far(&self) -> Duration {
        Duration::from_millis(self.record.queue_ms + self.record.activate_ms)
    }

    /// The client's id of the request.
    pub fn request_id(&self) -> &str {
        &self.record.request_id
    }

    /// When the request arrived.
    pub fn arrived(&self) -> Instant {
        self.arrived
    }

    /// The first content has come.
    pub fn first_content(&mut self) {
        self.record.ttft_ms.get_or_insert_with(|| millis_since(self.arrived));
    }

    /// What is sent, for an estimate of its tokens where the backend will not count them.
    pub fn asked(&mut self, body: &[u8]) {
        self.asked = estimate::of_request(body);
    }

    /// What the backend said about tokens; without it the answer has about `estimate`.
    pub fn tokens(&mut self, usage: Option<Usage>, estimate: u64) {
        let record = &mut self.record;
        if let Some(usage) = usage {
            record.prompt_tokens = usage.prompt_tokens;
            record.completion_tokens = usage.completion_tokens;
            record.reasoning_tokens = usage.reasoning_tokens;
            record.cached_tokens = usage.cached_tokens;
        }
        // Without an answer nobody knows what the backend did with the request.
        if estimate == 0 {
            return;
        }
        if record.completion_tokens.is_none() {
            record.completion_tokens = Some(estimate);
            record.tokens_estimated = true;
        }
        if record.prompt_tokens.is_none() && self.asked.is_some() {
            record.prompt_tokens = self.asked;
            record.tokens_estimated = true;
        }
    }

    /// The head of a stream has left; how the stream ends is still open.
    pub fn begun(&mut self, status: u16) {
        self.record.status = status;
    }

    /// The answer is whole.
    pub fn whole(&mut self, status: u16) {
        self.record.status = status;
        self.settled = true;
    }

    /// It ended with an error; a stream that broke keeps its status 200.
    pub fn failed(&mut self, error: &ApiError) {
        if self.record.status == 0 {
            self.record.status = error.status;
        }
        self.settled = true;
        let code = error.code.as_str().to_owned();
        // Engines like to show what they did not understand.
        let message =
            if self.keeps_prompts { Cow::Borrowed(&*error.message) } else { error.for_log() };
        let message = shorten(&message, MAX_MESSAGE);
        self.record.error = Some(RecordError { code, message });
    }

    /// The client left before the end.
    pub fn cancelled(&mut self) {
        self.record.status = 499;
        self.record.cancelled = true;
        self.settled = true;
    }

    /// The client has all it gets; what the request still does is not its time.
    pub fn ended(&mut self) {
        if self.record.duration_ms == 0 {
            self.record.duration_ms = millis_since(self.arrived).max(1);
        }
    }

    /// Dropped without an outcome: by a panic, or because the client went and took the future
    /// that held this with it.
    fn settle(&mut self) {
        if std::thread::panicking() {
            let message = "the proxy failed on this request: a defect".to_owned();
            self.record.error = Some(RecordError { code: "err_internal".to_owned(), message });
            if self.record.status == 0 {
                self.record.status = 500;
            }
        } else if !self.settled && self.record.status != 0 {
            let message = "the stream was dropped before its end".to_owned();
            self.record.error = Some(RecordError { code: "err_internal".to_owned(), message });
        } else if !self.settled {
            self.cancelled();
        }
        self.ended();
        let record = &mut self.record;
        record.tokens_per_second = record
            .completion_tokens
            .and_then(|tokens| tokens_per_second(tokens, record.ttft_ms, record.duration_ms));
        record.cost = self.pricing.and_then(|pricing| {
            let (prompt, completion) = (record.prompt_tokens, record.completion_tokens);
            (prompt.is_some() || completion.is_some())
                .then(|| pricing.cost(prompt.unwrap_or(0), completion.unwrap_or(0)))
        });
    }
}

impl Transcript {
    /// One line in the daemon's own log, in the request's span: what failed is seen there, what went
    /// well only by who looks closely, for the request log has it.
    fn say(&self) {
        let Record { model_logical, status, error, duration_ms, ttft_ms, .. } = &*self.record;
        let model = model_logical.as_deref();
        let Some(RecordError { code, message: error }) = error else {
            return tracing::debug!(model, status, duration_ms, ttft_ms, "request ended");
        };
        if *status >= 500 || *status == 200 {
            tracing::warn!(model, status, duration_ms, code, error, "request failed");
        } else {
            tracing::info!(model, status, duration_ms, code, error, "request refused");
        }
    }
}

impl Drop for Transcript {
    fn drop(&mut self) {
        self.settle();
        self.say();
        self.audience.metrics.observe(&self.record);
        self.audience.log.write(std::mem::take(&mut self.record));
    }
}

fn millis_since(instant: Instant) -> u64 {
    millis(instant.elapsed())
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
