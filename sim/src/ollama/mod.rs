//! An Ollama: one daemon that loads and unloads models by itself.
//!
//! It owns the models that are in memory, the faults that were ordered for it, and what it was
//! asked last. It accepts Ollama's native routes, its OpenAI ones, and the orders at `/sim/…`.
//! What a model says comes from the same script as on the other face. Must never know what a
//! byte on the wire is.

mod chat;
mod embed;
mod errors;
mod flags;
mod keep;
mod lines;
mod models;
mod openai;
mod orders;
mod pieces;
mod read;
mod routes;
mod runner;
mod store;
mod times;

use std::sync::Arc;

pub use flags::Ollama;
pub use orders::Order;
pub(crate) use routes::{VERSION, answer};

use crate::fault::Fault;
use errors::Refusal;
use models::Model;
use orders::{Orders, Requests};
use store::Store;
pub(crate) use times::now;

/// One Ollama that serves.
#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) store: Arc<Store>,
    installed: Vec<Model>,
    load_ms: u64,
    orders: Orders,
    requests: Requests,
}

impl Daemon {
    /// One with these settings; `fault` is that of every request that generates.
    pub(crate) fn new(settings: &Ollama, fault: &Fault) -> Self {
        Self {
            store: Store::new(settings),
            installed: settings.models.iter().map(|name| Model::new(name)).collect(),
            load_ms: settings.load_ms,
            orders: Orders::new(&settings.orders, fault),
            requests: Requests::default(),
        }
    }

    /// Sets what was counted to zero, and forgets what it was asked.
    pub(crate) fn reset(&self) {
        self.store.reset();
        self.requests.clear();
    }

    /// The model of this name.
    fn find(&self, name: &str) -> Result<&Model, Refusal> {
        if name.is_empty() {
            return Err(Refusal::bad("model is required"));
        }
        let found = self.installed.iter().find(|model| model.is_named(name));
        found.ok_or_else(|| Refusal::no_model(name))
    }
}
