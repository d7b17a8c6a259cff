//! The rules of the queue, by example: whose turn it is, and who closes the resident.

use super::*;

#[test]
fn until_the_first_report_nothing_is_decided() {
    let mut bench = Bench::unknown(rules());
    for (ticket, model) in [(1, "a"), (2, "b")] {
        assert_eq!(told(&bench.admit(ticket, model)), "");
    }
    assert_eq!(told(&bench.on(Event::Tick)), "");
    assert_eq!(told(&bench.ready(7, "b")), "grant 2 by 7");
    // Nobody learns later than that, and numbers go on behind what was used.
    let mut bench = Bench::unknown(rules());
    bench.admit(1, "a");
    assert_eq!(told(&bench.engine(nothing(7))), "run 8 a");
}

#[test]
fn requests_for_the_resident_are_granted_at_once() {
    let mut bench = Bench::serving(rules(), "a", s(10));
    for ticket in 1..=5 {
        assert_eq!(told(&bench.admit(ticket, "a")), format!("grant {ticket} by 1"));
    }
    assert_eq!(bench.core.stopping(Side::Vllm), Stopping::WaitsFor(model("a"), 5));
}

#[test]
fn a_grant_says_how_long_it_waited_for_a_turn_and_how_long_for_the_load() {
    let mut bench = Bench::serving(rules(), "a", s(10));
    bench.admit(1, "a");
    bench.admit(2, "b");
    bench.now += s(7);
    assert_eq!(told(&bench.in_flight(1, 0)), "stop 1");
    bench.now += s(2);
    assert_eq!(told(&bench.engine(nothing(1))), "run 2 b");
    bench.now += s(4);
    bench.admit(3, "b");
    bench.now += s(6);
    let effects = bench.ready(2, "b");
    let times = effects.iter().filter_map(|effect| match effect {
        Effect::Grant { ticket, queued, loading, .. } => Some((ticket.0, *queued, *loading)),
        _ => None,
    });
    assert_eq!(times.collect::<Vec<_>>(), [(2, s(9), s(10)), (3, s(0), s(6))]);
    let done = Effect::SwapDone { to: model("b"), reason: Reason::Request, took: s(12) };
    assert!(effects.contains(&done), "{effects:?}");
}

#[test]
fn a_swap_is_told_with_where_from_where_to_and_why() {
    let mut bench = Bench::empty(rules());
    let began = |from: Option<&str>, to: &str, reason, because| Effect::SwapBegan {
        from: from.map(model),
        to: model(to),
        reason,
        because,
    };
    let first = began(None, "a", Reason::Manual, Because::ByHand);
    assert_eq!(bench.activate(1, "a")[1], first);
    bench.now += s(5);
    let done = Effect::SwapDone { to: model("a"), reason: Reason::Manual, took: s(5) };
    assert!(bench.ready(1, "a").contains(&done));
    let effects = bench.admit(2, "b");
    let because = Because::Worth { waiting: 1, waited: s(0), cost: s(0) };
    let second = began(Some("a"), "b", Reason::Request, because);
    assert!(effects.contains(&second), "{effects:?}");
    assert_eq!(bench.engine(nothing(1)), [Effect::Run(g(2), launch("b"))], "told once");
}

#[test]
fn the_resident_closes_when_the_oldest_waiter_has_waited_for_its_bound() {
    let mut bench = Bench::serving(rules(), "a", s(10));
    bench.admit(1, "a");
    bench.admit(2, "b");
    let arrived = bench.now;
    bench.now += ms(119_999);
    assert_eq!(told(&bench.admit(3, "a")), "grant 3 by 1");
    assert_eq!(told(&bench.tick_at(arrived + s(120))), "");
    // From now on it only finishes what it has.
    assert_eq!(told(&bench.admit(4, "a")), "");
    assert_eq!(told(&bench.in_flight(1, 1)), "");
    assert_eq!(told(&bench.in_flight(1, 0)), "stop 1");
    assert_eq!(told(&bench.engine(report(1, "a", Phase::Leaving))), "");
    assert_eq!(told(&bench.engine(nothing(1))), "run 2 b");
    assert_eq!(told(&bench.ready(2, "b")), "grant 2 by 2");
}

