//! Who else there is: leases, Ollama, settings that change, and what becomes of a scheduler that dies.

use super::super::*;
use super::{Job, Person, Todo, World};
use crate::gpu::LeaseToken;
use crate::gpu::lease::{Hold, LeaseAsk, LeaseEffect};

impl World {
    // Leases.

    pub(in super::super) fn ask_lease(&mut self, ttl: Duration, restart_model: bool) {
        self.number += 1;
        let ticket = t(self.number);
        self.lease_asks.insert(ticket);
        let token = format!("token {}", self.number).as_str().into();
        let owner = "somebody".to_owned();
        self.tell(&Event::Lease(LeaseAsk { ticket, token, owner, restart_model, ttl }));
    }

    pub(in super::super) fn leave_lease(&mut self) {
        if let Some(ticket) = self.lease_asks.pop_first() {
            self.tell(&Event::Abandon(ticket));
        }
    }

    /// The token of the lease that is held, or a wrong one.
    pub(in super::super) fn token(&self) -> LeaseToken {
        self.lease.as_ref().map_or_else(|| "wrong".into(), |lease| lease.token.clone())
    }

    pub(in super::super) fn lease_effect(&mut self, effect: LeaseEffect) {
        match effect {
            LeaseEffect::Granted(ticket, lease) => {
                assert!(self.lease_asks.remove(&ticket), "nobody asked");
                self.lease = Some(lease);
            }
            LeaseEffect::Refused(ticket, _) => {
                assert!(self.lease_asks.remove(&ticket), "nobody asked");
            }
            LeaseEffect::Ended(lease, _) => assert_eq!(self.lease.take(), Some(lease)),
            LeaseEffect::Restore(model) => {
                self.later(self.setting.delay, Todo::Restore(model));
            }
        }
    }

    pub(in super::super) fn granted(&mut self, ticket: Ticket, generation: Generation) {
        let person = self.waiting.remove(&ticket).unwrap();
        if person.refused_by.is_none() {
            let bound = self.setting.rules.bounds().of(person.who.class);
            self.longest = self.longest.max(person.waited(self.now).saturating_sub(bound));
        }
        let ollama = person.model == TenantId::Ollama;
        self.ollama.loaded |= ollama;
        let served = ollama || self.live == Some(generation);
        let takes = if served { person.service } else { ms(1) };
        self.jobs.insert(ticket, Job { generation, person });
        self.later(takes, Todo::JobEnds(ticket));
    }

    pub(in super::super) fn end_jobs(&mut self, generation: Generation, after: Duration) {
        let of: Vec<Ticket> = self
            .jobs
            .iter()
            .filter(|(_, job)| job.generation == generation)
            .map(|(ticket, _)| *ticket)
            .collect();
        for ticket in of {
            self.later(after, Todo::JobEnds(ticket));
        }
    }

    /// It dies with its queue; those who waited ask the next one.
    pub(in super::super) fn new_scheduler(&mut self) {
        self.core = Scheduler::new(self.setting.rules.clone(), self.used);
        self.core.keep(Arc::new(self.keeps.clone()));
        self.core.specs(self.specs());
        self.heard.clear();
        self.blind = true;
        (self.closed, self.forced) = (None, None);
        (self.awaited, self.alone) = (None, None);
        self.interactive.clear();
        let waiting = std::mem::take(&mut self.waiting);
        self.ollama.asked = None;
        let of = |job: &&Job| job.person.model == TenantId::Ollama;
        if let Some(generation) = self.jobs.values().filter(of).map(|job| job.generation).max() {
            self.tell(&Event::OllamaInUse(generation, self.in_flight(generation)));
        }
        if let Some(lease) = self.lease.clone() {
            self.tell(&Event::LeaseKept { lease, clearing: false });
        }
        for (_, person) in waiting {
            self.ask(Person { asked: self.now, refused_by: None, ..person });
        }
        // Whoever asked for a lease asks again.
        for _ in std::mem::take(&mut self.lease_asks) {
            self.ask_lease(s(20), true);
        }
        self.send_report(false);
    }

    // Settings that change.

    pub(in super::super) fn start_on_request(&mut self, may: bool) {
        self.setting.rules.start_on_request = may;
        self.core.start_on_request(may);
        self.tell(&Event::Tick);
    }

    /// The entry of a model says how it is kept, or does not any more.
    pub(in super::super) fn keep(&mut self, model: &str, keep: Option<Keep>) {
        match keep {
            Some(keep) => self.keeps.insert(model.into(), keep),
            None => self.keeps.remove(&ModelName::from(model)),
        };
        self.core.keep(Arc::new(self.keeps.clone()));
        self.tell(&Event::Tick);
    }

    /// The entry of a model is another one from now on, or goes.
    pub(in super::super) fn entry(&mut self, model: &str, edition: Option<u64>) {
        self.editions.insert(model.into(), edition);
        self.core.specs(self.specs());
        self.tell(&Event::Tick);
    }

    /// The registry as it is now.
    pub(in super::super) fn specs(&self) -> Arc<Specs> {
        let one = |name: &&str| {
            let own = launch(name);
            let now = match self.editions.get(&own.model).copied().unwrap_or(Some(0))? {
                0 => own,
                n => edition(&own, &n.to_string()),
            };
            Some((now.model.clone(), now))
        };
        Arc::new(MODELS.iter().filter_map(one).collect())
    }

    /// Whether background work may not have the GPU for now.
    pub(in super::super) fn pinned(&self, gpu: &Gpu) -> bool {
        let Gpu::Resident(resident) = gpu else { return false };
        let launch = resident.tenant.launch();
        launch.and_then(|launch| self.keeps.get(&launch.model)).is_some_and(|keep| keep.pinned)
    }

    // Ollama.

    /// It ends what it has before it unloads.
    pub(in super::super) fn look_at_ollama(&mut self, of: Generation) {
        let look = Todo::OllamaLook(self.ollama.asker, of, self.now);
        self.later(self.setting.delay + self.setting.unload, look);
    }

    pub(in super::super) fn ollama_looked(&mut self, of: Generation, since: Moment) {
        let busy = self.jobs.values().any(|job| job.person.model == TenantId::Ollama);
        let stays = self.ollama.loaded && (busy || self.ollama.stays);
        let late = since + s(30) <= self.now;
        if stays && !late {
            let look = Todo::OllamaLook(self.ollama.asker, of, since);
            return self.later(ms(100), look);
        }
        self.ollama.loaded = stays;
        if self.ollama.asked.take_if(|asked| *asked == of).is_some() {
            let given = if stays { Err(crashed()) } else { Ok(()) };
            self.tell(&Event::Vacated(of, given));
        }
    }

    /// Whoever asks Ollama dies, and its successor says so.
    pub(in super::super) fn new_asker(&mut self) {
        self.ollama.asker += 1;
        self.ollama.asked = None;
        self.tell(&Event::OllamaForgot);
    }

    /// Somebody else has Ollama load something. While a vLLM lives, or is about to, that is not ours
    /// to see.
    pub(in super::super) fn foreign(&mut self) {
        if self.core.ollama_stays() {
            // Where it takes no turns there is nothing to see but before a lease.
            self.ollama.loaded |= *self.core.hold() == Hold::Free && !self.blind;
            return;
        }
        let free = match self.core.gpu() {
            Gpu::Empty => true,
            Gpu::Resident(resident) => resident.tenant == Tenant::Ollama,
            _ => false,
        };
        self.ollama.loaded |= free && self.live.is_none() && !self.blind;
    }
}
