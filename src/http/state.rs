//! What every handler can reach.

use std::sync::Arc;

use chat_proxy_actors::forwarder::ForwarderFactory;
use chat_proxy_actors::logger::LogHandle;
use chat_proxy_actors::metrics::Metrics;
use chat_proxy_actors::registry::RegistryView;
use chat_proxy_core::config::Settings;

use super::body::Budget;
use super::guard::Guard;
use crate::life::Life;

/// Shared by all workers; made once, outside the app factory.
pub(crate) struct AppState {
    pub(crate) settings: Arc<Settings>,
    pub(super) guard: Guard,
    pub(super) registry: RegistryView,
    pub(super) forwarders: ForwarderFactory,
    pub(super) log: LogHandle,
    pub(super) life: Arc<Life>,
    pub(super) budget: Budget,
    pub(super) metrics: Metrics,
}

impl AppState {
    pub(crate) fn new(
        settings: Settings,
        guard: Guard,
        registry: RegistryView,
        forwarders: ForwarderFactory,
        log: LogHandle,
        life: Arc<Life>,
        metrics: Metrics,
    ) -> Self {
        let budget = Budget::new(settings.limits.max_buffered_bytes);
        AppState {
            settings: Arc::new(settings),
            guard,
            registry,
            forwarders,
            log,
            life,
            budget,
            metrics,
        }
    }
}
