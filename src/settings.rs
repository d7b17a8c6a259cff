//! Settings from this process: the file that the environment names, and the environment itself.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chat_proxy_actors::forwarder::ForwardSettings;
use chat_proxy_actors::gpus::{Detection, Probe};
use chat_proxy_actors::logger::LogSettings;
use chat_proxy_actors::ollama::OllamaBounds;
use chat_proxy_actors::registry::{RegistrySettings, RoleRules};
use chat_proxy_actors::templates::Templates;
use chat_proxy_actors::vllm_supervisor::SupervisorBounds;
use chat_proxy_core::autostart::Plan;
use chat_proxy_core::config::{self, Input, KeySecret, Loaded, Problem, Seconds, Settings};
use chat_proxy_core::engine::EngineRules;
use chat_proxy_core::engine::lifecycle::{BreakerRules, LifecycleRules};
use chat_proxy_core::engine::probing::ProbeRules;
use chat_proxy_core::gpu::model_limits::LimitRules;
use chat_proxy_core::gpu::{ClassRules, GpuBudget, SchedulerRules};
use chat_proxy_core::profiles::{self, Chosen, Profiles};
use chat_proxy_core::registry::listing::ListingRules;
use chat_proxy_core::registry::ollama::{Sharing, keep_alive, shared_server};
use chat_proxy_core::registry::{Endpoint, EndpointRules, OllamaRules, Rules};

/// Read if the variable names no other.
const DEFAULT_FILE: &str = "configs/chat_proxy.toml";
/// What the daemon remembers between starts.
pub(crate) const STATE_DIR: &str = "_staging";
const FILE_VARIABLE: &str = "CHAT_PROXY_CONFIG_FILE";

/// Who finds chat templates, and where those are put that stand inside of other files.
pub(crate) fn templates() -> Templates {
    Templates::new(Path::new(STATE_DIR).join("chat_templates"))
}
/// What SIGKILL has not ended by then is stuck.
pub(crate) const KILL_GRACE: Duration = Duration::from_secs(10);
/// An engine of an earlier daemon that had been ready must answer within this.
/// A busy one may be late, and none is stopped for that.
const ADOPT_TIMEOUT: Duration = Duration::from_secs(30);

/// Settings, and what they were read from, to be read again.
pub(crate) struct Source {
    pub(crate) loaded: Loaded,
    pub(crate) path: PathBuf,
    pub(crate) env: Vec<(String, String)>,
}

/// The file that the environment names, or the default one.
fn file_name() -> (Option<String>, String) {
    let named = std::env::var(FILE_VARIABLE).ok().filter(|name| !name.trim().is_empty());
    let path = named.clone().unwrap_or_else(|| DEFAULT_FILE.to_owned());
    (named, path)
}

/// Reads file and environment. A file that the variable names must exist; the default one need not.
pub(crate) fn from_process() -> Result<Loaded, Vec<Problem>> {
    source().map(|source| source.loaded)
}

/// The same, and where it was read from.
pub(crate) fn source() -> Result<Source, Vec<Problem>> {
    let (named, path) = file_name();
    let file = match std::fs::read_to_string(&path) {
        Ok(text) => Some((path.clone(), text)),
        Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => {
            let place = if named.is_some() { format!("{FILE_VARIABLE}={path}") } else { path };
            return Err(vec![Problem { place, message: format!("cannot be read: {error}") }]);
        }
    };
    let (env, mut problems) = environment();
    match config::load(&Input { file, env: env.clone() }) {
        Ok(loaded) if problems.is_empty() => Ok(Source { loaded, path: path.into(), env }),
        Ok(_) => Err(problems),
        Err(more) => {
            problems.extend(more);
            Err(problems)
        }
    }
}

/// The environment as text; a variable of ours that is none is a problem, others do not matter.
fn environment() -> (Vec<(String, String)>, Vec<Problem>) {
    let (mut env, mut problems) = (Vec::new(), Vec::new());
    for (name, value) in std::env::vars_os() {
        let Ok(name) = name.into_string() else { continue };
        match value.into_string() {
            Ok(value) => env.push((name, value)),
            Err(_) if name.starts_with("CHAT_PROXY_") => {
                problems
                    .push(Problem { place: name, message: "its value is not UTF-8".to_owned() });
            }
            Err(_) => {}
        }
    }
    (env, problems)
}

