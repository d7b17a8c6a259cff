//! Leases: examples of each clause of SPEC 6.5.

use super::*;
use crate::gpu::LeaseToken;
use crate::gpu::lease::{Hold, Lease, LeaseAsk, LeaseOrder, LeaseOutcome};

fn told(effects: &[Effect]) -> String {
    words(effects).join(", ")
}

fn token() -> LeaseToken {
    "secret".into()
}

impl Bench {
    fn ask_lease(&mut self, ticket: u64) -> String {
        told(&self.on(Event::Lease(LeaseAsk {
            ticket: t(ticket),
            token: token(),
            owner: "judge".into(),
            restart_model: true,
            ttl: s(60),
        })))
    }

    fn order(&mut self, order: LeaseOrder) -> (LeaseOutcome, String) {
        let (outcome, effects) = self.core.on_lease(order, self.now);
        (outcome, told(&effects))
    }

    fn release(&mut self) -> (LeaseOutcome, String) {
        self.order(LeaseOrder::Release { token: token(), restart_model: None })
    }

    fn admit_with(&mut self, ticket: u64, name: &str, pass: &str) -> String {
        let who = Asker { pass: Some(pass.into()), ..Asker::default() };
        told(&self.on(Event::Admit(Waiter { who, ..waiter(ticket, name, self.now) })))
    }

    /// `a` was resident, and is leased away.
    fn leased(rules: SchedulerRules) -> Self {
        let mut bench = Bench::serving(rules, "a", s(5));
        assert_eq!(bench.ask_lease(50), "stop 1");
        assert_eq!(told(&bench.engine(nothing(1))), "lease 50 for judge");
        bench
    }
}

#[test]
fn what_runs_finishes_and_is_stopped_before_a_lease_is_granted() {
    let mut bench = Bench::serving(rules(), "a", s(5));
    bench.admit(1, "a");
    assert_eq!(bench.ask_lease(50), "");
    assert_eq!(told(&bench.admit(2, "a")), "refuse 2: leased");
    assert_eq!(told(&bench.activate(3, "b")), "refuse 3: leased");
    assert_eq!(bench.ask_lease(51), "no lease: refuse 51: lease busy");
    bench.now += s(5);
    assert_eq!(told(&bench.in_flight(1, 0)), "stop 1");
    assert_eq!(told(&bench.engine(nothing(1))), "lease 50 for judge");
    let Hold::Held { lease, .. } = bench.core.hold() else { panic!() };
    assert_eq!((lease.saved.as_ref(), lease.until), (Some(&"a".into()), bench.now + s(60)));
    assert_eq!(bench.ask_lease(52), "no lease: refuse 52: lease busy");
}

#[test]
fn what_runs_for_too_long_is_cut() {
    let mut bench = Bench::serving(rules(), "a", s(5));
    bench.admit(1, "a");
    let asked = bench.now;
    bench.ask_lease(50);
    assert_eq!(told(&bench.tick_at(asked + s(120))), "cut 1");
    assert_eq!(told(&bench.in_flight(1, 0)), "stop 1");
}

#[test]
fn a_load_is_given_up_for_a_lease_and_ollama_must_say_that_it_holds_nothing() {
    let beside = SchedulerRules { beside_ollama: true, ..rules() };
    let mut bench = Bench::empty(beside);
    bench.admit(1, "a");
    bench.on(Event::Vacated(g(1), Ok(())));
    assert_eq!(bench.ask_lease(50), "refuse 1: leased, stop 2");
    assert_eq!(told(&bench.engine(nothing(2))), "vacate 3");
    assert_eq!(told(&bench.on(Event::Vacated(g(3), Ok(())))), "lease 50 for judge");

    let mut bench = Bench::empty(SchedulerRules { beside_ollama: true, ..rules() });
    bench.ask_lease(50);
    let stays = Event::Vacated(g(1), Err(crashed()));
    assert_eq!(told(&bench.on(stays)), "no lease: refuse 50: failed");
    assert_eq!(*bench.core.hold(), Hold::Free);
}

#[test]
fn its_holder_passes_and_nobody_else_does() {
    let mut bench = Bench::leased(rules());
    assert_eq!(told(&bench.admit(1, "a")), "refuse 1: leased");
    assert_eq!(bench.admit_with(2, "a", "guess"), "refuse 2: leased");
    assert_eq!(bench.admit_with(3, "b", "secret"), "run 2 b");
    assert_eq!(told(&bench.ready(2, "b")), "grant 3 by 2");
    assert_eq!(told(&bench.admit(4, "b")), "refuse 4: leased", "also for what is there");
}

#[test]
fn who_may_wait_waits_and_is_served_when_it_ends() {
    let mut bench = Bench::leased(SchedulerRules { lease_wait: true, ..rules() });
    assert_eq!(told(&bench.admit(1, "b")), "");
    assert_eq!(bench.tickets(), [1]);
    let (outcome, words) = bench.release();
    assert_eq!(outcome, LeaseOutcome::Released);
    assert_eq!(words, "judge's lease released, restore a, run 2 b");
    // What was there before comes back only where nobody wants anything else.
    assert_eq!(told(&bench.on(Event::Restore(launch("a")))), "");
    assert_eq!(told(&bench.ready(2, "b")), "grant 1 by 2");
}

