//! `ConfigActor`: the one who reads and writes the settings file while the daemon runs.
//!
//! Owns: the published [`ConfigState`]. Accepts: [`ReloadConfig`], [`ChangeConfig`], and what its watch
//! hears. Emits: to everybody whose settings have changed, through [`Prepare`]. A file that cannot be
//! used changes nothing; what is wrong with it stands in the state. Restarts: from the state. Must
//! never do: touch files on the control thread, take half of a file, or write what would stop the next
//! start.

mod files;
mod work;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{
    Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, ResponseActFuture, WrapFuture,
};
use chat_proxy_core::config::{Loaded, Problem};
use serde_json::{Map, Value};
use tokio::sync::Mutex;

use crate::events::{Event, EventBus};
use crate::guard::Guard;
use crate::live::Live;
use crate::port::Port;
use crate::registry::Reload;
use crate::watch::{Changed, Watch};
pub use files::replace;
use work::Done;

/// Editors write in several steps; this much quiet ends them.
const QUIET: Duration = Duration::from_millis(100);
/// How often the file is looked at when nothing was heard.
const REGULAR: Duration = Duration::from_secs(5);

/// Reading the registry takes milliseconds, unless the disk hangs.
const REGISTRY: Duration = Duration::from_secs(10);

/// The settings as they are, for everybody.
#[derive(Debug, Clone)]
pub struct ConfigState {
    /// What is in force; and what file and environment say.
    pub loaded: Loaded,
    /// Keys that have another value in file or environment than in force: they need a restart.
    pub pending: Vec<&'static str>,
    /// Why the newest file is not in force, if so.
    pub problems: Vec<Problem>,
    /// The text of the file beside it, as it was last read; `None`: there is none, or nobody has looked.
    pub beside: Option<String>,
}

/// Hands the settings to everybody, at once.
pub type Commit = Box<dyn FnOnce() + Send>;
/// Makes all that is made of settings, or says why that cannot be. May block; hands nothing out yet.
pub type Prepare = Arc<dyn Fn(&Loaded) -> Result<Commit, Vec<Problem>> + Send + Sync>;

/// What the actor is made from; the same for each that is built.
#[derive(Clone)]
pub struct ConfigParts {
    /// The file; it need not be there.
    pub path: PathBuf,
    /// A file of the same directory that settings name things of.
    pub beside: PathBuf,
    /// The whole environment: it does not change while we run.
    pub env: Arc<Vec<(String, String)>>,
    /// Where the settings are published.
    pub state: Live<ConfigState>,
    /// See [`Prepare`].
    pub prepare: Prepare,
    /// Where it is told what happens.
    pub events: Arc<EventBus>,
    /// One reading or writing at a time, whichever actor began it.
    pub turn: Arc<Mutex<()>>,
    /// Who reads the registry again by what is in force then.
    pub registry: Port<Reload>,
}

/// See the module.
pub struct ConfigActor {
    parts: ConfigParts,
    watch: Option<Watch>,
    heard: Option<Instant>,
    /// A look of our own waits for its turn, or is under way: one is enough.
    looking: bool,
    _guard: Guard,
}

/// Why settings were not changed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConfigError {
    /// What was asked for, or the file, is wrong.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Wrong(Vec<Problem>),
    /// Keys that whoever asked may not change from afar (SPEC 10).
    #[error("{} can be changed only with a configured key that has the admin right, or in the file itself", .0.join(", "))]
    Guarded(Vec<&'static str>),
    /// The file was changed by somebody else again and again.
    #[error("{0} is being changed by somebody else; try again")]
    Busy(String),
    /// The file could not be read or written.
    #[error("{path}: {message}")]
    Io {
        /// The file.
        path: String,
        /// The system's words.
        message: String,
    },
}

/// What a reading or a change came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Keys that the file says something else about.
    pub written: Vec<&'static str>,
    /// Keys whose value in force is another one.
    pub applied: Vec<&'static str>,
}

impl ConfigActor {
    /// An actor over the published state.
    pub fn new(parts: ConfigParts, guard: Guard) -> Self {
        ConfigActor { parts, watch: None, heard: None, looking: false, _guard: guard }
    }

