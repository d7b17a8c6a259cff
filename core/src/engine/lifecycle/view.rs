//! What others may know of the lifecycle.
//!
//! Owns: the report, the last error, when the next tick is due. Must never do: change anything.

use std::sync::Arc;

use super::{Goal, Lifecycle, Moment, Stage, State};
use crate::engine::launch::Launch;
use crate::engine::report::{EngineReport, Held, Phase};
use crate::ids::Generation;

impl Lifecycle {
    /// Where it stands.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// What others need to know of it.
    pub fn report(&self) -> EngineReport {
        let of = |generation: Generation, launch: &Arc<Launch>, phase| {
            Some(Held { generation, launch: launch.clone(), phase })
        };
        let held = match &self.state {
            State::Stopped => None,
            State::Backoff(generation, launch, _) => of(*generation, launch, Phase::BackingOff),
            State::Checking(generation, launch) | State::Spawning(generation, launch) => {
                of(*generation, launch, Phase::Starting)
            }
            State::Starting(engine, _) => of(engine.generation, &engine.launch, Phase::Starting),
            State::Ready(engine, _) => of(engine.generation, &engine.launch, Phase::Ready),
            State::Stopping(engine, ..) | State::Sweeping(engine, _) => {
                of(engine.generation, &engine.launch, Phase::Leaving)
            }
            State::Failed(generation, launch, cause) => {
                of(*generation, launch, Phase::Failed(cause.clone()))
            }
            State::Stuck(engine, cause) => {
                of(engine.generation, &engine.launch, Phase::Stuck(cause.clone()))
            }
        };
        EngineReport { held, newest: self.newest, broken: self.records.all_broken() }
    }

    /// The last failure, in words.
    pub fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    /// Starts that followed a failure of the same model.
    pub fn restarts(&self) -> u64 {
        self.restarts
    }

    /// Whether a later start than this one is wanted.
    pub fn wants_newer_than(&self, generation: Generation) -> bool {
        matches!(&self.goal, Goal::Run(wanted, _) if *wanted > generation)
    }

    /// When [`Event::Tick`](super::Event::Tick) is due.
    pub fn next_tick(&self) -> Option<Moment> {
        match &self.state {
            State::Backoff(_, _, at)
            | State::Starting(_, at)
            | State::Stopping(_, Stage::Asked(at) | Stage::Killed(at), _) => Some(*at),
            _ => None,
        }
    }
}