/// Profiles, the GPUs, and what was chosen by them.
#[derive(Debug, Clone)]
pub(crate) struct Profiled {
    pub(crate) profiles: Profiles,
    pub(crate) chosen: Chosen,
    pub(crate) gpus: Detection,
    /// Its fixtures are listed.
    pub(crate) include_test_models: bool,
    /// Named ones hold where settings say nothing else.
    pub(crate) start_timeout: Option<Duration>,
    pub(crate) idle_unload: Option<Duration>,
}

/// The file of profiles: beside the settings'.
pub(crate) fn profiles_path(settings_file: &Path) -> PathBuf {
    settings_file.with_file_name("deployment_profiles.toml")
}

/// Which GPUs there are, as engines would see them. Blocking: a driver may take its time.
pub(crate) fn gpus(settings: &Settings) -> Detection {
    const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";
    let visible = settings.vllm.vllm_env.get(VISIBLE).cloned();
    Probe::new(visible.or_else(|| std::env::var(VISIBLE).ok())).detect()
}

/// Reads the profiles, and chooses. Blocking.
pub(crate) fn profiled(
    loaded: &Loaded,
    settings_file: &Path,
    gpus: Detection,
) -> Result<Profiled, Vec<Problem>> {
    let path = profiles_path(settings_file);
    let name = path.display().to_string();
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(vec![Problem { place: name, message: error.to_string() }]),
    };
    let profiles = Profiles::load(text.as_deref().map(|text| (name.as_str(), text)))?;
    let wanted = &loaded.settings.profiles;
    let wrong = |key: &str, unknown: &dyn std::fmt::Display| {
        let place = loaded.origins.get(key).map_or_else(|| key.to_owned(), ToString::to_string);
        Problem { place, message: format!("{key}: {unknown}") }
    };
    let deployment = profiles.deployment(&wanted.deployment);
    let chosen = profiles::choose(&profiles, &wanted.profile, &gpus.gpus);
    let (deployment, chosen) = match (deployment, chosen) {
        (Ok(deployment), Ok(chosen)) => (deployment, chosen),
        (deployment, chosen) => {
            let problems = [
                deployment.err().map(|unknown| wrong("deployment", &unknown)),
                chosen.err().map(|unknown| wrong("profile", &unknown)),
            ];
            return Err(problems.into_iter().flatten().collect());
        }
    };
    let open = |key: &str| loaded.origins.get(key) == Some(&config::Origin::Default);
    let named = chosen.manual_override;
    let timeout = chosen.profile.autostart_timeout;
    let grace = chosen.profile.grace_period.filter(|grace| !grace.is_zero());
    Ok(Profiled {
        include_test_models: deployment.include_test_models,
        start_timeout: timeout.filter(|_| named && open("vllm_start_timeout_s")),
        idle_unload: grace.filter(|_| named && open("idle_unload_s")),
        profiles,
        chosen,
        gpus,
    })
}

/// What the registry is read by, with the profiles' part.
pub(crate) fn registry_with(settings: &Settings, profiled: &Profiled) -> RegistrySettings {
    let mut registry = registry(settings);
    registry.listing.include_test_models |= profiled.include_test_models;
    if let Some(timeout) = profiled.start_timeout {
        registry.rules.endpoints.engine.start_timeout = timeout;
    }
    let (profiles, hardware) = (profiled.profiles.clone(), profiled.chosen.profile.clone());
    registry.roles = Arc::new(RoleRules { profiles, hardware });
    registry
}

/// The arbiter's bounds, with the profiles' part.
pub(crate) fn scheduler_with(settings: &Settings, profiled: &Profiled) -> SchedulerRules {
    let rules = scheduler(settings);
    SchedulerRules {
        budget: profiled.chosen.budget(),
        idle_unload: rules.idle_unload.or(profiled.idle_unload),
        ..rules
    }
}

