//! A history: what happens, in which setting, and what must hold at its end.
//!
//! Owns: the kinds of steps, how each is done in the world, and the claims about a whole history.
//! Must never do: draw one; [`histories`](super::histories) does by proptest, and
//! [`seeded`](super::seeded) by a number.

use super::counts::names;
use super::world::{Setting, World};
use super::*;
use crate::gpu::lease::LeaseOrder;

#[derive(Debug, Clone)]
pub(super) enum Step {
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
    StartOnRequest(bool),
    Keep { model: usize, keep: Option<Keep> },
    Entry { model: usize, edition: Option<u64> },
}

names!(STEPS, step_name, Step, {
    Step::Arrive { who: Asker { class: Class::Interactive, .. }, .. } => "step: interactive request",
    Step::Arrive { who: Asker { class: Class::Background, .. }, .. } => "step: background request",
    Step::Hand(_) => "step: by hand",
    Step::Leave(_) => "step: leave",
    Step::Pass(_) => "step: pass",
    Step::Leap(_) => "step: leap",
    Step::Stop { force: false, .. } => "step: stop",
    Step::Stop { force: true, .. } => "step: stop by force",
    Step::OllamaStays(_) => "step: ollama stays",
    Step::NewAsker => "step: new asker",
    Step::Foreign => "step: foreign",
    Step::Crash => "step: crash",
    Step::FailNext => "step: fail next",
    Step::Deaf(_) => "step: deaf",
    Step::Immortal(_) => "step: immortal",
    Step::NewSupervisor { .. } => "step: new supervisor",
    Step::NewScheduler => "step: new scheduler",
    Step::OldNews(_) => "step: old news",
    Step::Lease { .. } => "step: lease",
    Step::LeaveLease => "step: leave lease",
    Step::Renew => "step: renew",
    Step::Release => "step: release",
    Step::Force { .. } => "step: force",
    Step::StartOnRequest(_) => "step: start on request",
    Step::Keep { .. } => "step: keep",
    Step::Entry { .. } => "step: entry",
});

/// How long a request is served, at most.
pub(super) const SERVICE: u64 = 10_000;

pub(super) fn take(world: &mut World, step: &Step) {
    world.counts.note(step_name(step));
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
        Step::StartOnRequest(may) => world.start_on_request(may),
        Step::Keep { model, keep } => world.keep(MODELS[model], keep),
        Step::Entry { model, edition } => world.entry(MODELS[model], edition),
    }
}

pub(super) fn live(world: &mut World, steps: &[Step]) {
    for step in steps {
        take(world, step);
    }
}

/// After whatever happened the queue empties, and the world still serves.
pub(super) fn ends_well(world: &mut World) {
    world.settle();
    assert!(world.waiting.is_empty(), "{:?} while {:?}", world.waiting, world.core.gpu());
    assert!(world.lease_asks.is_empty() && world.lease.is_none(), "{:?}", world.core.hold());
    // And it still serves: by hand, for that works with all rules. Once the time may run out
    // while another model goes.
    for _ in 0..2 {
        world.arrive(1, Purpose::Activate, Duration::ZERO);
        world.settle();
    }
    let there = matches!(world.core.gpu(), Gpu::Resident(r) if r.tenant.is(&model("b")));
    let unloads = world.setting.rules.idle_unload.is_some();
    assert!(there || unloads && *world.core.gpu() == Gpu::Empty, "{:?}", world.core.gpu());
    world.tell(&Event::Drain);
    world.arrive(0, Purpose::Request, Duration::ZERO);
    assert!(world.waiting.is_empty());
}

/// Such a setting as [`nobody_waits_too_long`] speaks of.
pub(super) fn patient(mut setting: Setting) -> Setting {
    setting.rules.max_wait = None;
    setting.rules.start_on_request = true;
    setting.rules.max_concurrent = None;
    setting.rules.idle_unload = None;
    setting
}

/// Once a request has waited for its bound, nothing that comes later goes before it. By then its
/// own model may just close; so each of the three models, and Ollama, uses its turn to the end, and
/// the GPU changes hands four times. One who leaves may have begun another turn, or a load.
pub(super) fn nobody_waits_too_long(world: &mut World, steps: &[Step]) {
    world.settle();
    let setting = &world.setting;
    let load = setting.loads.iter().max().unwrap();
    let unload = setting.unload + setting.delay * 2;
    let change = setting.stop.min(s(3)) + *load + unload + setting.delay * 6 + ms(100);
    let service = ms(SERVICE);
    let drain = setting.rules.swap_drain.map_or(service, |drain| drain.min(service)) + ms(10);
    let leaves = steps.iter().filter(|step| matches!(step, Step::Leave(_))).count();
    let leaves = u32::try_from(leaves).unwrap();
    let bound = (change + drain) * (4 + leaves);
    assert!(world.longest <= bound, "{:?} > {bound:?}", world.longest);
}
