//! A request that is answered in one piece.
//!
//! Owns: reading the whole body within its bounds, and judging it (`core::chat::unary`). Must
//! never do: pass on a body that was cut; until it is whole nothing has been sent, so a cut one
//! gets a real status.

use std::future::poll_fn;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use chat_proxy_core::chat::edits::splice;
use chat_proxy_core::chat::fields;
use chat_proxy_core::chat::ollama::whole_answer;
use chat_proxy_core::chat::tool_calls;
use chat_proxy_core::chat::unary::{self as rules, Summary};
use chat_proxy_core::error::Retry;
use chat_proxy_core::relay::Dialect;
use chat_proxy_core::telemetry::answer::Answer as Kept;
use chat_proxy_core::telemetry::estimate;
use chat_proxy_core::{ApiError, Code};
use tokio::time::Instant;

use super::cargo::{Target, Unsent};
use super::failure::{broke_off, not_an_answer, pass_error};
use super::messages::{Labels, WholeAnswer};
use super::pump::Kind;
use super::reply::{Interrupt, Reply, engine_gone};
use super::task::Request;
use super::upstream::{Event, Head, Returned, Upstream};
use crate::clock::unix_now;
use crate::transcript::Transcript;

/// The largest answer in one piece.
const MAX_ANSWER: usize = 64 << 20;

enum Fetched {
    Whole(Head, Bytes),
    Interrupted(Interrupt),
    Failed(ApiError),
    Unsent(Box<Returned>),
}

/// Fetches the answer; gives the request back where it is to be sent again.
pub(super) async fn run(
    request: &Request<'_>,
    kind: Kind,
    target: &Target<'_>,
    mut upstream: Upstream,
    mut reply: Reply,
    transcript: &mut Transcript,
) -> Option<Unsent> {
    let shared = request.shared;
    let limit = shared.settings.unary_timeout;
    let fetching = fetch(&mut upstream, &mut reply);
    let fetched = match limit.limit() {
        None => fetching.await,
        Some(limit) => match tokio::time::timeout_at(Instant::now() + limit, fetching).await {
            Ok(fetched) => fetched,
            Err(_) => Fetched::Failed(too_late(limit.as_millis())),
        },
    };
    match fetched {
        Fetched::Interrupted(Interrupt::EngineGone) => {
            reply.refuse(shared.explain(target.permit, engine_gone()).await, transcript);
        }
        Fetched::Interrupted(why) => reply.interrupted(why, transcript),
        Fetched::Failed(error) => {
            reply.refuse(shared.explain(target.permit, error).await, transcript);
        }
        Fetched::Unsent(returned) => {
            let Returned { error, unreachable, cargo } = *returned;
            shared.clients.forget(target.endpoint);
            return Some(Unsent { reply, error, unreachable, cargo });
        }
        Fetched::Whole(head, body) => {
            let dialect = request.prepared.dialect;
            if let Err(error) = judge(&head, &body, upstream.address(), dialect) {
                shared.clients.forget(target.endpoint);
                reply.refuse(shared.explain(target.permit, error).await, transcript);
            } else if !head.status.is_success() {
                pass_error(reply, &head, body, transcript);
            } else if kind == Kind::Native {
                match whole_answer(&body, &request.completion_id(), unix_now()) {
                    Ok(body) => {
                        let (body, summary) = harmonised(request, body);
                        pass(reply, &as_json(head, &body), body, summary, transcript);
                    }
                    Err(error) => reply.refuse(error, transcript),
                }
            } else {
                let (body, summary) = if dialect.has_choices() {
                    harmonised(request, body)
                } else {
                    let summary = rules::summarize(&body);
                    (body, summary)
                };
                pass(reply, &head, body, summary, transcript);
            }
        }
    }
    None
}

/// An answer with its calls, thoughts and fields as clients understand them, and what it says of itself.
fn harmonised(request: &Request<'_>, body: Bytes) -> (Bytes, Summary) {
    let wanted = &request.prepared.answer;
    let anew = if wanted.text.is_empty() { None } else { tool_calls::whole(&body, &wanted.text) };
    let body = anew.map_or(body, Bytes::from);
    let (summary, facts) = rules::read(&body);
    let concerned = facts.is_some_and(|facts| wanted.fields.concern(&facts));
    let edits = if concerned { fields::edits(&body, &wanted.fields) } else { Vec::new() };
    let body = if edits.is_empty() { body } else { splice(&body, edits).concat().into() };
    (body, summary)
}

