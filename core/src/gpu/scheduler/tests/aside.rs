//! Examples of a GPU with room for a vLLM and Ollama.

use super::*;
use crate::gpu::lease::LeaseAsk;

const BOTH: GpuBudget = GpuBudget { residents: 2 };

fn both() -> SchedulerRules {
    SchedulerRules { beside_ollama: true, budget: BOTH, ..rules() }
}

/// `a` serves under 1, and Ollama is used beside it under 2.
fn together() -> Bench {
    let mut bench = Bench::serving(both(), "a", s(3));
    assert_eq!(told(&bench.admit(1, "ollama")), "open 2, grant 1 by 2");
    assert_eq!(told(&bench.admit(2, "a")), "grant 2 by 1");
    bench
}

fn ask(ticket: u64) -> LeaseAsk {
    LeaseAsk {
        ticket: t(ticket),
        token: "secret".into(),
        owner: "judge".into(),
        restart_model: true,
        ttl: s(900),
    }
}

#[test]
fn neither_waits_for_the_other_and_models_of_vllm_still_take_turns() {
    let mut bench = together();
    assert_eq!(bench.core.beside(), Some((g(2), 1)));
    assert_eq!(told(&bench.admit(3, "ollama")), "grant 3 by 2");
    bench.in_flight(1, 0);
    // A swap asks nothing of Ollama.
    assert_eq!(told(&bench.admit(4, "b")), "stop 1");
    assert_eq!(told(&bench.admit(5, "ollama")), "grant 5 by 2");
    assert_eq!(told(&bench.engine(nothing(2))), "run 3 b");
    assert_eq!(told(&bench.admit(6, "ollama")), "grant 6 by 2");
    assert_eq!(bench.core.beside(), Some((g(2), 4)));
}

#[test]
fn with_room_for_one_they_take_turns() {
    let one = SchedulerRules { budget: GpuBudget { residents: 1 }, ..both() };
    let mut bench = Bench::empty(one);
    assert_eq!(told(&bench.admit(1, "ollama")), "open 1, grant 1 by 1");
    assert_eq!(told(&bench.admit(2, "a")), "");
    assert_eq!(bench.core.beside(), None);
}

#[test]
fn a_lease_has_both_go_and_waits_for_what_they_have() {
    let mut bench = together();
    assert_eq!(told(&bench.on(Event::Lease(ask(9)))), "");
    assert_eq!(told(&bench.admit(3, "ollama")), "refuse 3: leased");
    assert_eq!(told(&bench.in_flight(1, 0)), "stop 1");
    assert_eq!(told(&bench.engine(nothing(2))), "");
    assert_eq!(told(&bench.in_flight(2, 0)), "vacate 2");
    // And once more, for what others have had it load meanwhile.
    assert_eq!(told(&bench.on(Event::Vacated(g(2), Ok(())))), "vacate 3");
    assert_eq!(told(&bench.on(Event::Vacated(g(3), Ok(())))), "lease 9 for judge");
    assert_eq!(bench.core.beside(), None);
}

#[test]
fn a_lease_cuts_what_ollama_has_after_its_bound_and_one_that_is_withdrawn_lets_it_be() {
    let mut bench = together();
    bench.on(Event::Lease(ask(9)));
    bench.in_flight(1, 0);
    bench.engine(nothing(2));
    let bound = bench.now + s(120);
    assert_eq!(told(&bench.tick_at(bound)), "cut 2");
    let mut bench = together();
    bench.on(Event::Lease(ask(9)));
    bench.abandon(9);
    assert_eq!(told(&bench.admit(3, "ollama")), "grant 3 by 2");
}

#[test]
fn an_ollama_that_would_not_go_costs_the_lease_and_nothing_else() {
    let mut bench = together();
    bench.on(Event::Lease(ask(9)));
    bench.in_flight(2, 0);
    let told = told(&bench.on(Event::Vacated(g(2), Err(crashed()))));
    assert_eq!(told, "no lease: refuse 9: failed");
    assert!(matches!(bench.core.gpu(), Gpu::Resident(_)));
}

