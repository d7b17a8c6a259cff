//! What happens in the daemon, for whoever listens (`GET /v1/events`).
//!
//! Owns: the last events with their numbers, and waking those who wait for the next. One for the
//! daemon's life. Must never do: wait for a listener; one that is too slow misses events and is told
//! so, by the numbers.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::watch;

use crate::clock;

/// So many events are kept for those who come back, or are slow.
const KEPT: usize = 1000;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// The GPU begins to change hands.
    SwapBegins {
        /// What was there; `null`: nothing.
        from: Option<String>,
        /// What comes; `null`: nothing.
        to: Option<String>,
        /// `request`, `manual`, `idle` or `lease`.
        reason: &'static str,
        /// In words.
        because: String,
        /// The request that it comes for, if it is one.
        #[serde(skip_serializing_if = "Option::is_none")]
        request_id: Option<String>,
        /// Who waits.
        queue: Vec<Waiting>,
    },
    /// It has changed hands.
    SwapDone {
        /// What is there now.
        to: String,
        /// As it was when it began.
        reason: &'static str,
        /// How long it took, in milliseconds.
        took_ms: u64,
    },
    /// Somebody began to wait for a turn, or ended.
    Queue {
        /// Who waits now.
        waiting: Vec<Waiting>,
    },
    /// What holds the GPU, or how far it has come.
    Resident {
        /// `unknown`, `empty`, `loading`, `ready`, `draining`, `stopping` or `stuck`.
        state: &'static str,
        /// The model, or `ollama`; `null`: nothing.
        model: Option<String>,
    },
    /// An engine of ours has come further, or has ended.
    Engine {
        /// Its model.
        model: String,
        /// `starting`, `ready`, `stopping`, `backoff`, `failed`, `stuck` or `stopped`.
        state: &'static str,
        /// What it died of.
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// A service of the autostart map.
    Service {
        /// Its name.
        service: String,
        /// As `/v1/autostart/status` has it.
        state: &'static str,
        /// What it died of.
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// The GPU's lease.
    Lease {
        /// `granted`, `renewed`, or how it ended: `released`, `expired`, `forced` and the like.
        state: &'static str,
        /// Who holds it, or held it.
        owner: String,
        /// Unix seconds.
        #[serde(skip_serializing_if = "Option::is_none")]
        expires_at: Option<f64>,
    },
    /// The registry was read.
    Registry {
        /// Models that it has now.
        models: usize,
        /// Why the newest files are not in use, if so.
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// The settings changed, or could not be changed.
    Config {
        /// Keys whose value in force is another one.
        applied: Vec<&'static str>,
        /// Keys that have another value in file or environment; they need a restart.
        restart: Vec<&'static str>,
        /// Why the newest file is not in force, if so.
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// The daemon takes no more requests and will end.
    Draining {
        /// Requests that run.
        running: usize,
    },
}

/// Requests that wait for one model.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Waiting {
    /// Which, or `ollama`.
    pub model: String,
    /// Their class.
    pub class: &'static str,
    /// How many.
    pub requests: usize,
}

impl Event {
    /// Its kind, as in `type`.
    pub fn kind(&self) -> &'static str {
        match self {
            Event::SwapBegins { .. } => "swap_begins",
            Event::SwapDone { .. } => "swap_done",
            Event::Queue { .. } => "queue",
            Event::Resident { .. } => "resident",
            Event::Engine { .. } => "engine",
            Event::Service { .. } => "service",
            Event::Lease { .. } => "lease",
            Event::Registry { .. } => "registry",
            Event::Config { .. } => "config",
            Event::Draining { .. } => "draining",
        }
    }
}

#[derive(Serialize)]
struct Envelope<'a> {
    id: u64,
    at: f64,
    #[serde(flatten)]
    event: &'a Event,
}

/// See the module.
#[derive(Debug)]
pub struct EventBus {
    kept: Mutex<VecDeque<(u64, Bytes)>>,
    newest: watch::Sender<u64>,
}

impl Default for EventBus {
    /// Numbers go on behind those of earlier daemons: they begin with the time.
    fn default() -> Self {
        EventBus { kept: Mutex::default(), newest: watch::Sender::new(clock::unix_micros()) }
    }
}

