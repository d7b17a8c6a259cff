//! The chain that every streamed chat answer goes through: splitter → usage tap → completeness.
//!
//! Owns: which bytes leave for the client, and whether the answer is whole (SPEC 2.1, 2.2). Must
//! never do: copy an event that no step changes, or let a cut answer end like a whole one.
//! Events that stay as they are and lie side by side leave as one slice of the chunk they came in.

mod alike;

use std::collections::BTreeSet;
use std::ops::Range;

use bytes::Bytes;

use super::chunk::{Choice, Chunk, Facts, shown_reason};
use super::edits::{Edit, splice};
use super::fields::{self, FieldRules};
use super::sse::{self, EventTooLarge, Found, Payload, Splitter, is_error_event};
use super::tool_calls::{TextRules, ToolCallStream, Turned};
use super::usage::Usage;
use alike::Alike;

/// The event that ends a whole answer.
pub const DONE: &[u8] = b"data: [DONE]\n\n";

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
    alike: Alike,
    keep_usage: bool,
    fields: Option<FieldRules>,
    text: Option<Box<ToolCallStream>>,
    summary: Summary,
    begun: BTreeSet<u32>,
    finished: BTreeSet<u32>,
    any_event: bool,
    progress: Progress,
}

/// What comes next in a chunk.
enum Next {
    /// An event that passes as the one before did, and says as little.
    Alike(Range<usize>),
    /// One that has to be judged.
    Found(Found),
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
            alike: Alike::default(),
            keep_usage,
            fields: None,
            text: None,
            summary: Summary::default(),
            begun: BTreeSet::new(),
            finished: BTreeSet::new(),
            any_event: false,
            progress: Progress::Flowing,
        }
    }

    /// The same, with these fields.
    #[must_use]
    pub fn with_fields(self, rules: FieldRules) -> Self {
        ChatStream { fields: Some(rules), ..self }
    }

    /// The same, with calls and thoughts that stand in the text where clients look for them.
    #[must_use]
    pub fn with_text(self, rules: TextRules) -> Self {
        let text = (!rules.is_empty()).then(|| Box::new(ToolCallStream::new(rules)));
        ChatStream { text, ..self }
    }

    /// Takes a chunk from upstream and puts what leaves for the client into `out`.
    pub fn push(&mut self, chunk: &Bytes, out: &mut Vec<Bytes>) -> Result<Progress, Incomplete> {
        let mut at = 0;
        let mut run: Range<usize> = 0..0;
        while self.progress == Progress::Flowing && at < chunk.len() {
            let place = match self.next(chunk, &mut at)? {
                None => break,
                Some(Next::Alike(place)) => place,
                Some(Next::Found(Found::Joined(event))) => {
                    self.put(event, out);
                    continue;
                }
                Some(Next::Found(Found::InPlace(place))) => {
                    match self.judge(&chunk[place.clone()]) {
                        Verdict::Pass => place,
                        Verdict::Drop => continue,
                        Verdict::Change(edits) => {
                            flush(chunk, &run, out);
                            run = 0..0;
                            out.extend(splice(&chunk.slice(place), edits));
                            continue;
                        }
                    }
                }
            };
            if run.end != place.start {
                flush(chunk, &run, out);
                run.start = place.start;
            }
            run.end = place.end;
        }
        flush(chunk, &run, out);
        Ok(self.progress)
    }

    /// The next event, and whether it has been judged already, with the one before.
    fn next(&mut self, chunk: &Bytes, at: &mut usize) -> Result<Option<Next>, Incomplete> {
        let start = *at;
        if self.splitter.is_between_events()
            && let Some(length) = self.alike.length(&chunk[start..])
        {
            self.summary.content_events += 1;
            *at += length;
            return Ok(Some(Next::Alike(start..*at)));
        }
        Ok(self.splitter.next(chunk, at)?.map(Next::Found))
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
        out.extend(self.rest_of_text());
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
        let (mut ends, mut ended_again) = (false, Vec::new());
        let chunk = Chunk::read(data, |choice| {
            ends |= choice.finish_reason.is_some();
            ended_again.extend(hear(choice, begun, finished, summary));
        });
        match chunk {
            Chunk::Other => Verdict::Pass,
            Chunk::Done => {
                self.progress = Progress::Done;
                self.behind_the_rest()
            }
            Chunk::Object(facts) => {
                let rewritten = without_ends(data, &ended_again);
                let verdict = self.object(&facts, &payload, event, rewritten);
                if !ends && matches!(verdict, Verdict::Pass) {
                    self.learn(&facts, &payload, event);
                }
                verdict
            }
        }
    }

    /// Remembers an event that passed, if all that could be told of it is that it has text: the next
    /// one of its kind need not be read.
    fn learn(&mut self, facts: &Facts, payload: &Payload, event: &[u8]) {
        let says_more = facts.usage.is_some() || facts.error.is_some() || self.text.is_some();
        // In one line, from the first byte on.
        let plain = *payload == Payload::Line(6..event.len() - 2) && event.ends_with(b"\n\n");
        if let Some(place) = &facts.text
            && plain
            && !says_more
        {
            self.alike.learn(event, place.start + 7..place.end + 5);
        }
    }

    /// One object. `rewritten`: its data, if that has been changed already.
    fn object(
        &mut self,
        facts: &Facts,
        payload: &Payload,
        event: &[u8],
        rewritten: Option<Vec<u8>>,
    ) -> Verdict {
        let (data, summary) = (payload.data(event), &mut self.summary);
        summary.content_events += u64::from(facts.content);
        if let Some(place) = &facts.error {
            summary.backend_error = Some(super::unary::error_message(&data[place.clone()]));
            self.progress = Progress::Failed;
            return self.behind_the_rest();
        }
        if let Some(place) = &facts.usage {
            summary.usage = Usage::parse(&data[place.clone()]).or(summary.usage);
            if facts.no_choices && !self.keep_usage {
                return Verdict::Drop;
            }
        }
        match self.text(rewritten.as_deref().unwrap_or(data)) {
            Turned::Held => Verdict::Drop,
            Turned::Into(json) => Verdict::Change(vec![self.anew(json, event)]),
            Turned::Stays => match (rewritten, &self.fields) {
                (Some(data), _) => {
                    let pieces = self.own_event(data);
                    Verdict::Change(vec![Edit { place: 0..event.len(), pieces }])
                }
                (None, Some(rules)) if rules.concern(facts) => {
                    change_fields(payload, data, event, rules)
                }
                (None, _) => Verdict::Pass,
            },
        }
    }

    fn text(&mut self, data: &[u8]) -> Turned {
        let turned = self.text.as_mut().map_or(Turned::Stays, |text| text.event(data));
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
        Edit { place: 0..event.len(), pieces: self.own_event(json.into_bytes()) }
    }

    /// An event of our own making.
    fn own_event(&self, mut data: Vec<u8>) -> Vec<Bytes> {
        sse::in_one_line(&mut data);
        let data = Bytes::from(data);
        let edits = self.fields.as_ref().map(|rules| fields::edits(&data, rules));
        let changed = splice(&data, edits.unwrap_or_default());
        [vec![Bytes::from_static(b"data: ")], changed, vec![Bytes::from_static(b"\n\n")]].concat()
    }

    /// What of the text was held back because it might have become a call or a thought: whoever ends the
    /// answer with an error of his own sends it first.
    pub fn rest_of_text(&mut self) -> Vec<Bytes> {
        let rest = self.text.as_mut().and_then(|text| text.rest());
        rest.map(|rest| self.own_event(rest.into_bytes())).unwrap_or_default()
    }

    /// An event that ends the answer: what is held goes before it.
    fn behind_the_rest(&mut self) -> Verdict {
        let rest = self.rest_of_text();
        if rest.is_empty() {
            return Verdict::Pass;
        }
        Verdict::Change(vec![Edit { place: 0..0, pieces: rest }])
    }
}

