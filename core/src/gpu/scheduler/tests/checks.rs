//! What must hold after every event: the invariants of DESIGN 3, each in a function.

mod queue;

use super::world::{Closed, Person, World};
use super::*;
use crate::gpu::lease::{Hold, LeaseEffect, LeaseOrder, LeaseOutcome};

/// How things stood before an event.
struct Before {
    gpu: Gpu,
    queue: Vec<Waiter>,
    /// Those too who wait for the end of a lease.
    all: Vec<Waiter>,
    /// When what uses Ollama beside a vLLM is cut.
    cut_beside: Option<Moment>,
}

impl Before {
    fn of(core: &Scheduler) -> Self {
        Before {
            gpu: core.gpu().clone(),
            queue: core.waiters.iter().cloned().collect(),
            all: core.waiting().cloned().collect(),
            cut_beside: core.aside_cut_at(),
        }
    }
}

/// Nobody used it, and it was its time, or its entry had changed.
fn is_unused(effect: &Effect) -> bool {
    let Effect::Unload { reason, .. } = effect else { return false };
    matches!(reason, Reason::Idle | Reason::Changed | Reason::Removed)
}

impl World {
    /// An event for the scheduler, its effects, and whether all is as it must be.
    pub(super) fn tell(&mut self, event: &Event) {
        let before = Before::of(&self.core);
        if let Event::Deactivate { force: true, side } = event {
            if *side == Side::Ollama && self.core.ollama_stays() {
                self.forced = self.core.beside().map(|(generation, _)| generation);
            } else if self.core.side() == Some(*side) {
                self.forced = self.core.believed();
            }
        }
        let effects = self.core.on(event.clone(), self.now);
        self.after(&before, event, effects);
    }

    /// The same for an order about a lease.
    pub(super) fn lease_order(&mut self, order: LeaseOrder) {
        let before = Before::of(&self.core);
        let (outcome, effects) = self.core.on_lease(order, self.now);
        match outcome {
            LeaseOutcome::Renewed(lease) => self.lease = Some(lease),
            LeaseOutcome::WrongToken => {
                assert!(!matches!(self.core.hold(), Hold::Held { .. }), "its token is right");
            }
            LeaseOutcome::Idle => assert_eq!(*self.core.hold(), Hold::Free),
            LeaseOutcome::Released | LeaseOutcome::Other { .. } => {}
        }
        self.after(&before, &Event::Tick, effects);
    }

    fn after(&mut self, before: &Before, event: &Event, effects: Vec<Effect>) {
        self.counts.note_event(event, &effects, self.core.gpu());
        if let Some(log) = &mut self.log {
            log.push(format!("{:?} {event:?} -> {effects:?}", self.now));
        }
        self.check_leases(&effects);
        self.check_swaps(before, event, &effects);
        self.check_background(before, &effects);
        self.check_abandoned(before, event, &effects);
        self.check_broken(&effects);
        self.check_cuts(before, &effects);
        self.check_grants(before, event, &effects);
        self.check_refusals(before, &effects);
        let beside = |tenant: &Tenant| *tenant == Tenant::Ollama && self.core.ollama_stays();
        let granted =
            effects.iter().any(|e| matches!(e, Effect::Grant { tenant, .. } if !beside(tenant)));
        self.carry_out(effects);
        self.note_closing(granted);
        self.note_alone();
        self.note_awaited();
        self.check_queue();
    }

