//! Every pair of a state and an event, from the table in the module's doc and DESIGN "Lifecycle of
//! the engine". Start 5 of model `a` is the current one.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// `-`: neither state nor effects. Else the next state, then behind `/` the effects: c check port,
/// s spawn, w watch, r remember as ready, t SIGTERM, k SIGKILL, x sweep, f forget. A `!` behind a
/// state: the engine goes because it failed.
const TABLE: &str = "
event           Stopped     Backoff     Checking    Spawning    Starting    Ready       Asked     Killed  Asked!    Killed! Sweeping  Sweeping! Failed      Stuck
down            -           Stopped     Stopped     -           Asked/t     Asked/t     -         -       -         -       -         -         -           -
run-other       Checking/c  Checking/c  Checking/c  -           Asked/t     Asked/t     -         -       -         -       -         -         Checking/c  -
run-newer       Checking/c  Backoff     Checking/c  -           Asked/t     Asked/t     -         -       -         -       -         -         Backoff     -
run-same        -           -           -           -           -           -           -         -       -         -       -         -         -           -
run-older       -           -           -           -           -           -           -         -       -         -       -         -         -           -
port-free       -           -           Spawning/s  -           -           -           -         -       -         -       -         -         -           -
port-taken      -           -           Failed      -           -           -           -         -       -         -       -         -         -           -
spawned         -           -           -           Starting/w  -           -           -         -       -         -       -         -         -           -
not-spawned     -           -           -           Failed      -           -           -         -       -         -       -         -         -           -
healthy         -           -           -           -           Ready/r     -           -         -       -         -       -         -         -           -
silent          -           -           -           -           Asked!/t    -           -         -       -         -       -         -         -           -
unhealthy       -           -           -           -           -           Asked!/t    -         -       -         -       -         -         -           -
exited          -           -           -           -           Sweeping!/x Sweeping!/x Sweeping/x Sweeping/x Sweeping!/x Sweeping!/x - -      -           Sweeping/x
swept           -           -           -           -           -           -           -         -       -         -       Stopped/f Failed/f  -           Stopped/f
not-swept       -           -           -           -           -           -           -         -       -         -       Stuck     Stuck     -           -
port-free@      -           -           -           -           -           -           -         -       -         -       -         -         -           -
port-taken@     -           -           -           -           -           -           -         -       -         -       -         -         -           -
spawned@        -           -           -           -           -           -           -         -       -         -       -         -         -           -
not-spawned@    -           -           -           -           -           -           -         -       -         -       -         -         -           -
healthy@        -           -           -           -           -           -           -         -       -         -       -         -         -           -
silent@         -           -           -           -           -           -           -         -       -         -       -         -         -           -
unhealthy@      -           -           -           -           -           -           -         -       -         -       -         -         -           -
exited@         -           -           -           -           -           -           -         -       -         -       -         -         -           -
swept@          -           -           -           -           -           -           -         -       -         -       -         -         -           -
not-swept@      -           -           -           -           -           -           -         -       -         -       -         -         -           -
pardon          -           Checking/c  -           -           -           -           -         -       -         -       -         -         -           -
pardon-other    -           -           -           -           -           -           -         -       -         -       -         -         -           -
hurry           -           -           -           -           -           -           Killed/k  -       Killed!/k -       -         -         -           -
found-dead      Sweeping/x  -           -           -           -           -           -         -       -         -       -         -         -           -
found-wanted    Starting/w  -           -           -           -           -           -         -       -         -       -         -         -           -
found-unwanted  Asked/wt    -           -           -           -           -           -         -       -         -       -         -         -           -
tick-due        -           Checking/c  -           -           Asked!/t    -           Killed/k  Stuck   Killed!/k Stuck   -         -         -           -
tick-early      -           -           -           -           -           -           -         -       -         -       -         -         -           -
";

/// Everything happens now; what has a bound has it in the next second.
const NOW: Duration = s(100);
const SOON: Duration = s(101);

