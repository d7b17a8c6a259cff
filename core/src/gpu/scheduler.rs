//! The queue for the one GPU, and when it changes hands.
//!
//! Owns: who waits, what is resident, how many requests use it, and the decisions that follow:
//! grant, load, drain, stop. Must never do: grant for anything but what is resident, stop what is
//! in use (but after a bound, by force, or when it died), or answer a ticket twice.
//!
//! The rules, in order:
//! 1. Requests for the resident are granted at once, until the oldest of those who wait for another
//!    model has waited for its bound less what a swap takes, or somebody asked for it by hand. From
//!    then on the resident is *closing*: it only finishes what it has, and takes no one but those
//!    who were there before the one it closes for.
//! 2. A resident that nobody uses and nobody waits for gives way to whoever waits longest.
//! 3. When a model becomes ready, all who wait for it by then are granted before anything else: a
//!    swap serves at least the batch that caused it.
//! 4. A load that nobody waits for any more goes on, unless somebody waits for another model.
//!
//! What holds the GPU is learnt from the engine's reports, which are whole truths: until the first
//! one has come nothing is decided.

mod waiters;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::lifecycle::Moment;
use crate::engine::{Cause, EngineReport, Held, Launch, Phase};
use crate::ids::{Generation, ModelName, Ticket};

use waiters::{Place, Waiters};
pub use waiters::{Purpose, Waiter};

/// A request that an engine refused or dropped before its first byte waits this long for news of
/// that engine before it is sent there again.
const SECOND_TRY: Duration = Duration::from_millis(250);
/// Requests of an engine that died get this long to see its connections close by themselves.
const LOST_GRACE: Duration = Duration::from_secs(2);
/// Models whose load times are remembered.
const MAX_REMEMBERED: usize = 1024;

/// Bounds.
#[derive(Debug, Clone)]
pub struct SchedulerRules {
    /// Requests that may wait, over all models.
    pub max_queue: usize,
    /// Longest wait before its own load begins; `None`: no limit.
    pub max_wait: Option<Duration>,
    /// A request causes a swap at the latest after this.
    pub swap_wait: Duration,
    /// A swap cuts what still runs after this; `None`: it never does.
    pub swap_drain: Option<Duration>,
    /// Requests may cause a load; by hand it is always possible.
    pub start_on_request: bool,
}

/// What holds the GPU.
#[derive(Debug, Clone, PartialEq)]
pub enum Gpu {
    /// Not known yet.
    Unknown,
    /// Nothing.
    Empty,
    /// A model that loads, since this moment.
    Loading(Generation, Arc<Launch>, Moment),
    /// A model that serves.
    Resident(Resident),
    /// A model that goes.
    Clearing(Clearing),
    /// Something that cannot be ended.
    Stuck(Stuck),
}

/// A model that serves.
#[derive(Debug, Clone, PartialEq)]
pub struct Resident {
    /// Which start of it.
    pub generation: Generation,
    /// What it is.
    pub launch: Arc<Launch>,
    /// Since when.
    pub since: Moment,
    /// Permits that are out.
    pub in_flight: usize,
    /// It only finishes what it has.
    pub closing: Option<Closing>,
}

/// A resident that takes nothing new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closing {
    /// On whose account.
    pub cause: ClosingCause,
    /// When what still runs is cut.
    pub cut_at: Option<Moment>,
}

/// On whose account a resident closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClosingCause {
    /// Of somebody who waits for another model; when he goes, it opens again.
    Waiter,
    /// Of an order to stop.
    Order,
}

/// A model that goes.
#[derive(Debug, Clone, PartialEq)]
pub struct Clearing {
    /// Which start of it.
    pub generation: Generation,
    /// What it is.
    pub launch: Arc<Launch>,
    /// Since when.
    pub since: Moment,
    /// Permits that are still out: only of an engine that died.
    pub in_flight: usize,
    /// When they are cut.
    pub cut_at: Option<Moment>,
}

/// A model that cannot be ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Stuck {
    /// Which start of it.
    pub generation: Generation,
    /// What is known of it.
    pub cause: Cause,
}

