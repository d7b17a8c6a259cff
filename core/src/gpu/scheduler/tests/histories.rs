//! Random histories, drawn by proptest. What must hold after each event is in `checks`.

use proptest::prelude::*;

use super::history::{SERVICE, Step, ends_well, live, nobody_waits_too_long, patient};
use super::world::{Setting, World};
use super::*;
use crate::gpu::ClientId;
use crate::gpu::lease::LeaseAsk;

fn asker() -> impl Strategy<Value = Asker> {
    let class = prop_oneof![3 => Just(Class::Interactive), 1 => Just(Class::Background)];
    let (only_there, pass) = (proptest::bool::weighted(0.1), proptest::bool::weighted(0.2));
    (class, 0..3u64, only_there, pass).prop_map(|(class, client, only_there, pass)| Asker {
        class,
        client: ClientId(client),
        only_there,
        // It gets the token that is good when it comes.
        pass: pass.then(|| "good".into()),
    })
}

fn arrival() -> impl Strategy<Value = Step> {
    (0..=MODELS.len(), 0..SERVICE, asker()).prop_map(|(model, service, who)| Step::Arrive {
        model,
        service,
        who,
    })
}

fn passing() -> impl Strategy<Value = Step> {
    prop_oneof![(0..50u64), (0..3000u64), (0..30_000u64)].prop_map(Step::Pass)
}

fn keep() -> impl Strategy<Value = Keep> {
    let idle_unload = prop_oneof![Just(None), (0..20_000u64).prop_map(|millis| Some(ms(millis)))];
    (idle_unload, any::<bool>()).prop_map(|(idle_unload, pinned)| Keep { idle_unload, pinned })
}

fn step() -> impl Strategy<Value = Step> {
    let mostly = || proptest::bool::weighted(0.8);
    let rarely = || proptest::bool::weighted(0.3);
    prop_oneof![
        14 => arrival(),
        14 => passing(),
        3 => (0..=MODELS.len()).prop_map(Step::Hand),
        4 => any::<usize>().prop_map(Step::Leave),
        1 => (0..200_000u64).prop_map(Step::Leap),
        2 => (any::<bool>(), any::<bool>()).prop_map(|(ollama, force)| Step::Stop {
            side: if ollama { Side::Ollama } else { Side::Vllm },
            force,
        }),
        1 => rarely().prop_map(Step::OllamaStays),
        1 => Just(Step::NewAsker),
        1 => Just(Step::Foreign),
        2 => Just(Step::Crash),
        1 => Just(Step::FailNext),
        1 => rarely().prop_map(Step::Deaf),
        1 => rarely().prop_map(Step::Immortal),
        2 => (any::<bool>(), mostly()).prop_map(|(knows, wanted)| Step::NewSupervisor { knows, wanted }),
        1 => Just(Step::NewScheduler),
        2 => any::<usize>().prop_map(Step::OldNews),
        1 => (1..60_000u64, any::<bool>()).prop_map(|(ttl, restart)| Step::Lease { ttl, restart }),
        1 => any::<bool>().prop_map(Step::StartOnRequest),
        1 => (0..MODELS.len(), proptest::option::of(keep())).prop_map(|(model, keep)| Step::Keep {
            model,
            keep,
        }),
        1 => (0..MODELS.len(), proptest::option::weighted(0.8, 0..3u64))
            .prop_map(|(model, edition)| Step::Entry { model, edition }),
        1 => prop_oneof![
            Just(Step::LeaveLease),
            Just(Step::Renew),
            Just(Step::Release),
            prop_oneof![Just(None), (0..30_000u64).prop_map(Some)]
                .prop_map(|max_age| Step::Force { max_age }),
        ],
    ]
}

/// Only people who come, wait and leave.
fn calm_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => arrival(),
        8 => passing(),
        1 => any::<usize>().prop_map(Step::Leave),
    ]
}

