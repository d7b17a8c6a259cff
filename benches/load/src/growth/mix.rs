//! The steady load: users who ask now and then, streams at the pace of an engine and as fast as they
//! come, and users who leave. About a fifth of what a core of the daemon can do. It must never wait
//! for one client before another, and never take a wrong answer for a right one.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::Fault;
use crate::client::{Client, Target};

/// Users who ask for an unary chat each time this is over; their waiting is what is timed.
const ASKERS: usize = 16;
const ASK_EVERY: Duration = Duration::from_millis(20);
/// Streams that are written as fast as they are read, and how often each reader asks for one.
const READERS: usize = 16;
const READ_EVERY: Duration = Duration::from_millis(100);
const READ_EVENTS: usize = 64;
/// Streams at the pace of an engine, one after the other.
const WATCHERS: usize = 32;
const WATCH_EVENTS: usize = 100;
const WATCH_PACE_US: u64 = 20_000;
/// Users who leave a stream that has begun, each on a connection of its own.
const LEAVERS: usize = 2;
const LEAVE_EVERY: Duration = Duration::from_millis(100);

/// What was done since somebody last took it.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// How long each unary chat took, ms.
    pub(super) unary_ms: Vec<f64>,
    /// Streams that were read to their end.
    pub(super) streams: u64,
    /// Streams that were left.
    pub(super) left: u64,
}

type Shared = Arc<Mutex<Done>>;

/// The load, while it lasts.
pub(super) struct Mix {
    tasks: JoinSet<Result<(), Fault>>,
    done: Shared,
}

impl Mix {
    /// Lets all clients begin.
    pub(super) fn start(target: &Target) -> Self {
        let (mut tasks, done) = (JoinSet::new(), Shared::default());
        for number in 0..ASKERS {
            let offset = share(ASK_EVERY, number, ASKERS);
            tasks.spawn(ask(target.clone(), offset, Arc::clone(&done)));
        }
        for number in 0..READERS {
            let offset = share(READ_EVERY, number, READERS);
            tasks.spawn(read(target.clone(), offset, Arc::clone(&done)));
        }
        for number in 0..WATCHERS {
            let offset = share(Duration::from_micros(WATCH_PACE_US), number, WATCHERS);
            tasks.spawn(watch(target.clone(), offset, Arc::clone(&done)));
        }
        for number in 0..LEAVERS {
            let offset = share(LEAVE_EVERY, number, LEAVERS);
            tasks.spawn(leave(target.clone(), offset, Arc::clone(&done)));
        }
        Self { tasks, done }
    }

    /// Waits while the load goes on; none of its clients ends but by a fault.
    pub(super) async fn go_on(&mut self, time: Duration) -> Result<(), Fault> {
        tokio::select! {
            () = tokio::time::sleep(time) => Ok(()),
            ended = self.tasks.join_next() => match ended {
                Some(outcome) => outcome?,
                None => Err("there is no load".into()),
            }
        }
    }

    /// What was done since the last time.
    pub(super) fn take(&self) -> Done {
        std::mem::take(&mut *self.done.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Clients of a kind begin evenly over one period.
fn share(period: Duration, number: usize, of: usize) -> Duration {
    period / u32::try_from(of).unwrap_or(1) * u32::try_from(number).unwrap_or(0)
}

fn note(done: &Shared, change: impl FnOnce(&mut Done)) {
    change(&mut done.lock().unwrap_or_else(PoisonError::into_inner));
}

async fn ask(target: Target, offset: Duration, done: Shared) -> Result<(), Fault> {
    let request = target.chat(false, &json!({}));
    let (mut client, mut turn) =
        (Client::connect(target.address).await?, every(ASK_EVERY, offset).await);
    loop {
        turn.tick().await;
        let sent = Instant::now();
        client.unary(&request).await?;
        note(&done, |done| done.unary_ms.push(sent.elapsed().as_secs_f64() * 1e3));
    }
}

async fn read(target: Target, offset: Duration, done: Shared) -> Result<(), Fault> {
    let request = target.chat(true, &json!({"events": READ_EVENTS}));
    let (mut client, mut turn) =
        (Client::connect(target.address).await?, every(READ_EVERY, offset).await);
    loop {
        turn.tick().await;
        client.stream(&request, READ_EVENTS).await?;
        note(&done, |done| done.streams += 1);
    }
}

async fn watch(target: Target, offset: Duration, done: Shared) -> Result<(), Fault> {
    let bench = json!({"events": WATCH_EVENTS, "delay_us": WATCH_PACE_US});
    let request = target.chat(true, &bench);
    let mut client = Client::connect(target.address).await?;
    tokio::time::sleep(offset).await;
    loop {
        client.stream(&request, WATCH_EVENTS).await?;
        note(&done, |done| done.streams += 1);
    }
}

async fn leave(target: Target, offset: Duration, done: Shared) -> Result<(), Fault> {
    let request = target.chat(true, &json!({"hang": "after_first"}));
    let mut turn = every(LEAVE_EVERY, offset).await;
    loop {
        turn.tick().await;
        let mut client = Client::connect(target.address).await?;
        client.stream_to_first(&request).await?;
        drop(client);
        note(&done, |done| done.left += 1);
    }
}

/// Ticks whose pace a late answer pushes back, instead of asking for the lost ones at once: a steady
/// load, not a stormy one.
async fn every(period: Duration, offset: Duration) -> tokio::time::Interval {
    tokio::time::sleep(offset).await;
    let mut turn = interval(period);
    turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
    turn
}
