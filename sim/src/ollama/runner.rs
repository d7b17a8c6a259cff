//! Owns one loaded model: how it was loaded, in which phase it is, when it is to go.
//!
//! Must never wait for anything.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::keep::Keep;
use super::models::{CONTEXT, Model, details};

/// The options that a model is loaded with.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Setup {
    pub(super) context: u64,
    /// `None` is as many as fit.
    pub(super) gpu_layers: Option<u64>,
    /// `num_batch`, `main_gpu`, `use_mmap`, `num_thread`, as they came.
    pub(super) others: Vec<Value>,
}

impl Setup {
    /// The names of the options that only have to be the same.
    const OTHERS: [(&'static str, i64); 4] =
        [("num_batch", 512), ("main_gpu", 0), ("use_mmap", -1), ("num_thread", 0)];

    /// Reads a request's options; what it does not say is as Ollama has it by itself.
    pub(super) fn read(options: &Value) -> Self {
        let number = |name: &str| options.get(name).and_then(Value::as_f64);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // as Go does it
        let whole = |number: f64| number as u64;
        let context = number("num_ctx").filter(|n| *n >= 1.0).map_or(CONTEXT, whole);
        let gpu_layers = number("num_gpu").filter(|n| *n >= 0.0).map(whole);
        let other = |(name, default)| {
            options.get(name).filter(|v| !v.is_null()).cloned().unwrap_or(json!(default))
        };
        Self { context, gpu_layers, others: Self::OTHERS.map(other).to_vec() }
    }

    /// Whether a model that was loaded so can serve who wants that.
    pub(super) fn serves(&self, wanted: &Self) -> bool {
        let layers = wanted.gpu_layers.is_none() || wanted.gpu_layers == self.gpu_layers;
        layers && self.context == wanted.context && self.others == wanted.others
    }
}

/// How a load goes.
#[derive(Debug, Clone, Default)]
pub(super) struct Plan {
    pub(super) time: Duration,
    /// It ends in this failure.
    pub(super) fails: Option<String>,
    /// It does not end before it is released.
    pub(super) hangs: bool,
}

/// In which phase a loaded model is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    Loading,
    /// It could not be loaded, for this reason; who waited for it is being told.
    Failed(String),
    Ready,
    /// It serves those who have it, and nobody else.
    Outgoing,
    /// Nobody has it; its memory is not free yet.
    Leaving,
}

/// One loaded model.
#[derive(Debug)]
pub(super) struct Runner {
    pub(super) id: u64,
    pub(super) model: Model,
    pub(super) setup: Setup,
    pub(super) phase: Phase,
    /// Requests that have a hold on it.
    pub(super) claims: u64,
    pub(super) keep: Keep,
    /// When the last of them let go.
    pub(super) used: Instant,
    /// Its load, or else the end of it, does not come before it is released.
    pub(super) hangs: bool,
}

impl Runner {
    pub(super) fn is_loading(&self) -> bool {
        self.phase == Phase::Loading
    }

    pub(super) fn holds_memory(&self) -> bool {
        matches!(self.phase, Phase::Ready | Phase::Outgoing | Phase::Leaving)
    }

    /// When it is to go, as things are.
    pub(super) fn due(&self) -> Option<Instant> {
        match (&self.phase, self.keep) {
            _ if self.claims > 0 => None,
            (Phase::Outgoing, _) => Some(self.used),
            (_, Keep::Forever) => None,
            (_, Keep::For(time)) => self.used.checked_add(time),
        }
    }

    /// How long it stays at least; while it is in use, counted from now.
    pub(super) fn left(&self, now: Instant) -> Duration {
        let used = if self.claims > 0 { Duration::ZERO } else { now.duration_since(self.used) };
        self.keep.time().saturating_sub(used)
    }

    /// Its line in `/api/ps`, but for when it expires.
    pub(super) fn line(&self) -> Value {
        let (size, vram) = self.model.memory(self.setup.context, self.setup.gpu_layers);
        json!({
            "name": self.model.name, "model": self.model.name, "size": size,
            "digest": self.model.digest(), "details": details(), "expires_at": "",
            "size_vram": vram, "context_length": self.setup.context,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_for_the_load_have_ollamas_defaults() {
        let none = Setup::read(&json!({}));
        assert_eq!((none.context, none.gpu_layers), (4096, None));
        assert_eq!(none, Setup::read(&json!({"num_ctx": 4096, "num_batch": 512, "num_gpu": -1})));
        assert_eq!(none, Setup::read(&json!({"temperature": 1, "seed": 7})));
    }

    #[test]
    fn each_option_for_the_load_matters_but_the_wish_for_any_layers() {
        let none = Setup::read(&json!({}));
        for options in [
            json!({"num_ctx": 8192}),
            json!({"num_gpu": 0}),
            json!({"num_batch": 1}),
            json!({"main_gpu": 1}),
            json!({"use_mmap": false}),
            json!({"num_thread": 2}),
        ] {
            assert!(!none.serves(&Setup::read(&options)), "{options}");
        }
        assert!(Setup::read(&json!({"num_gpu": 0})).serves(&none));
    }
}
