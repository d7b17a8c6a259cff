//! The order of candidates.
//!
//! Owns: what a bias does to a score, and what decides between equals. The order is total: names are
//! unique, and decide last. Must never do: let something undecided.

use std::cmp::{Ordering, Reverse};

use crate::profiles::{Bias, HardwareProfile};
use crate::registry::Entry;
use crate::registry::resolve::normalize;

/// A bias moves a score by at most this part of itself.
const SWAY: f64 = 0.25;
/// Bits of a weight that was not quantised.
const FULL_BITS: f64 = 16.0;

/// What a candidate is compared by; the smallest is best.
#[derive(Debug, Clone)]
pub(super) struct Rank<'a> {
    /// The score as the entry has it.
    pub(super) score: f64,
    /// The score with the bias.
    pub(super) weighted: f64,
    /// Where its quantisation stands among the preferred; the number of these: nowhere.
    pub(super) preference: usize,
    pub(super) vram_mb: Option<u64>,
    name: &'a str,
}

impl<'a> Rank<'a> {
    pub(super) fn of(entry: &'a Entry, score: f64, hardware: &HardwareProfile) -> Rank<'a> {
        let vram_mb = entry.role_facts.vram_estimate_mb;
        let quantization = entry.quantization.as_deref().map(normalize).unwrap_or_default();
        let preferred = &hardware.preferred_quantizations;
        let place = preferred.iter().position(|wanted| normalize(wanted) == quantization);
        let share = vram_mb.map(|needed| share(needed, hardware.max_vram_mb));
        Rank {
            score,
            weighted: weigh(hardware.bias, score, share, bits(&quantization)),
            preference: place.unwrap_or(preferred.len()),
            vram_mb,
            name: &entry.name,
        }
    }

    /// Best first: whose need is known, score with bias, preferred quantisation, smaller need, name.
    pub(super) fn cmp(&self, other: &Rank<'_>) -> Ordering {
        let known = |rank: &Rank<'_>| Reverse(rank.vram_mb.is_some());
        known(self)
            .cmp(&known(other))
            .then(other.weighted.total_cmp(&self.weighted))
            .then(self.preference.cmp(&other.preference))
            .then(self.vram_mb.cmp(&other.vram_mb))
            .then(self.name.cmp(other.name))
    }
}

/// The score, moved by a quarter of itself times how much the bias likes the model, from 0 to 1:
/// quality likes its share of the memory, efficiency the rest of that, speed the bits that a weight
/// was spared of 16. What is not known is not liked. A score below zero moves up too.
fn weigh(bias: Bias, score: f64, share: Option<f64>, bits: Option<f64>) -> f64 {
    let liking = match bias {
        Bias::Balanced => None,
        Bias::Quality => share,
        Bias::Efficiency => share.map(|share| 1.0 - share),
        Bias::Speed => bits.map(|bits| (1.0 - bits / FULL_BITS).max(0.0)),
    };
    // Zero and not minus zero, which the order would tell apart.
    score + score.abs() * SWAY * liking.unwrap_or(0.0) + 0.0
}

#[allow(clippy::cast_precision_loss)] // megabytes
fn share(needed: u64, room: u64) -> f64 {
    (needed as f64 / room.max(1) as f64).min(1.0)
}

/// Bits of a weight, by the first number in a quantisation's name without punctuation: `q4km`, `fp8`,
/// `w4a16`; names without one that stand for 4.
fn bits(quantization: &str) -> Option<f64> {
    let digits = quantization.trim_start_matches(|c: char| !c.is_ascii_digit());
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    let named = || {
        let stands_for_four = ["awq", "gptq", "bnb"].iter().any(|n| quantization.starts_with(n));
        stands_for_four.then_some(4)
    };
    let number = if end == 0 { named() } else { digits[..end].parse::<u8>().ok() };
    number.filter(|bits| (1..=32).contains(bits)).map(f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_read_from_the_names_of_quantisations() {
        for (name, want) in [
            ("Q4_K_M", Some(4.0)),
            ("IQ2_XXS", Some(2.0)),
            ("fp8", Some(8.0)),
            ("FP8_E4M3", Some(8.0)),
            ("bf16", Some(16.0)),
            ("w4a16", Some(4.0)),
            ("gptq-8bit", Some(8.0)),
            ("awq", Some(4.0)),
            ("mxfp4", Some(4.0)),
            ("", None),
            ("full", None),
            ("x9999", None),
            ("0", None),
        ] {
            assert_eq!(bits(&normalize(name)), want, "{name}");
        }
    }

    #[test]
    fn a_bias_moves_a_score_by_at_most_a_quarter_of_it() {
        for (bias, share, bits, want) in [
            (Bias::Balanced, Some(0.5), Some(4.0), 80.0),
            (Bias::Quality, Some(0.5), None, 90.0),
            (Bias::Quality, Some(1.0), None, 100.0),
            (Bias::Quality, None, Some(4.0), 80.0),
            (Bias::Efficiency, Some(0.75), None, 85.0),
            (Bias::Efficiency, None, None, 80.0),
            (Bias::Speed, None, Some(4.0), 95.0),
            (Bias::Speed, Some(0.1), Some(16.0), 80.0),
            (Bias::Speed, Some(0.1), Some(32.0), 80.0),
            (Bias::Speed, Some(0.1), None, 80.0),
        ] {
            let found = weigh(bias, 80.0, share, bits);
            assert!((found - want).abs() < 1e-9, "{bias:?} {share:?} {bits:?}: {found}");
        }
        assert!((weigh(Bias::Quality, -80.0, Some(1.0), None) + 60.0).abs() < 1e-9);
        assert!(weigh(Bias::Balanced, -0.0, None, None).is_sign_positive());
    }
}
