//! How long the engine goes on for a client that has left, and how many it still answers. It owns the
//! connection to the engine's ledger; it must never go through a peer for that.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Fault;
use crate::client::{Client, Target};
use crate::clock::monotonic_ns;

/// After this a departure counts as never noticed, with this as its time.
pub(crate) const NEVER: Duration = Duration::from_secs(1);
const ARRIVAL: Duration = Duration::from_secs(5);
const SETTLE: Duration = Duration::from_millis(5);
const POLL: Duration = Duration::from_millis(2);

/// When the client leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// In a stream that has begun and is silent.
    MidStream,
    /// In a stream before its response head.
    BeforeHead,
    /// While it waits for an answer that is not streamed.
    Unary,
}

impl Phase {
    /// All of them, in the order of the table.
    pub(crate) const ALL: [Self; 3] = [Self::MidStream, Self::BeforeHead, Self::Unary];

    /// Its name in the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::MidStream => "mid-stream",
            Self::BeforeHead => "before the head",
            Self::Unary => "not streamed",
        }
    }

    fn hang(self) -> &'static str {
        match self {
            Self::MidStream => "after_first",
            Self::BeforeHead => "before_head",
            Self::Unary => "unary",
        }
    }
}

/// The engine's ledger, asked without a peer between.
pub(crate) struct Ledger {
    engine: Target,
    client: Client,
}

impl Ledger {
    /// Connects to the engine.
    pub(crate) async fn of(engine: SocketAddr) -> Result<Self, Fault> {
        Ok(Self { engine: Target::plain(engine), client: Client::connect(engine).await? })
    }

    /// How many chats the engine is answering.
    pub(crate) async fn present(&mut self) -> Result<u64, Fault> {
        let body = self.ask("/bench/present").await?;
        body["chats"].as_u64().ok_or_else(|| "the engine does not tell who is present".into())
    }

    /// Waits until the engine answers no more than `most` chats, or `limit` is over: how many more
    /// there are then.
    pub(crate) async fn until_present(&mut self, most: u64, limit: Duration) -> Result<u64, Fault> {
        let end = Instant::now() + limit;
        loop {
            let more = self.present().await?.saturating_sub(most);
            if more == 0 || Instant::now() > end {
                return Ok(more);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Asks until it knows `field` of `id`.
    async fn until(
        &mut self,
        id: &str,
        field: &str,
        limit: Duration,
    ) -> Result<Option<u64>, Fault> {
        let (path, end) = (format!("/bench/departures?id={id}"), Instant::now() + limit);
        while Instant::now() < end {
            if let Some(ns) = self.ask(&path).await?["departures"][0][field].as_u64() {
                return Ok(Some(ns));
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(None)
    }

    async fn ask(&mut self, path: &str) -> Result<Value, Fault> {
        Ok(serde_json::from_slice(&self.client.exchange(&self.engine.get(path)).await?)?)
    }
}

/// Leaves `peer` once and asks `engine` when it noticed: milliseconds.
pub(crate) async fn leave(
    peer: &Target,
    engine: SocketAddr,
    phase: Phase,
    id: &str,
) -> Result<f64, Fault> {
    let mut ledger = Ledger::of(engine).await?;
    let mut client = Client::connect(peer.address).await?;
    let request = peer.chat(phase != Phase::Unary, &json!({"hang": phase.hang(), "id": id}));
    if phase == Phase::MidStream {
        client.stream_to_first(&request).await?;
    } else {
        client.send(&request).await?;
    }
    let arrived = ledger.until(id, "arrived_ns", ARRIVAL).await?;
    arrived.ok_or("a request never arrived at the engine")?;
    tokio::time::sleep(SETTLE).await;
    let left_ns = monotonic_ns();
    drop(client);
    let noticed = ledger.until(id, "departed_ns", NEVER).await?;
    Ok(noticed.map_or(NEVER.as_secs_f64() * 1e3, |ns| {
        Duration::from_nanos(ns.saturating_sub(left_ns)).as_secs_f64() * 1e3
    }))
}