/// Reads until the body's end, the client's departure, or the bound.
async fn fetch(upstream: &mut Upstream, reply: &mut Reply) -> Fetched {
    let mut head = None;
    let mut body = Collected::default();
    loop {
        match poll_fn(|cx| poll_next(upstream, reply, cx)).await {
            Err(why) => return Fetched::Interrupted(why),
            Ok(Event::Head(came)) => head = Some(came),
            Ok(Event::Chunk(chunk)) => {
                if body.len() + chunk.len() > MAX_ANSWER {
                    return Fetched::Failed(too_large(upstream.address()));
                }
                body.push(chunk);
            }
            Ok(Event::Failed(error)) => return Fetched::Failed(error),
            Ok(Event::Unsent(returned)) => return Fetched::Unsent(returned),
            Ok(Event::End) => {
                return match head {
                    Some(head) => Fetched::Whole(head, body.into_bytes()),
                    None => Fetched::Failed(ApiError::new(
                        Code::BackendUnavailable,
                        format!("{} ended before it answered", upstream.address()),
                    )),
                };
            }
        }
    }
}

fn poll_next(
    upstream: &mut Upstream,
    reply: &mut Reply,
    cx: &mut Context<'_>,
) -> Poll<Result<Event, Interrupt>> {
    if let Poll::Ready(why) = reply.poll_interrupt(cx) {
        return Poll::Ready(Err(why));
    }
    upstream.poll_event(cx).map(Ok)
}

/// A body as it comes in: one chunk stays as it is, several are joined.
#[derive(Default)]
struct Collected {
    first: Bytes,
    more: BytesMut,
}

impl Collected {
    fn len(&self) -> usize {
        self.first.len().max(self.more.len())
    }

    fn push(&mut self, chunk: Bytes) {
        if self.first.is_empty() {
            self.first = chunk;
            return;
        }
        if self.more.is_empty() {
            self.more.extend_from_slice(&self.first);
        }
        self.more.extend_from_slice(&chunk);
    }

    fn into_bytes(self) -> Bytes {
        if self.more.is_empty() { self.first } else { self.more.freeze() }
    }
}

/// Whether this is an answer at all, and whole.
fn judge(head: &Head, body: &Bytes, address: &str, dialect: Dialect) -> Result<(), ApiError> {
    let good = head.status.is_success();
    let whole = if good && dialect.answers_in_json() {
        rules::is_chat_answer(head.content_length, body)
    } else {
        rules::is_complete(head.content_length, &head.content_type, body)
    };
    if good && body.is_empty() && head.content_length.unwrap_or(0) == 0 {
        return Err(not_an_answer(head, body, address, false));
    }
    if !whole {
        return Err(broke_off(address, body.len()));
    }
    if good || head.status.is_client_error() || head.status.is_server_error() {
        return Ok(());
    }
    Err(not_an_answer(head, body, address, false))
}

/// The head of an answer that has become OpenAI's.
fn as_json(head: Head, body: &Bytes) -> Head {
    let content_type = "application/json".to_owned();
    Head { content_type, content_length: Some(body.len() as u64), ..head }
}

pub(super) fn pass(
    reply: Reply,
    head: &Head,
    body: Bytes,
    summary: Summary,
    transcript: &mut Transcript,
) {
    let estimate = if summary.usage.is_some() { 0 } else { estimate::of_answer(&body) };
    transcript.tokens(summary.usage, estimate);
    transcript.record().finish_reason = summary.finish_reason;
    if transcript.keeps_prompts() {
        transcript.record().response = Some(Kept::Whole(body.clone()));
    }
    let answer = WholeAnswer {
        status: head.status.as_u16(),
        content_type: head.content_type.clone(),
        retry_after: head.retry_after.clone(),
        retry: Retry::Unsaid,
        body,
        labels: Labels::default(),
    };
    reply.whole(answer, transcript);
}

fn too_late(millis: u128) -> ApiError {
    ApiError::new(
        Code::BackendTimeout,
        format!("the backend sent no whole answer within {millis} ms"),
    )
    .hint("raise unary_timeout_ms, or ask for a stream")
}

fn too_large(address: &str) -> ApiError {
    let message = format!("the answer of {address} is larger than {MAX_ANSWER} bytes");
    ApiError::new(Code::BackendUnavailable, message).hint("ask for a stream")
}
