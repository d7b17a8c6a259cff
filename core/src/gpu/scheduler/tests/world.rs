//! The scheduler's neighbours: the real lifecycle as its supervisor, over a simulated machine; a
//! ledger of permits; people who ask, wait and leave; messages that take their time.
//!
//! Every event goes through [`World::tell`]; what must hold then is in `checks`.

mod neighbours;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::counts::Counts;
use super::*;
use crate::engine::lifecycle::{
    BreakerRules, Engine, Event as Fact, Goal, Lifecycle, LifecycleRules, State,
};
use crate::gpu::lease::Lease;

/// What is drawn once for a history.
#[derive(Debug, Clone)]
pub(super) struct Setting {
    pub(super) rules: SchedulerRules,
    /// How long each model loads.
    pub(super) loads: [Duration; 3],
    /// From SIGTERM to the end.
    pub(super) stop: Duration,
    /// How long a message is under way.
    pub(super) delay: Duration,
    /// From Ollama's last request to the memory that it gives back.
    pub(super) unload: Duration,
}

/// Ollama, and whoever asks it.
#[derive(Debug, Default)]
pub(super) struct Ollama {
    /// It has a model in memory.
    pub(super) loaded: bool,
    /// It does not unload anything.
    pub(super) stays: bool,
    /// Whoever asks it is to have it unload, and say when.
    asked: Option<Generation>,
    /// Its answers of before count no more.
    asker: u32,
}

/// Somebody who asked.
#[derive(Debug, Clone)]
pub(super) struct Person {
    pub(super) model: TenantId,
    pub(super) purpose: Purpose,
    pub(super) arrived: Moment,
    pub(super) asked: Moment,
    pub(super) refused_by: Option<Generation>,
    pub(super) service: Duration,
    pub(super) who: Asker,
    /// Its own model has been loading meanwhile; that time does not count.
    pub(super) loaded: bool,
}

impl Person {
    pub(super) fn is_interactive(&self) -> bool {
        self.who.class == Class::Interactive
    }

    pub(super) fn waited(&self, until: Moment) -> Duration {
        until.checked_sub(self.arrived).unwrap()
    }
}

#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) generation: Generation,
    pub(super) person: Person,
}

/// A resident that takes nothing new.
#[derive(Debug, Clone, Copy)]
pub(super) struct Closed {
    pub(super) generation: Generation,
    pub(super) for_lease: bool,
    /// Not before this is cut what still runs; `None`: never.
    pub(super) until: Option<Moment>,
}

/// What comes at its moment.
#[derive(Debug, Clone)]
pub(super) enum Todo {
    Goal(Goal),
    Pardon(ModelName),
    Report(EngineReport, bool),
    /// Of one supervisor; it dies with it.
    Fact(u32, Fact),
    Dies(Generation),
    JobEnds(Ticket),
    Look,
    Restore(ModelName),
    /// Of one asker: Ollama has been looked at.
    OllamaLook(u32, Generation, Moment),
}

/// What an earlier supervisor wrote down.
#[derive(Debug, Clone)]
pub(super) struct Memory {
    pub(super) engine: Engine,
    pub(super) was_ready: bool,
    pub(super) stopping: bool,
}

pub(super) struct World {
    pub(super) setting: Setting,
    pub(super) core: Scheduler,
    pub(super) now: Moment,
    /// The clock has leapt: what was due came late.
    pub(super) leapt: bool,
    pub(super) waiting: BTreeMap<Ticket, Person>,
    /// By how much a request that was granted waited longer than its bound, at most.
    pub(super) longest: Duration,
    pub(super) fail_next: bool,
    pub(super) deaf: bool,
    pub(super) immortal: bool,
    /// Each event with its effects, if somebody reads it: to write it takes longer than all else.
    pub(super) log: Option<Vec<String>>,
    pub(super) counts: Counts,
    /// What the entries of models say.
    pub(super) keeps: HashMap<ModelName, Keep>,
    /// Which edition of an entry the registry has, if not the first; `None`: it has gone.
    pub(super) editions: HashMap<ModelName, Option<u64>>,
    /// Reports that were delivered since a supervisor or a scheduler began.
    pub(super) heard: Vec<EngineReport>,
    /// The engine that lives.
    pub(super) live: Option<Generation>,
    pub(super) cut: BTreeSet<Generation>,
    /// The resident that takes nothing new, and whether force was ordered.
    pub(super) closed: Option<Closed>,
    pub(super) forced: Option<Generation>,
    /// The start that is in use while somebody waits for a lease, and since when.
    pub(super) awaited: Option<(Generation, Moment)>,
    /// The load that nobody waits for, and since when.
    pub(super) alone: Option<(Generation, Moment)>,
    /// What the scheduler knows is from before the last order that was sent.
    pub(super) blind: bool,
    pub(super) supervisor: Lifecycle,
    pub(super) instance: u32,
    pub(super) told: Option<EngineReport>,
    pub(super) memory: Option<Memory>,
    pub(super) jobs: BTreeMap<Ticket, Job>,
    /// Who asks for a lease, and the one that is written down.
    pub(super) lease_asks: BTreeSet<Ticket>,
    pub(super) lease: Option<Lease>,
    /// When the last interactive request of a start ended, if the scheduler saw it end.
    pub(super) interactive: BTreeMap<Generation, Moment>,
    pub(super) todo: BTreeMap<(Moment, u64), Todo>,
    pub(super) ollama: Ollama,
    number: u64,
    used: Generation,
}