    /// A lease is granted when nothing of ours is on the GPU, once, and then only its holder is
    /// served.
    fn check_leases(&self, effects: &[Effect]) {
        let ended = |e: &Effect| matches!(e, Effect::Lease(LeaseEffect::Ended(..)));
        let mut held = self.lease.as_ref();
        for effect in effects {
            match effect {
                Effect::Lease(LeaseEffect::Granted(_, lease)) => {
                    assert!(held.is_none(), "two leases");
                    assert!(self.live.is_none() || self.blind, "beside {:?}", self.live);
                    let ollama = self.ollama.loaded && self.setting.rules.beside_ollama;
                    assert!(!ollama, "beside Ollama");
                    assert_eq!(self.core.beside(), None, "beside Ollama");
                    held = Some(lease);
                }
                effect if ended(effect) => held = None,
                Effect::Grant { ticket, .. } => {
                    let pass = self.waiting[ticket].who.pass.as_ref();
                    let good = held.is_none_or(|lease| pass.is_some_and(|p| p.is(&lease.token)));
                    assert!(good, "{pass:?} passed the lease");
                }
                _ => {}
            }
        }
    }

    /// Invariants 1, 2 and 5: one holder, none beside another, nothing stopped that is in use.
    fn check_swaps(&self, before: &Before, event: &Event, effects: &[Effect]) {
        let fresh = matches!(event, Event::Engine { fresh: true, .. });
        let asked_by_hand = |of: &dyn Fn(&TenantId) -> bool| {
            let admitted = match event {
                Event::Admit(waiter) => Some(waiter),
                _ => None,
            };
            let mut all = before.all.iter().chain(admitted);
            all.any(|w| w.purpose == Purpose::Activate && of(&w.tenant.id()))
        };
        for effect in effects {
            match effect {
                Effect::Run(generation, launch) => {
                    let again = matches!(&before.gpu, Gpu::Loading(of, ..) if of == generation);
                    if again {
                        assert!(fresh, "told twice");
                        continue;
                    }
                    // A new supervisor's first report, or a new scheduler's, may be from before
                    // the last order; the supervisor then stops the one before the other.
                    let alone = self.live.is_none() || self.blind;
                    assert!(alone, "start {generation} beside {:?}", self.live);
                    let gone = |held: &Held| matches!(held.phase, Phase::Failed(_));
                    let held = self.heard.last().unwrap().held.as_ref();
                    assert!(held.is_none_or(gone), "{held:?} is not gone");
                    assert!(
                        self.setting.rules.start_on_request
                            || self.core.decided.as_ref().is_some_and(|d| d.reason.brings_back())
                            || asked_by_hand(&|id| *id == TenantId::from(&**launch)),
                        "a request started {generation}"
                    );
                    let alone = !self.ollama.loaded || !self.core.must_vacate();
                    assert!(alone, "start {generation} beside Ollama");
                }
                Effect::Stop(generation) => {
                    let free = self.in_flight(*generation) == 0
                        || self.cut.contains(generation)
                        || self.live != Some(*generation);
                    assert!(free, "start {generation} is in use");
                    let ordered = matches!(event, Event::Deactivate { .. })
                        || matches!(&before.gpu, Gpu::Resident(r)
                            if r.closing.is_some_and(|c| c.cause == ClosingCause::Order));
                    assert!(
                        self.setting.rules.start_on_request
                            || fresh
                            || ordered
                            || *self.core.hold() != Hold::Free
                            || effects.iter().any(is_unused)
                            || !matches!(&before.gpu, Gpu::Resident(r) if r.tenant != Tenant::Ollama)
                            || asked_by_hand(&|_| true),
                        "a request stopped {generation}"
                    );
                }
                Effect::Open(generation) => {
                    let alone = self.live.is_none() || self.blind || self.core.ollama_stays();
                    assert!(alone, "open {generation} beside {:?}", self.live);
                }
                Effect::Vacate(generation) => {
                    let used = self.in_flight(*generation) > 0 && !self.cut.contains(generation);
                    assert!(!used, "Ollama is in use");
                }
                _ => {}
            }
        }
        let runs = effects.iter().filter(|e| matches!(e, Effect::Run(..))).count();
        assert!(runs <= 1, "{effects:?}");
    }

