//! The engine as its clients see it: real sockets, raw bytes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod captures;
mod client;
mod faults;
mod ollama;
mod process;
mod serving;
