//! `RegistryActor`: the one who reads the registry, watches it and publishes it.
//!
//! Owns: the published [`View`]. Accepts: [`Reload`], and what its watch hears. Emits: nothing;
//! everybody reads the view without a message. A layer that cannot be read leaves the last good
//! snapshot in place, with the error beside it. Restarts: from the files. Must never do: read
//! files on the control thread, publish half a registry, or reload because of its own writing.
//!
//! How a change is found: events of the watch are only reasons to look (debounced: a look comes
//! when it has been quiet for `QUIET`, at the latest `PATIENCE` after the first event), and a
//! look comes every `REGULAR` in any case, for file systems that tell nothing. A look reads both
//! layers and does nothing further if neither their time nor their content is new.

pub mod edit;
mod files;
mod view;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{
    Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, ResponseActFuture, WrapFuture,
};
use chat_proxy_core::registry::listing::{Activity, EngineActivity, Listing, OllamaActivity};

use crate::events::{self, EventBus};
use crate::gpu_arbiter::messages::RegistryChanged;
use crate::guard::Guard;
use crate::live::Live;
use crate::metrics::Metrics;
use crate::port::Port;
use crate::watch::{Changed, Watch};
pub(crate) use files::is_ours;
use files::{Fingerprint, RealDisk};
use view::{Found, look, render};
pub use view::{RegistryError, RegistrySettings, RegistryView, RoleRules, View, inspect};

/// Editors and tools write in several steps; this much quiet ends them.
const QUIET: Duration = Duration::from_millis(60);
/// Somebody who writes without a pause does not keep everybody waiting.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often the files are looked at when nothing was heard.
const REGULAR: Duration = Duration::from_secs(5);

/// See the module.
pub struct RegistryActor {
    settings: Live<RegistrySettings>,
    metrics: Metrics,
    events: Arc<EventBus>,
    view: RegistryView,
    /// Who must know of another registry.
    hears: Option<Port<RegistryChanged>>,
    known: Option<Fingerprint>,
    watch: Option<Watch>,
    /// The first event that has not been looked at, and the last one.
    heard: Option<(Instant, Instant)>,
    looking: bool,
    /// Looks that were begun, and the newest of those whose outcome was taken: a slow look must
    /// not overwrite what a later one found.
    begun: u64,
    taken: u64,
    /// What runs; and whether the list is being rendered with it.
    activity: Activity,
    marking: bool,
    _guard: Guard,
}

impl RegistryActor {
    /// An actor that publishes in `view`; what its predecessor had published stays until it has
    /// found something newer.
    pub fn new(
        settings: Live<RegistrySettings>,
        metrics: Metrics,
        events: Arc<EventBus>,
        view: &RegistryView,
        guard: Guard,
    ) -> Self {
        RegistryActor {
            settings,
            metrics,
            events,
            view: view.clone(),
            hears: None,
            known: None,
            watch: None,
            heard: None,
            looking: false,
            begun: 1,
            taken: 0,
            activity: view.load().activity.clone(),
            marking: false,
            _guard: guard,
        }
    }

    /// With somebody who hears of every registry that is published.
    #[must_use]
    pub fn heard_by(self, hears: Port<RegistryChanged>) -> Self {
        RegistryActor { hears: Some(hears), ..self }
    }

    /// Reads the files here and now: for the start, before there is anybody to keep waiting. What
    /// is found, which may be an error and no entries, is published.
    #[must_use]
    pub fn having_read(mut self) -> Self {
        let found = look(&self.settings.load(), None, &self.activity);
        // Told to the log, and to whoever asks for readiness.
        let _ = self.take(1, found);
        self
    }

