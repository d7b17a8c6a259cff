//! The chain of a relayed stream that has no `choices`: splitter → usage tap → completeness.
//!
//! Sources: OpenAI's Responses API ("Streaming events"), Anthropic's Messages API ("Streaming
//! Messages"), vLLM's captures. Owns: when such a stream is whole (SPEC 2.1), and what its events
//! say about tokens. Must never do: change an event.

use bytes::Bytes;
use serde::Deserialize;

use super::Dialect;
use crate::chat::sse::{Found, Payload, Splitter, is_error_event};
use crate::chat::stream::{Incomplete, Progress, Summary};
use crate::chat::unary::error_message;
use crate::chat::usage::Usage;
use crate::json::Walker;

/// As much of a finish reason is kept for the log, in bytes.
const MAX_REASON: usize = 64;

/// One streamed answer on its way through.
#[derive(Debug)]
pub struct EventStream {
    dialect: Dialect,
    splitter: Splitter,
    summary: Summary,
    any_event: bool,
    progress: Progress,
}

/// What one event means.
#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    /// Nothing that matters here.
    Other,
    /// A piece of the answer.
    Content,
    /// The answer is whole.
    Terminal,
    /// The backend failed.
    Error,
}

impl EventStream {
    /// A new answer.
    pub fn new(dialect: Dialect) -> Self {
        EventStream {
            dialect,
            splitter: Splitter::default(),
            summary: Summary::default(),
            any_event: false,
            progress: Progress::Flowing,
        }
    }

    /// Takes a chunk from upstream and puts what leaves for the client into `out`.
    pub fn push(&mut self, chunk: &Bytes, out: &mut Vec<Bytes>) -> Result<Progress, Incomplete> {
        let mut at = 0;
        while self.progress == Progress::Flowing {
            let event = match self.splitter.next(chunk, &mut at)? {
                None => break,
                Some(Found::InPlace(place)) => chunk.slice(place),
                Some(Found::Joined(event)) => event,
            };
            if self.judge(&event) {
                out.push(event);
            }
        }
        Ok(self.progress)
    }

    /// The upstream body has ended.
    pub fn finish(&mut self, out: &mut Vec<Bytes>) -> Result<Progress, Incomplete> {
        if self.progress != Progress::Flowing {
            return Ok(self.progress);
        }
        // Some servers leave out the last blank line: a last event that is whole counts, half a one is
        // no end in any dialect.
        let mut rest = self.splitter.rest().to_vec();
        if !rest.trim_ascii().is_empty() {
            if !is_whole(&rest) {
                return Err(if self.any_event { Incomplete::BrokeOff } else { Incomplete::Empty });
            }
            rest.truncate(rest.trim_ascii_end().len());
            rest.extend_from_slice(b"\n\n");
            if self.judge(&rest) {
                out.push(Bytes::from(rest));
            }
            if self.progress != Progress::Flowing {
                return Ok(self.progress);
            }
        }
        if !self.any_event {
            return Err(Incomplete::Empty);
        }
        if self.ends_with_an_event() {
            return Err(Incomplete::BrokeOff);
        }
        self.progress = Progress::Done;
        Ok(Progress::Done)
    }

    /// What was learnt so far.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// Whether any event with content has come.
    pub fn has_content(&self) -> bool {
        self.summary.content_events > 0
    }

    /// Its answers end with an event of their own; of others the connection's end is all there is.
    fn ends_with_an_event(&self) -> bool {
        matches!(self.dialect, Dialect::Responses | Dialect::Messages)
    }

    /// Whether the event leaves for the client.
    fn judge(&mut self, event: &[u8]) -> bool {
        let payload = Payload::of(event);
        if payload == Payload::Nothing {
            return false; // comments: our own heartbeats do their work
        }
        self.any_event = true;
        let data = payload.data(event);
        let meaning = if is_error_event(event) { Meaning::Error } else { self.meaning(data) };
        match meaning {
            Meaning::Other => {}
            Meaning::Content => self.summary.content_events += 1,
            Meaning::Terminal => self.progress = Progress::Done,
            Meaning::Error => {
                self.summary.backend_error = Some(error_text(data));
                self.progress = Progress::Failed;
            }
        }
        true
    }

    fn meaning(&mut self, data: &[u8]) -> Meaning {
        if data.trim_ascii() == b"[DONE]" {
            return Meaning::Terminal;
        }
        let Some(Kind { kind, error }) = kind_of(data) else { return Meaning::Other };
        match self.dialect {
            Dialect::Responses => self.of_responses(kind, data),
            Dialect::Messages => self.of_messages(kind, data),
            _ if error => Meaning::Error,
            _ if kind == b"transcript.text.done" => Meaning::Terminal,
            _ => Meaning::Content,
        }
    }

