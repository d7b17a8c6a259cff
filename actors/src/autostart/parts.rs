//! What the actor is made from.
//!
//! Owns: the settings of one daemon, and the two facts that outlive an actor: whether requests start
//! services, and what is still to be preloaded. Must never do: act.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chat_proxy_core::ApiError;
use chat_proxy_core::autostart::Plan;
use futures_util::future::LocalBoxFuture;

use crate::events::EventBus;
use crate::registry::RegistryView;

/// Has an entry of the registry activated or loaded, by its name. It must answer within a bound of
/// its own; called on the control thread.
pub type Entries =
    Arc<dyn Fn(String) -> LocalBoxFuture<'static, Result<(), ApiError>> + Send + Sync>;

/// What the actor is made from; the same for each that is built.
#[derive(Clone)]
pub struct AutostartParts {
    /// The services.
    pub plan: Arc<Plan>,
    /// Where the runfiles are.
    pub dir: PathBuf,
    /// What an earlier daemon left there is ours; else it is another one's, and there are no programs
    /// among our services.
    pub owns: bool,
    /// Whether requests start services.
    pub enabled: Switch,
    /// At shutdown services are left to the next daemon.
    pub keep_on_exit: bool,
    /// One that is told to end is killed after this.
    pub stop_timeout: Duration,
    /// A running service's log is shortened when it is larger (bytes).
    pub log_max_bytes: u64,
    /// Logs of earlier starts that are kept.
    pub keep_logs: u32,
    /// Variables of ours that services never see.
    pub secrets: BTreeSet<String>,
    /// Which entries there are, and whose keys are where.
    pub registry: RegistryView,
    /// The way to activate or load an entry.
    pub entries: Entries,
    /// Services and entries that are started at the beginning.
    pub preload: Preload,
    /// Where it is told what happens.
    pub events: Arc<EventBus>,
}

/// Whether requests start services: one fact for all actors of a daemon.
#[derive(Debug, Clone, Default)]
pub struct Switch(Arc<AtomicBool>);

impl From<bool> for Switch {
    fn from(on: bool) -> Self {
        Switch(Arc::new(AtomicBool::new(on)))
    }
}

impl Switch {
    /// Whether they do.
    pub fn is_on(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// From now on.
    pub fn set(&self, on: bool) {
        self.0.store(on, Ordering::Relaxed);
    }
}

/// Names that are started at the beginning, once for a daemon, however often its actor is rebuilt.
#[derive(Debug, Clone, Default)]
pub struct Preload(Arc<Mutex<Vec<String>>>);

impl From<Vec<String>> for Preload {
    fn from(names: Vec<String>) -> Self {
        Preload(Arc::new(Mutex::new(names)))
    }
}

impl Preload {
    /// The first that is not done: it stays until it is, for an actor may die over it.
    pub(super) fn next(&self) -> Option<String> {
        self.names().first().cloned()
    }

    /// It was started, or could not be.
    pub(super) fn is_done(&self, name: &str) {
        let mut names = self.names();
        if names.first().is_some_and(|first| first == name) {
            names.remove(0);
        }
    }

    fn names(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
