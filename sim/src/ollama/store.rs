//! Owns which models hold memory, who uses them, and when they go.
//!
//! Each loaded model has a task that loads it, waits until nobody uses it for as long as it is to
//! be kept, and gives its memory back. Requests hold a [`Lease`] meanwhile; those for one model
//! join its load. A request that wants other options than it was loaded with waits until it is
//! out of use, and loads it anew. Must never answer a request.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::flags::Ollama;
use super::keep::Keep;
use super::models::Model;
use super::runner::{Phase, Plan, Runner, Setup};
use super::times::stamp;
use crate::stats::ModelStats;

/// What a request needs of the store.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    pub(super) model: Model,
    pub(super) setup: Setup,
    /// How long it is kept behind this request; `None` leaves that as it is.
    pub(super) keep: Option<Keep>,
    /// How a load goes that this request begins.
    pub(super) plan: Plan,
}

/// The models in memory.
#[derive(Debug)]
pub(crate) struct Store {
    keep: Keep,
    unload: Duration,
    ps_loading: bool,
    state: Mutex<State>,
    /// Something in the state is no longer what it was.
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    runners: Vec<Runner>,
    next: u64,
    loads: u64,
    reloads: u64,
    unloads: u64,
    most: u64,
}

impl State {
    fn runner(&mut self, id: u64) -> Option<&mut Runner> {
        self.runners.iter_mut().find(|runner| runner.id == id)
    }
}

/// A request's hold on a model. Dropping it lets go.
#[derive(Debug)]
pub(super) struct Lease {
    store: Arc<Store>,
    id: u64,
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(runner) = self.store.state().runner(self.id) {
            runner.claims -= 1;
            runner.used = Instant::now();
        }
        self.store.news();
    }
}

impl Store {
    pub(super) fn new(settings: &Ollama) -> Arc<Self> {
        Arc::new(Self {
            keep: Keep::For(settings.keep_alive),
            unload: Duration::from_millis(settings.unload_ms),
            ps_loading: settings.ps_loading,
            state: Mutex::default(),
            changed: watch::Sender::new(()),
        })
    }

    /// Gives a hold on the model once it is loaded so, or tells why it cannot be.
    pub(super) async fn claim(self: &Arc<Self>, wish: &Wish) -> Result<Lease, String> {
        let lease = self.when(|state| self.join(state, wish)).await;
        let loaded = |state: &mut State| match &state.runner(lease.id)?.phase {
            Phase::Loading => None,
            Phase::Failed(why) => Some(Err(why.clone())),
            _ => Some(Ok(())),
        };
        self.when(loaded).await?;
        Ok(lease)
    }

    /// Takes a hold on the model, loaded or not; `None` where another load of it must end first.
    fn join(self: &Arc<Self>, state: &mut State, wish: &Wish) -> Option<Lease> {
        let present = state.runners.iter_mut().find(|r| r.model == wish.model);
        let Some(runner) = present else { return Some(self.begin(state, wish)) };
        let fits = runner.setup.serves(&wish.setup);
        match runner.phase {
            Phase::Loading | Phase::Ready if fits => {
                runner.claims += 1;
                runner.keep = wish.keep.unwrap_or(runner.keep);
                let id = runner.id;
                self.news();
                Some(Lease { store: Arc::clone(self), id })
            }
            Phase::Ready => {
                runner.phase = Phase::Outgoing;
                state.reloads += 1;
                self.news();
                None
            }
            _ => None,
        }
    }

    fn begin(self: &Arc<Self>, state: &mut State, wish: &Wish) -> Lease {
        let id = state.next;
        state.next += 1;
        state.loads += 1;
        state.runners.push(Runner {
            id,
            model: wish.model.clone(),
            setup: wish.setup.clone(),
            phase: Phase::Loading,
            claims: 1,
            keep: wish.keep.unwrap_or(self.keep),
            used: Instant::now(),
            hangs: wish.plan.hangs,
        });
        state.most = state.most.max(state.runners.len() as u64);
        tokio::spawn(live(Arc::clone(self), id, wish.plan.clone()));
        Lease { store: Arc::clone(self), id }
    }

