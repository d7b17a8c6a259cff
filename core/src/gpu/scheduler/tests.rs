//! The queue and its swaps: examples of each rule, and random histories against a simulated
//! supervisor and ledger.
#![allow(clippy::unwrap_used, clippy::panic)]

mod aside;
mod changes;
mod checks;
mod counts;
mod histories;
mod history;
mod leases;
mod limits;
mod machine;
mod ollama;
mod outdated;
mod policy;
mod rules;
mod seeded;
mod world;

use std::sync::{Arc, LazyLock};

use super::*;
use crate::engine::testing::launches;
use crate::engine::{Cause, EngineReport, Launch, Phase};
use crate::gpu::lease::LeaseEffect;
use crate::gpu::{Asker, Class, GpuBudget};

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn g(generation: u64) -> Generation {
    Generation(generation)
}

fn t(ticket: u64) -> Ticket {
    Ticket(ticket)
}

/// The defaults of the settings, but for a drain limit, so that it can be seen.
fn rules() -> SchedulerRules {
    SchedulerRules {
        abandoned_grace: None,
        max_queue: 512,
        max_wait: Some(s(600)),
        swap_wait: s(120),
        background_wait: s(600),
        background_idle: s(20),
        max_concurrent: None,
        idle_unload: None,
        swap_drain: Some(s(30)),
        start_on_request: true,
        beside_ollama: false,
        budget: GpuBudget::default(),
        lease_wait: false,
        lease_drain: Some(s(120)),
    }
}

const MODELS: [&str; 3] = ["a", "b", "c"];

static LAUNCHES: LazyLock<Vec<Arc<Launch>>> = LazyLock::new(|| launches(&MODELS));

fn launch(model: &str) -> Arc<Launch> {
    LAUNCHES.iter().find(|launch| launch.model.as_str() == model).unwrap().clone()
}

/// The same model, started in another way.
fn edition(of: &Launch, name: &str) -> Arc<Launch> {
    let mut other = of.clone();
    other.source = format!("{}-{name}", of.source);
    Arc::new(other)
}

/// A vLLM with a model, or Ollama by its own name.
fn tenant(name: &str) -> Tenant {
    if name == "ollama" { Tenant::Ollama } else { Tenant::Vllm(launch(name)) }
}

fn model(name: &str) -> TenantId {
    tenant(name).id()
}

fn waiter(ticket: u64, name: &str, arrived: Moment) -> Waiter {
    Waiter {
        ticket: t(ticket),
        tenant: tenant(name),
        purpose: Purpose::Request,
        arrived,
        asked: arrived,
        refused_by: None,
        who: Asker::default(),
    }
}

fn by_hand(ticket: u64, model: &str, arrived: Moment) -> Waiter {
    Waiter { purpose: Purpose::Activate, ..waiter(ticket, model, arrived) }
}

/// A report about a start that is also the newest.
fn report(generation: u64, model: &str, phase: Phase) -> EngineReport {
    let held = Held { generation: g(generation), launch: launch(model), phase };
    EngineReport { held: Some(held), newest: g(generation), broken: Vec::new() }
}

fn nothing(newest: u64) -> EngineReport {
    EngineReport { held: None, newest: g(newest), broken: Vec::new() }
}

fn crashed() -> Cause {
    Cause::Crashed { status: "signal 9".into(), telling: None }
}

/// A scheduler with a clock that only the test moves.
struct Bench {
    core: Scheduler,
    now: Moment,
}

impl Bench {
    /// Nothing runs; known to be so.
    fn empty(rules: SchedulerRules) -> Self {
        let mut bench = Bench::unknown(rules);
        assert_eq!(bench.engine(nothing(0)), []);
        assert_eq!(*bench.core.gpu(), Gpu::Empty);
        bench
    }

    fn unknown(rules: SchedulerRules) -> Self {
        Bench { core: Scheduler::new(rules, g(0)), now: s(1000) }
    }

    /// Start 1 of `model` serves and nobody uses it. Its load took `took`.
    fn serving(rules: SchedulerRules, model: &str, took: Duration) -> Self {
        let mut bench = Bench::empty(rules);
        bench.load(99, 1, model, took);
        bench
    }

