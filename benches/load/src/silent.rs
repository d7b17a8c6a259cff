//! What a stream costs that is open and says nothing: the memory of a fresh process with many of them,
//! less that without. It must never use a process that has held as many before, whose allocator keeps
//! their memory.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;

use crate::Fault;
use crate::client::{Client, Target};
use crate::departure::Ledger;
use crate::peers::Peer;
use crate::process::{Managed, float, held, pss_bytes};

/// How many streams, smallest first.
pub(crate) const COUNTS: [usize; 3] = [128, 256, 512];
/// Streams that warm up what a process sets up once, its first buffers for example; few, because the
/// memory that they leave behind is not counted again.
const WARM_UP: usize = 8;
/// Until a process has given back what it will.
const SETTLE: Duration = Duration::from_millis(200);
/// The engine must have heard of all departures within this time.
const DEPARTURES: Duration = Duration::from_secs(5);
const BYTES_PER_KB: f64 = 1000.0;

/// What was found with one process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Silent {
    /// Resident memory of one stream, kB of 1000 bytes.
    pub(crate) rss_kb: f64,
    /// The same without what processes share.
    pub(crate) pss_kb: Option<f64>,
    /// Streams of whose end the engine was not told.
    pub(crate) missed: f64,
}

/// Opens `count` streams through a fresh `peer`, each of which falls silent after its first event,
/// and closes them; `None` without a process.
pub(crate) async fn silent(
    peer: &Peer,
    engine: SocketAddr,
    count: usize,
) -> Result<Option<Silent>, Fault> {
    let Some(process) = &peer.process else {
        return Ok(None);
    };
    let mut ledger = Ledger::of(engine).await?;
    drop(open(&peer.target, WARM_UP).await?);
    ledger.until_present(0, DEPARTURES).await?;
    tokio::time::sleep(SETTLE).await;
    let (already, before) = (ledger.present().await?, memory(process)?);
    let streams = open(&peer.target, count).await?;
    tokio::time::sleep(SETTLE).await;
    let after = memory(process)?;
    drop(streams);
    let missed = ledger.until_present(already, DEPARTURES).await?;
    Ok(Some(of_each(before, after, float(count as u64), float(missed))))
}

/// Resident bytes, and the share in them.
type Memory = (f64, Option<f64>);

fn memory(process: &Managed) -> Result<Memory, Fault> {
    Ok((held(process)?.rss_bytes, pss_bytes(process)?))
}

/// So many streams, each past its first event.
async fn open(target: &Target, count: usize) -> Result<Vec<Client>, Fault> {
    let request = target.chat(true, &json!({"hang": "after_first"}));
    let mut streams = Vec::with_capacity(count);
    for _ in 0..count {
        let mut client = Client::connect(target.address).await?;
        client.stream_to_first(&request).await?;
        streams.push(client);
    }
    Ok(streams)
}

fn of_each(before: Memory, after: Memory, count: f64, missed: f64) -> Silent {
    let each = |before: f64, after: f64| (after - before) / count / BYTES_PER_KB;
    Silent {
        rss_kb: each(before.0, after.0),
        pss_kb: before.1.zip(after.1).map(|(before, after)| each(before, after)),
        missed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_growth_is_shared_by_all_streams() {
        let (before, after) = ((1e6, Some(5e5)), (3e6, Some(1.5e6)));
        let found = Silent { rss_kb: 20.0, pss_kb: Some(10.0), missed: 2.0 };
        assert_eq!(of_each(before, after, 100.0, 2.0), found);
        assert_eq!(of_each((1e6, None), after, 100.0, 0.0).pss_kb, None);
    }
}
