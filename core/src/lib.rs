//! The decisions of the chat proxy, as plain functions and state machines.
//!
//! Owns: what a request means, where it goes, what leaves for the client, what is an error and how
//! it looks. Must never do: I/O, read a clock, start a task, know actix or tokio. Time comes in as
//! an argument; effects go out as values that the actors carry out.

pub mod artifacts;
pub mod autostart;
pub mod chat;
pub mod config;
pub mod engine;
pub mod error;
pub mod gpu;
pub mod ids;
pub mod json;
pub mod profiles;
pub mod registry;
pub mod relay;
pub mod telemetry;

pub use error::{ApiError, Code};
