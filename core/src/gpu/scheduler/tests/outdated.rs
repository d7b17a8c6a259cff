//! Entries that change or go while their engine runs (SPEC 4.3), by example.

use super::*;

/// The registry with these models; those with a mark are started in another way than the tests' own.
fn specs(names: &[&str]) -> Arc<Specs> {
    let one = |name: &&str| {
        let own = launch(name.trim_end_matches('\''));
        let changed = name.ends_with('\'');
        (own.model.clone(), if changed { edition(&own, "new") } else { own })
    };
    Arc::new(names.iter().map(one).collect())
}

fn source(bench: &Bench) -> String {
    match bench.core.gpu() {
        Gpu::Loading(_, launch, _) => launch.source.clone(),
        other => format!("{other:?}"),
    }
}

#[test]
fn a_model_whose_entry_changed_serves_on_and_is_started_anew_when_nobody_uses_it() {
    let mut bench = Bench::serving(rules(), "a", s(10));
    bench.admit(1, "a");
    bench.core.specs(specs(&["a'", "b"]));
    assert_eq!(told(&bench.on(Event::Tick)), "");
    assert_eq!(told(&bench.admit(2, "a")), "grant 2 by 1", "it serves on");
    assert_eq!(told(&bench.in_flight(1, 1)), "");
    let effects = bench.in_flight(1, 0);
    assert_eq!(told(&effects), "stop 1");
    assert!(effects.contains(&Effect::Unload { of: model("a"), reason: Reason::Changed }));
    let effects = bench.engine(nothing(1));
    assert_eq!(told(&effects), "run 2 a");
    assert_eq!(source(&bench), format!("{}-new", launch("a").source));
    let (reason, because) = (Reason::Changed, Because::Changed);
    let began = Effect::SwapBegan { from: None, to: model("a"), reason, because };
    assert!(effects.contains(&began), "{effects:?}");
}

#[test]
fn one_that_nobody_uses_is_started_anew_at_once_and_one_whose_entry_stayed_is_not() {
    let mut bench = Bench::serving(rules(), "a", s(10));
    bench.core.specs(specs(&["a", "b'"]));
    assert_eq!(told(&bench.on(Event::Tick)), "", "another one's change");
    bench.core.specs(specs(&["a'", "b'"]));
    assert_eq!(told(&bench.on(Event::Tick)), "stop 1");
    assert_eq!(told(&bench.engine(nothing(1))), "run 2 a");
}

#[test]
fn what_only_says_how_long_a_start_may_take_changes_nothing() {
    let mut bench = Bench::serving(rules(), "a", s(10));
    let mut patient = (*launch("a")).clone();
    patient.start_timeout = s(9999);
    bench.core.specs(Arc::new([(patient.model.clone(), Arc::new(patient))].into()));
    assert_eq!(told(&bench.on(Event::Tick)), "");
}

#[test]
fn a_model_whose_entry_has_gone_finishes_and_stops() {
    let mut bench = Bench::serving(rules(), "a", s(10));
    bench.admit(1, "a");
    bench.core.specs(specs(&["b"]));
    assert_eq!(told(&bench.on(Event::Tick)), "");
    let effects = bench.in_flight(1, 0);
    assert_eq!(told(&effects), "stop 1");
    assert!(effects.contains(&Effect::Unload { of: model("a"), reason: Reason::Removed }));
    assert_eq!(told(&bench.engine(nothing(1))), "");
    assert_eq!(*bench.core.gpu(), Gpu::Empty);
}

#[test]
fn who_waits_for_another_model_goes_first_and_the_change_is_made_with_the_next_load() {
    let mut bench = Bench::serving(rules(), "a", s(10));
    bench.core.specs(specs(&["a'", "b"]));
    bench.on(Event::Tick);
    bench.admit(1, "b");
    assert_eq!(told(&bench.engine(nothing(1))), "run 2 b");
    assert_eq!(told(&bench.ready(2, "b")), "grant 1 by 2");
    assert_eq!(told(&bench.in_flight(2, 0)), "", "a does not come back by itself");
}

#[test]
fn a_load_that_nobody_waits_for_is_begun_anew_and_one_that_somebody_waits_for_is_not() {
    let mut bench = Bench::empty(rules());
    assert_eq!(told(&bench.admit(1, "a")), "run 1 a");
    bench.core.specs(specs(&["a'"]));
    assert_eq!(told(&bench.on(Event::Tick)), "");
    bench.abandon(1);
    assert_eq!(told(&bench.on(Event::Tick)), "");
    assert!(matches!(bench.core.gpu(), Gpu::Clearing(_)), "{:?}", bench.core.gpu());
    assert_eq!(told(&bench.engine(nothing(1))), "run 2 a");
    assert_eq!(source(&bench), format!("{}-new", launch("a").source));
}

#[test]
fn rules_change_while_it_runs() {
    let mut bench = Bench::serving(rules(), "a", s(10));
    let shorter = SchedulerRules { idle_unload: Some(s(5)), max_queue: 0, ..rules() };
    let effects = bench.core.rules(&shorter, bench.now);
    assert_eq!(told(&effects), "");
    let at = bench.now + s(5);
    assert_eq!(told(&bench.tick_at(at)), "stop 1");
    assert_eq!(told(&bench.admit(1, "b")), "refuse 1: full");
}
