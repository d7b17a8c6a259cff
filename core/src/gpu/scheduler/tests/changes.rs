//! What the engine does, and what is ordered by hand, by example.

use super::*;

#[test]
fn a_load_that_fails_refuses_those_who_waited_for_it_and_goes_on_with_the_next() {
    let mut bench = Bench::empty(rules());
    bench.admit(1, "a");
    bench.admit(2, "b");
    bench.admit(3, "a");
    assert_eq!(told(&bench.engine(report(1, "a", Phase::Leaving))), "", "why is not known yet");
    let effects = bench.engine(report(1, "a", Phase::Failed(crashed())));
    assert_eq!(told(&effects), "refuse 1: failed, refuse 3: failed, run 2 b");
    assert_eq!(effects[0], Effect::Refuse(t(1), Refusal::Failed(crashed())));
}

#[test]
fn a_crash_with_requests_in_flight_cuts_them_if_they_are_still_there_after_two_seconds() {
    let mut bench = Bench::serving(rules(), "a", s(10));
    bench.admit(1, "a");
    bench.admit(2, "a");
    bench.now += s(5);
    assert_eq!(told(&bench.engine(report(1, "a", Phase::Leaving))), "");
    assert_eq!(bench.core.stopping(Side::Vllm), Stopping::Now(model("a")));
    let died = bench.now;
    bench.in_flight(1, 1);
    assert_eq!(told(&bench.tick_at(died + s(2))), "cut 1");
    assert_eq!(told(&bench.on(Event::Tick)), "", "once");
    assert_eq!(told(&bench.engine(report(1, "a", Phase::Failed(crashed())))), "");
    assert_eq!(*bench.core.gpu(), Gpu::Empty);
    // Those that have seen it by themselves are not.
    let mut bench = Bench::serving(rules(), "a", s(10));
    bench.admit(1, "a");
    bench.engine(report(1, "a", Phase::Leaving));
    bench.in_flight(1, 0);
    assert_eq!(bench.core.next_tick(), None);
    bench.now += s(3);
    assert_eq!(told(&bench.on(Event::Tick)), "");
}

#[test]
fn those_in_flight_are_also_cut_when_a_new_scheduler_first_hears_of_the_end() {
    let mut bench = Bench::unknown(rules());
    let report = report(1, "a", Phase::Leaving);
    bench.on(Event::Engine { report, in_flight: 2, fresh: false });
    assert_eq!(told(&bench.tick_at(s(1002))), "cut 1");
}

#[test]
fn a_crash_starts_the_model_again_for_those_who_come() {
    let mut bench = Bench::serving(rules(), "a", s(10));
    bench.admit(1, "a");
    bench.engine(report(1, "a", Phase::Leaving));
    assert_eq!(told(&bench.admit(2, "a")), "");
    assert_eq!(told(&bench.engine(report(1, "a", Phase::Failed(crashed())))), "run 2 a");
    assert_eq!(told(&bench.engine(report(2, "a", Phase::BackingOff))), "");
    assert_eq!(told(&bench.ready(2, "a")), "grant 2 by 2");
}

#[test]
fn what_cannot_be_ended_is_named_to_all_and_starts_nothing() {
    let stuck = || Phase::Stuck(Cause::Stuck { who: "pid 7".into() });
    let mut bench = Bench::serving(rules(), "a", s(10));
    bench.admit(1, "b");
    assert_eq!(told(&bench.engine(report(1, "a", stuck()))), "refuse 1: failed");
    assert_eq!(told(&bench.admit(2, "a")), "refuse 2: failed");
    assert_eq!(told(&bench.engine(report(1, "a", Phase::Leaving))), "", "at last");
    assert_eq!(told(&bench.admit(3, "b")), "");
    assert_eq!(told(&bench.engine(nothing(1))), "run 2 b");
}

#[test]
fn who_waited_for_the_first_report_is_told_too_that_something_is_stuck() {
    let mut bench = Bench::unknown(rules());
    bench.admit(1, "b");
    let phase = Phase::Stuck(Cause::Stuck { who: "pid 7".into() });
    assert_eq!(told(&bench.engine(report(1, "a", phase))), "refuse 1: failed");
}

