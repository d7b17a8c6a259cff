//! The rolling view: what the last requests were like (SPEC 7.2).
//!
//! Owns: a window of samples, bounded in number and age, and its summary. Must never do: read a
//! clock; moments are handed in.

use std::collections::VecDeque;
use std::time::Duration;

use serde::Serialize;

/// Samples that are kept.
pub const MAX_SAMPLES: usize = 1000;
/// And for how long.
const MAX_AGE: Duration = Duration::from_secs(3600);

/// One finished request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// When it ended, on any monotonic clock.
    pub at: Duration,
    /// Milliseconds from arrival to the first content.
    pub ttft_ms: Option<u64>,
    /// Milliseconds from arrival to the end.
    pub duration_ms: u64,
    /// Milliseconds of waiting for a turn.
    pub queue_ms: u64,
    /// Completion tokens per second.
    pub tokens_per_second: Option<f64>,
    /// It ended with an error.
    pub failed: bool,
}

/// The window.
#[derive(Debug, Default)]
pub struct Rolling {
    samples: VecDeque<Sample>,
}

/// What `GET /v1/metrics` shows of it; `null` where there is nothing to average.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Requests in the window.
    pub count: usize,
    /// Of them with an error.
    pub errors: usize,
    /// Average milliseconds to the first content.
    pub avg_ttft_ms: Option<f64>,
    /// Half of them were faster.
    pub p50_ttft_ms: Option<u64>,
    /// 95 % of them were faster.
    pub p95_ttft_ms: Option<u64>,
    /// 99 % of them were faster.
    pub p99_ttft_ms: Option<u64>,
    /// Average milliseconds from arrival to the end.
    pub avg_duration_ms: Option<f64>,
    /// 95 % of them were faster.
    pub p95_duration_ms: Option<u64>,
    /// Average milliseconds of waiting for a turn.
    pub avg_queue_ms: Option<f64>,
    /// Average completion tokens per second.
    pub avg_tokens_per_second: Option<f64>,
    /// The oldest sample's age.
    pub window_seconds: f64,
}

impl Rolling {
    /// Takes a sample in; old ones go.
    pub fn add(&mut self, sample: Sample) {
        if self.samples.len() == MAX_SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
    }

    /// The window at this moment.
    pub fn summary(&mut self, now: Duration) -> Summary {
        let old = |sample: &Sample| now.saturating_sub(sample.at) > MAX_AGE;
        while self.samples.front().is_some_and(old) {
            self.samples.pop_front();
        }
        let all = || self.samples.iter();
        let ttft: Vec<u64> = sorted(all().filter_map(|s| s.ttft_ms));
        let durations: Vec<u64> = sorted(all().map(|s| s.duration_ms));
        let oldest = self.samples.front().map(|s| now.saturating_sub(s.at).as_secs_f64());
        Summary {
            count: self.samples.len(),
            errors: all().filter(|s| s.failed).count(),
            avg_ttft_ms: average(ttft.iter().map(|ms| to_float(*ms))),
            p50_ttft_ms: percentile(&ttft, 50),
            p95_ttft_ms: percentile(&ttft, 95),
            p99_ttft_ms: percentile(&ttft, 99),
            avg_duration_ms: average(durations.iter().map(|ms| to_float(*ms))),
            p95_duration_ms: percentile(&durations, 95),
            avg_queue_ms: average(all().map(|s| to_float(s.queue_ms))),
            avg_tokens_per_second: average(all().filter_map(|s| s.tokens_per_second)),
            window_seconds: oldest.unwrap_or(0.0),
        }
    }
}

fn sorted(values: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut values: Vec<u64> = values.collect();
    values.sort_unstable();
    values
}

/// The nearest-rank percentile of sorted values.
fn percentile(sorted: &[u64], percent: usize) -> Option<u64> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

fn average(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0u32);
    for value in values {
        sum += value;
        count += 1;
    }
    (count > 0).then(|| (sum / f64::from(count) * 100.0).round() / 100.0)
}

#[allow(clippy::cast_precision_loss)] // milliseconds are small
fn to_float(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at_s: u64, ttft_ms: u64) -> Sample {
        Sample {
            at: Duration::from_secs(at_s),
            ttft_ms: Some(ttft_ms),
            duration_ms: ttft_ms * 2,
            queue_ms: 5,
            tokens_per_second: Some(10.0),
            failed: ttft_ms == 7,
        }
    }

    #[test]
    fn an_empty_window_has_no_averages() {
        let summary = Rolling::default().summary(Duration::from_secs(9));
        assert_eq!((summary.count, summary.avg_ttft_ms, summary.p99_ttft_ms), (0, None, None));
    }

    #[test]
    fn percentiles_are_those_of_the_nearest_rank() {
        let mut rolling = Rolling::default();
        (1..=100).for_each(|ms| rolling.add(sample(0, ms)));
        let summary = rolling.summary(Duration::from_secs(60));
        assert_eq!(summary.p50_ttft_ms, Some(50));
        assert_eq!(summary.p95_ttft_ms, Some(95));
        assert_eq!(summary.p99_ttft_ms, Some(99));
        assert_eq!(summary.avg_ttft_ms, Some(50.5));
        assert_eq!(summary.p95_duration_ms, Some(190));
        assert_eq!((summary.errors, summary.avg_queue_ms), (1, Some(5.0)));
        assert!((summary.window_seconds - 60.0).abs() < 0.001);
    }

    #[test]
    fn the_window_is_bounded_in_number_and_age() {
        let mut rolling = Rolling::default();
        (0..3000).for_each(|n| rolling.add(sample(n, 1)));
        assert_eq!(rolling.summary(Duration::from_secs(3000)).count, MAX_SAMPLES);
        assert_eq!(rolling.summary(Duration::from_secs(6700)).count, 0);
    }
}