    fn of_responses(&mut self, kind: &[u8], data: &[u8]) -> Meaning {
        match kind {
            b"error" => Meaning::Error,
            b"response.completed" | b"response.incomplete" | b"response.failed" => {
                if let Ok(Ending { response: Some(response), .. }) = serde_json::from_slice(data) {
                    self.learn(response.usage, response.status);
                }
                Meaning::Terminal
            }
            kind if kind.ends_with(b".delta") => Meaning::Content,
            _ => Meaning::Other,
        }
    }

    fn of_messages(&mut self, kind: &[u8], data: &[u8]) -> Meaning {
        match kind {
            b"error" => Meaning::Error,
            b"message_stop" => Meaning::Terminal,
            b"content_block_delta" => Meaning::Content,
            b"message_start" | b"message_delta" => {
                if let Ok(told) = serde_json::from_slice::<Ending<'_>>(data) {
                    let usage = told.usage.or(told.message.and_then(|message| message.usage));
                    self.learn(usage, told.delta.and_then(|delta| delta.stop_reason));
                }
                Meaning::Other
            }
            _ => Meaning::Other,
        }
    }

    /// Later counts replace earlier ones, field by field.
    fn learn(&mut self, usage: Option<&serde_json::value::RawValue>, reason: Option<String>) {
        if let Some(new) = usage.and_then(|raw| Usage::parse(raw.get().as_bytes())) {
            let old = self.summary.usage.unwrap_or_default();
            self.summary.usage = Some(Usage {
                prompt_tokens: new.prompt_tokens.or(old.prompt_tokens),
                completion_tokens: new.completion_tokens.or(old.completion_tokens),
                reasoning_tokens: new.reasoning_tokens.or(old.reasoning_tokens),
                cached_tokens: new.cached_tokens.or(old.cached_tokens),
            });
        }
        if let Some(reason) = reason {
            let shown = reason.chars().take(MAX_REASON).collect();
            self.summary.finish_reason = Some(shown);
        }
    }
}

/// What is read of events that say how an answer ends.
#[derive(Deserialize)]
struct Ending<'a> {
    #[serde(borrow)]
    response: Option<Told<'a>>,
    #[serde(borrow)]
    message: Option<Told<'a>>,
    #[serde(borrow)]
    usage: Option<&'a serde_json::value::RawValue>,
    delta: Option<Delta>,
}

#[derive(Deserialize)]
struct Told<'a> {
    #[serde(borrow)]
    usage: Option<&'a serde_json::value::RawValue>,
    status: Option<String>,
}

#[derive(Deserialize)]
struct Delta {
    stop_reason: Option<String>,
}

struct Kind<'a> {
    /// `type`, escapes untouched; empty if there is none.
    kind: &'a [u8],
    /// `error` holds a value.
    error: bool,
}

/// The type of an event, by its data: its name says the same, where it has one.
fn kind_of(data: &[u8]) -> Option<Kind<'_>> {
    let mut found = Kind { kind: b"", error: false };
    let mut walker = Walker::new(data);
    walker.object(|key, w| {
        match key {
            b"type" if w.peek()? == b'"' => found.kind = w.string()?,
            b"error" => {
                let place = w.value()?;
                found.error = w.slice(place) != b"null";
            }
            _ => {
                w.value()?;
            }
        }
        Some(())
    })?;
    Some(found)
}

/// Whether an event without its blank line is all there.
fn is_whole(event: &[u8]) -> bool {
    let payload = Payload::of(event);
    let data = payload.data(event).trim_ascii();
    data == b"[DONE]" || serde_json::from_slice::<serde::de::IgnoredAny>(data).is_ok()
}

