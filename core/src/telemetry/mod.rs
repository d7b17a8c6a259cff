//! What is remembered about each request.
//!
//! Owns: the transcript record of SPEC 7.1 ([`record`]), what is kept of a conversation where that is
//! asked for ([`prompt`], [`answer`]), tokens that nobody counted ([`estimate`]),
//! the window of the last requests ([`rolling`]). Must never do: write it anywhere.

pub mod answer;
pub mod estimate;
pub mod prompt;
pub mod record;
pub mod rolling;
