//! Random histories. What must hold after each event is in `checks`.

use proptest::prelude::*;

use super::world::{Setting, World};
use super::*;
use crate::gpu::ClientId;
use crate::gpu::lease::LeaseOrder;

#[derive(Debug, Clone)]
enum Step {
    Arrive { model: usize, service: u64, who: Asker },
    Hand(usize),
    Leave(usize),
    Pass(u64),
    Leap(u64),
    Stop { side: Side, force: bool },
    OllamaStays(bool),
    NewAsker,
    Foreign,
    Crash,
    FailNext,
    Deaf(bool),
    Immortal(bool),
    NewSupervisor { knows: bool, wanted: bool },
    NewScheduler,
    OldNews(usize),
    Lease { ttl: u64, restart: bool },
    LeaveLease,
    Renew,
    Release,
    Force { max_age: Option<u64> },
}

const SERVICE: u64 = 10_000;

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
        proptest::bool::weighted(0.8),
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
            beside_ollama,
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

fn take(world: &mut World, step: &Step) {
    match *step {
        Step::Arrive { model, service, ref who } => {
            let pass = who.pass.as_ref().map(|_| world.token());
            let who = Asker { pass, ..who.clone() };
            world.arrive_as(model, Purpose::Request, ms(service), who);
        }
        Step::Lease { ttl, restart } => world.ask_lease(ms(ttl), restart),
        Step::LeaveLease => world.leave_lease(),
        Step::Renew => world.lease_order(LeaseOrder::Renew { token: world.token(), ttl: None }),
        Step::Release => {
            let restart_model = None;
            world.lease_order(LeaseOrder::Release { token: world.token(), restart_model });
        }
        Step::Force { max_age } => {
            let (token, owner, restart_model) = (None, None, Some(true));
            let max_age = max_age.map(ms);
            world.lease_order(LeaseOrder::Force { token, owner, max_age, restart_model });
        }
        Step::Hand(model) => world.arrive(model, Purpose::Activate, Duration::ZERO),
        Step::Leave(at) => world.leave(at),
        Step::Pass(millis) => world.pass(ms(millis), false),
        Step::Leap(millis) => world.pass(ms(millis), true),
        Step::Stop { side, force } => world.tell(&Event::Deactivate { side, force }),
        Step::OllamaStays(stays) => world.ollama.stays = stays,
        Step::NewAsker => world.new_asker(),
        Step::Foreign => world.foreign(),
        Step::Crash => world.crash(),
        Step::FailNext => world.fail_next = true,
        Step::Deaf(deaf) => world.deaf = deaf,
        Step::Immortal(immortal) => world.immortal = immortal,
        Step::NewSupervisor { knows, wanted } => world.new_supervisor(knows, wanted),
        Step::NewScheduler => world.new_scheduler(),
        Step::OldNews(at) => world.hear_old_news(at),
    }
}

fn live(setting: &Setting, steps: &[Step]) -> World {
    let mut world = World::new(setting.clone());
    for step in steps {
        take(&mut world, step);
    }
    world
}

proptest! {
    #[test]
    fn every_history_keeps_the_invariants_and_ends_with_an_empty_queue(
        setting in setting(),
        steps in proptest::collection::vec(step(), 0..60),
    ) {
        let mut world = live(&setting, &steps);
        world.settle();
        prop_assert!(world.waiting.is_empty(), "{:?} while {:?}", world.waiting, world.core.gpu());
        prop_assert!(world.lease_asks.is_empty() && world.lease.is_none(), "{:?}", world.core.hold());
        // And it still serves: by hand, for that works with all rules. Once the time may run out
        // while another model goes.
        for _ in 0..2 {
            world.arrive(1, Purpose::Activate, Duration::ZERO);
            world.settle();
        }
        let there = matches!(world.core.gpu(), Gpu::Resident(r) if r.tenant.is(&model("b")));
        let there = there || setting.rules.idle_unload.is_some() && *world.core.gpu() == Gpu::Empty;
        prop_assert!(there, "{:?}", world.core.gpu());
        world.tell(&Event::Drain);
        world.arrive(0, Purpose::Request, Duration::ZERO);
        prop_assert!(world.waiting.is_empty());
    }

    /// Once a request has waited for its bound, nothing that comes later goes before it. By then its
    /// own model may just close; so each of the three models, and Ollama, uses its turn to the end, and
    /// the GPU changes hands four times. One who leaves may have begun another turn, or a load.
    #[test]
    fn nobody_waits_longer_than_his_bound_because_of_others(
        setting in setting(),
        steps in proptest::collection::vec(calm_step(), 0..80),
    ) {
        let mut setting = setting;
        setting.rules.max_wait = None;
        setting.rules.start_on_request = true;
        setting.rules.max_concurrent = None;
        setting.rules.idle_unload = None;
        let mut world = live(&setting, &steps);
        world.settle();
        let load = setting.loads.iter().max().unwrap();
        let unload = setting.unload + setting.delay * 2;
        let change = setting.stop.min(s(3)) + *load + unload + setting.delay * 6 + ms(100);
        let service = ms(SERVICE);
        let drain = setting.rules.swap_drain.map_or(service, |drain| drain.min(service)) + ms(10);
        let leaves = steps.iter().filter(|step| matches!(step, Step::Leave(_))).count();
        let leaves = u32::try_from(leaves).unwrap();
        let bound = (change + drain) * (4 + leaves);
        prop_assert!(world.longest <= bound, "{:?} > {bound:?}", world.longest);
    }

    #[test]
    fn the_same_events_have_the_same_effects(
        setting in setting(),
        steps in proptest::collection::vec(step(), 0..60),
    ) {
        prop_assert_eq!(live(&setting, &steps).log, live(&setting, &steps).log);
    }
}