    /// Background requests take the GPU from nobody who works with it, before their bound; and who
    /// is only there for what is there takes it from nobody at all.
    fn check_background(&self, before: &Before, effects: &[Effect]) {
        for effect in effects {
            let Effect::SwapBegan { from, to, reason: Reason::Request, .. } = effect else {
                continue;
            };
            let queue = self.waiting.values().filter(|person| person.model == *to);
            let for_it: Vec<&Person> = queue.filter(|person| !person.who.only_there).collect();
            // Ollama is there wherever nothing else is.
            assert!(!for_it.is_empty() || *to == TenantId::Ollama, "nobody wants {to}");
            let rules = &self.setting.rules;
            let pinned = self.pinned(&before.gpu);
            let due = |p: &&Person| {
                let cost = self.core.costs.swap(from.as_ref(), to).unwrap_or_default();
                let bound = rules.bounds().of(p.who.class).saturating_sub(cost);
                !pinned && p.arrived + bound <= self.now
            };
            // One that is gone by itself is taken from nobody.
            let (Gpu::Resident(resident), Some(from)) = (&before.gpu, from) else { continue };
            if !resident.tenant.is(from) {
                continue;
            }
            if for_it.iter().any(|p| p.is_interactive() || due(p)) {
                continue;
            }
            let last = self.interactive.get(&resident.generation);
            let quiet = last.is_none_or(|last| *last + rules.background_idle <= self.now);
            assert!(!pinned, "background work took the GPU from {:?}", resident.tenant.id());
            assert!(quiet, "background work took the GPU {last:?} after interactive work");
        }
    }

    /// A load is ended for somebody else, by order, or after it was left alone for its grace.
    fn check_abandoned(&self, before: &Before, event: &Event, effects: &[Effect]) {
        let Gpu::Loading(of, launch, _) = &before.gpu else { return };
        let stops = effects.contains(&Effect::Stop(*of));
        let unused = effects.iter().any(is_unused);
        let leased = *self.core.hold() != Hold::Free;
        let ordered = matches!(event, Event::Deactivate { .. }) || unused || leased;
        let mut competing = self.core.waiters.iter().filter(|w| self.core.competes(w));
        let others = competing.any(|w| !w.tenant.is(&TenantId::from(&**launch)));
        // Nobody will want what the registry does not mean any more.
        let outdated = self.core.outdated(launch).is_some();
        if !stops || ordered || others || outdated {
            return;
        }
        let grace = self.setting.rules.abandoned_grace.expect("a load goes on");
        let since = match self.alone {
            Some((alone, since)) if alone == *of => since,
            _ => self.now,
        };
        assert!(since + grace <= self.now, "left alone only since {since:?}");
    }

    fn note_alone(&mut self) {
        self.alone = match self.core.gpu() {
            Gpu::Loading(of, launch, _)
                if !self.core.waiters.any_of(&TenantId::from(&**launch))
                    && self.core.decided.as_ref().is_none_or(|d| !d.reason.brings_back()) =>
            {
                let since = self.alone.filter(|(alone, _)| alone == of);
                since.or(Some((*of, self.now)))
            }
            _ => None,
        };
        if let (Some((_, since)), Some(grace)) = (self.alone, self.setting.rules.abandoned_grace) {
            assert!(since + grace > self.now, "alone since {since:?}, and it loads still");
        }
    }

    /// Whoever waits for a lease waits no longer than its bound for what runs, whyever that closed.
    fn note_awaited(&mut self) {
        self.awaited = match (self.core.hold(), self.core.gpu()) {
            (Hold::Acquiring { .. }, Gpu::Resident(r))
                if r.in_flight > 0 && !self.cut.contains(&r.generation) =>
            {
                let since = self.awaited.filter(|(of, _)| *of == r.generation);
                since.or(Some((r.generation, self.now)))
            }
            _ => None,
        };
        if let (Some((of, since)), Some(drain)) = (self.awaited, self.setting.rules.lease_drain) {
            assert!(since + drain > self.now, "{of} runs since {since:?}, and a lease is wanted");
        }
    }

