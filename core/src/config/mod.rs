//! Settings: every key of SPEC 3.2, its layers, its checks, and where each value came from.
//!
//! Owns: the table of keys ([`keys`]), reading TOML and environment into layers (`layers`), the
//! checks that need several keys (`check`), the typed [`Settings`], how they are shown (`shown`) and
//! changed in the file (`edit`), and their schema. Must never do: read the
//! file or the process environment itself (both are handed in), or fall back silently: a wrong
//! value or an unknown key is a [`Problem`], and all problems are reported together.

mod changes;
mod check;
mod edit;
pub mod keys;
mod layers;
mod load;
mod parse;
mod schema;
mod shown;
mod tables;
mod units;

pub use changes::{Changes, LEGACY_NAMES};
pub use check::is_loopback;
pub use edit::edit;
pub use keys::{Applies, KEYS, KeySpec, Settings};
pub use layers::Origin;
pub(crate) use load::nearest;
pub use load::{Input, Loaded, Reloaded, load, load_onto};
pub use schema::schema;
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
