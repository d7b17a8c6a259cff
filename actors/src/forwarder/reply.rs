//! The way back to the client, before and after the response's head has left.
//!
//! Owns: the one answer, the frames of a stream, and who interrupts the wait: the client that
//! goes, the daemon that cuts. Must never do: send a status twice; an error after the head is an
//! event in the stream.

use std::future::poll_fn;
use std::task::{Context, Poll};

use bytes::Bytes;
use chat_proxy_core::ids::Generation;
use chat_proxy_core::relay::Dialect;
use chat_proxy_core::{ApiError, Code};
use send_wrapper::SendWrapper;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::channel::{self, Frame, Sender};
use super::cut::{CutBy, CutSignal};
use super::messages::{Answer, Labels, StreamAnswer, WholeAnswer};
use crate::transcript::Transcript;

/// Why a request ends before its answer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interrupt {
    /// The client has gone.
    Gone,
    /// The daemon ends all requests.
    Cut,
    /// The engine that answers is stopped, or died.
    EngineGone,
}

impl From<CutBy> for Interrupt {
    fn from(by: CutBy) -> Self {
        match by {
            CutBy::Daemon => Interrupt::Cut,
            CutBy::Engine => Interrupt::EngineGone,
        }
    }
}

enum State {
    /// Nothing has been sent; `None` only while the answer is being sent.
    Held(Option<oneshot::Sender<SendWrapper<Answer>>>),
    /// The head of a stream has been sent.
    Streaming(Sender),
}

/// See the module.
pub(super) struct Reply {
    state: State,
    cut: CutSignal,
    /// How errors are written once the head has left.
    dialect: Dialect,
    labels: Labels,
    /// When a waiting client heard of us last; at first, when it began to wait.
    heard: Instant,
}

impl Reply {
    pub(super) fn new(
        reply: oneshot::Sender<SendWrapper<Answer>>,
        cut: CutSignal,
        dialect: Dialect,
    ) -> Self {
        Reply {
            state: State::Held(Some(reply)),
            cut,
            dialect,
            labels: Labels::default(),
            heard: Instant::now(),
        }
    }

    /// What the answer's head will say.
    pub(super) fn label(&mut self, labels: Labels) {
        self.labels = labels;
    }

    /// What else was changed or lost on the way.
    pub(super) fn label_more(&mut self, more: Option<String>) {
        let Some(more) = more else { return };
        let known = self.labels.policy.take();
        self.labels.policy =
            Some(known.map_or_else(|| more.clone(), |known| format!("{known}; {more}")));
    }

    /// How the client speaks.
    pub(super) fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// From now on the request uses this start of an engine, or none.
    pub(super) fn uses(&self, generation: Option<Generation>) {
        self.cut.uses(generation);
    }

    /// From now on the request waits for a load or a service, or does not.
    pub(super) fn waits(&self, waits: bool) {
        self.cut.waits(waits);
    }

    /// Whether the head of a stream has been sent.
    pub(super) fn is_streaming(&self) -> bool {
        matches!(self.state, State::Streaming(_))
    }

    /// Ready when the request is interrupted.
    pub(super) fn poll_interrupt(&mut self, cx: &mut Context<'_>) -> Poll<Interrupt> {
        if let Poll::Ready(by) = self.cut.poll(cx) {
            return Poll::Ready(by.into());
        }
        let gone = match &mut self.state {
            State::Held(Some(reply)) => reply.poll_closed(cx),
            State::Held(None) => Poll::Ready(()),
            State::Streaming(frames) => frames.poll_gone(cx),
        };
        gone.map(|()| Interrupt::Gone)
    }

    /// Sends the head of a stream; from now on errors are events.
    pub(super) fn begin_stream(&mut self, transcript: &mut Transcript) {
        if self.is_streaming() {
            return;
        }
        let (sender, frames) = channel::channel();
        let answer = Answer::Stream(StreamAnswer { frames, labels: self.labels.clone() });
        if let State::Held(Some(reply)) =
            std::mem::replace(&mut self.state, State::Streaming(sender))
        {
            // A client that has just gone drops the frames with the answer: seen at the next poll.
            let _ = reply.send(SendWrapper::new(answer));
        }
        transcript.begun(200);
    }

