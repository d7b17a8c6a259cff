//! Counts and checks the events of one stream, so that a fast wrong answer is a failure.
//! It must never care how a peer cut or merged them.

use std::time::{Duration, Instant};

use memchr::memmem::Finder;

use crate::Fault;
use crate::upstream::wire::TOKEN;

/// What a stream has brought so far.
pub(crate) struct Events {
    /// When the first whole event was there.
    pub(crate) first: Option<Instant>,
    /// How many events of content.
    pub(crate) contents: usize,
    /// When each event of content was there, if somebody wants to know.
    times: Option<Vec<Instant>>,
    finished: bool,
    done: bool,
    carry: Vec<u8>,
    blank_line: Finder<'static>,
    token: Finder<'static>,
    finish: Finder<'static>,
}

impl Events {
    /// Before the first byte.
    pub(crate) fn new() -> Self {
        Self {
            first: None,
            contents: 0,
            times: None,
            finished: false,
            done: false,
            carry: Vec::new(),
            blank_line: Finder::new("\n\n"),
            token: Finder::new(TOKEN),
            finish: Finder::new("\"stop\""),
        }
    }

    /// Before the first byte of a stream whose pace matters.
    pub(crate) fn timed(contents: usize) -> Self {
        Self { times: Some(Vec::with_capacity(contents)), ..Self::new() }
    }

    /// The times between one event of content and the next.
    pub(crate) fn gaps(&self) -> impl Iterator<Item = Duration> {
        let times = self.times.as_deref().unwrap_or_default();
        times.windows(2).map(|pair| pair[1] - pair[0])
    }

    /// Takes the next piece of the body.
    pub(super) fn feed(&mut self, part: &[u8]) -> Result<(), Fault> {
        if self.carry.is_empty() {
            let used = self.take_whole(part)?;
            self.carry.extend_from_slice(&part[used..]);
            return Ok(());
        }
        let mut joined = std::mem::take(&mut self.carry);
        joined.extend_from_slice(part);
        let used = self.take_whole(&joined)?;
        joined.drain(..used);
        self.carry = joined;
        Ok(())
    }

    fn take_whole(&mut self, text: &[u8]) -> Result<usize, Fault> {
        let mut used = 0;
        while let Some(length) = self.blank_line.find(&text[used..]) {
            self.take_one(&text[used..used + length])?;
            used += length + 2;
        }
        Ok(used)
    }

    fn take_one(&mut self, event: &[u8]) -> Result<(), Fault> {
        self.first.get_or_insert_with(Instant::now);
        let wrong = |why| Err(format!("{why}: {}", String::from_utf8_lossy(event)).into());
        let Some(data) = event.strip_prefix(b"data: ") else {
            return wrong("not an event");
        };
        if self.done {
            return wrong("an event after [DONE]");
        }
        if data == b"[DONE]" {
            self.done = true;
        } else if data.starts_with(b"{\"error\"") {
            return wrong("an error in the stream");
        } else if self.token.find(data).is_some() {
            self.contents += 1;
            if let Some(times) = &mut self.times {
                times.push(Instant::now());
            }
        } else if self.finish.find(data).is_some() {
            self.finished = true;
        }
        Ok(())
    }

    /// The body has ended: is this the whole answer?
    pub(crate) fn check(&self, contents: usize) -> Result<(), Fault> {
        if self.contents == contents && self.finished && self.done && self.carry.is_empty() {
            return Ok(());
        }
        Err(format!(
            "a wrong stream: {} of {contents} events, finish_reason {}, [DONE] {}, {} bytes over",
            self.contents,
            self.finished,
            self.done,
            self.carry.len()
        )
        .into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "data: {\"role\":1}\n\ndata: {\"content\":\" tok\"}\n\ndata: {\"content\":\" tok\"}\n\n\
        data: {\"finish_reason\":\"stop\"}\n\ndata: [DONE]\n\n";

    fn outcome(text: &str, step: usize) -> Result<(), Fault> {
        let mut events = Events::new();
        for part in text.as_bytes().chunks(step) {
            events.feed(part)?;
        }
        events.check(2)
    }

    #[test]
    fn a_whole_stream_passes_however_it_is_cut() -> Result<(), Fault> {
        (1..=GOOD.len()).try_for_each(|step| outcome(GOOD, step))
    }

    #[test]
    fn only_a_timed_stream_has_gaps_one_less_than_events() -> Result<(), Fault> {
        for (mut events, gaps) in [(Events::timed(2), 1), (Events::new(), 0)] {
            events.feed(GOOD.as_bytes())?;
            assert_eq!(events.gaps().count(), gaps);
        }
        Ok(())
    }

    #[test]
    fn whatever_is_missing_too_much_or_an_error_fails() {
        for bad in [
            GOOD.replacen("data: {\"content\":\" tok\"}\n\n", "", 1),
            GOOD.replace("data: [DONE]\n\n", ""),
            GOOD.replace("\"stop\"", "null"),
            GOOD.replacen("{\"role\":1}", "{\"error\":{}}", 1),
            format!("{GOOD}data: {{}}\n\n"),
            format!("{GOOD}d"),
            GOOD.replacen("data: {\"role\"", "datum: {\"role\"", 1),
        ] {
            assert!(outcome(&bad, 7).is_err(), "{bad}");
        }
    }
}