/// Why the GPU changes hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A request for another model.
    Request,
    /// By hand.
    Manual,
}

impl Reason {
    /// The word for it, in lists and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Request => "request",
            Reason::Manual => "manual",
        }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Somebody wants a turn.
    Admit(Waiter),
    /// Somebody does not want it any more.
    Abandon(Ticket),
    /// So many permits of a generation are out, by the ledger.
    InFlight(Generation, usize),
    /// The engine, as it is now; and the permits that are out of the generation it names.
    /// `fresh`: its supervisor has just begun, and may not know what it was told before.
    Engine {
        /// The report.
        report: EngineReport,
        /// Permits of that generation that are out.
        in_flight: usize,
        /// Whether its supervisor has just begun.
        fresh: bool,
    },
    /// Stop whatever is resident; `force` cuts what runs.
    Deactivate {
        /// Cut, instead of letting finish.
        force: bool,
    },
    /// The daemon ends: nobody waits any more.
    Drain,
    /// Time has passed.
    Tick,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// A permit for this ticket.
    Grant {
        /// Whose.
        ticket: Ticket,
        /// For which start.
        generation: Generation,
        /// Where.
        launch: Arc<Launch>,
        /// How long it waited for a turn.
        queued: Duration,
        /// How long it waited for the load.
        loading: Duration,
    },
    /// The model that was asked for by hand serves.
    Activated(Ticket),
    /// No.
    Refuse(Ticket, Refusal),
    /// Start this.
    Run(Generation, Arc<Launch>),
    /// Stop what runs.
    Stop(Generation),
    /// End the requests that use this.
    Cut(Generation),
    /// The GPU goes from one model to another, or to the first one.
    SwapBegan {
        /// What was resident.
        from: Option<ModelName>,
        /// What shall be.
        to: ModelName,
        /// Why.
        reason: Reason,
    },
    /// It serves, so long after the decision.
    SwapDone {
        /// What is resident now.
        to: ModelName,
        /// Why.
        reason: Reason,
        /// From the decision to ready.
        took: Duration,
    },
}

/// Why somebody gets no turn.
#[derive(Debug, Clone, PartialEq)]
pub enum Refusal {
    /// Too many wait already.
    QueueFull {
        /// So many.
        waiting: usize,
        /// When it is worth trying again.
        retry_after: Duration,
    },
    /// It waited for as long as it may.
    QueueTimeout {
        /// So long.
        waited: Duration,
        /// When it is worth trying again.
        retry_after: Duration,
    },
    /// The model did not come up.
    Failed(Cause),
    /// Requests start nothing here.
    AutostartOff,
    /// Somebody stopped it by hand.
    Stopped,
    /// The daemon ends.
    Draining,
}

/// What an order to stop met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stopping {
    /// Nothing was there.
    Idle,
    /// It goes now.
    Now(ModelName),
    /// It goes when so many requests have finished.
    WaitsFor(ModelName, usize),
}

/// See the module.
#[derive(Debug)]
pub struct Scheduler {
    rules: SchedulerRules,
    gpu: Gpu,
    waiters: Waiters,
    /// The newest generation that was used.
    newest: Generation,
    /// The newest that the supervisor had heard of in its last report: an older report is late.
    heard: Generation,
    /// The newest that is known to have ended: news of it, or of older ones, are late.
    over: Generation,
    draining: bool,
    /// Measured times from decision to ready.
    swap_times: HashMap<ModelName, Duration>,
    /// The decision that the present change of hands follows.
    decided: Option<(Moment, Reason)>,
}

impl Scheduler {
    /// A scheduler that knows nothing yet; generations after `newest` are free to use.
    pub fn new(rules: SchedulerRules, newest: Generation) -> Self {
        Scheduler {
            rules,
            gpu: Gpu::Unknown,
            waiters: Waiters::default(),
            newest,
            heard: Generation(0),
            over: Generation(0),
            draining: false,
            swap_times: HashMap::new(),
            decided: None,
        }
    }

