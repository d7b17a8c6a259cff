//! Random histories in a simulated machine. What must hold after each event is in [`World`].

use proptest::prelude::*;

use super::world::{Mood, World};
use super::*;

#[derive(Debug, Clone)]
enum Step {
    Found { alive: bool, wanted: bool, was_ready: bool },
    Want(Option<usize>),
    WantAgain(u64),
    Deliver { at: usize, again: bool },
    Pass(u64),
    Tick,
    EarlyTick,
    Healthy,
    Silent,
    Unhealthy,
    Pardon(usize),
    Dies,
    Hurry,
    Look,
    Mood([bool; 5]),
    Stale { kind: usize, back: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let rarely = proptest::bool::weighted(0.25);
    prop_oneof![
        1 => any::<[bool; 3]>().prop_map(|[alive, wanted, was_ready]| Step::Found { alive, wanted, was_ready }),
        5 => proptest::option::weighted(0.8, 0..MODELS.len()).prop_map(Step::Want),
        1 => (0..4u64).prop_map(Step::WantAgain),
        20 => (any::<usize>(), rarely).prop_map(|(at, again)| Step::Deliver { at, again }),
        4 => (1..100_000u64).prop_map(Step::Pass),
        6 => Just(Step::Tick),
        1 => Just(Step::EarlyTick),
        6 => Just(Step::Healthy),
        1 => Just(Step::Silent),
        2 => Just(Step::Unhealthy),
        1 => (0..MODELS.len()).prop_map(Step::Pardon),
        3 => Just(Step::Dies),
        1 => Just(Step::Hurry),
        3 => Just(Step::Look),
        4 => proptest::array::uniform5(rarely).prop_map(Step::Mood),
        4 => (0..10usize, 0..4u64).prop_map(|(kind, back)| Step::Stale { kind, back }),
    ]
}

/// An answer of a start that is not the present one.
fn stale(kind: usize, of: Generation) -> Event {
    match kind {
        0 => Event::PortFree(of),
        1 => Event::PortTaken(of, "pid 7 (x)".into()),
        2 => spawned(of.0),
        3 => Event::NotSpawned(of, "no such file".into()),
        4 => Event::Healthy(of),
        5 => Event::Silent(of, s(180)),
        6 => exited(of.0),
        7 => Event::Swept(of),
        8 => unhealthy(of.0),
        _ => Event::NotSwept(of, "pid 9".into()),
    }
}

fn take(world: &mut World, step: &Step) {
    match *step {
        // Only a supervisor that has just begun finds something.
        Step::Found { alive, wanted, was_ready } => {
            if world.log.is_empty() {
                world.find(alive, wanted, was_ready);
            }
        }
        Step::Want(model) => world.want(model.map(|at| MODELS[at])),
        Step::WantAgain(back) => world.event(&run(world.newest.saturating_sub(back), "c")),
        Step::Deliver { at, again } => world.deliver(at, again),
        Step::Pass(millis) => world.now += Duration::from_millis(millis),
        Step::Tick => {
            if let Some(at) = world.core.next_tick() {
                world.now = world.now.max(at);
            }
            world.event(&Event::Tick);
        }
        Step::EarlyTick => world.event(&Event::Tick),
        Step::Healthy => {
            world.pending.extend(world.living().map(|of| Event::Healthy(Generation(of))));
        }
        Step::Silent => {
            world.pending.extend(world.living().map(|of| Event::Silent(Generation(of), s(180))));
        }
        Step::Unhealthy => world.pending.extend(world.living().map(unhealthy)),
        Step::Pardon(model) => world.event(&pardon(MODELS[model])),
        Step::Dies => {
            if let Some(of) = world.living() {
                world.leader_dies(of);
            }
        }
        Step::Hurry => world.event(&Event::Hurry),
        Step::Look => world.look(),
        Step::Mood([deaf, immortal, port_taken, no_program, children]) => {
            world.set_mood(Mood { deaf, immortal, port_taken, no_program, children });
        }
        Step::Stale { kind, back } => {
            let held = world.core.report().held.map_or(world.newest + 1, |held| held.generation.0);
            if let Some(of) = held.checked_sub(1 + back) {
                world.event(&stale(kind, Generation(of)));
            }
        }
    }
}

fn live(steps: &[Step]) -> World {
    let mut world = World::new();
    for step in steps {
        take(&mut world, step);
    }
    world
}

proptest! {
    #[test]
    fn one_engine_at_a_time_whose_starts_are_answered_and_whose_end_is_bounded(
        steps in proptest::collection::vec(step(), 0..80)
    ) {
        let mut world = live(&steps);
        world.settle();
        if let Some(wanted) = world.wanted {
            prop_assert!(world.is_answered(wanted), "start {} has no answer", wanted);
        }
        world.want(None);
        let took = world.settle();
        let nothing_runs = matches!(world.core.state(), State::Stopped | State::Failed(..));
        prop_assert!(nothing_runs && !world.anything_lives(), "{:?}", world.core.state());
        prop_assert!(took <= rules().stop_timeout + rules().kill_grace, "it took {took:?}");
        // And it can begin anew, by hand whatever it did before.
        world.event(&pardon("b"));
        world.want(Some("b"));
        world.settle();
        prop_assert!(matches!(world.core.state(), State::Ready(..)), "{:?}", world.core.state());
    }

    #[test]
    fn the_same_events_have_the_same_effects(steps in proptest::collection::vec(step(), 0..80)) {
        prop_assert_eq!(live(&steps).log, live(&steps).log);
    }
}
