//! Figures: what Prometheus scrapes, and the rolling view of the last requests (SPEC 7.2).
//!
//! Owns: names, labels and the handles, which are atomics and are touched in place, so that the
//! death of an actor loses none ([`Metrics`]); `MetricsActor` owns the rolling view. Must never do:
//! take a label's value from a client: models are those of the registry, all else is `other`; or be
//! touched for a piece of a stream: a request is counted once, at its end.

mod maker;
mod models;
mod rolling;

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chat_proxy_core::Code;
use chat_proxy_core::telemetry::record::Record;
use chat_proxy_core::telemetry::rolling::Sample;
use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::MetricFamily;
use prometheus::{
    CounterVec, Encoder, GaugeVec, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Registry, TextEncoder,
};

use crate::clock;
use crate::guard::Role;
use maker::{Maker, SECONDS, SWAP_SECONDS};
use models::{Model, Models};
pub use rolling::{GetRolling, MetricsActor, Samples};

/// What stands for every model that the registry does not have, and for no model at all.
pub const OTHER: &str = "other";

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
    /// Of this process, under the names that all exporters have.
    process: Registry,
    models: Models,
    /// Loads of the registry by outcome: `good`, `failed`.
    pub registry_loads: IntCounterVec,
    /// 1 while the newest registry files cannot be loaded, and an older view is served.
    pub registry_error: IntGauge,
    /// Entries that are served.
    pub registry_models: IntGauge,
    /// Entries of the served view that were skipped.
    pub registry_skipped: IntGauge,
    /// Finished requests by model, backend and status.
    requests: IntCounterVec,
    /// Failed requests by code.
    errors: IntCounterVec,
    /// What requests cost, by model and backend, by the prices of the registry.
    cost: CounterVec,
    /// Waiting for a turn, without the load.
    queue: Histogram,
    /// Changes of the GPU's resident by reason.
    pub swaps: IntCounterVec,
    /// From the decision to change to ready.
    pub swap_seconds: Histogram,
    /// Starts of engines that followed a failure.
    pub backend_restarts: IntCounter,
    /// 1 while a backend serves: `vllm`, `ollama`.
    pub backend_up: IntGaugeVec,
    /// 1 while a service of the autostart map is ready.
    pub service_up: IntGaugeVec,
    /// 1 for the model that holds the GPU.
    resident: IntGaugeVec,
    /// Requests that wait for the GPU now.
    pub waiting_for_gpu: AtomicI64,
    queue_depth: IntGauge,
    /// Actors that were rebuilt after a defect.
    pub actor_restarts: IntCounterVec,
    /// Of the request log.
    pub log: LogFigures,
    program_log_dropped: IntCounter,
    /// Memory of GPUs in bytes, by GPU and kind: `total`, `used`, `free`.
    pub gpu_memory: GaugeVec,
    /// How busy GPUs are, from 0 to 1.
    pub gpu_utilization: GaugeVec,
    /// When the certificate of our own HTTPS ends; nothing where HTTP is served.
    pub tls_certificate_expires: IntGaugeVec,
}

/// What the request log's writer counts.
#[derive(Debug, Clone)]
pub struct LogFigures {
    /// Lines written.
    pub written: IntCounter,
    /// Records lost: disk full, or too many waiting for it.
    pub dropped: IntCounter,
    /// What waits to be written, roughly, in bytes.
    pub waiting_bytes: IntGauge,
}

/// What is known only when somebody asks for the figures.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scraped {
    /// Requests that wait for a place at a model that the arbiter does not place.
    pub waiting_elsewhere: usize,
    /// Lines of the daemon's own log that nobody took in time.
    pub program_log_dropped: u64,
}

