//! A streamed request: from the dispatch to the last event.
//!
//! Owns: the loop that moves chunks through the chain (`core::chat::stream`) to the client, and
//! every way in which it ends. Must never do: hold a chunk back, or end a cut answer cleanly, or join chunks: each
//! leaves as it came. But what has come together is handed on in one go, for to wake somebody for each
//! costs more than the rest of its way.

use std::future::poll_fn;
use std::mem::take;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use chat_proxy_core::chat::ollama::NativeStream;
use chat_proxy_core::chat::stream::Progress;
use chat_proxy_core::chat::unary as rules;
use chat_proxy_core::telemetry::answer::Answer as KeptAnswer;
use chat_proxy_core::{ApiError, Code};

use super::cargo::{Target, Unsent};
use super::chain::{Broken, Chain};
use super::deadlines::{Deadlines, Due};
use super::reply::{Interrupt, Reply, engine_gone};
use super::task::Request;
use super::upstream::{Event, Head, Returned, Upstream};
use super::{failure, unary};
use crate::clock::unix_now;
use crate::transcript::Transcript;

/// An answer's last bytes may trail its `[DONE]` by this much; then its connection is given up.
const TRAILING: Duration = Duration::from_millis(250);
/// As much of a response that is no stream is read, to pass it on or to say what it was.
const MAX_STRAY: usize = 1 << 20;
/// And for as long.
const STRAY_TIME: Duration = Duration::from_secs(5);
/// As much of a stream is kept, in bytes, where the log is to have it.
const MAX_KEPT: usize = 4 << 20;

/// In whose words a backend answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// In the client's.
    Plain,
    /// In Ollama's.
    Native,
}

/// Chunks that have come together are handed on in one go up to this size, in bytes: small enough that
/// the first of them does not wait for the last.
const TOGETHER: usize = 16 << 10;

/// What the loop wakes for.
enum Wake {
    Interrupt(Interrupt),
    Upstream(Event),
    Due(Due),
}

/// How a stream ends.
enum Ending {
    Whole,
    /// The backend's own error event has been passed on.
    ReportedByBackend,
    Interrupted(Interrupt),
    Failed(ApiError),
    /// An error answer of the backend, to be passed on with its own status.
    Error(Head, Bytes),
    /// An answer in one piece, where a stream was asked for.
    Piece(Head, Bytes),
    /// The backend dropped the request unanswered; it can be sent again.
    Unsent(Box<Returned>),
}

struct Pump<'a> {
    upstream: Upstream,
    reply: Reply,
    deadlines: Deadlines,
    chain: Chain,
    transcript: &'a mut Transcript,
    out: Vec<Bytes>,
    /// What came behind the chunks that were taken together.
    next: Option<Event>,
    kept: Option<Kept>,
}

/// The stream, for the log that was asked to keep it.
#[derive(Default)]
struct Kept {
    events: BytesMut,
    truncated: bool,
}

impl Kept {
    fn add(&mut self, bytes: &Bytes) {
        let room = MAX_KEPT - self.events.len();
        self.truncated |= bytes.len() > room;
        self.events.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn answer(self) -> Option<KeptAnswer> {
        let Kept { events, truncated } = self;
        let events = events.freeze();
        (!events.is_empty()).then_some(KeptAnswer::Stream { events, truncated })
    }
}

/// Streams the answer; gives the request back where it is to be sent again.
pub(super) async fn run(
    request: &Request<'_>,
    kind: Kind,
    target: &Target<'_>,
    upstream: Upstream,
    reply: Reply,
    transcript: &mut Transcript,
) -> Option<Unsent> {
    let (shared, prepared) = (request.shared, request.prepared);
    let chain = match kind {
        Kind::Plain => Chain::of(prepared),
        Kind::Native => {
            let native = NativeStream::new(request.completion_id(), unix_now());
            Chain::native(native, prepared)
        }
    };
    let head = request.head_timeout();
    let deadlines = Deadlines::start(&shared.settings, head, reply.heard());
    let mut pump = Pump {
        upstream,
        reply,
        deadlines,
        chain,
        kept: transcript.keeps_prompts().then(Kept::default),
        transcript,
        out: Vec::new(),
        next: None,
    };
    let mut ending = pump.pump().await;
    // Not after a timeout: that pool serves other backends too, and none of it is broken.
    let failure = match &ending {
        Ending::Failed(error) => Some(error),
        Ending::Unsent(returned) => Some(&returned.error),
        _ => None,
    };
    if failure.is_some_and(|error| error.code == Code::BackendUnavailable) {
        shared.clients.forget(target.endpoint);
    }
    ending = match ending {
        Ending::Failed(error) => Ending::Failed(shared.explain(target.permit, error).await),
        Ending::Interrupted(Interrupt::EngineGone) => {
            Ending::Failed(shared.explain(target.permit, engine_gone()).await)
        }
        ending => ending,
    };
    if let Ending::Unsent(returned) = ending {
        let Returned { error, unreachable, cargo } = *returned;
        return Some(Unsent { reply: pump.reply, error, unreachable, cargo });
    }
    if let Some(upstream) = pump.conclude(ending) {
        trail(upstream).await;
    }
    None
}

impl Pump<'_> {
    fn poll_wake(&mut self, cx: &mut Context<'_>) -> Poll<Wake> {
        if let Poll::Ready(interrupt) = self.reply.poll_interrupt(cx) {
            return Poll::Ready(Wake::Interrupt(interrupt));
        }
        if let Some(event) = self.next.take() {
            return Poll::Ready(Wake::Upstream(event));
        }
        if let Poll::Ready(event) = self.upstream.poll_event(cx) {
            return Poll::Ready(Wake::Upstream(event));
        }
        self.deadlines.poll_due(cx).map(Wake::Due)
    }