const CURRENT: u64 = 5;

fn engine(generation: u64) -> Engine {
    let process = process(generation);
    Engine { generation: Generation(generation), launch: launch("a"), process, spawned: s(90) }
}

fn cause() -> Cause {
    Cause::Silent { after: s(9) }
}

/// A core in a state, with the goal that leads there.
fn core_in(state: &str) -> Lifecycle {
    let (of, engine) = (Generation(CURRENT), engine(CURRENT));
    let failed = Why::Failed(cause());
    let state = match state {
        "Stopped" => State::Stopped,
        "Backoff" => State::Backoff(of, launch("a"), SOON),
        "Checking" => State::Checking(of, launch("a")),
        "Spawning" => State::Spawning(of, launch("a")),
        "Starting" => State::Starting(engine, SOON),
        "Ready" => State::Ready(engine, s(95)),
        "Asked" => State::Stopping(engine, Stage::Asked(SOON), Why::Wanted),
        "Killed" => State::Stopping(engine, Stage::Killed(SOON), Why::Wanted),
        "Asked!" => State::Stopping(engine, Stage::Asked(SOON), failed),
        "Killed!" => State::Stopping(engine, Stage::Killed(SOON), failed),
        "Sweeping" => State::Sweeping(engine, Why::Wanted),
        "Sweeping!" => State::Sweeping(engine, failed),
        "Failed" => State::Failed(of, launch("a"), cause()),
        "Stuck" => State::Stuck(engine, Cause::Stuck { who: "pid 1005".into() }),
        other => panic!("no such state: {other}"),
    };
    let mut core = Lifecycle::new(rules());
    core.newest = of;
    // The others are wanted, or went by themselves and that start has not had its answer.
    let unwanted = ["Stopped", "Asked", "Killed", "Sweeping", "Failed", "Stuck"];
    if !unwanted.contains(&name(&state)) {
        core.goal = Goal::Run(of, launch("a"));
    }
    if matches!(state, State::Backoff(..) | State::Failed(..)) {
        core.records.failed(&launch("a"), &cause(), s(99));
    }
    core.state = state;
    core
}

/// The event of a row, and when it comes. `@`: of generations that are not the current one.
fn events(row: &str) -> Vec<(Event, Moment)> {
    let found = |alive, wanted| {
        let engine = Engine { spawned: s(50), ..engine(3) };
        Event::Found(Found { engine, alive, wanted, was_ready: true })
    };
    let event = match row {
        "down" => down(),
        "run-other" => run(6, "b"),
        "run-newer" => run(6, "a"),
        "run-same" => run(CURRENT, "a"),
        "run-older" => run(4, "a"),
        "pardon" => pardon("a"),
        "pardon-other" => pardon("b"),
        "hurry" => Event::Hurry,
        "found-dead" => found(false, true),
        "found-wanted" => found(true, true),
        "found-unwanted" => found(true, false),
        "tick-due" => return vec![(Event::Tick, SOON)],
        "tick-early" => Event::Tick,
        _ => {
            let (what, stale) = match row.strip_suffix('@') {
                Some(what) => (what, true),
                None => (row, false),
            };
            // One that is gone, and one that was never heard of.
            let generations = if stale { vec![4, 6] } else { vec![CURRENT] };
            return generations.into_iter().map(|g| (answer(what, g), NOW)).collect();
        }
    };
    vec![(event, NOW)]
}

fn answer(what: &str, generation: u64) -> Event {
    let of = Generation(generation);
    match what {
        "port-free" => Event::PortFree(of),
        "port-taken" => Event::PortTaken(of, "pid 7 (x)".into()),
        "spawned" => spawned(generation),
        "not-spawned" => Event::NotSpawned(of, "no such file".into()),
        "healthy" => Event::Healthy(of),
        "silent" => Event::Silent(of, s(9)),
        "unhealthy" => unhealthy(generation),
        "exited" => exited(generation),
        "swept" => Event::Swept(of),
        "not-swept" => Event::NotSwept(of, "pid 1005".into()),
        other => panic!("no such event: {other}"),
    }
}

