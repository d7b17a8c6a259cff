//! One request from its body to its end.
//!
//! Owns: the order of the steps, the one second try at a backend that was not there, and what is
//! handed back at the end. Must never do: answer twice; the [`Reply`] is consumed by the answer.

use std::any::Any;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use chat_proxy_core::engine::Launch;
use chat_proxy_core::gpu::Tenant;
use chat_proxy_core::ids::Generation;
use chat_proxy_core::registry::{Endpoint, Placement};
use chat_proxy_core::{ApiError, Code};

use super::admission::{Admitted, Wanted, admit};
use super::cargo::{Cargo, Target, Unsent};
use super::messages::{Forward, RequestBody, RequestMeta};
use super::prepare::{Prepared, prepare};
use super::reply::Reply;
use super::upstream::Upstream;
use super::{Shared, autostart, policies, prompts, pump, unary};
use crate::client::PostError;
use crate::transcript::Transcript;

pub(super) async fn run(shared: Rc<Shared>, request: Forward) {
    let Forward { body, share, meta, mut transcript, running, reply, span: _ } = request;
    let reply = Reply::new(reply, shared.switch.subscribe(), body.dialect());
    serve(&shared, Incoming { body, share, meta }, reply, &mut transcript).await;
    // The answer goes out first.
    transcript.ended();
    behind_those_woken().await;
    // The record is handed over before the request stops counting as running: a drain that waits
    // for the count then finds every record with the log.
    drop(transcript);
    drop(running);
}

/// Lets tasks run that have been woken before. tokio's `yield_now` would look for events first, which
/// is a system call.
async fn behind_those_woken() {
    let mut waited = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut waited, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

struct Incoming {
    body: RequestBody,
    share: Box<dyn Any + Send>,
    meta: RequestMeta,
}

async fn serve(shared: &Shared, incoming: Incoming, mut reply: Reply, transcript: &mut Transcript) {
    let Incoming { body, share, meta } = incoming;
    if let RequestBody::Chat(bytes) = &body {
        transcript.asked(bytes);
    }
    if transcript.keeps_prompts() {
        transcript.record().messages = Box::pin(prompts::of(&body)).await;
    }
    let (mut prepared, request) = match prepare(shared, body, &meta, transcript) {
        Ok(prepared) => prepared,
        Err(error) => return reply.refuse(error, transcript),
    };
    let (mut request, mut share) = (request, share);
    for moves in 0.. {
        // Who follows what is loaded may have to be made fit for another model.
        let as_it_came = prepared.who.only_there.then(|| request.clone());
        // Boxed: what it needs is not held while the answer streams.
        let fit = Box::pin(policies::apply(shared, &prepared, request, reply, transcript)).await;
        let Some((fit, held)) = fit else { return };
        let story = Request { shared, prepared: &prepared, meta: &meta };
        let cargo = Box::new(Cargo { request: fit, share, as_it_came });
        let Some(moved) = story.at_its_place(cargo, held, transcript).await else { return };
        let Moved { cargo, reply: held, error } = moved;
        reply = held;
        if moves >= MAX_MOVES {
            return reply.refuse(error, transcript);
        }
        let found = match Box::pin(prepared.moves_on(shared, &mut reply, transcript)).await {
            Ok(found) => found,
            Err(why) => return reply.interrupted(why, transcript),
        };
        let (Some(found), Some(as_it_came)) = (found, cargo.as_it_came) else {
            return reply.refuse(error, transcript);
        };
        found.tell(transcript);
        prepared.found = found;
        (request, share) = (as_it_came, cargo.share);
    }
}

/// So often a request for whatever is loaded follows it elsewhere.
const MAX_MOVES: u32 = 3;

/// A request that wanted what is loaded, and found it gone.
pub(super) struct Moved {
    pub(super) cargo: Box<Cargo>,
    pub(super) reply: Reply,
    pub(super) error: ApiError,
}

/// A request that has been understood.
pub(super) struct Request<'a> {
    pub(super) shared: &'a Shared,
    pub(super) prepared: &'a Prepared,
    pub(super) meta: &'a RequestMeta,
}

