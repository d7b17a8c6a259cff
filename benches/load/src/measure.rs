//! The single measurements of one peer. Each one checks every answer; it must never know the other
//! peers or earlier rounds.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::JoinSet;

use crate::Fault;
use crate::client::{Client, chat};
use crate::peers::Peer;
use crate::process::{Cost, float};
use crate::stats::Spread;

/// Chats of one block of a latency probe, after those that warm it up.
const BLOCK: usize = 20;
const WARM_UP: usize = 5;
/// Events of a stream whose first one is timed.
const EVENTS: usize = 4;
/// Streams at the same time, in every measure of streams.
const STREAMS: usize = 16;
/// Events of one stream where throughput is measured.
const LONG: usize = 1600;
/// Events of one stream where CPU time is measured.
const SHORT: usize = 100;
/// Clients of the saturation.
const CROWD: usize = 32;
const RSS_EVERY: Duration = Duration::from_millis(50);

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
}

/// What a latency probe times.
#[derive(Clone, Copy)]
pub(crate) enum Latency {
    /// A whole chat that is not streamed.
    Unary,
    /// From the request to the first event of a stream.
    FirstChunk,
}

/// One kept-alive connection to one peer, on which chats go one after the other.
pub(crate) struct Probe {
    what: Latency,
    client: Client,
    request: Vec<u8>,
    samples: Vec<Duration>,
}

impl Probe {
    /// Connects.
    pub(crate) async fn open(peer: &Peer, what: Latency) -> Result<Self, Fault> {
        let request = match what {
            Latency::Unary => chat(peer.address, false, &json!({})),
            Latency::FirstChunk => chat(peer.address, true, &json!({"events": EVENTS})),
        };
        let client = Client::connect(peer.address).await?;
        Ok(Self { what, client, request, samples: Vec::new() })
    }

    /// A block of chats; the first ones only warm up what the other peers have made cold.
    pub(crate) async fn take_block(&mut self) -> Result<(), Fault> {
        for number in 0..WARM_UP + BLOCK {
            let sample = self.one().await?;
            if number >= WARM_UP {
                self.samples.push(sample);
            }
        }
        Ok(())
    }

    async fn one(&mut self) -> Result<Duration, Fault> {
        match self.what {
            Latency::Unary => {
                let sent = Instant::now();
                self.client.unary(&self.request).await?;
                Ok(sent.elapsed())
            }
            Latency::FirstChunk => {
                let (sent, events) = self.client.stream(&self.request, EVENTS).await?;
                Ok(events.first.ok_or("a stream without an event")?.duration_since(sent))
            }
        }
    }

    /// The median of all blocks, in µs.
    pub(crate) fn median_us(&self) -> Result<f64, Fault> {
        let spread = Spread::of(self.samples.iter().map(|d| d.as_secs_f64() * 1e6));
        Ok(spread.ok_or("nothing was measured")?.median)
    }
}

/// How long 16 connections take for `each` long streams, `per_write` events in each write of the
/// engine.
pub(crate) async fn long_streams(
    peer: &Peer,
    per_write: usize,
    each: usize,
) -> Result<Duration, Fault> {
    streams(peer, LONG, per_write, each).await
}

/// How many events those are.
pub(crate) fn events_of(each: usize) -> f64 {
    float((STREAMS * LONG * each) as u64)
}

/// CPU seconds of the peer per 1000 short streams, and its memory meanwhile; `None` without process.
pub(crate) async fn streams_cost(peer: &Peer, each: usize) -> Result<Option<Cost>, Fault> {
    let Some(before) = peer.cost()? else {
        return Ok(None);
    };
    let mut most = before.rss_mib;
    let mut tick = tokio::time::interval(RSS_EVERY);
    let load = streams(peer, SHORT, 1, each);
    tokio::pin!(load);
    loop {
        tokio::select! {
            done = &mut load => { done?; break }
            _ = tick.tick() => most = most.max(peer.cost()?.map_or(0.0, |c| c.rss_mib)),
        }
    }
    let after = peer.cost()?.unwrap_or_default();
    let thousands = float((STREAMS * each) as u64) / 1000.0;
    Ok(Some(Cost {
        cpu_s: (after.cpu_s - before.cpu_s) / thousands,
        rss_mib: most.max(after.rss_mib),
    }))
}

/// Unary chats per second of a crowd that never pauses.
pub(crate) async fn saturation(peer: &Peer, effort: &Effort) -> Result<f64, Fault> {
    let request = chat(peer.address, false, &json!({}));
    let mut tasks = JoinSet::new();
    let (start, end) = (Instant::now(), Instant::now() + effort.crowd);
    for _ in 0..CROWD {
        let mut client = Client::connect(peer.address).await?;
        let request = request.clone();
        tasks.spawn(async move {
            let mut answered = 0;
            while Instant::now() < end {
                client.unary(&request).await?;
                answered += 1;
            }
            Ok::<u64, Fault>(answered)
        });
    }
    let mut answered = 0;
    while let Some(task) = tasks.join_next().await {
        answered += task??;
    }
    Ok(float(answered) / start.elapsed().as_secs_f64())
}

/// 16 connections, each with `each` streams one after the other; how long the whole took.
async fn streams(
    peer: &Peer,
    events: usize,
    per_write: usize,
    each: usize,
) -> Result<Duration, Fault> {
    let bench = json!({"events": events, "per_write": per_write});
    let request = chat(peer.address, true, &bench);
    let mut clients = Vec::with_capacity(STREAMS);
    for _ in 0..STREAMS {
        clients.push(Client::connect(peer.address).await?);
    }
    let mut tasks = JoinSet::new();
    let start = Instant::now();
    for mut client in clients {
        let request = request.clone();
        tasks.spawn(async move {
            for _ in 0..each {
                client.stream(&request, events).await?;
            }
            Ok::<(), Fault>(())
        });
    }
    while let Some(task) = tasks.join_next().await {
        task??;
    }
    Ok(start.elapsed())
}
