//! Random histories from a seed of our own: a million of them, each of which one number repeats.
//!
//! Owns: how many are played, and what must have occurred in them. Must never do: know the
//! scheduler; [`draw`] makes histories, [`play`] plays them, and the claims are those of
//! [`history`](super::history) and `checks`.
#![allow(clippy::print_stderr)] // how far it is, and what was seen

mod draw;
mod play;

use std::time::Instant;

use super::counts::{EFFECTS, EVENTS, PLACES, REFUSALS};
use super::history::{STEPS, Step};
use super::world::World;
use draw::History;
use play::{Played, caught, describe, play, play_all, shortest};

/// Fewer than these need not have seen everything.
const MANY: u64 = 10_000;

fn log(seed: u64) -> String {
    let history = History::of(seed);
    let mut world = World::that_tells(history.setting.clone());
    let ended = play(&history, &mut world);
    assert_eq!(ended, Ok(()), "seed {seed}");
    format!("{history:?}\n{}", world.log.unwrap().join("\n"))
}

fn demand_success(played: &Played) {
    if let Some((seed, failure)) = &played.failed {
        panic!("{}", describe(*seed, failure));
    }
}

#[test]
fn some_seeded_histories() {
    let played = play_all(1, 300, &|_| {});
    demand_success(&played);
    assert_eq!(played.histories, 300);
    assert_eq!(played.counts.missing(STEPS), [""; 0], "no history had these");
}

#[test]
fn the_same_seed_has_the_same_effects_byte_for_byte() {
    let logs: Vec<String> = (1..=50).map(log).collect();
    let again: Vec<String> = (1..=50).map(log).collect();
    assert!(logs == again);
    assert!(!logs[1..].contains(&logs[0]), "another seed is another history");
    assert!(logs.iter().any(|log| log.contains("Grant")), "nobody was served");
}

#[test]
fn what_fails_is_cut_to_its_shortest_beginning_and_to_the_steps_that_it_needs() {
    let steps: Vec<Step> = (0..100).map(Step::Pass).collect();
    let has = |steps: &[Step], millis| {
        steps.iter().any(|step| matches!(step, Step::Pass(at) if *at == millis))
    };
    let (length, needed) = shortest(&steps, |steps| has(steps, 12) && has(steps, 61));
    assert_eq!(length, 62);
    assert_eq!(format!("{needed:?}"), "[Pass(12), Pass(61)]");
    let (length, needed) = shortest(&steps, |_| true);
    assert_eq!((length, needed.len()), (0, 0));
}

#[test]
fn a_seed_that_fails_is_told_with_its_steps_and_how_to_repeat_it() {
    let failure = caught(|| panic!("as an example")).unwrap_err();
    let told = describe(7, &failure);
    assert!(told.contains("seed 7 fails: ") && told.contains("as an example"), "{told}");
    assert!(told.contains("IMAGEWORKS_SEED=7 IMAGEWORKS_HISTORIES=1 cargo test"), "{told}");
}

/// `IMAGEWORKS_HISTORIES` and `IMAGEWORKS_SEED` say how many, and from which on.
#[test]
#[ignore = "takes minutes, and is for release builds: .ci/full runs it"]
fn a_million_seeded_histories() {
    let number = |name, usual| match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")),
        Err(_) => usual,
    };
    let (first, histories) =
        (number("IMAGEWORKS_SEED", 1), number("IMAGEWORKS_HISTORIES", 1_000_000));
    let begun = Instant::now();
    let played = play_all(first, histories, &|at| {
        eprintln!("{at} histories, {:.0} s", begun.elapsed().as_secs_f64());
    });
    demand_success(&played);
    let Played { histories: all, calm, counts, .. } = &played;
    eprintln!("seeds from {first} on; {all} histories, {calm} of them calm\n{counts}");
    for (prefix, what) in [
        ("step: ", "steps"),
        ("event: ", "events"),
        ("swap: done", "swaps"),
        ("lease: granted", "leases"),
    ] {
        eprintln!("{:>14}  {what}", counts.of(prefix));
    }
    eprintln!("{:>14.1}  s", begun.elapsed().as_secs_f64());
    if histories >= MANY {
        for names in [STEPS, EVENTS, EFFECTS, REFUSALS, PLACES] {
            assert_eq!(counts.missing(names), [""; 0], "no history had these");
        }
    }
}
