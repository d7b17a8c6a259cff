//! Ollama as a holder of the GPU.
//!
//! Owns: how it gets the GPU and how it gives it back. It loads nothing before it is asked to, so
//! it has the GPU the moment nobody else has; what it has loaded, also for others than us, is only
//! known to itself, so before a vLLM starts it is told to unload and asked whether it has. Must
//! never do: take its silence for a yes.

use super::{Effect, Gpu, Refusal, Resident, Scheduler};
use crate::engine::lifecycle::Moment;
use crate::engine::{Cause, EngineReport, Held, Phase};
use crate::gpu::scheduler::Clearing;
use crate::gpu::{Side, Tenant};
use crate::ids::Generation;

impl Scheduler {
    /// Empty => Resident: nothing has to be started.
    pub(super) fn open_ollama(&mut self, now: Moment, out: &mut Vec<Effect>) {
        self.newest = Generation(self.newest.0 + 1);
        out.push(Effect::Open(self.newest));
        self.settle(self.newest, Tenant::Ollama, now, now, out);
        // All who wait for it by now come before anything else.
        self.grant_waiting(now, Some(now), out);
        self.serve(now, out);
    }

    /// Whether Ollama must be gone before a vLLM starts.
    pub(super) fn must_vacate(&self) -> bool {
        self.rules.beside_ollama && !self.ollama_stays()
    }

    /// Empty => Clearing: somebody wants to start a vLLM.
    pub(super) fn vacate(&mut self, now: Moment, out: &mut Vec<Effect>) {
        self.newest = Generation(self.newest.0 + 1);
        self.clear(self.newest, Tenant::Ollama, now, out);
        if let Gpu::Clearing(clearing) = &mut self.gpu {
            clearing.only_asked = true;
        }
    }

    /// Clearing => Empty, or whatever lived beside it. If it would not go, those who wait for a vLLM are told so.
    pub(super) fn vacated(
        &mut self,
        generation: Generation,
        given: Result<(), Cause>,
        now: Moment,
        out: &mut Vec<Effect>,
    ) {
        if self.aside_vacated(generation, &given, out) {
            return;
        }
        let Some(clearing) = self.clearing_ollama() else { return };
        if clearing.generation != generation {
            return;
        }
        let vacant = given.is_ok();
        if let Err(cause) = given {
            for ticket in self.waiters.take_side(Side::Vllm) {
                out.push(Effect::Refuse(ticket, Refusal::Failed(cause.clone())));
            }
            self.restore = None;
            self.refuse_lease(Refusal::Failed(cause), out);
            self.decided = None;
        }
        self.gone();
        match self.beside.take() {
            None => self.vacant = vacant,
            // Asked for once more when that one is gone.
            Some(Held { generation, launch, .. }) => {
                let (tenant, since) = (launch.into(), now);
                let left = Clearing {
                    generation,
                    tenant,
                    since,
                    in_flight: 0,
                    cut_at: None,
                    only_asked: false,
                };
                self.gpu = Gpu::Clearing(left);
            }
        }
    }

    /// It is told again.
    pub(super) fn ollama_forgot(&self, out: &mut Vec<Effect>) {
        self.aside_forgot(out);
        if let Some(clearing) = self.clearing_ollama() {
            out.push(Effect::Vacate(clearing.generation));
        }
    }

    /// Unknown => Resident: an earlier scheduler had given it the GPU.
    pub(super) fn ollama_in_use(&mut self, generation: Generation, in_flight: usize, now: Moment) {
        if self.ollama_stays() {
            self.aside_in_use(generation, in_flight);
        } else if self.gpu == Gpu::Unknown {
            self.newest = self.newest.max(generation);
            let resident = Resident::new(generation, Tenant::Ollama, now, in_flight);
            self.gpu = Gpu::Resident(resident);
        }
    }

    /// A report of the vLLM side while Ollama has the GPU: whatever lives there is not wanted.
    pub(super) fn beside_ollama(
        &mut self,
        report: EngineReport,
        fresh: bool,
        out: &mut Vec<Effect>,
    ) {
        if report.newest < self.heard && !fresh {
            return;
        }
        (self.heard, self.broken) = (report.newest, report.broken);
        self.beside = report.held.filter(|held| {
            !matches!(held.phase, Phase::Failed(_)) && (fresh || held.generation > self.over)
        });
        if let Some(held) = &self.beside
            && held.phase != Phase::Leaving
        {
            out.push(Effect::Stop(held.generation));
        }
    }

    fn clearing_ollama(&self) -> Option<&Clearing> {
        match &self.gpu {
            Gpu::Clearing(clearing) if clearing.tenant == Tenant::Ollama => Some(clearing),
            _ => None,
        }
    }
}