fn setting() -> impl Strategy<Value = Setting> {
    let load = || prop_oneof![Just(ms(50)), (0..8000u64).prop_map(ms)];
    let rules = (
        prop_oneof![Just(1usize), Just(3), Just(512)],
        prop_oneof![Just(None), Just(Some(s(2))), Just(Some(s(40)))],
        prop_oneof![Just(s(0)), Just(s(5)), Just(s(20))],
        prop_oneof![Just(None), Just(Some(s(3)))],
        proptest::bool::weighted(0.8),
        prop_oneof![Just(None), Just(Some(s(0))), Just(Some(s(4)))],
        prop_oneof![6 => Just((true, 1)), 2 => Just((false, 1)), 2 => Just((true, 2))],
        prop_oneof![3 => Just(None), 1 => Just(Some(1usize)), 1 => Just(Some(2))],
        prop_oneof![Just(None), Just(Some(s(0))), Just(Some(s(6)))],
    );
    let rules = rules.prop_map(
        |(
            max_queue,
            max_wait,
            swap_wait,
            swap_drain,
            start_on_request,
            grace,
            (beside_ollama, residents),
            max_concurrent,
            idle_unload,
        )| {
            SchedulerRules {
                max_queue,
                max_wait,
                swap_wait,
                background_wait: swap_wait * 4,
                background_idle: s(2),
                max_concurrent,
                idle_unload,
                lease_wait: swap_wait.is_zero(),
                lease_drain: swap_drain,
                swap_drain,
                abandoned_grace: grace,
                start_on_request,
                beside_ollama,
                budget: GpuBudget { residents },
            }
        },
    );
    (rules, [load(), load(), load()], 0..2000u64, 0..20u64, 0..1500u64).prop_map(
        |(rules, loads, stop, delay, unload)| Setting {
            rules,
            loads,
            stop: ms(stop),
            delay: ms(delay),
            unload: ms(unload),
        },
    )
}

// What random histories have found, by example.

/// The order gave all the time in the world to what ran, and the lease's own limit did not count.
#[test]
fn an_order_to_stop_in_peace_keeps_no_lease_waiting_beyond_its_limit() {
    let mut bench = Bench::serving(rules(), "a", s(10));
    bench.core.rules.swap_drain = None;
    bench.admit(1, "a");
    let (side, began) = (Side::Vllm, bench.now);
    assert_eq!(told(&bench.on(Event::Deactivate { side, force: false })), "");
    assert_eq!(bench.core.next_tick(), None);
    bench.now += s(1);
    let (token, owner) = ("token".into(), "somebody".to_owned());
    let ask = LeaseAsk { ticket: t(2), token, owner, restart_model: false, ttl: s(60) };
    assert_eq!(told(&bench.on(Event::Lease(ask))), "");
    assert_eq!(told(&bench.tick_at(began + s(121))), "cut 1");
    assert_eq!(told(&bench.on(Event::Tick)), "", "once");
}

/// It has to be started again, and what it did before would have refused that start.
#[test]
fn who_asks_by_hand_for_a_resident_that_is_about_to_go_pardons_it() {
    let mut bench = Bench::serving(rules(), "a", s(10));
    assert_eq!(bench.activate(1, "a"), [Effect::Activated(t(1))], "it is there");
    bench.admit(2, "a");
    bench.on(Event::Deactivate { side: Side::Vllm, force: false });
    assert_eq!(bench.activate(3, "a"), [Effect::Pardon("a".into())]);
    // Nor does it serve who comes behind somebody that it closes for.
    let mut bench = Bench::serving(rules(), "a", s(10));
    bench.admit(1, "a");
    bench.activate(2, "b");
    assert_eq!(bench.activate(3, "a"), [Effect::Pardon("a".into())]);
}

/// Meanwhile it may have failed for whoever holds a lease.
#[test]
fn what_a_model_did_since_somebody_asked_for_it_by_hand_is_pardoned_at_its_start() {
    let mut bench = Bench::serving(rules(), "a", s(10));
    bench.admit(1, "a");
    bench.activate(2, "b");
    assert_eq!(told(&bench.in_flight(1, 0)), "stop 1");
    let (launch, until) = (launch("b"), bench.now + s(60));
    let broken = vec![Broken { launch, failures: 3, cause: crashed(), until }];
    let effects = bench.engine(EngineReport { broken, ..nothing(1) });
    assert_eq!(effects[0], Effect::Pardon("b".into()));
    assert_eq!(told(&effects), "run 2 b");
}

/// Enough for an ordinary run; `PROPTEST_CASES` may ask for more.
fn cases() -> ProptestConfig {
    let usual = ProptestConfig::default();
    ProptestConfig { cases: usual.cases.max(2000), ..usual }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn every_history_keeps_the_invariants_and_ends_with_an_empty_queue(
        setting in setting(),
        steps in proptest::collection::vec(step(), 0..60),
    ) {
        let mut world = World::new(setting);
        live(&mut world, &steps);
        ends_well(&mut world);
    }

    #[test]
    fn nobody_waits_longer_than_his_bound_because_of_others(
        setting in setting(),
        steps in proptest::collection::vec(calm_step(), 0..80),
    ) {
        let mut world = World::new(patient(setting));
        live(&mut world, &steps);
        nobody_waits_too_long(&mut world, &steps);
    }

    #[test]
    fn the_same_events_have_the_same_effects(
        setting in setting(),
        steps in proptest::collection::vec(step(), 0..60),
    ) {
        let log = || {
            let mut world = World::that_tells(setting.clone());
            live(&mut world, &steps);
            world.log
        };
        prop_assert_eq!(log(), log());
    }
}
