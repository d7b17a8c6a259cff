//! Processes of engines and services: starting them, hearing of their end, ending their tree, who has a port.
//!
//! Owns: every signal and every look into `/proc`. Must never do: trust a pid alone (a process is
//! its pid and start time), signal what is not ours, or poll where the kernel can tell: the end of
//! a process is heard through its pidfd. This is the one room that may hold `unsafe`; it does in three
//! places, to register a pidfd with the runtime, to hold a child before it becomes an engine, and to
//! take and give descriptors at the start of a program.

pub mod brief;
pub mod cgroup;
pub mod children;
pub mod descriptors;
mod handle;
pub mod identity;
pub mod inherit;
pub mod port;
mod spawn;
pub mod tree;

pub use handle::Handle;
pub use spawn::{Held, Spawning, hold};
