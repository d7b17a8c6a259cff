//! Durations that carry their unit in their type.

use std::time::Duration;

use serde::Deserialize;

/// Milliseconds, as the keys that end in `_ms` hold them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Millis(pub u64);

/// Seconds, as the keys that end in `_s` hold them; fractions allowed.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(transparent)]
pub struct Seconds(pub f64);

impl Millis {
    /// As a duration.
    pub fn get(self) -> Duration {
        Duration::from_millis(self.0)
    }

    /// As a limit: 0 means none.
    pub fn limit(self) -> Option<Duration> {
        (self.0 > 0).then(|| self.get())
    }
}

impl Seconds {
    /// As a duration; what is no duration (negative, too large) is refused when settings load.
    pub fn get(self) -> Duration {
        Duration::try_from_secs_f64(self.0).unwrap_or(Duration::ZERO)
    }

    /// As a limit: 0 means none.
    pub fn limit(self) -> Option<Duration> {
        (self.0 > 0.0).then(|| self.get())
    }
}
