//! Settings into actors: who is made from what, and who knows whom.
//!
//! Owns: the factories that `Root` builds and rebuilds the actors by. What must outlive an actor
//! (registry view, ledger, figures, the log's queue) is made here, once. Must never do: decide, or
//! hold an actor's address; those are in the directory.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use actix::{Actor, Arbiter};
use chat_proxy_actors::autostart::{AutostartActor, AutostartParts, Switch};
use chat_proxy_actors::clock;
use chat_proxy_actors::config::{ConfigActor, ConfigParts, ConfigState};
use chat_proxy_actors::directory::Directory;
use chat_proxy_actors::events::EventBus;
use chat_proxy_actors::forwarder::{ForwarderFactory, Scaler, Turns};
use chat_proxy_actors::gpu_arbiter::{ArbiterParts, GpuArbiter};
use chat_proxy_actors::guard::{Ending, Guard, Role};
use chat_proxy_actors::lease::LeaseShelf;
use chat_proxy_actors::limits::Limits;
use chat_proxy_actors::live::Live;
use chat_proxy_actors::logger::{LogHandle, LoggerActor};
use chat_proxy_actors::metrics::{Metrics, MetricsActor, MetricsHandle, Samples};
use chat_proxy_actors::ollama::by_hand::ByHand;
use chat_proxy_actors::ollama::{OllamaActor, OllamaParts};
use chat_proxy_actors::permits::PermitLedger;
use chat_proxy_actors::registry::{RegistryActor, RegistryView};
use chat_proxy_actors::root::{Factory, Root};
use chat_proxy_actors::streams::StreamsLock;
use chat_proxy_actors::templates::Templates;
use chat_proxy_actors::transcript::Audience;
use chat_proxy_actors::vllm_supervisor::{SupervisorParts, VllmSupervisor};
use chat_proxy_core::config::Settings;
use chat_proxy_core::ids::Generation;
use chat_proxy_core::registry::Placement;
use chat_proxy_core::{ApiError, Code};
use tokio::sync::mpsc;

use crate::handover;
use crate::live::{LiveSettings, Reached};
use crate::serve::ServeError;
use crate::settings::{self, Source};

/// What the rest of the daemon needs of the actors.
pub(crate) struct House {
    pub(crate) directory: Directory,
    /// The settings in force, part by part.
    pub(crate) live: LiveSettings,
    /// The same as file and environment say them.
    pub(crate) config: Live<ConfigState>,
    /// The settings file.
    pub(crate) config_path: PathBuf,
    pub(crate) ledger: Arc<PermitLedger>,
    pub(crate) registry: RegistryView,
    /// Who finds chat templates.
    pub(crate) templates: Templates,
    pub(crate) audience: Audience,
    pub(crate) metrics: Metrics,
    /// Finished requests on their way into the rolling view.
    samples: Samples,
    pub(crate) forwarders: ForwarderFactory,
    /// Whether requests start anything.
    pub(crate) starts: Switch,
    /// Who holds the GPU instead of us.
    pub(crate) leases: Arc<LeaseShelf>,
    /// Places at models that the arbiter does not place.
    pub(crate) limits: Arc<Limits>,
    /// What happens, for whoever listens.
    pub(crate) events: Arc<EventBus>,
    pub(crate) ending: Ending,
    /// Hears of an actor that keeps dying.
    pub(crate) hopeless: mpsc::Receiver<Role>,
}

/// What finished requests are told to.
pub(crate) struct Written {
    log: LogHandle,
    metrics: Metrics,
}

/// Opens the request log, and makes the figures; nobody writes it yet.
pub(crate) fn open_log(live: &LiveSettings, directory: &Directory) -> Result<Written, ServeError> {
    let metrics = Metrics::new().map_err(|error| ServeError::Metrics(error.to_string()))?;
    let log = LogHandle::new(
        live.log.clone(),
        metrics.log.clone(),
        directory.port(|book| book.logger.clone()),
        directory.port(|book| book.logger.clone()),
    )
    .map_err(|error| ServeError::Log { path: live.log.load().path.display().to_string(), error })?;
    Ok(Written { log, metrics })
}

/// Makes everything and starts the actors: the log writer on its thread, the others on this one.
pub(crate) fn build(
    source: Source,
    live: LiveSettings,
    directory: Directory,
    written: Written,
    log_thread: &Arbiter,
    owns_services: bool,
) -> Result<House, ServeError> {
    let (hopeless_in, hopeless) = mpsc::channel(1);
    let settings = &live.all.load();
    let log = written.log.clone();
    let house = lasting(&source, live, directory, written, hopeless)?;
    let directory = &house.directory;
    let services = services(settings, &house, owns_services);
    let mut factories = HashMap::from([
        (Role::Logger, logger(log, log_thread, directory)),
        (Role::Metrics, rolling_view(&house)),
        (Role::Registry, registry_reader(&house)),
        (Role::Config, config(source, &house)),
        (Role::Arbiter, gpu_arbiter(arbiter(&house), directory)),
        (Role::Ollama, ollama(asker(settings, &house), directory)),
        (Role::Autostart, autostart(services, directory)),
        (Role::Vllm, vllm(supervisor(settings, &house), directory)),
    ]);
    if !settings.vllm.vllm_single_port {
        // Such a daemon has no lock: the engine that the state file names may be another one's.
        factories.remove(&Role::Vllm);
    }
    let restarts = house.metrics.actor_restarts.clone();
    Root::start_all(factories, restarts, house.ending.clone(), hopeless_in);
    Ok(house)
}