    /// For a model in a crash loop nothing is started, stopped or kept waiting, but by hand.
    fn check_broken(&self, effects: &[Effect]) {
        let broken = |id: &TenantId| {
            let of = |b: &&Broken| TenantId::from(&*b.launch) == *id && b.until > self.now;
            self.core.broken.iter().find(of)
        };
        for effect in effects {
            match effect {
                Effect::SwapBegan { to, reason: Reason::Request, .. } => {
                    assert!(broken(to).is_none(), "a swap for {to}");
                }
                Effect::Refuse(ticket, Refusal::Failed(Cause::CrashLoop { .. })) => {
                    assert_eq!(self.waiting[ticket].purpose, Purpose::Request);
                }
                _ => {}
            }
        }
        // Who waits for the end of a lease may see the end of the crash loop before.
        for waiter in self.core.waiters.iter().filter(|w| w.purpose == Purpose::Request) {
            let id = waiter.tenant.id();
            let comes = self.core.serves(&id) || self.core.waiters.asked_by_hand(&id);
            assert!(
                comes || broken(&id).is_none(),
                "{:?} waits for nothing",
                self.core.place(waiter)
            );
        }
    }

    /// What is cut was closed for the whole drain limit, by force, or is dead for two seconds.
    fn check_cuts(&self, before: &Before, effects: &[Effect]) {
        for effect in effects {
            let Effect::Cut(generation) = effect else { continue };
            if self.core.beside().is_some_and(|(beside, _)| beside == *generation) {
                let since = before.cut_beside.filter(|_| self.forced != Some(*generation));
                assert!(since.is_none_or(|at| at <= self.now), "cut before {since:?}");
                assert!(since.is_some() || self.forced == Some(*generation), "cut of Ollama");
                continue;
            }
            let since = match &before.gpu {
                Gpu::Clearing(clearing) => clearing.since + s(2),
                _ if self.forced == Some(*generation) => continue,
                _ => match self.closed {
                    Some(Closed { generation: of, until: Some(until), .. })
                        if of == *generation =>
                    {
                        until
                    }
                    other => panic!("cut of {generation}: {other:?}"),
                },
            };
            assert!(since <= self.now, "cut before {since:?}");
        }
    }

    /// Who is let in before the one it closes for has as much time as all others; who wants a lease
    /// has his own limit. An order in peace gives no more time than there was, and no more than a
    /// lease does that is asked for meanwhile.
    fn note_closing(&mut self, granted: bool) {
        let Gpu::Resident(Resident { generation, closing: Some(closing), .. }) = self.core.gpu()
        else {
            self.closed = None;
            return;
        };
        let (generation, cause) = (*generation, closing.cause);
        let (for_lease, ordered) = (cause == ClosingCause::Lease, cause == ClosingCause::Order);
        let goes_on = |c: &Closed| {
            c.generation == generation && !granted && (ordered || c.for_lease == for_lease)
        };
        let rules = &self.setting.rules;
        let after = |drain: Option<Duration>| Some(self.now + drain?);
        let usual = if for_lease { rules.lease_drain } else { rules.swap_drain };
        let begins = Closed { generation, for_lease, until: after(usual) };
        let mut closed = self.closed.filter(goes_on).unwrap_or(begins);
        if ordered && matches!(self.core.hold(), Hold::Acquiring { .. }) {
            let both = closed.until.into_iter().chain(after(rules.lease_drain));
            closed.until = both.min();
        }
        self.closed = Some(closed);
    }