    /// Reads the file, or changes and reads it, when it is its turn; what came of it is in force by then.
    fn work(
        &self,
        job: impl FnOnce(&ConfigParts) -> Result<Done, ConfigError> + Send + 'static,
    ) -> ResponseActFuture<Self, Result<Outcome, ConfigError>> {
        let parts = self.parts.clone();
        let done = async move {
            let turn = parts.turn.clone().lock_owned().await;
            let path = parts.path.display().to_string();
            let done = actix_rt::task::spawn_blocking(move || job(&parts)).await;
            let done = done
                .map_err(|error| ConfigError::Io { path, message: error.to_string() })
                .and_then(|done| done);
            (done, turn)
        };
        let registry = self.parts.registry.clone();
        Box::pin(done.into_actor(self).then(move |(done, turn), actor, _| {
            let is_new = done.as_ref().is_ok_and(|done| done.commit.is_some());
            let taken = actor.take(done);
            let settled = async move {
                let _turn = turn;
                if is_new && let Err(error) = registry.ask(Reload, REGISTRY).await {
                    // Its successor reads the files when it begins.
                    tracing::debug!(%error, "the registry was not read again");
                }
                taken
            };
            settled.into_actor(actor)
        }))
    }

    /// Hands out what was read, or notes what is wrong with it.
    fn take(&self, done: Result<Done, ConfigError>) -> Result<Outcome, ConfigError> {
        let Done { state, commit, outcome, news } = done?;
        let before = self.parts.state.load();
        if let Some(commit) = commit {
            commit();
        }
        if news {
            work::tell(&before, &state, &outcome);
            let error = state.problems.first().map(ToString::to_string);
            self.parts.events.publish(&Event::Config {
                applied: outcome.applied.clone(),
                restart: state.pending.clone(),
                error,
            });
        }
        let problems = state.problems.clone();
        self.parts.state.store(state);
        if problems.is_empty() { Ok(outcome) } else { Err(ConfigError::Wrong(problems)) }
    }

    /// Looks at the file when it has been quiet for a moment.
    fn settle(&mut self, ctx: &mut Context<Self>) {
        let Some(heard) = self.heard else { return };
        let quiet = heard.elapsed();
        if quiet < QUIET {
            ctx.run_later(QUIET.saturating_sub(quiet), Self::settle);
            return;
        }
        self.heard = None;
        self.look(ctx);
    }

    fn look(&mut self, ctx: &mut Context<Self>) {
        if let Some(watch) = &mut self.watch {
            watch.rearm();
        }
        if std::mem::replace(&mut self.looking, true) {
            // What changes meanwhile is found by the next regular one.
            return;
        }
        let look = self.work(|parts| Ok(work::reload(parts, false)));
        ctx.spawn(look.map(|looked, actor, _| {
            actor.looking = false;
            match looked {
                // What is wrong with the file is in the state, and has been told.
                Ok(_) | Err(ConfigError::Wrong(_)) => {}
                Err(error) => tracing::warn!(%error, "the settings file was not looked at"),
            }
        }));
    }
}

impl Actor for ConfigActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let path = std::path::absolute(&self.parts.path).unwrap_or(self.parts.path.clone());
        let dir = path.parent().unwrap_or(Path::new(".")).to_owned();
        let mut watch =
            Watch::new(&dir, |path| !files::is_settings(path), ctx.address().recipient());
        watch.rearm();
        self.watch = Some(watch);
        ctx.run_interval(REGULAR, Self::look);
        // What changed between the start's reading and the watch is not lost.
        self.look(ctx);
    }
}

impl Handler<Changed> for ConfigActor {
    type Result = ();

    fn handle(&mut self, _: Changed, ctx: &mut Self::Context) {
        if self.heard.replace(Instant::now()).is_none() {
            ctx.run_later(QUIET, Self::settle);
        }
    }
}

/// Read the file again, changed or not.
#[derive(Message)]
#[rtype(result = "Result<Outcome, ConfigError>")]
pub struct ReloadConfig;

impl Handler<ReloadConfig> for ConfigActor {
    type Result = ResponseActFuture<Self, Result<Outcome, ConfigError>>;

    fn handle(&mut self, _: ReloadConfig, _: &mut Self::Context) -> Self::Result {
        self.work(|parts| Ok(work::reload(parts, true)))
    }
}

/// Change keys in the file, and in force.
#[derive(Message, Debug, Clone)]
#[rtype(result = "Result<Outcome, ConfigError>")]
pub struct ChangeConfig {
    /// Keys and values (SPEC 12).
    pub object: Map<String, Value>,
    /// Whether guarded keys may be changed, too.
    pub guarded: bool,
}

impl Handler<ChangeConfig> for ConfigActor {
    type Result = ResponseActFuture<Self, Result<Outcome, ConfigError>>;

    fn handle(&mut self, change: ChangeConfig, _: &mut Self::Context) -> Self::Result {
        self.work(move |parts| work::change(parts, &change))
    }
}

#[cfg(test)]
mod tests;