#[test]
fn what_a_swap_takes_counts_into_the_bound() {
    let mut bench = Bench::serving(rules(), "b", s(50));
    // `b` took 50 s from nothing, and `a` takes 10 s from `b`.
    bench.activate(1, "a");
    bench.engine(nothing(1));
    bench.now += s(10);
    bench.ready(2, "a");
    bench.admit(2, "a");
    bench.admit(3, "b");
    assert_eq!(bench.core.next_tick(), Some(bench.now + s(70)));
    // From `a` it took 10 s: that is another pair.
    bench.in_flight(2, 0);
    bench.engine(nothing(2));
    bench.now += s(10);
    bench.ready(3, "b");
    bench.in_flight(3, 0);
    bench.load_after_stop("a", 4);
    bench.admit(5, "a");
    bench.admit(6, "b");
    assert_eq!(bench.core.next_tick(), Some(bench.now + s(120 - 10)));
}

impl Bench {
    /// A swap by hand that takes no time.
    fn load_after_stop(&mut self, model: &str, generation: u64) {
        self.activate(1000 + generation, model);
        self.engine(nothing(generation - 1));
        self.ready(generation, model);
    }
}

#[test]
fn who_asks_by_hand_closes_the_resident_at_once_and_goes_first() {
    let mut bench = Bench::serving(rules(), "a", s(10));
    bench.admit(1, "a");
    bench.admit(2, "b");
    assert_eq!(told(&bench.activate(3, "c")), "");
    assert_eq!(told(&bench.admit(4, "a")), "", "closing");
    assert_eq!(bench.tickets(), [3, 2, 4]);
    assert_eq!(told(&bench.in_flight(1, 0)), "stop 1");
    assert_eq!(told(&bench.engine(nothing(1))), "run 2 c");
    assert_eq!(told(&bench.ready(2, "c")), "activated 3, stop 2", "nobody uses it");
    assert_eq!(told(&bench.engine(nothing(2))), "run 3 b");
}

#[test]
fn asking_by_hand_for_what_is_resident_is_answered_at_once_and_takes_no_permit() {
    let mut bench = Bench::serving(rules(), "a", s(10));
    assert_eq!(told(&bench.activate(1, "a")), "activated 1");
    assert_eq!(bench.core.stopping(Side::Vllm), Stopping::Now(model("a")));
}

#[test]
fn an_idle_resident_gives_way_to_whoever_waits_longest() {
    let mut bench = Bench::serving(rules(), "a", s(10));
    bench.admit(1, "a");
    bench.admit(2, "b");
    bench.now += s(1);
    bench.admit(3, "c");
    assert_eq!(told(&bench.in_flight(1, 0)), "stop 1");
    assert_eq!(told(&bench.engine(nothing(1))), "run 2 b");
    // And with nobody in flight, at once.
    let mut bench = Bench::serving(rules(), "a", s(10));
    assert_eq!(told(&bench.admit(1, "b")), "stop 1");
}

#[test]
fn a_swap_serves_the_whole_batch_before_the_next_waiter_closes_it() {
    let mut bench = Bench::serving(rules(), "a", s(10));
    bench.admit(1, "a");
    bench.admit(2, "b");
    bench.admit(3, "c");
    bench.in_flight(1, 0);
    bench.engine(nothing(1));
    bench.now += s(300);
    bench.admit(4, "b");
    // `c` has been due for long; still all of `b` are served, and then none.
    assert_eq!(told(&bench.ready(2, "b")), "grant 2 by 2, grant 4 by 2");
    assert_eq!(told(&bench.admit(5, "b")), "");
    assert_eq!(told(&bench.in_flight(2, 1)), "");
    assert_eq!(told(&bench.in_flight(2, 0)), "stop 2");
    assert_eq!(told(&bench.engine(nothing(2))), "run 3 c");
}