    /// What holds the GPU.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Who waits, the longest first.
    pub fn waiting(&self) -> impl ExactSizeIterator<Item = &Waiter> {
        self.waiters.iter()
    }

    /// What an order to stop, given now, would meet.
    pub fn stopping(&self) -> Stopping {
        match &self.gpu {
            Gpu::Unknown | Gpu::Empty | Gpu::Stuck(_) => Stopping::Idle,
            Gpu::Loading(_, launch, _) => Stopping::Now(launch.model.clone()),
            Gpu::Clearing(clearing) => Stopping::Now(clearing.launch.model.clone()),
            Gpu::Resident(resident) if resident.in_flight == 0 => {
                Stopping::Now(resident.launch.model.clone())
            }
            Gpu::Resident(resident) => {
                Stopping::WaitsFor(resident.launch.model.clone(), resident.in_flight)
            }
        }
    }

    /// Takes an event; answers what is to be done.
    pub fn on(&mut self, event: Event, now: Moment) -> Vec<Effect> {
        let mut out = Vec::new();
        match event {
            Event::Admit(waiter) => self.admit(waiter, now, &mut out),
            Event::Abandon(ticket) => self.waiters.remove(ticket),
            Event::InFlight(generation, count) => self.in_flight(generation, count),
            Event::Engine { report, in_flight, fresh } => {
                self.engine(report, in_flight, fresh, now, &mut out);
            }
            Event::Deactivate { force } => self.deactivate(force, now, &mut out),
            Event::Drain => self.drain(&mut out),
            Event::Tick => {}
        }
        self.expire(now, &mut out);
        self.decide(now, &mut out);
        out
    }

    fn admit(&mut self, waiter: Waiter, now: Moment, out: &mut Vec<Effect>) {
        let ticket = waiter.ticket;
        if self.draining {
            return out.push(Effect::Refuse(ticket, Refusal::Draining));
        }
        if let Gpu::Stuck(Stuck { cause, .. }) = &self.gpu {
            return out.push(Effect::Refuse(ticket, Refusal::Failed(cause.clone())));
        }
        let there =
            self.serves(&waiter.launch.model) || self.waiters.asked_by_hand(&waiter.launch.model);
        if waiter.purpose == Purpose::Request && !self.rules.start_on_request && !there {
            return out.push(Effect::Refuse(ticket, Refusal::AutostartOff));
        }
        // What is due in this very moment comes first, although its tick is only on its way.
        self.expire(now, out);
        self.open_or_close(now);
        // Who is granted at once takes no place in the queue.
        let at_once =
            self.turn().is_some_and(|turn| turn.takes(&waiter) && turn.from(&waiter) <= now);
        if !at_once && self.waiters.len() >= self.rules.max_queue {
            let (waiting, retry_after) = (self.waiters.len(), self.expected_wait(now));
            return out.push(Effect::Refuse(ticket, Refusal::QueueFull { waiting, retry_after }));
        }
        self.waiters.insert(waiter);
    }

    /// Whether a model is resident, loads, or may be (nothing is known yet).
    fn serves(&self, model: &ModelName) -> bool {
        match &self.gpu {
            Gpu::Unknown => true,
            Gpu::Loading(_, launch, _) => launch.model == *model,
            Gpu::Resident(resident) => resident.launch.model == *model,
            Gpu::Empty | Gpu::Clearing(_) | Gpu::Stuck(_) => false,
        }
    }

    fn in_flight(&mut self, generation: Generation, count: usize) {
        match &mut self.gpu {
            Gpu::Resident(resident) if resident.generation == generation => {
                resident.in_flight = count;
            }
            Gpu::Clearing(clearing) if clearing.generation == generation => {
                clearing.in_flight = count;
            }
            _ => {}
        }
    }