pub(super) fn bounds() -> LifecycleRules {
    LifecycleRules {
        stop_timeout: s(3),
        loading_stop_grace: s(1),
        kill_grace: s(2),
        backoff: ms(500),
        breaker: BreakerRules { failures: 3, window: s(60), open: s(8) },
        adopt_timeout: s(5),
    }
}

impl World {
    pub(super) fn new(setting: Setting) -> Self {
        let mut world = World {
            core: Scheduler::new(setting.rules.clone(), g(0)),
            setting,
            now: s(1000),
            leapt: false,
            waiting: BTreeMap::new(),
            longest: Duration::ZERO,
            fail_next: false,
            deaf: false,
            immortal: false,
            log: None,
            counts: Counts::default(),
            keeps: HashMap::new(),
            editions: HashMap::new(),
            heard: Vec::new(),
            live: None,
            cut: BTreeSet::new(),
            closed: None,
            forced: None,
            awaited: None,
            alone: None,
            blind: false,
            supervisor: Lifecycle::new(bounds()),
            instance: 0,
            told: None,
            memory: None,
            jobs: BTreeMap::new(),
            lease_asks: BTreeSet::new(),
            lease: None,
            interactive: BTreeMap::new(),
            todo: BTreeMap::new(),
            ollama: Ollama::default(),
            number: 0,
            used: g(0),
        };
        world.send_report(true);
        world
    }

    /// One that writes down what happens.
    pub(super) fn that_tells(setting: Setting) -> Self {
        World { log: Some(Vec::new()), ..World::new(setting) }
    }

    pub(super) fn in_flight(&self, generation: Generation) -> usize {
        self.jobs.values().filter(|job| job.generation == generation).count()
    }

    pub(super) fn later(&mut self, after: Duration, todo: Todo) {
        self.number += 1;
        self.todo.insert((self.now + after, self.number), todo);
    }

    // People.

    pub(super) fn arrive(&mut self, model: usize, purpose: Purpose, service: Duration) {
        self.arrive_as(model, purpose, service, Asker::default());
    }

    pub(super) fn arrive_as(
        &mut self,
        model: usize,
        purpose: Purpose,
        service: Duration,
        who: Asker,
    ) {
        self.ask(Person {
            model: self::model(MODELS.get(model).unwrap_or(&"ollama")),
            purpose,
            arrived: self.now,
            asked: self.now,
            refused_by: None,
            service,
            who,
            loaded: false,
        });
    }

    fn ask(&mut self, person: Person) {
        self.number += 1;
        let ticket = t(self.number);
        let waiter = Waiter {
            ticket,
            tenant: tenant(&person.model.to_string()),
            purpose: person.purpose,
            arrived: person.arrived,
            asked: person.asked,
            refused_by: person.refused_by,
            who: person.who.clone(),
        };
        self.waiting.insert(ticket, person);
        self.tell(&Event::Admit(waiter));
    }

    pub(super) fn leave(&mut self, at: usize) {
        if let Some(ticket) = self.waiting.keys().nth(at % self.waiting.len().max(1)).copied() {
            self.waiting.remove(&ticket);
            self.tell(&Event::Abandon(ticket));
        }
    }

    /// One who drops what it got, or got its answer.
    fn job_ends(&mut self, ticket: Ticket) {
        let Some(job) = self.jobs.remove(&ticket) else { return };
        if job.person.is_interactive() && self.core.believed() == Some(job.generation) {
            self.interactive.insert(job.generation, self.now);
        }
        let beside = self.core.beside().map(|(generation, _)| generation);
        if [self.core.believed(), beside].contains(&Some(job.generation)) {
            self.tell(&Event::InFlight(job.generation, self.in_flight(job.generation)));
        }
        // Dropped before its first byte: it asks again, once.
        let lives = self.live == Some(job.generation) || job.person.model == TenantId::Ollama;
        let dropped = !lives && !self.cut.contains(&job.generation);
        if dropped && job.person.refused_by.is_none() {
            let refused_by = Some(job.generation);
            self.ask(Person { asked: self.now, refused_by, ..job.person });
        }
    }