/// The variant of an event. A new variant does not compile until it has a name here, and fails
/// until it has a row.
fn variant(event: &Event) -> &'static str {
    match event {
        Event::Goal(Goal::Down) => "Goal::Down",
        Event::Goal(Goal::Run(..)) => "Goal::Run",
        Event::PortFree(_) => "PortFree",
        Event::PortTaken(..) => "PortTaken",
        Event::Spawned(..) => "Spawned",
        Event::NotSpawned(..) => "NotSpawned",
        Event::Healthy(_) => "Healthy",
        Event::Silent(..) => "Silent",
        Event::Unhealthy(..) => "Unhealthy",
        Event::Exited(..) => "Exited",
        Event::Pardon(_) => "Pardon",
        Event::Swept(_) => "Swept",
        Event::NotSwept(..) => "NotSwept",
        Event::Hurry => "Hurry",
        Event::Found(_) => "Found",
        Event::Tick => "Tick",
    }
}

#[test]
fn every_state_answers_every_event_as_the_table_says() {
    let mut lines = TABLE.lines().filter(|line| !line.is_empty());
    let states: Vec<&str> = lines.next().unwrap().split_whitespace().skip(1).collect();
    let mut wrong = Vec::new();
    let mut seen: BTreeMap<(String, String), usize> = BTreeMap::new();
    let mut variants = BTreeSet::new();
    for line in lines {
        let cells: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(cells.len(), states.len() + 1, "{line}");
        for (state, expected) in states.iter().zip(&cells[1..]) {
            *seen.entry((cells[0].to_owned(), (*state).to_owned())).or_default() += 1;
            for (event, now) in events(cells[0]) {
                variants.insert(variant(&event));
                let mut core = core_in(state);
                assert_eq!(name(core.state()), *state);
                let found = outcome(&mut core, event, now);
                if found != *expected {
                    wrong.push(format!("{state} + {}: {found}, not {expected}", cells[0]));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // None is missing: all names of `name`, 5 goals, 10 answers current and stale, and 8 others.
    assert_eq!(states.len(), 14);
    assert_eq!(seen.len(), 14 * (5 + 2 * 10 + 8));
    assert!(seen.values().all(|times| *times == 1));
    assert_eq!(variants.len(), 16, "{variants:?}");
}

#[test]
fn every_state_is_told_to_others_in_its_own_words() {
    let expected = [
        ("Stopped", None),
        ("Backoff", Some("backoff")),
        ("Checking", Some("starting")),
        ("Spawning", Some("starting")),
        ("Starting", Some("starting")),
        ("Ready", Some("ready")),
        ("Asked", Some("stopping")),
        ("Killed", Some("stopping")),
        ("Asked!", Some("stopping")),
        ("Killed!", Some("stopping")),
        ("Sweeping", Some("stopping")),
        ("Sweeping!", Some("stopping")),
        ("Failed", Some("failed")),
        ("Stuck", Some("stuck")),
    ];
    for (state, word) in expected {
        let report = core_in(state).report();
        assert_eq!(report.newest, Generation(CURRENT), "{state}");
        let held = report.held.map(|held| (held.phase.as_str(), held.generation, held.launch));
        let expected = word.map(|word| (word, Generation(CURRENT), launch("a")));
        assert_eq!(held, expected, "{state}");
    }
}

#[test]
fn only_states_with_a_bound_ask_for_a_tick() {
    for state in ["Backoff", "Starting", "Asked", "Killed", "Asked!", "Killed!"] {
        assert_eq!(core_in(state).next_tick(), Some(SOON), "{state}");
    }
    for state in
        ["Stopped", "Checking", "Spawning", "Ready", "Sweeping", "Sweeping!", "Failed", "Stuck"]
    {
        assert_eq!(core_in(state).next_tick(), None, "{state}");
    }
}
