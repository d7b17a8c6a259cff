//! What the arbiter does with each message: an event of its core.
//!
//! Owns: the translation. Must never do: decide.

use actix::Handler;
use chat_proxy_core::gpu::scheduler::{Event, Purpose, Stopping, Waiter};
use chat_proxy_core::gpu::{Asker, Refusal};
use chat_proxy_core::ids::Ticket;

use super::messages::{
    Abandon, Activate, Admit, BoundsChanged, Deactivate, Drain, EngineChanged, Explain, GetStatus,
    OllamaForgot, OllamaVacated, RegistryChanged, StartsChanged, Status, WouldRefuse,
};
use super::{GpuArbiter, LedgerChanged, Waiting, told_name};
use crate::clock;

impl Handler<Admit> for GpuArbiter {
    type Result = ();

    fn handle(&mut self, admit: Admit, ctx: &mut Self::Context) {
        let Admit { ticket, tenant, arrived, refused_by, who, request_id, progress, reply } = admit;
        let model = told_name(&tenant);
        let waiting = Waiting { model, request_id, reply, progress: Some(progress) };
        self.waiting.insert(ticket, waiting);
        let waiter = Waiter {
            ticket,
            tenant,
            purpose: Purpose::Request,
            arrived,
            asked: clock::now(),
            refused_by,
            who,
        };
        self.apply(Event::Admit(waiter), ctx);
    }
}

impl Handler<WouldRefuse> for GpuArbiter {
    type Result = Option<Refusal>;

    fn handle(
        &mut self,
        WouldRefuse { tenant, who }: WouldRefuse,
        _: &mut Self::Context,
    ) -> Self::Result {
        let now = clock::now();
        let waiter = Waiter {
            // It is not kept.
            ticket: Ticket(0),
            tenant,
            purpose: Purpose::Request,
            arrived: now,
            asked: now,
            refused_by: None,
            who,
        };
        self.core.would_refuse(waiter, now)
    }
}

impl Handler<Activate> for GpuArbiter {
    type Result = ();

    fn handle(&mut self, activate: Activate, ctx: &mut Self::Context) {
        let Activate { ticket, tenant, reply } = activate;
        let model = told_name(&tenant);
        // Orders by hand have no id of their own.
        let request_id = format!("by hand {}", ticket.0).into();
        self.waiting.insert(ticket, Waiting { model, request_id, reply, progress: None });
        let now = clock::now();
        let waiter = Waiter {
            ticket,
            tenant,
            purpose: Purpose::Activate,
            arrived: now,
            asked: now,
            refused_by: None,
            who: Asker::default(),
        };
        self.apply(Event::Admit(waiter), ctx);
    }
}

impl Handler<Abandon> for GpuArbiter {
    type Result = ();

    fn handle(&mut self, Abandon(ticket): Abandon, ctx: &mut Self::Context) {
        if let Some(waiting) = self.waiting.remove(&ticket) {
            self.stories.ended(&waiting.request_id, "left", clock::now());
            self.apply(Event::Abandon(ticket), ctx);
        }
        self.withdraw_lease(ticket, ctx);
    }
}

impl Handler<Deactivate> for GpuArbiter {
    type Result = actix::MessageResult<Deactivate>;

    fn handle(&mut self, order: Deactivate, ctx: &mut Self::Context) -> Self::Result {
        let Deactivate { side, force } = order;
        let met: Stopping = self.core.stopping(side);
        self.apply(Event::Deactivate { side, force }, ctx);
        actix::MessageResult(met)
    }
}

impl Handler<EngineChanged> for GpuArbiter {
    type Result = ();

    fn handle(&mut self, changed: EngineChanged, ctx: &mut Self::Context) {
        let EngineChanged { report, fresh } = changed;
        let in_flight =
            report.held.as_ref().map_or(0, |held| self.parts.ledger.in_flight(held.generation));
        self.parts.ledger.used(report.newest);
        self.apply(Event::Engine { report, in_flight, fresh }, ctx);
    }
}

impl Handler<OllamaVacated> for GpuArbiter {
    type Result = ();

    fn handle(&mut self, news: OllamaVacated, ctx: &mut Self::Context) {
        self.apply(Event::Vacated(news.generation, news.given), ctx);
    }
}

impl Handler<OllamaForgot> for GpuArbiter {
    type Result = ();

    fn handle(&mut self, _: OllamaForgot, ctx: &mut Self::Context) {
        self.apply(Event::OllamaForgot, ctx);
    }
}

impl Handler<LedgerChanged> for GpuArbiter {
    type Result = ();

    fn handle(&mut self, _: LedgerChanged, ctx: &mut Self::Context) {
        let beside = self.core.beside().map(|(generation, _)| generation);
        for generation in [self.current(), beside].into_iter().flatten() {
            let count = self.parts.ledger.in_flight(generation);
            self.apply(Event::InFlight(generation, count), ctx);
        }
    }
}

impl Handler<StartsChanged> for GpuArbiter {
    type Result = ();

    fn handle(&mut self, _: StartsChanged, ctx: &mut Self::Context) {
        self.apply(Event::Tick, ctx);
    }
}

impl Handler<BoundsChanged> for GpuArbiter {
    type Result = ();

    fn handle(&mut self, _: BoundsChanged, ctx: &mut Self::Context) {
        self.keeps_of = None;
        let rules = self.parts.rules.load();
        let effects = self.core.rules(&rules, clock::now());
        self.follow(effects, ctx);
        self.apply(Event::Tick, ctx);
    }
}

impl Handler<RegistryChanged> for GpuArbiter {
    type Result = ();

    /// What it means for what runs is read with every event.
    fn handle(&mut self, _: RegistryChanged, ctx: &mut Self::Context) {
        self.apply(Event::Tick, ctx);
    }
}

impl Handler<Drain> for GpuArbiter {
    type Result = ();

    fn handle(&mut self, _: Drain, ctx: &mut Self::Context) {
        self.apply(Event::Drain, ctx);
    }
}

impl Handler<Explain> for GpuArbiter {
    type Result = actix::MessageResult<Explain>;

    fn handle(&mut self, Explain(request_id): Explain, _: &mut Self::Context) -> Self::Result {
        actix::MessageResult(self.stories.of(&request_id, clock::now()))
    }
}

impl Handler<GetStatus> for GpuArbiter {
    type Result = Status;

    fn handle(&mut self, _: GetStatus, _: &mut Self::Context) -> Status {
        self.status()
    }
}
