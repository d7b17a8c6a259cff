//! The life of the one supervised engine, as a state machine (DESIGN "Lifecycle of the engine").
//!
//! Owns: what state the engine is in and what must happen next. It is told a [`Goal`] and what
//! happened, and answers with effects; nobody else decides about processes. Must never do: look at
//! a clock or a process, start anything while something of the old engine lives, or act on news of
//! an older generation.
//!
//! | from | event | to |
//! |---|---|---|
//! | Stopped, Failed | goal: run | Failed while its breaker is open, Backoff after failures, else Checking |
//! | Backoff | time, pardon | Checking |
//! | Checking | port free / taken | Spawning / Failed |
//! | Spawning | spawned / not | Starting / Failed |
//! | Starting | healthy | Ready |
//! | Starting | exited | Sweeping, then Failed |
//! | Starting | deadline, silent | Stopping, then Sweeping, then Failed |
//! | Ready | exited | Sweeping, then Failed: an exit that nobody asked for is a crash |
//! | Ready | unhealthy | Stopping, then Sweeping, then Failed |
//! | Starting, Ready | another goal | Stopping, then Sweeping, then Stopped |
//! | Stopping | time | killed; later Stuck |
//! | Stopping | exited | Sweeping |
//! | Sweeping | swept / not | Stopped or Failed / Stuck |
//! | Stuck | exited | Sweeping |
//! | Stuck | swept | Stopped |
//!
//! Whatever the state, the goal is looked at again after every event.

mod record;
mod types;
mod view;

use std::sync::Arc;
use std::time::Duration;

use super::cause::Cause;
use super::launch::Launch;
use super::state_file::Process;
use crate::ids::Generation;

use record::Records;

pub use record::BreakerRules;
pub use types::{
    Effect, Engine, Event, Exit, Found, Goal, LifecycleRules, Moment, Stage, State, Unhealthy, Why,
};

/// An engine that has served for this long has recovered: its next failure is a first one.
const STABLE: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug)]
pub struct Lifecycle {
    rules: LifecycleRules,
    state: State,
    goal: Goal,
    /// The newest generation that was asked for.
    newest: Generation,
    records: Records,
    last_error: Option<String>,
    restarts: u64,
    /// No patience any more: what is to go is killed and not asked.
    hurried: bool,
}

impl Lifecycle {
    /// Other bounds, for the ways down and the waits that begin from now on.
    pub fn change(&mut self, rules: LifecycleRules) {
        self.records.change(rules.backoff, rules.breaker.clone());
        self.rules = rules;
    }

    /// Nothing runs, nothing is wanted.
    pub fn new(rules: LifecycleRules) -> Self {
        let records = Records::new(rules.backoff, rules.breaker.clone());
        Lifecycle {
            rules,
            records,
            state: State::Stopped,
            goal: Goal::Down,
            newest: Generation(0),
            last_error: None,
            restarts: 0,
            hurried: false,
        }
    }

    /// Takes an event; answers what is to be done.
    pub fn on(&mut self, event: Event, now: Moment) -> Vec<Effect> {
        let mut out = Vec::new();
        match event {
            Event::Goal(goal) => self.set_goal(goal),
            Event::Pardon(model) => self.records.forgive(&model),
            Event::Tick => self.tick(now, &mut out),
            Event::Hurry => self.hurry(now, &mut out),
            Event::Found(found) => self.found(found, now, &mut out),
            Event::PortFree(generation) => self.port_free(generation, &mut out),
            Event::PortTaken(generation, by) => self.port_taken(generation, by, now),
            Event::Spawned(generation, process) => self.spawned(generation, process, now, &mut out),
            Event::NotSpawned(generation, message) => self.not_spawned(generation, message, now),
            Event::Healthy(generation) => self.healthy(generation, now, &mut out),
            Event::Silent(generation, after) => self.silent(generation, after, now, &mut out),
            Event::Unhealthy(generation, found) => self.unhealthy(generation, found, now, &mut out),
            Event::Exited(generation, exit) => self.exited(generation, exit, now, &mut out),
            Event::Swept(generation) => self.swept(generation, now, &mut out),
            Event::NotSwept(generation, who) => self.not_swept(generation, who),
        }
        self.advance(now, &mut out);
        out
    }