    /// A report, against what is believed.
    fn engine(
        &mut self,
        report: EngineReport,
        in_flight: usize,
        fresh: bool,
        now: Moment,
        out: &mut Vec<Effect>,
    ) {
        let EngineReport { held, newest: known } = report;
        self.newest = self.newest.max(known);
        let believed = self.believed();
        let late = known < self.heard
            || match believed {
                // Said before it heard of that start.
                Some(generation) => known < generation,
                None => held.as_ref().is_some_and(|held| held.generation <= self.over),
            };
        if late && !fresh {
            return;
        }
        self.heard = known;
        // It knows of a newer one and holds only what is left of an older one: nothing runs.
        let held = held.filter(|held| {
            !matches!(held.phase, Phase::Failed(_)) || believed.is_none_or(|g| g <= held.generation)
        });
        match (believed, held) {
            (None, held) => self.learn(held, in_flight, now, out),
            // What its predecessor could not end may have been taken over.
            (Some(_), held) if fresh && matches!(self.gpu, Gpu::Stuck(_)) => {
                self.learn(held, in_flight, now, out);
            }
            (Some(generation), Some(held)) if held.generation == generation => {
                self.news(held, fresh, now, out);
            }
            // It is to go first, and cannot.
            (Some(_), Some(Held { generation, phase: Phase::Stuck(cause), .. }))
                if matches!(self.gpu, Gpu::Loading(..)) =>
            {
                self.stuck(generation, cause, out);
            }
            // Of an older start, or of none: only a new supervisor's word counts then.
            (Some(_), held) if fresh => self.supervisor_forgot(held, in_flight, now, out),
            // A start that this scheduler's predecessor had asked for.
            (Some(generation), Some(held)) if held.generation > generation => {
                self.learn(Some(held), in_flight, now, out);
            }
            (Some(_), None) => self.vanished(now, out),
            (Some(_), Some(_)) => {}
        }
    }

    /// The start that is believed to hold the GPU.
    fn believed(&self) -> Option<Generation> {
        match &self.gpu {
            Gpu::Unknown | Gpu::Empty => None,
            Gpu::Loading(generation, ..) => Some(*generation),
            Gpu::Resident(resident) => Some(resident.generation),
            Gpu::Clearing(clearing) => Some(clearing.generation),
            Gpu::Stuck(stuck) => Some(stuck.generation),
        }
    }

    /// Any => whatever the report says.
    fn learn(&mut self, held: Option<Held>, in_flight: usize, now: Moment, out: &mut Vec<Effect>) {
        let Some(Held { generation, launch, phase }) = held else {
            self.gpu = Gpu::Empty;
            return;
        };
        let used = in_flight > 0;
        self.gpu = match phase {
            Phase::Failed(_) => Gpu::Empty,
            Phase::Stuck(cause) => return self.stuck(generation, cause, out),
            // One that is in use has been ready: its supervisor is new, and looks whether it still is.
            Phase::BackingOff | Phase::Starting if !used => Gpu::Loading(generation, launch, now),
            Phase::BackingOff | Phase::Starting | Phase::Ready => {
                Gpu::Resident(Resident { generation, launch, since: now, in_flight, closing: None })
            }
            Phase::Leaving => {
                let cut_at = used.then_some(now + LOST_GRACE);
                Gpu::Clearing(Clearing { generation, launch, since: now, in_flight, cut_at })
            }
        };
    }

    /// Any => Stuck: nobody gets a turn until it is gone.
    fn stuck(&mut self, generation: Generation, cause: Cause, out: &mut Vec<Effect>) {
        for ticket in self.waiters.take_all() {
            out.push(Effect::Refuse(ticket, Refusal::Failed(cause.clone())));
        }
        (self.gpu, self.decided) = (Gpu::Stuck(Stuck { generation, cause }), None);
    }

