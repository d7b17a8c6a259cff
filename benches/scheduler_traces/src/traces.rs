//! The traces: who asks for what and when.
//!
//! Owns: six published traces and one more, each made from a seed. Must never do: depend on what a
//! policy answers; all policies see the same requests.

use chat_proxy_core::gpu::Class;

use crate::prng::Prng;
use crate::world::STOP;

/// One request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// When it comes, in milliseconds.
    pub at: u64,
    /// For which model.
    pub model: usize,
    /// Its class.
    pub class: Class,
    /// How long its answer takes.
    pub service: u64,
}

/// A trace.
#[derive(Debug, Clone)]
pub struct Trace {
    /// Its name.
    pub name: &'static str,
    /// What it is like, in words.
    pub about: &'static str,
    /// How long each model loads, in milliseconds.
    pub loads: Vec<u64>,
    /// How long a model takes to stop, in milliseconds.
    pub stop: u64,
    /// The GPU has time to spare, also for a policy that swaps more than it need.
    pub spare: bool,
    /// Sorted by their moments.
    pub requests: Vec<Request>,
}

impl Trace {
    /// Whether it has background work.
    pub fn has_background(&self) -> bool {
        self.requests.iter().any(|request| request.class == Class::Background)
    }

    /// The same, in so many times less time.
    #[must_use]
    pub fn faster(mut self, times: u64) -> Self {
        self.loads.iter_mut().for_each(|load| *load /= times);
        self.stop /= times;
        for request in &mut self.requests {
            request.at /= times;
            request.service = (request.service / times).max(1);
        }
        self
    }
}

/// How long people come, in milliseconds.
const HOURS: u64 = 2 * 3_600_000;
/// The mean answer of a person's request.
const ANSWER: u64 = 5_000;

/// All traces.
pub fn all(seed: u64) -> Vec<Trace> {
    let interactive = Class::Interactive;
    let background = Class::Background;
    vec![
        make("two-light-3s", "two models, each asked for once a minute; 3 s loads", &[3, 3], true)
            .poisson(seed, 0, 60_000, ANSWER, interactive)
            .poisson(seed, 1, 60_000, ANSWER, interactive)
            .sorted(),
        make(
            "two-bursty-20s",
            "two models; conversations of some requests, then pauses; 20 s loads",
            &[20, 20],
            true,
        )
        .bursts(seed, 0, 300_000)
        .bursts(seed, 1, 300_000)
        .sorted(),
        make(
            "two-saturated-20s",
            "two models, each asked for every 4 s without a pause; 20 s loads",
            &[20, 20],
            false,
        )
        .poisson(seed, 0, 4_000, ANSWER, interactive)
        .poisson(seed, 1, 4_000, ANSWER, interactive)
        .sorted(),
        make(
            "three-bursty-60s-bg",
            "conversations with two models, background work for a third; 60 s loads",
            &[60, 60, 60],
            false,
        )
        .bursts(seed, 0, 600_000)
        .bursts(seed, 1, 600_000)
        .poisson(seed, 2, 60_000, 2_000, background)
        .sorted(),
        make(
            "three-saturated-3s-bg",
            "two models asked for every 3 s, background work for a third every 5 s; 3 s loads",
            &[3, 3, 3],
            false,
        )
        .poisson(seed, 0, 3_000, ANSWER, interactive)
        .poisson(seed, 1, 3_000, ANSWER, interactive)
        .poisson(seed, 2, 5_000, 2_000, background)
        .sorted(),
        make(
            "three-light-20s-bg",
            "two models asked for every two minutes, background work for a third; 20 s loads",
            &[20, 20, 20],
            true,
        )
        .poisson(seed, 0, 120_000, ANSWER, interactive)
        .poisson(seed, 1, 120_000, ANSWER, interactive)
        .poisson(seed, 2, 30_000, 2_000, background)
        .sorted(),
        make(
            "two-uneven-20s",
            "one model asked for every 5 s, another once in two minutes; 20 s loads",
            &[20, 20],
            false,
        )
        .poisson(seed, 0, 5_000, ANSWER, interactive)
        .poisson(seed, 1, 120_000, ANSWER, interactive)
        .sorted(),
    ]
}

fn make(name: &'static str, about: &'static str, loads: &[u64], spare: bool) -> Trace {
    let loads = loads.iter().map(|seconds| seconds * 1000).collect();
    Trace { name, about, loads, stop: STOP, spare, requests: Vec::new() }
}

impl Trace {
    /// Requests that know nothing of each other.
    fn poisson(mut self, seed: u64, model: usize, gap: u64, service: u64, class: Class) -> Self {
        let mut prng = Prng::new(seed, &format!("{} {model} {class:?}", self.name));
        let mut at = prng.exponential_ms(gap);
        while at < HOURS {
            let service = prng.exponential_ms(service);
            self.requests.push(Request { at, model, class, service });
            at += prng.exponential_ms(gap);
        }
        self
    }

    /// Conversations: some requests, seconds apart, then nothing for a while.
    fn bursts(mut self, seed: u64, model: usize, pause: u64) -> Self {
        let mut prng = Prng::new(seed, &format!("{} {model} bursts", self.name));
        let mut at = prng.exponential_ms(pause);
        while at < HOURS {
            for _ in 0..3 + prng.below(8) {
                let service = prng.exponential_ms(ANSWER);
                self.requests.push(Request { at, model, class: Class::Interactive, service });
                at += prng.exponential_ms(10_000);
            }
            at += prng.exponential_ms(pause);
        }
        self
    }

    fn sorted(mut self) -> Self {
        self.requests.sort_by_key(|request| (request.at, request.model));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_traces_and_another_one_others() {
        let requests = |seed| all(seed).into_iter().map(|t| t.requests).collect::<Vec<_>>();
        assert_eq!(requests(1), requests(1));
        assert_ne!(requests(1), requests(2));
        for trace in all(1) {
            assert!(trace.requests.len() > 60, "{}: {}", trace.name, trace.requests.len());
            assert!(trace.requests.is_sorted_by_key(|request| request.at));
            assert!(trace.requests.iter().all(|request| request.model < trace.loads.len()));
        }
    }
}
