//! Why somebody waits, and why the GPU changes hands: in words for people.
//!
//! Owns: the explanations. Must never do: decide; each is read off what the rules decide by.

use std::fmt::{self, Display};
use std::mem::discriminant;
use std::time::Duration;

use super::{ClosingCause, Gpu, Resident, Scheduler, Waiter};
use crate::engine::lifecycle::Moment;
use crate::gpu::lease::Hold;
use crate::gpu::{Class, TenantId};
use crate::ids::Ticket;

/// Why the GPU changes hands now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Because {
    /// Somebody has waited for as long as he may.
    Bound {
        /// Of which class.
        class: Class,
        /// How long.
        waited: Duration,
    },
    /// Nobody uses what is there, and waiting has cost what the change costs.
    Worth {
        /// So many wait.
        waiting: usize,
        /// So long altogether.
        waited: Duration,
        /// So much waiting the change is expected to cost.
        cost: Duration,
    },
    /// Nothing was there.
    Vacant,
    /// By hand.
    ByHand,
    /// After a lease.
    Lease,
    /// Its entry says something else.
    Changed,
}

impl Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Because::Bound { class, waited } => write!(
                f,
                "one {} request had waited for {} s: its bound, less what the change takes",
                class.as_str(),
                seconds(*waited)
            ),
            Because::Worth { waiting, waited, cost } if cost.is_zero() => write!(
                f,
                "nobody used what was there or was likely to; {waiting} had waited for {} s altogether",
                seconds(*waited)
            ),
            Because::Worth { waiting, waited, cost } => write!(
                f,
                "nobody used what was there; {waiting} had waited for {} s altogether, and the change \
                 was expected to cost others {} s of waiting",
                seconds(*waited),
                seconds(*cost)
            ),
            Because::Vacant => f.write_str("nothing was loaded"),
            Because::ByHand => f.write_str("somebody ordered it by hand"),
            Because::Lease => f.write_str("it was there before a lease, and nobody wants another"),
            Because::Changed => f.write_str("its entry had changed, and nobody used it"),
        }
    }
}

/// What somebody waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// Nothing is known of the GPU yet.
    Unknown,
    /// The end of a lease.
    Leased(String),
    /// The load of its own model.
    Loading,
    /// What is there must go first.
    Leaving(TenantId),
    /// What is there only finishes what it has.
    Draining(TenantId, usize),
    /// What is there is in use; it gives way at the latest then.
    Busy(TenantId, usize, Moment),
    /// Nobody uses what is there, but it is likely to be asked for; it gives way then.
    Weighed(TenantId, Moment),
    /// People work with what is there; background work gets the GPU then at the earliest, if known.
    People(TenantId, Option<Moment>),
    /// The load of another model, or a turn of others that comes before.
    Others(TenantId),
    /// A place: so many use its model, and that is its limit.
    Room(usize),
    /// News of its engine, which refused it a moment ago.
    News,
}

impl Why {
    /// Whether it is the same thing that is waited for.
    pub fn is_like(&self, other: &Why) -> bool {
        discriminant(self) == discriminant(other)
    }

    /// In words, seen from a moment.
    pub fn tell(&self, now: Moment) -> String {
        let inn = |at: &Moment| seconds(at.saturating_sub(now));
        match self {
            Why::Unknown => "what holds the GPU is being found out".to_owned(),
            Why::Leased(owner) => format!("the GPU is leased to {owner}"),
            Why::Loading => "its model is loading".to_owned(),
            Why::Leaving(id) => format!("{id} is being stopped"),
            Why::Draining(id, count) => {
                format!("{id} takes nobody new and finishes the {count} requests that it has")
            }
            Why::Busy(id, count, at) => format!(
                "{id} serves {count} requests; it gives way when it is unused, and takes nobody new \
                 from in {} s on",
                inn(at)
            ),
            Why::Weighed(id, at) => format!(
                "{id} is likely to be asked for again soon: a change now would cost more waiting than \
                 it saves; it gives way in {} s if nobody comes",
                inn(at)
            ),
            Why::People(id, None) => {
                format!("background work waits while people work with {id}")
            }
            Why::People(id, Some(at)) => format!(
                "background work waits until nobody has worked with {id} for a while: {} s more",
                inn(at)
            ),
            Why::Others(id) => format!("{id} goes first"),
            Why::Room(limit) => format!("its model serves {limit} requests, as many as it may"),
            Why::News => "its engine refused it a moment ago; it is tried again".to_owned(),
        }
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64())
}

