//! What is remembered about each request.
//!
//! Owns: the transcript record of SPEC 7.1 ([`record`]), the window of the last requests
//! ([`rolling`]). Must never do: write it anywhere.

pub mod record;
pub mod rolling;