#[test]
fn an_older_engine_that_cannot_be_ended_is_an_answer_for_the_load_behind_it() {
    let mut bench = Bench::empty(rules());
    bench.engine(nothing(4));
    assert_eq!(told(&bench.admit(1, "b")), "run 5 b");
    // A new supervisor found another one alive, and will start 5 behind it.
    assert_eq!(told(&bench.fresh(report(4, "a", Phase::Leaving))), "run 5 b");
    let phase = Phase::Stuck(Cause::Stuck { who: "pid 7".into() });
    let held = Some(Held { generation: g(4), launch: launch("a"), phase });
    assert_eq!(
        told(&bench.engine(EngineReport { held, newest: g(5), broken: Vec::new() })),
        "refuse 1: failed"
    );
    // It ended after all, and what had been asked for comes.
    bench.engine(report(5, "b", Phase::Starting));
    assert_eq!(told(&bench.admit(2, "b")), "");
    assert_eq!(told(&bench.ready(5, "b")), "grant 2 by 5");
}

#[test]
fn the_time_that_something_was_stuck_is_not_taken_for_a_load() {
    let mut bench = Bench::serving(rules(), "a", s(10));
    bench.admit(1, "b");
    let phase = Phase::Stuck(Cause::Stuck { who: "pid 7".into() });
    bench.engine(report(1, "a", phase));
    bench.now += s(9000);
    bench.engine(report(2, "b", Phase::Starting));
    bench.now += s(5);
    let took = Effect::SwapDone { to: model("b"), reason: Reason::Request, took: s(5) };
    assert!(bench.ready(2, "b").contains(&took));
}

#[test]
fn an_order_to_stop_lets_finish_what_runs_and_refuses_who_waits_for_it() {
    let mut bench = Bench::serving(rules(), "a", s(10));
    bench.admit(1, "a");
    bench.activate(2, "b");
    bench.admit(3, "a");
    assert_eq!(told(&bench.stop(false)), "refuse 3: stopped");
    assert_eq!(bench.core.stopping(Side::Vllm), Stopping::WaitsFor(model("a"), 1));
    assert_eq!(told(&bench.in_flight(1, 0)), "stop 1");
    assert_eq!(told(&bench.engine(nothing(1))), "run 2 b");
}

#[test]
fn an_order_to_stop_by_force_cuts_what_runs_at_once() {
    let mut bench = Bench::serving(SchedulerRules { swap_drain: None, ..rules() }, "a", s(10));
    bench.admit(1, "a");
    assert_eq!(told(&bench.stop(true)), "cut 1");
    assert_eq!(told(&bench.on(Event::Tick)), "");
    assert_eq!(told(&bench.in_flight(1, 0)), "stop 1");
    // First in peace and then by force.
    let mut bench = Bench::serving(rules(), "a", s(10));
    bench.admit(1, "a");
    assert_eq!(told(&bench.stop(false)), "");
    assert_eq!(told(&bench.stop(true)), "cut 1");
}

#[test]
fn an_order_in_peace_gives_no_more_time_than_there_was() {
    let mut bench = Bench::serving(rules(), "a", s(10));
    bench.admit(1, "a");
    bench.activate(2, "b");
    let closed = bench.now;
    bench.now += s(20);
    bench.stop(false);
    assert_eq!(told(&bench.tick_at(closed + s(30))), "cut 1");
    bench.stop(false);
    assert_eq!(bench.core.next_tick(), Some(closed + s(600)), "it is cut already");
}

#[test]
fn an_idle_or_loading_model_stops_at_once_by_order() {
    let mut bench = Bench::serving(rules(), "a", s(10));
    assert_eq!(bench.core.stopping(Side::Vllm), Stopping::Now(model("a")));
    assert_eq!(told(&bench.stop(false)), "stop 1");
    let mut bench = Bench::empty(rules());
    assert_eq!(bench.core.stopping(Side::Vllm), Stopping::Idle);
    assert_eq!(told(&bench.stop(false)), "");
    bench.admit(1, "a");
    bench.admit(2, "b");
    assert_eq!(told(&bench.stop(false)), "refuse 1: stopped, stop 1");
    assert_eq!(told(&bench.engine(nothing(1))), "run 2 b");
}

