//! The one monotonic clock that the cores' moments are counted on.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use chat_proxy_core::engine::lifecycle::Moment;

fn origin() -> Instant {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    *ORIGIN.get_or_init(Instant::now)
}

/// Now.
pub fn now() -> Moment {
    origin().elapsed()
}

/// A moment of the past on that clock; what lies before its zero counts as zero.
pub fn at(instant: Instant) -> Moment {
    instant.saturating_duration_since(origin())
}

/// How long until a moment.
pub fn until(moment: Moment) -> Duration {
    moment.saturating_sub(now())
}

/// The wall clock in whole Unix seconds.
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The wall clock, Unix seconds.
pub fn unix_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// The wall clock in whole microseconds since 1970.
pub fn unix_micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// The wall clock as registry files write it: RFC 3339, UTC, whole seconds.
pub fn rfc3339() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}
