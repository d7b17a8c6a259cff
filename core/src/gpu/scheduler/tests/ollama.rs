//! Examples of the turns between a vLLM and Ollama.

use super::*;

fn shared() -> SchedulerRules {
    SchedulerRules { beside_ollama: true, ..rules() }
}

fn vacated(bench: &mut Bench, generation: u64) -> Vec<Effect> {
    bench.on(Event::Vacated(g(generation), Ok(())))
}

/// `Bench::load` for a model that shares the GPU with Ollama: start 2, behind the asking.
fn serving(model: &str) -> Bench {
    let mut bench = Bench::empty(shared());
    assert_eq!(told(&bench.activate(99, model)), "vacate 1");
    assert_eq!(told(&vacated(&mut bench, 1)), format!("run 2 {model}"));
    bench.now += s(3);
    assert_eq!(told(&bench.ready(2, model)), "activated 99");
    bench
}

#[test]
fn ollama_has_an_empty_gpu_at_once_and_all_its_models_share_it() {
    let mut bench = Bench::empty(shared());
    assert_eq!(told(&bench.admit(1, "ollama")), "open 1, grant 1 by 1");
    assert_eq!(told(&bench.admit(2, "ollama")), "grant 2 by 1");
    assert_eq!(bench.core.stopping(Side::Ollama), Stopping::WaitsFor(TenantId::Ollama, 2));
    assert_eq!(bench.core.stopping(Side::Vllm), Stopping::Idle);
}

#[test]
fn before_a_vllm_starts_ollama_is_asked_whether_it_holds_anything() {
    let mut bench = Bench::empty(shared());
    assert_eq!(told(&bench.admit(1, "a")), "vacate 1");
    assert!(matches!(bench.core.gpu(), Gpu::Clearing(_)));
    // Asked again of an older start, or by nobody: no answer.
    assert_eq!(told(&bench.on(Event::Vacated(g(7), Ok(())))), "");
    assert_eq!(told(&vacated(&mut bench, 1)), "run 2 a");
    // Once per start: what was empty a swap ago may be full now.
    bench.ready(2, "a");
    bench.in_flight(2, 0);
    assert_eq!(told(&bench.admit(2, "b")), "stop 2");
    assert_eq!(told(&bench.engine(nothing(2))), "vacate 3");
    assert_eq!(told(&vacated(&mut bench, 3)), "run 4 b");
}

#[test]
fn a_yes_is_for_the_one_who_asked() {
    let mut bench = Bench::empty(shared());
    bench.admit(1, "a");
    bench.abandon(1);
    assert_eq!(told(&vacated(&mut bench, 1)), "");
    assert_eq!(*bench.core.gpu(), Gpu::Empty);
    assert_eq!(told(&bench.admit(2, "a")), "vacate 2");
}

#[test]
fn an_ollama_that_stays_is_told_to_those_who_wait_for_a_vllm() {
    let mut bench = Bench::empty(shared());
    bench.admit(1, "a");
    bench.admit(2, "b");
    bench.admit(3, "ollama");
    let cause = Cause::OllamaStays { why: "m:latest is still loaded".into() };
    let told = told(&bench.on(Event::Vacated(g(1), Err(cause))));
    assert_eq!(told, "refuse 1: failed, refuse 2: failed, open 2, grant 3 by 2");
}

#[test]
fn ollama_gives_way_like_any_resident_and_gets_it_back() {
    let mut bench = Bench::empty(shared());
    bench.admit(1, "ollama");
    bench.admit(2, "a");
    // Unused, it goes at once; meanwhile newcomers are served until the bound.
    assert_eq!(told(&bench.admit(3, "ollama")), "grant 3 by 1");
    assert_eq!(told(&bench.in_flight(1, 1)), "");
    assert_eq!(told(&bench.in_flight(1, 0)), "vacate 1");
    assert_eq!(told(&bench.admit(4, "ollama")), "");
    assert_eq!(told(&vacated(&mut bench, 1)), "run 2 a");
    bench.now += s(3);
    assert_eq!(told(&bench.ready(2, "a")), "grant 2 by 2");
    assert_eq!(told(&bench.in_flight(2, 0)), "stop 2");
    assert_eq!(told(&bench.engine(nothing(2))), "open 3, grant 4 by 3");
}

#[test]
fn whoever_asks_ollama_is_told_again_when_it_is_new() {
    let mut bench = Bench::empty(shared());
    bench.admit(1, "a");
    assert_eq!(told(&bench.on(Event::OllamaForgot)), "vacate 1");
    assert_eq!(told(&vacated(&mut bench, 1)), "run 2 a");
    assert_eq!(told(&bench.on(Event::OllamaForgot)), "");
}

#[test]
fn a_new_scheduler_knows_of_requests_that_are_at_ollama() {
    let mut bench = Bench::unknown(shared());
    bench.on(Event::OllamaInUse(g(5), 2));
    assert_eq!(told(&bench.engine(nothing(3))), "");
    assert_eq!(told(&bench.admit(1, "a")), "");
    assert_eq!(told(&bench.in_flight(5, 1)), "");
    assert_eq!(told(&bench.in_flight(5, 0)), "vacate 5");
    assert_eq!(told(&vacated(&mut bench, 5)), "run 6 a");
}

#[test]
fn a_vllm_that_appears_beside_ollama_is_stopped() {
    let mut bench = Bench::empty(shared());
    bench.admit(1, "ollama");
    assert_eq!(told(&bench.engine(report(2, "a", Phase::Starting))), "stop 2");
    assert_eq!(told(&bench.engine(report(2, "a", Phase::Leaving))), "");
    assert!(matches!(bench.core.gpu(), Gpu::Resident(r) if r.tenant == Tenant::Ollama));
}

#[test]
fn orders_mean_their_own_side() {
    let mut bench = serving("a");
    assert_eq!(told(&bench.on(Event::Deactivate { side: Side::Ollama, force: true })), "");
    assert_eq!(told(&bench.stop(false)), "stop 2");
    bench.engine(nothing(2));
    bench.admit(1, "ollama");
    assert_eq!(told(&bench.stop(true)), "");
    let order = |force| Event::Deactivate { side: Side::Ollama, force };
    assert_eq!(told(&bench.on(order(false))), "");
    assert_eq!(told(&bench.on(order(true))), "cut 3");
    assert_eq!(told(&bench.in_flight(3, 0)), "vacate 3");
    vacated(&mut bench, 3);
    assert_eq!(*bench.core.gpu(), Gpu::Empty);
}

#[test]
fn where_requests_start_nothing_ollama_takes_only_what_is_free() {
    let mut bench = Bench::empty(SchedulerRules { start_on_request: false, ..shared() });
    assert_eq!(told(&bench.admit(1, "ollama")), "open 1, grant 1 by 1");
    assert_eq!(told(&bench.admit(2, "a")), "refuse 2: autostart off");
    bench.in_flight(1, 0);
    assert_eq!(told(&bench.activate(3, "a")), "vacate 1");
    vacated(&mut bench, 1);
    bench.ready(2, "a");
    assert_eq!(told(&bench.admit(4, "ollama")), "refuse 4: autostart off");
    assert_eq!(told(&bench.activate(5, "ollama")), "stop 2");
    assert_eq!(told(&bench.engine(nothing(2))), "open 3, activated 5");
}
