//! Why requests waited, and why the GPU changed hands: the last of both, for people who ask.
//!
//! Owns: what is remembered, within limits. Must never do: be asked for on the way of a request.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use chat_proxy_core::engine::lifecycle::Moment;
use chat_proxy_core::gpu::scheduler::Why;
use serde::Serialize;

use crate::clock;

/// So many requests that have waited are remembered.
const MAX_STORIES: usize = 1000;
/// So many changes of hands.
const MAX_SWAPS: usize = 50;
/// So many things that one request has waited for, one after the other.
const MAX_CHAPTERS: usize = 32;

/// What one request has waited for.
#[derive(Debug, Clone, Serialize)]
pub struct Story {
    /// Its id, as its client knows it.
    pub request_id: Arc<str>,
    /// For which model, or `ollama`.
    pub model: String,
    /// Its class.
    pub class: &'static str,
    /// When it came, Unix seconds.
    pub arrived: f64,
    /// `waiting`, `served`, `refused` or `left`.
    pub outcome: &'static str,
    /// How long it has waited, in milliseconds.
    pub waited_ms: u64,
    /// What for, the first thing first.
    pub waited_for: Vec<Chapter>,
    #[serde(skip)]
    arrived_at: Moment,
    #[serde(skip)]
    why: Option<Why>,
}

/// One thing that it has waited for.
#[derive(Debug, Clone, Serialize)]
pub struct Chapter {
    /// So long after it came, in milliseconds.
    pub after_ms: u64,
    /// In words.
    pub why: String,
}

/// One change of hands.
#[derive(Debug, Clone, Serialize)]
pub struct Swap {
    /// When it was decided, Unix seconds.
    pub at: f64,
    /// What was there; `null`: nothing.
    pub from: Option<String>,
    /// What was to come; `null`: nothing.
    pub to: Option<String>,
    /// `request`, `manual`, `idle` or `lease`.
    pub reason: &'static str,
    /// In words.
    pub because: String,
    /// How long it took; `null`: it is not over, or something else came.
    pub took_ms: Option<u64>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Stories {
    by_id: HashMap<Arc<str>, Story>,
    order: VecDeque<Arc<str>>,
    swaps: VecDeque<Swap>,
}

impl Stories {
    /// What somebody waits for just now. The same thing again is no news.
    pub(super) fn waits(
        &mut self,
        request_id: &Arc<str>,
        tell: impl Fn() -> (String, &'static str, Moment),
        why: Why,
        now: Moment,
    ) {
        // One whose id was used before has a story of its own.
        if self.by_id.get(request_id).is_none_or(|story| story.outcome != "waiting") {
            let (model, class, arrived_at) = tell();
            self.begin(request_id, model, class, arrived_at, now);
        }
        let Some(story) = self.by_id.get_mut(request_id) else { return };
        let told = story.why.as_ref().is_some_and(|known| known.is_like(&why));
        if told || story.waited_for.len() >= MAX_CHAPTERS {
            return;
        }
        let after_ms = millis(now.saturating_sub(story.arrived_at));
        story.waited_for.push(Chapter { after_ms, why: why.tell(now) });
        story.why = Some(why);
    }

    fn begin(
        &mut self,
        request_id: &Arc<str>,
        model: String,
        class: &'static str,
        arrived_at: Moment,
        now: Moment,
    ) {
        if self.by_id.remove(request_id).is_some() {
            self.order.retain(|id| id != request_id);
        }
        if self.order.len() >= MAX_STORIES
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_id.remove(&oldest);
        }
        let waited = now.saturating_sub(arrived_at);
        let story = Story {
            request_id: request_id.clone(),
            model,
            class,
            arrived: clock::unix_seconds() - waited.as_secs_f64(),
            outcome: "waiting",
            waited_ms: 0,
            waited_for: Vec::new(),
            arrived_at,
            why: None,
        };
        self.order.push_back(request_id.clone());
        self.by_id.insert(request_id.clone(), story);
    }

    /// It does not wait any more. One that never did has no story.
    pub(super) fn ended(&mut self, request_id: &str, outcome: &'static str, now: Moment) {
        if let Some(story) = self.by_id.get_mut(request_id) {
            story.outcome = outcome;
            story.waited_ms = millis(now.saturating_sub(story.arrived_at));
        }
    }

    /// One request's story, as it is now.
    pub(super) fn of(&self, request_id: &str, now: Moment) -> Option<Story> {
        let mut story = self.by_id.get(request_id)?.clone();
        if story.outcome == "waiting" {
            story.waited_ms = millis(now.saturating_sub(story.arrived_at));
        }
        Some(story)
    }

    pub(super) fn swap_begins(&mut self, swap: Swap) {
        if self.swaps.len() >= MAX_SWAPS {
            self.swaps.pop_front();
        }
        self.swaps.push_back(swap);
    }

    pub(super) fn swap_done(&mut self, took: Moment) {
        if let Some(swap) = self.swaps.back_mut() {
            swap.took_ms = Some(millis(took));
        }
    }

    /// The last changes of hands, the newest first.
    pub(super) fn swaps(&self) -> Vec<Swap> {
        self.swaps.iter().rev().cloned().collect()
    }
}

pub(super) fn millis(time: Moment) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;

    const fn s(seconds: u64) -> Moment {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_story_has_a_chapter_for_each_new_thing_and_an_end() {
        let mut stories = Stories::default();
        let id: Arc<str> = "r1".into();
        let tell = || ("m".to_owned(), "interactive", s(10));
        stories.waits(&id, tell, Why::Unknown, s(10));
        stories.waits(&id, tell, Why::Unknown, s(11));
        stories.waits(&id, tell, Why::Loading, s(12));
        assert_eq!(stories.of("r1", s(13)).unwrap().waited_ms, 3000);
        stories.ended("r1", "served", s(15));
        let story = stories.of("r1", s(99)).unwrap();
        assert_eq!((story.outcome, story.waited_ms), ("served", 5000));
        let after: Vec<u64> = story.waited_for.iter().map(|chapter| chapter.after_ms).collect();
        assert_eq!(after, [0, 2000]);
        stories.ended("never waited", "served", s(1));
        assert!(stories.of("never waited", s(1)).is_none());
    }

    #[test]
    fn only_the_last_are_remembered() {
        let mut stories = Stories::default();
        for number in 0..=MAX_STORIES {
            let id: Arc<str> = number.to_string().into();
            stories.waits(&id, || (String::new(), "interactive", s(0)), Why::Loading, s(0));
        }
        assert!(stories.of("0", s(0)).is_none());
        assert!(stories.of("1", s(0)).is_some());
        assert_eq!(stories.by_id.len(), MAX_STORIES);
    }
}
