//! A native streamed answer (one JSON object a line) as OpenAI's server-sent events.
//!
//! Owns: cutting lines wherever the chunks are cut, and which events a line becomes. Must never
//! do: put out `[DONE]` for an answer that is not whole, or anything behind an error.

use bytes::Bytes;
use memchr::memchr;

use super::answer::{self, Chunk, ChunkChoice, Said, Usage};
use super::line::{End, Line, Nonsense};
use crate::chat::sse::{MAX_EVENT_BYTES, in_one_line};
use crate::chat::stream::DONE;

/// One streamed answer on its way through.
#[derive(Debug)]
pub struct NativeStream {
    head: Head,
    /// Bytes of a line that has not ended yet.
    tail: Vec<u8>,
    /// Tool calls put out so far.
    calls: usize,
    state: State,
}

/// What every event of an answer repeats.
#[derive(Debug)]
struct Head {
    id: String,
    created: u64,
    model: String,
}

#[derive(Debug)]
enum State {
    /// No line has come.
    Waiting,
    /// The role has been put out.
    Speaking,
    /// Whole, or failed with an error event: nothing follows.
    Ended,
    /// What came was no answer.
    Broken(Nonsense),
}

impl NativeStream {
    /// A new answer. `id`: the completion's; `created`: unix seconds, where Ollama does not say.
    pub fn new(id: String, created: u64) -> Self {
        let head = Head { id, created, model: String::new() };
        NativeStream { head, tail: Vec::new(), calls: 0, state: State::Waiting }
    }

    /// Takes bytes from Ollama and answers the events for the client. Events in front of a bad line
    /// still leave; the next call answers the error then.
    pub fn push(&mut self, chunk: &[u8]) -> Result<Bytes, Nonsense> {
        let mut out = Vec::new();
        let mut rest = chunk;
        while self.flowing() {
            let Some(end) = memchr(b'\n', rest) else {
                self.keep(rest);
                break;
            };
            self.line(&rest[..end], &mut out);
            rest = &rest[end + 1..];
        }
        self.answer(out)
    }

    /// The body has ended; its last line may lack its line end. An answer that is not whole gets no
    /// `[DONE]`.
    pub fn end(&mut self) -> Result<Bytes, Nonsense> {
        let mut out = Vec::new();
        if self.flowing() {
            self.line(&[], &mut out);
        }
        self.answer(out)
    }

    fn flowing(&self) -> bool {
        matches!(self.state, State::Waiting | State::Speaking)
    }

    fn answer(&self, out: Vec<u8>) -> Result<Bytes, Nonsense> {
        match &self.state {
            State::Broken(nonsense) if out.is_empty() => Err(nonsense.clone()),
            _ => Ok(Bytes::from(out)),
        }
    }

    fn keep(&mut self, rest: &[u8]) {
        if self.tail.len() + rest.len() > MAX_EVENT_BYTES {
            self.state = State::Broken(Nonsense::TooLong);
        } else {
            self.tail.extend_from_slice(rest);
        }
    }

    /// Takes the last bytes of a line.
    fn line(&mut self, last: &[u8], out: &mut Vec<u8>) {
        let told = if self.tail.len() + last.len() > MAX_EVENT_BYTES {
            Err(Nonsense::TooLong)
        } else if self.tail.is_empty() {
            self.tell(last, out)
        } else {
            let mut line = std::mem::take(&mut self.tail);
            line.extend_from_slice(last);
            self.tell(&line, out)
        };
        if let Err(nonsense) = told {
            self.state = State::Broken(nonsense);
        }
    }

    /// Puts out what a line says.
    fn tell(&mut self, text: &[u8], out: &mut Vec<u8>) -> Result<(), Nonsense> {
        if text.trim_ascii().is_empty() {
            return Ok(());
        }
        let line = Line::read(text)?;
        if let Some(error) = line.error {
            out.extend_from_slice(answer::backend_error(error).event().as_bytes());
            self.state = State::Ended;
            return Ok(());
        }
        self.begin(&line, out);
        self.delta(&line, out);
        match line.end() {
            End::NotYet => return Ok(()),
            End::Cut => out.extend_from_slice(answer::cut().event().as_bytes()),
            End::Reason(reason) => self.finish(reason, answer::usage(&line), out),
        }
        self.state = State::Ended;
        Ok(())
    }

    /// The first line says when and by what the answer was made; the role leaves by itself.
    fn begin(&mut self, line: &Line<'_>, out: &mut Vec<u8>) {
        if let Some(model) = &line.model {
            self.head.model.clone_from(model);
        }
        if let State::Waiting = self.state {
            self.head.created = line.created().unwrap_or(self.head.created);
            let role = Said { role: Some("assistant"), content: Some(""), ..Said::default() };
            self.head.event(vec![ChunkChoice::of(role)], None, out);
            self.state = State::Speaking;
        }
    }

    fn delta(&mut self, line: &Line<'_>, out: &mut Vec<u8>) {
        let said = answer::said(line, &self.head.id, Some(self.calls));
        let logprobs = answer::logprobs(line);
        let silent = said.content.is_none() && said.reasoning.is_none();
        if silent && said.tool_calls.is_empty() && logprobs.is_none() {
            return;
        }
        self.calls += said.tool_calls.len();
        let choice = ChunkChoice { logprobs, ..ChunkChoice::of(said) };
        self.head.event(vec![choice], None, out);
    }

    fn finish(&self, reason: &str, usage: Option<Usage>, out: &mut Vec<u8>) {
        let reason = answer::finish_reason(reason, self.calls > 0);
        let last = ChunkChoice { finish_reason: Some(reason), ..ChunkChoice::of(Said::default()) };
        self.head.event(vec![last], None, out);
        if usage.is_some() {
            self.head.event(Vec::new(), usage, out);
        }
        out.extend_from_slice(DONE);
    }
}

impl Head {
    fn event(&self, choices: Vec<ChunkChoice<'_>>, usage: Option<Usage>, out: &mut Vec<u8>) {
        let Head { id, created, model } = self;
        let object = "chat.completion.chunk";
        let chunk = Chunk { id, object, created: *created, model, choices, usage };
        out.extend_from_slice(b"data: ");
        let start = out.len();
        // Writing to memory does not fail.
        let _ = serde_json::to_writer(&mut *out, &chunk);
        // Some values go over as they came.
        in_one_line(&mut out[start..]);
        out.extend_from_slice(b"\n\n");
    }
}
