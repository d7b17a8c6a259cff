//! What was seen in histories, by name and number: a generator that does nothing is to be seen.
//!
//! Owns: the names and the numbers. Must never do: judge; whoever plays histories says what must
//! occur.

use std::collections::BTreeMap;
use std::fmt;

use super::*;
use crate::gpu::lease::LeaseEnd;

/// A name for each variant, and the list of all names: a variant without one does not compile.
macro_rules! names {
    ($list:ident, $name:ident, $of:ty, { $($pattern:pat => $text:literal),+ $(,)? }) => {
        pub(super) const $list: &[&str] = &[$($text),+];

        pub(super) fn $name(it: &$of) -> &'static str {
            match it { $($pattern => $text),+ }
        }
    };
}
pub(super) use names;

names!(EVENTS, event_name, Event, {
    Event::Admit(_) => "event: admit",
    Event::Abandon(_) => "event: abandon",
    Event::InFlight(..) => "event: in flight",
    Event::Engine { fresh: false, .. } => "event: engine",
    Event::Engine { fresh: true, .. } => "event: engine, fresh",
    Event::OllamaInUse(..) => "event: ollama in use",
    Event::Vacated(_, Ok(())) => "event: vacated",
    Event::Vacated(_, Err(_)) => "event: not vacated",
    Event::OllamaForgot => "event: ollama forgot",
    Event::Deactivate { .. } => "event: deactivate",
    Event::Lease(_) => "event: lease",
    Event::LeaseKept { .. } => "event: lease kept",
    Event::Restore(_) => "event: restore",
    Event::Drain => "event: drain",
    Event::Tick => "event: tick",
});

names!(EFFECTS, effect_name, Effect, {
    Effect::Grant { .. } => "effect: grant",
    Effect::Activated(_) => "effect: activated",
    Effect::Refuse(..) => "effect: refuse",
    Effect::Pardon(_) => "effect: pardon",
    Effect::Run(..) => "effect: run",
    Effect::Stop(_) => "effect: stop",
    Effect::Open(_) => "effect: open",
    Effect::Vacate(_) => "effect: vacate",
    Effect::Cut(_) => "effect: cut",
    Effect::Lease(LeaseEffect::Granted(..)) => "lease: granted",
    Effect::Lease(LeaseEffect::Refused(..)) => "lease: refused",
    Effect::Lease(LeaseEffect::Ended(_, LeaseEnd::Released)) => "lease: released",
    Effect::Lease(LeaseEffect::Ended(_, LeaseEnd::Forced)) => "lease: forced",
    Effect::Lease(LeaseEffect::Ended(_, LeaseEnd::Expired)) => "lease: expired",
    Effect::Lease(LeaseEffect::Restore(_)) => "lease: restore",
    Effect::SwapBegan { because: Because::Bound { class: Class::Interactive, .. }, .. } => "swap: interactive bound",
    Effect::SwapBegan { because: Because::Bound { class: Class::Background, .. }, .. } => "swap: background bound",
    Effect::SwapBegan { because: Because::Worth { .. }, .. } => "swap: worth",
    Effect::SwapBegan { because: Because::Vacant, .. } => "swap: vacant",
    Effect::SwapBegan { because: Because::ByHand, .. } => "swap: by hand",
    Effect::SwapBegan { because: Because::Lease, .. } => "swap: lease",
    Effect::SwapBegan { because: Because::Changed, .. } => "swap: changed",
    Effect::SwapDone { .. } => "swap: done",
    Effect::Unload { .. } => "effect: unload",
});

names!(REFUSALS, refusal_name, Refusal, {
    Refusal::QueueFull { .. } => "refusal: queue full",
    Refusal::QueueTimeout { .. } => "refusal: queue timeout",
    Refusal::Failed(Cause::CrashLoop { .. }) => "refusal: crash loop",
    Refusal::Failed(_) => "refusal: failed",
    Refusal::AutostartOff => "refusal: autostart off",
    Refusal::Stopped => "refusal: stopped",
    Refusal::Draining => "refusal: draining",
    Refusal::Leased { .. } => "refusal: leased",
    Refusal::LeaseBusy { .. } => "refusal: lease busy",
    Refusal::NoResident => "refusal: no resident",
});

names!(PLACES, place_name, Gpu, {
    Gpu::Unknown => "gpu: unknown",
    Gpu::Empty => "gpu: empty",
    Gpu::Loading(..) => "gpu: loading",
    Gpu::Resident(Resident { tenant: Tenant::Ollama, .. }) => "gpu: ollama",
    Gpu::Resident(Resident { closing: None, .. }) => "gpu: resident",
    Gpu::Resident(Resident { closing: Some(_), .. }) => "gpu: closing",
    Gpu::Clearing(_) => "gpu: clearing",
    Gpu::Stuck(_) => "gpu: stuck",
});

/// So often each was seen.
#[derive(Debug, Clone, Default)]
pub(super) struct Counts(BTreeMap<&'static str, u64>);

impl Counts {
    pub(super) fn note(&mut self, name: &'static str) {
        *self.0.entry(name).or_default() += 1;
    }

    /// An event, what it led to, and where that left the GPU.
    pub(super) fn note_event(&mut self, event: &Event, effects: &[Effect], gpu: &Gpu) {
        self.note(event_name(event));
        self.note(place_name(gpu));
        for effect in effects {
            self.note(effect_name(effect));
            if let Effect::Refuse(_, refusal) | Effect::Lease(LeaseEffect::Refused(_, refusal)) =
                effect
            {
                self.note(refusal_name(refusal));
            }
        }
    }

    pub(super) fn add(&mut self, other: &Counts) {
        for (name, count) in &other.0 {
            *self.0.entry(name).or_default() += count;
        }
    }

    /// All whose names begin so.
    pub(super) fn of(&self, prefix: &str) -> u64 {
        self.0.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, count)| count).sum()
    }

    /// Which of these never occurred.
    pub(super) fn missing(&self, names: &[&'static str]) -> Vec<&'static str> {
        names.iter().copied().filter(|name| !self.0.contains_key(name)).collect()
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, count) in &self.0 {
            writeln!(f, "{count:>14}  {name}")?;
        }
        Ok(())
    }
}