    /// The model is to go as soon as nobody uses it; where that `hangs`, not before a release.
    pub(super) fn dismiss(&self, model: &Model, hangs: bool) {
        if let Some(runner) = self.state().runners.iter_mut().find(|r| r.model == *model) {
            runner.keep = Keep::For(Duration::ZERO);
            runner.hangs |= hangs;
        }
        self.news();
    }

    /// Lets all that hangs now come to its end.
    pub(super) fn release(&self) {
        for runner in &mut self.state().runners {
            runner.hangs = false;
        }
        self.news();
    }

    /// Waits until it does not hang, and so long.
    async fn takes(&self, id: u64, time: Duration) {
        self.when(|state| state.runner(id).is_none_or(|r| !r.hangs).then_some(())).await;
        if !time.is_zero() {
            tokio::time::sleep(time).await;
        }
    }

    /// What `/api/ps` says.
    pub(super) fn ps(&self) -> Value {
        let state = self.state();
        let listed = |r: &&Runner| r.holds_memory() || (self.ps_loading && r.is_loading());
        let mut runners: Vec<&Runner> = state.runners.iter().filter(listed).collect();
        let now = Instant::now();
        runners.sort_by_key(|runner| std::cmp::Reverse(runner.left(now)));
        let line = |runner: &&Runner| {
            let mut line = runner.line();
            line["expires_at"] = json!(stamp(SystemTime::now() + runner.left(now)));
            line
        };
        json!({"models": runners.iter().map(line).collect::<Vec<_>>()})
    }

    pub(crate) fn stats(&self) -> ModelStats {
        let state = self.state();
        let names = |which: fn(&Runner) -> bool| {
            let these = state.runners.iter().filter(|runner| which(runner));
            these.map(|runner| runner.model.name.clone()).collect()
        };
        ModelStats {
            loaded: names(Runner::holds_memory),
            loading: names(Runner::is_loading),
            loads: state.loads,
            reloads: state.reloads,
            unloads: state.unloads,
            most_loaded: state.most,
        }
    }

    /// What was counted to zero; what is loaded stays.
    pub(super) fn reset(&self) {
        let mut state = self.state();
        (state.loads, state.reloads, state.unloads) = (0, 0, 0);
        state.most = state.runners.len() as u64;
    }

    /// Waits until `look` finds something. It is called again whenever anything has changed.
    async fn when<T>(&self, mut look: impl FnMut(&mut State) -> Option<T>) -> T {
        let mut changed = self.changed.subscribe();
        loop {
            let found = look(&mut self.state());
            if let Some(found) = found {
                return found;
            }
            // The sender is the store's own, so that waiting cannot fail.
            let _ = changed.changed().await;
        }
    }

    fn news(&self) {
        self.changed.send_replace(());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nobody has a hold on it.
    async fn idle(&self, id: u64) {
        self.when(|state| state.runner(id).is_none_or(|r| r.claims == 0).then_some(())).await;
    }

    /// Waits until it is to go, and has it go: from then on nobody can take a hold on it.
    async fn retire(&self, id: u64) {
        let mut changed = self.changed.subscribe();
        loop {
            let due = {
                let mut state = self.state();
                let Some(runner) = state.runner(id) else { return };
                let due = runner.due();
                if due.is_some_and(|due| due <= Instant::now()) {
                    runner.phase = Phase::Leaving;
                    return;
                }
                due
            };
            tokio::select! {
                _ = changed.changed() => {}
                () = at(due) => {}
            }
        }
    }

    fn settle(&self, id: u64, phase: Phase) {
        if let Some(runner) = self.state().runner(id) {
            runner.phase = phase;
        }
        self.news();
    }

    fn remove(&self, id: u64) {
        self.state().runners.retain(|runner| runner.id != id);
        self.news();
    }
}

/// The life of one loaded model.
async fn live(store: Arc<Store>, id: u64, plan: Plan) {
    tokio::select! {
        biased;
        () = store.takes(id, plan.time) => {}
        // Nobody waits for it any more: it is given up.
        () = store.idle(id) => return store.remove(id),
    }
    if let Some(why) = plan.fails {
        store.settle(id, Phase::Failed(why));
        store.idle(id).await;
        return store.remove(id);
    }
    store.settle(id, Phase::Ready);
    store.retire(id).await;
    store.takes(id, store.unload).await;
    store.state().unloads += 1;
    store.remove(id);
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