#[test]
fn old_news_change_nothing() {
    // While start 2 loads: all that can still come of start 1.
    let mut bench = Bench::serving(rules(), "a", s(10));
    bench.admit(1, "b");
    bench.engine(nothing(1));
    let of_one = [
        nothing(1),
        report(1, "a", Phase::Starting),
        report(1, "a", Phase::Ready),
        report(1, "a", Phase::Leaving),
        report(1, "a", Phase::Failed(crashed())),
    ];
    let of_two = [report(2, "b", Phase::Starting), report(2, "b", Phase::BackingOff)];
    for old in &of_one {
        assert_eq!(told(&bench.engine(old.clone())), "", "{old:?}");
        assert!(matches!(bench.core.gpu(), Gpu::Loading(Generation(2), ..)), "{old:?}");
    }
    bench.ready(2, "b");
    for old in of_one.iter().chain(&of_two) {
        assert_eq!(told(&bench.engine(old.clone())), "", "{old:?}");
        assert!(matches!(bench.core.gpu(), Gpu::Resident(Resident { in_flight: 1, .. })));
    }
    assert_eq!(told(&bench.in_flight(1, 7)), "", "a count of an older start");
    bench.engine(report(2, "b", Phase::Failed(crashed())));
    for old in of_one.iter().chain(&of_two).chain(&[report(2, "b", Phase::Ready)]) {
        assert_eq!(told(&bench.engine(old.clone())), "", "{old:?}");
        assert_eq!(*bench.core.gpu(), Gpu::Empty, "{old:?}");
    }
    assert_eq!(told(&bench.admit(2, "a")), "run 3 a");
}

#[test]
fn old_news_do_not_free_what_is_stuck() {
    let mut bench = Bench::serving(rules(), "a", s(10));
    bench.load_other("b");
    bench.engine(report(2, "b", Phase::Stuck(Cause::Stuck { who: "pid 7".into() })));
    for old in [nothing(1), report(1, "a", Phase::Ready), report(2, "b", Phase::Ready)] {
        assert_eq!(told(&bench.engine(old)), "");
        assert!(matches!(bench.core.gpu(), Gpu::Stuck(_)));
    }
}

#[test]
fn a_report_from_before_the_last_one_does_not_free_what_is_stuck() {
    let mut bench = Bench::serving(rules(), "a", s(10));
    let of_one = |phase, newest| {
        let held = Some(Held { generation: g(1), launch: launch("a"), phase });
        EngineReport { held, newest: g(newest), broken: Vec::new() }
    };
    // The supervisor has heard of start 2 meanwhile.
    bench.engine(of_one(Phase::Stuck(Cause::Stuck { who: "pid 7".into() }), 2));
    bench.engine(of_one(Phase::Leaving, 1));
    assert!(matches!(bench.core.gpu(), Gpu::Stuck(_)));
    bench.engine(of_one(Phase::Leaving, 2));
    assert!(matches!(bench.core.gpu(), Gpu::Clearing(_)));
}

impl Bench {
    fn load_other(&mut self, model: &str) {
        self.activate(500, model);
        self.engine(nothing(1));
        self.ready(2, model);
    }
}

#[test]
fn a_new_supervisor_that_never_heard_of_a_start_is_told_again() {
    let mut bench = Bench::empty(rules());
    assert_eq!(told(&bench.admit(1, "a")), "run 1 a");
    assert_eq!(told(&bench.fresh(nothing(0))), "run 1 a");
    assert_eq!(told(&bench.ready(1, "a")), "grant 1 by 1");
}

#[test]
fn a_load_that_a_new_supervisor_only_sweeps_up_is_begun_anew() {
    let mut bench = Bench::empty(rules());
    bench.admit(1, "a");
    // It found start 1 dead: it has heard of it, and will not start it under that number again.
    assert_eq!(told(&bench.fresh(report(1, "a", Phase::Leaving))), "");
    assert_eq!(told(&bench.engine(nothing(1))), "run 2 a");
    assert_eq!(told(&bench.ready(2, "a")), "grant 1 by 2");
}

#[test]
fn what_is_left_of_an_older_start_that_failed_says_that_nothing_runs() {
    let failed = |newest| {
        let phase = Phase::Failed(crashed());
        let held = Some(Held { generation: g(2), launch: launch("a"), phase });
        EngineReport { held, newest: g(newest), broken: Vec::new() }
    };
    let mut bench = Bench::empty(rules());
    bench.engine(nothing(2));
    assert_eq!(told(&bench.admit(1, "a")), "run 3 a");
    bench.admit(2, "b");
    // Start 2 was a predecessor's order. 3 is taken back while 2 still goes, and so never begins.
    assert_eq!(told(&bench.abandon(1)), "stop 3");
    assert_eq!(told(&bench.engine(failed(2))), "", "it has not heard of 3");
    assert_eq!(told(&bench.engine(failed(3))), "run 4 b");
}

