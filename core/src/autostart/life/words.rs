//! What a service's life is told in: its states, events and effects.
//!
//! Owns: which data each state carries. Must never do: change one into another; see the life.

use std::time::Duration;

use crate::autostart::Failure;
use crate::engine::lifecycle::Moment;
use crate::engine::state_file::Process;

/// Who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// The bounds of a life.
#[derive(Debug, Clone, Copy)]
pub struct LifeRules {
    /// It must be ready within this.
    pub grace: Duration,
    /// One that is told to end is killed after this.
    pub stop_timeout: Duration,
}

/// What runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Which start.
    pub generation: u64,
    /// Its leader.
    pub process: Process,
    /// When it was started, or found.
    pub spawned: Moment,
}

/// Who serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// A process of ours.
    Ours(Run),
    /// Somebody else; the number is that of the look that found them.
    Others(u64),
}

impl Who {
    pub(super) fn generation(self) -> u64 {
        match self {
            Who::Ours(run) => run.generation,
            Who::Others(generation) => generation,
        }
    }
}

/// Why a service goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// It is to stop.
    Wanted,
    /// It has failed.
    Failed(Failure),
}

/// One that goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Down {
    pub(super) run: Run,
    pub(super) why: Why,
    /// Who wants it gone.
    pub(super) stoppers: Vec<Ticket>,
    /// Who wants it back.
    pub(super) again: Vec<Ticket>,
}

impl Down {
    /// One that somebody wants gone.
    pub(super) fn wanted(run: Run, stopper: Ticket) -> Down {
        Down { run, why: Why::Wanted, stoppers: vec![stopper], again: Vec::new() }
    }

    /// One that failed; `again`: who wants it back.
    pub(super) fn failed(run: Run, failure: Failure, again: Vec<Ticket>) -> Down {
        Down { run, why: Why::Failed(failure), stoppers: Vec::new(), again }
    }
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Nothing.
    Stopped,
    /// Does somebody else run it?
    Looking {
        /// Which start.
        generation: u64,
        /// Who wants it; the first one caused the start.
        waiting: Vec<Ticket>,
        /// Until when it must be known.
        until: Moment,
    },
    /// A child is being made.
    Spawning {
        /// Which start.
        generation: u64,
        /// Who wants it.
        waiting: Vec<Ticket>,
        /// Who wants it gone; then those who wait came afterwards.
        stoppers: Vec<Ticket>,
        /// Until when it must have been made.
        until: Moment,
    },
    /// It runs and is not ready.
    Starting {
        /// What runs.
        run: Run,
        /// Who wants it.
        waiting: Vec<Ticket>,
        /// Until when it must be ready.
        until: Moment,
    },
    /// It serves.
    Ready {
        /// Who does.
        who: Who,
        /// Since when.
        since: Moment,
    },
    /// Does it still?
    Doubted {
        /// Who does.
        who: Who,
        /// Since when it was ready.
        since: Moment,
        /// Who wants it.
        waiting: Vec<Ticket>,
        /// Until when it must have answered.
        until: Moment,
    },
    /// It was told to end.
    Ending(Down, Moment),
    /// What is left is being ended.
    Sweeping(Down),
    /// It cannot be ended.
    Stuck(Run, Failure),
    /// It failed; requests are answered with that until then.
    Failed(Failure, Moment),
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Somebody wants the service.
    Ask {
        /// Who.
        ticket: Ticket,
        /// A request that met nobody; otherwise a person.
        by_request: bool,
    },
    /// Somebody wants it gone.
    Stop(Ticket),
    /// An earlier daemon, or an actor before us, left it running.
    Found {
        /// Its leader.
        process: Process,
        /// It was ready.
        ready: bool,
    },
    /// Whether somebody answers where it would.
    Seen(u64, bool),
    /// A child is there and waits to be let go.
    Held(u64),
    /// It runs.
    Spawned(u64, Process),
    /// It could not be made; the system's words.
    NotSpawned(u64, String),
    /// It is ready.
    Ready(u64),
    /// Whether it still answers.
    Probed(u64, bool),
    /// Its leader has ended: the status, and the telling line of its log.
    Exited(u64, String, Option<String>),
    /// Nobody of it is left.
    Swept(u64),
    /// These are.
    NotSwept(u64, String),
    /// Nothing is begun any more.
    Refused(u64),
    /// Nobody gets any patience any more.
    Hurry,
    /// Time has passed.
    Tick,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// See whether somebody answers already: [`Event::Seen`], or [`Event::Refused`]. The ticket is
    /// that of who caused the start.
    Look(u64, Ticket),
    /// Start it: [`Event::Held`] and [`Event::Spawned`], or [`Event::NotSpawned`], or
    /// [`Event::Refused`]. A child that comes when it is not awaited any more is not let go.
    Spawn(u64),
    /// Hear of its end ([`Event::Exited`]) and keep house.
    Watch(Run),
    /// Look until it is ready: [`Event::Ready`].
    AwaitReady(Run),
    /// Remember that it is ready.
    Settle(Run),
    /// Ask whether it still answers: [`Event::Probed`].
    Probe(Who),
    /// Send the leader its signal.
    Signal(Run),
    /// End all that is left; for so long it may end by itself: [`Event::Swept`] or
    /// [`Event::NotSwept`].
    Sweep(Run, Duration),
    /// Nothing is left; it is not remembered any more.
    Forget,
    /// Tell them.
    Answer(Vec<Ticket>, Outcome),
}

/// What somebody is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is there.
    Ready,
    /// It is gone.
    Gone,
    /// It is not there, or not gone.
    Failed(Failure),
    /// It cannot be stopped: somebody else runs it.
    NotOurs,
}
