//! When each client was served last, so that they can take turns.
//!
//! Owns: an order, no times. Must never do: grow without end; what is forgotten counts as long ago.

use std::collections::HashMap;

use crate::gpu::ClientId;

/// So many are remembered; then all are forgotten.
const MAX_REMEMBERED: usize = 4096;

/// See the module.
#[derive(Debug, Clone, Default)]
pub(crate) struct Served {
    count: u64,
    last: HashMap<ClientId, u64>,
}

impl Served {
    /// A client is served.
    pub(crate) fn note(&mut self, client: ClientId) {
        if self.last.len() >= MAX_REMEMBERED {
            self.last.clear();
        }
        self.count += 1;
        self.last.insert(client, self.count);
    }

    /// The larger, the later.
    pub(crate) fn last(&self, client: ClientId) -> u64 {
        self.last.get(&client).copied().unwrap_or_default()
    }
}
