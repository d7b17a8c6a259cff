//! A log as the daemon streams it.
//!
//! Owns: reading those server-sent events into lines, and coming again behind the last of them when
//! the daemon or the connection was gone. Must never do: wait for ever; the daemon breaks its
//! silence, and if it does not, it is not there any more.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use chat_proxy_core::chat::sse::{Found, Splitter};
use futures_util::StreamExt;
use serde_json::Value;

use super::Tools;
use super::daemon::{Daemon, Pieces, in_path};
use super::error::{CliError, Refusal};

/// The daemon says something at least every 20 seconds.
const SILENCE: Duration = Duration::from_secs(90);
/// Before the first try to come again, where the daemon has not said how long.
const USUAL_RETRY: Duration = Duration::from_secs(2);
/// What the daemon says is taken within these bounds, and so is what becomes of it by trying.
const SHORTEST_RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(15);
/// A daemon that has not come back by then will not.
const GIVE_UP: Duration = Duration::from_secs(600);

/// One connection.
pub(super) struct Tail {
    pieces: Pieces,
    splitter: Splitter,
    heard: VecDeque<Result<Event, CliError>>,
    /// When to come again, as the daemon says it.
    retry: Duration,
}

/// What an event says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Event {
    line: Option<String>,
    id: Option<String>,
    is_gap: bool,
    retry: Option<Duration>,
}

impl Tail {
    /// The last `lines` lines of an engine or a service, and then what is written.
    pub(super) async fn of(daemon: &Daemon, name: &str, lines: u32) -> Result<Self, CliError> {
        Tail::at(daemon, &format!("/v1/logs/backends/{}?follow=1&lines={lines}", in_path(name)))
            .await
    }

    async fn at(daemon: &Daemon, path: &str) -> Result<Self, CliError> {
        let pieces = daemon.open(path, SILENCE).await?;
        let (splitter, heard) = (Splitter::default(), VecDeque::new());
        Ok(Tail { pieces, splitter, heard, retry: USUAL_RETRY })
    }

    /// The next line; `None`: the daemon ends. Nothing is lost if this is dropped while it waits.
    pub(super) async fn next(&mut self) -> Option<Result<String, CliError>> {
        loop {
            match self.event().await? {
                Ok(Event { line: Some(line), .. }) => return Some(Ok(line)),
                Ok(_) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }

    async fn event(&mut self) -> Option<Result<Event, CliError>> {
        loop {
            if let Some(event) = self.heard.pop_front() {
                if let Ok(Event { retry: Some(retry), .. }) = &event {
                    self.retry = *retry;
                }
                return Some(event);
            }
            match self.pieces.next().await? {
                Ok(piece) => self.take(&piece),
                Err(error) => return Some(Err(error)),
            }
        }
    }

    fn take(&mut self, piece: &bytes::Bytes) {
        let mut at = 0;
        loop {
            match self.splitter.next(piece, &mut at) {
                Ok(Some(Found::InPlace(place))) => self.heard.push_back(read(&piece[place])),
                Ok(Some(Found::Joined(event))) => self.heard.push_back(read(&event)),
                Ok(None) => return,
                Err(error) => {
                    let message = format!("the log cannot be read: {error}");
                    self.heard.push_back(Err(CliError::Failed { message, hint: None }));
                    return;
                }
            }
        }
    }
}

/// What an event says; a comment says nothing. The daemon's events have one line of data.
fn read(event: &[u8]) -> Result<Event, CliError> {
    let text = String::from_utf8_lossy(event);
    let (mut event, mut name) = (Event::default(), "");
    for line in text.lines() {
        let Some((field, value)) = line.split_once(':') else { continue };
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => event.line = Some(value.to_owned()),
            "id" => event.id = Some(value.to_owned()),
            "event" => name = value,
            "retry" => event.retry = value.parse().ok().map(Duration::from_millis),
            _ => {}
        }
    }
    match name {
        "" => Ok(event),
        "error" => {
            let body: Value = event.line.as_deref().map_or(Value::Null, parsed);
            match Refusal::read(500, &body) {
                Some(refusal) => Err(CliError::Refused(refusal)),
                None => Ok(Event::default()),
            }
        }
        other => Ok(Event { line: None, is_gap: other == "gap", ..event }),
    }
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}

/// A log that is followed over the ends of connections and daemons.
pub(super) struct Following<'a> {
    tools: &'a Tools,
    /// The path and the query, without where to go on.
    path: String,
    tail: Option<Tail>,
    /// Behind the last line that was given out.
    last: Option<String>,
    retry: Duration,
    /// Since when it is lost.
    lost: Option<Instant>,
}

