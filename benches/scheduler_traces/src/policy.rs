//! What a policy is told and what it says, and the production scheduler as one.
//!
//! Owns: the translation. Must never do: decide anything for the scheduler.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use chat_proxy_core::engine::{EngineReport, Held, Launch, Phase};
use chat_proxy_core::gpu::scheduler::{Purpose, Waiter};
use chat_proxy_core::gpu::{Asker, Effect, Event, GpuBudget, Scheduler, SchedulerRules, Tenant};
use chat_proxy_core::ids::{Generation, Ticket};
use chat_proxy_core::registry::{EndpointRules, Placement, Snapshot};

use crate::traces::Request;

/// What happened.
#[derive(Debug, Clone, Copy)]
pub enum Told<'a> {
    /// A request came, by its number.
    Came(usize, &'a Request),
    /// What was loading serves.
    Ready,
    /// What was stopped is gone.
    Gone,
    /// So many requests are being answered.
    InFlight(usize),
    /// Time has passed.
    Tick,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// This request is answered now.
    Serve(usize),
    /// This model is loaded; nothing else is there.
    Load(usize),
    /// What is there is stopped.
    Stop,
}

/// Somebody who decides about the GPU.
pub trait Policy {
    /// Its name.
    fn name(&self) -> &'static str;
    /// Hears of something, in milliseconds of virtual time.
    fn on(&mut self, told: Told<'_>, now: u64) -> Vec<Done>;
    /// When it wants to hear of time.
    fn next_tick(&self) -> Option<u64>;
}

/// The scheduler of the daemon.
pub struct Production {
    core: Scheduler,
    launches: Vec<Arc<Launch>>,
    /// By the newest start: which model.
    holds: Option<(Generation, usize)>,
    numbers: HashMap<Ticket, usize>,
}

/// The daemon's own defaults, without a limit of the queue: all policies serve all.
pub fn rules(times: u32) -> SchedulerRules {
    let seconds = |s: u64| Duration::from_secs(s) / times;
    SchedulerRules {
        max_queue: usize::MAX,
        max_wait: None,
        swap_wait: seconds(120),
        background_wait: seconds(600),
        background_idle: seconds(20),
        max_concurrent: None,
        idle_unload: None,
        swap_drain: None,
        abandoned_grace: None,
        start_on_request: true,
        lease_wait: false,
        lease_drain: None,
        beside_ollama: false,
        budget: GpuBudget::default(),
    }
}

fn moment(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

impl Production {
    /// For so many models.
    ///
    /// # Errors
    ///
    /// If the registry that names them cannot be read: a defect.
    pub fn new(models: usize, rules: SchedulerRules) -> Result<Self, String> {
        let mut policy = Production {
            core: Scheduler::new(rules, Generation(0)),
            launches: launches(models)?,
            holds: None,
            numbers: HashMap::new(),
        };
        let nothing = EngineReport { held: None, newest: Generation(0), broken: Vec::new() };
        policy.core.on(Event::Engine { report: nothing, in_flight: 0, fresh: true }, moment(0));
        Ok(policy)
    }

    fn report(&self, phase: Option<Phase>) -> EngineReport {
        let (newest, model) = self.holds.unwrap_or_default();
        let launch = self.launches[model].clone();
        let held = phase.map(|phase| Held { generation: newest, launch, phase });
        EngineReport { held, newest, broken: Vec::new() }
    }

    fn event(&mut self, told: Told<'_>, now: u64) -> Event {
        let news = |report| Event::Engine { report, in_flight: 0, fresh: false };
        match told {
            Told::Came(number, request) => Event::Admit(self.waiter(number, request, now)),
            Told::Ready => news(self.report(Some(Phase::Ready))),
            Told::Gone => news(self.report(None)),
            Told::InFlight(count) => Event::InFlight(self.holds.unwrap_or_default().0, count),
            Told::Tick => Event::Tick,
        }
    }

    fn waiter(&mut self, number: usize, request: &Request, now: u64) -> Waiter {
        let ticket = Ticket(number as u64);
        self.numbers.insert(ticket, number);
        Waiter {
            ticket,
            tenant: Tenant::Vllm(self.launches[request.model].clone()),
            purpose: Purpose::Request,
            arrived: moment(now),
            asked: moment(now),
            refused_by: None,
            who: Asker { class: request.class, ..Asker::default() },
        }
    }
}

impl Policy for Production {
    fn name(&self) -> &'static str {
        "imageworks"
    }

    fn on(&mut self, told: Told<'_>, now: u64) -> Vec<Done> {
        let event = self.event(told, now);
        let effects = self.core.on(event, moment(now));
        let mut done = Vec::new();
        for effect in effects {
            match effect {
                Effect::Grant { ticket, .. } => {
                    done.extend(self.numbers.get(&ticket).copied().map(Done::Serve));
                }
                Effect::Run(generation, launch) => {
                    let model = self.launches.iter().position(|known| Arc::ptr_eq(known, &launch));
                    self.holds = model.map(|model| (generation, model));
                    done.extend(model.map(Done::Load));
                }
                Effect::Stop(_) => done.push(Done::Stop),
                _ => {}
            }
        }
        done
    }

    fn next_tick(&self) -> Option<u64> {
        // A tick must not come before its moment.
        self.core
            .next_tick()
            .map(|at| u64::try_from(at.as_micros().div_ceil(1000)).unwrap_or(u64::MAX))
    }
}

/// Launches that are never carried out, from a registry as people write it.
fn launches(models: usize) -> Result<Vec<Arc<Launch>>, String> {
    let names: Vec<String> = (0..models).map(|model| format!("model-{model}")).collect();
    let entries: Vec<String> =
        names.iter().map(|name| format!(r#"{{"name": "{name}", "backend": "vllm"}}"#)).collect();
    let rules = EndpointRules { vllm_single_port: true, ..EndpointRules::default() };
    let text = format!("[{}]", entries.join(","));
    let snapshot = Snapshot::load("models", text.as_bytes(), &rules).map_err(|e| e.to_string())?;
    let launch = |name: &String| match snapshot.resolve(name) {
        Ok((_, Placement::SinglePort(launch))) => Ok(launch.clone()),
        _ => Err(format!("{name} is no vLLM model")),
    };
    names.iter().map(launch).collect()
}