    /// Publishes what was found; answers the number of models.
    fn take(&mut self, look: u64, found: Found) -> Result<usize, RegistryError> {
        let stale = look < self.taken;
        self.taken = self.taken.max(look);
        let outcome = match found {
            Found::New(new) if !stale => {
                let (fingerprint, outcome) = *new;
                let same = matches!(&outcome, Err(e) if self.view.load().error.as_ref() == Some(e));
                if same && fingerprint.is_none() {
                    return outcome.map(|_| 0); // still unreadable: no news
                }
                self.known = fingerprint;
                outcome
            }
            Found::New(_) | Found::Same => {
                let view = self.view.load();
                return view.error.clone().map_or(Ok(view.snapshot.entries().len()), Err);
            }
        };
        let old = self.view.load_full();
        let loads = old.loads + 1;
        let label = if outcome.is_ok() { "good" } else { "failed" };
        self.metrics.registry_loads.with_label_values(&[label]).inc();
        self.metrics.registry_error.set(i64::from(outcome.is_err()));
        self.events.publish(&events::Event::Registry {
            models: outcome
                .as_ref()
                .map_or(old.snapshot.entries().len(), |view| view.snapshot.entries().len()),
            error: outcome.as_ref().err().map(ToString::to_string),
        });
        match outcome {
            Ok(view) => {
                report(&view, &self.metrics);
                let count = view.snapshot.entries().len();
                self.view.store(Arc::new(View { loads, ..view }));
                if let Some(hears) = &self.hears {
                    // One that is being rebuilt reads the view when it begins.
                    let _ = hears.tell(RegistryChanged);
                }
                Ok(count)
            }
            Err(error) => {
                if old.error.as_ref() != Some(&error) {
                    let kept =
                        if old.loaded { "the last good one stays" } else { "no model is served" };
                    tracing::error!(%error, "the registry cannot be loaded; {kept}");
                }
                self.view.store(Arc::new(View {
                    error: Some(error.clone()),
                    loads,
                    snapshot: old.snapshot.clone(),
                    listing: old.listing.clone(),
                    list_body: old.list_body.clone(),
                    loaded: old.loaded,
                    activity: old.activity.clone(),
                    times: old.times,
                    load_time: old.load_time,
                    roles: old.roles.clone(),
                }));
                Err(error)
            }
        }
    }

    /// Waits for quiet, then looks.
    fn settle(&mut self, ctx: &mut Context<Self>) {
        let Some((first, last)) = self.heard else { return };
        let now = Instant::now();
        let at = (last + QUIET).min(first + PATIENCE);
        if now < at {
            ctx.run_later(at - now, Self::settle);
            return;
        }
        self.heard = None;
        self.look_soon(ctx);
    }

    fn look_soon(&mut self, ctx: &mut Context<Self>) {
        if let Some(watch) = &mut self.watch {
            watch.rearm();
        }
        if self.looking {
            // What changes during a look is found by another one after it.
            let now = Instant::now();
            self.heard.get_or_insert((now, now));
            return;
        }
        self.looking = true;
        self.begun += 1;
        let number = self.begun;
        let (settings, known) = (self.settings.load(), self.known.clone());
        let activity = self.activity.clone();
        let work =
            actix_rt::task::spawn_blocking(move || look(&settings, known.as_ref(), &activity));
        ctx.spawn(work.into_actor(self).map(move |found, actor, ctx| {
            actor.looking = false;
            match found {
                // Published and logged; nobody waits for it.
                Ok(found) => drop(actor.take(number, found)),
                Err(error) => tracing::error!(%error, "looking at the registry failed"),
            }
            actor.mark(ctx);
            actor.settle(ctx);
        }));
    }

    /// Renders the published list with the present activity, off this thread: with thousands of
    /// entries that takes milliseconds.
    fn mark(&mut self, ctx: &mut Context<Self>) {
        // Looked at again when that one is done; a view that shows it already costs nothing.
        if self.marking || self.view.load().activity == self.activity {
            return;
        }
        self.marking = true;
        let (old, activity) = (self.view.load_full(), self.activity.clone());
        let rules = self.settings.load().listing.clone();
        let work = actix_rt::task::spawn_blocking(move || {
            let listing = if activity.lists_alike(&old.activity) {
                let mut listing = Listing::clone(&old.listing);
                listing.mark(&activity).then_some(listing)
            } else {
                Some(old.snapshot.list(&rules, old.times, &RealDisk, &activity))
            };
            let marked = listing.map(|listing| (render(&listing), listing));
            (old, activity, marked)
        });
        ctx.spawn(work.into_actor(self).map(|done, actor, ctx| {
            actor.marking = false;
            let (old, activity, marked) = match done {
                Ok(done) => done,
                Err(error) => return tracing::error!(%error, "the model list cannot be marked"),
            };
            let now = actor.view.load_full();
            if !Arc::ptr_eq(&now, &old) || activity != actor.activity {
                return actor.mark(ctx); // overtaken
            }
            let mut view = View { activity, ..View::clone(&now) };
            if let Some((list_body, listing)) = marked {
                (view.list_body, view.listing) = (list_body, Arc::new(listing));
            }
            actor.view.store(Arc::new(view));
        }));
    }
}