    /// Any => the same; what follows from a new goal is [`Lifecycle::advance`]'s.
    fn set_goal(&mut self, goal: Goal) {
        if let Goal::Run(generation, _) = &goal {
            // Asked again, or asked late: that start has had its answer.
            if *generation <= self.newest {
                return;
            }
            self.newest = *generation;
        }
        self.goal = goal;
    }

    /// Stopped => (Starting | Stopping | Sweeping), by what was found of an earlier engine.
    fn found(&mut self, found: Found, now: Moment, out: &mut Vec<Effect>) {
        if self.state != State::Stopped {
            return;
        }
        let engine = found.engine;
        self.newest = self.newest.max(engine.generation);
        if !found.alive {
            self.sweep(engine, Why::Wanted, out);
            return;
        }
        out.push(Effect::Watch(engine.clone()));
        if !found.wanted {
            self.stop(engine, self.rules.stop_timeout, Why::Wanted, now, out);
            return;
        }
        if self.goal == Goal::Down {
            self.goal = Goal::Run(engine.generation, engine.launch.clone());
        }
        let adopted = now.saturating_add(self.rules.adopt_timeout);
        let deadline = if found.was_ready {
            adopted
        } else {
            engine.spawned.saturating_add(engine.launch.start_timeout).max(adopted)
        };
        self.state = State::Starting(engine, deadline);
    }

    /// Checking => Spawning.
    fn port_free(&mut self, generation: Generation, out: &mut Vec<Effect>) {
        if let State::Checking(current, launch) = &self.state
            && *current == generation
        {
            let launch = launch.clone();
            self.restarts += u64::from(self.records.starts_again(&launch));
            out.push(Effect::Spawn(generation, launch.clone()));
            self.state = State::Spawning(generation, launch);
        }
    }

    /// Checking => Failed: a stranger is named, never touched.
    fn port_taken(&mut self, generation: Generation, by: String, now: Moment) {
        if let State::Checking(current, launch) = &self.state
            && *current == generation
        {
            let launch = launch.clone();
            let cause = Cause::PortTaken { port: launch.port, by };
            self.fail(generation, launch, cause, now);
        }
    }

    /// Spawning => Starting.
    fn spawned(
        &mut self,
        generation: Generation,
        process: Process,
        now: Moment,
        out: &mut Vec<Effect>,
    ) {
        if let State::Spawning(current, launch) = &self.state
            && *current == generation
        {
            let deadline = now.saturating_add(launch.start_timeout);
            let engine = Engine { generation, launch: launch.clone(), process, spawned: now };
            out.push(Effect::Watch(engine.clone()));
            self.state = State::Starting(engine, deadline);
        }
    }

    /// Spawning => Failed.
    fn not_spawned(&mut self, generation: Generation, message: String, now: Moment) {
        if let State::Spawning(current, launch) = &self.state
            && *current == generation
        {
            let launch = launch.clone();
            self.fail(generation, launch, Cause::NotStarted { message }, now);
        }
    }

    /// Starting => Ready.
    fn healthy(&mut self, generation: Generation, now: Moment, out: &mut Vec<Effect>) {
        if let State::Starting(engine, _) = &self.state
            && engine.generation == generation
        {
            let engine = engine.clone();
            out.push(Effect::Settle(engine.clone()));
            self.state = State::Ready(engine, now);
        }
    }

    /// Starting => Stopping.
    fn silent(
        &mut self,
        generation: Generation,
        after: Duration,
        now: Moment,
        out: &mut Vec<Effect>,
    ) {
        if let State::Starting(engine, _) = &self.state
            && engine.generation == generation
        {
            let (engine, why) = (engine.clone(), Why::Failed(Cause::Silent { after }));
            self.stop(engine, self.rules.loading_stop_grace, why, now, out);
        }
    }

