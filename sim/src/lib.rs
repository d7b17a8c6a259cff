//! A simulated inference engine: it speaks vLLM's HTTP surface, and has faults to order.
//!
//! It owns its sockets and the thread it runs on, when it is embedded. It must never load a
//! model, dial out, or write anywhere but to its sockets and, as a process, one line to the
//! standard output.
//!
//! ```
//! let engine = sim_engine::Engine::start(sim_engine::Options::default())?;
//! assert_ne!(engine.addr().port(), 0);
//! engine.stop();
//! # Ok::<(), std::io::Error>(())
//! ```

mod ask;
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
mod logprobs;
mod messages;
mod metrics;
mod options;
mod responses;
mod routes;
mod script;
mod server;
mod stats;
mod stream;
mod tokens;
mod wire;

pub use engine::{Engine, Handle, run};
pub use fault::{Cut, Fault, Framing, How, ReasoningField};
pub use options::{ArgsError, Command, Options};
pub use stats::Stats;