    /// News of the very start that holds the GPU.
    fn news(&mut self, held: Held, fresh: bool, now: Moment, out: &mut Vec<Effect>) {
        let Held { generation, launch, phase } = held;
        match (&self.gpu, phase) {
            (_, Phase::Stuck(cause)) => self.stuck(generation, cause, out),
            (Gpu::Loading(..), Phase::Ready) => self.loaded(generation, launch, now, out),
            (Gpu::Loading(..), Phase::Failed(cause)) => {
                for ticket in self.waiters.take_of(&launch.model) {
                    out.push(Effect::Refuse(ticket, Refusal::Failed(cause.clone())));
                }
                self.gone();
                self.decided = None;
            }
            // A new supervisor has taken it over and does not know that it is to go.
            (Gpu::Clearing(_), Phase::BackingOff | Phase::Starting | Phase::Ready) if fresh => {
                out.push(Effect::Stop(generation));
            }
            // At last.
            (Gpu::Stuck(_), Phase::Leaving) => {
                self.gpu = Gpu::Clearing(Clearing {
                    generation,
                    launch,
                    since: now,
                    in_flight: 0,
                    cut_at: None,
                });
            }
            // Its engine died: what it left is being swept, and then there is another report.
            (Gpu::Resident(resident), Phase::Leaving) => {
                self.gpu = Gpu::Clearing(Clearing {
                    generation,
                    launch,
                    since: now,
                    in_flight: resident.in_flight,
                    cut_at: Some(now + LOST_GRACE),
                });
            }
            (Gpu::Resident(_) | Gpu::Clearing(_) | Gpu::Stuck(_), Phase::Failed(_)) => self.gone(),
            _ => {}
        }
    }

    /// Loading => Resident, and its whole batch is served.
    fn loaded(
        &mut self,
        generation: Generation,
        launch: Arc<Launch>,
        now: Moment,
        out: &mut Vec<Effect>,
    ) {
        let began = match &self.gpu {
            Gpu::Loading(_, _, since) => *since,
            _ => now,
        };
        let (decided, reason) = self.decided.take().unwrap_or((began, Reason::Request));
        let took = now.saturating_sub(decided);
        if self.swap_times.len() >= MAX_REMEMBERED {
            self.swap_times.clear();
        }
        self.swap_times
            .entry(launch.model.clone())
            .and_modify(|known| *known = (*known * 3 + took) / 4)
            .or_insert(took);
        out.push(Effect::SwapDone { to: launch.model.clone(), reason, took });
        self.gpu =
            Gpu::Resident(Resident { generation, launch, since: now, in_flight: 0, closing: None });
        self.grant_waiting(now, Some(began), out);
    }

    /// Loading => (Loading | Empty); Resident | Clearing | Stuck => Empty. A load vanishes when a
    /// new supervisor only sweeps it up: it had no answer, and those who wait for it need another.
    fn vanished(&mut self, now: Moment, out: &mut Vec<Effect>) {
        let may_start = |model: &ModelName| {
            self.waiters.asked_by_hand(model)
                || self.rules.start_on_request && self.waiters.any_of(model)
        };
        match &self.gpu {
            Gpu::Loading(_, launch, _) if may_start(&launch.model) => {
                let launch = launch.clone();
                self.run(launch, now, out);
            }
            _ => self.gone(),
        }
    }

    /// Any => Empty.
    fn gone(&mut self) {
        self.over = self.over.max(self.believed().unwrap_or_default());
        self.gpu = Gpu::Empty;
    }

    /// A supervisor that has just begun does not know what its predecessor was told.
    fn supervisor_forgot(
        &mut self,
        held: Option<Held>,
        in_flight: usize,
        now: Moment,
        out: &mut Vec<Effect>,
    ) {
        match &self.gpu {
            Gpu::Loading(generation, launch, _) => {
                out.push(Effect::Run(*generation, launch.clone()));
            }
            _ => self.learn(held, in_flight, now, out),
        }
    }

    fn deactivate(&mut self, force: bool, now: Moment, out: &mut Vec<Effect>) {
        let model = match &self.gpu {
            Gpu::Loading(_, launch, _) => launch.model.clone(),
            Gpu::Resident(resident) => resident.launch.model.clone(),
            _ => return,
        };
        for ticket in self.waiters.take_of(&model) {
            out.push(Effect::Refuse(ticket, Refusal::Stopped));
        }
        match &mut self.gpu {
            Gpu::Loading(generation, launch, _) => {
                let (generation, launch) = (*generation, launch.clone());
                self.decided = None;
                self.clear(generation, launch, now, out);
            }
            Gpu::Resident(resident) => {
                // An order in peace gives no more time than there was.
                let cut_at = match resident.closing {
                    _ if force => Some(now),
                    Some(closing) => closing.cut_at,
                    None => self.rules.swap_drain.map(|drain| now.saturating_add(drain)),
                };
                resident.closing = Some(Closing { cause: ClosingCause::Order, cut_at });
            }
            _ => {}
        }
    }

