//! Which candidates may be chosen, and what is wrong with the others.
//!
//! Owns: the reasons, in words. Must never do: leave a candidate without one.

use super::rank::Rank;
use super::{Roles, UnknownRole};
use crate::registry::Entry;
use crate::registry::capabilities::canonical;
use crate::registry::listing::{Item, is_test_model};

/// A candidate.
#[derive(Debug)]
pub(super) struct Judged<'a> {
    pub(super) position: usize,
    pub(super) rank: Rank<'a>,
    /// Why it cannot be chosen; empty: it can.
    pub(super) faults: Vec<String>,
}

impl<'a> Roles<'a> {
    /// All candidates, best first; those that cannot be chosen come last.
    pub(super) fn judge(
        &self,
        role: &str,
        needs: &[String],
    ) -> Result<Vec<Judged<'a>>, UnknownRole> {
        let rule = self.profiles.roles.get(role);
        let mut needs: Vec<String> = needs.iter().map(|name| canonical(name)).collect();
        needs.extend(rule.into_iter().flat_map(|rule| rule.required_capabilities.clone()));
        needs.sort();
        needs.dedup();
        let shown = self.shown();
        let mut is_known = rule.is_some();
        let mut judged = Vec::new();
        for (position, entry) in self.snapshot.entries().iter().enumerate() {
            let Some(score) = entry.role_facts.score(role) else { continue };
            let Some(item) = self.listing.items.get(position) else { continue };
            is_known |= shown[position] || !is_test_model(entry);
            let mut faults = self.hidden(position, item, shown[position]);
            faults.extend(lacks(entry, item, &needs));
            faults.extend(self.too_big(entry));
            judged.push(Judged { position, rank: Rank::of(entry, score, self.hardware), faults });
        }
        if !is_known {
            return Err(self.unknown(role));
        }
        judged.sort_by(|a, b| {
            a.faults.is_empty().cmp(&b.faults.is_empty()).reverse().then(a.rank.cmp(&b.rank))
        });
        Ok(judged)
    }

    /// What the list says against it. What is hidden for none of the first reasons is a fixture.
    fn hidden(&self, position: usize, item: &Item, shown: bool) -> Vec<String> {
        let mut faults = Vec::new();
        let entry = &self.snapshot.entries()[position];
        if entry.deprecated {
            faults.push("deprecated".to_owned());
        }
        if !item.is_installed() {
            faults.push("not installed".to_owned());
        }
        if shown || !faults.is_empty() {
            return faults;
        }
        let twin = |other: &&usize| self.snapshot.is_same_model(position, **other);
        faults.push(match self.listing.shown.iter().find(twin) {
            Some(twin) => {
                let listed = &self.snapshot.entries()[*twin].name;
                format!("the same model as {listed}, which is the one that is listed")
            }
            None => "a fixture for tests".to_owned(),
        });
        faults
    }

    fn too_big(&self, entry: &Entry) -> Option<String> {
        let room = self.hardware.max_vram_mb;
        let needed = entry.role_facts.vram_estimate_mb.filter(|needed| *needed > room)?;
        Some(format!("needs {needed} MB, the profile has {room}"))
    }
}

/// `lacks vision, tools`.
fn lacks(entry: &Entry, item: &Item, needs: &[String]) -> Option<String> {
    let lacking: Vec<&str> =
        needs.iter().map(String::as_str).filter(|need| !can(entry, item, need)).collect();
    (!lacking.is_empty()).then(|| format!("lacks {}", lacking.join(", ")))
}

/// Whether it can do that: by its entry, else by what Ollama says. Every model knows text, unless its
/// entry denies it.
fn can(entry: &Entry, item: &Item, capability: &str) -> bool {
    match capability {
        "text" => entry.capabilities.get("text") != Some(false),
        "vision" => entry.facts(item.capability("vision")).vision == Some(true),
        other => item.capability(other).unwrap_or_else(|| {
            entry.ollama_capabilities.iter().any(|told| canonical(told) == other)
        }),
    }
}
