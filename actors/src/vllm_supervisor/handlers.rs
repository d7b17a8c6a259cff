//! What the supervisor does with each message.
//!
//! Owns: the answers. Must never do: wait; an answer that takes time is a future of its own.

use actix::{Handler, ResponseActFuture, WrapFuture};
use chat_proxy_core::engine::Cause;
use chat_proxy_core::engine::lifecycle::Event;
use tokio::sync::oneshot;

use super::VllmSupervisor;
use super::messages::{
    Announce, Autopsy, BoundsChanged, Ended, EngineStatus, GetEngine, Hurry, InCrashLoop, SetGoal,
    ShutDown,
};

impl Handler<SetGoal> for VllmSupervisor {
    type Result = ();

    fn handle(&mut self, goal: SetGoal, ctx: &mut Self::Context) {
        if self.looked {
            self.take(goal, ctx);
        } else {
            self.early.push(goal);
        }
    }
}

impl Handler<Announce> for VllmSupervisor {
    type Result = ();

    fn handle(&mut self, _: Announce, _: &mut Self::Context) {
        if !self.looked {
            return;
        }
        let report = self.core.report();
        self.send_report(report, false);
    }
}

impl Handler<ShutDown> for VllmSupervisor {
    type Result = ResponseActFuture<Self, Ended>;

    fn handle(&mut self, order: ShutDown, ctx: &mut Self::Context) -> Self::Result {
        let (answer, ended) = oneshot::channel();
        (self.ending, self.keeping) = (true, order.keep);
        self.shutting_down.push(answer);
        self.end(ctx);
        // It must die with us: who asks then hears nothing, and asks our successor.
        let answer = async move {
            ended.await.unwrap_or_else(|_| Ended::Left("its supervisor died".to_owned()))
        };
        Box::pin(answer.into_actor(self))
    }
}

impl Handler<BoundsChanged> for VllmSupervisor {
    type Result = ();

    fn handle(&mut self, _: BoundsChanged, _: &mut Self::Context) {
        self.core.change(self.parts.bounds.load().rules.clone());
    }
}

impl Handler<Hurry> for VllmSupervisor {
    type Result = ();

    fn handle(&mut self, _: Hurry, ctx: &mut Self::Context) {
        self.apply(Event::Hurry, ctx);
    }
}

impl Handler<Autopsy> for VllmSupervisor {
    type Result = ResponseActFuture<Self, Option<Cause>>;

    fn handle(&mut self, Autopsy(generation): Autopsy, _: &mut Self::Context) -> Self::Result {
        let (answer, told) = oneshot::channel();
        self.asking.retain(|(_, answer)| !answer.is_closed());
        self.asking.push((generation, answer));
        self.answer_autopsies();
        Box::pin(async move { told.await.ok().flatten() }.into_actor(self))
    }
}

impl Handler<GetEngine> for VllmSupervisor {
    type Result = EngineStatus;

    fn handle(&mut self, _: GetEngine, _: &mut Self::Context) -> EngineStatus {
        let report = self.core.report();
        let held = report.held.as_ref();
        let running = self.running.as_ref();
        EngineStatus {
            state: match held {
                Some(held) => held.phase.as_str(),
                None if self.looked => "stopped",
                None => "unknown",
            },
            model: held.map(|held| held.launch.model.to_string()),
            pid: running.map(|running| running.handle.process().pid),
            port: self.parts.port,
            since: running.map(|running| running.started_at),
            restarts: self.core.restarts(),
            last_error: self.core.last_error().map(str::to_owned),
            in_crash_loop: report.broken.iter().map(InCrashLoop::of).collect(),
            log: held.map(|held| held.launch.log.display().to_string()),
        }
    }
}