/// The registry's part, without that of profiles.
pub(crate) fn registry(settings: &Settings) -> RegistrySettings {
    let server = &settings.server;
    RegistrySettings {
        dir: PathBuf::from(&server.registry_dir),
        state_dir: PathBuf::from(STATE_DIR),
        rules: Rules {
            endpoints: EndpointRules {
                loopback_alias: settings.general.loopback_alias.clone(),
                vllm_single_port: settings.vllm.vllm_single_port,
                engine: engines(settings),
                ollama: ollama(settings),
            },
            deployment: settings.profiles.deployment.clone(),
        },
        listing: ListingRules {
            include_test_models: server.include_test_models,
            include_non_installed: settings.general.include_non_installed,
            suppress_decorations: settings.general.suppress_decorations,
            template_dir: PathBuf::from(&server.template_dir),
        },
        roles: Arc::default(),
    }
}

/// The log writer's part.
pub(crate) fn log(settings: &Settings) -> LogSettings {
    LogSettings {
        path: PathBuf::from(&settings.server.log_path),
        max_bytes: settings.server.max_log_bytes,
        max_files: settings.logging.max_log_files,
        log_prompts: settings.logging.log_prompts,
    }
}

/// Where Ollama is, and whether it takes turns with vLLM.
fn ollama(settings: &Settings) -> OllamaRules {
    let ollama = &settings.ollama;
    OllamaRules {
        base_url: ollama.ollama_base_url.clone(),
        sharing: match ollama.ollama_shares_gpu.as_str() {
            "always" => Sharing::Always,
            "never" => Sharing::Never,
            _ => Sharing::Auto,
        },
        keep_alive: ollama.ollama_keep_alive.as_deref().map(keep_alive),
    }
}

/// The Ollama of the settings, if it takes turns with the vLLM that we supervise.
pub(crate) fn own_ollama(settings: &Settings) -> Option<Endpoint> {
    let rules = registry(settings).rules.endpoints;
    shared_server(&rules)
}

/// The forwarders' part.
pub(crate) fn forward(settings: &Settings) -> ForwardSettings {
    ForwardSettings::of(settings, Arc::new(autostart(settings)), Arc::new(class_rules(settings)))
}

/// What is background work without saying so; a rule that is none was refused at the load.
pub(crate) fn class_rules(settings: &Settings) -> ClassRules {
    ClassRules::read(&settings.scheduler.background_rules).unwrap_or_default()
}

/// Places at models that no scheduler places; `None`: as many as come.
pub(crate) fn limits(settings: &Settings) -> Option<LimitRules> {
    let scheduler = &settings.scheduler;
    let at_once = scheduler.max_concurrent_per_model as usize;
    (at_once > 0).then(|| LimitRules {
        at_once,
        max_waiting: scheduler.max_queue_depth as usize,
        interactive_bound: scheduler.max_swap_wait_s.get(),
        background_bound: scheduler.background_swap_wait_s.get(),
    })
}

/// Where services' runfiles are.
pub(crate) fn services_dir() -> PathBuf {
    Path::new(STATE_DIR).join("autostart")
}

/// The services that are started on demand.
pub(crate) fn autostart(settings: &Settings) -> Plan {
    let autostart = &settings.autostart;
    let (map, grace) = (autostart.autostart_map.as_deref(), autostart.autostart_grace_period_s);
    Plan::of(map, &autostart.services, grace.get()).unwrap_or_else(|problems| {
        // Checked when the settings were read.
        tracing::error!(?problems, "no service is started on demand");
        Plan::default()
    })
}

/// How engines are started.
fn engines(settings: &Settings) -> EngineRules {
    let (vllm, server) = (&settings.vllm, &settings.server);
    EngineRules {
        command: vllm.vllm_command.clone(),
        port: vllm.vllm_port,
        host: vllm.vllm_health_host.clone(),
        gpu_memory_utilization: vllm.vllm_gpu_memory_utilization,
        max_model_len: vllm.vllm_max_model_len,
        env: vllm.vllm_env.clone(),
        cwd: vllm.vllm_executor_cwd.as_ref().map(PathBuf::from),
        start_timeout: vllm.vllm_start_timeout_s.get(),
        template_dir: PathBuf::from(&server.template_dir),
        // Beside the request log: `logs/vllm/<model>.log` by default.
        log_dir: Path::new(&server.log_path).with_file_name("vllm"),
    }
}

