//! What a change of hands is weighed against, classes, clients, idle models: examples.

use super::*;
use crate::gpu::ClientId;

fn background(ticket: u64, name: &str, arrived: Moment) -> Waiter {
    let who = Asker { class: Class::Background, ..Asker::default() };
    Waiter { who, ..waiter(ticket, name, arrived) }
}

impl Bench {
    fn admit_background(&mut self, ticket: u64, model: &str) -> Vec<Effect> {
        self.on(Event::Admit(background(ticket, model, self.now)))
    }

    /// `a` serves, both ways of a change take `cost`, and people ask for `a` every `gap`.
    fn busy(rules: SchedulerRules, cost: Duration, gap: Duration) -> Self {
        let mut bench = Bench::serving(rules, "b", cost);
        bench.activate(98, "a");
        bench.engine(nothing(1));
        bench.now += cost;
        bench.ready(2, "a");
        for ticket in 90..95 {
            bench.now += gap;
            assert_eq!(told(&bench.admit(ticket, "a")), format!("grant {ticket} by 2"));
            bench.in_flight(2, 0);
        }
        bench
    }

    fn ticks_until(&mut self, end: Moment) -> Vec<(Moment, String)> {
        let mut all = Vec::new();
        while let Some(at) = self.core.next_tick().filter(|at| *at <= end) {
            self.now = at;
            let words = told(&self.on(Event::Tick));
            if !words.is_empty() {
                all.push((at, words));
            }
        }
        all
    }
}

fn told(effects: &[Effect]) -> String {
    words(effects).join(", ")
}

#[test]
fn a_quiet_resident_gives_way_at_once() {
    let mut bench = Bench::serving(rules(), "a", s(20));
    assert_eq!(told(&bench.admit(1, "b")), "stop 1");
}

#[test]
fn a_busy_resident_gives_way_when_waiting_has_cost_what_the_change_costs() {
    // Away for 40 s, asked for every 10 s: 40²/(2·10) = 80 s of waiting, of which 40 % count.
    let mut bench = Bench::busy(rules(), s(20), s(10));
    let came = bench.now;
    assert_eq!(told(&bench.admit(1, "b")), "");
    // Nobody comes: every second the next request for `a` is less likely. After 17.9 s a change
    // costs 0.4·40²/(2·17.9), and one has waited for just as long.
    let ticks = bench.ticks_until(came + s(60));
    let (at, words) = &ticks[0];
    assert_eq!(words, "stop 2");
    let waited = at.saturating_sub(came);
    assert!((ms(17_500)..ms(18_500)).contains(&waited), "{waited:?}");
}

#[test]
fn many_who_wait_weigh_more_than_one() {
    let mut bench = Bench::busy(rules(), s(20), s(10));
    let came = bench.now;
    for ticket in 1..=16 {
        assert_eq!(told(&bench.admit(ticket, "b")), "");
    }
    // 16 who wait for 2 s have waited for 32 s.
    assert_eq!(bench.ticks_until(came + s(60))[0], (came + s(2), "stop 2".to_owned()));
}

#[test]
fn a_bound_ends_all_weighing() {
    let rules = SchedulerRules { swap_wait: s(21), ..rules() };
    let mut bench = Bench::busy(rules, s(20), s(10));
    let came = bench.now;
    assert_eq!(told(&bench.admit(1, "b")), "");
    // Its bound less what the change takes.
    assert_eq!(bench.ticks_until(came + s(60))[0], (came + s(1), "stop 2".to_owned()));
}

#[test]
fn background_work_waits_until_people_have_been_gone_for_a_while() {
    let mut bench = Bench::serving(rules(), "a", s(2));
    bench.admit(1, "a");
    assert_eq!(told(&bench.admit_background(2, "b")), "");
    bench.now += s(5);
    assert_eq!(told(&bench.in_flight(1, 0)), "", "somebody worked with it just now");
    let ended = bench.now;
    assert_eq!(told(&bench.admit(3, "c")), "stop 1", "people need not wait for that");
    assert_eq!(bench.tickets(), [3, 2]);

    let mut bench = Bench::serving(rules(), "a", s(2));
    bench.admit(1, "a");
    bench.admit_background(2, "b");
    bench.now = ended;
    bench.in_flight(1, 0);
    assert_eq!(bench.ticks_until(ended + s(60))[0], (ended + s(20), "stop 1".to_owned()));
}

#[test]
fn background_work_has_a_bound_too_but_not_against_a_pinned_model() {
    let patient = SchedulerRules { max_wait: None, ..rules() };
    let at_work = |pinned: bool| {
        let mut bench = Bench::serving(patient.clone(), "a", s(2));
        let keep = Keep { idle_unload: None, pinned };
        bench.core.keep(Arc::new([("a".into(), keep)].into()));
        bench.admit(1, "a");
        let came = bench.now;
        bench.admit_background(2, "b");
        (bench, came)
    };
    let (mut bench, came) = at_work(false);
    bench.now = came + s(600);
    assert_eq!(told(&bench.on(Event::Tick)), "", "`a` is in use, and drains first");
    assert!(matches!(bench.core.gpu(), Gpu::Resident(r) if r.closing.is_some()));
    assert_eq!(told(&bench.in_flight(1, 0)), "stop 1");

    let (mut bench, came) = at_work(true);
    bench.now = came + s(600);
    bench.on(Event::Tick);
    assert_eq!(told(&bench.in_flight(1, 0)), "", "pinned");
    assert_eq!(told(&bench.admit(3, "b")), "stop 1", "not against people");
}

