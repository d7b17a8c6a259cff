//! The actors: thin shells that turn messages into events of the cores and carry out effects.
//!
//! Owns: mailboxes, tasks, sockets to backends, files. Must never do: decide; decisions live in
//! `chat-proxy-core`. Actors that all workers share are started once; the [`forwarder`] is started
//! once per HTTP worker thread, because its client and its streams never leave that thread.

pub mod forwarder;
pub mod logger;
pub mod metrics;
pub mod registry;
pub mod transcript;