#[test]
fn when_the_waiter_that_closed_the_resident_goes_it_opens_again() {
    let mut bench = Bench::serving(rules(), "a", s(10));
    bench.admit(1, "a");
    bench.activate(2, "b");
    assert_eq!(told(&bench.admit(3, "a")), "");
    assert_eq!(told(&bench.abandon(2)), "grant 3 by 1");
    // But not after an order to stop.
    assert_eq!(told(&bench.stop(false)), "");
    assert_eq!(told(&bench.admit(4, "a")), "");
    bench.activate(5, "b");
    assert_eq!(told(&bench.abandon(5)), "");
    assert_eq!(told(&bench.in_flight(1, 0)), "stop 1");
}

#[test]
fn requests_for_a_model_that_is_not_there_cause_one_start() {
    let mut bench = Bench::empty(rules());
    assert_eq!(told(&bench.admit(1, "a")), "run 1 a");
    for ticket in 2..50 {
        assert_eq!(told(&bench.admit(ticket, "a")), "");
    }
    assert_eq!(words(&bench.ready(1, "a")).len(), 49);
}

#[test]
fn a_load_that_nobody_waits_for_goes_on_and_becomes_an_idle_resident() {
    let mut bench = Bench::empty(rules());
    bench.admit(1, "a");
    assert_eq!(told(&bench.abandon(1)), "");
    assert_eq!(told(&bench.ready(1, "a")), "");
    assert_eq!(told(&bench.admit(2, "a")), "grant 2 by 1");
}

#[test]
fn a_load_that_nobody_waits_for_is_stopped_for_those_who_wait_for_another() {
    let mut bench = Bench::empty(rules());
    bench.admit(1, "a");
    bench.admit(2, "b");
    assert_eq!(told(&bench.abandon(1)), "stop 1");
    // Not before it is gone, not even if it says that it is ready.
    assert_eq!(told(&bench.ready(1, "a")), "");
    assert_eq!(told(&bench.engine(report(1, "a", Phase::Leaving))), "");
    assert_eq!(told(&bench.engine(nothing(1))), "run 2 b");
    // The other one may also come later.
    let mut bench = Bench::empty(rules());
    bench.admit(1, "a");
    bench.abandon(1);
    assert_eq!(told(&bench.admit(2, "b")), "stop 1");
}

#[test]
fn what_runs_on_a_closing_resident_is_cut_once_after_the_drain_limit() {
    let mut bench = Bench::serving(rules(), "a", s(10));
    bench.admit(1, "a");
    bench.activate(2, "b");
    let closed = bench.now;
    bench.now += s(10);
    // A second one does not get the first one's time anew.
    bench.activate(3, "c");
    assert_eq!(told(&bench.tick_at(closed + s(30))), "cut 1");
    bench.now += s(100);
    assert_eq!(told(&bench.on(Event::Tick)), "");
    assert_eq!(told(&bench.in_flight(1, 0)), "stop 1");
}

#[test]
fn without_a_drain_limit_nothing_is_ever_cut_by_a_swap() {
    let mut bench = Bench::serving(SchedulerRules { swap_drain: None, ..rules() }, "a", s(10));
    bench.admit(1, "a");
    bench.activate(2, "b");
    bench.now += s(500_000);
    assert_eq!(told(&bench.on(Event::Tick)), "refuse 2: timeout");
}