fn error_text(data: &[u8]) -> String {
    let value: Option<serde_json::Value> = serde_json::from_slice(data).ok();
    match value.as_ref().and_then(|value| value.get("error")) {
        Some(error) if !error.is_null() => error_message(error.to_string().as_bytes()),
        _ => error_message(data),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(
        dialect: Dialect,
        text: &str,
        cut: usize,
    ) -> (EventStream, String, Result<Progress, Incomplete>) {
        let mut stream = EventStream::new(dialect);
        let mut out = Vec::new();
        for piece in text.as_bytes().chunks(cut.max(1)) {
            if let Err(error) = stream.push(&Bytes::copy_from_slice(piece), &mut out) {
                return (stream, String::new(), Err(error));
            }
        }
        let end = stream.finish(&mut out);
        let told = String::from_utf8_lossy(&out.concat()).into_owned();
        (stream, told, end)
    }

    const MESSAGES: &str = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":19,\"output_tokens\":0}}}\n\n\
        event: ping\ndata: {\"type\":\"ping\"}\n\n\
        event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"text_delta\",\"text\":\"é\"},\"index\":0}\n\n\
        event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":7}}\n\n\
        event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";

    const RESPONSES: &str = "event: response.created\ndata: {\"response\":{\"usage\":null},\"type\":\"response.created\"}\n\n\
        event: response.output_text.delta\ndata: {\"delta\":\"I\",\"type\":\"response.output_text.delta\"}\n\n\
        event: response.completed\ndata: {\"response\":{\"status\":\"completed\",\"usage\":{\"input_tokens\":3,\"output_tokens\":4,\"output_tokens_details\":{\"reasoning_tokens\":2},\"input_tokens_details\":{\"cached_tokens\":1}}},\"type\":\"response.completed\"}\n\n";

    #[test]
    fn whole_streams_pass_byte_for_byte_however_they_are_cut_and_tell_their_tokens() {
        for (dialect, text, reason, tokens) in [
            (Dialect::Messages, MESSAGES, "end_turn", (Some(19), Some(7), None, None)),
            (Dialect::Responses, RESPONSES, "completed", (Some(3), Some(4), Some(2), Some(1))),
        ] {
            for cut in 1..60 {
                let (stream, told, end) = run(dialect, text, cut);
                assert_eq!((told.as_str(), end), (text, Ok(Progress::Done)), "{dialect:?} {cut}");
                let summary = stream.summary();
                let usage = summary.usage.unwrap_or_default();
                assert_eq!(summary.finish_reason.as_deref(), Some(reason));
                assert_eq!(summary.content_events, 1);
                let told = (
                    usage.prompt_tokens,
                    usage.completion_tokens,
                    usage.reasoning_tokens,
                    usage.cached_tokens,
                );
                assert_eq!(told, tokens);
            }
        }
    }

    #[test]
    fn a_stream_without_its_last_event_is_cut_wherever_it_ends() {
        for (dialect, text) in [(Dialect::Messages, MESSAGES), (Dialect::Responses, RESPONSES)] {
            // Without its last blank line a whole last event still counts.
            let last = text.trim_end().len();
            for end in 1..last {
                let Some(part) = text.get(..end) else { continue };
                let (_, told, outcome) = run(dialect, part, 1000);
                assert!(outcome.is_err(), "{part:?}");
                assert!(text.starts_with(&told), "{told:?}");
            }
            assert_eq!(run(dialect, &text[..last], 7).2, Ok(Progress::Done));
            assert_eq!(run(dialect, "", 1).2, Err(Incomplete::Empty));
        }
    }

    #[test]
    fn an_error_event_ends_it() {
        let error = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"busy\"}}\n\n";
        let (stream, told, end) = run(Dialect::Messages, &format!("{error}{MESSAGES}"), 5);
        assert_eq!((told.as_str(), end), (error, Ok(Progress::Failed)));
        assert_eq!(stream.summary().backend_error.as_deref(), Some("busy"));
        let unnamed = "data: {\"type\":\"error\",\"message\":\"x\",\"code\":\"y\"}\n\n";
        let (stream, _, end) = run(Dialect::Responses, unnamed, 5);
        assert_eq!(end, Ok(Progress::Failed));
        assert_eq!(stream.summary().backend_error.as_deref(), Some("x"));
    }

    #[test]
    fn of_other_streams_the_connections_end_is_the_end() {
        let text = "data: {\"text\":\"hello\"}\n\n: comment\n\ndata: {\"text\":\"you\"}\n\n";
        let (stream, told, end) = run(Dialect::Transcriptions, text, 3);
        assert_eq!(told, text.replace(": comment\n\n", ""));
        assert_eq!((end, stream.summary().content_events), (Ok(Progress::Done), 2));
        for half in ["data: {\"text\":\"a", "data", "event: x"] {
            let (_, told, end) = run(Dialect::Transcriptions, &format!("{text}{half}"), 4);
            assert_eq!(end, Err(Incomplete::BrokeOff), "{half:?}");
            assert_eq!(told, text.replace(": comment\n\n", ""), "{half:?}");
        }
        let (_, _, end) =
            run(Dialect::Transcriptions, &format!("{text}data: {{\"text\":\"a\"}}\n"), 4);
        assert_eq!(end, Ok(Progress::Done), "only its blank line is missing");
        let done = format!("{text}data: [DONE]\n\ndata: late\n\n");
        assert!(run(Dialect::Transcriptions, &done, 9).1.ends_with("[DONE]\n\n"));
        let (_, _, end) = run(Dialect::Transcriptions, "data: {\"error\":\"x\"}\n\n", 9);
        assert_eq!(end, Ok(Progress::Failed));
    }
}
