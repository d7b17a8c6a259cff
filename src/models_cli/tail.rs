//! The log of an engine or a service as the daemon streams it.
//!
//! Owns: reading those server-sent events into lines. Must never do: wait for ever; the daemon
//! breaks its silence, and if it does not, it is not there any more.

use std::collections::VecDeque;
use std::time::Duration;

use chat_proxy_core::chat::sse::{Found, Payload, Splitter, is_error_event};
use futures_util::StreamExt;
use serde_json::Value;

use super::daemon::{Daemon, Pieces, in_path};
use super::error::{CliError, Refusal};

/// The daemon says something at least every 20 seconds.
const SILENCE: Duration = Duration::from_secs(90);

/// See the module.
pub(super) struct Tail {
    pieces: Pieces,
    splitter: Splitter,
    lines: VecDeque<Result<String, CliError>>,
}

impl Tail {
    /// The last `lines` lines, and then what is written.
    pub(super) async fn of(daemon: &Daemon, name: &str, lines: u32) -> Result<Self, CliError> {
        let path = format!("/v1/logs/backends/{}?follow=1&lines={lines}", in_path(name));
        let pieces = daemon.open(&path, SILENCE).await?;
        Ok(Tail { pieces, splitter: Splitter::default(), lines: VecDeque::new() })
    }

    /// The next line; `None`: the daemon ends. Nothing is lost if this is dropped while it waits.
    pub(super) async fn next(&mut self) -> Option<Result<String, CliError>> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Some(line);
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
                Ok(Some(Found::InPlace(place))) => self.lines.extend(line(&piece[place])),
                Ok(Some(Found::Joined(event))) => self.lines.extend(line(&event)),
                Ok(None) => return,
                Err(error) => {
                    let message = format!("the log cannot be read: {error}");
                    self.lines.push_back(Err(CliError::Failed { message, hint: None }));
                    return;
                }
            }
        }
    }
}

/// What an event says; a comment says nothing.
fn line(event: &[u8]) -> Option<Result<String, CliError>> {
    let payload = Payload::of(event);
    if payload == Payload::Nothing {
        return None;
    }
    let data = payload.data(event);
    if is_error_event(event) {
        let body: Value = serde_json::from_slice(data).unwrap_or_default();
        return Refusal::read(500, &body).map(|refusal| Err(CliError::Refused(refusal)));
    }
    Some(Ok(String::from_utf8_lossy(data).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_lines_and_comments_are_not() {
        let text = |event: &[u8]| line(event).map(|line| line.unwrap());
        assert_eq!(text(b"data: a: b\n\n").as_deref(), Some("a: b"));
        assert_eq!(text(b"data: \n\n").as_deref(), Some(""), "an empty line is a line");
        assert_eq!(text(b"data:   indented\n\n").as_deref(), Some("  indented"));
        assert_eq!(text(b": still here\n\n"), None);
        let error =
            b"event: error\ndata: {\"error\":{\"message\":\"no\",\"code\":\"err_internal\"}}\n\n";
        assert_eq!(line(error).unwrap().unwrap_err().to_string(), "no");
    }
}
