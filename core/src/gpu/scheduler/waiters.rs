//! Who waits, in the order of their bounds.
//!
//! Owns: the order: what is asked for by hand first, then whose bound comes first; within a class
//! that is the order of arrival. Must never do: decide.

use super::Reason;
use super::types::Bounds;
use crate::engine::lifecycle::Moment;
use crate::gpu::{Asker, Side, Tenant, TenantId};
use crate::ids::{Generation, Ticket};

/// What somebody waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// That the model serves; asked for by hand.
    Activate,
    /// A permit.
    Request,
}

impl Purpose {
    /// The reason of a swap that it causes.
    pub(super) fn reason(self) -> Reason {
        match self {
            Purpose::Activate => Reason::Manual,
            Purpose::Request => Reason::Request,
        }
    }
}

/// Somebody who waits.
#[derive(Debug, Clone, PartialEq)]
pub struct Waiter {
    /// The wait's own number.
    pub ticket: Ticket,
    /// What is to be resident.
    pub tenant: Tenant,
    /// What for.
    pub purpose: Purpose,
    /// When the request came: what orders it, also when it asks again.
    pub arrived: Moment,
    /// When it asked for this turn.
    pub asked: Moment,
    /// The start that had granted it a turn and then did not answer.
    pub refused_by: Option<Generation>,
    /// Who asks.
    pub who: Asker,
}

/// What orders those who wait: the moment is that of the bound.
pub(super) type Place = (Purpose, Moment, Ticket);

impl Waiter {
    pub(super) fn place(&self, bounds: Bounds) -> Place {
        let bound = match self.purpose {
            Purpose::Activate => self.arrived,
            Purpose::Request => self.arrived.saturating_add(bounds.of(self.who.class)),
        };
        (self.purpose, bound, self.ticket)
    }
}

/// Sorted: the first goes first.
#[derive(Debug, Default, Clone)]
pub(super) struct Waiters(Vec<Waiter>);

impl Waiters {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn iter(&self) -> std::slice::Iter<'_, Waiter> {
        self.0.iter()
    }

    pub(super) fn insert(&mut self, waiter: Waiter, bounds: Bounds) {
        let place = waiter.place(bounds);
        let at = self.0.partition_point(|other| other.place(bounds) <= place);
        self.0.insert(at, waiter);
    }

    pub(super) fn take(&mut self, ticket: Ticket) -> Option<Waiter> {
        let at = self.0.iter().position(|waiter| waiter.ticket == ticket)?;
        Some(self.0.remove(at))
    }

    pub(super) fn remove(&mut self, ticket: Ticket) {
        self.0.retain(|waiter| waiter.ticket != ticket);
    }

    pub(super) fn any_of(&self, id: &TenantId) -> bool {
        self.0.iter().any(|waiter| waiter.tenant.is(id))
    }

    pub(super) fn asked_by_hand(&self, id: &TenantId) -> bool {
        self.0.iter().any(|w| w.purpose == Purpose::Activate && w.tenant.is(id))
    }

    /// Takes out those for whom it holds, in order.
    pub(super) fn take_if(&mut self, mut holds: impl FnMut(&Waiter) -> bool) -> Vec<Waiter> {
        self.0.extract_if(.., |waiter| holds(waiter)).collect()
    }

    pub(super) fn take_of(&mut self, id: &TenantId) -> Vec<Ticket> {
        self.take_if(|w| w.tenant.is(id)).iter().map(|w| w.ticket).collect()
    }

    pub(super) fn take_side(&mut self, side: Side) -> Vec<Ticket> {
        self.take_if(|w| w.tenant.side() == side).iter().map(|w| w.ticket).collect()
    }

    pub(super) fn take_all(&mut self) -> Vec<Ticket> {
        std::mem::take(&mut self.0).iter().map(|w| w.ticket).collect()
    }
}
