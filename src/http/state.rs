//! What every handler can reach.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::Message;
use chat_proxy_actors::autostart::Switch;
use chat_proxy_actors::config::ConfigState;
use chat_proxy_actors::directory::Directory;
use chat_proxy_actors::events::EventBus;
use chat_proxy_actors::forwarder::ForwarderFactory;
use chat_proxy_actors::gpus::gauges::Gauges;
use chat_proxy_actors::lease::LeaseShelf;
use chat_proxy_actors::limits::Limits;
use chat_proxy_actors::live::Live;
use chat_proxy_actors::metrics::Metrics;
use chat_proxy_actors::permits::PermitLedger;
use chat_proxy_actors::port::{NoAnswer, Port};
use chat_proxy_actors::registry::RegistryView;
use chat_proxy_actors::transcript::Audience;
use chat_proxy_core::config::Settings;
use chat_proxy_core::gpu::ClassRules;
use chat_proxy_core::{ApiError, Code};

use super::body::Budget;
use super::guard::Guard;
use super::listeners::Listeners;
use crate::life::Life;
use crate::live::LiveSettings;
use crate::settings::{self, Profiled};
use crate::tls::Tls;
use crate::wiring::House;

/// An actor answers within this, or something is wrong with it.
pub(super) const ANSWER: Duration = Duration::from_secs(2);
/// One that died is rebuilt within milliseconds; it is looked for this often.
pub(super) const LOOK: Duration = Duration::from_millis(20);

/// Shared by all workers; made once, outside the app factory.
pub(crate) struct AppState {
    live: LiveSettings,
    /// The settings, as file and environment say them and as they are in force.
    pub(super) config: Live<ConfigState>,
    /// The settings file.
    pub(super) config_path: PathBuf,
    pub(super) registry: RegistryView,
    pub(super) forwarders: ForwarderFactory,
    pub(super) directory: Directory,
    pub(super) ledger: Arc<PermitLedger>,
    pub(super) audience: Audience,
    /// Whether requests start anything.
    pub(super) starts: Switch,
    pub(crate) life: Arc<Life>,
    pub(super) budget: Budget,
    pub(super) disk: Budget,
    /// Who holds the GPU instead of us.
    pub(super) leases: Arc<LeaseShelf>,
    /// How long a lease lives where its holder does not say.
    pub(super) lease_ttl: Duration,
    /// Places at models that the arbiter does not place.
    pub(super) limits: Arc<Limits>,
    /// What happens in the daemon.
    pub(super) events: Arc<EventBus>,
    /// Streams of events and logs.
    pub(super) listeners: Listeners,
    /// Where large bodies wait.
    pub(super) spool_dir: PathBuf,
    pub(super) metrics: Metrics,
    /// What the driver says of GPUs.
    pub(super) gauges: Gauges,
    /// The certificate, if HTTPS is served.
    pub(super) tls: Option<Tls>,
}

impl AppState {
    pub(crate) fn new(
        settings: &Settings,
        house: &House,
        life: Arc<Life>,
        tls: Option<Tls>,
    ) -> Self {
        let budget = Budget::new(settings.limits.max_buffered_bytes);
        let disk = Budget::of_disk(settings.limits.max_spooled_bytes);
        AppState {
            live: house.live.clone(),
            config: house.config.clone(),
            config_path: house.config_path.clone(),
            registry: house.registry.clone(),
            forwarders: house.forwarders.clone(),
            directory: house.directory.clone(),
            ledger: house.ledger.clone(),
            audience: house.audience.clone(),
            starts: house.starts.clone(),
            life,
            budget,
            disk,
            leases: house.leases.clone(),
            limits: house.limits.clone(),
            events: house.events.clone(),
            listeners: Listeners::default(),
            lease_ttl: settings::lease_ttl(),
            spool_dir: PathBuf::from(settings::STATE_DIR),
            metrics: house.metrics.clone(),
            gauges: Gauges::default(),
            tls,
        }
    }
}

impl AppState {
    /// The settings in force.
    pub(crate) fn settings(&self) -> Arc<Settings> {
        self.live.all.load()
    }

    /// Profiles, and what was chosen.
    pub(super) fn profiled(&self) -> Arc<Profiled> {
        self.live.profiled.load()
    }

    /// Who may call.
    pub(super) fn guard(&self) -> Arc<Guard> {
        self.live.guard.load()
    }

    /// What is background work without saying so.
    pub(super) fn class_rules(&self) -> Arc<ClassRules> {
        self.live.classes.load()
    }
}

/// Asks an actor, and its successor if it died meanwhile.
pub(super) async fn ask<M>(port: &Port<M>, message: impl Fn() -> M) -> Result<M::Result, ApiError>
where
    M: Message + Send + 'static,
    M::Result: Send,
{
    let until = Instant::now() + ANSWER;
    loop {
        match port.ask(message(), ANSWER).await {
            Ok(answer) => return Ok(answer),
            Err(NoAnswer::Gone) if Instant::now() < until => tokio::time::sleep(LOOK).await,
            Err(error) => {
                tracing::error!(%error, "an actor does not answer");
                let message = "a part of the proxy does not answer";
                return Err(ApiError::new(Code::Internal, message)
                    .hint("try again; the proxy's own log tells more"));
            }
        }
    }
}