    /// The chunk's way through the chain into the channel, and that of all which have come with it.
    fn push_all(&mut self, mut chunk: Bytes, cx: &mut Context<'_>) -> Result<Progress, Broken> {
        let mut taken = 0;
        loop {
            fault::panic_if_ordered(&chunk);
            taken += chunk.len();
            let pushed = self.chain.push(&chunk, &mut self.out);
            self.flush();
            let pushed = pushed?;
            if pushed != Progress::Flowing || taken >= TOGETHER {
                return Ok(pushed);
            }
            match self.upstream.poll_event(cx) {
                Poll::Ready(Event::Chunk(next)) => chunk = next,
                Poll::Ready(event) => {
                    self.next = Some(event);
                    return Ok(pushed);
                }
                Poll::Pending => return Ok(pushed),
            }
        }
    }

    async fn pump(&mut self) -> Ending {
        loop {
            let wake = poll_fn(|cx| self.poll_wake(cx)).await;
            let ending = match wake {
                Wake::Interrupt(why) => Some(Ending::Interrupted(why)),
                Wake::Due(Due::Heartbeat) => {
                    self.heartbeat();
                    None
                }
                Wake::Due(Due::Timeout(error)) => Some(Ending::Failed(error)),
                Wake::Upstream(Event::Head(head)) => self.head(head).await,
                Wake::Upstream(Event::Chunk(chunk)) => self.chunks(chunk).await,
                Wake::Upstream(Event::End) => Some(self.ended()),
                Wake::Upstream(Event::Failed(error)) => Some(self.broke(error)),
                Wake::Upstream(Event::Unsent(returned)) => Some(Ending::Unsent(returned)),
            };
            if let Some(ending) = ending {
                return ending;
            }
        }
    }

    /// A comment keeps proxies and clients patient; the first one sends the head.
    fn heartbeat(&mut self) {
        let state = if self.upstream.has_head() { "no token yet" } else { "sent to the backend" };
        self.reply.comfort(&format!("position 0, {state}"), self.transcript);
    }

    async fn head(&mut self, head: Head) -> Option<Ending> {
        self.deadlines.head_came();
        if head.status.is_success() && self.chain.takes(&head.content_type) {
            return None;
        }
        let (body, ended) = match self.stray_body().await {
            Ok(body) => body,
            Err(ending) => return Some(ending),
        };
        if ended && !rules::is_complete(head.content_length, &head.content_type, &body) {
            let error = failure::broke_off(self.upstream.address(), body.len());
            return Some(Ending::Failed(error));
        }
        if head.status.is_client_error() || head.status.is_server_error() {
            return Some(Ending::Error(head, body));
        }
        // Not every server streams at all of these endpoints.
        let whole = ended && head.status.is_success() && !body.is_empty();
        if whole && matches!(self.chain, Chain::Events(_)) && !self.reply.is_streaming() {
            return Some(Ending::Piece(head, body));
        }
        Some(Ending::Failed(failure::not_an_answer(&head, &body, self.upstream.address(), true)))
    }

    /// Reads a body that is no stream, bounded in size and time; the flag tells whether that was
    /// all of it.
    async fn stray_body(&mut self) -> Result<(Bytes, bool), Ending> {
        let mut body = BytesMut::new();
        let until = tokio::time::Instant::now() + STRAY_TIME;
        loop {
            let wake = poll_fn(|cx| self.poll_wake(cx));
            match tokio::time::timeout_at(until, wake).await {
                Err(_) => return Ok((body.freeze(), false)),
                Ok(Wake::Upstream(Event::Chunk(chunk))) => {
                    body.extend_from_slice(&chunk);
                    if body.len() > MAX_STRAY {
                        return Ok((body.freeze(), false));
                    }
                }
                Ok(Wake::Upstream(Event::End | Event::Head(_))) => {
                    return Ok((body.freeze(), true));
                }
                Ok(Wake::Upstream(Event::Failed(error)) | Wake::Due(Due::Timeout(error))) => {
                    return Err(Ending::Failed(error));
                }
                Ok(Wake::Upstream(Event::Unsent(returned))) => {
                    return Err(Ending::Failed(returned.error));
                }
                Ok(Wake::Interrupt(why)) => return Err(Ending::Interrupted(why)),
                Ok(Wake::Due(Due::Heartbeat)) => self.heartbeat(),
            }
        }
    }

