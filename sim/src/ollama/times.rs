//! Owns how Ollama writes moments and spans of time.
//!
//! Must never decide what is measured.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::calendar::Civil;

/// A moment as RFC 3339 has it, to the nanosecond.
pub(super) fn stamp(moment: SystemTime) -> String {
    let Civil { year, month, day, hour, minute, second, .. } = Civil::at(moment);
    let fraction = moment.duration_since(UNIX_EPOCH).map_or(0, |d| d.subsec_nanos());
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{fraction:09}Z")
}

/// The present moment.
pub(crate) fn now() -> String {
    stamp(SystemTime::now())
}

/// Whole nanoseconds; what took any time took one at least.
pub(super) fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_with_their_fraction() {
        let moment = UNIX_EPOCH + Duration::new(1_795_409_644, 5_000_001);
        assert_eq!(stamp(moment), "2026-11-23T04:54:04.005000001Z");
    }
}
