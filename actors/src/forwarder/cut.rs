//! The order to end all requests of one worker thread, without a lock on the chunk's way.
//!
//! Owns: a flag per thread and the wakers of its requests. Must never do: cross threads; the order
//! comes as a message to the thread's forwarder.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use super::channel::keep_waker;

/// The thread's switch.
#[derive(Default)]
pub(super) struct Switch {
    cut: Cell<bool>,
    members: RefCell<Vec<Weak<RefCell<Option<Waker>>>>>,
}

/// One request's view of the switch.
pub(super) struct CutSignal {
    switch: Rc<Switch>,
    waker: Rc<RefCell<Option<Waker>>>,
}

impl Switch {
    /// A signal for a new request.
    pub(super) fn subscribe(self: &Rc<Self>) -> CutSignal {
        let waker = Rc::new(RefCell::new(None));
        let mut members = self.members.borrow_mut();
        // Requests that have ended leave their places behind; swept when they are the most.
        if members.len() == members.capacity() {
            members.retain(|member| member.strong_count() > 0);
        }
        members.push(Rc::downgrade(&waker));
        CutSignal { switch: self.clone(), waker }
    }

    /// Cuts all requests, now and later ones.
    pub(super) fn cut(&self) {
        self.cut.set(true);
        for member in self.members.take().iter().filter_map(Weak::upgrade) {
            if let Some(waker) = member.borrow_mut().take() {
                waker.wake();
            }
        }
    }
}

impl CutSignal {
    /// Ready once the thread's requests are cut.
    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        if self.switch.cut.get() {
            return Poll::Ready(());
        }
        keep_waker(&mut self.waker.borrow_mut(), cx);
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
        switch.cut();
        assert!(waiting.await.is_ok());
        let late = switch.subscribe();
        poll_fn(|cx| late.poll(cx)).await;
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
