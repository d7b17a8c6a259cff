//! How many requests one model answers at once, for models that no scheduler places: those of
//! servers that somebody else runs, and Ollama's (SPEC 6.6, `max_concurrent_per_model`).
//!
//! Owns: who is in, who waits, and who is next: whoever's bound has passed, else interactive before
//! background, and within a class clients take turns. Must never do: know a clock; it is told the
//! time.

use std::collections::HashMap;
use std::time::Duration;

use super::scheduler::Refusal;
use super::served::Served;
use super::{Asker, Class, ClientId};
use crate::engine::lifecycle::Moment;
use crate::ids::{ModelName, Ticket};

/// What holds for every model.
#[derive(Debug, Clone, Copy)]
pub struct LimitRules {
    /// Requests at once.
    pub at_once: usize,
    /// Requests that may wait, over all models.
    pub max_waiting: usize,
    /// An interactive request that has waited for this long goes first.
    pub interactive_bound: Duration,
    /// The same of a background one.
    pub background_bound: Duration,
}

/// What became of somebody who came.
#[derive(Debug, Clone, PartialEq)]
pub enum Entered {
    /// It is in.
    In,
    /// It waits.
    Waits,
    /// Neither.
    Refused(Refusal),
}

/// See the module.
#[derive(Debug)]
pub struct ModelLimits {
    rules: LimitRules,
    models: HashMap<ModelName, Line>,
    waiting: usize,
}

/// One model.
#[derive(Debug, Default)]
struct Line {
    inside: usize,
    waiting: Vec<Waiting>,
    served: Served,
    /// How long one stays, on the average.
    stay: Option<Duration>,
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    ticket: Ticket,
    class: Class,
    client: ClientId,
    /// It goes first from then on.
    due: Moment,
}

impl ModelLimits {
    /// Nobody is there yet.
    pub fn new(rules: LimitRules) -> Self {
        ModelLimits { rules, models: HashMap::new(), waiting: 0 }
    }

    /// Other bounds, from now on; nobody who is in has to go.
    pub fn change(&mut self, rules: LimitRules) {
        self.rules = rules;
    }

    /// Somebody comes.
    pub fn enter(
        &mut self,
        model: &ModelName,
        ticket: Ticket,
        who: &Asker,
        arrived: Moment,
    ) -> Entered {
        if let Some(refusal) = self.would_refuse(model) {
            return Entered::Refused(refusal);
        }
        let line = self.models.entry(model.clone()).or_default();
        if line.inside < self.rules.at_once {
            line.inside += 1;
            line.served.note(who.client);
            return Entered::In;
        }
        let bound = match who.class {
            Class::Interactive => self.rules.interactive_bound,
            Class::Background => self.rules.background_bound,
        };
        let due = arrived.saturating_add(bound);
        line.waiting.push(Waiting { ticket, class: who.class, client: who.client, due });
        self.waiting += 1;
        Entered::Waits
    }

    /// Whether somebody who came now would be refused, by a look alone.
    pub fn would_refuse(&self, model: &ModelName) -> Option<Refusal> {
        let line = self.models.get(model)?;
        let full = line.inside >= self.rules.at_once && self.waiting >= self.rules.max_waiting;
        full.then(|| Refusal::QueueFull {
            waiting: self.waiting,
            retry_after: line.empties_in(self.rules.at_once),
        })
    }

    /// Somebody who was in leaves, having stayed for so long; answers who is in instead.
    pub fn leave(&mut self, model: &ModelName, stayed: Duration, now: Moment) -> Option<Ticket> {
        let line = self.models.get_mut(model)?;
        line.stay = Some(line.stay.map_or(stayed, |stay| (stay * 3 + stayed) / 4));
        line.inside = line.inside.saturating_sub(1);
        if line.inside >= self.rules.at_once {
            return None;
        }
        let next = line.take_next(now)?;
        line.inside += 1;
        self.waiting -= 1;
        Some(next)
    }

    /// Somebody who waits goes; answers whether it did wait.
    pub fn withdraw(&mut self, model: &ModelName, ticket: Ticket) -> bool {
        let Some(line) = self.models.get_mut(model) else { return false };
        let before = line.waiting.len();
        line.waiting.retain(|waiting| waiting.ticket != ticket);
        self.waiting -= before - line.waiting.len();
        before > line.waiting.len()
    }

    /// How one is refused that has waited for too long.
    pub fn too_long(&self, model: &ModelName, waited: Duration) -> Refusal {
        let line = self.models.get(model);
        let retry_after = line.map_or(Duration::ZERO, |line| line.empties_in(self.rules.at_once));
        Refusal::QueueTimeout { waited, retry_after }
    }

    /// How many wait for a model.
    pub fn waiting_for(&self, model: &ModelName) -> usize {
        self.models.get(model).map_or(0, |line| line.waiting.len())
    }

    /// The place in its line, from 1; as it is now, for those who come later may go first.
    pub fn position(&self, model: &ModelName, ticket: Ticket, now: Moment) -> usize {
        let Some(line) = self.models.get(model) else { return 1 };
        let Some(me) = line.waiting.iter().find(|waiting| waiting.ticket == ticket) else {
            return 1;
        };
        let mine = line.place(me, now);
        1 + line.waiting.iter().filter(|other| line.place(other, now) < mine).count()
    }
}

