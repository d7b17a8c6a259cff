//! The engine's reports, held against what is believed.
//!
//! Owns: what a report changes, and which reports come too late to change anything. Must never do:
//! take a report for a change: each is the whole truth at its moment.

use std::sync::Arc;
use std::time::Duration;

use super::{Clearing, Decided, Effect, Gpu, Reason, Refusal, Resident, Scheduler, Stuck};
use crate::engine::lifecycle::Moment;
use crate::engine::{Cause, EngineReport, Held, Launch, Phase};
use crate::gpu::{Side, Tenant, TenantId};
use crate::ids::Generation;

/// Requests of an engine that died get this long to see its connections close by themselves.
const LOST_GRACE: Duration = Duration::from_secs(2);

impl Scheduler {
    /// A report, against what is believed.
    pub(super) fn engine(
        &mut self,
        report: EngineReport,
        in_flight: usize,
        fresh: bool,
        now: Moment,
        out: &mut Vec<Effect>,
    ) {
        let EngineReport { held, newest: known, broken } = report;
        self.newest = self.newest.max(known);
        if self.side() == Some(Side::Ollama) {
            return self.beside_ollama(EngineReport { held, newest: known, broken }, fresh, out);
        }
        let believed = self.believed();
        let late = known < self.heard
            || match believed {
                // Said before it heard of that start.
                Some(generation) => known < generation,
                None => held.as_ref().is_some_and(|held| held.generation <= self.over),
            };
        if late && !fresh {
            return;
        }
        (self.heard, self.broken) = (known, broken);
        // It knows of a newer one and holds only what is left of an older one: nothing runs.
        let held = held.filter(|held| {
            !matches!(held.phase, Phase::Failed(_)) || believed.is_none_or(|g| g <= held.generation)
        });
        match (believed, held) {
            (None, held) => self.learn(held, in_flight, now),
            // What its predecessor could not end may have been taken over.
            (Some(_), held) if fresh && matches!(self.gpu, Gpu::Stuck(_)) => {
                self.learn(held, in_flight, now);
            }
            (Some(generation), Some(held)) if held.generation == generation => {
                self.news(held, fresh, now, out);
            }
            // It is to go first, and cannot.
            (Some(_), Some(Held { generation, phase: Phase::Stuck(cause), .. }))
                if matches!(self.gpu, Gpu::Loading(..)) =>
            {
                self.stuck(generation, cause);
            }
            // Of an older start, or of none: only a new supervisor's word counts then.
            (Some(_), held) if fresh => self.supervisor_forgot(held, in_flight, now, out),
            // A start that this scheduler's predecessor had asked for.
            (Some(generation), Some(held)) if held.generation > generation => {
                self.learn(Some(held), in_flight, now);
            }
            (Some(_), None) => self.vanished(now, out),
            (Some(_), Some(_)) => {}
        }
    }

    /// The start that is believed to hold the GPU.
    pub(super) fn believed(&self) -> Option<Generation> {
        match &self.gpu {
            Gpu::Unknown | Gpu::Empty => None,
            Gpu::Loading(generation, ..) => Some(*generation),
            Gpu::Resident(resident) => Some(resident.generation),
            Gpu::Clearing(clearing) => Some(clearing.generation),
            Gpu::Stuck(stuck) => Some(stuck.generation),
        }
    }

    /// Any => whatever the report says.
    fn learn(&mut self, held: Option<Held>, in_flight: usize, now: Moment) {
        let Some(Held { generation, launch, phase }) = held else {
            self.gpu = Gpu::Empty;
            return;
        };
        let used = in_flight > 0;
        self.gpu = match phase {
            Phase::Failed(_) => Gpu::Empty,
            Phase::Stuck(cause) => return self.stuck(generation, cause),
            // One that is in use has been ready: its supervisor is new, and looks whether it still is.
            Phase::BackingOff | Phase::Starting if !used => {
                self.alone = None;
                Gpu::Loading(generation, launch, now)
            }
            Phase::BackingOff | Phase::Starting | Phase::Ready => {
                Gpu::Resident(Resident::new(generation, launch.into(), now, in_flight))
            }
            Phase::Leaving => {
                let (tenant, cut_at) = (launch.into(), used.then_some(now + LOST_GRACE));
                Gpu::Clearing(Clearing {
                    generation,
                    tenant,
                    since: now,
                    in_flight,
                    cut_at,
                    only_asked: false,
                })
            }
        };
    }

    /// Any => Stuck
    fn stuck(&mut self, generation: Generation, cause: Cause) {
        (self.gpu, self.decided) = (Gpu::Stuck(Stuck { generation, cause }), None);
    }