    /// Tells a waiting client what it waits for; the first time this sends the head.
    pub(super) fn comfort(&mut self, state: &str, transcript: &mut Transcript) {
        self.begin_stream(transcript);
        self.data(Bytes::from(format!(": waiting ({state})\n\n")));
        self.heard = Instant::now();
    }

    /// When a waiting client heard of us last.
    pub(super) fn heard(&self) -> Instant {
        self.heard
    }

    /// Puts bytes into the stream.
    pub(super) fn data(&self, bytes: Bytes) {
        if let State::Streaming(frames) = &self.state {
            // A client that has gone is seen at the next poll.
            let _ = frames.put(Frame::Data(bytes));
        }
    }

    /// Waits until the client can take more.
    pub(super) async fn room(&mut self) -> Result<(), Interrupt> {
        poll_fn(|cx| {
            if let Poll::Ready(by) = self.cut.poll(cx) {
                return Poll::Ready(Err(by.into()));
            }
            match &self.state {
                State::Streaming(frames) => {
                    frames.poll_ready(cx).map(|r| r.map_err(|_| Interrupt::Gone))
                }
                State::Held(_) => Poll::Ready(Ok(())),
            }
        })
        .await
    }

    /// Ends a stream that has carried its own error.
    pub(super) fn end(self) {
        if let State::Streaming(frames) = &self.state {
            // A client that has gone needs no end.
            let _ = frames.put(Frame::End);
        }
    }

    /// Ends a stream that is whole.
    pub(super) fn end_whole(self, transcript: &mut Transcript) {
        transcript.whole(200);
        self.end();
    }

    /// Ends a stream with an error that comes with its own event.
    pub(super) fn end_with(self, event: String, error: &ApiError, transcript: &mut Transcript) {
        transcript.failed(error);
        self.data(Bytes::from(event));
        self.end();
    }

    /// Answers in one piece.
    pub(super) fn whole(self, mut answer: WholeAnswer, transcript: &mut Transcript) {
        transcript.whole(answer.status);
        answer.labels = self.labels;
        if let State::Held(Some(reply)) = self.state
            && reply.send(SendWrapper::new(Answer::Whole(answer))).is_err()
        {
            transcript.cancelled();
        }
    }

    /// Ends with an error: with its real status if the head is still held, else as an event.
    pub(super) fn refuse(self, error: ApiError, transcript: &mut Transcript) {
        transcript.failed(&error);
        match self.state {
            State::Held(Some(reply)) => {
                if reply.send(SendWrapper::new(Answer::Refused(error))).is_err() {
                    transcript.cancelled();
                }
            }
            State::Held(None) => transcript.cancelled(),
            State::Streaming(frames) => {
                let event = Frame::Data(Bytes::from(self.dialect.error_event(&error)));
                if frames.put(event).and_then(|()| frames.put(Frame::End)).is_err() {
                    transcript.cancelled();
                }
            }
        }
    }

    /// Ends for the reason that interrupted the request.
    pub(super) fn interrupted(self, why: Interrupt, transcript: &mut Transcript) {
        match why {
            Interrupt::Gone => transcript.cancelled(),
            Interrupt::Cut => {
                let message = "the proxy is shutting down and ended this request";
                self.refuse(ApiError::new(Code::Draining, message), transcript);
            }
            Interrupt::EngineGone => {
                self.refuse(engine_gone(), transcript);
            }
        }
    }
}

/// A request's end when its engine is stopped or died, and no more is known.
pub(super) fn engine_gone() -> ApiError {
    let message = "the engine that answered this request was stopped, or died";
    ApiError::new(Code::BackendUnavailable, message)
}
