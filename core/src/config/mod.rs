//! Settings: every key of SPEC 3.2, its layers, its checks, and where each value came from.
//!
//! Owns: the table of keys ([`keys`]), reading TOML and environment into layers (`layers`), the
//! checks that need several keys (`check`), and the typed [`Settings`]. Must never do: read the
//! file or the process environment itself (both are handed in), or fall back silently: a wrong
//! value or an unknown key is a [`Problem`], and all problems are reported together.

mod check;
pub mod keys;
mod layers;
mod load;
mod parse;
mod tables;
mod units;

pub use keys::{KEYS, KeySpec, Settings, Stage};
pub use layers::Origin;
pub use load::{Input, Loaded, load};
pub use tables::{ApiKey, KeySecret, Right, Service};
pub use units::{Millis, Seconds};

/// One thing that is wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {message}")]
pub struct Problem {
    /// `file:line`, or the variable's name.
    pub place: String,
    /// What was expected and what to do.
    pub message: String,
}

#[cfg(test)]
mod tests;
