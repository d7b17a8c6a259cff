//! Figures: what Prometheus scrapes, and the rolling view of the last requests (SPEC 7.2).
//!
//! Owns: names, labels and the handles, which are atomics and are touched in place, so that the
//! death of an actor loses none ([`Metrics`]); `MetricsActor` owns the rolling view. Must never do:
//! take a label's value from a client: models are those of the registry, all else is `other`.

mod rolling;

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

use chat_proxy_core::telemetry::record::Record;
use chat_proxy_core::telemetry::rolling::Sample;
use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{
    CounterVec, Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::clock;
use crate::port::Port;
pub use rolling::{GetRolling, MetricsActor, Observe};

/// Requests take milliseconds to minutes.
const SECONDS: [f64; 16] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0,
];

/// All figures; cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Figures>);

impl Deref for Metrics {
    type Target = Figures;

    fn deref(&self) -> &Figures {
        &self.0
    }
}

/// The handles.
#[derive(Debug)]
pub struct Figures {
    all: Registry,
    /// Loads of the registry by outcome: `good`, `failed`.
    pub registry_loads: IntCounterVec,
    /// 1 while the newest registry files cannot be loaded, and an older view is served.
    pub registry_error: IntGauge,
    /// Entries that are served.
    pub registry_models: IntGauge,
    /// Entries of the served view that were skipped.
    pub registry_skipped: IntGauge,
    /// Finished requests by model, backend and status.
    pub requests: IntCounterVec,
    /// Failed requests by code.
    pub errors: IntCounterVec,
    /// From arrival to the end, by backend.
    pub duration: HistogramVec,
    /// From arrival to the first content, by backend.
    pub ttft: HistogramVec,
    /// Waiting for a turn, without the load.
    pub queue: Histogram,
    /// Tokens by kind: `prompt`, `completion`, `reasoning`, `cached`.
    pub tokens: IntCounterVec,
    /// What requests cost, by backend, by the prices of the registry.
    pub cost: CounterVec,
    /// Changes of the GPU's resident by reason.
    pub swaps: IntCounterVec,
    /// From the decision to change to ready.
    pub swap_seconds: Histogram,
    /// Starts of engines that followed a failure.
    pub backend_restarts: IntCounter,
    /// 1 while a backend serves.
    pub backend_up: IntGaugeVec,
    /// Requests at a backend now, by model.
    pub in_flight: IntGaugeVec,
    /// Requests that wait for a turn now.
    pub queue_depth: IntGauge,
    /// Actors that were rebuilt after a defect.
    pub actor_restarts: IntCounterVec,
}

impl Metrics {
    /// Registers everything: once, for a second registration of a name is an error.
    pub fn new() -> Result<Metrics, prometheus::Error> {
        let all = Registry::new_custom(Some("imageworks_proxy".to_owned()), None)?;
        let make = Maker { all: &all };
        Ok(Metrics(Arc::new(Figures {
            registry_loads: make.counters(
                "registry_loads_total",
                "Loads of the model registry by outcome.",
                &["outcome"],
            )?,
            registry_error: make
                .gauge("registry_error", "1 while the newest registry files cannot be loaded.")?,
            registry_models: make
                .gauge("registry_models", "Entries of the registry that are served.")?,
            registry_skipped: make
                .gauge("registry_skipped_entries", "Entries that were skipped.")?,
            requests: make.counters(
                "requests_total",
                "Finished requests.",
                &["model", "backend", "status"],
            )?,
            errors: make.counters("errors_total", "Failed requests by code.", &["code"])?,
            duration: make.histograms(
                "request_duration_seconds",
                "From a request's arrival to its end.",
                &["backend"],
            )?,
            ttft: make.histograms(
                "time_to_first_token_seconds",
                "From a request's arrival to its first content.",
                &["backend"],
            )?,
            queue: make.histogram("queue_seconds", "Waiting for a turn, without the load.")?,
            tokens: make.counters("tokens_total", "Tokens by kind.", &["kind"])?,
            cost: make.floats("cost_total", "What requests cost, by the registry's prices.")?,
            swaps: make.counters(
                "swaps_total",
                "Changes of the GPU's resident by reason.",
                &["reason"],
            )?,
            swap_seconds: make
                .histogram("swap_seconds", "From the decision to change the resident to ready.")?,
            backend_restarts: make.keep(IntCounter::new(
                "backend_restarts_total",
                "Starts of engines that followed a failure.",
            )?)?,
            backend_up: make.gauges("backend_up", "1 while a backend serves.", &["backend"])?,
            in_flight: make.gauges("in_flight", "Requests at a backend now.", &["model"])?,
            queue_depth: make.gauge("queue_depth", "Requests that wait for a turn now.")?,
            actor_restarts: make.counters(
                "actor_restarts_total",
                "Actors that were rebuilt after a defect.",
                &["actor"],
            )?,
            all,
        })))
    }
}

