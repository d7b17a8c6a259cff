//! The chain that every streamed chat answer goes through: splitter → usage tap → completeness.
//!
//! Owns: which bytes leave for the client, and whether the answer is whole (SPEC 2.1, 2.2). Must
//! never do: copy an event that no step changes, or let a cut answer end like a whole one.
//! Events that stay as they are and lie side by side leave as one slice of the chunk they came in.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::chunk::{Choice, Chunk};
use super::edits::{Edit, splice};
use super::harmonise::Offered;
use super::reasoning::{self, ReasoningField};
use super::sse::{EventTooLarge, Found, Payload, Splitter, is_error_event};
use super::tool_calls::{ToolCallStream, Turned};
use super::usage::Usage;

/// The event that ends a whole answer.
pub const DONE: &[u8] = b"data: [DONE]\n\n";

/// As much of a finish reason is kept for the log, in bytes.
const MAX_REASON: usize = 64;

/// Where the answer stands after some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// More is to come.
    Flowing,
    /// The answer is whole and its `[DONE]` has been put out; nothing further counts.
    Done,
    /// The backend reported an error in its stream; the event has been put out, and the stream
    /// ends here without `[DONE]`.
    Failed,
}

/// Why an upstream stream is no whole answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Incomplete {
    /// The body held no event at all.
    #[error("the backend's stream ended without a single event")]
    Empty,
    /// It ended before `[DONE]` and before every choice had its `finish_reason`.
    #[error("the backend's stream broke off before the answer was complete")]
    BrokeOff,
    /// See [`EventTooLarge`].
    #[error(transparent)]
    EventTooLarge(#[from] EventTooLarge),
}

/// What was learnt from a stream, for the log line.
#[derive(Debug, Default, Clone)]
pub struct Summary {
    /// The usage chunk, if one came.
    pub usage: Option<Usage>,
    /// The first choice's finish reason.
    pub finish_reason: Option<String>,
    /// Events that carried content: an estimate of tokens where no usage came.
    pub content_events: u64,
    /// The message of the backend's own error event.
    pub backend_error: Option<String>,
}

/// One streamed answer on its way through.
#[derive(Debug)]
pub struct ChatStream {
    splitter: Splitter,
    keep_usage: bool,
    reasoning_field: Option<ReasoningField>,
    tools: Option<Box<ToolCallStream>>,
    summary: Summary,
    begun: BTreeSet<u32>,
    finished: BTreeSet<u32>,
    any_event: bool,
    progress: Progress,
}

enum Verdict {
    Pass,
    Drop,
    /// These places of it change.
    Change(Vec<Edit>),
}

impl ChatStream {
    /// A new answer; `keep_usage`: the client asked for the usage chunk itself.
    pub fn new(keep_usage: bool) -> Self {
        ChatStream {
            splitter: Splitter::default(),
            keep_usage,
            reasoning_field: None,
            tools: None,
            summary: Summary::default(),
            begun: BTreeSet::new(),
            finished: BTreeSet::new(),
            any_event: false,
            progress: Progress::Flowing,
        }
    }

    /// The same, with reasoning under these names.
    #[must_use]
    pub fn with_reasoning(self, field: ReasoningField) -> Self {
        ChatStream { reasoning_field: Some(field), ..self }
    }

    /// The same, with calls of these tools in the one form that clients understand.
    #[must_use]
    pub fn with_tools(self, offered: Option<Arc<Offered>>) -> Self {
        let tools = offered.map(|offered| Box::new(ToolCallStream::new(offered)));
        ChatStream { tools, ..self }
    }

    /// Takes a chunk from upstream and puts what leaves for the client into `out`.
    pub fn push(&mut self, chunk: &Bytes, out: &mut Vec<Bytes>) -> Result<Progress, Incomplete> {
        let mut at = 0;
        let mut run: Range<usize> = 0..0;
        while self.progress == Progress::Flowing {
            match self.splitter.next(chunk, &mut at)? {
                None => break,
                Some(Found::InPlace(place)) => {
                    match self.judge(&chunk[place.clone()]) {
                        Verdict::Pass => {}
                        Verdict::Drop => continue,
                        Verdict::Change(edits) => {
                            flush(chunk, &run, out);
                            run = 0..0;
                            out.extend(splice(&chunk.slice(place), edits));
                            continue;
                        }
                    }
                    if run.end != place.start {
                        flush(chunk, &run, out);
                        run.start = place.start;
                    }
                    run.end = place.end;
                }
                Some(Found::Joined(event)) => self.put(event, out),
            }
        }
        flush(chunk, &run, out);
        Ok(self.progress)
    }

    /// The upstream body has ended. Completes the answer where that is allowed.
    pub fn finish(&mut self, out: &mut Vec<Bytes>) -> Result<Progress, Incomplete> {
        if self.progress != Progress::Flowing {
            return Ok(self.progress);
        }
        self.judge_rest(out);
        if self.progress != Progress::Flowing {
            return Ok(self.progress);
        }
        if !self.any_event {
            return Err(Incomplete::Empty);
        }
        if self.finished.is_empty() || self.finished.len() < self.begun.len() {
            return Err(Incomplete::BrokeOff);
        }
        out.extend(self.rest_of_calls());
        out.push(Bytes::from_static(DONE));
        self.progress = Progress::Done;
        Ok(Progress::Done)
    }

    /// Some servers leave out the last blank line: a last event that is whole counts.
    fn judge_rest(&mut self, out: &mut Vec<Bytes>) {
        let mut rest = self.splitter.rest().to_vec();
        let whole = match Payload::of(&rest) {
            Payload::Nothing => false,
            payload => !matches!(Chunk::read(payload.data(&rest), |_| {}), Chunk::Other),
        };
        if whole {
            rest.truncate(rest.trim_ascii_end().len());
            rest.extend_from_slice(b"\n\n");
            self.put(Bytes::from(rest), out);
        }
    }