/// What outlives the actors.
fn lasting(
    source: &Source,
    live: LiveSettings,
    directory: Directory,
    written: Written,
    hopeless: mpsc::Receiver<Role>,
) -> Result<House, ServeError> {
    let Written { log, metrics } = written;
    let (loaded, settings) = (&source.loaded, &source.loaded.settings);
    let samples = Samples::default();
    let rolling = settings.server.enable_metrics.then(|| samples.clone());
    let metered = MetricsHandle::new(metrics.clone(), rolling);
    let ledger = permits(settings)?;
    let registry = RegistryView::default();
    let leases = Arc::new(LeaseShelf::open(&settings::lease_path(settings)));
    let limits =
        Limits::new(settings::limits(settings), settings.scheduler.max_queue_depth as usize);
    let templates = settings::templates();
    let turns = Turns {
        admit: directory.port(|book| book.arbiter.clone()),
        foresee: directory.port(|book| book.arbiter.clone()),
        abandon: directory.port(|book| book.arbiter.clone()),
        ollama: directory.port(|book| book.ollama.clone()),
        services: directory.port(|book| book.autostart.clone()),
        autopsy: directory.port(|book| book.vllm.clone()),
        ledger: ledger.clone(),
        leases: leases.clone(),
        limits: limits.clone(),
        scaler: Scaler::new(live.scaling.clone()),
        templates: templates.clone(),
    };
    let forwarders = ForwarderFactory::new(live.forward.clone(), registry.clone(), turns);
    let config = Live::new(ConfigState {
        loaded: loaded.clone(),
        pending: Vec::new(),
        problems: Vec::new(),
        beside: std::fs::read_to_string(settings::profiles_path(&source.path)).ok(),
    });
    Ok(House {
        directory,
        live,
        config,
        config_path: source.path.clone(),
        ledger,
        registry,
        templates,
        audience: Audience { log, metrics: metered },
        metrics,
        samples,
        forwarders,
        starts: Switch::from(settings.autostart.autostart_enabled),
        leases,
        limits,
        events: Arc::default(),
        ending: Ending::default(),
        hopeless,
    })
}

fn arbiter(house: &House) -> ArbiterParts {
    let (directory, cutting) = (&house.directory, house.forwarders.clone());
    ArbiterParts {
        rules: house.live.scheduler.clone(),
        ledger: house.ledger.clone(),
        goals: directory.port(|book| book.vllm.clone()),
        announce: directory.port(|book| book.vllm.clone()),
        vacate: directory.port(|book| book.ollama.clone()),
        starts: house.starts.clone(),
        cut: Arc::new(move |generation| cutting.cut_generation(generation)),
        show: directory.port(|book| book.registry.clone()),
        leases: house.leases.clone(),
        registry: house.registry.clone(),
        metrics: house.metrics.clone(),
        events: house.events.clone(),
    }
}

