//! The single measurements of one running peer. Each one checks every answer; it must never know the
//! other peers or earlier rounds.

mod latency;
mod paced;
mod size;
mod throughput;

use std::time::Duration;

pub(crate) use latency::{Latency, Probe};
pub(crate) use paced::{Gaps, paced};
pub(crate) use size::Sizes;
pub(crate) use throughput::{cost_of_streams, long_streams, saturation};

/// How much of everything one round does.
#[derive(Clone, Copy)]
pub(crate) struct Effort {
    /// Blocks of each latency probe; between two of them every other peer has one.
    pub(crate) blocks: usize,
    /// Turns of each throughput measure; between two of them every other peer has one.
    pub(crate) turns: usize,
    /// Streams that each of 16 connections reads one after the other in a turn, 16 events per write.
    pub(crate) batched: usize,
    /// The same with one event per write.
    pub(crate) single: usize,
    /// The same, short ones, for the CPU time.
    pub(crate) cost: usize,
    /// How long the crowd goes on.
    pub(crate) crowd: Duration,
    /// Departures in each phase.
    pub(crate) departures: usize,
    /// Events of a paced stream.
    pub(crate) paced: usize,
}