impl Request<'_> {
    async fn at_its_place(
        &self,
        cargo: Box<Cargo>,
        reply: Reply,
        transcript: &mut Transcript,
    ) -> Option<Moved> {
        match &self.prepared.found.placement {
            Placement::SinglePort(launch) => {
                Box::pin(self.supervised(launch, cargo, reply, transcript)).await
            }
            Placement::Ollama(model) => {
                Box::pin(self.at_ollama(model, cargo, reply, transcript)).await
            }
            Placement::External(endpoint) => {
                Box::pin(self.external(endpoint, cargo, reply, transcript)).await;
                None
            }
        }
    }

    /// Waits for a turn, sends, and once more if the engine went before it answered a byte.
    async fn supervised(
        &self,
        launch: &Arc<Launch>,
        mut cargo: Box<Cargo>,
        mut reply: Reply,
        transcript: &mut Transcript,
    ) -> Option<Moved> {
        let tenant = Tenant::Vllm(launch.clone());
        let mut refused_by = None;
        loop {
            let wanted = self.wanted(&tenant, refused_by);
            let (permit, held) = match admit(self.shared, &wanted, reply, transcript).await {
                Admitted::Granted(permit, held) => (permit, held),
                Admitted::Over => return None,
                Admitted::Elsewhere(reply, error) => return Some(Moved { cargo, reply, error }),
            };
            // The engine that runs may have been started before the entry was changed: it is asked
            // by the name that it knows.
            let Launch { endpoint, served_id, .. } = &**permit.tenant.launch().unwrap_or(launch);
            transcript.record().model_backend_id = Some(served_id.clone());
            let url = self.prepared.dialect.url(endpoint);
            let target = Target {
                endpoint,
                url: &url,
                served_id,
                may_return: refused_by.is_none(),
                permit: Some(&permit),
            };
            let sent = self.forward(target, cargo, held, transcript).await;
            let unsent = sent?;
            if !target.may_return {
                let error = self.shared.explain(target.permit, unsent.error).await;
                unsent.reply.refuse(error, transcript);
                return None;
            }
            tracing::warn!(error = %unsent.error, "sent back to the queue");
            unsent.reply.uses(None);
            refused_by = Some(permit.generation);
            (cargo, reply) = (unsent.cargo, unsent.reply);
        }
    }

    /// Sends to a server that somebody else runs; if nobody is there, and a service is known that
    /// would be, once more when that has been started.
    async fn external(
        &self,
        endpoint: &Endpoint,
        mut cargo: Box<Cargo>,
        mut reply: Reply,
        transcript: &mut Transcript,
    ) {
        let _slot = loop {
            if self.prepared.found.uses_gpu {
                let Some(passed) = Box::pin(self.past_lease(reply, transcript)).await else {
                    return;
                };
                reply = passed;
            }
            let Some((slot, entered)) = self.place(reply, transcript).await else { return };
            reply = entered;
            // It may have been leased while this one stood in line.
            if !(self.prepared.found.uses_gpu && self.is_kept_out()) {
                break slot;
            }
        };
        let url = self.prepared.dialect.url(endpoint);
        let mut may_return = self.service().is_some();
        loop {
            let served_id = &self.prepared.found.served_id;
            let target = Target { endpoint, url: &url, served_id, may_return, permit: None };
            let sent = self.forward(target, cargo, reply, transcript).await;
            let Some(unsent) = sent else { return };
            let Some((again, held)) = self.start_for(unsent, endpoint, transcript).await else {
                return;
            };
            (cargo, reply, may_return) = (again, held, false);
        }
    }

    /// What it asks of the arbiter.
    pub(super) fn wanted<'b>(
        &'b self,
        tenant: &'b Tenant,
        refused_by: Option<Generation>,
    ) -> Wanted<'b> {
        Wanted {
            tenant,
            stream: self.prepared.stream,
            refused_by,
            who: &self.prepared.who,
            request_id: &self.meta.request_id,
        }
    }

    /// The id of an answer that we write ourselves.
    pub(super) fn completion_id(&self) -> String {
        format!("chatcmpl-{}", self.meta.upstream_id)
    }

    /// How long a streamed answer's head may take. Ollama sends it with the first token, behind its own
    /// queue, the load of the model, and the reading of the prompt.
    pub(super) fn head_timeout(&self) -> Option<Duration> {
        let settings = &self.shared.settings;
        let head = settings.head_timeout.limit()?;
        match self.prepared.found.placement {
            Placement::Ollama(_) => {
                let first_token = settings.first_token_timeout.limit()?;
                Some(head.max(first_token).max(settings.ollama_load_timeout?))
            }
            _ => Some(head),
        }
    }

    /// The service that is started for this request where its backend is not there.
    pub(super) fn service(&self) -> Option<&str> {
        self.shared
            .settings
            .autostart
            .service_for(&self.prepared.found.model, &self.prepared.found.backend)
    }

    /// Has the service started that this request needs; `None`: the request has ended.
    pub(super) async fn start_for(
        &self,
        unsent: Unsent,
        endpoint: &Endpoint,
        transcript: &mut Transcript,
    ) -> Option<(Box<Cargo>, Reply)> {
        let Unsent { reply, error, unreachable, cargo } = unsent;
        let Some(service) = self.service().filter(|_| unreachable) else {
            reply.refuse(error, transcript);
            return None;
        };
        let reply =
            Box::pin(autostart::start(self, service, endpoint, error, reply, transcript)).await?;
        Some((cargo, reply))
    }

    fn cannot_ask(&self, error: PostError) -> ApiError {
        match error {
            PostError::Key(error) => error,
            PostError::Head(error) => ApiError::new(
                Code::BackendUnavailable,
                format!("the backend cannot be asked: {error}"),
            ),
            PostError::Ca(error) => {
                // The path is the operator's business, not the client's.
                let model = &self.prepared.found.model;
                tracing::error!(%error, model, "a backend cannot be trusted");
                ApiError::new(Code::BackendUnavailable, "the backend's ca_file cannot be used")
                    .hint("the proxy's own log says why")
            }
        }
    }

    /// Sends the request and streams the answer; gives it back if it may return and must.
    ///
    /// The client's body shall not stay in memory for as long as an answer streams: it goes when
    /// the answer begins.
    pub(super) async fn forward(
        &self,
        target: Target<'_>,
        cargo: Box<Cargo>,
        reply: Reply,
        transcript: &mut Transcript,
    ) -> Option<Unsent> {
        let _at_backend = transcript.at_backend();
        let Request { shared, prepared, meta } = self;
        let native = matches!(cargo.request, super::cargo::Outgoing::Native(_));
        let streams = prepared.stream && !native;
        let upstream = match shared.clients.post(target.endpoint, target.url, streams) {
            Ok(head) => Upstream::send(&head, &target, meta, cargo),
            Err(error) => {
                reply.refuse(self.cannot_ask(error), transcript);
                return None;
            }
        };
        let kind = if native { pump::Kind::Native } else { pump::Kind::Plain };
        if prepared.stream {
            Box::pin(pump::run(self, kind, &target, upstream, reply, transcript)).await
        } else {
            Box::pin(unary::run(self, kind, &target, upstream, reply, transcript)).await
        }
    }
}