    /// News of the very start that holds the GPU.
    fn news(&mut self, held: Held, fresh: bool, now: Moment, out: &mut Vec<Effect>) {
        let Held { generation, launch, phase } = held;
        match (&self.gpu, phase) {
            (_, Phase::Stuck(cause)) => self.stuck(generation, cause),
            (Gpu::Loading(..), Phase::Ready) => self.loaded(generation, launch, now, out),
            (Gpu::Loading(..), Phase::Failed(cause)) => {
                for ticket in self.waiters.take_of(&TenantId::from(&*launch)) {
                    out.push(Effect::Refuse(ticket, Refusal::Failed(cause.clone())));
                }
                self.gone();
                self.decided = None;
            }
            // A new supervisor has taken it over and does not know that it is to go.
            (Gpu::Clearing(_), Phase::BackingOff | Phase::Starting | Phase::Ready) if fresh => {
                out.push(Effect::Stop(generation));
            }
            // At last.
            (Gpu::Stuck(_), Phase::Leaving) => {
                self.gpu = Gpu::Clearing(Clearing {
                    generation,
                    tenant: launch.into(),
                    since: now,
                    in_flight: 0,
                    cut_at: None,
                    only_asked: false,
                });
            }
            // Its engine died: what it left is being swept, and then there is another report.
            (Gpu::Resident(resident), Phase::Leaving) => {
                self.gpu = Gpu::Clearing(Clearing {
                    generation,
                    tenant: launch.into(),
                    since: now,
                    in_flight: resident.in_flight,
                    cut_at: Some(now + LOST_GRACE),
                    only_asked: false,
                });
            }
            (Gpu::Resident(_) | Gpu::Clearing(_) | Gpu::Stuck(_), Phase::Failed(_)) => self.gone(),
            _ => {}
        }
    }

    /// Loading => Resident, and its whole batch is served.
    fn loaded(
        &mut self,
        generation: Generation,
        launch: Arc<Launch>,
        now: Moment,
        out: &mut Vec<Effect>,
    ) {
        let began = match &self.gpu {
            Gpu::Loading(_, _, since) => *since,
            _ => now,
        };
        self.settle(generation, launch.into(), began, now, out);
        self.grant_waiting(now, Some(began), out);
    }

    /// Any => Resident, at the end of a change of hands that `began` at the latest.
    pub(super) fn settle(
        &mut self,
        generation: Generation,
        tenant: Tenant,
        began: Moment,
        now: Moment,
        out: &mut Vec<Effect>,
    ) {
        let id = tenant.id();
        let usual = Decided { at: began, reason: Reason::Request, from: None, to: id.clone() };
        let Decided { at, reason, from, .. } = self.decided.take().unwrap_or(usual);
        let took = now.saturating_sub(at);
        self.costs.measured(from, id.clone(), took);
        let batch = self.waiters.iter().filter(|w| w.tenant.is(&id));
        self.batch = batch.map(|w| w.ticket).collect();
        out.push(Effect::SwapDone { to: id, reason, took });
        self.gpu = Gpu::Resident(Resident::new(generation, tenant, now, 0));
    }

    /// Loading => (Loading | Empty); Resident | Clearing | Stuck => Empty. A load vanishes when a
    /// new supervisor only sweeps it up: it had no answer, and those who wait for it need another.
    fn vanished(&mut self, now: Moment, out: &mut Vec<Effect>) {
        let may_start = |launch: &Launch| {
            let id = TenantId::from(launch);
            self.waiters.asked_by_hand(&id)
                || self.rules.start_on_request && self.waiters.any_of(&id)
        };
        match &self.gpu {
            Gpu::Loading(_, launch, _) if may_start(launch) => {
                let launch = launch.clone();
                self.run(launch, now, out);
            }
            _ => self.gone(),
        }
    }

    /// Any => Empty.
    pub(super) fn gone(&mut self) {
        self.over = self.over.max(self.believed().unwrap_or_default());
        self.gpu = Gpu::Empty;
    }

    /// A supervisor that has just begun does not know what its predecessor was told.
    fn supervisor_forgot(
        &mut self,
        held: Option<Held>,
        in_flight: usize,
        now: Moment,
        out: &mut Vec<Effect>,
    ) {
        match &self.gpu {
            Gpu::Loading(generation, launch, _) => {
                out.push(Effect::Run(*generation, launch.clone()));
            }
            _ => self.learn(held, in_flight, now),
        }
    }
}