impl<'a> Following<'a> {
    /// The first connection; that there is none is an error here.
    pub(super) async fn begin(tools: &'a Tools, path: String) -> Result<Self, CliError> {
        let tail = Some(Tail::at(&tools.daemon()?, &path).await?);
        Ok(Following { tools, path, tail, last: None, retry: USUAL_RETRY, lost: None })
    }

    /// The next line. An error: it will not come any more.
    pub(super) async fn next(&mut self) -> Result<String, CliError> {
        loop {
            let Some(tail) = &mut self.tail else {
                self.come_again().await?;
                continue;
            };
            match tail.event().await {
                Some(Ok(event)) => {
                    if let Some(line) = self.heard(event) {
                        return Ok(line);
                    }
                }
                Some(Err(error)) if is_passing(&error) => self.lose(&error.to_string()),
                Some(Err(error)) => return Err(error),
                None => self.lose("the daemon has ended"),
            }
        }
    }

    fn heard(&mut self, event: Event) -> Option<String> {
        // Whoever speaks is there: the next loss is another one.
        if self.lost.take().is_some() {
            self.tools.out.note("connected again");
        }
        self.retry = self.tail.as_ref().map_or(USUAL_RETRY, |tail| tail.retry);
        if event.id.is_some() {
            self.last = event.id;
        }
        if event.is_gap {
            self.tools.out.note("lines are missing here: they are not kept any more");
        }
        event.line
    }

    fn lose(&mut self, why: &str) {
        self.tail = None;
        if self.lost.is_none() {
            self.lost = Some(Instant::now());
            self.tools.out.note(&format!("{why}; trying to connect again"));
        }
    }

    /// Waits, and tries once.
    async fn come_again(&mut self) -> Result<(), CliError> {
        tokio::time::sleep(self.retry.clamp(SHORTEST_RETRY, LONGEST_RETRY)).await;
        self.retry = self.retry.saturating_mul(2);
        let path = match &self.last {
            Some(id) => format!("{}&last_event_id={id}", self.path),
            None => self.path.clone(),
        };
        // It may listen somewhere else by now.
        let opened = match self.tools.daemon() {
            Ok(daemon) => Tail::at(&daemon, &path).await,
            Err(error) => Err(error),
        };
        match opened {
            Ok(tail) => self.tail = Some(tail),
            Err(CliError::Refused(refusal)) if refusal.is_about("last_event_id") => {
                self.tools
                    .out
                    .note("lines may be missing here: this daemon does not know the place");
                self.last = None;
            }
            Err(error)
                if is_passing(&error) && self.lost.is_none_or(|at| at.elapsed() < GIVE_UP) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// It may be over when it is tried again.
fn is_passing(error: &CliError) -> bool {
    match error {
        CliError::NotRunning { .. }
        | CliError::NoPort { .. }
        | CliError::Unreachable { .. }
        | CliError::Stranger { .. } => true,
        // Such as one that is about to end.
        CliError::Refused(refusal) => refusal.status == 503,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_lines_and_comments_are_not() {
        let text = |event: &[u8]| read(event).map(|event| event.line).unwrap();
        assert_eq!(text(b"data: a: b\n\n").as_deref(), Some("a: b"));
        assert_eq!(text(b"data: \n\n").as_deref(), Some(""), "an empty line is a line");
        assert_eq!(text(b"data:   indented\n\n").as_deref(), Some("  indented"));
        assert_eq!(text(b"id: 7\ndata: a\n\n").as_deref(), Some("a"));
        assert_eq!(text(b": still here\n\n"), None);
        let error =
            b"event: error\ndata: {\"error\":{\"message\":\"no\",\"code\":\"err_internal\"}}\n\n";
        assert_eq!(read(error).unwrap_err().to_string(), "no");
    }

    #[test]
    fn places_gaps_and_times_are_no_lines() {
        let hello = read(b": the log\nretry: 1500\n\n").unwrap();
        let retry = Some(Duration::from_millis(1500));
        assert_eq!(hello, Event { retry, ..Event::default() });
        let begin = read(b"id: 1-2-3-4\n\n").unwrap();
        assert_eq!(begin, Event { id: Some("1-2-3-4".into()), ..Event::default() });
        let gap = read(b"event: gap\ndata: {\"type\":\"gap\"}\n\n").unwrap();
        assert_eq!(gap, Event { is_gap: true, ..Event::default() });
    }
}