    // The scheduler's effects.

    pub(super) fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Grant { ticket, generation, .. } => self.granted(ticket, generation),
                Effect::Activated(ticket) | Effect::Refuse(ticket, _) => {
                    self.waiting.remove(&ticket).unwrap();
                }
                Effect::Pardon(model) => self.later(self.setting.delay, Todo::Pardon(model)),
                Effect::Run(generation, launch) => {
                    self.used = self.used.max(generation);
                    self.later(self.setting.delay, Todo::Goal(Goal::Run(generation, launch)));
                }
                Effect::Stop(_) => self.later(self.setting.delay, Todo::Goal(Goal::Down)),
                Effect::Cut(generation) => {
                    self.cut.insert(generation);
                    self.end_jobs(generation, ms(1));
                }
                Effect::Open(generation) => self.used = self.used.max(generation),
                Effect::Vacate(generation) => {
                    self.used = self.used.max(generation);
                    self.ollama.asked = Some(generation);
                    self.look_at_ollama(generation);
                }
                Effect::Lease(effect) => self.lease_effect(effect),
                Effect::SwapBegan { .. } | Effect::SwapDone { .. } | Effect::Unload { .. } => {}
            }
        }
    }

    // Time.

    fn due(&self) -> Option<Moment> {
        let todo = self.todo.keys().next().map(|(at, _)| *at);
        [todo, self.core.next_tick(), self.supervisor.next_tick()].into_iter().flatten().min()
    }

    /// Does what is due until a moment; `leap`: all of it late, at the end.
    pub(super) fn pass(&mut self, time: Duration, leap: bool) {
        let until = self.now + time;
        if leap {
            self.leapt = true;
            self.now = until;
        }
        for _ in 0..100_000 {
            let Some(at) = self.due().filter(|at| *at <= until) else {
                self.now = until;
                return;
            };
            self.now = self.now.max(at);
            self.step();
        }
        panic!("it never comes to rest");
    }

    fn step(&mut self) {
        if self.core.next_tick().is_some_and(|at| at <= self.now) {
            return self.tell(&Event::Tick);
        }
        if self.supervisor.next_tick().is_some_and(|at| at <= self.now) {
            return self.fact(Fact::Tick);
        }
        let Some((_, todo)) = self.todo.pop_first() else { return };
        match todo {
            Todo::Goal(goal) => {
                self.fact(Fact::Goal(goal));
                // Said again even if nothing changed.
                self.send_report(false);
            }
            Todo::Pardon(model) => self.fact(Fact::Pardon(model)),
            Todo::Report(report, fresh) => self.hear(report, fresh),
            Todo::Fact(instance, fact) if instance == self.instance => self.fact(fact),
            Todo::Dies(of) => self.dies(of),
            Todo::Restore(model) => self.tell(&Event::Restore(launch(model.as_str()))),
            Todo::JobEnds(ticket) => self.job_ends(ticket),
            Todo::OllamaLook(asker, of, since) if asker == self.ollama.asker => {
                self.ollama_looked(of, since);
            }
            Todo::Fact(..) | Todo::Look | Todo::OllamaLook(..) => {}
        }
        self.look_at_what_is_stuck();
    }

    fn look_at_what_is_stuck(&mut self) {
        let looks = self.todo.values().any(|todo| {
            matches!(todo, Todo::Look | Todo::Fact(_, Fact::Swept(_) | Fact::NotSwept(..)))
        });
        if let State::Stuck(engine, _) = self.supervisor.state()
            && !looks
        {
            let of = engine.generation;
            self.sweep(of);
            self.later(s(5), Todo::Look);
        }
    }

    fn hear(&mut self, report: EngineReport, fresh: bool) {
        if fresh {
            self.heard.clear();
        }
        self.heard.push(report.clone());
        let in_flight = report.held.as_ref().map_or(0, |held| self.in_flight(held.generation));
        self.blind = (self.blind || fresh) && report.newest < self.used;
        self.used = self.used.max(report.newest);
        self.tell(&Event::Engine { report, in_flight, fresh });
    }

    /// The world does what it should, nobody comes any more: until nobody waits.
    pub(super) fn settle(&mut self) {
        (self.deaf, self.immortal, self.fail_next) = (false, false, false);
        self.ollama.stays = false;
        // Whoever is pinned gives way to no background work, however long it waits.
        self.keeps.clear();
        self.core.keep(Arc::default());
        self.editions.clear();
        self.core.specs(self.specs());
        self.tell(&Event::Tick);
        self.pass(s(1800), false);
    }
}
