//! The scheduler's core in virtual time, over seeded traces, beside two simpler policies.
//!
//! Owns: traces, a GPU in virtual time, the policies, the table. Must never do: look at a clock.

pub mod baselines;
pub mod fewest;
pub mod policy;
pub mod prng;
pub mod report;
pub mod table;
pub mod traces;
pub mod world;
