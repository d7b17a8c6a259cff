//! A machine for the core: processes that may have children, ignore signals, not die at all; a
//! port that may be taken; answers that come late, twice and in any order.
//!
//! Every event goes through [`World::event`], which holds the core against what must always be so.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// What the machine does at the moment.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Mood {
    /// SIGTERM is ignored.
    pub(super) deaf: bool,
    /// SIGKILL does not end anything yet.
    pub(super) immortal: bool,
    /// Somebody else has the port.
    pub(super) port_taken: bool,
    /// The program cannot be started.
    pub(super) no_program: bool,
    /// What is spawned has children.
    pub(super) children: bool,
}

#[derive(Debug, Default)]
struct Tree {
    leader: bool,
    children: bool,
    watched: bool,
    /// SIGKILL was sent and works as soon as it can.
    doomed: bool,
}

#[derive(Debug, Default)]
struct Record {
    failures: u32,
    last: Moment,
    ready_since: Option<Moment>,
    /// Failures of the engine since its breaker last opened.
    recent: Vec<Moment>,
    /// Until when the breaker is open, and for how long it opened.
    open: Option<(Moment, Duration)>,
}

impl Record {
    fn fail(&mut self, of_the_engine: bool, now: Moment) {
        self.failures += 1;
        self.last = now;
        if !of_the_engine {
            return;
        }
        self.recent.push(now);
        let late = self.recent.iter().filter(|at| **at + rules().breaker.window >= now).count();
        let time = match self.open {
            Some((_, time)) => (time * 2).min(s(900)),
            None if late >= 4 => s(70),
            None => return,
        };
        self.recent.clear();
        self.open = Some((now + time, time));
    }
}

pub(super) struct World {
    pub(super) core: Lifecycle,
    pub(super) now: Moment,
    pub(super) mood: Mood,
    /// Answers that are under way.
    pub(super) pending: Vec<Event>,
    /// What is wanted, as the core was told.
    pub(super) wanted: Option<u64>,
    pub(super) newest: u64,
    trees: BTreeMap<u64, Tree>,
    spawned: BTreeSet<u64>,
    /// How far each start has been seen to come, and who is over.
    ranks: BTreeMap<u64, u8>,
    over: BTreeSet<u64>,
    held: Option<u64>,
    records: BTreeMap<String, Record>,
    pub(super) log: Vec<String>,
}

/// How far a phase is on the way of a start; never back.
fn rank(phase: &Phase) -> u8 {
    match phase {
        Phase::BackingOff => 0,
        Phase::Starting => 1,
        Phase::Ready => 2,
        Phase::Leaving | Phase::Stuck(_) => 3,
        Phase::Failed(_) => 4,
    }
}

/// The generation that an answer is about.
fn about(event: &Event) -> Option<Generation> {
    match event {
        Event::PortFree(g)
        | Event::PortTaken(g, _)
        | Event::Spawned(g, _)
        | Event::NotSpawned(g, _)
        | Event::Healthy(g)
        | Event::Silent(g, _)
        | Event::Unhealthy(g, _)
        | Event::Exited(g, _)
        | Event::Swept(g)
        | Event::NotSwept(g, _) => Some(*g),
        Event::Goal(_) | Event::Pardon(_) | Event::Hurry | Event::Found(_) | Event::Tick => None,
    }
}

impl World {
    pub(super) fn new() -> Self {
        World {
            core: Lifecycle::new(rules()),
            now: s(1000),
            mood: Mood::default(),
            pending: Vec::new(),
            wanted: None,
            newest: 0,
            trees: BTreeMap::new(),
            spawned: BTreeSet::new(),
            ranks: BTreeMap::new(),
            over: BTreeSet::new(),
            held: None,
            records: BTreeMap::new(),
            log: Vec::new(),
        }
    }

    /// What an earlier daemon left: start 1 of model `a`.
    pub(super) fn find(&mut self, alive: bool, wanted: bool, was_ready: bool) {
        let tree = Tree { leader: alive, children: true, ..Tree::default() };
        self.trees.insert(1, tree);
        self.spawned.insert(1);
        self.newest = 1;
        self.wanted = (alive && wanted).then_some(1);
        let engine = Engine {
            generation: Generation(1),
            launch: launch("a"),
            process: process(1),
            spawned: self.now.saturating_sub(s(300)),
        };
        self.event(&Event::Found(Found { engine, alive, wanted, was_ready }));
    }

    pub(super) fn want(&mut self, model: Option<&str>) {
        let Some(model) = model else {
            self.wanted = None;
            return self.event(&down());
        };
        self.newest += 1;
        self.wanted = Some(self.newest);
        self.event(&run(self.newest, model));
        // Failures of others are not its own.
        if self.records.get(model).is_none_or(|record| record.failures == 0) {
            assert_ne!(name(self.core.state()), "Backoff", "{model} has not failed");
        }
    }

