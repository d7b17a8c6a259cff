//! Which hardware profile holds: the one that is named, or the one that fits the GPUs best.
//!
//! Owns: the choice, and why. Must never do: look for GPUs, or take one whose size is not known for
//! one of any size.

use super::{DeploymentProfile, Detect, Gpu, HardwareProfile, Profiles};
use crate::config::nearest;
use crate::gpu::GpuBudget;

/// The name that asks for a choice by the GPUs.
pub const AUTO: &str = "auto";
/// What "auto" is without a GPU.
const NO_GPU: &str = "development";

/// A name that is no profile's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no {what} {name:?}; there are {}{}", known.join(", "), hint(self))]
pub struct Unknown {
    /// `hardware profile`, `deployment profile` or `profile`.
    pub what: &'static str,
    /// What was asked for.
    pub name: String,
    /// What there is.
    pub known: Vec<String>,
    /// What may have been meant.
    pub nearest: Option<String>,
    /// It is a profile of the other kind.
    pub other_kind: Option<&'static str>,
}

fn hint(unknown: &Unknown) -> String {
    let Unknown { name, nearest, other_kind, .. } = unknown;
    match (other_kind, nearest) {
        (Some(kind), _) => format!("; {name} is a {kind}"),
        (None, Some(nearest)) => format!("; did you mean {nearest}?"),
        (None, None) => String::new(),
    }
}

/// The two kinds of profiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Axis {
    /// Which entries are exposed.
    Deployment,
    /// What fits on the GPUs; `auto` too.
    Hardware,
}

const DEPLOYMENT: &str = "deployment profile";
const HARDWARE: &str = "hardware profile";

impl Profiles {
    /// Which kind of profile a name is; none is both.
    pub fn axis(&self, name: &str) -> Result<Axis, Unknown> {
        let name = plain(name);
        if self.deployments.contains_key(&name) {
            return Ok(Axis::Deployment);
        }
        if name == AUTO || self.hardware.contains_key(&name) {
            return Ok(Axis::Hardware);
        }
        Err(self.unknown(
            "profile",
            &name,
            [self.hardware_names(), self.deployment_names()].concat(),
        ))
    }

    /// The deployment profile of that name.
    pub fn deployment(&self, name: &str) -> Result<&DeploymentProfile, Unknown> {
        let name = plain(name);
        let found = self.deployments.get(&name);
        found.ok_or_else(|| self.unknown(DEPLOYMENT, &name, self.deployment_names()))
    }

    fn deployment_names(&self) -> Vec<String> {
        self.deployments.keys().cloned().collect()
    }

    fn hardware_names(&self) -> Vec<String> {
        std::iter::once(AUTO.to_owned()).chain(self.hardware.keys().cloned()).collect()
    }

    fn unknown(&self, what: &'static str, name: &str, known: Vec<String>) -> Unknown {
        let shown: String = name.chars().take(200).collect();
        let other_kind = match what {
            HARDWARE if self.deployments.contains_key(name) => Some(DEPLOYMENT),
            DEPLOYMENT if self.hardware.contains_key(name) => Some(HARDWARE),
            _ => None,
        };
        let nearest = nearest(&shown, known.iter().map(String::as_str)).map(str::to_owned);
        Unknown { what, name: shown, known, nearest, other_kind }
    }
}

/// What holds, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Chosen {
    /// The profile, its `max_vram_mb` lowered to what is there if the GPUs chose it.
    pub profile: HardwareProfile,
    /// It was named, not chosen by the GPUs.
    pub manual_override: bool,
    /// Why it is this one.
    pub reason: String,
    /// What all GPUs together have for models, as far as that is known (MB).
    pub total_usable_vram_mb: u64,
}

impl Chosen {
    /// How many may be on the GPU at once: one where no GPU's size is known (SPEC 6.5).
    pub fn budget(&self) -> GpuBudget {
        let residents =
            if self.total_usable_vram_mb == 0 { 1 } else { self.profile.max_concurrent_models };
        GpuBudget { residents: residents.max(1) }
    }
}

/// The profile of that name, or by [`AUTO`] the one that fits the GPUs best: of those whose
/// [`Detect`] they satisfy, the one that allows most. If none does, the smallest that can be detected
/// at all, lowered to the biggest GPU. A profile that is named holds as it is written, whatever there is.
pub fn choose(profiles: &Profiles, wanted: &str, gpus: &[Gpu]) -> Result<Chosen, Unknown> {
    let name = plain(wanted);
    let total = gpus.iter().filter_map(Gpu::usable_mb).sum();
    let (profile, reason) = if name == AUTO {
        by_gpus(profiles, gpus)
    } else {
        let found = profiles.hardware.get(&name).cloned();
        let profile =
            found.ok_or_else(|| profiles.unknown(HARDWARE, &name, profiles.hardware_names()))?;
        let reason = by_hand(&profile, total);
        (profile, reason)
    };
    let manual_override = name != AUTO;
    Ok(Chosen { profile, manual_override, reason, total_usable_vram_mb: total })
}

