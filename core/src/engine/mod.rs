//! vLLM's life: how it is started, what state it is in, what it leaves behind (SPEC 6.1).
//!
//! Owns: the launch of an entry ([`launch`]), an engine's environment ([`environment`]), the
//! state machine ([`lifecycle`]), what its health probes mean ([`probing`]), what others are told of it ([`report`]), why an engine failed
//! ([`cause`]), the file that remembers a running engine ([`state_file`]), and reading its log ([`telling`]). Must never do: start,
//! signal or ask a process; the `VllmSupervisor` carries out what is decided here.

pub mod cause;
pub mod environment;
pub mod launch;
pub mod lifecycle;
pub mod probing;
pub mod report;
pub mod state_file;
pub mod telling;
#[cfg(test)]
pub(crate) mod testing;

pub use cause::Cause;
pub use launch::{EngineRules, Launch};
pub use report::{Broken, EngineReport, Held, Phase};