fn report(view: &View, metrics: &Metrics) {
    let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    metrics.registry_models.set(count(view.snapshot.entries().len()));
    metrics.registry_skipped.set(count(view.snapshot.problems().len()));
    for problem in view.snapshot.problems() {
        tracing::warn!(%problem, "a registry entry was skipped");
    }
    let (models, took) = (view.snapshot.entries().len(), view.load_time);
    tracing::info!(models, ?took, "registry loaded");
}

/// How often the files are looked at when nothing was heard; tests of the watch order another
/// pause, so that what it does not hear stays unseen. Not in release builds.
mod regular {
    use std::time::Duration;

    #[cfg(debug_assertions)]
    pub(super) fn pause() -> Duration {
        let ordered = std::env::var("IMAGEWORKS_TEST_REGULAR_LOOK_S").ok();
        let ordered = ordered.and_then(|seconds| seconds.parse().ok());
        ordered.map_or(super::REGULAR, Duration::from_secs)
    }

    #[cfg(not(debug_assertions))]
    pub(super) fn pause() -> Duration {
        super::REGULAR
    }
}

impl Actor for RegistryActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let dir = self.settings.load().dir.clone();
        let mut watch = Watch::new(&dir, is_ours, ctx.address().recipient());
        watch.rearm();
        self.watch = Some(watch);
        ctx.run_interval(regular::pause(), Self::look_soon);
        // What changed between the first look and the watch is not lost.
        self.look_soon(ctx);
    }
}

impl Handler<Changed> for RegistryActor {
    type Result = ();

    fn handle(&mut self, _: Changed, ctx: &mut Self::Context) {
        let now = Instant::now();
        if let Some((_, last)) = &mut self.heard {
            *last = now;
        } else {
            self.heard = Some((now, now));
            ctx.run_later(QUIET, Self::settle);
        }
    }
}

/// Read the files again, changed or not; answers the number of models.
#[derive(Message)]
#[rtype(result = "Result<usize, RegistryError>")]
pub struct Reload;

impl Handler<Reload> for RegistryActor {
    type Result = ResponseActFuture<Self, Result<usize, RegistryError>>;

    fn handle(&mut self, _: Reload, _: &mut Self::Context) -> Self::Result {
        self.begun += 1;
        let number = self.begun;
        let settings = self.settings.load();
        let dir = settings.dir.display().to_string();
        let activity = self.activity.clone();
        let work = actix_rt::task::spawn_blocking(move || look(&settings, None, &activity));
        Box::pin(work.into_actor(self).map(move |found, actor, ctx| match found {
            Ok(found) => {
                let taken = actor.take(number, found);
                actor.mark(ctx);
                taken
            }
            Err(error) => Err(RegistryError::Io { file: dir, message: error.to_string() }),
        }))
    }
}

/// Which model holds the engine's port, if any: for the list.
#[derive(Message, Debug, Clone)]
#[rtype(result = "()")]
pub struct ShowActivity(pub Option<EngineActivity>);

impl Handler<ShowActivity> for RegistryActor {
    type Result = ();

    fn handle(&mut self, ShowActivity(engine): ShowActivity, ctx: &mut Self::Context) {
        if self.activity.engine != engine {
            self.activity.engine = engine;
            self.mark(ctx);
        }
    }
}

/// What every Ollama that was asked has and has loaded, by its base address: for the list.
#[derive(Message, Debug, Clone)]
#[rtype(result = "()")]
pub struct ShowOllama(pub Arc<BTreeMap<String, OllamaActivity>>);

impl Handler<ShowOllama> for RegistryActor {
    type Result = ();

    fn handle(&mut self, ShowOllama(ollama): ShowOllama, ctx: &mut Self::Context) {
        if self.activity.ollama != ollama {
            self.activity.ollama = ollama;
            self.mark(ctx);
        }
    }
}

#[cfg(test)]
mod tests;