    fn drain(&mut self, out: &mut Vec<Effect>) {
        self.draining = true;
        for ticket in self.waiters.take_all() {
            out.push(Effect::Refuse(ticket, Refusal::Draining));
        }
    }

    /// Those who have waited for as long as they may; those whose own model loads wait on.
    fn expire(&mut self, now: Moment, out: &mut Vec<Effect>) {
        let Some(limit) = self.rules.max_wait else { return };
        let loading = match &self.gpu {
            Gpu::Loading(_, launch, _) => Some(launch.model.clone()),
            _ => None,
        };
        let late: Vec<(Ticket, Duration)> = self
            .waiters
            .iter()
            .filter(|w| {
                Some(&w.launch.model) != loading.as_ref() && w.arrived.saturating_add(limit) <= now
            })
            .map(|w| (w.ticket, now.saturating_sub(w.arrived)))
            .collect();
        for (ticket, waited) in late {
            self.waiters.remove(ticket);
            let retry_after = self.expected_wait(now);
            out.push(Effect::Refuse(ticket, Refusal::QueueTimeout { waited, retry_after }));
        }
    }

    /// What follows from where things stand.
    fn decide(&mut self, now: Moment, out: &mut Vec<Effect>) {
        if !self.rules.start_on_request {
            self.refuse_requests(out);
        }
        match &self.gpu {
            Gpu::Unknown | Gpu::Stuck(_) => {}
            Gpu::Empty => self.load_next(now, out),
            Gpu::Loading(..) => self.reconsider_load(now, out),
            Gpu::Resident(_) => self.serve(now, out),
            Gpu::Clearing(_) => self.cut_late(now, out),
        }
    }

    /// Empty => Loading, for whoever goes first.
    fn load_next(&mut self, now: Moment, out: &mut Vec<Effect>) {
        let Some(next) = self.waiters.first() else {
            self.decided = None;
            return;
        };
        let (launch, reason) = (next.launch.clone(), next.purpose.reason());
        if self.decided.is_none() {
            self.decided = Some((now, reason));
            out.push(Effect::SwapBegan { from: None, to: launch.model.clone(), reason });
        }
        self.run(launch, now, out);
    }

    /// Any => Loading, under a new number.
    fn run(&mut self, launch: Arc<Launch>, now: Moment, out: &mut Vec<Effect>) {
        self.newest = Generation(self.newest.0 + 1);
        out.push(Effect::Run(self.newest, launch.clone()));
        self.gpu = Gpu::Loading(self.newest, launch, now);
    }

    /// Where requests start nothing, only those stay whose model is there or was asked for by hand.
    fn refuse_requests(&mut self, out: &mut Vec<Effect>) {
        let off = |w: &&Waiter| {
            let model = &w.launch.model;
            w.purpose == Purpose::Request
                && !self.serves(model)
                && !self.waiters.asked_by_hand(model)
        };
        let refused: Vec<Ticket> = self.waiters.iter().filter(off).map(|w| w.ticket).collect();
        for ticket in refused {
            self.waiters.remove(ticket);
            out.push(Effect::Refuse(ticket, Refusal::AutostartOff));
        }
    }

    /// Loading => Clearing, if nobody waits for it any more and somebody for another.
    fn reconsider_load(&mut self, now: Moment, out: &mut Vec<Effect>) {
        let Gpu::Loading(generation, launch, _) = &self.gpu else { return };
        if self.waiters.any_of(&launch.model) || self.waiters.len() == 0 {
            return;
        }
        let (generation, launch) = (*generation, launch.clone());
        self.decided = None;
        self.clear(generation, launch, now, out);
    }