    /// Somebody waits for a model that is not there, and it comes up.
    fn load(&mut self, ticket: u64, generation: u64, model: &str, took: Duration) {
        self.activate(ticket, model);
        assert!(matches!(self.core.gpu(), Gpu::Loading(at, ..) if *at == g(generation)));
        self.now += took;
        let effects = self.ready(generation, model);
        assert!(effects.contains(&Effect::Activated(t(ticket))), "{effects:?}");
    }

    fn on(&mut self, event: Event) -> Vec<Effect> {
        self.core.on(event, self.now)
    }

    fn admit(&mut self, ticket: u64, model: &str) -> Vec<Effect> {
        self.on(Event::Admit(waiter(ticket, model, self.now)))
    }

    fn activate(&mut self, ticket: u64, model: &str) -> Vec<Effect> {
        self.on(Event::Admit(by_hand(ticket, model, self.now)))
    }

    fn abandon(&mut self, ticket: u64) -> Vec<Effect> {
        self.on(Event::Abandon(t(ticket)))
    }

    fn in_flight(&mut self, generation: u64, count: usize) -> Vec<Effect> {
        self.on(Event::InFlight(g(generation), count))
    }

    fn stop(&mut self, force: bool) -> Vec<Effect> {
        self.on(Event::Deactivate { side: Side::Vllm, force })
    }

    fn engine(&mut self, report: EngineReport) -> Vec<Effect> {
        self.on(Event::Engine { report, in_flight: 0, fresh: false })
    }

    /// The first word of a supervisor that has just begun.
    fn fresh(&mut self, report: EngineReport) -> Vec<Effect> {
        self.on(Event::Engine { report, in_flight: 0, fresh: true })
    }

    fn ready(&mut self, generation: u64, model: &str) -> Vec<Effect> {
        self.engine(report(generation, model, Phase::Ready))
    }

    /// Goes to the moment of the next tick, which must be this one.
    fn tick_at(&mut self, at: Moment) -> Vec<Effect> {
        assert_eq!(self.core.next_tick(), Some(at));
        self.now = at;
        self.on(Event::Tick)
    }

    fn tickets(&self) -> Vec<u64> {
        self.core.waiting().map(|waiter| waiter.ticket.0).collect()
    }
}

fn lease_word(effect: &LeaseEffect) -> String {
    match effect {
        LeaseEffect::Granted(ticket, lease) => format!("lease {} for {}", ticket.0, lease.owner),
        LeaseEffect::Refused(ticket, refusal) => {
            let refused = Effect::Refuse(*ticket, refusal.clone());
            format!("no lease: {}", word(&refused).unwrap())
        }
        LeaseEffect::Ended(lease, end) => format!("{}'s lease {}", lease.owner, end.as_str()),
        LeaseEffect::Restore(model) => format!("restore {model}"),
    }
}

/// Effects in words, without the telling of swaps and without pardons.
fn words(effects: &[Effect]) -> Vec<String> {
    effects.iter().filter_map(word).collect()
}

fn word(effect: &Effect) -> Option<String> {
    Some(match effect {
        Effect::Grant { ticket, generation, .. } => format!("grant {} by {generation}", ticket.0),
        Effect::Activated(ticket) => format!("activated {}", ticket.0),
        Effect::Refuse(ticket, refusal) => {
            let why = match refusal {
                Refusal::QueueFull { .. } => "full",
                Refusal::QueueTimeout { .. } => "timeout",
                Refusal::Failed(_) => "failed",
                Refusal::AutostartOff => "autostart off",
                Refusal::Stopped => "stopped",
                Refusal::Draining => "draining",
                Refusal::NoResident => "no resident",
                Refusal::Leased { .. } => "leased",
                Refusal::LeaseBusy { .. } => "lease busy",
            };
            format!("refuse {}: {why}", ticket.0)
        }
        Effect::Run(generation, launch) => format!("run {generation} {}", launch.model),
        Effect::Stop(generation) => format!("stop {generation}"),
        Effect::Open(generation) => format!("open {generation}"),
        Effect::Vacate(generation) => format!("vacate {generation}"),
        Effect::Cut(generation) => format!("cut {generation}"),
        Effect::Pardon(_)
        | Effect::SwapBegan { .. }
        | Effect::SwapDone { .. }
        | Effect::Unload { .. } => return None,
        Effect::Lease(effect) => lease_word(effect),
    })
}

/// As [`words`], joined: an expectation in one line.
fn told(effects: &[Effect]) -> String {
    words(effects).join(", ")
}
