//! Whether a loading engine is ready, and whether one that was still serves.
//!
//! Owns: the probe, and the three proofs of readiness (SPEC 6.1): `/health` is 200, `/v1/models` lists the served id, and the
//! socket that listens belongs to the engine. The last one matters: a stranger that took the port
//! answers the first two as well, while our engine is still loading and fails late. Must never do:
//! give up; the lifecycle has the deadline.
//!
//! Readiness is looked for in short steps: the kernel does not tell when a server begins to answer.

use std::sync::Arc;
use std::time::Duration;

use awc::Client;
use awc::error::SendRequestError;
use chat_proxy_core::engine::Launch;
use chat_proxy_core::engine::probing::Probe;
use serde::Deserialize;
use tokio::time::{Instant, sleep};

use crate::process::port;
use crate::process::tree::Tree;
use crate::program_log as log;

/// A probe of a server on this machine takes no longer.
const PROBE: Duration = Duration::from_secs(5);
/// Pauses between looks: short at first, for a swap of small models shall not wait for us.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LATER_PAUSE: Duration = Duration::from_millis(100);
/// How long the pauses stay short.
const FIRST_TIME: Duration = Duration::from_secs(5);
/// The largest list of models that is read.
const MAX_LIST: usize = 1 << 20;

/// Asks an engine that serves how it is.
pub(super) async fn probe(client: &Client, launch: &Launch, limit: Duration) -> Probe {
    let health = format!("{}/health", launch.endpoint.origin());
    match client.get(health).timeout(limit).send().await {
        Ok(answer) if answer.status().is_success() => Probe::Well,
        Ok(answer) => Probe::Bad(format!("it answered with status {}", answer.status().as_u16())),
        Err(SendRequestError::Timeout) => Probe::Late,
        Err(error) => Probe::Bad(format!("it cannot be asked: {error}")),
    }
}

/// What the looking found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Ready.
    Healthy,
    /// It has not written a word for this long.
    Silent(Duration),
}

/// Looks until the engine is ready, or has been silent for too long.
pub(super) async fn until_ready(
    client: Client,
    launch: Arc<Launch>,
    tree: Tree,
    silence: Option<Duration>,
) -> Verdict {
    let began = Instant::now();
    let mut told = false;
    let (mut size, mut grew) = (log::size(&launch.log), began);
    loop {
        match look(&client, &launch, &tree).await {
            Ok(()) => return Verdict::Healthy,
            Err(NotYet::Stranger) if !told => {
                told = true;
                name_the_stranger(launch.port).await;
            }
            Err(_) => {}
        }
        let now = log::size(&launch.log);
        if now != size {
            (size, grew) = (now, Instant::now());
        }
        if silence.is_some_and(|limit| grew.elapsed() >= limit) {
            return Verdict::Silent(grew.elapsed());
        }
        let pause = if began.elapsed() < FIRST_TIME { FIRST_PAUSE } else { LATER_PAUSE };
        sleep(pause).await;
    }
}

/// Once for a start: it costs a look at every process's descriptors.
async fn name_the_stranger(number: u16) {
    let found = tokio::task::spawn_blocking(move || port::listener(number)).await;
    let by = found.ok().flatten();
    let by = by.as_deref().unwrap_or("a process that cannot be seen from here");
    tracing::warn!(port = number, by, "somebody else answers at the engine's port");
}

/// Why an engine is not ready.
#[derive(Debug, PartialEq, Eq)]
enum NotYet {
    /// Nobody answers well.
    Health,
    /// Another model answers.
    Models,
    /// Somebody else answers.
    Stranger,
}

async fn look(client: &Client, launch: &Launch, tree: &Tree) -> Result<(), NotYet> {
    let health = format!("{}/health", launch.endpoint.origin());
    let answer = client.get(health).timeout(PROBE).send().await.map_err(|_| NotYet::Health)?;
    if !answer.status().is_success() {
        return Err(NotYet::Health);
    }
    if !lists(client, launch).await {
        return Err(NotYet::Models);
    }
    let (tree, at) = (tree.clone(), launch.port);
    let ours = tokio::task::spawn_blocking(move || {
        let pids: Vec<i32> = tree.members().iter().map(|process| process.pid).collect();
        port::is_listened_by(at, &pids)
    });
    if ours.await.unwrap_or(false) { Ok(()) } else { Err(NotYet::Stranger) }
}

/// `/v1/models`, as far as it matters.
#[derive(Deserialize)]
struct Models {
    data: Vec<Model>,
}

#[derive(Deserialize)]
struct Model {
    id: String,
}

async fn lists(client: &Client, launch: &Launch) -> bool {
    let asked = client.get(launch.endpoint.url("/models")).timeout(PROBE).send().await;
    let Ok(mut answer) = asked else { return false };
    let list = answer.json::<Models>().limit(MAX_LIST).await;
    list.is_ok_and(|list| list.data.iter().any(|model| model.id == launch.served_id))
}
