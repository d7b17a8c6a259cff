//! The life of one service that is a program of ours.
//!
//! | state | what there is | leaves it |
//! |---|---|---|
//! | `Stopped` | nothing | somebody asks |
//! | `Looking` | nothing of ours; whether somebody else runs it is being looked at | the look's end, or its time is up |
//! | `Spawning` | a child that is being made | it runs, could not be made, or its time is up |
//! | `Starting` | a process that is not ready | it is ready, ends, or its grace is over |
//! | `Ready` | a process that serves, or somebody else's server | it ends; a request met nobody |
//! | `Doubted` | the same, being asked whether its own sign still answers | the answer, or none in time |
//! | `Ending` | a process that was told to end | it ends, or its time is up |
//! | `Sweeping` | what is left of it, being ended | proof that nobody is left |
//! | `Stuck` | processes that cannot be ended | somebody asks: it is tried again |
//! | `Failed` | nothing | somebody asks, behind the back-off or by hand |
//!
//! Owns: that there is one start for all who ask, one answer for each of them, and nothing started
//! beside what lives. Must never do: wait, signal, read a clock. Whatever comes back from an effect
//! carries its start's number; what belongs to an older one changes nothing.

use std::time::Duration;

use super::Failure;
use crate::engine::lifecycle::Moment;
use crate::engine::state_file::Process;

mod down;
#[cfg(test)]
mod tests;
mod words;

pub use words::{Down, Effect, Event, LifeRules, Outcome, Run, State, Ticket, Who, Why};

/// The pause after the first failed start; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// One that has been up for longer than its grace answers within this, or it hangs.
const DOUBT: Duration = Duration::from_secs(5);
/// Looking around, and making a child, take no longer: a disk that does not answer blocks for ever.
const MAKING: Duration = Duration::from_secs(10);
/// A child that is known is let go within a bound of its own; behind this one that has failed.
const RELEASING: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug, Clone)]
pub struct Life {
    state: State,
    rules: LifeRules,
    generation: u64,
    starts: u64,
    /// In a row.
    failures: u32,
    /// Since the beginning.
    troubles: u64,
    last_error: Option<String>,
}

impl Life {
    /// One that nobody has asked for yet.
    pub fn new(rules: LifeRules) -> Self {
        let state = State::Stopped;
        Life { state, rules, generation: 0, starts: 0, failures: 0, troubles: 0, last_error: None }
    }

