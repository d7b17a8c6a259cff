//! The actors: thin shells that turn messages into events of the cores and carry out effects.
//!
//! Owns: mailboxes, tasks, sockets to backends, files. Must never do: decide; decisions live in
//! `chat-proxy-core`. Actors that all workers share are started once; the [`forwarder`] is started
//! once per HTTP worker thread, because its client and its streams never leave that thread.

pub mod artifacts;
pub mod autostart;
pub mod client;
pub mod clock;
pub mod config;
mod digest;
pub mod directory;
pub mod events;
pub mod forwarder;
pub mod gpu_arbiter;
pub mod gpus;
pub mod guard;
pub mod lease;
pub mod limits;
pub mod live;
pub mod logger;
pub mod metrics;
pub mod ollama;
pub mod permits;
pub mod port;
pub mod process;
pub mod program_log;
pub mod registry;
pub mod root;
mod rotation;
pub mod spool;
pub mod streams;
pub mod templates;
#[cfg(test)]
mod testing;
pub mod transcript;
pub mod vllm_supervisor;
pub mod watch;
