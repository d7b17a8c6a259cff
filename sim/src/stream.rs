//! Owns the course of a stream: events in their order, with the faults that concern events, and
//! how an event is framed.
//!
//! Must never know what an event says; a [`Format`] does.

use std::time::Duration;

use crate::errors::DIED_IN_STREAM;
use crate::fault::{Fault, How};
use crate::generate::{Generation, Step};
use crate::ids::quoted;
use crate::life::{End, Life, Watch};
use crate::wire::{Stop, Wire};

/// One event of a stream.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    /// The text of its `event:` line, for surfaces that have one.
    pub(crate) name: Option<&'static str>,
    pub(crate) data: String,
}

impl Event {
    /// An event without a name.
    pub(crate) fn data(data: String) -> Self {
        Self { name: None, data }
    }
}

/// How the events of a surface are framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// As server-sent events.
    Events,
    /// As one JSON object in each line.
    Lines,
}

impl Style {
    fn content_type(self) -> &'static str {
        match self {
            Self::Events => "text/event-stream; charset=utf-8",
            Self::Lines => "application/x-ndjson",
        }
    }
}

/// What the events of one surface say.
pub(crate) trait Format: Send {
    /// The events before the first token.
    fn opening(&mut self) -> Vec<Event>;
    /// The events of one step of one choice.
    fn step(&mut self, choice: usize, step: &Step) -> Vec<Event>;
    /// The events behind the last step.
    fn closing(&mut self) -> Vec<Event>;
    /// Whether the stream ends in `[DONE]`.
    fn has_done(&self) -> bool;
    /// How its events are framed.
    fn style(&self) -> Style {
        Style::Events
    }
}

/// Sends a whole stream.
pub(crate) async fn send(
    wire: &mut Wire,
    fault: &Fault,
    life: &Life,
    format: &mut dyn Format,
    answers: &[Generation],
) -> Result<(), Stop> {
    match Stream::new(wire, fault, life, &*format).run(format, answers).await {
        Err(Stop::Ended) => Ok(()),
        other => other,
    }
}

/// Waits so many milliseconds, if any.
pub(crate) async fn pause(ms: Option<u64>) {
    if let Some(ms) = ms.filter(|&ms| ms > 0) {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
}

struct Stream<'a> {
    wire: &'a mut Wire,
    fault: &'a Fault,
    life: &'a Life,
    watch: Watch,
    /// Events that wait for their write.
    pending: Vec<u8>,
    waiting: u64,
    /// Events so far, the waiting ones included.
    count: u64,
    has_done: bool,
    style: Style,
}

impl<'a> Stream<'a> {
    fn new(wire: &'a mut Wire, fault: &'a Fault, life: &'a Life, format: &dyn Format) -> Self {
        let (watch, pending) = (life.watch(), Vec::with_capacity(512));
        let (has_done, style) = (format.has_done(), format.style());
        Self { wire, fault, life, watch, pending, waiting: 0, count: 0, has_done, style }
    }

    async fn run(&mut self, format: &mut dyn Format, answers: &[Generation]) -> Result<(), Stop> {
        let kind = self.fault.content_type.as_deref();
        self.wire.stream_head(kind.unwrap_or(self.style.content_type())).await?;
        if self.fault.empty_stream == Some(true) {
            return self.wire.end_stream().await;
        }
        self.due().await?;
        self.pause(self.fault.silent_before_role_ms).await?;
        self.all(format.opening()).await?;
        self.steps(format, answers).await?;
        if self.fault.no_finish != Some(true) {
            self.all(format.closing()).await?;
            self.done().await?;
        }
        self.flush().await?;
        self.wire.end_stream().await
    }

    /// The steps of all answers, turn by turn.
    async fn steps(&mut self, format: &mut dyn Format, answers: &[Generation]) -> Result<(), Stop> {
        if self.fault.delay_first_ms.is_some() {
            self.flush().await?;
            self.pause(self.fault.delay_first_ms).await?;
        }
        let turns = answers.iter().map(|a| a.steps.len()).max().unwrap_or(0);
        for turn in 0..turns {
            if turn > 0 {
                self.pause(self.fault.delay_token_ms).await?;
            }
            for (choice, answer) in answers.iter().enumerate() {
                let Some(step) = answer.steps.get(turn) else { continue };
                if step.is_told() {
                    self.step(format, choice, step).await?;
                }
                let before = turn.checked_sub(1).and_then(|turn| answer.steps.get(turn));
                self.life.generated(step.total.saturating_sub(before.map_or(0, |s| s.total)));
            }
        }
        Ok(())
    }