impl Line {
    /// Least goes first.
    fn place(
        &self,
        waiting: &Waiting,
        now: Moment,
    ) -> (bool, Option<(Class, u64)>, Moment, Ticket) {
        let overdue = now >= waiting.due;
        let turn = (!overdue).then(|| (waiting.class, self.served.last(waiting.client)));
        (!overdue, turn, waiting.due, waiting.ticket)
    }

    fn take_next(&mut self, now: Moment) -> Option<Ticket> {
        let next = (0..self.waiting.len()).min_by_key(|at| self.place(&self.waiting[*at], now))?;
        let next = self.waiting.remove(next);
        self.served.note(next.client);
        Some(next.ticket)
    }

    /// When all who wait now will be in, by what is known.
    fn empties_in(&self, at_once: usize) -> Duration {
        let rounds = self.waiting.len() / at_once.max(1) + 1;
        self.stay.unwrap_or(Duration::from_secs(1)) * u32::try_from(rounds).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    const fn s(seconds: u64) -> Moment {
        Duration::from_secs(seconds)
    }

    fn limits(at_once: usize, max_waiting: usize) -> ModelLimits {
        ModelLimits::new(LimitRules {
            at_once,
            max_waiting,
            interactive_bound: s(10),
            background_bound: s(60),
        })
    }

    fn who(class: Class, client: u64) -> Asker {
        Asker { class, client: ClientId(client), ..Asker::default() }
    }

    /// Enters one after the other at 0 s, then lets all out; answers who came in in which order.
    fn order(asking: &[(Class, u64)], now: Moment) -> Vec<u64> {
        let (mut limits, model) = (limits(1, 100), ModelName::from("m"));
        assert_eq!(limits.enter(&model, Ticket(0), &who(Class::Interactive, 0), s(0)), Entered::In);
        for (ticket, (class, client)) in (1..).zip(asking) {
            let entered = limits.enter(&model, Ticket(ticket), &who(*class, *client), s(0));
            assert_eq!(entered, Entered::Waits);
        }
        std::iter::from_fn(|| limits.leave(&model, s(1), now)).map(|ticket| ticket.0).collect()
    }

    #[test]
    fn clients_take_turns_and_background_waits_until_its_bound() {
        use Class::{Background, Interactive};
        let asking = [(Interactive, 1), (Interactive, 1), (Background, 2), (Interactive, 3)];
        assert_eq!(order(&asking, s(1)), [1, 4, 2, 3]);
        // Whose bound has passed goes first, the one whose passed first before all.
        assert_eq!(order(&asking, s(100)), [1, 2, 4, 3]);
    }

    #[test]
    fn what_is_refused_says_when_to_come_again() {
        let (mut limits, model) = (limits(2, 3), ModelName::from("m"));
        let asker = Asker::default();
        for ticket in 0..5 {
            limits.enter(&model, Ticket(ticket), &asker, s(0));
        }
        assert_eq!(limits.leave(&model, s(8), s(8)), Some(Ticket(2)));
        limits.enter(&model, Ticket(5), &asker, s(8));
        let refusal = Refusal::QueueFull { waiting: 3, retry_after: s(16) };
        assert_eq!(limits.enter(&model, Ticket(6), &asker, s(9)), Entered::Refused(refusal));
        let refusal = Refusal::QueueTimeout { waited: s(7), retry_after: s(16) };
        assert_eq!(limits.too_long(&model, s(7)), refusal);
        // Other models have places of their own, but no line of their own.
        let other = ModelName::from("n");
        assert_eq!(limits.enter(&other, Ticket(7), &asker, s(9)), Entered::In);
        assert_eq!(limits.position(&model, Ticket(5), s(9)), 3);
    }

    proptest! {
        /// Never more inside than allowed, nobody lost, nobody twice, and never an empty place
        /// while somebody waits.
        #[test]
        fn places_are_counted_right(
            at_once in 1_usize..4,
            steps in prop::collection::vec((0_u8..3, 0_u64..3, any::<bool>()), 1..200),
        ) {
            let (mut limits, model) = (limits(at_once, 8), ModelName::from("m"));
            let (mut inside, mut waiting) = (Vec::new(), Vec::new());
            for (at, (step, client, background)) in steps.into_iter().enumerate() {
                    let number = at as u64;
                let now = s(number);
                match step {
                    0 => {
                        let class = if background { Class::Background } else { Class::Interactive };
                        match limits.enter(&model, Ticket(number), &who(class, client), now) {
                            Entered::In => inside.push(Ticket(number)),
                            Entered::Waits => waiting.push(Ticket(number)),
                            Entered::Refused(_) => prop_assert_eq!(waiting.len(), 8),
                        }
                    }
                    1 if !inside.is_empty() => {
                        inside.swap_remove(at % inside.len());
                        if let Some(next) = limits.leave(&model, s(1), now) {
                            let known = waiting.iter().position(|ticket| *ticket == next);
                            waiting.remove(known.unwrap());
                            inside.push(next);
                        }
                    }
                    _ if !waiting.is_empty() => {
                        let ticket = waiting.swap_remove(at % waiting.len());
                        prop_assert!(limits.withdraw(&model, ticket));
                        prop_assert!(!limits.withdraw(&model, ticket));
                    }
                    _ => {}
                }
                prop_assert!(inside.len() <= at_once);
                prop_assert!(waiting.is_empty() || inside.len() == at_once);
                prop_assert_eq!(limits.waiting_for(&model), waiting.len());
            }
        }
    }
}
