//! The order to end requests of one worker thread, all or those of one engine, without a lock on
//! the chunk's way.
//!
//! Owns: what was cut on this thread, and the wakers of its requests. Must never do: cross threads;
//! the [`Cut`] comes to a task of the thread.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use chat_proxy_core::ids::Generation;

use super::channel::keep_waker;

/// Cut generations that are remembered: a grant may still be on its way when its engine is cut.
const REMEMBERED: usize = 16;

/// An order: end requests of the thread, each with the error event or a real status.
#[derive(Debug, Clone, Copy)]
pub(super) enum Cut {
    /// All of them: the daemon ends.
    All,
    /// Those that wait for a load or a service: the daemon drains.
    Waiting,
    /// Those that use this start of an engine.
    Generation(Generation),
}

/// What ends a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CutBy {
    /// The daemon ends.
    Daemon,
    /// Its engine is stopped, or died.
    Engine,
}

/// The thread's switch.
#[derive(Default)]
pub(super) struct Switch {
    all: Cell<bool>,
    waiting: Cell<bool>,
    generations: RefCell<Vec<Generation>>,
    members: RefCell<Vec<Weak<Member>>>,
}

#[derive(Default)]
struct Member {
    generation: Cell<Option<Generation>>,
    waits: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// One request's view of the switch.
pub(super) struct CutSignal {
    switch: Rc<Switch>,
    member: Rc<Member>,
}

impl Switch {
    /// A signal for a new request.
    pub(super) fn subscribe(self: &Rc<Self>) -> CutSignal {
        let member = Rc::default();
        let mut members = self.members.borrow_mut();
        // Requests that have ended leave their places behind; swept when they are the most.
        if members.len() == members.capacity() {
            members.retain(|member| member.strong_count() > 0);
        }
        members.push(Rc::downgrade(&member));
        CutSignal { switch: self.clone(), member }
    }

    /// Carries out an order.
    pub(super) fn cut(&self, order: Cut) {
        match order {
            Cut::All => self.cut_all(),
            Cut::Waiting => self.cut_waiting(),
            Cut::Generation(generation) => self.cut_generation(generation),
        }
    }

    /// Cuts all requests, now and later ones.
    pub(super) fn cut_all(&self) {
        self.all.set(true);
        for member in self.members.take().iter().filter_map(Weak::upgrade) {
            member.wake();
        }
    }

    /// Cuts those that wait for a load or a service, now and later.
    pub(super) fn cut_waiting(&self) {
        self.waiting.set(true);
        for member in self.members.borrow().iter().filter_map(Weak::upgrade) {
            if member.waits.get() {
                member.wake();
            }
        }
    }

    /// Cuts the requests that use one start of an engine.
    pub(super) fn cut_generation(&self, generation: Generation) {
        let mut generations = self.generations.borrow_mut();
        if generations.len() == REMEMBERED {
            generations.remove(0);
        }
        generations.push(generation);
        drop(generations);
        for member in self.members.borrow().iter().filter_map(Weak::upgrade) {
            if member.generation.get() == Some(generation) {
                member.wake();
            }
        }
    }
}

impl Member {
    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

impl CutSignal {
    /// From now on the request uses this start of an engine, or none.
    pub(super) fn uses(&self, generation: Option<Generation>) {
        self.member.generation.set(generation);
    }

    /// From now on the request waits for a load or a service, or does not.
    pub(super) fn waits(&self, waits: bool) {
        self.member.waits.set(waits);
    }

    /// Ready once the request is cut.
    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<CutBy> {
        if self.switch.all.get() || self.switch.waiting.get() && self.member.waits.get() {
            return Poll::Ready(CutBy::Daemon);
        }
        if let Some(generation) = self.member.generation.get()
            && self.switch.generations.borrow().contains(&generation)
        {
            return Poll::Ready(CutBy::Engine);
        }
        keep_waker(&mut self.member.waker.borrow_mut(), cx);
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    #[actix_rt::test]
    async fn a_cut_wakes_those_who_wait_and_meets_those_who_come_later() {
        let switch = Rc::new(Switch::default());
        let signal = switch.subscribe();
        let waiting = actix_rt::spawn(async move { poll_fn(|cx| signal.poll(cx)).await });
        actix_rt::task::yield_now().await;
        assert!(!waiting.is_finished());
        switch.cut_all();
        assert_eq!(waiting.await.ok(), Some(CutBy::Daemon));
        let late = switch.subscribe();
        assert_eq!(poll_fn(|cx| late.poll(cx)).await, CutBy::Daemon);
    }

    #[actix_rt::test]
    async fn those_who_wait_are_cut_when_the_daemon_drains_and_no_others() {
        let switch = Rc::new(Switch::default());
        let signals = [true, false].map(|waits| {
            let signal = switch.subscribe();
            signal.waits(waits);
            actix_rt::spawn(async move { poll_fn(|cx| signal.poll(cx)).await })
        });
        actix_rt::task::yield_now().await;
        switch.cut_waiting();
        let [waits, flows] = signals;
        assert_eq!(waits.await.ok(), Some(CutBy::Daemon));
        assert!(!flows.is_finished());
        flows.abort();
        let late = switch.subscribe();
        late.waits(true);
        assert_eq!(poll_fn(|cx| late.poll(cx)).await, CutBy::Daemon);
    }

    #[actix_rt::test]
    async fn the_cut_of_an_engine_meets_its_requests_alone_also_late_ones() {
        let switch = Rc::new(Switch::default());
        let signals = [Some(1), Some(2), None].map(|generation| {
            let signal = switch.subscribe();
            signal.uses(generation.map(Generation));
            actix_rt::spawn(async move { poll_fn(|cx| signal.poll(cx)).await })
        });
        actix_rt::task::yield_now().await;
        switch.cut_generation(Generation(2));
        let [one, two, none] = signals;
        assert_eq!(two.await.ok(), Some(CutBy::Engine));
        assert!(!one.is_finished() && !none.is_finished());
        let late = switch.subscribe();
        late.uses(Some(Generation(2)));
        assert_eq!(poll_fn(|cx| late.poll(cx)).await, CutBy::Engine);
        one.abort();
        none.abort();
    }

    #[test]
    fn ended_requests_do_not_pile_up() {
        let switch = Rc::new(Switch::default());
        for _ in 0..10_000 {
            drop(switch.subscribe());
        }
        assert!(switch.members.borrow().len() < 100);
    }
}
