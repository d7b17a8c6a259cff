//! What tells that an actor has died.
//!
//! Owns: the guard that each actor of Root's holds, and the names of their roles. Must never do:
//! rebuild; that is [`Root`](crate::root)'s.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use actix::{Message, Recipient};

/// The actors that are Root's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// `RegistryActor`
    Registry,
    /// `MetricsActor`
    Metrics,
    /// `LoggerActor`
    Logger,
    /// `GpuArbiter`
    Arbiter,
    /// `VllmSupervisor`
    Vllm,
    /// `OllamaActor`
    Ollama,
    /// `AutostartActor`
    Autostart,
    /// `ConfigActor`
    Config,
}

impl Role {
    /// Every role, in the order of their start.
    pub const ALL: [Role; 8] = [
        Role::Logger,
        Role::Metrics,
        Role::Registry,
        Role::Arbiter,
        Role::Vllm,
        Role::Ollama,
        Role::Autostart,
        Role::Config,
    ];

    /// The word for it, in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Registry => "registry",
            Role::Metrics => "metrics",
            Role::Logger => "logger",
            Role::Arbiter => "arbiter",
            Role::Vllm => "vllm",
            Role::Ollama => "ollama",
            Role::Autostart => "autostart",
            Role::Config => "config",
        }
    }
}

/// Held by an actor; its drop says that the actor is gone, for whatever reason.
pub struct Guard {
    role: Role,
    watcher: Option<Recipient<Died>>,
    ending: Ending,
}

impl Guard {
    /// A guard that tells `watcher`.
    pub fn new(role: Role, watcher: Recipient<Died>, ending: Ending) -> Self {
        Guard { role, watcher: Some(watcher), ending }
    }

    /// A guard that tells nobody: for an actor that nobody would rebuild.
    pub fn unwatched(role: Role) -> Self {
        Guard { role, watcher: None, ending: Ending::default() }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(watcher) = &self.watcher
            && !self.ending.has_begun()
        {
            watcher.do_send(Died(self.role));
        }
    }
}

/// An actor is gone.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Died(pub Role);

/// From now on actors end because the daemon does.
#[derive(Debug, Clone, Default)]
pub struct Ending(Arc<AtomicBool>);

impl Ending {
    /// See the type.
    pub fn begin(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether it has.
    pub fn has_begun(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}