#[test]
fn a_refused_request_waits_for_news_of_its_engine_but_not_for_long() {
    let again = |bench: &Bench| Waiter { refused_by: Some(g(1)), ..waiter(1, "a", bench.now) };
    let mut bench = Bench::serving(rules(), "a", s(10));
    let waiter = again(&bench);
    assert_eq!(told(&bench.on(Event::Admit(waiter))), "");
    assert_eq!(told(&bench.admit(2, "a")), "grant 2 by 1", "others go on");
    let asked = bench.now;
    assert_eq!(told(&bench.tick_at(asked + ms(250))), "grant 1 by 1");
    // News: it is dead. Another start is not to blame.
    let mut bench = Bench::serving(rules(), "a", s(10));
    let waiter = again(&bench);
    bench.on(Event::Admit(waiter));
    bench.now += ms(100);
    assert_eq!(told(&bench.engine(report(1, "a", Phase::Leaving))), "");
    assert_eq!(told(&bench.engine(report(1, "a", Phase::Failed(crashed())))), "run 2 a");
    assert_eq!(told(&bench.ready(2, "a")), "grant 1 by 2");
}

#[test]
fn a_request_that_asks_again_keeps_its_place_before_whoever_closes_the_resident() {
    let mut bench = Bench::serving(rules(), "a", s(10));
    bench.admit(1, "a");
    bench.admit(2, "a");
    let came = bench.now;
    bench.now += s(5);
    bench.admit(3, "b");
    bench.now += s(120);
    bench.on(Event::Tick);
    assert_eq!(told(&bench.admit(4, "a")), "", "closing");
    // The engine dropped it; it was there before `b` and does not queue behind it.
    bench.in_flight(1, 1);
    let again = Waiter { refused_by: Some(g(1)), asked: bench.now, ..waiter(5, "a", came) };
    assert_eq!(told(&bench.on(Event::Admit(again))), "");
    // Nor is the engine stopped only to be started for it again.
    assert_eq!(told(&bench.in_flight(1, 0)), "");
    let asked = bench.now;
    assert_eq!(told(&bench.tick_at(asked + ms(250))), "grant 5 by 1");
    assert_eq!(told(&bench.in_flight(1, 0)), "stop 1");
    assert_eq!(told(&bench.engine(nothing(1))), "run 2 b");
}

#[test]
fn who_is_let_in_before_the_one_it_closes_for_has_the_whole_drain_limit() {
    let mut bench = Bench::serving(rules(), "a", s(10));
    bench.admit(1, "a");
    let began = bench.now;
    bench.activate(2, "b");
    bench.now += s(1);
    assert_eq!(told(&bench.admit(3, "a")), "");
    bench.now += s(1);
    bench.activate(4, "c");
    bench.tick_at(began + s(30));
    bench.abandon(2);
    // By hand `c` goes first, also before 3. Not so a request that came later than 3.
    assert_eq!(bench.tickets(), [4, 3]);
    bench.now = began + s(40);
    bench.admit(5, "b");
    bench.now = began + s(200);
    assert_eq!(told(&bench.abandon(4)), "grant 3 by 1", "5 is due by now");
    assert_eq!(told(&bench.admit(6, "a")), "");
    assert_eq!(told(&bench.tick_at(began + s(230))), "cut 1");
}

#[test]
fn a_closing_resident_that_is_asked_for_by_hand_is_not_stopped_to_be_started_again() {
    let mut bench = Bench::serving(rules(), "a", s(10));
    bench.admit(1, "a");
    bench.admit(2, "b");
    bench.now += s(120);
    bench.on(Event::Tick);
    assert_eq!(told(&bench.activate(3, "a")), "activated 3");
    assert_eq!(told(&bench.admit(4, "a")), "", "it still closes for `b`");
    assert_eq!(told(&bench.in_flight(1, 0)), "stop 1");
    assert_eq!(told(&bench.engine(nothing(1))), "run 2 b");
}

