//! A request for a model at Ollama (SPEC 6.2).
//!
//! Owns: the order of its steps: translate, a turn at the GPU, load, send; and the one second try
//! when Ollama was not there and can be started. Must never do: translate; that is
//! `core::chat::ollama`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chat_proxy_core::chat::ollama::{remote_images, translate};
use chat_proxy_core::chat::request::ChatRequest;
use chat_proxy_core::gpu::Tenant;
use chat_proxy_core::registry::OllamaModel;
use chat_proxy_core::{ApiError, Code};
use tokio::sync::oneshot;
use tracing::Span;

use super::admission::{Admitted, admit};
use super::cargo::{Cargo, Outgoing, Target, Unsent};
use super::images;
use super::patience;
use super::reply::{Interrupt, Reply};
use super::task::{Moved, Request};
use crate::ollama::messages::{EnsureLoaded, LoadFailure};
use crate::permits::Permit;
use crate::transcript::Transcript;

/// What became of a load.
enum Loaded {
    /// It is there.
    Yes(Reply),
    /// The request has ended.
    Over,
    /// Nobody is at Ollama's address.
    Absent(Reply, ApiError),
}

/// What became of one try that was not answered.
enum Once {
    /// Nobody was there.
    Unsent(Unsent),
    /// It wanted what is loaded, and this is not any more.
    Elsewhere(Moved),
}