/// Gives an event the fields that are wanted.
fn change_fields(payload: &Payload, data: &[u8], event: &[u8], rules: &FieldRules) -> Verdict {
    let mut edits = fields::edits(data, rules);
    if edits.is_empty() {
        return Verdict::Pass;
    }
    if let Payload::Line(place) = payload {
        for edit in &mut edits {
            edit.place = edit.place.start + place.start..edit.place.end + place.start;
        }
        return Verdict::Change(edits);
    }
    let data = Bytes::copy_from_slice(data);
    let mut line = splice(&data, edits).concat();
    sse::in_one_line(&mut line);
    let pieces = vec![Bytes::from_static(b"data: "), line.into(), Bytes::from_static(b"\n\n")];
    Verdict::Change(vec![Edit { place: 0..event.len(), pieces }])
}

/// Takes note of a choice; answers the reason, if it has ended before.
fn hear<'a>(
    choice: Choice<'a>,
    begun: &mut BTreeSet<u32>,
    finished: &mut BTreeSet<u32>,
    summary: &mut Summary,
) -> Option<&'a [u8]> {
    begun.insert(choice.index);
    let reason = choice.finish_reason?;
    summary.finish_reason.get_or_insert_with(|| shown_reason(reason));
    (!finished.insert(choice.index)).then_some(reason)
}

/// A chunk in which choices do not end a second time; `None`: none does.
fn without_ends(data: &[u8], reasons: &[&[u8]]) -> Option<Vec<u8>> {
    if reasons.is_empty() {
        return None;
    }
    let start = |reason: &[u8]| reason.as_ptr() as usize - data.as_ptr() as usize;
    let edits = reasons.iter().map(|reason| {
        let start = start(reason);
        Edit::text(start - 1..start + reason.len() + 1, "null")
    });
    Some(splice(&Bytes::copy_from_slice(data), edits.collect()).concat())
}

fn flush(chunk: &Bytes, run: &Range<usize>, out: &mut Vec<Bytes>) {
    if !run.is_empty() {
        out.push(chunk.slice(run.clone()));
    }
}

#[cfg(test)]
mod tests;
