//! What the supervisor does to the world beside making and watching an engine: each effect of the
//! core, in one function.

use std::time::Duration;

use actix::{AsyncContext, Context, WrapFuture};
use chat_proxy_core::engine::lifecycle::{Engine, Event, State, Why};
use chat_proxy_core::engine::state_file::Phase;
use chat_proxy_core::ids::Generation;

use super::VllmSupervisor;
use crate::process::{Handle, port};

/// The port of an engine that has just gone, or of one that loads elsewhere, becomes free within
/// this, or somebody is named.
const PORT_PATIENCE: Duration = Duration::from_secs(3);
/// After an ordinary stop the rest of the tree may end by itself for this long.
const TIDY_GRACE: Duration = Duration::from_secs(2);
/// What SIGKILL does not end within this is stuck.
pub(super) const SWEEP_PATIENCE: Duration = Duration::from_secs(10);

impl VllmSupervisor {
    pub(super) fn check_port(
        &mut self,
        generation: Generation,
        number: u16,
        ctx: &mut Context<Self>,
    ) {
        let work = async move {
            match port::wait_free(number, PORT_PATIENCE).await {
                Ok(()) => Event::PortFree(generation),
                Err(by) => Event::PortTaken(generation, by),
            }
        };
        self.later(work, ctx);
    }

    pub(super) fn terminate(&mut self, engine: &Engine, ctx: &mut Context<Self>) {
        self.stop_probing(ctx);
        self.remember(engine, Phase::Stopping);
        let running = self.running.as_ref().filter(|r| r.generation == engine.generation);
        let (model, generation) = (&engine.launch.model, engine.generation);
        tracing::info!(%model, %generation, pid = engine.process.pid, "engine is told to end");
        if let Some(running) = running
            && let Err(error) = running.handle.terminate()
        {
            tracing::error!(%error, "an engine cannot be told to end");
        }
    }

    pub(super) fn kill(&mut self, engine: &Engine, ctx: &mut Context<Self>) {
        let (model, generation) = (&engine.launch.model, engine.generation);
        let pid = engine.process.pid;
        tracing::warn!(%model, %generation, pid, "engine did not end in time and is killed");
        let tree = self.tree(engine);
        ctx.spawn(async move { tree.kill().await }.into_actor(self));
    }

    /// Ends what is left, proves it gone, sees the port free. The leader stays a zombie until
    /// then: so its number, which is the group's, cannot become somebody else's.
    pub(super) fn sweep(&mut self, engine: Engine, ctx: &mut Context<Self>) {
        self.stop_probing(ctx);
        let generation = engine.generation;
        let tree = self.tree(&engine);
        let wanted = matches!(self.core.state(), State::Sweeping(_, Why::Wanted));
        let grace = if wanted { TIDY_GRACE } else { Duration::ZERO };
        let work = async move {
            if let Err(who) = tree.sweep(grace, SWEEP_PATIENCE).await {
                return Event::NotSwept(generation, who);
            }
            // Of whomever it is the child: one that was taken over may be ours.
            if let Ok(Some(leader)) = Handle::open(engine.process) {
                leader.reap();
            }
            tree.remove();
            match port::wait_free(engine.launch.port, PORT_PATIENCE).await {
                Ok(()) => {}
                // Not ours any more; whoever starts next names it.
                Err(by) => tracing::warn!(by, "the port is not free after an engine's end"),
            }
            Event::Swept(generation)
        };
        self.later(work, ctx);
    }

    pub(super) fn forget(&mut self, generation: Generation) {
        self.running = None;
        tracing::info!(%generation, "engine is gone");
        if let Err(error) = self.memory.forget() {
            let path = self.memory.path().display().to_string();
            tracing::error!(path, %error, "the state file cannot be removed");
        }
    }
}