    pub(super) fn event(&mut self, event: &Event) {
        let before = self.core.state.clone();
        let due = self.core.next_tick().is_some_and(|at| at <= self.now);
        let effects = self.core.on(event.clone(), self.now);
        self.log.push(format!("{:?} {event:?} -> {effects:?}", self.now));
        let current = self.core.report().held.map(|held| held.generation);
        let old = generation_of(&before);
        if let Some(about) = about(event)
            && old != Some(about)
            && !due
        {
            assert!(effects.is_empty() && before == self.core.state, "stale: {event:?}");
        }
        for effect in &effects {
            let of = effect_generation(effect);
            assert!(Some(of) == current || Some(of) == old, "{effect:?} is of neither");
        }
        self.keep_record(&before, event);
        self.check_report();
        self.check_broken();
        if matches!((&before, self.core.state()), (State::Stuck(..), State::Stuck(..))) {
            assert!(effects.is_empty(), "{effects:?} while something is stuck");
        }
        if matches!(event, Event::Tick) {
            assert!(self.core.next_tick().is_none_or(|at| at > self.now), "a tick leaves no tick");
        }
        for effect in effects {
            self.carry_out(effect);
        }
    }

    /// Reports of one start go one way, and no start comes back.
    fn check_report(&mut self) {
        let report = self.core.report();
        assert_eq!(report.newest, Generation(self.newest));
        let held = report.held.as_ref().map(|held| held.generation.0);
        if let Some(old) = self.held.filter(|old| Some(*old) != held) {
            self.over.insert(old);
        }
        self.held = held;
        let Some(held) = report.held else { return };
        let (of, rank) = (held.generation.0, rank(&held.phase));
        assert!(!self.over.contains(&of), "start {of} is back");
        let known = self.ranks.insert(of, rank).unwrap_or(0);
        assert!(known <= rank, "start {of} went back to {:?}", held.phase);
    }

    /// The failures of each model in a row, counted beside the core.
    fn keep_record(&mut self, before: &State, event: &Event) {
        if let Event::Pardon(model) = event {
            // That of an engine which serves goes on from there.
            let serves = self.records.remove(model.as_str()).and_then(|record| record.ready_since);
            let record = Record { ready_since: serves, ..Record::default() };
            self.records.insert(model.to_string(), record);
        }
        if let Some(model) = model_of(before) {
            let record = self.records.entry(model).or_default();
            let left = matches!(before, State::Ready(..))
                && !matches!(self.core.state(), State::Ready(..));
            if left
                && let Some(since) = record.ready_since.take()
                && self.now.saturating_sub(since) >= s(60)
            {
                *record = Record::default();
            }
            if fails(before, event) {
                record.fail(!matches!(event, Event::PortTaken(..)), self.now);
            }
        }
        if let State::Ready(engine, _) = self.core.state() {
            let record = self.records.entry(engine.launch.model.to_string()).or_default();
            record.ready_since.get_or_insert(self.now);
        }
        if let State::Backoff(_, launch, at) = self.core.state() {
            assert_eq!(Some(*at), self.not_before(launch.model.as_str()), "the pause");
        }
    }

    /// Each crash loop is told, and no other.
    fn check_broken(&self) {
        let told: BTreeMap<String, Moment> = self
            .core
            .report()
            .broken
            .iter()
            .map(|broken| (broken.launch.model.to_string(), broken.until))
            .collect();
        let open = |(model, record): (&String, &Record)| Some((model.clone(), record.open?.0));
        assert_eq!(told, self.records.iter().filter_map(open).collect());
    }