    /// Ready => Stopping: it lives, and does not serve. It has heard SIGTERM as little as anything
    /// else, or it goes at once.
    fn unhealthy(
        &mut self,
        generation: Generation,
        found: Unhealthy,
        now: Moment,
        out: &mut Vec<Effect>,
    ) {
        if let State::Ready(engine, since) = &self.state
            && engine.generation == generation
        {
            let (engine, since) = (engine.clone(), *since);
            self.forgive(&engine, since, now);
            let Unhealthy { what, telling } = found;
            let why = Why::Failed(Cause::Unhealthy { what, telling });
            self.stop(engine, self.rules.loading_stop_grace, why, now, out);
        }
    }

    /// Starting | Ready | Stopping => Sweeping; nobody asked for the first two.
    fn exited(&mut self, generation: Generation, exit: Exit, now: Moment, out: &mut Vec<Effect>) {
        let Exit { status, telling } = exit;
        let (engine, why) = match &self.state {
            State::Starting(engine, _) => {
                (engine.clone(), Why::Failed(Cause::EndedAtStart { status, telling }))
            }
            State::Ready(engine, since) if engine.generation == generation => {
                let (engine, since) = (engine.clone(), *since);
                self.forgive(&engine, since, now);
                (engine, Why::Failed(Cause::Crashed { status, telling }))
            }
            State::Stopping(engine, _, why) => (engine.clone(), why.clone()),
            // At last.
            State::Stuck(engine, _) => (engine.clone(), Why::Wanted),
            _ => return,
        };
        if engine.generation == generation {
            self.sweep(engine, why, out);
        }
    }

    /// Sweeping => (Stopped | Failed); Stuck => Stopped.
    fn swept(&mut self, generation: Generation, now: Moment, out: &mut Vec<Effect>) {
        let (engine, why) = match &self.state {
            State::Sweeping(engine, why) => (engine.clone(), why.clone()),
            State::Stuck(engine, _) => (engine.clone(), Why::Wanted),
            _ => return,
        };
        if engine.generation != generation {
            return;
        }
        out.push(Effect::Forget(generation));
        match why {
            Why::Wanted => self.state = State::Stopped,
            Why::Failed(cause) => self.fail(generation, engine.launch, cause, now),
        }
    }

    /// Sweeping => Stuck.
    fn not_swept(&mut self, generation: Generation, who: String) {
        if let State::Sweeping(engine, _) = &self.state
            && engine.generation == generation
        {
            let engine = engine.clone();
            self.stuck(engine, who);
        }
    }

    /// Starting => Stopping; Stopping => (killed | Stuck).
    fn tick(&mut self, now: Moment, out: &mut Vec<Effect>) {
        match &self.state {
            State::Starting(engine, deadline) if *deadline <= now => {
                // The bound, and not the tick's moment: the machine may have slept.
                let after = deadline.saturating_sub(engine.spawned);
                let (engine, why) = (engine.clone(), Why::Failed(Cause::TooSlow { after }));
                self.stop(engine, self.rules.loading_stop_grace, why, now, out);
            }
            State::Stopping(engine, Stage::Asked(at), why) if *at <= now => {
                let (engine, why) = (engine.clone(), why.clone());
                self.kill(engine, why, now, out);
            }
            State::Stopping(engine, Stage::Killed(at), _) if *at <= now => {
                let engine = engine.clone();
                let who = format!("pid {} does not end, not even by SIGKILL", engine.process.pid);
                self.stuck(engine, who);
            }
            _ => {}
        }
    }

    /// Stopping => killed, at once; what is still on its way there will be.
    fn hurry(&mut self, now: Moment, out: &mut Vec<Effect>) {
        self.hurried = true;
        if let State::Stopping(engine, Stage::Asked(_), why) = &self.state {
            let (engine, why) = (engine.clone(), why.clone());
            self.kill(engine, why, now, out);
        }
    }

