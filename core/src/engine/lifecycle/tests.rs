//! The life of the engine: every pair of state and event, examples, and random histories.
#![allow(clippy::unwrap_used, clippy::panic)]

mod examples;
mod histories;
mod table;
mod world;

use std::sync::LazyLock;

use super::*;
use crate::engine::report::{Held, Phase};
use crate::engine::testing::launches;

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// No two bounds are alike, so that none can stand in for another.
fn rules() -> LifecycleRules {
    LifecycleRules {
        stop_timeout: s(30),
        loading_stop_grace: s(3),
        kill_grace: s(10),
        backoff: s(2),
        breaker: BreakerRules { failures: 4, window: s(500), open: s(70) },
        adopt_timeout: s(20),
    }
}

const MODELS: [&str; 3] = ["a", "b", "c"];

/// From spawn to ready, for every launch here.
const START: Duration = s(600);

static LAUNCHES: LazyLock<Vec<Arc<Launch>>> = LazyLock::new(|| launches(&MODELS));

fn launch(model: &str) -> Arc<Launch> {
    LAUNCHES.iter().find(|launch| launch.model.as_str() == model).unwrap().clone()
}

/// Each start has a process of its own.
fn process(generation: u64) -> Process {
    Process { pid: 1000 + i32::try_from(generation).unwrap(), start_time: generation }
}

fn run(generation: u64, model: &str) -> Event {
    Event::Goal(Goal::Run(Generation(generation), launch(model)))
}

fn down() -> Event {
    Event::Goal(Goal::Down)
}

fn exited(generation: u64) -> Event {
    let exit = Exit { status: "exit code 0".into(), telling: Some("ValueError: no".into()) };
    Event::Exited(Generation(generation), exit)
}

fn unhealthy(generation: u64) -> Event {
    let found = Unhealthy { what: "status 503".into(), telling: Some("ValueError: no".into()) };
    Event::Unhealthy(Generation(generation), found)
}

fn pardon(model: &str) -> Event {
    Event::Pardon(model.into())
}

fn spawned(generation: u64) -> Event {
    Event::Spawned(Generation(generation), process(generation))
}

/// A core that is led through events, each at its second.
fn led(events: impl IntoIterator<Item = (u64, Event)>) -> Lifecycle {
    let mut core = Lifecycle::new(rules());
    for (at, event) in events {
        core.on(event, s(at));
    }
    core
}

/// A state's name, with `!` where the engine goes because it failed.
fn name(state: &State) -> &'static str {
    match state {
        State::Stopped => "Stopped",
        State::Backoff(..) => "Backoff",
        State::Checking(..) => "Checking",
        State::Spawning(..) => "Spawning",
        State::Starting(..) => "Starting",
        State::Ready(..) => "Ready",
        State::Stopping(_, Stage::Asked(_), Why::Wanted) => "Asked",
        State::Stopping(_, Stage::Asked(_), Why::Failed(_)) => "Asked!",
        State::Stopping(_, Stage::Killed(_), Why::Wanted) => "Killed",
        State::Stopping(_, Stage::Killed(_), Why::Failed(_)) => "Killed!",
        State::Sweeping(_, Why::Wanted) => "Sweeping",
        State::Sweeping(_, Why::Failed(_)) => "Sweeping!",
        State::Failed(..) => "Failed",
        State::Stuck(..) => "Stuck",
    }
}

/// Effects in letters, in their order.
fn letters(effects: &[Effect]) -> String {
    let letter = |effect: &Effect| match effect {
        Effect::CheckPort(..) => 'c',
        Effect::Spawn(..) => 's',
        Effect::Watch(_) => 'w',
        Effect::Settle(_) => 'r',
        Effect::Terminate(_) => 't',
        Effect::Kill(_) => 'k',
        Effect::Sweep(_) => 'x',
        Effect::Forget(_) => 'f',
    };
    effects.iter().map(letter).collect()
}

/// What happened to the core, in the table's form: `-`, or the new state and the effects.
fn outcome(core: &mut Lifecycle, event: Event, now: Moment) -> String {
    let before = core.state.clone();
    let effects = letters(&core.on(event, now));
    match (before == core.state, effects.is_empty()) {
        (true, true) => "-".to_owned(),
        (_, true) => name(&core.state).to_owned(),
        _ => format!("{}/{effects}", name(&core.state)),
    }
}

fn effect_generation(effect: &Effect) -> Generation {
    match effect {
        Effect::CheckPort(generation, _)
        | Effect::Spawn(generation, _)
        | Effect::Forget(generation) => *generation,
        Effect::Watch(engine)
        | Effect::Settle(engine)
        | Effect::Terminate(engine)
        | Effect::Kill(engine)
        | Effect::Sweep(engine) => engine.generation,
    }
}
