//! One request from its body to its end.
//!
//! Owns: the order of the steps, the one second try at a supervised engine, and what is handed back
//! at the end. Must never do: answer twice; the [`Reply`] is consumed by the answer.

use std::any::Any;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use chat_proxy_core::engine::Launch;
use chat_proxy_core::registry::Placement;

use super::admission::{Wanted, admit};
use super::cargo::{Cargo, Target, Unsent};
use super::messages::{Forward, RequestMeta};
use super::prepare::{Prepared, dispatch, prepare};
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
    let Incoming { body, share, meta } = incoming;
    let (prepared, request) = match prepare(shared, body, transcript) {
        Ok(prepared) => prepared,
        Err(error) => return reply.refuse(error, transcript),
    };
    let cargo = Cargo { request, share };
    let request = Request { shared, prepared: &prepared, meta: &meta };
    match &prepared.placement {
        Placement::SinglePort(launch) => request.supervised(launch, cargo, reply, transcript).await,
        Placement::External(endpoint) => {
            let target = Target {
                endpoint,
                served_id: &prepared.served_id,
                may_return: false,
                permit: None,
            };
            let unsent = request.forward(target, cargo, reply, transcript).await;
            if let Some(unsent) = unsent {
                unsent.reply.refuse(unsent.error, transcript);
            }
        }
        Placement::Ollama => reply.refuse(super::prepare::no_ollama(&prepared.model), transcript),
    }
}

struct Request<'a> {
    shared: &'a Shared,
    prepared: &'a Prepared,
    meta: &'a RequestMeta,
}

impl Request<'_> {
    /// Waits for a turn, sends, and once more if the engine went before it answered a byte.
    async fn supervised(
        &self,
        launch: &Arc<Launch>,
        mut cargo: Cargo,
        mut reply: Reply,
        transcript: &mut Transcript,
    ) {
        let mut refused_by = None;
        loop {
            let wanted = Wanted { launch, stream: self.prepared.stream, refused_by };
            let Some((permit, held)) = admit(self.shared, &wanted, reply, transcript).await else {
                return;
            };
            // The engine that runs may have been started before the entry was changed: it is asked
            // by the name that it knows.
            let Launch { endpoint, served_id, .. } = &*permit.launch;
            transcript.record().model_backend_id = Some(served_id.clone());
            let target = Target {
                endpoint,
                served_id,
                may_return: refused_by.is_none(),
                permit: Some(&permit),
            };
            let sent = self.forward(target, cargo, held, transcript).await;
            let Some(unsent) = sent else { return };
            if !target.may_return {
                let error = self.shared.explain(target.permit, unsent.error).await;
                return unsent.reply.refuse(error, transcript);
            }
            tracing::warn!(error = %unsent.error, "sent back to the queue");
            unsent.reply.uses(None);
            refused_by = Some(permit.generation);
            (cargo, reply) = (unsent.cargo, unsent.reply);
        }
    }

    /// Sends the request and streams the answer; gives it back if it may return and must.
    async fn forward(
        &self,
        target: Target<'_>,
        cargo: Cargo,
        reply: Reply,
        transcript: &mut Transcript,
    ) -> Option<Unsent> {
        let _at_backend = transcript.at_backend();
        let Request { shared, prepared, meta } = self;
        let upstream = match dispatch(shared, prepared, &target, meta, cargo) {
            Ok(upstream) => upstream,
            Err(error) => {
                reply.refuse(error, transcript);
                return None;
            }
        };
        if prepared.stream {
            pump::run(shared, prepared, &target, upstream, reply, transcript).await
        } else {
            unary::run(shared, prepared, &target, upstream, reply, transcript).await
        }
    }
}