    async fn step(
        &mut self,
        format: &mut dyn Format,
        choice: usize,
        step: &Step,
    ) -> Result<(), Stop> {
        if self.fault.no_finish == Some(true) && step.finish.is_some() {
            let open = Step { finish: None, ..step.clone() };
            let adds = |d: &crate::generate::Delta| match d {
                crate::generate::Delta::Silent => false,
                crate::generate::Delta::Content(text) => !text.is_empty(),
                _ => true,
            };
            return if adds(&open.delta) {
                self.all(format.step(choice, &open)).await
            } else {
                Ok(())
            };
        }
        self.all(format.step(choice, step)).await
    }

    async fn done(&mut self) -> Result<(), Stop> {
        if !self.has_done || self.fault.no_done == Some(true) {
            return Ok(());
        }
        let times = if self.fault.extra_done == Some(true) { 2 } else { 1 };
        self.all(vec![Event::data("[DONE]".to_owned()); times]).await
    }

    async fn all(&mut self, events: Vec<Event>) -> Result<(), Stop> {
        for event in events {
            if let Some(end) = self.watch.ended() {
                return self.break_off(end).await;
            }
            self.write(&event);
            self.count += 1;
            self.waiting += 1;
            if self.waiting >= self.fault.events_per_write.unwrap_or(1) {
                self.flush().await?;
            }
            self.due().await?;
        }
        Ok(())
    }

    /// Does what is due after so many events.
    async fn due(&mut self) -> Result<(), Stop> {
        let now = Some(self.count);
        let cut = self.fault.cut.as_ref().filter(|c| c.after_events == now);
        if let Some(how) = cut.map(|c| c.how) {
            return self.cut(how).await;
        }
        if self.fault.hang_after_events == now {
            self.flush().await?;
            let end = self.watch.end().await;
            return self.break_off(end).await;
        }
        if self.fault.malformed_after_events == now {
            let torn = match self.style {
                Style::Events => "{\"id\":\"chatcmpl-",
                Style::Lines => "{\"model\":\"tiny",
            };
            self.write(&Event::data(torn.to_owned()));
            self.flush().await?;
        }
        if self.fault.error_after_events == now {
            return self.break_off(End::Dead).await;
        }
        if self.fault.end_after_events == now {
            self.flush().await?;
            self.wire.end_stream().await?;
            return Err(Stop::Ended);
        }
        Ok(())
    }

    /// Waits, unless the engine ends meanwhile.
    async fn pause(&mut self, ms: Option<u64>) -> Result<(), Stop> {
        if ms.unwrap_or(0) == 0 {
            return Ok(());
        }
        let end = tokio::select! {
            () = pause(ms) => return Ok(()),
            end = self.watch.end() => end,
        };
        self.break_off(end).await
    }

    /// Does what the engine's end demands: an error and a clean end, or silence.
    async fn break_off(&mut self, end: End) -> Result<(), Stop> {
        if end == End::Dead {
            let died = match self.style {
                Style::Events => DIED_IN_STREAM.to_owned(),
                Style::Lines => format!("{{\"error\":{}}}", quoted(self.fault.error_text())),
            };
            self.write(&Event::data(died));
            if self.has_done {
                self.flush().await?; // two writes, as the real one has it
                self.write(&Event::data("[DONE]".to_owned()));
            }
        }
        self.flush().await?;
        if end == End::Silent {
            return std::future::pending().await;
        }
        self.wire.end_stream().await?;
        Err(Stop::Ended)
    }

    async fn cut(&mut self, how: How) -> Result<(), Stop> {
        self.flush().await?;
        Err(self.wire.cut(how).await)
    }

    fn write(&mut self, event: &Event) {
        let end: &[u8] = if self.fault.crlf == Some(true) { b"\r\n" } else { b"\n" };
        let out = &mut self.pending;
        if self.style == Style::Lines {
            out.extend_from_slice(event.data.as_bytes());
            out.extend_from_slice(end);
            return;
        }
        if self.fault.comments == Some(true) && self.count > 0 {
            out.extend_from_slice(b": ping");
            out.extend_from_slice(end);
            out.extend_from_slice(end);
        }
        if let Some(name) = event.name {
            out.extend_from_slice(b"event: ");
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(end);
        }
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(event.data.as_bytes());
        out.extend_from_slice(end);
        out.extend_from_slice(end);
    }

    async fn flush(&mut self) -> Result<(), Stop> {
        self.waiting = 0;
        if self.pending.is_empty() {
            return Ok(());
        }
        let bytes = std::mem::take(&mut self.pending);
        let result = self.wire.chunk(&bytes).await;
        self.pending = bytes;
        self.pending.clear();
        result
    }
}
