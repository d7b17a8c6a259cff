//! The ways down: a service that is stopped, ends, hangs, or cannot be ended.
//!
//! Owns: that nothing is started before nobody is left, and who is told what meanwhile. Must never
//! do: keep somebody waiting whose answer is known.

use std::time::Duration;

use super::{Down, Effect, Life, Outcome, Run, State, Ticket, Who, Why, answer, pause};
use crate::autostart::Failure;
use crate::engine::lifecycle::Moment;

/// One that was ready for this long has done well: failures before do not count any more.
const SETTLED: Duration = Duration::from_secs(30);
/// One that has failed gets no longer than this to end by itself.
const FAILED_GRACE: Duration = Duration::from_secs(5);

impl Life {
    pub(super) fn stop(&mut self, ticket: Ticket, now: Moment, out: &mut Vec<Effect>) {
        let withdrawn = |waiting: &mut Vec<Ticket>| {
            answer(std::mem::take(waiting), Outcome::Failed(Failure::Stopped))
        };
        match &mut self.state {
            State::Stopped | State::Failed(..) => {
                self.state = State::Stopped;
                out.push(answer(vec![ticket], Outcome::Gone));
            }
            State::Looking { waiting, .. } => {
                out.extend([withdrawn(waiting), answer(vec![ticket], Outcome::Gone)]);
                self.state = State::Stopped;
            }
            State::Spawning { waiting, stoppers, .. } => {
                out.push(withdrawn(waiting));
                stoppers.push(ticket);
            }
            State::Starting { run, waiting, .. }
            | State::Doubted { who: Who::Ours(run), waiting, .. } => {
                out.push(withdrawn(waiting));
                let run = *run;
                self.end(Down::wanted(run, ticket), now, out);
            }
            State::Ready { who: Who::Ours(run), .. } => {
                let run = *run;
                self.end(Down::wanted(run, ticket), now, out);
            }
            State::Ready { who: Who::Others(_), .. } => {
                out.push(answer(vec![ticket], Outcome::NotOurs));
            }
            // Else one of ours would be started in their place, behind the stop.
            State::Doubted { who: Who::Others(_), waiting, .. } => {
                out.extend([withdrawn(waiting), answer(vec![ticket], Outcome::NotOurs)]);
                self.state = State::Stopped;
            }
            State::Ending(down, _) | State::Sweeping(down) => {
                out.push(withdrawn(&mut down.again));
                down.why = Why::Wanted;
                down.stoppers.push(ticket);
            }
            State::Stuck(run, _) => {
                let run = *run;
                self.sweep(Down::wanted(run, ticket), Duration::ZERO, out);
            }
        }
    }

    /// (Starting | Ready | Doubted | Spawning) => Ending
    pub(super) fn end(&mut self, down: Down, now: Moment, out: &mut Vec<Effect>) {
        let patience = match down.why {
            Why::Wanted => self.rules.stop_timeout,
            Why::Failed(_) => self.rules.stop_timeout.min(FAILED_GRACE),
        };
        out.push(Effect::Signal(down.run));
        self.state = State::Ending(down, now + patience);
    }

    /// (Starting | Ready | Doubted | Ending | Stuck) => Sweeping
    pub(super) fn sweep(&mut self, down: Down, patience: Duration, out: &mut Vec<Effect>) {
        out.push(Effect::Sweep(down.run, patience));
        self.state = State::Sweeping(down);
    }

    /// Whatever ends, or will have to, is killed at once: the daemon was told twice.
    pub(super) fn hurry(&mut self, out: &mut Vec<Effect>) {
        self.rules.stop_timeout = Duration::ZERO;
        if let State::Ending(down, _) | State::Sweeping(down) = &self.state {
            self.sweep(down.clone(), Duration::ZERO, out);
        }
    }

    /// Doubted => (Ending, with those who wait if it may be started again | Looking)
    pub(super) fn hangs(&mut self, now: Moment, out: &mut Vec<Effect>) {
        let State::Doubted { who, since, waiting, .. } = &mut self.state else { return };
        let (who, since, waiting) = (*who, *since, std::mem::take(waiting));
        match who {
            Who::Others(_) => self.rest(waiting, now, out),
            Who::Ours(run) => {
                let down = self.lost(run, Failure::Hung, since, waiting, now, out);
                self.end(down, now, out);
            }
        }
    }