    /// Two seconds after the first failure, doubled by each, a minute at most.
    fn not_before(&self, model: &str) -> Option<Moment> {
        let record = self.records.get(model).filter(|record| record.failures > 0)?;
        let pause = (1..record.failures).fold(2, |pause, _| (pause * 2).min(60));
        Some(record.last + s(pause))
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::CheckPort(of, port) => {
                assert!(self.trees.values().all(|tree| !tree.leader), "an engine lives");
                assert_eq!(port, launch("a").port);
                let Some(Held { launch, .. }) = self.core.report().held else { panic!() };
                let earliest = self.not_before(launch.model.as_str()).unwrap_or_default();
                assert!(earliest <= self.now, "started before {earliest:?}");
                let open = self.records.get(launch.model.as_str()).and_then(|record| record.open);
                assert!(open.is_none_or(|(until, _)| until <= self.now), "in a crash loop");
                self.pending.push(if self.mood.port_taken {
                    Event::PortTaken(of, "pid 7 (x)".into())
                } else {
                    Event::PortFree(of)
                });
            }
            Effect::Spawn(of, _) => self.spawn(of),
            Effect::Watch(engine) => {
                let tree = self.trees.get_mut(&engine.generation.0).unwrap();
                assert!(!tree.watched);
                tree.watched = true;
                if !tree.leader {
                    self.pending.push(exited(engine.generation.0));
                }
            }
            Effect::Settle(engine) => assert!(self.trees.contains_key(&engine.generation.0)),
            Effect::Terminate(engine) if !self.mood.deaf => self.leader_dies(engine.generation.0),
            Effect::Terminate(_) => {}
            Effect::Kill(engine) => {
                self.trees.get_mut(&engine.generation.0).unwrap().doomed = true;
                self.doom();
            }
            Effect::Sweep(engine) => self.sweep(engine.generation.0),
            Effect::Forget(of) => assert!(!self.lives(of.0), "forgotten while it lives"),
        }
    }

    fn spawn(&mut self, of: Generation) {
        assert!(!self.anything_lives(), "start {of} beside {:?}", self.trees);
        assert!(self.spawned.insert(of.0), "start {of} was spawned before");
        assert_eq!(self.wanted, Some(of.0), "nobody wants start {of}");
        if self.mood.no_program {
            return self.pending.push(Event::NotSpawned(of, "no such file".into()));
        }
        let tree = Tree { leader: true, children: self.mood.children, ..Tree::default() };
        self.trees.insert(of.0, tree);
        self.pending.push(spawned(of.0));
    }

    pub(super) fn set_mood(&mut self, mood: Mood) {
        self.mood = mood;
        self.doom();
    }

    /// Ends those to whom SIGKILL was sent, if they can end.
    fn doom(&mut self) {
        if self.mood.immortal {
            return;
        }
        let doomed: Vec<u64> =
            self.trees.iter().filter(|(_, tree)| tree.doomed).map(|(of, _)| *of).collect();
        for of in doomed {
            self.trees.get_mut(&of).unwrap().children = false;
            self.leader_dies(of);
        }
    }

    pub(super) fn leader_dies(&mut self, of: u64) {
        let tree = self.trees.get_mut(&of).unwrap();
        if std::mem::take(&mut tree.leader) && tree.watched {
            self.pending.push(exited(of));
        }
    }

    fn sweep(&mut self, of: u64) {
        self.trees.get_mut(&of).unwrap().doomed = true;
        self.doom();
        self.pending.push(if self.lives(of) {
            Event::NotSwept(Generation(of), "pid 9".into())
        } else {
            Event::Swept(Generation(of))
        });
    }

    /// What is stuck is looked at from time to time.
    pub(super) fn look(&mut self) {
        if let State::Stuck(engine, _) = self.core.state() {
            self.sweep(engine.generation.0);
        }
    }

    fn lives(&self, of: u64) -> bool {
        self.trees.get(&of).is_some_and(|tree| tree.leader || tree.children)
    }

    pub(super) fn anything_lives(&self) -> bool {
        self.trees.keys().any(|of| self.lives(*of))
    }

    /// The engine that lives and is watched.
    pub(super) fn living(&self) -> Option<u64> {
        self.trees.iter().find(|(_, tree)| tree.leader && tree.watched).map(|(of, _)| *of)
    }

    pub(super) fn is_answered(&self, of: u64) -> bool {
        self.ranks.get(&of).is_some_and(|rank| *rank >= 2)
    }

    /// Delivers an answer; one that comes `again` stays under way.
    pub(super) fn deliver(&mut self, at: usize, again: bool) {
        if self.pending.is_empty() {
            return;
        }
        let at = at % self.pending.len();
        let event = if again { self.pending[at].clone() } else { self.pending.remove(at) };
        self.event(&event);
    }

    /// The machine does what it should until nothing more happens; answers how long that took.
    pub(super) fn settle(&mut self) -> Duration {
        let began = self.now;
        self.set_mood(Mood::default());
        for _ in 0..200 {
            if !self.pending.is_empty() {
                self.deliver(0, false);
            } else if matches!(self.core.state(), State::Stuck(..)) {
                self.look();
            } else if matches!(self.core.state(), State::Starting(..)) && self.living().is_some() {
                self.pending.extend(self.living().map(|of| Event::Healthy(Generation(of))));
            } else if let Some(at) = self.core.next_tick() {
                self.now = self.now.max(at);
                self.event(&Event::Tick);
            } else {
                return self.now.saturating_sub(began);
            }
        }
        panic!("it never comes to rest: {:?}", self.core.state());
    }
}

/// Whether a start ends here as a failure.
fn fails(before: &State, event: &Event) -> bool {
    match before {
        State::Checking(of, _) => matches!(event, Event::PortTaken(about, _) if about == of),
        State::Spawning(of, _) => matches!(event, Event::NotSpawned(about, _) if about == of),
        State::Sweeping(engine, Why::Failed(_)) => *event == Event::Swept(engine.generation),
        _ => false,
    }
}

fn model_of(state: &State) -> Option<String> {
    let launch = match state {
        State::Stopped => return None,
        State::Backoff(_, launch, _)
        | State::Checking(_, launch)
        | State::Spawning(_, launch)
        | State::Failed(_, launch, _) => launch,
        State::Starting(engine, _)
        | State::Ready(engine, _)
        | State::Stopping(engine, ..)
        | State::Sweeping(engine, _)
        | State::Stuck(engine, _) => &engine.launch,
    };
    Some(launch.model.to_string())
}

fn generation_of(state: &State) -> Option<Generation> {
    match state {
        State::Stopped => None,
        State::Backoff(of, ..)
        | State::Checking(of, _)
        | State::Spawning(of, _)
        | State::Failed(of, ..) => Some(*of),
        State::Starting(engine, _)
        | State::Ready(engine, _)
        | State::Stopping(engine, ..)
        | State::Sweeping(engine, _)
        | State::Stuck(engine, _) => Some(engine.generation),
    }
}
