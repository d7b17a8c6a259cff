//! How long the engine goes on for a client that has left. It owns the connection to the engine's
//! ledger; it must never go through a peer for that.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Fault;
use crate::client::{Client, chat, get};
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

/// Leaves `peer` once and asks `engine` when it noticed: milliseconds.
pub(crate) async fn leave(
    peer: SocketAddr,
    engine: SocketAddr,
    phase: Phase,
    id: &str,
) -> Result<f64, Fault> {
    let mut ledger = Client::connect(engine).await?;
    let mut client = Client::connect(peer).await?;
    let request = chat(peer, phase != Phase::Unary, &json!({"hang": phase.hang(), "id": id}));
    if phase == Phase::MidStream {
        client.stream_to_first(&request).await?;
    } else {
        client.send(&request).await?;
    }
    until(&mut ledger, engine, id, "arrived_ns", ARRIVAL)
        .await?
        .ok_or("a request never arrived at the engine")?;
    tokio::time::sleep(SETTLE).await;
    let left_ns = monotonic_ns();
    drop(client);
    let noticed = until(&mut ledger, engine, id, "departed_ns", NEVER).await?;
    Ok(noticed.map_or(NEVER.as_secs_f64() * 1e3, |ns| {
        Duration::from_nanos(ns.saturating_sub(left_ns)).as_secs_f64() * 1e3
    }))
}

/// Asks the ledger until it knows `field` of `id`.
async fn until(
    ledger: &mut Client,
    engine: SocketAddr,
    id: &str,
    field: &str,
    limit: Duration,
) -> Result<Option<u64>, Fault> {
    let request = get(engine, &format!("/bench/departures?id={id}"));
    let end = Instant::now() + limit;
    while Instant::now() < end {
        let body: Value = serde_json::from_slice(&ledger.exchange(&request).await?)?;
        if let Some(ns) = body["departures"][0][field].as_u64() {
            return Ok(Some(ns));
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(None)
}