    /// It was ready and is not any more. The first time in a row it is started again for those who
    /// wait; later they are told.
    pub(super) fn lost(
        &mut self,
        run: Run,
        failure: Failure,
        since: Moment,
        waiting: Vec<Ticket>,
        now: Moment,
        out: &mut Vec<Effect>,
    ) -> Down {
        if now.saturating_sub(since) >= SETTLED {
            self.failures = 0;
        }
        let failure = self.failed(failure);
        let again = if self.failures <= 1 {
            waiting
        } else {
            out.push(answer(waiting, Outcome::Failed(failure.clone())));
            Vec::new()
        };
        Down::failed(run, failure, again)
    }

    pub(super) fn exited(
        &mut self,
        of: u64,
        status: String,
        telling: Option<String>,
        now: Moment,
        out: &mut Vec<Effect>,
    ) {
        if self.run().is_none_or(|run| run.generation != of) {
            return;
        }
        match &mut self.state {
            State::Starting { run, waiting, .. } => {
                let (run, waiting) = (*run, std::mem::take(waiting));
                let failure = self.failed(Failure::EndedAtStart { status, telling });
                self.give_up(run, failure, waiting, out);
            }
            State::Ready { who: Who::Ours(run), since } => {
                let (run, since) = (*run, *since);
                let failure = Failure::Died { status, telling };
                let down = self.lost(run, failure, since, Vec::new(), now, out);
                self.sweep(down, Duration::ZERO, out);
            }
            State::Doubted { who: Who::Ours(run), since, waiting, .. } => {
                let (run, since, waiting) = (*run, *since, std::mem::take(waiting));
                let failure = Failure::Died { status, telling };
                let down = self.lost(run, failure, since, waiting, now, out);
                self.sweep(down, Duration::ZERO, out);
            }
            State::Ending(down, until) => {
                // In an ordinary stop the others get what is left of the leader's time: it may have
                // been no more than a shell around the server.
                let left = match down.why {
                    Why::Wanted => until.saturating_sub(now),
                    Why::Failed(_) => Duration::ZERO,
                };
                let down = down.clone();
                self.sweep(down, left, out);
            }
            _ => {}
        }
    }

    /// Starting => Sweeping: those who wait are told at once.
    pub(super) fn give_up(
        &mut self,
        run: Run,
        failure: Failure,
        waiting: Vec<Ticket>,
        out: &mut Vec<Effect>,
    ) {
        out.push(answer(waiting, Outcome::Failed(failure.clone())));
        self.sweep(Down::failed(run, failure, Vec::new()), Duration::ZERO, out);
    }

    pub(super) fn swept(&mut self, of: u64, now: Moment, out: &mut Vec<Effect>) {
        let State::Sweeping(down) = &mut self.state else { return };
        if down.run.generation != of {
            return;
        }
        let (stoppers, again) =
            (std::mem::take(&mut down.stoppers), std::mem::take(&mut down.again));
        let why = down.why.clone();
        out.extend([Effect::Forget, answer(stoppers, Outcome::Gone)]);
        match why {
            Why::Failed(failure) if again.is_empty() => {
                self.state = State::Failed(failure.clone(), now + self.pause_after(&failure));
            }
            _ => self.rest(again, now, out),
        }
    }

    /// One that was ready before may be started again at once, the first time in a row.
    pub(super) fn pause_after(&self, failure: &Failure) -> Duration {
        match failure {
            Failure::Died { .. } | Failure::Hung => pause(self.failures.saturating_sub(1)),
            _ => pause(self.failures),
        }
    }

    pub(super) fn not_swept(&mut self, of: u64, who: String, out: &mut Vec<Effect>) {
        let State::Sweeping(down) = &mut self.state else { return };
        if down.run.generation != of {
            return;
        }
        let mut all = std::mem::take(&mut down.stoppers);
        all.append(&mut down.again);
        let run = down.run;
        let failure = Failure::Stuck { who };
        self.complain(&failure);
        out.push(answer(all, Outcome::Failed(failure.clone())));
        self.state = State::Stuck(run, failure);
    }
}
