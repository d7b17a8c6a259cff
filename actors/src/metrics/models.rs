//! Figures of one model at one backend.
//!
//! Owns: their handles, found once and kept, and the bound on how many there are. Must never do: be
//! given a name that is not of the registry.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use chat_proxy_core::telemetry::record::Record;
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::maker::{INTER_TOKEN_SECONDS, Maker, SECONDS};
use super::{OTHER, seconds};

/// So many models get figures of their own in the life of a daemon: a registry that is written by a
/// program may bring new names for ever, and each is about 70 series.
const MOST: usize = 500;

/// All of them.
#[derive(Debug)]
pub(super) struct Models {
    known: RwLock<HashMap<String, Vec<Arc<Model>>>>,
    other: Arc<Model>,
    /// It has been said that there are too many.
    full: AtomicBool,
    kinds: Kinds,
}

/// The families that the figures belong to.
#[derive(Debug)]
struct Kinds {
    duration: HistogramVec,
    first_token: HistogramVec,
    inter_token: HistogramVec,
    tokens: IntCounterVec,
    in_flight: IntGaugeVec,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) name: String,
    pub(super) backend: String,
    pub(super) in_flight: IntGauge,
    duration: Histogram,
    first_token: Histogram,
    inter_token: Histogram,
    prompt: IntCounter,
    completion: IntCounter,
    reasoning: IntCounter,
    cached: IntCounter,
}

impl Models {
    pub(super) fn new(make: &Maker<'_>) -> Result<Models, prometheus::Error> {
        let labels = &["model", "backend"];
        let kinds = Kinds {
            duration: make.histograms(
                "request_duration_seconds",
                "From a request's arrival to its end.",
                labels,
                SECONDS,
            )?,
            first_token: make.histograms(
                "time_to_first_token_seconds",
                "From the arrival of a streamed request to its first content.",
                labels,
                SECONDS,
            )?,
            inter_token: make.histograms(
                "inter_token_seconds",
                "From token to token, on average over a streamed answer: one observation each.",
                labels,
                INTER_TOKEN_SECONDS,
            )?,
            tokens: make.counters("tokens_total", "Tokens by kind.", &["model", "kind"])?,
            in_flight: make.gauges("in_flight", "Requests at a backend now.", &["model"])?,
        };
        let other = Arc::new(kinds.model(OTHER, OTHER));
        Ok(Models { known: RwLock::default(), other, full: AtomicBool::default(), kinds })
    }

    /// The figures of a model of the registry; without one, those of all others.
    pub(super) fn get(&self, name: Option<&str>, backend: Option<&str>) -> Arc<Model> {
        let Some(name) = name else { return self.other.clone() };
        let backend = backend.unwrap_or(OTHER);
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(model) = find(&known, name, backend) {
            return model.clone();
        }
        drop(known);
        self.make(name, backend)
    }

    fn make(&self, name: &str, backend: &str) -> Arc<Model> {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(model) = find(&known, name, backend) {
            return model.clone();
        }
        if known.values().map(Vec::len).sum::<usize>() >= MOST {
            if !self.full.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    most = MOST,
                    "more models than have figures of their own: the rest count as `other`"
                );
            }
            return self.other.clone();
        }
        let model = Arc::new(self.kinds.model(name, backend));
        known.entry(name.to_owned()).or_default().push(model.clone());
        model
    }

    pub(super) fn in_flight_at(&self, name: &str) -> i64 {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        // All backends of a model share the gauge.
        known.get(name).and_then(|all| all.first()).map_or(0, |model| model.in_flight.get())
    }

    pub(super) fn in_flight(&self) -> i64 {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let each = known.values().filter_map(|all| all.first()).chain([&self.other]);
        each.map(|model| model.in_flight.get()).sum()
    }
}

fn find<'a>(
    known: &'a HashMap<String, Vec<Arc<Model>>>,
    name: &str,
    backend: &str,
) -> Option<&'a Arc<Model>> {
    known.get(name)?.iter().find(|model| model.backend == backend)
}

impl Kinds {
    fn model(&self, name: &str, backend: &str) -> Model {
        let labels = &[name, backend];
        let tokens = |kind| self.tokens.with_label_values(&[name, kind]);
        Model {
            name: name.to_owned(),
            backend: backend.to_owned(),
            in_flight: self.in_flight.with_label_values(&[name]),
            duration: self.duration.with_label_values(labels),
            first_token: self.first_token.with_label_values(labels),
            inter_token: self.inter_token.with_label_values(labels),
            prompt: tokens("prompt"),
            completion: tokens("completion"),
            reasoning: tokens("reasoning"),
            cached: tokens("cached"),
        }
    }
}

impl Model {
    /// A request has ended.
    pub(super) fn count(&self, record: &Record) {
        self.duration.observe(seconds(record.duration_ms));
        if let Some(first) = record.ttft_ms {
            self.first_token.observe(seconds(first));
            if let Some(rate) = record.tokens_per_second {
                self.inter_token.observe(1.0 / rate);
            }
        }
        for (counter, tokens) in [
            (&self.prompt, record.prompt_tokens),
            (&self.completion, record.completion_tokens),
            (&self.reasoning, record.reasoning_tokens),
            (&self.cached, record.cached_tokens),
        ] {
            if let Some(tokens) = tokens {
                counter.inc_by(tokens);
            }
        }
    }
}
