//! One request from its body to its end.
//!
//! Owns: the order of the steps and what is handed back at the end. Must never do: answer twice;
//! the [`Reply`] is consumed by the answer.

use std::any::Any;
use std::rc::Rc;

use bytes::Bytes;

use super::messages::{Forward, RequestMeta};
use super::prepare::{dispatch, prepare};
use super::reply::Reply;
use super::{Shared, pump, unary};
use crate::transcript::Transcript;

pub(super) async fn run(shared: Rc<Shared>, request: Forward) {
    let Forward { body, share, meta, mut transcript, running, reply, span: _ } = request;
    let reply = Reply::new(reply, shared.switch.subscribe());
    serve(&shared, Incoming { body, share, meta }, reply, &mut transcript).await;
    // The answer goes out first: handing over the record wakes the log's thread, and that costs
    // more than the rest of the request.
    transcript.ended();
    tokio::task::yield_now().await;
    // The record is handed over before the request stops counting as running: a drain that waits
    // for the count then finds every record with the log.
    drop(transcript);
    drop(running);
}

struct Incoming {
    body: Bytes,
    share: Box<dyn Any + Send>,
    meta: RequestMeta,
}

async fn serve(shared: &Shared, incoming: Incoming, reply: Reply, transcript: &mut Transcript) {
    let mut prepared = match prepare(shared, incoming.body, transcript) {
        Ok(prepared) => prepared,
        Err(error) => return reply.refuse(error, transcript),
    };
    let upstream = match dispatch(shared, &mut prepared, &incoming.meta) {
        Ok(upstream) => upstream.holding(incoming.share),
        Err(error) => return reply.refuse(error, transcript),
    };
    if prepared.stream {
        pump::run(shared, prepared, upstream, reply, transcript).await;
    } else {
        unary::run(shared, prepared, upstream, reply, transcript).await;
    }
}
