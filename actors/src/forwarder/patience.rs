//! Waiting for something else than a turn, on behalf of a client.
//!
//! Owns: what the client is told meanwhile, and that the wait ends when the client goes, or the daemon
//! drains. Must never
//! do: bound the wait; whoever is waited for does.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use chat_proxy_core::ApiError;

use super::Shared;
use super::admission::Heart;
use super::reply::{Interrupt, Reply};
use crate::transcript::Transcript;

/// Waits for `what`; streaming clients hear `state` in comments.
pub(super) async fn wait<T>(
    shared: &Shared,
    stream: bool,
    state: &str,
    what: impl Future<Output = T>,
    reply: &mut Reply,
    transcript: &mut Transcript,
) -> Result<T, Interrupt> {
    let tell = || format!("position 0, {state}");
    // Boxed: who need not wait shall not carry the room for it.
    Box::pin(wait_telling(shared, stream, &tell, what, reply, transcript)).await
}

/// What came of such a wait, and the way back to the client; `None`: the request has ended.
pub(super) fn settled<T>(
    waited: Result<Result<T, ApiError>, Interrupt>,
    reply: Reply,
    transcript: &mut Transcript,
) -> Option<(T, Reply)> {
    match waited {
        Ok(Ok(outcome)) => return Some((outcome, reply)),
        Ok(Err(error)) => reply.refuse(error, transcript),
        Err(why) => reply.interrupted(why, transcript),
    }
    None
}

/// The same; what they hear is made anew each time.
pub(super) async fn wait_telling<T>(
    shared: &Shared,
    stream: bool,
    tell: &dyn Fn() -> String,
    what: impl Future<Output = T>,
    reply: &mut Reply,
    transcript: &mut Transcript,
) -> Result<T, Interrupt> {
    let every = shared.settings.heartbeat.limit().filter(|_| stream);
    let mut heart = Heart::new(every, reply.heard());
    let mut what = pin!(what);
    reply.waits(true);
    loop {
        let ended = poll_fn(|cx| {
            if let Poll::Ready(why) = reply.poll_interrupt(cx) {
                return Poll::Ready(Err(why));
            }
            if let Poll::Ready(outcome) = what.as_mut().poll(cx) {
                return Poll::Ready(Ok(Some(outcome)));
            }
            heart.poll(cx).map(|()| Ok(None))
        });
        if let Some(outcome) = ended.await? {
            reply.waits(false);
            return Ok(outcome);
        }
        reply.comfort(&tell(), transcript);
    }
}