/// What holds where nobody has looked for GPUs.
pub fn unseen(profiles: &Profiles) -> HardwareProfile {
    by_gpus(profiles, &[]).0
}

fn plain(name: &str) -> String {
    name.trim().to_ascii_lowercase()
}

fn by_hand(profile: &HardwareProfile, total: u64) -> String {
    let (name, allows) = (&profile.name, profile.max_vram_mb);
    if total > 0 && allows > total {
        return format!(
            "{name} is named; it allows {allows} MB, but the GPUs that were found have {total} MB for models"
        );
    }
    format!("{name} is named")
}

fn by_gpus(profiles: &Profiles, gpus: &[Gpu]) -> (HardwareProfile, String) {
    let known: Vec<&Gpu> = gpus.iter().filter(|gpu| gpu.usable_mb().is_some()).collect();
    let Some(biggest) = known.iter().filter_map(|gpu| gpu.usable_mb()).max() else {
        return without_gpu(profiles, gpus);
    };
    let fits = |profile: &HardwareProfile| {
        let room = profile.detect?.room(&known)?;
        Some((lowered(profile, room), profile.max_vram_mb))
    };
    // The last of equals wins, so names are walked backwards.
    let best = profiles.hardware.values().rev().filter_map(fits);
    let best = best.max_by_key(|(profile, _)| profile.max_vram_mb);
    let found = describe(&known);
    if let Some((profile, wrote)) = best {
        let reason = format!("{found}: {} is the largest profile that fits", profile.name);
        return told(profile, wrote, reason);
    }
    let smallest = profiles.hardware.values().filter(|profile| profile.detect.is_some());
    match smallest.min_by_key(|profile| profile.max_vram_mb) {
        Some(smallest) => {
            let profile = lowered(smallest, biggest);
            let reason = format!(
                "{found}: less than any profile asks for, so the smallest, {}",
                profile.name
            );
            told(profile, smallest.max_vram_mb, reason)
        }
        None => without_gpu(profiles, &[]),
    }
}

fn without_gpu(profiles: &Profiles, gpus: &[Gpu]) -> (HardwareProfile, String) {
    let profile = profiles.hardware.get(NO_GPU).cloned().unwrap_or_default();
    let reason = match gpus.first() {
        None => format!("no GPU was found: {NO_GPU}"),
        Some(gpu) => {
            let name = &gpu.name;
            format!(
                "how much memory {name} has is not known: {NO_GPU}; name a hardware profile by hand"
            )
        }
    };
    (profile, reason)
}

fn lowered(profile: &HardwareProfile, room: u64) -> HardwareProfile {
    HardwareProfile { max_vram_mb: profile.max_vram_mb.min(room).max(1), ..profile.clone() }
}

fn told(profile: HardwareProfile, wrote: u64, why: String) -> (HardwareProfile, String) {
    let room = profile.max_vram_mb;
    if room == wrote {
        return (profile, why);
    }
    let reason =
        format!("{why}; its max_vram_mb is lowered from {wrote} to the {room} that are there");
    (profile, reason)
}

/// `2 GPUs (A, 16376 MB; B, 16376 MB)`.
fn describe(gpus: &[&Gpu]) -> String {
    let one = |gpu: &&Gpu| format!("{}, {} MB", gpu.name, gpu.total_mb.unwrap_or_default());
    let all: Vec<String> = gpus.iter().map(one).collect();
    let plural = if all.len() == 1 { "" } else { "s" };
    format!("{} GPU{plural} ({})", all.len(), all.join("; "))
}

impl Detect {
    /// What is there for models, if the GPUs are as it asks: on the biggest `gpus` of those that count,
    /// or on all that count where it asks for a total.
    fn room(self, gpus: &[&Gpu]) -> Option<u64> {
        let counts = |gpu: &&&Gpu| gpu.total_mb.is_some_and(|total| total >= self.gpu_mb);
        let mut counted: Vec<&Gpu> = gpus.iter().filter(counts).copied().collect();
        let total: u64 = counted.iter().filter_map(|gpu| gpu.total_mb).sum();
        if counted.len() < self.gpus || total < self.total_mb {
            return None;
        }
        if self.total_mb == 0 {
            counted.sort_by_key(|gpu| std::cmp::Reverse(gpu.total_mb));
            counted.truncate(self.gpus);
        }
        Some(counted.iter().filter_map(|gpu| gpu.usable_mb()).sum())
    }
}