#[test]
fn a_held_back_request_asks_for_no_tick_while_it_cannot_be_granted() {
    let mut bench = Bench::serving(rules(), "a", s(10));
    bench.admit(1, "a");
    bench.activate(2, "b");
    let closed = bench.now;
    let again = Waiter { refused_by: Some(g(1)), ..waiter(3, "a", closed) };
    bench.on(Event::Admit(again));
    bench.now += s(1);
    assert_eq!(told(&bench.on(Event::Tick)), "");
    assert_eq!(bench.core.next_tick(), Some(closed + s(30)), "no moment of the past");
}

#[test]
fn when_the_daemon_ends_nobody_waits_any_more() {
    let mut bench = Bench::serving(rules(), "a", s(10));
    bench.admit(1, "a");
    bench.activate(2, "b");
    bench.admit(3, "a");
    let mut refused = words(&bench.on(Event::Drain));
    refused.sort();
    assert_eq!(refused, ["refuse 2: draining", "refuse 3: draining"]);
    assert_eq!(told(&bench.admit(4, "a")), "refuse 4: draining");
    assert_eq!(told(&bench.in_flight(1, 0)), "", "the engine is its supervisor's");
}

fn in_a_crash_loop(model: &str, until: Moment) -> Broken {
    Broken { launch: launch(model), failures: 3, cause: crashed(), until }
}

#[test]
fn a_model_in_a_crash_loop_is_refused_at_once_and_nothing_is_stopped_for_it() {
    let mut bench = Bench::serving(rules(), "a", s(10));
    bench.admit(1, "a");
    bench.in_flight(1, 1);
    let until = bench.now + s(60);
    let mut news = report(1, "a", Phase::Ready);
    news.broken = vec![in_a_crash_loop("b", until)];
    // Those who wait are told when it is known, and those who come later when they come.
    bench.admit(2, "b");
    assert_eq!(told(&bench.engine(news)), "refuse 2: failed");
    let effects = bench.admit(3, "b");
    let [Effect::Refuse(_, Refusal::Failed(Cause::CrashLoop { left, .. }))] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert_eq!(*left, s(60));
    // Others are not concerned, and in the end one start is let through.
    assert_eq!(told(&bench.admit(4, "a")), "grant 4 by 1");
    bench.in_flight(1, 0);
    bench.now = until;
    assert_eq!(told(&bench.admit(5, "b")), "stop 1");
}

#[test]
fn a_model_in_a_crash_loop_can_be_asked_for_by_hand_and_is_then_there_for_all() {
    let mut bench = Bench::empty(rules());
    let mut news = nothing(0);
    news.broken = vec![in_a_crash_loop("a", bench.now + s(60))];
    bench.engine(news);
    assert_eq!(told(&bench.admit(1, "a")), "refuse 1: failed");
    let effects = bench.activate(2, "a");
    assert_eq!(effects[0], Effect::Pardon("a".into()), "before the start: {effects:?}");
    assert_eq!(told(&effects), "run 1 a");
    assert_eq!(told(&bench.admit(3, "a")), "");
    assert_eq!(told(&bench.ready(1, "a")), "activated 2, grant 3 by 1");
}

#[test]
fn a_load_that_nobody_waits_for_goes_on_until_its_grace_has_passed() {
    let mut bench = Bench::empty(rules());
    bench.admit(1, "a");
    assert_eq!(told(&bench.abandon(1)), "");
    assert_eq!(bench.core.next_tick(), None, "it goes on");

    let impatient = SchedulerRules { abandoned_grace: Some(s(20)), ..rules() };
    let mut bench = Bench::empty(impatient);
    bench.admit(1, "a");
    let left = bench.now + s(5);
    bench.now = left;
    bench.abandon(1);
    assert_eq!(bench.core.next_tick(), Some(left + s(20)));
    // Somebody comes back for it, and goes again: it begins anew.
    bench.now = left + s(19);
    bench.admit(2, "a");
    bench.now = left + s(30);
    assert_eq!(told(&bench.abandon(2)), "");
    assert_eq!(told(&bench.tick_at(left + s(50))), "stop 1");
}
