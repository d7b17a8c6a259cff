//! The settings in force, part by part, for everybody who lives by them.
//!
//! Owns: one place for each part, and handing all of them out when settings change. Must never do: hand
//! out a part of a change: whatever can fail is made before.

use std::net::SocketAddr;
use std::path::Path;

use chat_proxy_actors::config::Commit;
use chat_proxy_actors::directory::Directory;
use chat_proxy_actors::forwarder::{ForwardSettings, ScalingRules};
use chat_proxy_actors::gpu_arbiter::messages::BoundsChanged as ArbiterBounds;
use chat_proxy_actors::live::Live;
use chat_proxy_actors::logger::LogSettings;
use chat_proxy_actors::ollama::OllamaBounds;
use chat_proxy_actors::registry::RegistrySettings;
use chat_proxy_actors::vllm_supervisor::SupervisorBounds;
use chat_proxy_actors::vllm_supervisor::messages::BoundsChanged as EngineBounds;
use chat_proxy_core::config::{Loaded, Problem, Settings};
use chat_proxy_core::gpu::ClassRules;
use chat_proxy_core::gpu::scheduler::SchedulerRules;

use crate::http::Guard;
use crate::serve::ServeError;
use crate::settings::{self, Profiled};
use crate::systemd;
use crate::wiring::House;

/// See the module. Clones share the places.
#[derive(Clone)]
pub(crate) struct LiveSettings {
    pub(crate) all: Live<Settings>,
    pub(crate) guard: Live<Guard>,
    pub(crate) profiled: Live<Profiled>,
    pub(crate) forward: Live<ForwardSettings>,
    pub(crate) scaling: Live<ScalingRules>,
    pub(crate) classes: Live<ClassRules>,
    pub(crate) log: Live<LogSettings>,
    pub(crate) registry: Live<RegistrySettings>,
    pub(crate) scheduler: Live<SchedulerRules>,
    pub(crate) supervisor: Live<SupervisorBounds>,
    pub(crate) ollama: Live<OllamaBounds>,
    /// A socket that was opened for us and that other machines can reach, whatever `host` says.
    pub(crate) open: Option<SocketAddr>,
}

impl LiveSettings {
    /// What the daemon starts with.
    pub(crate) fn new(settings: &Settings, guard: Guard, profiled: Profiled) -> Self {
        LiveSettings {
            all: Live::new(settings.clone()),
            guard: Live::new(guard),
            forward: Live::new(settings::forward(settings)),
            scaling: Live::new(ScalingRules::of(settings)),
            classes: Live::new(settings::class_rules(settings)),
            log: Live::new(settings::log(settings)),
            registry: Live::new(settings::registry_with(settings, &profiled)),
            scheduler: Live::new(settings::scheduler_with(settings, &profiled)),
            supervisor: Live::new(settings::supervisor(settings)),
            ollama: Live::new(settings::ollama_bounds(settings)),
            profiled: Live::new(profiled),
            open: None,
        }
    }

    /// Makes all parts anew; what is answered hands them out.
    pub(crate) fn prepare(
        &self,
        loaded: &Loaded,
        file: &Path,
        house: &Reached,
    ) -> Result<Commit, Vec<Problem>> {
        let settings = &loaded.settings;
        let wrong = |message| vec![Problem { place: "api_keys".to_owned(), message }];
        let guard = Guard::new(settings).map_err(wrong)?;
        if let Some(addr) = systemd::unguarded(settings, self.open) {
            return Err(wrong(ServeError::Open(addr).to_string()));
        }
        let profiled = settings::profiled(loaded, file, self.profiled.load().gpus.clone())?;
        let (new, live) = (LiveSettings::new(settings, guard, profiled), self.clone());
        let (house, settings) = (house.clone(), settings.clone());
        Ok(Box::new(move || {
            let before = live.all.load();
            live.take(&new);
            house.tell(&before, &settings);
        }))
    }

    fn take(&self, new: &LiveSettings) {
        /// Each of these parts.
        macro_rules! store {
            ($($part:ident),*) => { $(self.$part.share(new.$part.load());)* };
        }
        store!(
            all, guard, profiled, forward, scaling, classes, log, registry, scheduler, supervisor,
            ollama
        );
    }
}

/// Who must act on a change.
#[derive(Clone)]
pub(crate) struct Reached {
    directory: Directory,
    starts: chat_proxy_actors::autostart::Switch,
    limits: std::sync::Arc<chat_proxy_actors::limits::Limits>,
}

impl Reached {
    pub(crate) fn of(house: &House) -> Self {
        Reached {
            directory: house.directory.clone(),
            starts: house.starts.clone(),
            limits: house.limits.clone(),
        }
    }

    /// An actor that is being rebuilt reads its part when it begins.
    fn tell(&self, before: &Settings, settings: &Settings) {
        let scheduler = &settings.scheduler;
        let starts = settings.autostart.autostart_enabled;
        if starts != before.autostart.autostart_enabled {
            self.starts.set(starts);
        }
        self.limits.change(settings::limits(settings), scheduler.max_queue_depth as usize);
        let told = [
            self.directory.port(|book| book.arbiter.clone()).tell(ArbiterBounds).is_ok(),
            self.directory.port(|book| book.vllm.clone()).tell(EngineBounds).is_ok(),
        ];
        tracing::debug!(?told, "settings were handed out");
    }
}