    /// What the goal asks for in the present state, until nothing more follows.
    fn advance(&mut self, now: Moment, out: &mut Vec<Effect>) {
        let wanted = match &self.goal {
            Goal::Down => None,
            Goal::Run(generation, launch) => Some((*generation, launch.clone())),
        };
        let current = wanted.as_ref().map(|(generation, _)| *generation);
        match &self.state {
            State::Stopped | State::Failed(..) => {
                if let Some((generation, launch)) = wanted {
                    self.begin(generation, launch, now, out);
                }
            }
            State::Backoff(generation, launch, at) => {
                if current != Some(*generation) {
                    self.state = State::Stopped;
                    self.advance(now, out);
                } else if *at <= now || !self.records.has(launch) {
                    let (generation, launch) = (*generation, launch.clone());
                    self.check(generation, launch, out);
                }
            }
            State::Checking(generation, _) => {
                if current != Some(*generation) {
                    self.state = State::Stopped;
                    self.advance(now, out);
                }
            }
            State::Starting(engine, _) => {
                if current != Some(engine.generation) {
                    let engine = engine.clone();
                    self.stop(engine, self.rules.loading_stop_grace, Why::Wanted, now, out);
                }
            }
            State::Ready(engine, since) => {
                if current != Some(engine.generation) {
                    let (engine, since) = (engine.clone(), *since);
                    self.forgive(&engine, since, now);
                    self.stop(engine, self.rules.stop_timeout, Why::Wanted, now, out);
                }
            }
            // On their way: the goal is looked at again when they are through.
            State::Spawning(..) | State::Stopping(..) | State::Sweeping(..) | State::Stuck(..) => {}
        }
    }

    /// Stopped | Failed => (Failed | Backoff | Checking).
    fn begin(
        &mut self,
        generation: Generation,
        launch: Arc<Launch>,
        now: Moment,
        out: &mut Vec<Effect>,
    ) {
        if let Some(broken) = self.records.broken(&launch, now) {
            // Not one more failure: nothing was tried.
            self.answered(generation);
            self.state = State::Failed(generation, launch, broken.cause(now));
            return;
        }
        match self.records.retry_at(&launch) {
            Some(at) if at > now => self.state = State::Backoff(generation, launch, at),
            _ => self.check(generation, launch, out),
        }
    }

    fn check(&mut self, generation: Generation, launch: Arc<Launch>, out: &mut Vec<Effect>) {
        out.push(Effect::CheckPort(generation, launch.port));
        self.state = State::Checking(generation, launch);
    }

    fn stop(
        &mut self,
        engine: Engine,
        grace: Duration,
        why: Why,
        now: Moment,
        out: &mut Vec<Effect>,
    ) {
        out.push(Effect::Terminate(engine.clone()));
        if self.hurried {
            return self.kill(engine, why, now, out);
        }
        self.state = State::Stopping(engine, Stage::Asked(now.saturating_add(grace)), why);
    }

    fn kill(&mut self, engine: Engine, why: Why, now: Moment, out: &mut Vec<Effect>) {
        out.push(Effect::Kill(engine.clone()));
        let stage = Stage::Killed(now.saturating_add(self.rules.kill_grace));
        self.state = State::Stopping(engine, stage, why);
    }

    fn sweep(&mut self, engine: Engine, why: Why, out: &mut Vec<Effect>) {
        out.push(Effect::Sweep(engine.clone()));
        self.state = State::Sweeping(engine, why);
    }

    fn fail(&mut self, generation: Generation, launch: Arc<Launch>, cause: Cause, now: Moment) {
        self.records.failed(&launch, &cause, now);
        self.last_error = Some(format!("{}: {}", launch.model, cause.in_full()));
        self.answered(generation);
        self.state = State::Failed(generation, launch, cause);
    }

    fn stuck(&mut self, engine: Engine, who: String) {
        let cause = Cause::Stuck { who };
        self.last_error = Some(cause.in_full());
        self.answered(engine.generation);
        self.state = State::Stuck(engine, cause);
    }

    /// That start has had its answer; the next one has to be asked for, under a number of its own.
    fn answered(&mut self, generation: Generation) {
        if matches!(&self.goal, Goal::Run(wanted, _) if *wanted == generation) {
            self.goal = Goal::Down;
        }
    }

    /// An engine that has served for long has a clean record.
    fn forgive(&mut self, engine: &Engine, ready_since: Moment, now: Moment) {
        if now.saturating_sub(ready_since) >= STABLE {
            self.records.forgive(&engine.launch.model);
        }
    }
}

#[cfg(test)]
mod tests;