/// The bounds of an engine's ways down.
pub(crate) fn lifecycle(settings: &Settings) -> LifecycleRules {
    let vllm = &settings.vllm;
    LifecycleRules {
        stop_timeout: vllm.vllm_stop_timeout_s.get(),
        loading_stop_grace: vllm.loading_stop_grace_s.get(),
        kill_grace: KILL_GRACE,
        backoff: vllm.vllm_restart_backoff_s.get(),
        breaker: BreakerRules {
            failures: vllm.breaker_failures,
            window: vllm.breaker_window_s.get(),
            open: vllm.breaker_open_s.get(),
        },
        adopt_timeout: ADOPT_TIMEOUT,
    }
}

/// How an engine that serves is probed.
pub(crate) fn probes(settings: &Settings) -> ProbeRules {
    let vllm = &settings.vllm;
    ProbeRules {
        interval: vllm.health_interval_s.get(),
        timeout: vllm.health_probe_timeout_s.get(),
        failures: vllm.health_failures,
    }
}

/// The supervisor's bounds.
pub(crate) fn supervisor(settings: &Settings) -> SupervisorBounds {
    SupervisorBounds {
        rules: lifecycle(settings),
        silence: settings.vllm.vllm_health_timeout_s.limit(),
        probes: probes(settings),
        keep_logs: settings.logging.max_log_files,
        max_log_bytes: settings.vllm.vllm_log_max_bytes,
    }
}

/// Ollama's bounds.
pub(crate) fn ollama_bounds(settings: &Settings) -> OllamaBounds {
    OllamaBounds {
        load_timeout: settings.ollama.ollama_load_timeout_s.limit(),
        stop_timeout: settings.ollama.ollama_stop_timeout_s.get(),
        allow_cpu: settings.ollama.ollama_allow_cpu_fallback,
    }
}

/// The arbiter's bounds.
pub(crate) fn scheduler(settings: &Settings) -> SchedulerRules {
    let scheduler = &settings.scheduler;
    SchedulerRules {
        max_queue: scheduler.max_queue_depth as usize,
        max_wait: scheduler.max_queue_wait_s.limit(),
        swap_wait: scheduler.max_swap_wait_s.get(),
        background_wait: scheduler.background_swap_wait_s.get(),
        background_idle: scheduler.background_idle_s.get(),
        max_concurrent: match scheduler.max_concurrent_per_model {
            0 => None,
            limit => Some(limit as usize),
        },
        idle_unload: scheduler.idle_unload_s.limit(),
        swap_drain: scheduler.swap_drain_timeout_s.limit(),
        abandoned_grace: settings.vllm.abandoned_load_grace_s.map(Seconds::get),
        start_on_request: settings.autostart.autostart_enabled,
        lease_wait: scheduler.lease_wait,
        lease_drain: scheduler.lease_drain_timeout_s.limit(),
        beside_ollama: settings.ollama.ollama_shares_gpu != "never",
        budget: GpuBudget::default(),
    }
}

/// Where a lease of the GPU is written down: beside what is written down of the engine.
pub(crate) fn lease_path(settings: &Settings) -> PathBuf {
    Path::new(&settings.vllm.vllm_state_path).with_file_name("gpu_lease.json")
}

/// How long a lease lives where its holder does not say (SPEC 6.5).
pub(crate) fn lease_ttl() -> Duration {
    const USUAL: Duration = Duration::from_secs(900);
    let Ok(text) = std::env::var("GPU_LEASE_STALE_MAX_AGE") else { return USUAL };
    let read = text.trim().parse().ok().and_then(|s| Duration::try_from_secs_f64(s).ok());
    read.filter(|time| !time.is_zero()).unwrap_or_else(|| {
        tracing::warn!(
            text,
            "GPU_LEASE_STALE_MAX_AGE is no time in seconds; leases live for 900 s"
        );
        USUAL
    })
}

/// Variables of ours that hold secrets; engines never see them.
pub(crate) fn secret_variables(settings: &Settings) -> BTreeSet<String> {
    let keys = settings.security.api_keys.iter();
    keys.filter_map(|key| match &key.secret {
        KeySecret::Env(name) => Some(name.clone()),
        _ => None,
    })
    .collect()
}
