//! A bounded channel between two tasks of one thread: the pump that reads upstream and the body
//! that actix-web writes to the client.
//!
//! Owns: frames on their way, and who waits for whom. Must never do: cross threads (it is built of
//! `Rc` and `Cell`, so the per-chunk path takes no lock), or lose the difference between "ended"
//! and "died": a sender that goes without [`Frame::End`] is seen as [`Received::Died`].

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

/// Bytes that may wait for a client before its pump pauses, and with it the backend.
const MAX_WAITING_BYTES: usize = 256 << 10;

/// What goes from the pump to the body.
#[derive(Debug)]
pub enum Frame {
    /// Bytes for the client, one HTTP chunk.
    Data(Bytes),
    /// The body is whole, or has said why it is not.
    End,
}

/// What the body sees.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// Bytes for the client.
    Data(Bytes),
    /// The proper end.
    End,
    /// The pump is gone without a proper end: a defect of ours.
    Died,
}

/// The client has gone.
#[derive(Debug, PartialEq, Eq)]
pub struct Gone;

#[derive(Default)]
struct Shared {
    queue: VecDeque<Frame>,
    waiting_bytes: usize,
    sender_gone: bool,
    receiver_gone: bool,
    sender_waker: Option<Waker>,
    receiver_waker: Option<Waker>,
}

impl Shared {
    fn wake_receiver(&mut self) {
        if let Some(waker) = self.receiver_waker.take() {
            waker.wake();
        }
    }

    fn wake_sender(&mut self) {
        if let Some(waker) = self.sender_waker.take() {
            waker.wake();
        }
    }
}

/// The pump's end.
pub struct Sender(Rc<RefCell<Shared>>);

/// The body's end.
pub struct Receiver(Rc<RefCell<Shared>>);

/// A new channel.
pub fn channel() -> (Sender, Receiver) {
    let shared = Rc::new(RefCell::new(Shared::default()));
    (Sender(shared.clone()), Receiver(shared))
}

impl Sender {
    /// Puts a frame in at once, whether or not there is room; the caller waits with
    /// [`Sender::poll_ready`] before it reads more.
    pub fn put(&self, frame: Frame) -> Result<(), Gone> {
        let mut shared = self.0.borrow_mut();
        if shared.receiver_gone {
            return Err(Gone);
        }
        if let Frame::Data(bytes) = &frame {
            shared.waiting_bytes += bytes.len();
        }
        shared.queue.push_back(frame);
        shared.wake_receiver();
        Ok(())
    }

    /// Ready when the client has room for more, or is gone.
    pub fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        let mut shared = self.0.borrow_mut();
        if shared.receiver_gone {
            return Poll::Ready(Err(Gone));
        }
        if shared.waiting_bytes < MAX_WAITING_BYTES {
            return Poll::Ready(Ok(()));
        }
        keep_waker(&mut shared.sender_waker, cx);
        Poll::Pending
    }

    /// Ready when the client is gone.
    pub fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut shared = self.0.borrow_mut();
        if shared.receiver_gone {
            return Poll::Ready(());
        }
        keep_waker(&mut shared.sender_waker, cx);
        Poll::Pending
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let mut shared = self.0.borrow_mut();
        shared.sender_gone = true;
        shared.wake_receiver();
    }
}

impl Receiver {
    /// The next frame.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Received> {
        let mut shared = self.0.borrow_mut();
        match shared.queue.pop_front() {
            Some(Frame::Data(bytes)) => {
                let was_full = shared.waiting_bytes >= MAX_WAITING_BYTES;
                shared.waiting_bytes -= bytes.len();
                if was_full && shared.waiting_bytes < MAX_WAITING_BYTES {
                    shared.wake_sender();
                }
                Poll::Ready(Received::Data(bytes))
            }
            Some(Frame::End) => Poll::Ready(Received::End),
            None if shared.sender_gone => Poll::Ready(Received::Died),
            None => {
                keep_waker(&mut shared.receiver_waker, cx);
                Poll::Pending
            }
        }
    }

    /// The next frame, awaited.
    pub async fn recv(&mut self) -> Received {
        poll_fn(|cx| self.poll_recv(cx)).await
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let mut shared = self.0.borrow_mut();
        shared.receiver_gone = true;
        shared.queue.clear();
        shared.wake_sender();
    }
}

/// Stores the task's waker unless it is already there: most polls cost one comparison.
pub(super) fn keep_waker(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) if waker.will_wake(cx.waker()) => {}
        _ => *slot = Some(cx.waker().clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(len: usize) -> Frame {
        Frame::Data(Bytes::from(vec![0; len]))
    }

    #[actix_rt::test]
    async fn frames_come_in_order_and_the_end_is_told_from_a_death() {
        let (tx, mut rx) = channel();
        assert_eq!(tx.put(data(1)), Ok(()));
        assert_eq!(tx.put(Frame::End), Ok(()));
        drop(tx);
        assert_eq!(rx.recv().await, Received::Data(Bytes::from_static(&[0])));
        assert_eq!(rx.recv().await, Received::End);
        let (tx, mut rx) = channel();
        drop(tx);
        assert_eq!(rx.recv().await, Received::Died);
    }

    #[actix_rt::test]
    async fn a_full_channel_makes_the_pump_wait_until_the_client_reads() {
        let (tx, mut rx) = channel();
        assert_eq!(tx.put(data(MAX_WAITING_BYTES)), Ok(()));
        let pump = actix_rt::spawn(async move {
            let ready = poll_fn(|cx| tx.poll_ready(cx)).await;
            (ready, tx)
        });
        actix_rt::task::yield_now().await;
        assert!(!pump.is_finished());
        assert!(matches!(rx.recv().await, Received::Data(_)));
        assert!(matches!(pump.await, Ok((Ok(()), _))));
    }

    #[actix_rt::test]
    async fn a_client_that_goes_wakes_the_pump_whatever_it_waits_for() {
        for full in [false, true] {
            let (tx, rx) = channel();
            if full {
                assert_eq!(tx.put(data(MAX_WAITING_BYTES)), Ok(()));
            }
            let pump = actix_rt::spawn(async move {
                poll_fn(|cx| tx.poll_gone(cx)).await;
                tx.put(data(1))
            });
            actix_rt::task::yield_now().await;
            drop(rx);
            assert!(matches!(pump.await, Ok(Err(Gone))));
        }
    }
}
