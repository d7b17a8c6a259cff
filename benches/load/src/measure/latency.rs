//! How long one user waits: chats on one kept-alive connection, one after the other. It must never
//! have two under way.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::Fault;
use crate::client::{Client, Target};
use crate::stats::Spread;

/// Chats of one block, after those that warm it up.
const BLOCK: usize = 20;
const WARM_UP: usize = 5;
/// Events of a stream whose first one is timed.
const EVENTS: usize = 4;

/// What a latency probe times.
#[derive(Clone, Copy)]
pub(crate) enum Latency {
    /// A whole chat that is not streamed.
    Unary,
    /// From the request to the first event of a stream.
    FirstChunk,
}

/// One kept-alive connection to one peer.
pub(crate) struct Probe {
    what: Latency,
    client: Client,
    request: Vec<u8>,
    samples: Vec<Duration>,
    /// How long all its blocks took.
    pub(crate) spent: Duration,
}

impl Probe {
    /// Connects.
    pub(crate) async fn open(target: &Target, what: Latency) -> Result<Self, Fault> {
        let request = match what {
            Latency::Unary => target.chat(false, &json!({})),
            Latency::FirstChunk => target.chat(true, &json!({"events": EVENTS})),
        };
        let client = Client::connect(target.address).await?;
        Ok(Self { what, client, request, samples: Vec::new(), spent: Duration::ZERO })
    }

    /// A block of chats; the first ones only warm up what the other peers have made cold.
    pub(crate) async fn take_block(&mut self) -> Result<(), Fault> {
        let begun = Instant::now();
        for number in 0..WARM_UP + BLOCK {
            let sample = self.one().await?;
            if number >= WARM_UP {
                self.samples.push(sample);
            }
        }
        self.spent += begun.elapsed();
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