#[test]
fn an_order_to_unload_waits_for_what_it_has_and_leaves_the_vllm_alone() {
    let mut bench = together();
    assert_eq!(bench.core.stopping(Side::Ollama), Stopping::WaitsFor(TenantId::Ollama, 1));
    assert_eq!(told(&bench.on(Event::Deactivate { side: Side::Ollama, force: false })), "");
    // Who comes now waits for it to come back.
    assert_eq!(told(&bench.admit(3, "ollama")), "");
    let why = bench.core.why(t(3), bench.now);
    assert!(matches!(why, Some(Why::Draining(TenantId::Ollama, 1))), "{why:?}");
    assert_eq!(told(&bench.in_flight(2, 0)), "vacate 2");
    assert_eq!(told(&bench.on(Event::OllamaForgot)), "vacate 2");
    assert_eq!(told(&bench.on(Event::Vacated(g(2), Ok(())))), "open 3, grant 3 by 3");
    let forced = bench.on(Event::Deactivate { side: Side::Ollama, force: true });
    assert_eq!(told(&forced), "cut 3");
    assert!(matches!(bench.core.gpu(), Gpu::Resident(_)));
}

#[test]
fn what_a_predecessor_had_granted_is_still_used() {
    let mut bench = Bench::unknown(both());
    bench.on(Event::OllamaInUse(g(7), 2));
    assert_eq!(bench.core.beside(), Some((g(7), 2)));
    bench.engine(report(5, "a", Phase::Ready));
    assert!(matches!(bench.core.gpu(), Gpu::Resident(r) if r.generation == g(5)));
    assert_eq!(told(&bench.admit(1, "ollama")), "grant 1 by 7");
}

#[test]
fn a_budget_that_grows_or_shrinks_ends_nothing_that_runs() {
    let one = GpuBudget { residents: 1 };
    let mut bench = Bench::empty(SchedulerRules { budget: one, ..both() });
    bench.admit(1, "ollama");
    bench.admit(2, "a");
    // There is room for both from now on: nobody need wait.
    let effects = bench.core.budget(BOTH, bench.now);
    assert_eq!(told(&effects), "run 2 a");
    assert_eq!(bench.core.beside(), Some((g(1), 1)));
    bench.ready(2, "a");
    // And from now on there is not: Ollama finishes what it has and goes.
    assert_eq!(told(&bench.core.budget(one, bench.now)), "");
    assert_eq!(told(&bench.in_flight(1, 0)), "vacate 1");
    bench.on(Event::Vacated(g(1), Ok(())));
    assert_eq!(bench.core.beside(), None);
    bench.in_flight(2, 0);
    assert_eq!(told(&bench.admit(3, "ollama")), "stop 2");
    assert_eq!(told(&bench.engine(nothing(2))), "open 3, grant 3 by 3");
    // Where nothing else is there, it only changes its name.
    bench.core.budget(BOTH, bench.now);
    assert_eq!((bench.core.gpu(), bench.core.beside()), (&Gpu::Empty, Some((g(3), 1))));
    bench.core.budget(one, bench.now);
    assert!(matches!(bench.core.gpu(), Gpu::Resident(r) if r.tenant == Tenant::Ollama));
}

#[test]
fn a_lease_hastens_an_ollama_that_closes_by_order() {
    let mut bench = Bench::empty(SchedulerRules { swap_drain: None, ..both() });
    assert_eq!(told(&bench.admit(1, "ollama")), "open 1, grant 1 by 1");
    bench.on(Event::Deactivate { side: Side::Ollama, force: false });
    bench.on(Event::Lease(ask(9)));
    let bound = bench.now + s(120);
    assert_eq!(told(&bench.tick_at(bound)), "cut 1");
}

#[test]
fn a_budget_that_shrinks_while_a_lease_drains_is_not_forgotten_with_it() {
    let mut bench = together();
    bench.on(Event::Lease(ask(9)));
    bench.core.budget(GpuBudget { residents: 1 }, bench.now);
    bench.abandon(9);
    assert_eq!(told(&bench.in_flight(2, 0)), "vacate 2");
}