/// A bound that cannot be kept: the change alone takes longer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Infeasible {
    /// The change to this.
    pub to: TenantId,
    /// The class whose bound it breaks.
    pub class: Class,
    /// The bound.
    pub bound: Duration,
    /// What the change takes, measured.
    pub takes: Duration,
}

impl Scheduler {
    /// What somebody waits for; `None`: nobody with this ticket waits.
    pub fn why(&self, ticket: Ticket, now: Moment) -> Option<Why> {
        let waiter = self.waiting().find(|w| w.ticket == ticket)?;
        if let (false, Hold::Acquiring { .. } | Hold::Held { .. }) =
            (self.passes(waiter), self.hold())
        {
            return Some(Why::Leased(self.lease_owner().unwrap_or_default()));
        }
        if let (false, Some((_, in_flight))) = (self.competes(waiter), self.beside()) {
            return Some(match in_flight {
                0 => Why::Leaving(TenantId::Ollama),
                _ => Why::Draining(TenantId::Ollama, in_flight),
            });
        }
        Some(match &self.gpu {
            Gpu::Unknown | Gpu::Stuck(_) => Why::Unknown,
            Gpu::Empty => Why::Loading,
            Gpu::Loading(_, launch, _) => match TenantId::from(&**launch) {
                id if waiter.tenant.is(&id) => Why::Loading,
                id => Why::Others(id),
            },
            Gpu::Clearing(clearing) => self.why_clearing(waiter, clearing),
            Gpu::Resident(resident) => self.why_resident(waiter, resident, now),
        })
    }

    fn why_clearing(&self, waiter: &Waiter, clearing: &super::Clearing) -> Why {
        match &self.decided {
            Some(decided) if !waiter.tenant.is(&decided.to) => Why::Others(decided.to.clone()),
            _ if clearing.only_asked => Why::Loading,
            _ => Why::Leaving(clearing.tenant.id()),
        }
    }

    fn why_resident(&self, waiter: &Waiter, resident: &Resident, now: Moment) -> Why {
        let id = resident.tenant.id();
        if waiter.tenant.is(&id) {
            return match (self.has_room(), resident.closing) {
                (false, _) => Why::Room(resident.in_flight),
                (true, Some(_)) => match self.pressing(now) {
                    Some(first) => Why::Others(first.tenant.id()),
                    None => Why::Draining(id, resident.in_flight),
                },
                (true, None) => Why::News,
            };
        }
        if resident.closing.is_some_and(|closing| closing.cause != ClosingCause::Order) {
            return Why::Draining(id, resident.in_flight);
        }
        let quiet = self.quiet_at(resident);
        if waiter.who.class == Class::Background && quiet.is_none_or(|at| at > now) {
            return Why::People(id, quiet);
        }
        if resident.in_flight > 0 {
            return Why::Busy(id, resident.in_flight, self.due(waiter));
        }
        let worth = self.worth_at(resident, now).unwrap_or(Moment::MAX);
        Why::Weighed(id, worth.min(self.due(waiter)))
    }

    fn lease_owner(&self) -> Option<String> {
        match &self.hold {
            Hold::Free => None,
            Hold::Acquiring { ask, .. } => Some(ask.owner.clone()),
            Hold::Held { lease, .. } => Some(lease.owner.clone()),
        }
    }

    /// When a waiter's bound is over, and the change to its model should have begun.
    pub fn deadline(&self, ticket: Ticket) -> Option<Moment> {
        let waiter = self.waiting().find(|w| w.ticket == ticket)?;
        Some(self.due(waiter)).filter(|at| *at < Moment::MAX)
    }

    /// The bounds that those who wait now cannot be given, by what changes have been measured to
    /// take.
    pub fn infeasible(&self) -> Vec<Infeasible> {
        let from = match &self.gpu {
            Gpu::Resident(resident) => Some(resident.tenant.id()),
            _ => None,
        };
        let mut all: Vec<Infeasible> = Vec::new();
        for waiter in self.others() {
            let (to, class) = (waiter.tenant.id(), waiter.who.class);
            let bound = self.rules.bounds().of(class);
            let Some(takes) = self.costs.swap(from.as_ref(), &to).filter(|t| *t > bound) else {
                continue;
            };
            let one = Infeasible { to, class, bound, takes };
            if !all.contains(&one) {
                all.push(one);
            }
        }
        all
    }
}