/// What has happened since somebody last looked.
#[derive(Debug, PartialEq, Eq)]
pub struct News {
    /// Some of it is not kept any more.
    pub gap: bool,
    /// The events, as they are sent.
    pub events: Vec<Bytes>,
    /// The number of the last one.
    pub newest: u64,
}

impl EventBus {
    /// Tells everybody.
    pub fn publish(&self, event: &Event) {
        let mut kept = self.kept();
        let id = *self.newest.borrow() + 1;
        if kept.len() >= KEPT {
            kept.pop_front();
        }
        kept.push_back((id, framed(id, event)));
        self.newest.send_replace(id);
    }

    /// The number of the newest event; those who listen from now on begin behind it.
    pub fn newest(&self) -> u64 {
        *self.newest.borrow()
    }

    /// What has happened since the event of that number.
    pub fn since(&self, last: u64) -> News {
        let kept = self.kept();
        let newest = *self.newest.borrow();
        let events = kept.iter().filter(|(id, _)| *id > last).map(|(_, text)| text.clone());
        let oldest = kept.front().map_or(newest + 1, |(id, _)| *id);
        News { gap: last > newest || last + 1 < oldest, events: events.collect(), newest }
    }

    /// To hear of the next.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<(u64, Bytes)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As a server-sent event.
fn framed(id: u64, event: &Event) -> Bytes {
    let envelope = Envelope { id, at: clock::unix_seconds(), event };
    let data = serde_json::to_string(&envelope).unwrap_or_else(|error| {
        // None of our fields can fail; one that does is seen.
        tracing::error!(%error, "an event cannot be written");
        format!("{{\"id\":{id},\"type\":\"{}\"}}", event.kind())
    });
    Bytes::from(format!("id: {id}\nevent: {}\ndata: {data}\n\n", event.kind()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn draining(running: usize) -> Event {
        Event::Draining { running }
    }

    #[test]
    fn events_are_numbered_and_those_who_come_back_get_what_they_missed() {
        let bus = EventBus::default();
        let begin = bus.newest();
        assert_eq!(bus.since(begin), News { gap: false, events: vec![], newest: begin });
        bus.publish(&draining(1));
        bus.publish(&draining(2));
        let news = bus.since(begin + 1);
        assert_eq!((news.gap, news.events.len(), news.newest), (false, 1, begin + 2));
        let text = std::str::from_utf8(&news.events[0]).unwrap();
        let id = begin + 2;
        let start = format!("id: {id}\nevent: draining\ndata: {{\"id\":{id},\"at\":");
        assert!(text.starts_with(&start), "{text}");
        assert!(text.ends_with(",\"type\":\"draining\",\"running\":2}\n\n"), "{text}");
    }

    #[test]
    fn what_is_not_kept_any_more_is_a_gap() {
        let bus = EventBus::default();
        let begin = bus.newest();
        for number in 0..=KEPT {
            bus.publish(&draining(number));
        }
        let news = bus.since(begin);
        assert_eq!((news.gap, news.events.len()), (true, KEPT));
        assert!(!bus.since(begin + 1).gap);
        // Numbers of an earlier daemon, and some that nobody gave out.
        assert!(bus.since(begin - 7).gap && bus.since(bus.newest() + 1).gap);
    }

    #[test]
    fn a_kind_is_what_the_type_says() {
        let queue = vec![Waiting { model: "m".into(), class: "interactive", requests: 2 }];
        let (model, text) = (|| Some("m".to_owned()), || "m".to_owned());
        for event in [
            Event::SwapBegins {
                from: None,
                to: model(),
                reason: "request",
                because: text(),
                request_id: None,
                queue: queue.clone(),
            },
            Event::SwapDone { to: text(), reason: "request", took_ms: 1 },
            Event::Queue { waiting: queue },
            Event::Resident { state: "ready", model: model() },
            Event::Engine { model: text(), state: "ready", error: None },
            Event::Service { service: text(), state: "ready", error: model() },
            Event::Lease { state: "granted", owner: text(), expires_at: Some(1.5) },
            Event::Registry { models: 1, error: None },
            draining(0),
        ] {
            let value = serde_json::to_value(&event).unwrap();
            assert_eq!(value["type"], event.kind());
        }
    }
}
