//! Who gets no turn, by example: bounds of the queue and of waiting, and requests that start
//! nothing.

use super::*;

#[test]
fn the_queue_is_bounded_and_who_is_granted_at_once_takes_no_place() {
    let mut bench = Bench::serving(SchedulerRules { max_queue: 2, ..rules() }, "a", s(10));
    for ticket in 1..=9 {
        assert_eq!(told(&bench.admit(ticket, "a")), format!("grant {ticket} by 1"));
    }
    bench.admit(10, "b");
    bench.admit(11, "c");
    let effects = bench.admit(12, "b");
    assert_eq!(told(&effects), "refuse 12: full");
    assert!(matches!(&effects[0], Effect::Refuse(_, Refusal::QueueFull { waiting: 2, .. })));
    assert_eq!(told(&bench.admit(13, "a")), "grant 13 by 1");
    // Who has gone makes room.
    bench.abandon(10);
    assert_eq!(told(&bench.admit(14, "b")), "");
}

#[test]
fn a_look_foresees_refusals_and_changes_nothing() {
    let mut bench = Bench::serving(SchedulerRules { max_queue: 1, ..rules() }, "a", s(10));
    let foreseen = |bench: &Bench, model: &str| {
        let before = format!("{:?}", bench.core);
        let refusal = bench.core.would_refuse(waiter(0, model, bench.now), bench.now);
        assert_eq!(format!("{:?}", bench.core), before);
        refusal
    };
    assert_eq!((foreseen(&bench, "a"), foreseen(&bench, "b")), (None, None));
    assert_eq!(told(&bench.admit(1, "a")), "grant 1 by 1");
    bench.admit(2, "b");
    assert_eq!(foreseen(&bench, "a"), None, "it is granted at once");
    assert!(matches!(foreseen(&bench, "c"), Some(Refusal::QueueFull { waiting: 1, .. })));
    bench.on(Event::Drain);
    assert_eq!(foreseen(&bench, "a"), Some(Refusal::Draining));
}

#[test]
fn a_newcomer_for_a_resident_that_is_about_to_close_needs_a_place_too() {
    let mut bench = Bench::serving(SchedulerRules { max_queue: 1, ..rules() }, "a", s(10));
    bench.admit(1, "a");
    bench.admit(2, "b");
    // The tick is due in this very moment and has not come yet.
    bench.now += s(120);
    assert_eq!(told(&bench.admit(3, "a")), "refuse 3: full");
    // So does one that is held back.
    let mut bench = Bench::unknown(SchedulerRules { max_queue: 0, ..rules() });
    bench.ready(1, "a");
    let again = Waiter { refused_by: Some(g(1)), ..waiter(1, "a", bench.now) };
    assert_eq!(told(&bench.on(Event::Admit(again))), "refuse 1: full");
}

#[test]
fn who_has_run_out_of_time_takes_no_place_from_a_newcomer() {
    let mut bench = Bench::serving(SchedulerRules { max_queue: 1, ..rules() }, "a", s(10));
    bench.admit(1, "a");
    bench.admit(2, "b");
    bench.now += s(600);
    assert_eq!(told(&bench.admit(3, "b")), "refuse 2: timeout");
    assert_eq!(bench.tickets(), [3]);
}

#[test]
fn a_wait_ends_exactly_at_its_limit() {
    let mut bench = Bench::serving(SchedulerRules { swap_wait: s(5000), ..rules() }, "a", s(10));
    bench.admit(1, "a");
    bench.admit(2, "b");
    let arrived = bench.now;
    bench.now += ms(599_999);
    assert_eq!(told(&bench.on(Event::Tick)), "");
    let effects = bench.tick_at(arrived + s(600));
    assert_eq!(told(&effects), "refuse 2: timeout");
    assert!(matches!(&effects[0],
        Effect::Refuse(_, Refusal::QueueTimeout { waited, .. }) if *waited == s(600)));
}

