//! A simulated inference engine: it speaks vLLM's HTTP surface or Ollama's, and has faults to order.
//!
//! It owns its sockets and the thread it runs on, when it is embedded. As a process it also owns
//! the children that it was told to have, one line on the standard output, a log on the standard
//! error, and the journal it was told to keep. It must never load a model or dial out.
//!
//! ```
//! let engine = sim_engine::Engine::start(sim_engine::Options::default())?;
//! assert_ne!(engine.addr().port(), 0);
//! engine.stop();
//! # Ok::<(), std::io::Error>(())
//! ```

mod ask;
mod calendar;
mod chat;
mod completions;
mod engine;
mod errors;
mod fault;
mod generate;
mod head;
mod http;
mod ids;
mod images;
mod life;
mod logprobs;
mod messages;
mod metrics;
mod models;
mod ollama;
mod options;
mod orders;
mod process;
mod responses;
mod routes;
mod script;
mod server;
mod stats;
mod stream;
mod tokens;
mod wire;

pub use engine::{Engine, Handle};
pub use fault::{Cut, Fault, Framing, How, ReasoningField};
pub use ollama::{Ollama, Order};
pub use options::{ArgsError, Command, Options};
pub use process::{Habits, run};
pub use stats::{ModelStats, Stats};
