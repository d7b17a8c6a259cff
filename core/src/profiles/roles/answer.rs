//! What is answered to a question for models.
//!
//! Owns: its form (SPEC 8), and the words about each candidate. Must never do: judge.

use serde::{Serialize, Serializer};

use super::judge::Judged;
use super::{Ask, Roles};
use crate::profiles::Bias;

/// The best models for a role.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Selection {
    /// The role, in the one spelling.
    pub role: String,
    /// The hardware profile's name.
    pub profile: String,
    /// What a model may need (MB).
    pub max_vram_mb: u64,
    /// How scores were moved.
    pub model_selection_bias: Bias,
    /// How many were asked for at most.
    pub top_n: usize,
    /// Best first.
    pub models: Vec<SelectedModel>,
    /// Every candidate: those taken first, then those that others kept out, then those that cannot be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explain: Option<Vec<Verdict>>,
}

/// A model that was chosen.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SelectedModel {
    /// Its id in the model list.
    pub id: String,
    /// The logical name.
    pub name: String,
    /// The backend's kind.
    pub backend: String,
    /// Its quantisation.
    pub quantization: Option<String>,
    /// What it needs (MB), if that is known.
    pub vram_estimate_mb: Option<u64>,
    /// Its score for the role, as the entry has it.
    #[serde(serialize_with = "plain_number")]
    pub role_priority: f64,
}

/// What became of a candidate, and why.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    /// Its id in the model list.
    pub id: String,
    /// The logical name.
    pub name: String,
    /// Whether it is among the models.
    pub taken: bool,
    /// Why, for a person.
    pub reason: String,
    /// Its score as the entry has it.
    #[serde(serialize_with = "plain_number")]
    pub role_priority: f64,
    /// Its score with the bias, by which it was compared.
    #[serde(serialize_with = "plain_number")]
    pub weighted_priority: f64,
}

impl Roles<'_> {
    pub(super) fn answer(&self, role: &str, ask: &Ask<'_>, judged: &[Judged<'_>]) -> Selection {
        let fitting = judged.iter().filter(|judged| judged.faults.is_empty());
        Selection {
            role: role.to_owned(),
            profile: self.hardware.name.clone(),
            max_vram_mb: self.hardware.max_vram_mb,
            model_selection_bias: self.hardware.bias,
            top_n: ask.top_n,
            models: fitting.take(ask.top_n).map(|judged| self.model(judged)).collect(),
            explain: ask.explain.then(|| {
                let places = judged.iter().enumerate();
                places.map(|(place, judged)| self.verdict(place, judged, ask.top_n)).collect()
            }),
        }
    }

    fn model(&self, judged: &Judged<'_>) -> SelectedModel {
        let entry = &self.snapshot.entries()[judged.position];
        SelectedModel {
            id: self.listing.items[judged.position].id.clone(),
            name: entry.name.clone(),
            backend: entry.backend.clone(),
            quantization: entry.quantization.clone(),
            vram_estimate_mb: judged.rank.vram_mb,
            role_priority: judged.rank.score,
        }
    }

    fn verdict(&self, place: usize, judged: &Judged<'_>, top_n: usize) -> Verdict {
        let fits = judged.faults.is_empty();
        let reason = if !fits {
            judged.faults.join(", ")
        } else if place < top_n {
            format!("place {}: {}", place + 1, self.merits(judged))
        } else {
            format!("beyond top_n: {}", self.merits(judged))
        };
        Verdict {
            id: self.listing.items[judged.position].id.clone(),
            name: self.snapshot.entries()[judged.position].name.clone(),
            taken: fits && place < top_n,
            reason,
            role_priority: judged.rank.score,
            weighted_priority: judged.rank.weighted,
        }
    }

    /// `score 80, 90 by quality, q4_k_m is preferred, needs 9000 of 15000 MB`.
    fn merits(&self, judged: &Judged<'_>) -> String {
        let (rank, hardware) = (&judged.rank, self.hardware);
        let mut merits = vec![format!("score {}", rounded(rank.score))];
        if rounded(rank.score) != rounded(rank.weighted) {
            merits.push(format!("{} by {}", rounded(rank.weighted), hardware.bias.word()));
        }
        let preferred = hardware.preferred_quantizations.get(rank.preference);
        merits.extend(preferred.map(|preferred| format!("{preferred} is preferred")));
        merits.push(match rank.vram_mb {
            Some(needed) => format!("needs {needed} of {} MB", hardware.max_vram_mb),
            None => "comes after those whose need of memory is known".to_owned(),
        });
        merits.join(", ")
    }
}

/// Two places behind the point, as far as they say something.
fn rounded(number: f64) -> String {
    let text = format!("{number:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// 90 and not 90.0, as entries have it.
#[allow(clippy::cast_possible_truncation, clippy::trivially_copy_pass_by_ref)] // checked; serde asks so
fn plain_number<S: Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    if number.fract() == 0.0 && number.abs() < 9.0e15 {
        return serializer.serialize_i64(*number as i64);
    }
    serializer.serialize_f64(*number)
}