    /// Hands chunks on, and waits only if the channel is full.
    async fn chunks(&mut self, mut first: Bytes) -> Option<Ending> {
        let pushed = poll_fn(|cx| Poll::Ready(self.push_all(take(&mut first), cx))).await;
        self.deadlines.activity(self.chain.has_content());
        match pushed {
            Ok(Progress::Flowing) => {}
            Ok(Progress::Done) => return Some(Ending::Whole),
            Ok(Progress::Failed) => return Some(Ending::ReportedByBackend),
            Err(error) => return Some(Ending::Failed(broken(&error))),
        }
        match self.reply.room().await {
            Ok(()) => None,
            Err(why) => Some(Ending::Interrupted(why)),
        }
    }

    /// Sends what the chain has put out.
    fn flush(&mut self) {
        if self.out.is_empty() {
            return;
        }
        if !self.reply.is_streaming() {
            self.reply.begin_stream(self.transcript);
        }
        self.deadlines.data_came();
        if self.chain.has_content() {
            self.transcript.first_content();
        }
        if let Some(kept) = &mut self.kept {
            self.out.iter().for_each(|bytes| kept.add(bytes));
        }
        self.out.drain(..).for_each(|bytes| self.reply.data(bytes));
    }

    fn ended(&mut self) -> Ending {
        let finished = self.chain.finish(&mut self.out);
        // What is put out is flushed in any case: a whole last event, or the added [DONE].
        self.flush();
        match finished {
            Ok(Progress::Failed) => Ending::ReportedByBackend,
            Ok(_) => Ending::Whole,
            Err(error) => Ending::Failed(broken(&error)),
        }
    }

    /// The connection failed: an answer that had been complete by then is whole all the same.
    fn broke(&mut self, error: ApiError) -> Ending {
        match self.ended() {
            Ending::Failed(_) => Ending::Failed(error),
            ending => ending,
        }
    }

    /// The last words to the client and the log. Answers the backend's side of a whole answer, whose
    /// formal end is still to be read.
    fn conclude(mut self, ending: Ending) -> Option<Upstream> {
        // Not before a head: then the error has a status of its own.
        if self.reply.is_streaming() {
            self.chain.give_up(&mut self.out);
            self.flush();
        }
        let summary = self.chain.summary();
        self.transcript.tokens(summary.usage, summary.content_events);
        let record = self.transcript.record();
        record.finish_reason.clone_from(&summary.finish_reason);
        record.response = self.kept.take().and_then(Kept::answer);
        match ending {
            Ending::Whole => {
                self.reply.end_whole(self.transcript);
                self.transcript.ended();
                return Some(self.upstream);
            }
            Ending::ReportedByBackend => {
                let message = summary.backend_error.clone();
                self.transcript.failed(&ApiError::backend(502, message));
                self.reply.end();
            }
            Ending::Interrupted(why) => self.reply.interrupted(why, self.transcript),
            Ending::Piece(head, body) => {
                let summary = rules::summarize(&body);
                unary::pass(self.reply, &head, body, summary, self.transcript);
            }
            Ending::Failed(error) => self.reply.refuse(error, self.transcript),
            Ending::Unsent(returned) => self.reply.refuse(returned.error, self.transcript),
            Ending::Error(head, body) => {
                failure::pass_error(self.reply, &head, body, self.transcript);
            }
        }
        None
    }
}

fn broken(error: &Broken) -> ApiError {
    let failure = ApiError::new(Code::BackendUnavailable, error.to_string())
        .hint("the backend may have crashed; its own log tells more");
    if matches!(error, Broken::Nonsense(_)) { failure.quoting() } else { failure }
}

/// Reads the body's formal end, so that the connection can serve the next request.
async fn trail(mut upstream: Upstream) {
    let end = poll_fn(|cx| {
        loop {
            match std::task::ready!(upstream.poll_event(cx)) {
                Event::Chunk(_) | Event::Head(_) => {}
                Event::End | Event::Failed(_) | Event::Unsent(..) => return Poll::Ready(()),
            }
        }
    });
    // Past this the connection is dropped, which is all that is lost.
    let _ = tokio::time::timeout(TRAILING, end).await;
}

/// Defects to order, for tests of what a defect costs; not in release builds.
mod fault {
    use bytes::Bytes;

    #[cfg(debug_assertions)]
    pub(super) fn panic_if_ordered(chunk: &Bytes) {
        use std::sync::OnceLock;
        static TEXT: OnceLock<Option<String>> = OnceLock::new();
        let text = TEXT.get_or_init(|| std::env::var("IMAGEWORKS_TEST_PANIC_ON").ok());
        if let Some(text) = text {
            assert!(!chunk.windows(text.len()).any(|w| w == text.as_bytes()), "ordered by a test");
        }
    }

    #[cfg(not(debug_assertions))]
    pub(super) fn panic_if_ordered(_: &Bytes) {}
}