#[test]
fn what_was_there_comes_back() {
    let mut bench = Bench::leased(rules());
    assert_eq!(bench.release().1, "judge's lease released, restore a");
    let effects = bench.on(Event::Restore(launch("a")));
    let reason = Reason::Lease;
    let (from, because) = (None, Because::Lease);
    assert_eq!(effects[0], Effect::SwapBegan { from, to: model("a"), reason, because });
    assert_eq!(told(&effects), "run 2 a");
    bench.now += s(3);
    assert_eq!(told(&bench.ready(2, "a")), "");
    assert_eq!(told(&bench.admit(1, "a")), "grant 1 by 2");

    let mut bench = Bench::leased(rules());
    let order = LeaseOrder::Release { token: token(), restart_model: Some(false) };
    assert_eq!(bench.order(order).1, "judge's lease released");
}

#[test]
fn a_lease_dies_of_age_unless_it_is_renewed() {
    let mut bench = Bench::leased(rules());
    let granted = bench.now;
    bench.now = granted + s(50);
    let (outcome, _) = bench.order(LeaseOrder::Renew { token: token(), ttl: None });
    let LeaseOutcome::Renewed(lease) = outcome else { panic!("{outcome:?}") };
    assert_eq!(lease.until, granted + s(110));
    assert_eq!(told(&bench.tick_at(granted + s(110))), "judge's lease expired, restore a");
    // What has expired is nobody's any more.
    let (outcome, _) = bench.order(LeaseOrder::Renew { token: token(), ttl: None });
    assert_eq!((outcome, bench.release().0), (LeaseOutcome::WrongToken, LeaseOutcome::WrongToken));
}

#[test]
fn an_order_at_the_moment_of_its_death_comes_too_late() {
    let mut bench = Bench::leased(rules());
    bench.now += s(60);
    let (outcome, words) = bench.release();
    assert_eq!(
        (outcome, words.as_str()),
        (LeaseOutcome::WrongToken, "judge's lease expired, restore a")
    );
}

#[test]
fn force_ends_the_lease_that_is_meant() {
    let force = |owner: Option<&str>, token: Option<&str>, max_age| LeaseOrder::Force {
        owner: owner.map(str::to_owned),
        token: token.map(Into::into),
        max_age,
        restart_model: Some(false),
    };
    let mut bench = Bench::leased(rules());
    let other = LeaseOutcome::Other { owner: "judge".into() };
    bench.now += s(10);
    assert_eq!(bench.order(force(Some("somebody"), None, None)).0, other);
    assert_eq!(bench.order(force(None, Some("guess"), None)).0, other);
    assert_eq!(bench.order(force(None, None, Some(s(11)))).0, other);
    let (outcome, words) = bench.order(force(Some("judge"), None, Some(s(10))));
    assert_eq!((outcome, words.as_str()), (LeaseOutcome::Released, "judge's lease forced"));
    assert_eq!(bench.order(force(None, None, None)).0, LeaseOutcome::Idle);

    // One that is only being acquired too.
    let mut bench = Bench::serving(rules(), "a", s(5));
    bench.admit(1, "a");
    bench.ask_lease(50);
    let (outcome, words) = bench.order(force(None, None, None));
    assert_eq!((outcome, words.as_str()), (LeaseOutcome::Released, "no lease: refuse 50: stopped"));
    assert_eq!(told(&bench.admit(2, "a")), "grant 2 by 1", "it is open again");
}

#[test]
fn an_asker_who_goes_withdraws_and_what_made_room_comes_back() {
    let mut bench = Bench::serving(rules(), "a", s(5));
    bench.admit(1, "a");
    bench.ask_lease(50);
    assert_eq!(told(&bench.abandon(50)), "");
    assert_eq!(told(&bench.admit(2, "a")), "grant 2 by 1");

    let mut bench = Bench::serving(rules(), "a", s(5));
    assert_eq!(bench.ask_lease(50), "stop 1");
    assert_eq!(told(&bench.abandon(50)), "restore a");
    bench.on(Event::Restore(launch("a")));
    assert_eq!(told(&bench.engine(nothing(1))), "run 2 a");
}

#[test]
fn a_live_lease_wins_over_an_engine_that_was_taken_over() {
    let mut bench = Bench::unknown(rules());
    let lease = Lease {
        token: token(),
        owner: "judge".into(),
        restart_model: true,
        ttl: s(60),
        granted: Moment::ZERO,
        until: bench.now + s(30),
        saved: Some("b".into()),
    };
    assert_eq!(told(&bench.on(Event::LeaseKept { lease, clearing: true })), "");
    assert_eq!(told(&bench.fresh(report(1, "a", Phase::Ready))), "stop 1");
    assert_eq!(told(&bench.engine(nothing(1))), "");
    assert_eq!(bench.admit_with(1, "a", "secret"), "run 2 a");
    assert_eq!(told(&bench.tick_at(s(1030))), "judge's lease expired, restore b");
    // The holder's model is there: nothing else comes in its place.
    assert_eq!(told(&bench.on(Event::Restore(launch("b")))), "");
}

#[test]
fn nobody_leases_a_gpu_that_is_stuck_or_a_daemon_that_ends() {
    let mut bench = Bench::serving(rules(), "a", s(5));
    bench.engine(report(1, "a", Phase::Stuck(crashed())));
    assert_eq!(bench.ask_lease(50), "no lease: refuse 50: failed");
    let mut bench = Bench::serving(rules(), "a", s(5));
    bench.admit(1, "a");
    bench.ask_lease(50);
    assert_eq!(told(&bench.on(Event::Drain)), "no lease: refuse 50: draining");
    assert_eq!(bench.ask_lease(51), "no lease: refuse 51: draining");
}