impl Metrics {
    /// Registers everything: once, for a second registration of a name is an error.
    pub fn new() -> Result<Metrics, prometheus::Error> {
        let all = Registry::new_custom(Some("imageworks_proxy".to_owned()), None)?;
        let make = Maker { all: &all };
        let outcomes = make.counters(
            "log_records_total",
            "Finished requests by what became of their line in the request log.",
            &["outcome"],
        )?;
        make.gauges("build_info", "1, with the version that runs.", &["version"])?
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1);
        let process = Registry::new();
        process.register(Box::new(ProcessCollector::for_self()))?;
        let actor_restarts = make.counters(
            "actor_restarts_total",
            "Actors that were rebuilt after a defect.",
            &["actor"],
        )?;
        let errors = make.counters("errors_total", "Failed requests by code.", &["code"])?;
        // From nothing to one is no increase to Prometheus.
        for role in Role::ALL {
            actor_restarts.with_label_values(&[role.as_str()]);
        }
        for code in Code::ALL {
            errors.with_label_values(&[code.as_str()]);
        }
        Ok(Metrics(Arc::new(Figures {
            models: Models::new(&make)?,
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
                "Finished requests; 499: the client left, and a stream that broke has 200.",
                &["model", "backend", "status"],
            )?,
            errors,
            cost: make.floats(
                "cost_total",
                "What requests cost, by the registry's prices.",
                &["model", "backend"],
            )?,
            queue: make.histogram(
                "queue_seconds",
                "Waiting for a turn, without the load.",
                SECONDS,
            )?,
            swaps: make.counters(
                "swaps_total",
                "Changes of the GPU's resident by reason.",
                &["reason"],
            )?,
            swap_seconds: make.histogram(
                "swap_seconds",
                "From the decision to change the resident to ready.",
                SWAP_SECONDS,
            )?,
            backend_restarts: make
                .counter("backend_restarts_total", "Starts of engines that followed a failure.")?,
            backend_up: make.gauges("backend_up", "1 while a backend serves.", &["backend"])?,
            service_up: make.gauges(
                "service_up",
                "1 while a service that is started on demand is ready.",
                &["service"],
            )?,
            resident: make.gauges("resident", "1 for the model that holds the GPU.", &["model"])?,
            waiting_for_gpu: AtomicI64::default(),
            queue_depth: make.gauge("queue_depth", "Requests that wait for a turn now.")?,
            actor_restarts,
            log: LogFigures {
                written: outcomes.with_label_values(&["written"]),
                dropped: outcomes.with_label_values(&["dropped"]),
                waiting_bytes: make.gauge(
                    "log_records_waiting_bytes",
                    "Records that wait to be written to the request log, roughly.",
                )?,
            },
            program_log_dropped: make.counter(
                "program_log_dropped_total",
                "Lines of the daemon's own log that were lost because nobody took them.",
            )?,
            gpu_memory: make.float_gauges(
                "gpu_memory_bytes",
                "Memory of a GPU as its driver says it.",
                &["gpu", "kind"],
            )?,
            gpu_utilization: make.float_gauges(
                "gpu_utilization_ratio",
                "How busy a GPU is, from 0 to 1, as its driver says it.",
                &["gpu"],
            )?,
            tls_certificate_expires: make.gauges(
                "tls_certificate_expires_timestamp_seconds",
                "When the certificate that HTTPS is served with ends, in Unix seconds.",
                &[],
            )?,
            process,
            all,
        })))
    }
}

impl Figures {
    /// Everything in Prometheus' text format.
    pub fn render(&self, scraped: Scraped) -> Result<Vec<u8>, prometheus::Error> {
        self.queue_depth.set(self.waiting(scraped.waiting_elsewhere));
        let lost = scraped.program_log_dropped.saturating_sub(self.program_log_dropped.get());
        self.program_log_dropped.inc_by(lost);
        let mut text = Vec::new();
        let encoder = TextEncoder::new();
        encoder.encode(&self.all.gather(), &mut text)?;
        encoder.encode(&self.process.gather(), &mut text)?;
        Ok(text)
    }

    /// Requests that wait for a turn, with those that wait elsewhere than for the GPU.
    pub fn waiting(&self, elsewhere: usize) -> i64 {
        let elsewhere = i64::try_from(elsewhere).unwrap_or(i64::MAX);
        self.waiting_for_gpu.load(Ordering::Relaxed).saturating_add(elsewhere)
    }

    /// Another model holds the GPU; `None`: none does.
    pub fn holds_gpu(&self, model: Option<&str>) {
        self.resident.reset();
        if let Some(model) = model {
            self.resident.with_label_values(&[model]).set(1);
        }
    }

    /// Requests of a model that are at its backend now.
    pub fn in_flight_at(&self, model: &str) -> i64 {
        self.models.in_flight_at(model)
    }

    /// Requests that are at a backend now, of all models.
    pub fn in_flight(&self) -> i64 {
        self.models.in_flight()
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
        let model = self.models.get(record.model_logical.as_deref(), record.backend.as_deref());
        let labels = [model.name.as_str(), model.backend.as_str()];
        let status = record.status.to_string();
        self.requests.with_label_values(&[labels[0], labels[1], &status]).inc();
        if let Some(error) = &record.error {
            self.errors.with_label_values(&[error.code.as_str()]).inc();
        }
        self.queue.observe(seconds(record.queue_ms));
        model.count(record);
        if let Some(cost) = record.cost {
            self.cost.with_label_values(&labels).inc_by(cost);
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
            if count == 0 {
                continue;
            }
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
    rolling: Option<Samples>,
}

impl MetricsHandle {
    /// A handle that also feeds the rolling view, if there is one.
    pub fn new(metrics: Metrics, rolling: Option<Samples>) -> Self {
        MetricsHandle { metrics, rolling }
    }

    /// A request has ended.
    pub fn observe(&self, record: &Record) {
        self.metrics.count(record);
        let Some(rolling) = &self.rolling else { return };
        rolling.add(Sample {
            at: clock::now(),
            ttft_ms: record.ttft_ms,
            duration_ms: record.duration_ms,
            queue_ms: record.queue_ms,
            tokens_per_second: record.tokens_per_second,
            failed: record.error.is_some(),
        });
    }

    /// A request of that model of the registry is at its backend until this is dropped.
    pub fn at_backend(&self, model: Option<&str>, backend: Option<&str>) -> InFlight {
        let model = self.metrics.models.get(model, backend);
        model.in_flight.inc();
        InFlight(model)
    }
}

/// A request at a backend.
pub struct InFlight(Arc<Model>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.dec();
    }
}

#[cfg(test)]
mod tests;
