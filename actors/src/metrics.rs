//! The figures that Prometheus scrapes (SPEC 7.2).
//!
//! Owns: names, labels and the handles, which are atomics and are touched in place. Made once, for
//! a second registration of a name is an error. Must never do: take a label's value from a client.

use prometheus::{Encoder, IntCounterVec, IntGauge, Opts, Registry, TextEncoder};

/// All figures.
#[derive(Debug, Clone)]
pub struct Metrics {
    all: Registry,
    /// Loads of the registry by outcome: `good`, `failed`.
    pub registry_loads: IntCounterVec,
    /// 1 while the newest registry files cannot be loaded, and an older view is served.
    pub registry_error: IntGauge,
    /// Entries that are served.
    pub registry_models: IntGauge,
    /// Entries of the served view that were skipped.
    pub registry_skipped: IntGauge,
}

impl Metrics {
    /// Registers everything.
    pub fn new() -> Result<Metrics, prometheus::Error> {
        let all = Registry::new_custom(Some("imageworks_proxy".to_owned()), None)?;
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(name, help)?;
            all.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let loads = Opts::new("registry_loads_total", "Loads of the model registry by outcome.");
        let registry_loads = IntCounterVec::new(loads, &["outcome"])?;
        all.register(Box::new(registry_loads.clone()))?;
        Ok(Metrics {
            registry_loads,
            registry_error: gauge(
                "registry_error",
                "1 while the newest registry files cannot be loaded.",
            )?,
            registry_models: gauge("registry_models", "Entries of the registry that are served.")?,
            registry_skipped: gauge("registry_skipped_entries", "Entries that were skipped.")?,
            all,
        })
    }

    /// Everything in Prometheus' text format.
    pub fn render(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.all.gather(), &mut text)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

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
}