    /// Resident: rule 1, then rule 2.
    fn serve(&mut self, now: Moment, out: &mut Vec<Effect>) {
        self.open_or_close(now);
        self.grant_waiting(now, None, out);
        let Gpu::Resident(resident) = &self.gpu else { return };
        let model = &resident.launch.model;
        let unwanted = !self.waiters.any_of(model) && self.waiters.first_but(model).is_some();
        if resident.closing.is_none() && !unwanted {
            return;
        }
        if resident.in_flight > 0 {
            return self.cut_drain(now, out);
        }
        // Held back for a moment: it would have to be started again for them.
        if self.turn().is_some_and(|turn| self.waiters.iter().any(|w| turn.takes(w))) {
            return;
        }
        let (generation, launch) = (resident.generation, resident.launch.clone());
        if let Some(next) = self.waiters.first_but(&launch.model) {
            let (to, reason) = (next.launch.model.clone(), next.purpose.reason());
            self.decided = Some((now, reason));
            out.push(Effect::SwapBegan { from: Some(launch.model.clone()), to, reason });
        }
        self.clear(generation, launch, now, out);
    }

    /// Closing begins when somebody who waits for another model must have it, and ends when
    /// nobody does any more.
    fn open_or_close(&mut self, now: Moment) {
        let Gpu::Resident(resident) = &self.gpu else { return };
        let next = self.waiters.first_but(&resident.launch.model);
        let due = next.is_some_and(|waiter| self.due(waiter) <= now);
        let cut_at = self.rules.swap_drain.map(|drain| now.saturating_add(drain));
        let Gpu::Resident(resident) = &mut self.gpu else { return };
        match resident.closing {
            None if due => {
                resident.closing = Some(Closing { cause: ClosingCause::Waiter, cut_at });
            }
            Some(Closing { cause: ClosingCause::Waiter, .. }) if !due => resident.closing = None,
            _ => {}
        }
    }

    /// When a waiter must have its swap begin.
    fn due(&self, waiter: &Waiter) -> Moment {
        match waiter.purpose {
            Purpose::Activate => waiter.arrived,
            Purpose::Request => {
                let swap = self.swap_times.get(&waiter.launch.model).copied().unwrap_or_default();
                waiter.arrived.saturating_add(self.rules.swap_wait.saturating_sub(swap))
            }
        }
    }

    /// Whose turn it is, if it is anybody's.
    fn turn(&self) -> Option<Turn> {
        let Gpu::Resident(resident) = &self.gpu else { return None };
        let model = resident.launch.model.clone();
        let before = match resident.closing.map(|closing| closing.cause) {
            None => None,
            // Those who were there before him do not queue behind him.
            Some(ClosingCause::Waiter) => Some(self.waiters.first_but(&model)?.place()),
            Some(ClosingCause::Order) => return None,
        };
        Some(Turn { generation: resident.generation, model, before })
    }

    /// Grants to all whose turn it is.
    fn grant_waiting(&mut self, now: Moment, loading: Option<Moment>, out: &mut Vec<Effect>) {
        let Some(turn) = self.turn() else { return };
        let drain = self.rules.swap_drain;
        let Gpu::Resident(resident) = &mut self.gpu else { return };
        let (generation, launch) = (resident.generation, resident.launch.clone());
        // That it is ready is the news that somebody may have waited for.
        let news = loading.is_some();
        let may = |waiter: &Waiter| turn.takes(waiter) && (news || turn.from(waiter) <= now);
        for waiter in self.waiters.take_if(may) {
            let Waiter { ticket, arrived, purpose, .. } = waiter;
            if purpose == Purpose::Activate {
                out.push(Effect::Activated(ticket));
                continue;
            }
            resident.in_flight += 1;
            // One who was there before the one it closes for has as much time as all others.
            if let Some(closing) = &mut resident.closing {
                closing.cut_at = drain.map(|drain| now.saturating_add(drain));
            }
            let waited = now.saturating_sub(arrived);
            let loading = loading.map_or(Duration::ZERO, |b| now.saturating_sub(b.max(arrived)));
            let queued = waited.saturating_sub(loading);
            let launch = launch.clone();
            out.push(Effect::Grant { ticket, generation, launch, queued, loading });
        }
    }

