//! Histories from a number.
//!
//! Owns: the generator and what it draws. Must never do: play a history, or look at the clock, the
//! environment or an address: the same seed is the same history on every machine.
//!
//! The weights are those of the proptest histories. Every other history has its own, so that what is
//! seldom meets what is seldom; some are long, and in some everybody wants the same models.

use super::super::history::{SERVICE, Step, patient};
use super::super::world::Setting;
use super::super::*;
use crate::gpu::ClientId;

/// Splitmix64 (Steele, Lea and Flood, 2014): each state is used once, and neighbouring seeds have
/// nothing in common.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Less than this. That the small ones are a trace likelier does not matter here.
    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn index(&mut self, length: usize) -> usize {
        let length = u64::try_from(length).unwrap();
        usize::try_from(self.below(length)).unwrap()
    }

    fn yes(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.index(of.len())]
    }

    fn millis(&mut self, end: u64) -> Duration {
        ms(self.below(end))
    }
}

/// A kind of step: how often it comes, and how it is drawn.
type Kind = (u64, fn(&mut Draw) -> Step);

const KINDS: &[Kind] = &[
    (14, arrival),
    (14, passing),
    (3, |draw| Step::Hand(draw.index(MODELS.len() + 1))),
    (4, leaving),
    (1, |draw| Step::Leap(draw.below(200_000))),
    (2, |draw| {
        let side = draw.one(&[Side::Ollama, Side::Vllm]);
        Step::Stop { side, force: draw.yes(50) }
    }),
    (1, |draw| Step::OllamaStays(draw.yes(30))),
    (1, |_| Step::NewAsker),
    (1, |_| Step::Foreign),
    (2, |_| Step::Crash),
    (1, |_| Step::FailNext),
    (1, |draw| Step::Deaf(draw.yes(30))),
    (1, |draw| Step::Immortal(draw.yes(30))),
    (2, |draw| Step::NewSupervisor { knows: draw.yes(50), wanted: draw.yes(80) }),
    (1, |_| Step::NewScheduler),
    (2, |draw| Step::OldNews(draw.index(1 << 16))),
    (1, |draw| Step::StartOnRequest(draw.yes(50))),
    (1, keeping),
    (1, |draw| Step::Entry {
        model: draw.index(MODELS.len()),
        edition: draw.yes(80).then(|| draw.below(3)),
    }),
    (1, |draw| Step::Lease { ttl: 1 + draw.below(60_000), restart: draw.yes(50) }),
    (1, lease_order),
];

/// Only people who come, wait and leave.
const CALM: &[Kind] = &[(8, arrival), (8, passing), (1, leaving)];

fn arrival(draw: &mut Draw) -> Step {
    let class = if draw.yes(75) { Class::Interactive } else { Class::Background };
    let who = Asker {
        class,
        client: ClientId(draw.below(3)),
        only_there: draw.yes(10),
        // It gets the token that is good when it comes.
        pass: draw.yes(20).then(|| "good".into()),
    };
    Step::Arrive { model: draw.index(MODELS.len() + 1), service: draw.below(SERVICE), who }
}

fn passing(draw: &mut Draw) -> Step {
    let most = draw.one(&[50, 3000, 30_000]);
    Step::Pass(draw.below(most))
}

fn leaving(draw: &mut Draw) -> Step {
    Step::Leave(draw.index(1 << 16))
}

fn keeping(draw: &mut Draw) -> Step {
    let model = draw.index(MODELS.len());
    let idle_unload = draw.yes(50).then(|| draw.millis(20_000));
    let keep = Keep { idle_unload, pinned: draw.yes(50) };
    Step::Keep { model, keep: draw.yes(70).then_some(keep) }
}

fn lease_order(draw: &mut Draw) -> Step {
    match draw.below(4) {
        0 => Step::LeaveLease,
        1 => Step::Renew,
        2 => Step::Release,
        _ => Step::Force { max_age: draw.yes(50).then(|| draw.below(30_000)) },
    }
}

fn rules(draw: &mut Draw) -> SchedulerRules {
    let swap_wait = draw.one(&[s(0), s(5), s(20)]);
    let swap_drain = draw.one(&[None, Some(s(3))]);
    SchedulerRules {
        max_queue: draw.one(&[1, 3, 512]),
        max_wait: draw.one(&[None, Some(s(2)), Some(s(40))]),
        swap_wait,
        background_wait: swap_wait * draw.one(&[1, 4, 4]),
        background_idle: draw.one(&[s(0), s(2), s(2)]),
        max_concurrent: draw.one(&[None, None, None, Some(1), Some(2)]),
        idle_unload: draw.one(&[None, Some(s(0)), Some(s(6))]),
        swap_drain,
        abandoned_grace: draw.one(&[None, Some(s(0)), Some(s(4))]),
        start_on_request: draw.yes(80),
        lease_wait: draw.yes(50),
        lease_drain: draw.one(&[swap_drain, None, Some(s(1))]),
        beside_ollama: draw.yes(80),
        budget: GpuBudget { residents: draw.one(&[1, 1, 1, 2]) },
    }
}

fn setting(draw: &mut Draw) -> Setting {
    // At its longest it is longer than a second try waits for news; with the longest unloading it
    // is shorter than the shortest wait.
    let delay = draw.one(&[20, 20, 20, 300]);
    let mut load = || if draw.yes(50) { ms(50) } else { draw.millis(8000) };
    Setting {
        loads: [load(), load(), load()],
        stop: draw.millis(2000),
        delay: draw.millis(delay),
        unload: draw.millis(1500),
        rules: rules(draw),
    }
}

/// What a seed stands for.
#[derive(Debug, Clone)]
pub(super) struct History {
    pub(super) setting: Setting,
    pub(super) steps: Vec<Step>,
    /// Only people come and go, and nobody may wait for too long.
    pub(super) calm: bool,
}

impl History {
    pub(super) fn of(seed: u64) -> Self {
        let mut draw = Draw(seed);
        let calm = draw.yes(20);
        let setting = setting(&mut draw);
        let setting = if calm { patient(setting) } else { setting };
        let kinds = if calm { CALM.to_vec() } else { some_kinds(&mut draw) };
        let models: &[usize] = draw.one(&[&[0, 1, 2, 3], &[0, 1, 2, 3], &[0, 1], &[1, 3], &[2]]);
        let most = if draw.yes(10) { 200 } else { 60 };
        let length = draw.below(most);
        let steps = (0..length).map(|_| narrow(step(&mut draw, &kinds), models)).collect();
        History { setting, steps, calm }
    }
}

/// All kinds as they are; or some of them not at all and others far more often, so that these meet
/// each other. People come and time passes in any case.
fn some_kinds(draw: &mut Draw) -> Vec<Kind> {
    if draw.yes(50) {
        return KINDS.to_vec();
    }
    let (always, others) = KINDS.split_at(2);
    let others = others.iter().map(|(weight, make)| (weight * draw.one(&[0, 0, 1, 5]), *make));
    always.iter().copied().chain(others).collect()
}

fn step(draw: &mut Draw, kinds: &[Kind]) -> Step {
    let mut left = draw.below(kinds.iter().map(|(weight, _)| weight).sum());
    let drawn = kinds.iter().find(|(weight, _)| match left.checked_sub(*weight) {
        Some(rest) => {
            left = rest;
            false
        }
        None => true,
    });
    (drawn.unwrap().1)(draw)
}

/// The same for one of these models.
fn narrow(mut step: Step, models: &[usize]) -> Step {
    if let Step::Arrive { model, .. } | Step::Hand(model) = &mut step {
        *model = models[*model % models.len()];
    }
    step
}
