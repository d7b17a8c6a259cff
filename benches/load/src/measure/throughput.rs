//! How much a peer gets done when nobody pauses, and what that costs it. It must never time the making
//! of connections.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::JoinSet;

use super::size::{STREAMS, Size};
use crate::Fault;
use crate::client::{Client, Target};
use crate::peers::Peer;
use crate::process::{cpu_s, float};

/// Clients of the saturation.
const CROWD: usize = 32;

/// How long 16 connections take for a turn of streams, `per_write` events in each write of the engine.
pub(crate) async fn long_streams(
    target: &Target,
    per_write: usize,
    size: Size,
) -> Result<Duration, Fault> {
    let bench = json!({"events": size.events, "per_write": per_write});
    let request = target.chat(true, &bench);
    let clients = connect(target, STREAMS).await?;
    let mut tasks = JoinSet::new();
    let start = Instant::now();
    for mut client in clients {
        let request = request.clone();
        tasks.spawn(async move {
            for _ in 0..size.each {
                client.stream(&request, size.events).await?;
            }
            Ok::<(), Fault>(())
        });
    }
    while let Some(task) = tasks.join_next().await {
        task??;
    }
    Ok(start.elapsed())
}

/// CPU seconds of the peer's processes per 1000 short streams; `None` without a process.
pub(crate) async fn cost_of_streams(peer: &Peer, size: Size) -> Result<Option<f64>, Fault> {
    let before = cpu(peer)?;
    long_streams(&peer.target, 1, size).await?;
    Ok(per_thousand(before, cpu(peer)?, size.streams()))
}

/// Unary chats per second of a crowd that never pauses, and CPU seconds of the peer's processes per
/// 1000 of them.
pub(crate) async fn saturation(peer: &Peer, crowd: Duration) -> Result<(f64, Option<f64>), Fault> {
    let request = peer.target.chat(false, &json!({}));
    let clients = connect(&peer.target, CROWD).await?;
    let (before, mut tasks) = (cpu(peer)?, JoinSet::new());
    let (start, end) = (Instant::now(), Instant::now() + crowd);
    for mut client in clients {
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
    let (answered, took) = (float(answered), start.elapsed());
    Ok((answered / took.as_secs_f64(), per_thousand(before, cpu(peer)?, answered)))
}

async fn connect(target: &Target, count: usize) -> Result<Vec<Client>, Fault> {
    let mut clients = Vec::with_capacity(count);
    for _ in 0..count {
        clients.push(Client::connect(target.address).await?);
    }
    Ok(clients)
}

fn cpu(peer: &Peer) -> Result<Option<f64>, Fault> {
    peer.process.as_ref().map(|process| cpu_s(process.pid())).transpose()
}

fn per_thousand(before: Option<f64>, after: Option<f64>, count: f64) -> Option<f64> {
    Some((after? - before?) / (count / 1000.0))
}