    /// Invariants 3 and 4: only those who asked, only by what serves, the batch first, and no
    /// newcomer before somebody whose swap is due.
    fn check_grants(&self, before: &Before, event: &Event, effects: &[Effect]) {
        let serving = match self.core.gpu() {
            // It may already be told to go when nobody uses it.
            Gpu::Resident(r) => Some(r.generation),
            Gpu::Clearing(c) => Some(c.generation),
            _ => None,
        };
        let batch = match (&before.gpu, event) {
            (Gpu::Loading(of, launch, _), Event::Engine { report, .. }) => {
                let ready = report
                    .held
                    .as_ref()
                    .is_some_and(|held| held.generation == *of && held.phase == Phase::Ready);
                ready.then(|| TenantId::from(&**launch))
            }
            _ => None,
        };
        let beside = self.core.beside().map(|(generation, _)| generation);
        let stays = self.core.ollama_stays();
        let opens = !stays && effects.iter().any(|e| matches!(e, Effect::Open(_)));
        let batch = if opens { Some(TenantId::Ollama) } else { batch };
        let in_batch = |w: &Waiter| batch.as_ref().is_some_and(|id| w.tenant.is(id));
        let mut served = Vec::new();
        for effect in effects {
            let (ticket, purpose) = match effect {
                Effect::Grant { ticket, generation, tenant, queued, loading } => {
                    let person = &self.waiting[ticket];
                    assert_eq!(tenant.id(), person.model);
                    assert_eq!(*queued + *loading, person.waited(self.now));
                    if stays && *tenant == Tenant::Ollama {
                        assert_eq!(Some(*generation), beside);
                        continue;
                    }
                    assert_eq!(Some(*generation), serving);
                    let held_back = person.refused_by == Some(*generation)
                        && self.now < person.asked + ms(250)
                        && batch.is_none();
                    assert!(!held_back, "{person:?} was held back by {generation}");
                    (ticket, Purpose::Request)
                }
                Effect::Activated(ticket)
                    if stays && self.waiting[ticket].model == TenantId::Ollama =>
                {
                    continue;
                }
                Effect::Activated(ticket) => (ticket, Purpose::Activate),
                Effect::Stop(_) | Effect::Vacate(_) => {
                    // Whom the swap was for is served before it.
                    let left = self.core.waiters.iter().any(in_batch);
                    assert!(!left, "stopped before its batch was served");
                    continue;
                }
                _ => continue,
            };
            let person = &self.waiting[ticket];
            assert_eq!(person.purpose, purpose);
            served.push(*ticket);
            // Who waited through its load belongs to the batch.
            if batch.is_none() && !person.loaded {
                let place = self.place_of(*ticket, person);
                let overtaken = self.core.waiters.iter().find(|w| {
                    !w.tenant.is(&person.model)
                        && self.core.competes(w)
                        && self.core.place(w) < place
                        && self.bound_of(w).is_some_and(|bound| bound <= self.now)
                });
                let overtaken = overtaken.map(|w| self.core.place(w));
                assert_eq!(overtaken, None, "overtaken by {person:?}");
            }
        }
        let full = self.setting.rules.max_concurrent.is_some() && batch != Some(TenantId::Ollama);
        if batch.is_some() && !full {
            for waiter in before.queue.iter().filter(|w| in_batch(w)) {
                assert!(
                    served.contains(&waiter.ticket),
                    "{:?} was left out",
                    self.core.place(waiter)
                );
            }
        }
    }

    /// Where the scheduler must have put it.
    fn place_of(&self, ticket: Ticket, person: &Person) -> (Purpose, Moment, Ticket) {
        let bound = match person.purpose {
            Purpose::Activate => person.arrived,
            Purpose::Request => person.arrived + self.setting.rules.bounds().of(person.who.class),
        };
        (person.purpose, bound, ticket)
    }

    /// When it must have its turn, if ever.
    fn bound_of(&self, waiter: &Waiter) -> Option<Moment> {
        let class = waiter.who.class;
        match waiter.purpose {
            Purpose::Activate => Some(waiter.arrived),
            Purpose::Request if class == Class::Background && self.pinned(self.core.gpu()) => None,
            Purpose::Request => Some(waiter.arrived + self.setting.rules.bounds().of(class)),
        }
    }
}
