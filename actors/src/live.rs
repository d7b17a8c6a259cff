//! A part of the settings that can change while everything runs.
//!
//! Owns: the one place where its present value is. Readers take it for one request, start or look, and
//! finish with what they began with. Must never do: tell anybody; whoever must act on a change gets a
//! message.

use std::sync::Arc;

use arc_swap::ArcSwap;

/// See the module. Clones share the value.
#[derive(Debug)]
pub struct Live<T>(Arc<ArcSwap<T>>);

impl<T> Live<T> {
    /// With this value.
    pub fn new(value: T) -> Self {
        Live(Arc::new(ArcSwap::from_pointee(value)))
    }

    /// The present value.
    pub fn load(&self) -> Arc<T> {
        self.0.load_full()
    }

    /// Another one, from now on.
    pub fn share(&self, value: Arc<T>) {
        self.0.store(value);
    }

    /// Another one, from now on.
    pub fn store(&self, value: T) {
        self.0.store(Arc::new(value));
    }
}

impl<T> Clone for Live<T> {
    fn clone(&self) -> Self {
        Live(self.0.clone())
    }
}