    /// How it is.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The word for it, in the API.
    pub fn word(&self) -> &'static str {
        match self.state {
            State::Stopped => "stopped",
            State::Looking { .. } | State::Spawning { .. } | State::Starting { .. } => "starting",
            State::Ready { .. } | State::Doubted { .. } => "ready",
            State::Ending(..) | State::Sweeping(_) => "stopping",
            State::Stuck(..) | State::Failed(..) => "failed",
        }
    }

    /// What of ours runs.
    pub fn run(&self) -> Option<Run> {
        match &self.state {
            State::Starting { run, .. }
            | State::Stuck(run, _)
            | State::Ready { who: Who::Ours(run), .. }
            | State::Doubted { who: Who::Ours(run), .. } => Some(*run),
            State::Ending(down, _) | State::Sweeping(down) => Some(down.run),
            _ => None,
        }
    }

    /// Starts so far.
    pub fn starts(&self) -> u64 {
        self.starts
    }

    /// What went wrong last.
    pub fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    /// How often something went wrong.
    pub fn troubles(&self) -> u64 {
        self.troubles
    }

    /// When a [`Event::Tick`] is due.
    pub fn next_tick(&self) -> Option<Moment> {
        match &self.state {
            State::Looking { until, .. }
            | State::Spawning { until, .. }
            | State::Starting { until, .. }
            | State::Doubted { until, .. }
            | State::Ending(_, until) => Some(*until),
            _ => None,
        }
    }

    /// Takes an event; answers what is to be done, in this order.
    pub fn on(&mut self, event: Event, now: Moment) -> Vec<Effect> {
        let mut out = Vec::new();
        match event {
            Event::Ask { ticket, by_request } => self.ask(ticket, by_request, now, &mut out),
            Event::Stop(ticket) => self.stop(ticket, now, &mut out),
            Event::Found { process, ready } => self.found(process, ready, now, &mut out),
            Event::Seen(of, taken) => self.seen(of, taken, now, &mut out),
            Event::Held(of) => self.held(of, now),
            Event::Spawned(of, process) => self.spawned(of, process, now, &mut out),
            Event::NotSpawned(of, message) => self.not_spawned(of, message, now, &mut out),
            Event::Ready(of) => self.ready(of, now, &mut out),
            Event::Probed(of, answers) => self.probed(of, answers, now, &mut out),
            Event::Exited(of, status, telling) => self.exited(of, status, telling, now, &mut out),
            Event::Swept(of) => self.swept(of, now, &mut out),
            Event::NotSwept(of, who) => self.not_swept(of, who, &mut out),
            Event::Refused(of) => self.refused(of, &mut out),
            Event::Hurry => self.hurry(&mut out),
            Event::Tick => self.tick(now, &mut out),
        }
        out.retain(|effect| !matches!(effect, Effect::Answer(whom, _) if whom.is_empty()));
        out
    }

    fn ask(&mut self, ticket: Ticket, by_request: bool, now: Moment, out: &mut Vec<Effect>) {
        if !by_request {
            self.failures = 0;
        }
        let must_wait = self.must_wait().filter(|_| by_request);
        match &mut self.state {
            State::Failed(failure, until) if by_request && now < *until => {
                out.push(answer(vec![ticket], Outcome::Failed(failure.clone())));
            }
            State::Stopped | State::Failed(..) => self.begin(ticket, Vec::new(), now, out),
            State::Looking { waiting, .. }
            | State::Spawning { waiting, .. }
            | State::Starting { waiting, .. }
            | State::Doubted { waiting, .. } => waiting.push(ticket),
            // Also for a person: a process that lives may hang.
            State::Ready { who, since } => {
                let (who, since) = (*who, *since);
                let until = self.doubt_until(who, now);
                self.state = State::Doubted { who, since, waiting: vec![ticket], until };
                out.push(Effect::Probe(who));
            }
            State::Ending(down, _) | State::Sweeping(down) => match must_wait {
                Some(failure) => out.push(answer(vec![ticket], Outcome::Failed(failure))),
                None => down.again.push(ticket),
            },
            State::Stuck(run, failure) => {
                let down = Down::failed(*run, failure.clone(), vec![ticket]);
                self.sweep(down, Duration::ZERO, out);
            }
        }
    }

    /// The failure of one that goes, if its next start has to wait.
    fn must_wait(&self) -> Option<Failure> {
        match &self.state {
            State::Ending(down, _) | State::Sweeping(down) => match &down.why {
                Why::Failed(failure) if !self.pause_after(failure).is_zero() => {
                    Some(failure.clone())
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// One that is young may still be on its way up; an older one answers soon or not at all.
    fn doubt_until(&self, who: Who, now: Moment) -> Moment {
        match who {
            Who::Ours(run) => (run.spawned + self.rules.grace).max(now + DOUBT),
            Who::Others(_) => now + DOUBT,
        }
    }

    /// (Stopped | Failed | Doubted | Sweeping) => Looking
    fn begin(&mut self, first: Ticket, more: Vec<Ticket>, now: Moment, out: &mut Vec<Effect>) {
        self.generation += 1;
        let (generation, until) = (self.generation, now + MAKING);
        let waiting = std::iter::once(first).chain(more).collect();
        self.state = State::Looking { generation, waiting, until };
        out.push(Effect::Look(generation, first));
    }

    fn found(&mut self, process: Process, ready: bool, now: Moment, out: &mut Vec<Effect>) {
        if self.state != State::Stopped {
            return;
        }
        self.generation += 1;
        let run = Run { generation: self.generation, process, spawned: now };
        out.push(Effect::Watch(run));
        self.state = if ready {
            State::Ready { who: Who::Ours(run), since: now }
        } else {
            out.push(Effect::AwaitReady(run));
            State::Starting { run, waiting: Vec::new(), until: now + self.rules.grace }
        };
    }

    fn seen(&mut self, of: u64, taken: bool, now: Moment, out: &mut Vec<Effect>) {
        let State::Looking { generation, waiting, .. } = &mut self.state else { return };
        if *generation != of {
            return;
        }
        let waiting = std::mem::take(waiting);
        if taken {
            self.state = State::Ready { who: Who::Others(of), since: now };
            out.push(answer(waiting, Outcome::Ready));
        } else {
            self.starts += 1;
            let (stoppers, until) = (Vec::new(), now + MAKING);
            self.state = State::Spawning { generation: of, waiting, stoppers, until };
            out.push(Effect::Spawn(of));
        }
    }

    /// The child is there and waits to be let go: it is known now, and not given up for being slow.
    fn held(&mut self, of: u64, now: Moment) {
        if let State::Spawning { generation, until, .. } = &mut self.state
            && *generation == of
        {
            *until = now + RELEASING;
        }
    }

    fn spawned(&mut self, of: u64, process: Process, now: Moment, out: &mut Vec<Effect>) {
        let State::Spawning { generation, waiting, stoppers, .. } = &mut self.state else { return };
        if *generation != of {
            return;
        }
        let (waiting, stoppers) = (std::mem::take(waiting), std::mem::take(stoppers));
        let run = Run { generation: of, process, spawned: now };
        out.push(Effect::Watch(run));
        if stoppers.is_empty() {
            out.push(Effect::AwaitReady(run));
            self.state = State::Starting { run, waiting, until: now + self.rules.grace };
        } else {
            self.end(Down { run, why: Why::Wanted, stoppers, again: waiting }, now, out);
        }
    }

    fn not_spawned(&mut self, of: u64, message: String, now: Moment, out: &mut Vec<Effect>) {
        let Some((waiting, stoppers)) = self.making(of) else { return };
        out.push(Effect::Forget);
        if stoppers.is_empty() {
            let failure = self.failed(Failure::NotStarted { message });
            out.push(answer(waiting, Outcome::Failed(failure.clone())));
            self.state = State::Failed(failure, now + pause(self.failures));
        } else {
            out.push(answer(stoppers, Outcome::Gone));
            self.rest(waiting, now, out);
        }
    }

    /// Who waits for that start, and who wants it gone, while nothing of it runs.
    fn making(&mut self, of: u64) -> Option<(Vec<Ticket>, Vec<Ticket>)> {
        match &mut self.state {
            State::Looking { generation, waiting, .. } if *generation == of => {
                Some((std::mem::take(waiting), Vec::new()))
            }
            State::Spawning { generation, waiting, stoppers, .. } if *generation == of => {
                Some((std::mem::take(waiting), std::mem::take(stoppers)))
            }
            _ => None,
        }
    }

    /// (Looking | Spawning) => Stopped: the daemon ends, nothing is begun any more.
    fn refused(&mut self, of: u64, out: &mut Vec<Effect>) {
        let Some((waiting, stoppers)) = self.making(of) else { return };
        let stopped = Outcome::Failed(Failure::Stopped);
        out.extend([answer(waiting, stopped), answer(stoppers, Outcome::Gone)]);
        self.state = State::Stopped;
    }

    /// => Stopped, or begins again for those who came meanwhile
    fn rest(&mut self, again: Vec<Ticket>, now: Moment, out: &mut Vec<Effect>) {
        let mut again = again.into_iter();
        match again.next() {
            None => self.state = State::Stopped,
            Some(first) => self.begin(first, again.collect(), now, out),
        }
    }

    fn ready(&mut self, of: u64, now: Moment, out: &mut Vec<Effect>) {
        let State::Starting { run, waiting, .. } = &mut self.state else { return };
        if run.generation != of {
            return;
        }
        let (run, waiting) = (*run, std::mem::take(waiting));
        self.state = State::Ready { who: Who::Ours(run), since: now };
        out.extend([Effect::Settle(run), answer(waiting, Outcome::Ready)]);
    }

    fn probed(&mut self, of: u64, answers: bool, now: Moment, out: &mut Vec<Effect>) {
        let State::Doubted { who, since, waiting, .. } = &mut self.state else { return };
        if who.generation() != of {
            return;
        }
        if answers {
            let (who, since, waiting) = (*who, *since, std::mem::take(waiting));
            self.state = State::Ready { who, since };
            out.push(answer(waiting, Outcome::Ready));
        } else {
            self.hangs(now, out);
        }
    }

    fn failed(&mut self, failure: Failure) -> Failure {
        self.failures += 1;
        self.complain(&failure);
        failure
    }

    fn complain(&mut self, failure: &Failure) {
        self.troubles += 1;
        self.last_error = Some(failure.in_full());
    }

    fn tick(&mut self, now: Moment, out: &mut Vec<Effect>) {
        if self.next_tick().is_none_or(|at| now < at) {
            return;
        }
        match &mut self.state {
            State::Looking { generation, .. } | State::Spawning { generation, .. } => {
                let of = *generation;
                let message = format!("the system took longer than {} s", MAKING.as_secs());
                self.not_spawned(of, message, now, out);
            }
            State::Starting { run, waiting, .. } => {
                let (run, waiting) = (*run, std::mem::take(waiting));
                let failure = self.failed(Failure::TooSlow { grace: self.rules.grace });
                out.push(answer(waiting, Outcome::Failed(failure.clone())));
                self.end(Down::failed(run, failure, Vec::new()), now, out);
            }
            State::Doubted { .. } => self.hangs(now, out),
            State::Ending(down, _) => {
                let down = down.clone();
                // Its time is up: nobody gets any patience.
                self.sweep(down, Duration::ZERO, out);
            }
            _ => {}
        }
    }
}

fn answer(tickets: Vec<Ticket>, outcome: Outcome) -> Effect {
    Effect::Answer(tickets, outcome)
}

/// After so many failures in a row.
fn pause(failures: u32) -> Duration {
    match failures {
        0 => Duration::ZERO,
        n => FIRST_PAUSE.saturating_mul(1 << (n - 1).min(10)).min(LONGEST_PAUSE),
    }
}
