//! Owns whether the engine behind the server lives, and what its end means for requests.
//!
//! An embedded engine lives for ever. As a process, the leader tells here what became of the
//! engine. Must never start or end a process, and never write an answer.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::sync::watch;

/// How the engine behind the server fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It generates.
    Up,
    /// It finishes what it has begun, and takes nothing new.
    Draining,
    /// It is gone and its server waits for it for ever: clients hear nothing.
    Silent,
    /// It died, and its server tells so.
    Dead,
    /// So many tokens were generated that the whole process is to die.
    Crashing,
}

/// What the engine's end means for a request that is being answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Nothing more is said.
    Silent,
    /// An error is told.
    Dead,
}

impl State {
    /// What this state means for requests, if the engine has ended.
    pub(crate) fn end(self) -> Option<End> {
        match self {
            Self::Up | Self::Draining => None,
            Self::Silent | Self::Crashing => Some(End::Silent),
            Self::Dead => Some(End::Dead),
        }
    }
}

/// The life of one engine.
#[derive(Debug)]
pub(crate) struct Life {
    state: watch::Sender<State>,
    /// Tokens until the crash, if one was ordered.
    left: Option<AtomicU64>,
}

impl Life {
    /// A life that ends in a crash after so many tokens, if any.
    pub(crate) fn new(crash_after_tokens: Option<u64>) -> Self {
        Self { state: watch::Sender::new(State::Up), left: crash_after_tokens.map(AtomicU64::new) }
    }

    pub(crate) fn state(&self) -> State {
        *self.state.borrow()
    }

    pub(crate) fn set(&self, state: State) {
        self.state.send_replace(state);
    }

    /// So many tokens more were generated.
    pub(crate) fn generated(&self, tokens: u64) {
        let Some(left) = &self.left else { return };
        let before = left.fetch_update(Relaxed, Relaxed, |n| Some(n.saturating_sub(tokens)));
        if before.is_ok_and(|before| before <= tokens) && self.state().end().is_none() {
            self.set(State::Crashing);
        }
    }

    /// Waits for a state.
    pub(crate) async fn until(&self, state: State) {
        // The sender is this life's own, so that waiting cannot fail.
        let _ = self.state.subscribe().wait_for(|&now| now == state).await;
    }

    /// Lets one request follow this life.
    pub(crate) fn watch(&self) -> Watch {
        let mut receiver = self.state.subscribe();
        if *receiver.borrow() != State::Up {
            receiver.mark_changed();
        }
        Watch(receiver)
    }
}

/// A request's view of the engine's life.
#[derive(Debug)]
pub(crate) struct Watch(watch::Receiver<State>);

impl Watch {
    /// Whether the engine has ended. While nothing happened this costs one load.
    pub(crate) fn ended(&self) -> Option<End> {
        // The life outlives its requests; were it gone, nothing would have changed either.
        if !self.0.has_changed().unwrap_or(false) {
            return None;
        }
        self.0.borrow().end()
    }

    /// Waits for the end.
    pub(crate) async fn end(&mut self) -> End {
        let state = self.0.wait_for(|state| state.end().is_some()).await.map(|state| *state);
        match state.ok().and_then(State::end) {
            Some(end) => end,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_comes_with_exactly_the_last_token() {
        let life = Life::new(Some(3));
        life.generated(2);
        assert_eq!(life.state(), State::Up);
        life.generated(1);
        assert_eq!(life.state(), State::Crashing);
        assert_eq!(Life::new(None).state(), State::Up);
    }

    #[test]
    fn a_request_that_comes_late_sees_the_end_as_well() {
        let life = Life::new(None);
        let early = life.watch();
        assert_eq!(early.ended(), None);
        life.set(State::Draining);
        assert_eq!((early.ended(), life.watch().ended()), (None, None));
        life.set(State::Dead);
        assert_eq!((early.ended(), life.watch().ended()), (Some(End::Dead), Some(End::Dead)));
    }
}
