//! What is remembered about each request.
//!
//! Owns: the transcript record of SPEC 7.1 ([`record`]). Must never do: write it anywhere.

pub mod record;
