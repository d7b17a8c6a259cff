//! A log as server-sent events, as it is written.
//!
//! Each line is an event whose `id` is the place behind it in the log's files: who sends it back as
//! `Last-Event-ID` goes on there, over rotations and restarts of the daemon. Before the first line
//! an event without data gives the place where the reader begins. Where lines are missing that are
//! not kept any more, there is one event `gap`.
//!
//! Owns: what these events look like, and what is heard in the silence. Must never do: read on for
//! a client that does not take what was read.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::http::header;
use actix_web::{HttpResponse, web};
use bytes::{BufMut, Bytes, BytesMut};
use chat_proxy_actors::program_log::{Cursor, Follower, News, Step};
use chat_proxy_core::ApiError;
use futures_util::FutureExt;
use futures_util::stream::{self, Stream};

use super::super::listeners::Place;
use super::super::state::AppState;
use super::unreadable;
use crate::life::Life;

/// What who follows hears first. A client that lost its connection comes again after this.
const HELLO: &[u8] = b": the log, as it is written\nretry: 2000\n\n";
const GAP: &[u8] = b"event: gap\ndata: {\"type\":\"gap\"}\n\n";
const STILL_HERE: &[u8] = b": still here\n\n";
/// A log is looked at this often.
const PAUSE: Duration = Duration::from_millis(200);
/// Silence is broken at least this often: so a client can tell it from a connection that is dead.
const LONGEST_SILENCE: Duration = Duration::from_secs(20);
/// So much is handed to the connection at once: it keeps a copy until it is sent.
const PIECE: usize = 64 << 10;
/// What stands around a line in its event, at most: its id is the larger part.
const AROUND: usize = 72;

/// The stream.
pub(super) fn respond(follower: Follower, state: &AppState) -> Result<HttpResponse, ApiError> {
    let place = state.listeners.enter()?;
    let heartbeat = state.settings().server.heartbeat_ms.limit().unwrap_or(LONGEST_SILENCE);
    let tail = Tail {
        follower: Some(follower),
        life: state.life.clone(),
        heartbeat: heartbeat.min(LONGEST_SILENCE),
        spoke: Instant::now(),
        read: VecDeque::from([Bytes::from_static(HELLO)]),
        _place: place,
    };
    Ok(HttpResponse::Ok()
        .content_type("text/event-stream")
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .insert_header(("x-accel-buffering", "no"))
        .streaming(tail.events()))
}

/// Somebody who follows a log.
struct Tail {
    /// `None`: it cannot be read any more.
    follower: Option<Follower>,
    life: Arc<Life>,
    heartbeat: Duration,
    /// When something was sent last.
    spoke: Instant,
    /// The events of the last step that the client has not taken yet.
    read: VecDeque<Bytes>,
    _place: Place,
}

impl Tail {
    fn events(self) -> impl Stream<Item = Result<Bytes, Infallible>> {
        stream::unfold(self, |mut tail| async move {
            let bytes = tail.next().await?;
            tail.spoke = Instant::now();
            Some((Ok(bytes), tail))
        })
    }

    /// The next piece; `None`: the daemon ends, or the log cannot be read. Nothing is read before
    /// the client has taken the pieces before.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(piece) = self.piece() {
                return Some(piece);
            }
            if self.life.until_cut().now_or_never().is_some() {
                return None;
            }
            let more = match self.step().await? {
                Ok(step) => {
                    self.read = events_of(step.news);
                    step.more
                }
                Err(error) => {
                    self.follower = None;
                    let body = unreadable(&error).body();
                    return Some(Bytes::from(format!("event: error\ndata: {body}\n\n")));
                }
            };
            if !self.read.is_empty() {
                continue;
            }
            let pause = if more { Duration::ZERO } else { PAUSE };
            tokio::select! {
                biased;
                () = self.life.until_cut() => return None,
                () = tokio::time::sleep(pause) => {}
            }
            if self.spoke.elapsed() >= self.heartbeat {
                return Some(Bytes::from_static(STILL_HERE));
            }
        }
    }

    /// Of what was read, as much as is sent at once.
    fn piece(&mut self) -> Option<Bytes> {
        let mut read = self.read.pop_front()?;
        if read.len() > PIECE {
            let piece = read.split_to(PIECE);
            self.read.push_front(read);
            return Some(piece);
        }
        Some(read)
    }

    /// One step, on a thread that may wait for the disk.
    async fn step(&mut self) -> Option<io::Result<Step>> {
        let mut follower = self.follower.take()?;
        let stepped = web::block(move || {
            let step = follower.step();
            (follower, step)
        });
        match stepped.await {
            Ok((follower, step)) => {
                self.follower = Some(follower);
                Some(step)
            }
            Err(error) => Some(Err(io::Error::other(error))),
        }
    }
}

/// One event for each of the news. A line has no end in it; a large one is not copied.
fn events_of(news: Vec<News>) -> VecDeque<Bytes> {
    let room = news.iter().map(room_of).sum();
    let (mut events, mut small) = (VecDeque::new(), BytesMut::with_capacity(room));
    for one in news {
        match one {
            News::Begin(cursor) => {
                put_id(&mut small, &cursor);
                small.put_u8(b'\n');
            }
            News::Gap => small.put_slice(GAP),
            News::Line(text, cursor) => {
                if let Some(cursor) = cursor {
                    put_id(&mut small, &cursor);
                }
                small.put_slice(b"data: ");
                if text.len() > PIECE {
                    events.push_back(small.split().freeze());
                    events.push_back(Bytes::from(text));
                } else {
                    small.put_slice(text.as_bytes());
                }
                small.put_slice(b"\n\n");
            }
        }
    }
    if !small.is_empty() {
        events.push_back(small.freeze());
    }
    events
}

/// What it takes at most, beside a large line.
fn room_of(news: &News) -> usize {
    match news {
        News::Line(text, _) if text.len() <= PIECE => AROUND + text.len(),
        _ => AROUND,
    }
}

fn put_id(events: &mut BytesMut, cursor: &Cursor) {
    // Writing to memory cannot fail.
    let _ = writeln!(events, "id: {cursor}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_of(news: Vec<News>) -> String {
        let events = events_of(news);
        String::from_utf8(events.iter().flatten().copied().collect()).unwrap()
    }

    #[test]
    fn news_are_events() {
        let cursor: Cursor = "1-2-3-4".parse().unwrap();
        let line = |text: &str| News::Line(text.to_owned(), Some(cursor));
        let large = "x".repeat(PIECE + 1);
        for (news, want) in [
            (vec![], String::new()),
            (vec![News::Begin(cursor)], "id: 1-2-3-4\n\n".into()),
            (
                vec![line("a: b"), line("")],
                "id: 1-2-3-4\ndata: a: b\n\nid: 1-2-3-4\ndata: \n\n".into(),
            ),
            (
                vec![News::Line("torn".into(), None), News::Gap, line("a")],
                "data: torn\n\nevent: gap\ndata: {\"type\":\"gap\"}\n\nid: 1-2-3-4\ndata: a\n\n"
                    .into(),
            ),
            (
                vec![line("a"), line(&large), line("b")],
                format!(
                    "id: 1-2-3-4\ndata: a\n\nid: 1-2-3-4\ndata: {large}\n\nid: 1-2-3-4\ndata: b\n\n"
                ),
            ),
        ] {
            assert_eq!(text_of(news), want);
        }
    }
}
