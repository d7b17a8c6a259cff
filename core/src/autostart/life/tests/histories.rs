//! Random histories of a life.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// What happens in a random history; numbers choose among what is possible.
#[derive(Debug, Clone)]
enum Step {
    Ask(bool),
    Stop,
    Pass(u64),
    Tick,
    /// One of the effects that are under way comes to its end, well or badly.
    Deliver(usize, bool),
    Dies,
    Refused,
    Hurry,
    /// The same for a start that is over.
    Stale(u8, u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => any::<bool>().prop_map(Step::Ask),
        1 => Just(Step::Stop),
        2 => (1..40u64).prop_map(Step::Pass),
        2 => Just(Step::Tick),
        9 => (any::<usize>(), proptest::bool::weighted(0.8)).prop_map(|(at, well)| Step::Deliver(at, well)),
        1 => Just(Step::Dies),
        1 => Just(Step::Refused),
        1 => Just(Step::Hurry),
        2 => (0..10u8, 1..4u64).prop_map(|(kind, back)| Step::Stale(kind, back)),
    ]
}

/// The machine around a life.
struct World {
    life: Life,
    now: Moment,
    next: u64,
    /// How often each was answered.
    answers: BTreeMap<u64, u32>,
    under_way: Vec<Effect>,
    /// Starts whose processes may live.
    alive: Vec<u64>,
}

impl World {
    fn new() -> Self {
        World {
            life: life(),
            now: s(0),
            next: 0,
            answers: BTreeMap::new(),
            under_way: Vec::new(),
            alive: Vec::new(),
        }
    }

    fn ticket(&mut self) -> Ticket {
        self.next += 1;
        self.answers.insert(self.next, 0);
        Ticket(self.next)
    }

    fn event(&mut self, event: Event) {
        for effect in self.life.on(event, self.now) {
            match effect {
                Effect::Answer(tickets, _) => {
                    for ticket in tickets {
                        *self.answers.get_mut(&ticket.0).unwrap() += 1;
                    }
                }
                Effect::Spawn(of) => {
                    assert!(self.alive.is_empty(), "started beside {:?}", self.alive);
                    self.alive.push(of);
                    self.under_way.push(Effect::Spawn(of));
                }
                effect => self.under_way.push(effect),
            }
        }
        assert!(
            self.answers.values().all(|times| *times <= 1),
            "answered twice: {:?}",
            self.answers
        );
        // A child that comes when it is not awaited any more is not let go.
        let awaited = match self.life.state() {
            State::Spawning { generation, .. } => Some(*generation),
            _ => None,
        };
        let given_up =
            |effect: &Effect| matches!(effect, Effect::Spawn(of) if Some(*of) != awaited);
        for effect in self.under_way.extract_if(.., |effect| given_up(effect)) {
            self.alive.retain(|of| effect != Effect::Spawn(*of));
        }
    }

    fn deliver(&mut self, at: usize, well: bool) {
        if self.under_way.is_empty() {
            return;
        }
        let effect = self.under_way.remove(at % self.under_way.len());
        let event = match effect {
            Effect::Look(of, _) => Event::Seen(of, !well),
            Effect::Spawn(of) if well => {
                self.event(Event::Held(of));
                Event::Spawned(of, process(7))
            }
            Effect::Spawn(of) => {
                self.alive.clear();
                Event::NotSpawned(of, "no".into())
            }
            Effect::AwaitReady(run) => Event::Ready(run.generation),
            Effect::Probe(who) => Event::Probed(who.generation(), well),
            Effect::Signal(run) if well => exited(run.generation),
            Effect::Sweep(run, _) if well => {
                self.alive.retain(|of| *of != run.generation);
                Event::Swept(run.generation)
            }
            Effect::Sweep(run, _) => Event::NotSwept(run.generation, "pid 7".into()),
            _ => return,
        };
        self.event(event);
    }

    fn stale(kind: u8, of: u64) -> Event {
        match kind {
            0 => Event::Seen(of, true),
            1 => Event::Spawned(of, process(8)),
            2 => Event::NotSpawned(of, "no".into()),
            3 => Event::Ready(of),
            4 => Event::Probed(of, false),
            5 => exited(of),
            6 => Event::Swept(of),
            7 => Event::Held(of),
            8 => Event::Refused(of),
            _ => Event::NotSwept(of, "pid 9".into()),
        }
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Ask(by_request) => {
                let ticket = self.ticket();
                self.event(Event::Ask { ticket, by_request });
            }
            Step::Stop => {
                let ticket = self.ticket();
                self.event(Event::Stop(ticket));
            }
            Step::Pass(seconds) => self.now += s(seconds),
            Step::Tick => {
                self.now = self.now.max(self.life.next_tick().unwrap_or_default());
                self.event(Event::Tick);
            }
            Step::Deliver(at, well) => self.deliver(at, well),
            Step::Dies => {
                if let Some(run) = self.life.run() {
                    self.event(exited(run.generation));
                }
            }
            Step::Refused => self.event(Event::Refused(self.life.generation)),
            Step::Hurry => self.event(Event::Hurry),
            Step::Stale(kind, back) => {
                let of = self.life.generation.saturating_sub(back);
                let before = self.life.state().clone();
                let effects = self.life.on(Self::stale(kind, of), self.now);
                assert!(effects.is_empty() && *self.life.state() == before);
            }
        }
    }

    /// Everything under way ends well: nobody is left waiting.
    fn settle(&mut self) {
        for _ in 0..200 {
            if self.under_way.is_empty() && self.life.next_tick().is_none() {
                break;
            }
            while !self.under_way.is_empty() {
                self.deliver(0, true);
            }
            self.take(&Step::Tick);
        }
        assert!(
            self.answers.values().all(|times| *times == 1),
            "{:?} in {:?}",
            self.answers,
            self.life
        );
    }
}

proptest! {
    #[test]
    fn everybody_is_answered_once_and_nothing_is_started_beside_what_lives(
        steps in proptest::collection::vec(step(), 1..80)
    ) {
        let mut world = World::new();
        for step in &steps {
            world.take(step);
        }
        world.settle();
    }
}