/// Makes and registers.
struct Maker<'a> {
    all: &'a Registry,
}

impl Maker<'_> {
    fn keep<C: Collector + Clone + 'static>(&self, figure: C) -> Result<C, prometheus::Error> {
        self.all.register(Box::new(figure.clone()))?;
        Ok(figure)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        self.keep(IntGauge::new(name, help)?)
    }

    fn gauges(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntGaugeVec, prometheus::Error> {
        self.keep(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntCounterVec, prometheus::Error> {
        self.keep(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    fn floats(&self, name: &str, help: &str) -> Result<CounterVec, prometheus::Error> {
        self.keep(CounterVec::new(Opts::new(name, help), &["backend"])?)
    }

    fn histogram(&self, name: &str, help: &str) -> Result<Histogram, prometheus::Error> {
        self.keep(Histogram::with_opts(HistogramOpts::new(name, help).buckets(SECONDS.to_vec()))?)
    }

    fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<HistogramVec, prometheus::Error> {
        let opts = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
        self.keep(HistogramVec::new(opts, labels)?)
    }
}

impl Figures {
    /// Everything in Prometheus' text format.
    pub fn render(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.all.gather(), &mut text)?;
        Ok(text)
    }

    /// Finished requests by backend.
    pub fn requests_by_backend(&self) -> BTreeMap<String, u64> {
        sums(&self.requests, "backend")
    }

    /// Failed requests by code.
    pub fn errors_by_code(&self) -> BTreeMap<String, u64> {
        sums(&self.errors, "code")
    }

    /// Changes of the resident by reason.
    pub fn swaps_by_reason(&self) -> BTreeMap<String, u64> {
        sums(&self.swaps, "reason")
    }

    /// What all requests cost.
    pub fn cost_total(&self) -> f64 {
        let families = self.cost.collect();
        families
            .iter()
            .flat_map(MetricFamily::get_metric)
            .map(|m| m.get_counter().get_value())
            .sum()
    }

    fn count(&self, record: &Record) {
        let model = record.model_logical.as_deref().unwrap_or("other");
        let backend = record.backend.as_deref().unwrap_or("other");
        self.requests.with_label_values(&[model, backend, &record.status.to_string()]).inc();
        if let Some(error) = &record.error {
            self.errors.with_label_values(&[error.code.as_str()]).inc();
        }
        self.duration.with_label_values(&[backend]).observe(seconds(record.duration_ms));
        if let Some(ttft) = record.ttft_ms {
            self.ttft.with_label_values(&[backend]).observe(seconds(ttft));
        }
        self.queue.observe(seconds(record.queue_ms));
        for (kind, tokens) in [
            ("prompt", record.prompt_tokens),
            ("completion", record.completion_tokens),
            ("reasoning", record.reasoning_tokens),
            ("cached", record.cached_tokens),
        ] {
            if let Some(tokens) = tokens {
                self.tokens.with_label_values(&[kind]).inc_by(tokens);
            }
        }
        if let Some(cost) = record.cost {
            self.cost.with_label_values(&[backend]).inc_by(cost);
        }
    }
}

/// Counters summed by one label.
fn sums(counters: &IntCounterVec, label: &str) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for metric in counters.collect().iter().flat_map(MetricFamily::get_metric) {
        let value = metric.get_label().iter().find(|pair| pair.name() == label);
        if let Some(value) = value {
            // Counts are whole numbers, and far from where a float could not hold them.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let count = metric.get_counter().get_value() as u64;
            *sums.entry(value.value().to_owned()).or_default() += count;
        }
    }
    sums
}

#[allow(clippy::cast_precision_loss)] // milliseconds are small
fn seconds(millis: u64) -> f64 {
    millis as f64 / 1000.0
}

/// Where finished requests are told.
#[derive(Clone)]
pub struct MetricsHandle {
    metrics: Metrics,
    /// `None`: nobody looks at the rolling view.
    rolling: Option<Port<Observe>>,
}

impl MetricsHandle {
    /// A handle that also feeds the rolling view, if there is one.
    pub fn new(metrics: Metrics, rolling: Option<Port<Observe>>) -> Self {
        MetricsHandle { metrics, rolling }
    }

    /// A request has ended.
    pub fn observe(&self, record: &Record) {
        self.metrics.count(record);
        let Some(rolling) = &self.rolling else { return };
        // One per finished request, of a few words; while the actor is being rebuilt the window
        // misses some, which it forgets in the end anyway.
        let _ = rolling.tell(Observe(Sample {
            at: clock::now(),
            ttft_ms: record.ttft_ms,
            duration_ms: record.duration_ms,
            queue_ms: record.queue_ms,
            tokens_per_second: record.tokens_per_second,
            failed: record.error.is_some(),
        }));
    }

    /// The request is at a backend until this is dropped.
    pub fn at_backend(&self, model: &str) -> InFlight {
        let gauge = self.metrics.in_flight.with_label_values(&[model]);
        gauge.inc();
        InFlight(gauge)
    }
}

/// A request at a backend.
pub struct InFlight(IntGauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chat_proxy_core::telemetry::record::RecordError;

    #[test]
    fn figures_carry_the_projects_prefix() {
        let metrics = Metrics::new().unwrap();
        metrics.registry_loads.with_label_values(&["good"]).inc();
        metrics.registry_models.set(3);
        let text = String::from_utf8(metrics.render().unwrap()).unwrap();
        assert!(
            text.contains("imageworks_proxy_registry_loads_total{outcome=\"good\"} 1"),
            "{text}"
        );
        assert!(text.contains("imageworks_proxy_registry_models 3"), "{text}");
    }

    #[test]
    fn a_finished_request_is_counted_under_its_logical_names() {
        let metrics = Metrics::new().unwrap();
        let handle = MetricsHandle::new(metrics.clone(), None);
        let good = Record {
            model_logical: Some("tiny-a".into()),
            backend: Some("vllm".into()),
            status: 200,
            duration_ms: 20,
            ttft_ms: Some(4),
            completion_tokens: Some(9),
            cost: Some(0.5),
            ..Record::default()
        };
        handle.observe(&good);
        let error = RecordError { code: "err_model_not_found".into(), message: String::new() };
        let bad = Record {
            model_requested: Some("<script>".into()),
            status: 404,
            error: Some(error),
            ..Record::default()
        };
        handle.observe(&bad);
        let text = String::from_utf8(metrics.render().unwrap()).unwrap();
        for line in [
            "imageworks_proxy_requests_total{backend=\"vllm\",model=\"tiny-a\",status=\"200\"} 1",
            "imageworks_proxy_requests_total{backend=\"other\",model=\"other\",status=\"404\"} 1",
            "imageworks_proxy_errors_total{code=\"err_model_not_found\"} 1",
            "imageworks_proxy_time_to_first_token_seconds_bucket{backend=\"vllm\",le=\"0.005\"} 1",
            "imageworks_proxy_tokens_total{kind=\"completion\"} 9",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert!(!text.contains("script"));
        assert_eq!(metrics.requests_by_backend()["vllm"], 1);
        assert_eq!(metrics.errors_by_code()["err_model_not_found"], 1);
        assert!((metrics.cost_total() - 0.5).abs() < 1e-9);
    }

    #[test]
    fn requests_at_a_backend_are_counted_while_they_last() {
        let metrics = Metrics::new().unwrap();
        let handle = MetricsHandle::new(metrics.clone(), None);
        let one = handle.at_backend("a");
        let two = handle.at_backend("a");
        assert_eq!(metrics.in_flight.with_label_values(&["a"]).get(), 2);
        drop((one, two));
        assert_eq!(metrics.in_flight.with_label_values(&["a"]).get(), 0);
    }
}
