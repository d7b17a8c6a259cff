//! Which model is best for a role (SPEC 8).
//!
//! Candidates are the entries that name the role. Those that are listed, installed, able and small
//! enough are ordered (`rank`): those with a `vram_estimate_mb` first, then by score moved by the
//! profile's bias, then by preferred quantisation, then by smaller estimate, then by name.
//!
//! Owns: who is a candidate, who is left and why, the order, the answer. Must never do: choose what
//! the model list hides, or what does not fit by its own word.

mod answer;
mod judge;
mod rank;

use std::collections::BTreeSet;

pub use answer::{SelectedModel, Selection, Verdict};
use judge::Judged;

use super::{HardwareProfile, Profiles};
use crate::config::nearest;
use crate::error::{ApiError, Code};
use crate::registry::Snapshot;
use crate::registry::listing::{Listing, is_test_model};
use crate::registry::roles::role_name;

/// What a model's name begins with if it is a role's.
const PREFIX: &str = "role:";

/// The role that a model's name asks for: `role:caption` is `caption`.
pub fn role_of(model: &str) -> Option<&str> {
    model.strip_prefix(PREFIX)
}

/// What models are chosen from, and by what.
#[derive(Debug, Clone, Copy)]
pub struct Roles<'a> {
    /// The entries.
    pub snapshot: &'a Snapshot,
    /// Their list: what is hidden in it is not chosen.
    pub listing: &'a Listing,
    /// What roles ask for.
    pub profiles: &'a Profiles,
    /// What fits, and what is preferred: that of [`Chosen`](super::Chosen).
    pub hardware: &'a HardwareProfile,
}

/// A question for models.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ask<'a> {
    /// For what.
    pub role: &'a str,
    /// What they must be able to do, beyond what the role asks for; any spelling.
    pub needs: &'a [String],
    /// At most so many.
    pub top_n: usize,
    /// Say of each candidate why it was taken or left.
    pub explain: bool,
}

/// A role that neither the file nor an entry knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no role {role:?}{}", nearest.as_ref().map_or(String::new(), |n| format!("; did you mean {n}?")))]
pub struct UnknownRole {
    /// What was asked for.
    pub role: String,
    /// The roles that there are.
    pub known: Vec<String>,
    /// What may have been meant.
    pub nearest: Option<String>,
}

impl UnknownRole {
    fn hint(&self) -> String {
        if self.known.is_empty() {
            return "no entry of the registry names a role in role_priority".to_owned();
        }
        format!("the roles are: {}", self.known.join(", "))
    }
}

/// 400, for a request whose parameter names the role.
impl From<UnknownRole> for ApiError {
    fn from(unknown: UnknownRole) -> ApiError {
        ApiError::invalid("role", unknown.to_string()).hint(unknown.hint())
    }
}

/// So many candidates are told of in an error; the whole is for `explain`.
const TOLD: usize = 3;

impl Roles<'_> {
    /// All roles: those of the file, and those that entries name, unless they are hidden fixtures.
    pub fn known(&self) -> Vec<String> {
        let mut known: BTreeSet<&str> = self.profiles.roles.keys().map(String::as_str).collect();
        let shown = self.shown();
        for (position, entry) in self.snapshot.entries().iter().enumerate() {
            if shown[position] || !is_test_model(entry) {
                known.extend(entry.role_facts.role_priority.keys().map(String::as_str));
            }
        }
        known.into_iter().map(str::to_owned).collect()
    }

    /// The best models for a role. A role that is known, and for which nothing fits, has none.
    pub fn select(&self, ask: &Ask<'_>) -> Result<Selection, UnknownRole> {
        let role = role_name(ask.role);
        let judged = self.judge(&role, ask.needs)?;
        Ok(self.answer(&role, ask, &judged))
    }

    /// The position of the best model for a role, for a request that names the role as its model.
    /// `needs` is what the request asks for besides.
    pub fn best(&self, role: &str, needs: &[String]) -> Result<usize, ApiError> {
        let role = role_name(role);
        let judged = self.judge(&role, needs).map_err(|unknown| {
            let hint = unknown.hint();
            ApiError::new(Code::ModelNotFound, unknown.to_string()).param("model").hint(hint)
        })?;
        match judged.first().filter(|best| best.faults.is_empty()) {
            Some(best) => Ok(best.position),
            None => Err(self.none_fits(&role, &judged)),
        }
    }

    fn none_fits(&self, role: &str, judged: &[Judged<'_>]) -> ApiError {
        let profile = &self.hardware.name;
        let message = format!("no model fits the role {role:?} with the profile {profile}");
        let told = judged.iter().take(TOLD).map(|judged| {
            let name = &self.snapshot.entries()[judged.position].name;
            format!("{name}: {}", judged.faults.join(", "))
        });
        let mut told: Vec<String> = told.collect();
        if judged.len() > TOLD {
            told.push(format!("and {} more", judged.len() - TOLD));
        }
        let hint = if told.is_empty() {
            format!("no entry of the registry names {role} in role_priority")
        } else {
            told.join("; ")
        };
        ApiError::new(Code::ModelNotFound, message).param("model").hint(hint)
    }

    fn unknown(&self, role: &str) -> UnknownRole {
        let role: String = role.chars().take(200).collect();
        let known = self.known();
        let nearest = nearest(&role, known.iter().map(String::as_str)).map(str::to_owned);
        UnknownRole { role, known, nearest }
    }

    /// Whether an entry is listed, by its position.
    fn shown(&self) -> Vec<bool> {
        let mut shown = vec![false; self.snapshot.entries().len()];
        for position in &self.listing.shown {
            if let Some(place) = shown.get_mut(*position) {
                *place = true;
            }
        }
        shown
    }
}

#[cfg(test)]
mod tests;