#[test]
fn what_was_stuck_may_be_taken_over_by_a_new_supervisor() {
    let mut bench = Bench::serving(rules(), "a", s(10));
    bench.engine(report(1, "a", Phase::Stuck(Cause::Stuck { who: "pid 7".into() })));
    bench.fresh(report(1, "a", Phase::Starting));
    bench.ready(1, "a");
    assert_eq!(told(&bench.admit(1, "a")), "grant 1 by 1");
}

#[test]
fn that_an_adopted_engine_is_ready_is_news_for_those_whom_it_had_refused() {
    let mut bench = Bench::unknown(rules());
    bench.fresh(report(1, "a", Phase::Starting));
    let again = Waiter { refused_by: Some(g(1)), ..waiter(1, "a", bench.now) };
    bench.on(Event::Admit(again));
    assert_eq!(told(&bench.ready(1, "a")), "grant 1 by 1");
}

#[test]
fn a_new_supervisor_that_takes_over_what_is_to_go_is_told_so() {
    let mut bench = Bench::serving(rules(), "a", s(10));
    assert_eq!(told(&bench.admit(1, "b")), "stop 1");
    assert_eq!(told(&bench.fresh(report(1, "a", Phase::Starting))), "stop 1");
    assert_eq!(told(&bench.fresh(nothing(0))), "run 2 b", "or it found nothing");
}

#[test]
fn a_resident_that_a_new_supervisor_takes_over_goes_on_serving() {
    let mut bench = Bench::serving(rules(), "a", s(10));
    bench.admit(1, "a");
    let adopted = report(1, "a", Phase::Starting);
    let event = Event::Engine { report: adopted, in_flight: 1, fresh: true };
    assert_eq!(told(&bench.on(event)), "");
    assert_eq!(told(&bench.admit(2, "a")), "grant 2 by 1");
    assert_eq!(told(&bench.ready(1, "a")), "");
    assert_eq!(bench.core.stopping(Side::Vllm), Stopping::WaitsFor(model("a"), 2));
    // One that it did not find is gone.
    assert_eq!(told(&bench.fresh(nothing(0))), "");
    assert_eq!(told(&bench.admit(3, "a")), "run 2 a");
}

#[test]
fn a_new_scheduler_stops_nothing_that_is_in_use() {
    // Its supervisor was new as well, and asks an adopted engine whether it is well.
    let mut bench = Bench::unknown(rules());
    let adopted = report(1, "a", Phase::Starting);
    bench.on(Event::Engine { report: adopted, in_flight: 3, fresh: true });
    assert_eq!(told(&bench.admit(1, "b")), "");
    let ready = report(1, "a", Phase::Ready);
    assert_eq!(told(&bench.on(Event::Engine { report: ready, in_flight: 3, fresh: false })), "");
    assert_eq!(told(&bench.in_flight(1, 0)), "stop 1");
}

#[test]
fn a_new_scheduler_follows_a_start_that_its_predecessor_had_asked_for() {
    // The first report that it hears is from before the supervisor took up start 2.
    for phase in [Phase::Ready, Phase::Leaving, Phase::Starting] {
        let mut bench = Bench::unknown(rules());
        bench.engine(report(1, "a", phase.clone()));
        bench.engine(report(2, "b", Phase::Starting));
        assert_eq!(told(&bench.ready(2, "b")), "", "{phase:?}");
        assert_eq!(told(&bench.admit(1, "b")), "grant 1 by 2", "{phase:?}");
    }
}

#[test]
fn bounds_without_end_overflow_nothing() {
    let endless = SchedulerRules {
        max_wait: Some(Duration::MAX),
        swap_wait: Duration::MAX,
        swap_drain: Some(Duration::MAX),
        ..rules()
    };
    let mut bench = Bench::serving(endless, "a", s(0));
    bench.admit(1, "a");
    bench.admit(2, "b");
    bench.activate(3, "b");
    bench.stop(false);
    assert!(bench.core.next_tick().is_some());
    assert_eq!(told(&bench.in_flight(1, 0)), "stop 1");
}
