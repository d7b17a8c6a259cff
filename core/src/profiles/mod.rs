//! Profiles and roles (SPEC 8): which entries are there, what fits on the GPUs, who is best for what.
//!
//! Owns: reading `deployment_profiles.toml` (`load`), the choice of a hardware profile by name or by
//! the GPUs (`choose`), what `nvidia-smi` says ([`gpus`]), and the choice of models for a role
//! ([`roles`]). Must never do: look for GPUs or files itself, or fall back silently: a wrong value is
//! a [`Problem`](crate::config::Problem), and whatever was chosen says why.

mod choose;
mod fields;
pub mod gpus;
mod load;
pub mod roles;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Serialize, Serializer};

pub use choose::{AUTO, Axis, Chosen, Unknown, choose, unseen};
pub use gpus::Gpu;

/// All profiles and roles that there are, by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Profiles {
    /// Which entries are exposed.
    pub deployments: BTreeMap<String, DeploymentProfile>,
    /// What fits on the GPUs.
    pub hardware: BTreeMap<String, HardwareProfile>,
    /// What roles ask of models.
    pub roles: BTreeMap<String, RoleRule>,
}

/// Which entries are exposed: those that name it in `metadata.profiles`, and those that name none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DeploymentProfile {
    /// Its name.
    pub name: String,
    /// For people.
    pub description: String,
    /// Whether fixtures for tests are listed and chosen.
    pub include_test_models: bool,
}

/// What fits on the GPUs, and how models are chosen for them.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct HardwareProfile {
    /// Its name.
    pub name: String,
    /// For people.
    pub description: String,
    /// A model may need this much for a role (MB).
    pub max_vram_mb: u64,
    /// So many may be loaded side by side, at least one.
    pub max_concurrent_models: usize,
    /// Quantisations, best first, as the file spells them.
    pub preferred_quantizations: Vec<String>,
    /// What the GPUs are used like; for people.
    pub strategy: Strategy,
    /// What is started must be ready within this; `None`: the settings decide.
    #[serde(rename = "autostart_timeout_seconds", serialize_with = "seconds")]
    pub autostart_timeout: Option<Duration>,
    /// A model that nobody uses stays loaded for this long, zero: for ever; `None`: the settings decide.
    #[serde(rename = "grace_period_seconds", serialize_with = "seconds")]
    pub grace_period: Option<Duration>,
    /// How scores are moved.
    #[serde(rename = "model_selection_bias")]
    pub bias: Bias,
    /// When it may be chosen by the GPUs; `None`: only by name.
    pub detect: Option<Detect>,
}

/// What GPUs must be like for a profile to be chosen by them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Detect {
    /// At least so many of them.
    pub gpus: usize,
    /// Each at least this big (MB); smaller ones do not count.
    pub gpu_mb: u64,
    /// All that count together at least this big (MB).
    pub total_mb: u64,
}

/// What the GPUs are used like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// Models take turns.
    #[default]
    OneAtATime,
    /// Several are loaded.
    SideBySide,
    /// One may lie on several GPUs.
    Spread,
}

impl Strategy {
    /// The words of the file.
    const WORDS: &'static [(&'static str, Strategy)] = &[
        ("one_at_a_time", Strategy::OneAtATime),
        ("side_by_side", Strategy::SideBySide),
        ("spread", Strategy::Spread),
    ];
}

/// How a role's scores are moved; [`roles`] has the formula.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bias {
    /// They are not.
    #[default]
    Balanced,
    /// Bigger models are favoured.
    Quality,
    /// Smaller models are favoured.
    Efficiency,
    /// Models with fewer bits a weight are favoured: answers come at the speed of reading weights.
    Speed,
}

impl Bias {
    /// The words of the file.
    const WORDS: &'static [(&'static str, Bias)] = &[
        ("balanced", Bias::Balanced),
        ("quality", Bias::Quality),
        ("efficiency", Bias::Efficiency),
        ("speed", Bias::Speed),
    ];

    /// Its word in the file.
    pub fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, bias)| *bias == self).map_or("", |(word, _)| word)
    }
}

/// What a role asks of models.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RoleRule {
    /// Its name.
    pub name: String,
    /// For people.
    pub description: String,
    /// What a model must be able to do, by canonical names.
    pub required_capabilities: Vec<String>,
}

#[allow(clippy::ref_option)] // serde asks so
fn seconds<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(|time| time.as_secs()).serialize(serializer)
}

#[cfg(test)]
mod tests;