    /// Judges an event that stands alone, and puts out what is left of it.
    fn put(&mut self, event: Bytes, out: &mut Vec<Bytes>) {
        match self.judge(&event) {
            Verdict::Pass => out.push(event),
            Verdict::Drop => {}
            Verdict::Change(edits) => out.extend(splice(&event, edits)),
        }
    }

    /// What was learnt so far.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// Whether any event with content has come: the first one ends the wait for the first token.
    pub fn has_content(&self) -> bool {
        self.summary.content_events > 0
    }

    /// Runs one event through the steps.
    fn judge(&mut self, event: &[u8]) -> Verdict {
        let payload = Payload::of(event);
        if payload == Payload::Nothing {
            return Verdict::Drop; // comments: our own heartbeats do their work
        }
        self.any_event = true;
        let data = payload.data(event);
        if is_error_event(event) {
            self.summary.backend_error = Some(super::unary::error_message(data));
            self.progress = Progress::Failed;
            return self.behind_the_rest();
        }
        let (begun, finished, summary) = (&mut self.begun, &mut self.finished, &mut self.summary);
        let chunk = Chunk::read(data, |choice| hear(choice, begun, finished, summary));
        match chunk {
            Chunk::Other => Verdict::Pass,
            Chunk::Done => {
                self.progress = Progress::Done;
                self.behind_the_rest()
            }
            Chunk::Object(facts) => {
                summary.content_events += u64::from(facts.content);
                if let Some(place) = facts.error {
                    summary.backend_error = Some(super::unary::error_message(&data[place]));
                    self.progress = Progress::Failed;
                    return self.behind_the_rest();
                }
                if let Some(place) = facts.usage {
                    summary.usage = Usage::parse(&data[place]).or(summary.usage);
                    if facts.no_choices && !self.keep_usage {
                        return Verdict::Drop;
                    }
                }
                match self.calls(data) {
                    Turned::Held => Verdict::Drop,
                    Turned::Into(json) => Verdict::Change(vec![self.anew(json, event)]),
                    Turned::Stays => match self.reasoning_field {
                        Some(field) if facts.reasoning => rename(&payload, data, event, field),
                        _ => Verdict::Pass,
                    },
                }
            }
        }
    }

    fn calls(&mut self, data: &[u8]) -> Turned {
        let turned = self.tools.as_mut().map_or(Turned::Stays, |tools| tools.event(data));
        if let Turned::Into(json) = &turned {
            // What it ends with may be another reason now.
            let told = &mut self.summary.finish_reason;
            Chunk::read(json.as_bytes(), |choice| {
                if let (Some(reason), Some(told)) = (choice.finish_reason, told.as_mut()) {
                    *told = String::from_utf8_lossy(reason).into_owned();
                }
            });
        }
        turned
    }

    /// An event that was written anew, instead of another.
    fn anew(&self, json: String, event: &[u8]) -> Edit {
        let data = Bytes::from(json);
        let edits = self.reasoning_field.map(|field| reasoning::edits(&data, field));
        let named = splice(&data, edits.unwrap_or_default());
        let pieces =
            [vec![Bytes::from_static(b"data: ")], named, vec![Bytes::from_static(b"\n\n")]];
        Edit { place: 0..event.len(), pieces: pieces.concat() }
    }

    /// What of the text was held back because it might have become a call: whoever ends the answer with an
    /// error of his own sends it first.
    pub fn rest_of_calls(&mut self) -> Option<Bytes> {
        let rest = self.tools.as_mut()?.rest()?;
        Some(Bytes::from(format!("data: {rest}\n\n")))
    }

    /// An event that ends the answer: what is held goes before it.
    fn behind_the_rest(&mut self) -> Verdict {
        match self.rest_of_calls() {
            Some(rest) => Verdict::Change(vec![Edit { place: 0..0, pieces: vec![rest] }]),
            None => Verdict::Pass,
        }
    }
}

/// Puts reasoning under the names that are wanted.
fn rename(payload: &Payload, data: &[u8], event: &[u8], field: ReasoningField) -> Verdict {
    let mut edits = reasoning::edits(data, field);
    if edits.is_empty() {
        return Verdict::Pass;
    }
    if let Payload::Line(place) = payload {
        for edit in &mut edits {
            edit.place = edit.place.start + place.start..edit.place.end + place.start;
        }
        return Verdict::Change(edits);
    }
    // Data of several lines becomes one: between the tokens of JSON a line end is as good as a space.
    let data = Bytes::copy_from_slice(data);
    let mut line = splice(&data, edits).concat();
    line.iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
    let pieces = vec![Bytes::from_static(b"data: "), line.into(), Bytes::from_static(b"\n\n")];
    Verdict::Change(vec![Edit { place: 0..event.len(), pieces }])
}

fn hear(
    choice: Choice<'_>,
    begun: &mut BTreeSet<u32>,
    finished: &mut BTreeSet<u32>,
    summary: &mut Summary,
) {
    begun.insert(choice.index);
    if let Some(reason) = choice.finish_reason {
        finished.insert(choice.index);
        let shown = &reason[..reason.len().min(MAX_REASON)];
        summary.finish_reason.get_or_insert_with(|| String::from_utf8_lossy(shown).into_owned());
    }
}

fn flush(chunk: &Bytes, run: &Range<usize>, out: &mut Vec<Bytes>) {
    if !run.is_empty() {
        out.push(chunk.slice(run.clone()));
    }
}

#[cfg(test)]
mod tests;