#[test]
fn a_wait_by_hand_that_came_later_hides_no_limit() {
    let mut bench = Bench::serving(SchedulerRules { swap_drain: None, ..rules() }, "a", s(10));
    bench.admit(1, "a");
    bench.admit(2, "b");
    let arrived = bench.now;
    bench.now += s(100);
    // By hand goes first in the queue, although it came later.
    bench.activate(3, "c");
    assert_eq!(told(&bench.tick_at(arrived + s(600))), "refuse 2: timeout");
    assert_eq!(told(&bench.tick_at(arrived + s(700))), "refuse 3: timeout");
}

#[test]
fn the_load_does_not_count_as_waiting() {
    let mut bench = Bench::empty(rules());
    bench.admit(1, "a");
    bench.admit(2, "b");
    let arrived = bench.now;
    assert_eq!(told(&bench.tick_at(arrived + s(600))), "refuse 2: timeout");
    bench.now += s(5000);
    assert_eq!(told(&bench.ready(1, "a")), "grant 1 by 1");
}

#[test]
fn where_requests_start_nothing_only_a_hand_does() {
    let off = SchedulerRules { start_on_request: false, ..rules() };
    let mut bench = Bench::empty(off.clone());
    assert_eq!(told(&bench.admit(1, "a")), "refuse 1: autostart off");
    assert_eq!(told(&bench.activate(2, "a")), "run 1 a");
    // They join what somebody asked for, in whatever state it is.
    assert_eq!(told(&bench.admit(3, "a")), "");
    assert_eq!(told(&bench.admit(4, "b")), "refuse 4: autostart off");
    bench.activate(5, "b");
    assert_eq!(told(&bench.admit(6, "b")), "");
    assert_eq!(told(&bench.ready(1, "a")), "activated 2, grant 3 by 1");
    assert_eq!(told(&bench.admit(7, "a")), "", "closing");
    // What it served is not brought back by a request.
    assert_eq!(told(&bench.in_flight(1, 0)), "stop 1");
    assert_eq!(told(&bench.engine(nothing(1))), "refuse 7: autostart off, run 2 b");
    assert_eq!(told(&bench.ready(2, "b")), "activated 5, grant 6 by 2");
}

#[test]
fn where_requests_start_nothing_they_stop_nothing_either() {
    let off = SchedulerRules { start_on_request: false, ..rules() };
    let mut bench = Bench::unknown(off);
    // Not known yet: perhaps it is there.
    assert_eq!(told(&bench.admit(1, "a")), "");
    assert_eq!(told(&bench.admit(2, "b")), "");
    assert_eq!(told(&bench.ready(1, "b")), "refuse 1: autostart off, grant 2 by 1");
    bench.in_flight(1, 0);
    assert_eq!(bench.core.next_tick(), None);
}

#[test]
fn where_requests_start_nothing_those_stay_whose_model_somebody_asked_for() {
    let off = SchedulerRules { start_on_request: false, ..rules() };
    let mut bench = Bench::serving(off, "c", s(10));
    bench.admit(1, "c");
    bench.activate(2, "a");
    bench.activate(3, "b");
    bench.admit(4, "b");
    bench.in_flight(1, 0);
    assert_eq!(told(&bench.engine(nothing(1))), "run 2 a", "4 waits for what comes after");
    bench.ready(2, "a");
    assert_eq!(told(&bench.engine(nothing(2))), "run 3 b");
    assert_eq!(told(&bench.ready(3, "b")), "activated 3, grant 4 by 3");
}

#[test]
fn where_requests_start_nothing_a_load_that_vanishes_is_begun_anew_only_for_a_hand() {
    let off = SchedulerRules { start_on_request: false, ..rules() };
    for (hand_goes, expected) in [(true, "refuse 2: autostart off"), (false, "run 2 a")] {
        let mut bench = Bench::empty(off.clone());
        bench.activate(1, "a");
        bench.admit(2, "a");
        if hand_goes {
            bench.abandon(1);
        }
        bench.fresh(report(1, "a", Phase::Leaving));
        assert_eq!(told(&bench.engine(nothing(1))), expected);
    }
}
