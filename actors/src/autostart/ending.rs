//! The end of a service: told, killed, swept, forgotten.
//!
//! Owns: each of these effects, in one function. Must never do: report an end that is not proven.

use std::time::Duration;

use actix::Context;
use chat_proxy_core::autostart::StopSignal;
use chat_proxy_core::autostart::life::{Event, Run};

use super::{AutostartActor, Name};
use crate::process::tree::{Look, Tree};
use crate::process::{Handle, children};

/// What SIGKILL does not end within this is stuck.
pub(super) const SWEEP_PATIENCE: Duration = Duration::from_secs(10);

impl AutostartActor {
    /// Tells the leader to end, in its own way.
    pub(super) fn signal(&mut self, name: &Name, run: Run, ctx: &mut Context<Self>) {
        self.stop_looking(name, ctx);
        let Some(service) = self.services.get(name) else { return };
        service.files.not_ready();
        tracing::info!(service = %name, pid = run.process.pid, "service is told to end");
        if let Some(running) = &service.running
            && let Err(error) = running.handle.stop(service.command.stop_signal)
        {
            tracing::error!(service = %name, %error, "a service cannot be told to end");
        }
    }

    /// Ends what is left and proves it gone. The leader stays a zombie until then: so its number,
    /// which is the group's, cannot become somebody else's.
    pub(super) fn sweep(
        &mut self,
        name: &Name,
        run: Run,
        patience: Duration,
        ctx: &mut Context<Self>,
    ) {
        self.stop_looking(name, ctx);
        let Some(service) = self.services.get(name) else { return };
        service.files.not_ready();
        let tree = service.tree(run);
        let signal = service.command.stop_signal;
        let work = async move {
            match end(&tree, signal, patience).await {
                Ok(()) => Event::Swept(run.generation),
                Err(who) => Event::NotSwept(run.generation, who),
            }
        };
        self.later(name, work, ctx);
    }

    /// Nothing of it runs.
    pub(super) fn forget(&mut self, name: &Name) {
        let Some(service) = self.services.get_mut(name) else { return };
        service.running = None;
        service.files.forget();
        children::disclaim(&service.files.mark());
        tracing::info!(service = %name, "service is gone");
    }

    /// Answers when all that we started are gone.
    pub(super) fn stop_all(&mut self, ctx: &mut Context<Self>) -> impl Future<Output = ()> + use<> {
        let names: Vec<Name> = self.services.keys().cloned().collect();
        let mut gone = Vec::new();
        for name in names {
            let (reply, told) = tokio::sync::oneshot::channel();
            self.stop(&name, reply, ctx);
            gone.push((name, told));
        }
        async move {
            for (name, told) in gone {
                if let Ok(Err(error)) = told.await {
                    tracing::warn!(service = %name, %error, "a service was left running");
                }
            }
        }
    }
}

/// Ends a tree; for so long its members may end by themselves, and are told to. The error names who
/// lives.
pub(super) async fn end(tree: &Tree, signal: StopSignal, grace: Duration) -> Result<(), String> {
    if !grace.is_zero() {
        for member in tree.look_soon(Look::Whole).await {
            if let Ok(Some(handle)) = Handle::open(member)
                && let Err(error) = handle.stop(signal)
            {
                tracing::warn!(pid = member.pid, %error, "a process cannot be told to end");
            }
        }
    }
    tree.sweep(grace, grace + SWEEP_PATIENCE).await?;
    // Of whomever it is the child: one that was taken over may be ours.
    if let Ok(Some(leader)) = Handle::open(tree.leader) {
        leader.reap();
    }
    Ok(())
}
