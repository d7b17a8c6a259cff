//! What must hold of those who wait: none is lost, none is refused without a reason, and none waits who
//! could be served.

use super::super::*;
use super::{Before, Person, World};
use crate::gpu::lease::Hold;

impl World {
    /// Whether a lease, if there is one, lets it through: then a load of its model is for it.
    fn lets_in(&self, person: &Person) -> bool {
        match self.core.hold() {
            Hold::Free => true,
            Hold::Acquiring { .. } => false,
            Hold::Held { lease, .. } => {
                person.who.pass.as_ref().is_some_and(|pass| pass.is(&lease.token))
            }
        }
    }

    pub(super) fn check_refusals(&self, before: &Before, effects: &[Effect]) {
        let rules = &self.setting.rules;
        for effect in effects {
            let Effect::Refuse(ticket, refusal) = effect else { continue };
            let person = &self.waiting[ticket];
            match refusal {
                Refusal::QueueFull { waiting, .. } => assert!(*waiting >= rules.max_queue),
                Refusal::QueueTimeout { waited, .. } => {
                    // Before and behind the event; a load that another one replaces has ended.
                    let own = |gpu: &Gpu| match gpu {
                        Gpu::Loading(_, launch, _) => TenantId::from(&**launch) == person.model,
                        Gpu::Resident(resident) => resident.tenant.is(&person.model),
                        _ => false,
                    };
                    let loaded = matches!(before.gpu, Gpu::Loading(..));
                    let loads = loaded && own(&before.gpu) && own(self.core.gpu());
                    let aside = before.all.iter().any(|w| w.ticket == *ticket)
                        && !before.queue.iter().any(|w| w.ticket == *ticket);
                    let aside = aside || !self.lets_in(person);
                    assert!(!loads || aside, "its own model loads");
                    assert_eq!(*waited, person.waited(self.now));
                    let limit = rules.max_wait.unwrap().max(person.waited(person.asked));
                    assert!(*waited >= limit);
                    assert!(*waited == limit || self.leapt || person.loaded, "late: {waited:?}");
                }
                Refusal::AutostartOff => assert!(!rules.start_on_request),
                Refusal::Leased { .. } => assert!(!rules.lease_wait),
                Refusal::LeaseBusy { .. } => panic!("no answer for a request"),
                Refusal::NoResident => {
                    assert!(person.who.only_there);
                    // In the same moment it may begin to load for others.
                    let there =
                        matches!(self.core.gpu(), Gpu::Resident(r) if r.tenant.is(&person.model));
                    assert!(
                        !there || person.model == TenantId::Ollama,
                        "{} is there",
                        person.model
                    );
                }
                Refusal::Failed(_) | Refusal::Stopped | Refusal::Draining => {}
            }
        }
    }

    /// The queue is what the world knows it to be, and nobody is in it who has an answer to get.
    pub(super) fn check_queue(&mut self) {
        let rules = &self.setting.rules;
        let queue: Vec<&Waiter> = self.core.waiting().collect();
        let mut tickets: Vec<Ticket> = queue.iter().map(|w| w.ticket).collect();
        tickets.sort();
        assert!(tickets.iter().eq(self.waiting.keys()), "somebody is lost");
        assert!(queue.len() <= rules.max_queue, "{} wait", queue.len());
        let waiters: Vec<&Waiter> = self.core.waiters.iter().collect();
        assert!(waiters.is_sorted_by_key(|w| self.core.place(w)));
        let queue = waiters;
        assert!(self.core.next_tick().is_none_or(|at| at > self.now), "a tick of the past");
        let loading = match self.core.gpu() {
            Gpu::Loading(_, launch, _) => Some(TenantId::from(&**launch)),
            _ => None,
        };
        for waiter in &queue {
            let own = loading.as_ref().is_some_and(|id| waiter.tenant.is(id));
            let over = rules.max_wait.is_some_and(|limit| waiter.arrived + limit <= self.now);
            let here =
                matches!(self.core.gpu(), Gpu::Resident(r) if waiter.tenant.is(&r.tenant.id()));
            let own = own || here && self.waiting[&waiter.ticket].loaded;
            assert!(own || !over, "{:?} has waited for too long", self.core.place(waiter));
        }
        let (queue, beside): (Vec<&Waiter>, Vec<&Waiter>) =
            queue.into_iter().partition(|w| self.core.competes(w));
        for waiter in beside {
            let lets_in = self.core.passes(waiter) && self.core.takes_aside(waiter);
            let clearing = matches!(self.core.hold(), Hold::Held { clearing: true, .. });
            assert!(!lets_in || clearing, "{:?} could use Ollama", self.core.place(waiter));
        }
        match self.core.gpu() {
            Gpu::Empty | Gpu::Stuck(_) => assert!(queue.is_empty(), "nobody sees to {tickets:?}"),
            Gpu::Resident(r) if r.closing.is_none() => {
                let full = rules
                    .max_concurrent
                    .is_some_and(|limit| r.in_flight >= limit && r.tenant != Tenant::Ollama);
                let of_it = |w: &&&Waiter| w.tenant.is(&r.tenant.id()) && !full;
                for waiter in queue.iter().filter(of_it) {
                    let held_back = waiter.refused_by == Some(r.generation)
                        && self.now < waiter.asked + ms(250);
                    assert!(held_back, "{:?} could be served", self.core.place(waiter));
                }
            }
            _ => {}
        }
        if let Gpu::Resident(r) = self.core.gpu() {
            assert_eq!(r.in_flight, self.in_flight(r.generation), "miscounted");
        }
        if let Some((generation, count)) = self.core.beside() {
            assert_eq!(count, self.in_flight(generation), "miscounted");
        }
        if let Some(model) = loading {
            let own = self.waiting.values_mut().filter(|person| person.model == model);
            own.for_each(|person| person.loaded = true);
        }
    }

    /// A report that is older than what was heard since.
    pub(in super::super) fn hear_old_news(&mut self, at: usize) {
        let Some(last) = self.heard.last() else { return };
        let old = |report: &&EngineReport| report.newest < last.newest;
        let old: Vec<EngineReport> = self.heard.iter().filter(old).cloned().collect();
        if old.is_empty() {
            return;
        }
        self.tell(&Event::Tick);
        let gpu = self.core.gpu().clone();
        let queue: Vec<Waiter> = self.core.waiting().cloned().collect();
        let report = old[at % old.len()].clone();
        let event = Event::Engine { report, in_flight: 0, fresh: false };
        assert_eq!(self.core.on(event.clone(), self.now), [], "{event:?}");
        assert_eq!(*self.core.gpu(), gpu, "{event:?}");
        assert!(self.core.waiting().eq(queue.iter()), "{event:?}");
    }
}
