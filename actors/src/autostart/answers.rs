//! What those who asked are told.
//!
//! Owns: that who needs a backend is sent there only if it answers. Must never do: let one who asks
//! for a backend that does not answer harm the service, which does.

use std::collections::BTreeMap;

use actix::{AsyncContext, Context, WrapFuture};
use chat_proxy_core::autostart::Failure;
use chat_proxy_core::autostart::failure;
use chat_proxy_core::autostart::life::{Outcome, Ticket};
use chat_proxy_core::registry::Endpoint;

use super::probe::Target;
use super::{AutostartActor, Name, Reply};

impl AutostartActor {
    pub(super) fn answer(
        &mut self,
        name: &Name,
        tickets: &[Ticket],
        outcome: &Outcome,
        ctx: &mut Context<Self>,
    ) {
        let Some(service) = self.services.get_mut(name) else { return };
        let answer = match outcome {
            Outcome::Ready => return self.answer_ready(name, tickets, ctx),
            Outcome::Gone => Ok(()),
            Outcome::NotOurs => Err(failure::not_ours(name)),
            Outcome::Failed(Failure::Stopped) if self.ending => Err(failure::ending()),
            Outcome::Failed(failure) => Err(failure.error(name, &service.files.shown_log())),
        };
        for asker in tickets.iter().filter_map(|ticket| service.askers.remove(ticket)) {
            // Who asked may have left.
            let _ = asker.reply.send(answer.clone());
        }
    }

    /// The service is ready. Whoever needs another backend than the one that says so is told when
    /// that one has been asked too: his entry may be wrong.
    fn answer_ready(&mut self, name: &Name, tickets: &[Ticket], ctx: &mut Context<Self>) {
        let Some(service) = self.services.get_mut(name) else { return };
        let snapshot = &self.parts.registry.load().snapshot;
        let mut others: BTreeMap<String, (Endpoint, Vec<Reply>)> = BTreeMap::new();
        for ticket in tickets {
            let Some(asker) = service.askers.remove(ticket) else { continue };
            match asker.probe.filter(|probe| !service.tells_of(probe, snapshot)) {
                None => drop(asker.reply.send(Ok(()))),
                Some(probe) => {
                    let known = others.entry(probe.base().to_owned());
                    known.or_insert_with(|| (probe, Vec::new())).1.push(asker.reply);
                }
            }
        }
        for (address, (probe, replies)) in others {
            let (name, clients) = (name.clone(), self.clients.clone());
            let work = async move {
                let answers = Target::Backend(probe).answers_soon(&clients).await;
                let told = if answers {
                    Ok(())
                } else {
                    tracing::warn!(service = %name, address, "an entry's backend is not the service's");
                    Err(failure::nobody_listens(&name, &address))
                };
                for reply in replies {
                    // Who asked may have left.
                    let _ = reply.send(told.clone());
                }
            };
            ctx.spawn(work.into_actor(self));
        }
    }
}
