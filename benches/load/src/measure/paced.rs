//! Many streams at the pace of a real engine: do their events come as evenly as they were sent?
//! It must never wait for a peer that has fallen hopelessly behind.

use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::Fault;
use crate::client::{Client, Events, Target};
use crate::process::float;
use crate::stats::percentile;

/// Streams at once.
const STREAMS: u32 = 200;
/// The pace of one stream: 50 events per second, as a quick model writes.
const PACE: Duration = Duration::from_millis(20);
/// How much longer than its pace says a stream is waited for.
const LATE: Duration = Duration::from_secs(2);

/// The gaps between one event of a stream and the next, over all streams, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Gaps {
    /// The median.
    pub(crate) p50: f64,
    /// What one of a hundred exceeds.
    pub(crate) p99: f64,
    /// The longest.
    pub(crate) max: f64,
    /// Streams that were not whole in time; their gaps count as far as they came.
    pub(crate) cut: usize,
}

/// 200 streams of `events` events each, begun evenly over one period of their pace, so that the
/// engine never has to write to all of them at the same moment.
pub(crate) async fn paced(target: &Target, events: usize) -> Result<Gaps, Fault> {
    let pace_us = u64::try_from(PACE.as_micros())?;
    let request = target.chat(true, &json!({"events": events, "delay_us": pace_us}));
    let mut clients = Vec::new();
    for _ in 0..STREAMS {
        clients.push(Client::connect(target.address).await?);
    }
    let (begun, mut tasks) = (Instant::now(), JoinSet::new());
    let end = begun + PACE.mul_f64(float(events as u64 + 1)) + LATE;
    for (number, mut client) in (0..STREAMS).zip(clients) {
        let request = request.clone();
        let start = begun + PACE * number / STREAMS;
        tasks.spawn(async move {
            sleep_until(start).await;
            let mut seen = Events::timed(events);
            let whole = timeout_at(end, client.stream_into(&request, &mut seen)).await;
            let late = whole.is_err();
            if let Ok(outcome) = whole {
                outcome?;
                seen.check(events)?;
            }
            Ok::<_, Fault>((seen, late))
        });
    }
    let (mut gaps, mut cut) = (Vec::new(), 0);
    while let Some(task) = tasks.join_next().await {
        let (seen, late) = task??;
        gaps.extend(seen.gaps().map(|gap| gap.as_secs_f64() * 1e3));
        cut += usize::from(late);
    }
    summary(gaps, cut)
}

fn summary(mut gaps: Vec<f64>, cut: usize) -> Result<Gaps, Fault> {
    gaps.sort_by(f64::total_cmp);
    let of = |part| percentile(&gaps, part).ok_or("no stream brought two events");
    Ok(Gaps { p50: of(0.5)?, p99: of(0.99)?, max: of(1.0)?, cut })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_needs_gaps_and_sorts_them() -> Result<(), Fault> {
        assert!(summary(Vec::new(), 0).is_err());
        let gaps = summary((1..=100).rev().map(f64::from).collect(), 3)?;
        assert_eq!(gaps, Gaps { p50: 50.0, p99: 99.0, max: 100.0, cut: 3 });
        Ok(())
    }
}
