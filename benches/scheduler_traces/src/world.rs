//! A GPU in virtual time.
//!
//! Owns: the engine's states, requests under way, and what is measured. An engine answers as many at
//! once as it is given (vLLM batches them), each in its own time. Must never do: decide.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use chat_proxy_core::gpu::Class;

use crate::policy::{Done, Policy, Told};
use crate::traces::Trace;

/// How long an engine takes to stop, in milliseconds.
pub const STOP: u64 = 1_000;

/// What came of a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Loads, but for the first.
    pub swaps: usize,
    /// How long each request waited, by its number; `None`: it was never served.
    pub waits: Vec<Option<u64>>,
    /// Time in which at least one request was answered.
    pub serving: u64,
    /// Time in which models were stopped or loaded.
    pub changing: u64,
    /// From the first request to the end of the last answer.
    pub total: u64,
}

impl Outcome {
    /// The waits of a class, sorted.
    pub fn waits_of(&self, trace: &Trace, class: Class) -> Vec<u64> {
        let of = trace.requests.iter().zip(&self.waits);
        let mut waits: Vec<u64> =
            of.filter(|(r, _)| r.class == class).filter_map(|(_, wait)| *wait).collect();
        waits.sort_unstable();
        waits
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Came(usize),
    Loaded,
    Stopped,
    Answered(usize),
}

struct World<'a> {
    trace: &'a Trace,
    due: BinaryHeap<Reverse<(u64, u64, Due)>>,
    numbers: u64,
    now: u64,
    in_flight: usize,
    changing: bool,
    outcome: Outcome,
}

/// Lets a policy live through a trace.
pub fn run(trace: &Trace, policy: &mut dyn Policy) -> Outcome {
    let mut world = World {
        trace,
        due: BinaryHeap::new(),
        numbers: 0,
        now: 0,
        in_flight: 0,
        changing: false,
        outcome: Outcome {
            swaps: 0,
            waits: vec![None; trace.requests.len()],
            serving: 0,
            changing: 0,
            total: 0,
        },
    };
    for (number, request) in trace.requests.iter().enumerate() {
        world.later(request.at, Due::Came(number));
    }
    while world.step(policy) {}
    world.outcome.swaps = world.outcome.swaps.saturating_sub(1);
    world.outcome.total = world.now;
    world.outcome
}

impl World<'_> {
    fn later(&mut self, at: u64, due: Due) {
        self.numbers += 1;
        self.due.push(Reverse((at, self.numbers, due)));
    }

    /// Time passes until the next thing happens; answers whether anything did.
    fn step(&mut self, policy: &mut dyn Policy) -> bool {
        let next = self.due.peek().map(|Reverse((at, ..))| *at);
        let tick = policy.next_tick().map(|at| at.max(self.now));
        let waits = self.outcome.waits.iter().any(Option::is_none);
        match (next, tick) {
            (Some(at), tick) if tick.is_none_or(|tick| at <= tick) => {
                self.pass(at);
                let Some(Reverse((_, _, due))) = self.due.pop() else { return false };
                self.happens(due, policy);
                true
            }
            (_, Some(at)) if waits => {
                self.pass(at);
                self.tell(Told::Tick, policy);
                true
            }
            _ => false,
        }
    }

    fn pass(&mut self, until: u64) {
        let time = until - self.now;
        self.outcome.serving += if self.in_flight > 0 { time } else { 0 };
        self.outcome.changing += if self.changing { time } else { 0 };
        self.now = until;
    }

    fn happens(&mut self, due: Due, policy: &mut dyn Policy) {
        let told = match due {
            Due::Came(number) => Told::Came(number, &self.trace.requests[number]),
            Due::Loaded => {
                self.changing = false;
                Told::Ready
            }
            Due::Stopped => {
                self.changing = false;
                Told::Gone
            }
            Due::Answered(_) => {
                self.in_flight -= 1;
                Told::InFlight(self.in_flight)
            }
        };
        self.tell(told, policy);
    }

    fn tell(&mut self, told: Told<'_>, policy: &mut dyn Policy) {
        let mut orders: VecDeque<Done> = policy.on(told, self.now).into();
        while let Some(order) = orders.pop_front() {
            self.carry_out(order);
        }
    }

    fn carry_out(&mut self, order: Done) {
        match order {
            Done::Serve(number) => {
                let request = self.trace.requests[number];
                assert!(!self.changing, "request {number} was served by nothing");
                let served = self.outcome.waits[number].replace(self.now - request.at);
                assert_eq!(served, None, "request {number} was served twice");
                self.in_flight += 1;
                self.later(self.now + request.service, Due::Answered(number));
            }
            Done::Load(model) => {
                assert!(!self.changing && self.in_flight == 0, "a load beside something");
                (self.changing, self.outcome.swaps) = (true, self.outcome.swaps + 1);
                self.later(self.now + self.trace.loads[model], Due::Loaded);
            }
            Done::Stop => {
                assert!(self.in_flight == 0, "stopped in use");
                self.changing = true;
                self.later(self.now + self.trace.stop, Due::Stopped);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::baselines::Baseline;
    use crate::policy::{Production, rules};
    use crate::traces::{Request, all};

    fn five() -> Trace {
        let request = |at, model| Request { at, model, class: Class::Interactive, service: 2_000 };
        Trace {
            stop: STOP,
            name: "five",
            about: "",
            loads: vec![10_000, 10_000],
            spare: true,
            requests: vec![
                request(0, 0),
                request(1_000, 1),
                request(2_000, 0),
                request(11_000, 0),
                request(11_500, 1),
            ],
        }
    }

    fn waits(outcome: &Outcome) -> Vec<u64> {
        outcome.waits.iter().map(|wait| wait.expect("served")).collect()
    }

    #[test]
    fn strict_order_swaps_for_every_other_request() {
        let outcome = run(&five(), &mut Baseline::strict());
        // Loaded at 10 s, done at 12; stopped at 13, loaded at 23, done at 25; 26, 36 (both), 38;
        // 39, 49.
        assert_eq!(waits(&outcome), [10_000, 22_000, 34_000, 25_000, 37_500]);
        assert_eq!((outcome.swaps, outcome.serving, outcome.changing), (3, 8_000, 43_000));
    }

    #[test]
    fn resident_first_serves_all_of_one_model_before_the_other() {
        let outcome = run(&five(), &mut Baseline::resident_first());
        // Loaded at 10 s for two, and a third joins; done at 13; stopped at 14, loaded at 24.
        assert_eq!(waits(&outcome), [10_000, 23_000, 8_000, 0, 12_500]);
        assert_eq!((outcome.swaps, outcome.total), (1, 26_000));
    }

    #[test]
    fn the_scheduler_serves_everybody_once_and_the_same_every_time() {
        for trace in all(3) {
            let live = || {
                let mut policy = Production::new(trace.loads.len(), rules(1)).expect("a registry");
                run(&trace, &mut policy)
            };
            let outcome = live();
            assert!(outcome.waits.iter().all(Option::is_some), "{}", trace.name);
            assert_eq!(outcome, live(), "{}", trace.name);
        }
    }
}