#[test]
fn clients_take_turns_where_there_is_not_room_for_all_and_people_come_first() {
    let limit = SchedulerRules { max_concurrent: Some(1), ..rules() };
    let mut bench = Bench::serving(limit, "a", s(2));
    assert_eq!(told(&bench.admit(1, "a")), "grant 1 by 1");
    let from = |ticket: u64, client: u64, class: Class, now: Moment| {
        let who = Asker { class, client: ClientId(client), ..Asker::default() };
        Event::Admit(Waiter { who, ..waiter(ticket, "a", now) })
    };
    for ticket in 2..=4 {
        assert_eq!(told(&bench.on(from(ticket, 7, Class::Interactive, bench.now))), "");
    }
    bench.on(from(5, 8, Class::Background, bench.now));
    bench.on(from(6, 9, Class::Interactive, bench.now));
    let mut order = Vec::new();
    for _ in 0..5 {
        order.extend(words(&bench.in_flight(1, 0)));
    }
    let want = ["grant 2 by 1", "grant 6 by 1", "grant 3 by 1", "grant 4 by 1", "grant 5 by 1"];
    assert_eq!(order, want);
}

#[test]
fn a_change_serves_its_whole_batch_although_there_is_room_for_one_only() {
    let limit = SchedulerRules { max_concurrent: Some(1), swap_wait: s(10), ..rules() };
    let mut bench = Bench::empty(limit);
    for ticket in 1..=3 {
        bench.admit(ticket, "a");
    }
    assert_eq!(told(&bench.ready(1, "a")), "grant 1 by 1");
    bench.admit(4, "b");
    bench.now += s(20);
    assert_eq!(told(&bench.admit(5, "a")), "", "behind `b`, whose bound is over");
    assert_eq!(told(&bench.in_flight(1, 0)), "grant 2 by 1", "but these were there");
    assert_eq!(told(&bench.in_flight(1, 0)), "grant 3 by 1");
    assert_eq!(told(&bench.in_flight(1, 0)), "stop 1");
}

#[test]
fn a_model_that_nobody_uses_is_stopped_after_its_time() {
    let idle = SchedulerRules { idle_unload: Some(s(60)), ..rules() };
    let mut bench = Bench::serving(idle.clone(), "a", s(2));
    let ready = bench.now;
    bench.now += s(50);
    bench.admit(1, "a");
    bench.now += s(30);
    bench.in_flight(1, 0);
    assert_eq!(bench.core.next_tick(), Some(ready + s(140)));
    bench.now = ready + s(140);
    let effects = bench.on(Event::Tick);
    let unload = Effect::Unload { of: model("a"), reason: Reason::Idle };
    assert_eq!(effects, [unload, Effect::Stop(g(1))]);
    for keep in
        [Keep { idle_unload: None, pinned: false }, Keep { idle_unload: Some(s(1)), pinned: true }]
    {
        let mut bench = Bench::serving(idle.clone(), "a", s(2));
        bench.core.keep(Arc::new([("a".into(), keep)].into()));
        bench.on(Event::Tick);
        assert_eq!(bench.core.next_tick(), None, "{keep:?}");
    }
}

#[test]
fn who_wants_what_is_there_is_served_by_it_or_told_that_it_is_gone() {
    let there = |ticket: u64, name: &str, now: Moment| {
        let who = Asker { only_there: true, ..Asker::default() };
        Event::Admit(Waiter { who, ..waiter(ticket, name, now) })
    };
    let mut bench = Bench::empty(rules());
    assert_eq!(told(&bench.on(there(1, "a", bench.now))), "refuse 1: no resident");
    bench.admit(2, "a");
    assert_eq!(told(&bench.on(there(3, "a", bench.now))), "", "it joins the load");
    assert_eq!(told(&bench.ready(1, "a")), "grant 2 by 1, grant 3 by 1");
    assert_eq!(told(&bench.on(there(4, "b", bench.now))), "refuse 4: no resident");
    assert_eq!(told(&bench.on(there(5, "a", bench.now))), "grant 5 by 1");
}

#[test]
fn what_somebody_loaded_by_hand_is_not_taken_for_background_work_at_once() {
    let mut bench = Bench::serving(rules(), "a", s(2));
    let loaded = bench.now;
    let who = Asker { class: Class::Background, ..Asker::default() };
    let waiting = Waiter { who, ..waiter(1, "b", bench.now) };
    assert_eq!(told(&bench.on(Event::Admit(waiting))), "");
    let why = bench.core.why(t(1), bench.now);
    assert!(matches!(why, Some(Why::People(_, Some(at))) if at == loaded + s(20)), "{why:?}");
}
