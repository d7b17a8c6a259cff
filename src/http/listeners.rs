//! Answers that do not end by themselves: events, and logs that are followed.
//!
//! Owns: how many of them are open. Must never do: let one that has ended keep its place.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use chat_proxy_core::{ApiError, Code};

/// As many are open at once. Each reads a log five times a second, or hears of every event.
const LISTENERS: usize = 128;

/// All of them.
#[derive(Clone, Default)]
pub(super) struct Listeners(Arc<AtomicUsize>);

/// The place of one; given back when dropped.
pub(super) struct Place(Arc<AtomicUsize>);

impl Listeners {
    /// A place, if there is one.
    pub(super) fn enter(&self) -> Result<Place, ApiError> {
        let place = Place(self.0.clone());
        if self.0.fetch_add(1, Ordering::SeqCst) < LISTENERS {
            return Ok(place);
        }
        let message = format!("{LISTENERS} streams of events and logs are open, which is the most");
        Err(ApiError::new(Code::QueueFull, message)
            .hint("close some, or ask for the last lines without follow=1"))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_given_back() {
        let all = Listeners::default();
        let mut held: Vec<Place> = (0..LISTENERS).filter_map(|_| all.enter().ok()).collect();
        assert_eq!(held.len(), LISTENERS);
        for _ in 0..3 {
            assert_eq!(all.enter().map(|_| ()).map_err(|e| e.code), Err(Code::QueueFull));
        }
        held.pop();
        assert!(all.enter().is_ok(), "a refusal took no place");
    }
}