fn permits(settings: &Settings) -> Result<Arc<PermitLedger>, ServeError> {
    // Generations of one daemon lie behind all those of earlier ones.
    let newest = Generation(milliseconds(clock::unix_seconds()));
    if !settings.vllm.vllm_single_port {
        return Ok(PermitLedger::new(newest));
    }
    let state_path = Path::new(&settings.vllm.vllm_state_path);
    let streams = StreamsLock::beside(state_path).map_err(|error| ServeError::Streams {
        path: settings.vllm.vllm_state_path.clone(),
        error,
    })?;
    let ledger = PermitLedger::with_streams(newest, streams);
    let waiting = ledger.clone();
    actix_rt::spawn(async move { waiting.outlive_others(handover::STREAMS).await });
    Ok(ledger)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // positive, and far from 2^64
fn milliseconds(unix_seconds: f64) -> u64 {
    (unix_seconds * 1000.0) as u64
}

fn logger(log: LogHandle, thread: &Arbiter, directory: &Directory) -> Factory {
    let thread = thread.handle();
    Factory::new(directory, move |guard: Guard, _| {
        let writer = log.writer(guard);
        LoggerActor::start_in_arbiter(&thread, |_| writer)
    })
}

fn rolling_view(house: &House) -> Factory {
    let samples = house.samples.clone();
    Factory::new(&house.directory, move |guard, _| {
        MetricsActor::new(samples.clone(), guard).start()
    })
}

fn registry_reader(house: &House) -> Factory {
    let (settings, metrics) = (house.live.registry.clone(), house.metrics.clone());
    let (view, events) = (house.registry.clone(), house.events.clone());
    let hears = house.directory.port(|book| book.arbiter.clone());
    Factory::new(&house.directory, move |guard, again| {
        let actor =
            RegistryActor::new(settings.clone(), metrics.clone(), events.clone(), &view, guard);
        let actor = actor.heard_by(hears.clone());
        // Its successor looks in its own time: the view of its predecessor still stands.
        if again { actor.start() } else { actor.having_read().start() }
    })
}

/// Who reads and writes the settings file.
fn config(source: Source, house: &House) -> Factory {
    let (live, reached) = (house.live.clone(), Reached::of(house));
    let parts = ConfigParts {
        beside: settings::profiles_path(&source.path),
        path: source.path.clone(),
        env: Arc::new(source.env),
        state: house.config.clone(),
        prepare: Arc::new(move |loaded| live.prepare(loaded, &source.path, &reached)),
        events: house.events.clone(),
        turn: Arc::default(),
        registry: house.directory.port(|book| book.registry.clone()),
    };
    Factory::new(&house.directory, move |guard, _| ConfigActor::new(parts.clone(), guard).start())
}

fn gpu_arbiter(parts: ArbiterParts, directory: &Directory) -> Factory {
    Factory::new(directory, move |guard, _| GpuArbiter::new(parts.clone(), guard).start())
}

fn ollama(parts: OllamaParts, directory: &Directory) -> Factory {
    Factory::new(directory, move |guard, again| {
        OllamaActor::new(parts.clone(), again, guard).start()
    })
}

fn asker(settings: &Settings, house: &House) -> OllamaParts {
    let directory = &house.directory;
    OllamaParts {
        own: settings::own_ollama(settings),
        bounds: house.live.ollama.clone(),
        gpu_here: chat_proxy_actors::ollama::gpu_here(),
        registry: house.registry.clone(),
        vacated: directory.port(|book| book.arbiter.clone()),
        forgot: directory.port(|book| book.arbiter.clone()),
        show: directory.port(|book| book.registry.clone()),
    }
}

fn autostart(parts: AutostartParts, directory: &Directory) -> Factory {
    Factory::new(directory, move |guard, _| AutostartActor::new(parts.clone(), guard).start())
}

fn services(settings: &Settings, house: &House, owns: bool) -> AutostartParts {
    let directory = &house.directory;
    let hands = ByHand {
        activate: directory.port(|book| book.arbiter.clone()),
        admit: directory.port(|book| book.arbiter.clone()),
        abandon: directory.port(|book| book.arbiter.clone()),
        load: directory.port(|book| book.ollama.clone()),
        ledger: house.ledger.clone(),
    };
    let view = house.registry.clone();
    AutostartParts {
        plan: Arc::new(settings::autostart(settings)),
        dir: settings::services_dir(),
        owns,
        enabled: house.starts.clone(),
        keep_on_exit: settings.server.keep_backends_on_exit,
        stop_timeout: settings.autostart.autostart_stop_timeout_s.get(),
        log_max_bytes: settings.vllm.vllm_log_max_bytes,
        keep_logs: settings.logging.max_log_files,
        secrets: settings::secret_variables(settings),
        registry: house.registry.clone(),
        entries: Arc::new(move |name| Box::pin(entry_by_hand(hands.clone(), view.clone(), name))),
        preload: settings.scheduler.preload.clone().into(),
        events: house.events.clone(),
    }
}

/// Activates or loads an entry, as somebody would by hand.
async fn entry_by_hand(hands: ByHand, view: RegistryView, name: String) -> Result<(), ApiError> {
    let placement = view.load().resolve(&name)?.1.clone();
    match placement {
        Placement::SinglePort(launch) => hands.activate(&launch.into()).await,
        Placement::Ollama(model) => hands.load(&model).await,
        Placement::External(_) => {
            let message = format!("{name} is served by a program that somebody else runs");
            Err(ApiError::new(Code::BackendUnavailable, message))
        }
    }
}

fn vllm(parts: SupervisorParts, directory: &Directory) -> Factory {
    Factory::new(directory, move |guard, again| {
        VllmSupervisor::new(parts.clone(), again, guard).start()
    })
}

fn supervisor(settings: &Settings, house: &House) -> SupervisorParts {
    let directory = &house.directory;
    SupervisorParts {
        bounds: house.live.supervisor.clone(),
        state_path: PathBuf::from(&settings.vllm.vllm_state_path),
        port: settings.vllm.vllm_port,
        pulse: house.ledger.pulse(),
        templates: house.templates.clone(),
        ends_all: false,
        secrets: settings::secret_variables(settings),
        registry: house.registry.clone(),
        arbiter: directory.port(|book| book.arbiter.clone()),
        metrics: house.metrics.clone(),
        events: house.events.clone(),
    }
}