    /// What runs on a closing resident is cut after a bound, once.
    fn cut_drain(&mut self, now: Moment, out: &mut Vec<Effect>) {
        let Gpu::Resident(resident) = &mut self.gpu else { return };
        let Some(closing) = &mut resident.closing else { return };
        if closing.cut_at.is_some_and(|at| at <= now) {
            closing.cut_at = None;
            out.push(Effect::Cut(resident.generation));
        }
    }

    /// Requests of a dead engine that have not seen it by themselves.
    fn cut_late(&mut self, now: Moment, out: &mut Vec<Effect>) {
        let Gpu::Clearing(clearing) = &mut self.gpu else { return };
        if clearing.in_flight > 0 && clearing.cut_at.is_some_and(|at| at <= now) {
            clearing.cut_at = None;
            out.push(Effect::Cut(clearing.generation));
        }
    }

    fn clear(
        &mut self,
        generation: Generation,
        launch: Arc<Launch>,
        now: Moment,
        out: &mut Vec<Effect>,
    ) {
        out.push(Effect::Stop(generation));
        self.gpu =
            Gpu::Clearing(Clearing { generation, launch, since: now, in_flight: 0, cut_at: None });
    }

    /// A guess of what a new request would have to wait, from measured swaps.
    fn expected_wait(&self, now: Moment) -> Duration {
        let known = self.swap_times.len();
        let usual = if known == 0 {
            Duration::from_secs(5)
        } else {
            self.swap_times.values().sum::<Duration>() / u32::try_from(known).unwrap_or(u32::MAX)
        };
        let left = match &self.gpu {
            Gpu::Loading(_, _, since) => usual.saturating_sub(now.saturating_sub(*since)),
            _ => usual,
        };
        left.max(Duration::from_secs(1))
    }

    /// When [`Event::Tick`] is due.
    pub fn next_tick(&self) -> Option<Moment> {
        let loading = match &self.gpu {
            Gpu::Loading(_, launch, _) => Some(&launch.model),
            _ => None,
        };
        // The first to go need not be the first who came.
        let waits = self.waiters.iter().filter(|w| Some(&w.launch.model) != loading);
        let oldest = waits.map(|w| w.arrived).min();
        let expiry = oldest.and_then(|at| Some(at.saturating_add(self.rules.max_wait?)));
        let turn = match &self.gpu {
            Gpu::Resident(resident) => {
                let model = &resident.launch.model;
                let closing = match &resident.closing {
                    None => self.waiters.first_but(model).map(|w| self.due(w)),
                    Some(closing) => closing.cut_at.filter(|_| resident.in_flight > 0),
                };
                let turn = self.turn();
                let held_back = turn.as_ref().and_then(|turn| {
                    self.waiters.iter().filter(|w| turn.takes(w)).map(|w| turn.from(w)).min()
                });
                closing.into_iter().chain(held_back).min()
            }
            Gpu::Clearing(clearing) if clearing.in_flight > 0 => clearing.cut_at,
            _ => None,
        };
        [expiry, turn].into_iter().flatten().min()
    }
}

/// Whom the resident takes.
struct Turn {
    generation: Generation,
    model: ModelName,
    /// Only those with an earlier place.
    before: Option<Place>,
}

impl Turn {
    fn takes(&self, waiter: &Waiter) -> bool {
        waiter.launch.model == self.model && self.before.is_none_or(|place| waiter.place() < place)
    }

    /// Not before this moment: whom this very start has refused waits for news of it.
    fn from(&self, waiter: &Waiter) -> Moment {
        let refused = waiter.refused_by == Some(self.generation);
        if refused { waiter.asked + SECOND_TRY } else { Moment::ZERO }
    }
}

#[cfg(test)]
mod tests;
