//! What was found about each peer, before anything is compared. It must never hold a verdict.

use crate::measure::Gaps;
use crate::peers::Kind;
use crate::silent::Silent;

/// What one round has found about one peer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Finding {
    /// Latency of an unary chat, µs.
    pub(crate) unary_us: f64,
    /// Time to the first event, µs.
    pub(crate) first_us: f64,
    /// Events per second, 16 per write.
    pub(crate) batched: f64,
    /// Events per second, one per write.
    pub(crate) single: f64,
    /// CPU seconds of 1000 short streams.
    pub(crate) stream_cpu_s: Option<f64>,
    /// Unary chats per second.
    pub(crate) saturation: f64,
    /// CPU seconds of 1000 of them.
    pub(crate) unary_cpu_s: Option<f64>,
    /// How evenly events came in 200 streams.
    pub(crate) gaps: Gaps,
    /// Milliseconds until the engine noticed, for each phase.
    pub(crate) departures: [Vec<f64>; 3],
    /// The most memory in the whole round, MiB.
    pub(crate) peak_mib: Option<f64>,
}

/// All findings of one peer.
pub(crate) struct Findings {
    /// Which peer.
    pub(crate) kind: Kind,
    /// Round by round.
    pub(crate) rounds: Vec<Finding>,
    /// Of silent streams, for each of their counts.
    pub(crate) silent: [Vec<Silent>; 3],
    /// From the start of a process until it was ready, milliseconds.
    pub(crate) ready_ms: Vec<f64>,
}

impl Findings {
    /// Nothing yet.
    pub(crate) fn none(kind: Kind) -> Self {
        Self { kind, rounds: Vec::new(), silent: Default::default(), ready_ms: Vec::new() }
    }
}
