//! Single rules, by example.

use super::*;

/// Up to a serving engine: start 1 of model `a`, ready in second 10.
fn serving() -> Lifecycle {
    led(up(1, "a", 0))
}

/// The events that bring a start up within ten seconds.
fn up(generation: u64, model: &str, from: u64) -> [(u64, Event); 4] {
    let of = Generation(generation);
    [
        (from, run(generation, model)),
        (from, Event::PortFree(of)),
        (from, spawned(generation)),
        (from + 10, Event::Healthy(of)),
    ]
}

/// A start that fails at once because the port is taken.
fn fail(core: &mut Lifecycle, generation: u64, model: &str, at: Moment) {
    core.on(run(generation, model), at);
    core.on(Event::Tick, at);
    assert_eq!(name(core.state()), "Checking");
    core.on(Event::PortTaken(Generation(generation), "pid 7 (x)".into()), at);
    assert_eq!(name(core.state()), "Failed");
}

fn cause(core: &Lifecycle) -> Cause {
    match core.state() {
        State::Failed(_, _, cause) | State::Stuck(_, cause) => cause.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_start_goes_from_the_port_to_the_process_to_ready_and_down_again() {
    let mut core = Lifecycle::new(rules());
    let g = Generation(1);
    let steps = [
        (run(1, "a"), "Checking/c"),
        (Event::PortFree(g), "Spawning/s"),
        (spawned(1), "Starting/w"),
        (Event::Healthy(g), "Ready/r"),
        (down(), "Asked/t"),
        (exited(1), "Sweeping/x"),
        (Event::Swept(g), "Stopped/f"),
    ];
    for (event, expected) in steps {
        assert_eq!(outcome(&mut core, event, s(1)), expected);
    }
    assert_eq!((core.last_error(), core.restarts()), (None, 0));
}

#[test]
fn a_swap_starts_the_new_engine_only_when_the_old_one_is_swept() {
    let mut core = serving();
    assert_eq!(outcome(&mut core, run(2, "b"), s(20)), "Asked/t");
    assert_eq!(outcome(&mut core, exited(1), s(21)), "Sweeping/x");
    let effects = core.on(Event::Swept(Generation(1)), s(22));
    assert_eq!(
        effects,
        [Effect::Forget(Generation(1)), Effect::CheckPort(Generation(2), launch("b").port)]
    );
}

#[test]
fn what_was_spawned_for_nobody_is_watched_and_told_to_go_at_once() {
    for goal in [down(), run(2, "b")] {
        let mut core = led([(0, run(1, "a")), (0, Event::PortFree(Generation(1))), (0, goal)]);
        assert_eq!(outcome(&mut core, spawned(1), s(1)), "Asked/wt");
    }
}

#[test]
fn a_loading_engine_has_the_short_grace_and_a_serving_one_the_long() {
    let mut core = serving();
    core.on(down(), s(20));
    assert_eq!(core.next_tick(), Some(s(50)));
    let mut core = led(up(1, "a", 0).into_iter().take(3));
    core.on(down(), s(5));
    assert_eq!(core.next_tick(), Some(s(8)));
}

#[test]
fn what_does_not_end_is_killed_and_then_stuck_and_nothing_starts_beside_it() {
    let mut core = serving();
    core.on(down(), s(20));
    assert_eq!(outcome(&mut core, Event::Tick, s(50)), "Killed/k");
    assert_eq!(core.next_tick(), Some(s(60)));
    assert_eq!(outcome(&mut core, Event::Tick, s(60)), "Stuck");
    assert!(cause(&core).to_string().contains("1001"), "it names the process");
    assert_eq!(outcome(&mut core, run(2, "b"), s(61)), "-");
    assert!(matches!(core.report().held.unwrap().phase, Phase::Stuck(_)));
    // At last it ends, and what is wanted by now is started.
    assert_eq!(outcome(&mut core, exited(1), s(90)), "Sweeping/x");
    assert_eq!(outcome(&mut core, Event::Swept(Generation(1)), s(91)), "Checking/fc");
}

#[test]
fn to_be_stuck_is_an_answer_and_that_start_is_not_begun_again() {
    // Too slow, and not even SIGKILL ends it: the goal is still the same start.
    let mut core = led(up(1, "a", 0).into_iter().take(3));
    assert_eq!(outcome(&mut core, Event::Tick, s(600)), "Asked!/t");
    assert_eq!(outcome(&mut core, Event::Tick, s(603)), "Killed!/k");
    assert_eq!(outcome(&mut core, Event::Tick, s(613)), "Stuck");
    // Another process under the old number could not be told from the old one.
    assert_eq!(outcome(&mut core, Event::Swept(Generation(1)), s(620)), "Stopped/f");
    // The same after a crash whose orphans stay.
    let mut core = serving();
    core.on(exited(1), s(20));
    assert_eq!(outcome(&mut core, Event::NotSwept(Generation(1), "pid 9".into()), s(30)), "Stuck");
    assert_eq!(outcome(&mut core, Event::Swept(Generation(1)), s(40)), "Stopped/f");
}

#[test]
fn a_start_that_was_asked_for_while_it_was_stuck_comes_when_it_is_gone() {
    let mut core = serving();
    core.on(exited(1), s(20));
    core.on(run(2, "b"), s(21));
    core.on(Event::NotSwept(Generation(1), "pid 9".into()), s(30));
    assert_eq!(outcome(&mut core, Event::Swept(Generation(1)), s(40)), "Checking/fc");
}

#[test]
fn pauses_double_up_to_a_minute_and_are_of_that_model_alone() {
    let mut core = Lifecycle::new(rules());
    let mut now = s(10);
    for (failures, pause) in [2, 4, 8, 16, 32, 60, 60].into_iter().enumerate() {
        let generation = 10 * u64::try_from(failures).unwrap();
        fail(&mut core, generation + 1, "a", now);
        // Another model starts at once; without success, so that nothing else changes.
        assert_eq!(outcome(&mut core, run(generation + 2, "b"), now), "Checking/c");
        core.on(down(), now);
        assert_eq!(outcome(&mut core, run(generation + 3, "a"), now), "Backoff");
        assert_eq!(core.next_tick(), Some(now + s(pause)));
        now += s(pause);
    }
}

#[test]
fn a_pause_of_any_length_is_a_minute_at_most_and_overflows_nothing() {
    let mut rules = rules();
    rules.backoff = Duration::MAX;
    let mut core = Lifecycle::new(rules);
    for failures in 1..=20 {
        fail(&mut core, failures, "a", s(100 * failures));
    }
    core.on(run(30, "a"), s(2001));
    assert_eq!(core.next_tick(), Some(s(2060)));
}

#[test]
fn bounds_without_end_overflow_nothing() {
    let endless = LifecycleRules {
        stop_timeout: Duration::MAX,
        loading_stop_grace: Duration::MAX,
        kill_grace: Duration::MAX,
        backoff: Duration::MAX,
        adopt_timeout: Duration::MAX,
        breaker: BreakerRules { failures: 1, window: Duration::MAX, open: Duration::MAX },
    };
    let mut patient = Launch::clone(&launch("a"));
    patient.start_timeout = Duration::MAX;
    let mut core = Lifecycle::new(endless.clone());
    core.on(Event::Goal(Goal::Run(Generation(1), Arc::new(patient))), s(1));
    for event in [Event::PortFree(Generation(1)), spawned(1), down(), Event::Hurry] {
        core.on(event, s(1));
    }
    assert_eq!(name(core.state()), "Killed");
    let mut core = Lifecycle::new(endless);
    core.on(found(true, true, false), s(100));
    assert_eq!(core.next_tick(), Some(Duration::MAX));
}

#[test]
fn an_engine_that_served_for_a_minute_has_a_clean_record() {
    for (served, pause) in [(59, 4), (60, 2)] {
        let mut core = Lifecycle::new(rules());
        fail(&mut core, 1, "a", s(0));
        for (at, event) in up(2, "a", 10) {
            core.on(event, s(at));
        }
        let crash = s(20 + served);
        core.on(exited(2), crash);
        core.on(Event::Swept(Generation(2)), crash);
        core.on(run(3, "a"), crash);
        assert_eq!(core.next_tick(), Some(crash + s(pause)), "after {served} s");
    }
}

#[test]
fn a_stop_that_was_wanted_causes_no_pause() {
    let mut core = serving();
    core.on(down(), s(20));
    core.on(exited(1), s(21));
    core.on(Event::Swept(Generation(1)), s(21));
    assert_eq!(outcome(&mut core, run(2, "a"), s(21)), "Checking/c");
    assert_eq!(core.restarts(), 0);
}

#[test]
fn a_pause_ends_when_something_else_is_wanted() {
    let mut core = Lifecycle::new(rules());
    fail(&mut core, 1, "a", s(0));
    core.on(run(2, "a"), s(1));
    assert_eq!(outcome(&mut core, run(3, "b"), s(1)), "Checking/c");
    let mut core = Lifecycle::new(rules());
    fail(&mut core, 1, "a", s(0));
    core.on(run(2, "a"), s(1));
    assert_eq!(outcome(&mut core, down(), s(1)), "Stopped");
    assert_eq!(outcome(&mut core, Event::Tick, s(9)), "-");
}

#[test]
fn each_way_to_fail_has_its_cause_and_its_words() {
    let of = Generation(1);
    let telling = || Some("ValueError: no".to_owned());
    let status = || "exit code 0".to_owned();
    let loading = || led(up(1, "a", 0).into_iter().take(3));
    let swept = |mut core: Lifecycle| {
        core.on(Event::Swept(of), s(650));
        core
    };
    let failed = [
        // Exit code 0 that nobody asked for is a failure as any other.
        (
            swept(led_on(loading(), exited(1), 5)),
            Cause::EndedAtStart { status: status(), telling: telling() },
        ),
        (
            swept(led_on(serving(), exited(1), 20)),
            Cause::Crashed { status: status(), telling: telling() },
        ),
        (
            led_on(led([(0, run(1, "a"))]), Event::PortTaken(of, "pid 7 (x)".into()), 1),
            Cause::PortTaken { port: launch("a").port, by: "pid 7 (x)".into() },
        ),
        (
            led_on(
                led(up(1, "a", 0).into_iter().take(2)),
                Event::NotSpawned(of, "no such file".into()),
                1,
            ),
            Cause::NotStarted { message: "no such file".into() },
        ),
        (
            swept(led_on(led_on(loading(), Event::Silent(of, s(180)), 200), exited(1), 201)),
            Cause::Silent { after: s(180) },
        ),
        // The bound, and not when the tick came: the machine may have slept.
        (
            swept(led_on(led_on(loading(), Event::Tick, 640), exited(1), 641)),
            Cause::TooSlow { after: START },
        ),
    ];
    for (core, expected) in failed {
        assert_eq!(cause(&core), expected);
        assert_eq!(core.last_error(), Some(format!("a: {}", expected.in_full()).as_str()));
    }
}

fn led_on(mut core: Lifecycle, event: Event, at: u64) -> Lifecycle {
    core.on(event, s(at));
    core
}

#[test]
fn a_stranger_on_the_port_is_named_and_nothing_is_ended() {
    let mut core = led([(0, run(1, "a"))]);
    let effects = core.on(Event::PortTaken(Generation(1), "pid 7 (x)".into()), s(3));
    assert!(effects.is_empty(), "{effects:?}");
    assert!(core.last_error().unwrap().contains("pid 7 (x)"));
}

#[test]
fn a_failed_start_is_over_until_a_new_one_is_asked_for() {
    let mut core = Lifecycle::new(rules());
    fail(&mut core, 1, "a", s(0));
    for event in [run(1, "a"), Event::Tick, Event::PortFree(Generation(1)), down(), Event::Hurry] {
        assert_eq!(outcome(&mut core, event, s(100)), "-");
    }
    assert_eq!(outcome(&mut core, run(2, "a"), s(100)), "Checking/c");
}

#[test]
fn starts_after_a_failure_are_counted_as_restarts() {
    let mut core = Lifecycle::new(rules());
    fail(&mut core, 1, "a", s(0));
    assert_eq!(core.restarts(), 0);
    for (at, event) in up(2, "b", 10).into_iter().take(3) {
        core.on(event, s(at));
    }
    assert_eq!(core.restarts(), 0, "another model's");
    core.on(exited(2), s(11));
    core.on(Event::Swept(Generation(2)), s(11));
    for (at, event) in up(3, "a", 20) {
        core.on(event, s(at));
    }
    assert_eq!(core.restarts(), 1);
    // It gives way to another model and comes back: nothing has failed since.
    for event in [down(), exited(3), Event::Swept(Generation(3))] {
        core.on(event, s(30));
    }
    for (at, event) in up(4, "a", 40) {
        core.on(event, s(at));
    }
    assert_eq!(core.restarts(), 1, "a swap is no restart");
}

fn found(alive: bool, wanted: bool, was_ready: bool) -> Event {
    let engine = Engine {
        generation: Generation(7),
        launch: launch("a"),
        process: process(7),
        spawned: s(40),
    };
    Event::Found(Found { engine, alive, wanted, was_ready })
}

#[test]
fn an_adopted_engine_that_was_ready_must_answer_soon_and_a_half_loaded_one_by_its_own_deadline() {
    let mut core = led([(100, found(true, true, true))]);
    assert_eq!(core.next_tick(), Some(s(120)));
    assert_eq!(core.report().newest, Generation(7));
    assert_eq!(outcome(&mut core, Event::Healthy(Generation(7)), s(101)), "Ready/r");
    assert_eq!(outcome(&mut core, run(7, "a"), s(102)), "-", "it is there already");
    let core = led([(100, found(true, true, false))]);
    assert_eq!(core.next_tick(), Some(s(640)));
    // Its own deadline is over or nearly so: it gets the time of one look.
    let core = led([(639, found(true, true, false))]);
    assert_eq!(core.next_tick(), Some(s(659)));
}

#[test]
fn a_found_engine_that_nobody_wants_is_stopped_and_a_dead_ones_orphans_are_swept() {
    let mut core = led([(100, found(true, false, true))]);
    assert_eq!(name(core.state()), "Asked");
    assert_eq!(outcome(&mut core, run(8, "b"), s(101)), "-");
    core.on(exited(7), s(102));
    assert_eq!(outcome(&mut core, Event::Swept(Generation(7)), s(103)), "Checking/fc");
    let mut core = led([(100, found(false, true, true))]);
    assert_eq!(outcome(&mut core, run(8, "b"), s(101)), "-");
    assert_eq!(outcome(&mut core, Event::Swept(Generation(7)), s(103)), "Checking/fc");
}

/// A start that comes up and crashes at once.
fn crash(core: &mut Lifecycle, generation: u64, at: u64) {
    for event in [run(generation, "a"), Event::Tick] {
        core.on(event, s(at));
    }
    let of = Generation(generation);
    for event in [Event::PortFree(of), spawned(generation), Event::Healthy(of)] {
        core.on(event, s(at));
    }
    assert_eq!(name(core.state()), "Ready");
    core.on(exited(generation), s(at + 1));
    core.on(Event::Swept(of), s(at + 1));
    assert_eq!(name(core.state()), "Failed");
}

/// Four crashes; the breaker is open from second 301 to 371.
fn in_a_crash_loop() -> Lifecycle {
    let mut core = Lifecycle::new(rules());
    for generation in 1..=4 {
        assert!(core.report().broken.is_empty());
        crash(&mut core, generation, 60 + generation * 60);
    }
    core
}

#[test]
fn a_crash_loop_is_refused_at_once_with_its_last_failure_and_without_a_try() {
    let mut core = in_a_crash_loop();
    assert_eq!(core.report().broken.len(), 1);
    assert_eq!(outcome(&mut core, run(5, "a"), s(311)), "Failed");
    let Cause::CrashLoop { failures, left, last } = cause(&core) else { panic!("{core:?}") };
    assert_eq!((failures, left, last.telling()), (4, s(60), Some("ValueError: no")));
    // The refusal was no failure, and others are started.
    assert_eq!(outcome(&mut core, run(6, "b"), s(312)), "Checking/c");
    assert_eq!(core.report().broken[0].until, s(371));
}

#[test]
fn one_start_is_let_through_and_its_failure_opens_the_breaker_for_twice_as_long() {
    let mut core = in_a_crash_loop();
    crash(&mut core, 5, 371);
    assert_eq!(core.report().broken[0].until, s(372 + 140));
    assert_eq!(outcome(&mut core, run(6, "a"), s(511)), "Failed");
    assert_eq!(outcome(&mut core, run(7, "a"), s(512)), "Checking/c");
}

#[test]
fn long_service_an_order_by_hand_or_a_changed_entry_closes_the_breaker() {
    let mut core = in_a_crash_loop();
    core.on(pardon("a"), s(302));
    assert_eq!(outcome(&mut core, run(5, "a"), s(302)), "Checking/c");
    assert!(core.report().broken.is_empty());

    let mut core = in_a_crash_loop();
    let mut changed = Launch::clone(&launch("a"));
    changed.served_id = "other".into();
    let goal = Goal::Run(Generation(5), Arc::new(changed));
    assert_eq!(outcome(&mut core, Event::Goal(goal), s(302)), "Checking/c");

    let mut core = in_a_crash_loop();
    for event in up(5, "a", 400) {
        core.on(event.1, s(event.0));
    }
    core.on(down(), s(409 + 60));
    assert_eq!(core.report().broken.len(), 1, "not yet");
    let mut core = in_a_crash_loop();
    for event in up(5, "a", 400) {
        core.on(event.1, s(event.0));
    }
    core.on(down(), s(410 + 60));
    assert!(core.report().broken.is_empty());
}

#[test]
fn an_engine_that_does_not_answer_its_probes_is_ended_with_the_short_grace_and_has_failed() {
    let mut core = serving();
    assert_eq!(outcome(&mut core, unhealthy(1), s(20)), "Asked!/t");
    assert_eq!(core.next_tick(), Some(s(23)));
    core.on(exited(1), s(21));
    core.on(Event::Swept(Generation(1)), s(21));
    let expected =
        Cause::Unhealthy { what: "status 503".into(), telling: Some("ValueError: no".into()) };
    assert_eq!(cause(&core), expected);
    assert_eq!(name(core.state()), "Failed");
}

#[test]
fn who_is_hurried_while_a_process_is_being_made_does_not_wait_for_it_either() {
    let mut core = led([(0, run(1, "a")), (0, Event::PortFree(Generation(1))), (1, down())]);
    assert_eq!(outcome(&mut core, Event::Hurry, s(1)), "-");
    assert_eq!(outcome(&mut core, spawned(1), s(2)), "Killed/wtk");
}