impl Request<'_> {
    pub(super) async fn at_ollama(
        &self,
        model: &Arc<OllamaModel>,
        cargo: Box<Cargo>,
        reply: Reply,
        transcript: &mut Transcript,
    ) -> Option<Moved> {
        let native = matches!(cargo.request, Outgoing::Chat(_));
        let (mut cargo, mut reply) = self.in_its_words(model, cargo, reply, transcript).await?;
        let mut may_return = self.service().is_some();
        loop {
            let unsent =
                match self.once(model, native, may_return, cargo, reply, transcript).await? {
                    Once::Unsent(unsent) => unsent,
                    Once::Elsewhere(moved) => return Some(moved),
                };
            if !may_return {
                unsent.reply.refuse(unsent.error, transcript);
                return None;
            }
            (cargo, reply) = self.start_for(unsent, &model.server, transcript).await?;
            may_return = false;
        }
    }

    /// One try: a turn, a load, and then it is sent. Gives the request back where nobody was there.
    async fn once(
        &self,
        model: &Arc<OllamaModel>,
        native: bool,
        may_return: bool,
        cargo: Box<Cargo>,
        reply: Reply,
        transcript: &mut Transcript,
    ) -> Option<Once> {
        // Ollama's OpenAI routes take no options: what they load may go onto the GPU, whatever the
        // registry wants.
        let needs_turn = if native { model.shares_gpu } else { model.server_shares_gpu };
        let (permit, reply) = match self.turn(needs_turn, reply, transcript).await? {
            Ok(turn) => turn,
            Err((reply, error)) => return Some(Once::Elsewhere(Moved { cargo, reply, error })),
        };
        // Not before the turn: who waits for the GPU must not keep those out who have it, or go first.
        let (_slot, reply) = self.place(reply, transcript).await?;
        // For the same reason they are not preceded by a load.
        let loaded =
            if native { self.load(model, reply, transcript).await } else { Loaded::Yes(reply) };
        let unsent = match loaded {
            Loaded::Over => return None,
            Loaded::Absent(reply, error) => Unsent { reply, error, unreachable: true, cargo },
            Loaded::Yes(reply) => {
                let url = if native {
                    model.native("/api/chat")
                } else {
                    self.prepared.dialect.url(&model.server)
                };
                let target = Target {
                    endpoint: &model.server,
                    url: &url,
                    served_id: &model.tag,
                    may_return,
                    permit: permit.as_ref(),
                };
                self.forward(target, cargo, reply, transcript).await?
            }
        };
        // From here on nothing of it is at Ollama.
        drop(permit);
        unsent.reply.uses(None);
        Some(Once::Unsent(unsent))
    }

    /// Waits for a turn where one is needed; `None`: the request has ended. An error: it wanted what is
    /// loaded, and this is not any more.
    async fn turn(
        &self,
        needed: bool,
        reply: Reply,
        transcript: &mut Transcript,
    ) -> Option<Result<(Option<Permit>, Reply), (Reply, ApiError)>> {
        if !needed {
            return Some(Ok((None, reply)));
        }
        let tenant = Tenant::Ollama;
        let wanted = self.wanted(&tenant, None);
        match admit(self.shared, &wanted, reply, transcript).await {
            Admitted::Granted(permit, reply) => Some(Ok((Some(permit), reply))),
            Admitted::Over => None,
            Admitted::Elsewhere(reply, error) => Some(Err((reply, error))),
        }
    }

    /// Puts a chat request into Ollama's words; anything else goes to Ollama's own OpenAI routes.
    async fn in_its_words(
        &self,
        model: &OllamaModel,
        cargo: Box<Cargo>,
        mut reply: Reply,
        transcript: &mut Transcript,
    ) -> Option<(Box<Cargo>, Reply)> {
        let Outgoing::Chat(chat) = &cargo.request else {
            return Some((cargo, reply));
        };
        let images = self.images(chat, &mut reply, transcript).await;
        let (images, mut reply) = patience::settled(images, reply, transcript)?;
        let mut pinned = model.pinned();
        pinned.can_think = pinned.can_think.or_else(|| self.says_it_thinks(model));
        match translate(&chat.changed_body(), &pinned, &images) {
            Ok(native) => {
                reply.label_more(native.losses.header());
                Some((Box::new(Cargo { request: Outgoing::Native(native.body), ..*cargo }), reply))
            }
            Err(error) => {
                reply.refuse(error, transcript);
                None
            }
        }
    }

    /// The images that the request names by address, where they may be fetched.
    async fn images(
        &self,
        chat: &ChatRequest,
        reply: &mut Reply,
        transcript: &mut Transcript,
    ) -> Result<Result<HashMap<String, Bytes>, ApiError>, Interrupt> {
        let rules = &self.shared.settings.images;
        // Looking for them reads the whole body.
        let wanted = if rules.fetch { remote_images(&chat.changed_body()) } else { Vec::new() };
        if wanted.is_empty() {
            return Ok(Ok(HashMap::new()));
        }
        let fetching = images::fetch_all(&wanted, rules);
        let stream = self.prepared.stream;
        patience::wait(self.shared, stream, "images are fetched", fetching, reply, transcript).await
    }

    /// What Ollama has said of the model, if it has.
    fn says_it_thinks(&self, model: &OllamaModel) -> Option<bool> {
        let view = self.shared.registry.load();
        let tag = view.activity.ollama_of(model)?.tag(&model.tag)?;
        let abilities = tag.capabilities.as_ref()?;
        Some(abilities.iter().any(|ability| ability == "thinking"))
    }

    /// Waits until the model is loaded, once for all who want it.
    async fn load(
        &self,
        model: &Arc<OllamaModel>,
        mut reply: Reply,
        transcript: &mut Transcript,
    ) -> Loaded {
        let began = Instant::now();
        let (answer, outcome) = oneshot::channel();
        let order = EnsureLoaded { model: model.clone(), span: Span::current(), reply: answer };
        if self.shared.turns.ollama.tell(order).is_err() {
            // It is being rebuilt; Ollama loads what it is asked for in any case.
            return Loaded::Yes(reply);
        }
        let (shared, stream) = (self.shared, self.prepared.stream);
        let state = "the model is loading";
        let waited = patience::wait(shared, stream, state, outcome, &mut reply, transcript).await;
        transcript.waited(Duration::ZERO, began.elapsed());
        match waited {
            Err(why) => {
                reply.interrupted(why, transcript);
                Loaded::Over
            }
            Ok(Ok(Ok(())) | Err(_)) => Loaded::Yes(reply),
            Ok(Ok(Err(LoadFailure { error, unreachable: true }))) => Loaded::Absent(reply, error),
            Ok(Ok(Err(LoadFailure { error, .. }))) => {
                if error.code == Code::ModelNotFound {
                    tracing::warn!(
                        model = model.tag,
                        "Ollama does not have a model of the registry"
                    );
                }
                reply.refuse(error, transcript);
                Loaded::Over
            }
        }
    }
}
