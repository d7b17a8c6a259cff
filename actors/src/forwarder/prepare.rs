//! From a client's body to a request that can be sent.
//!
//! Owns: reading the request, finding its model, and the order in which things can be refused
//! (SPEC 5: all that can refuse does so before anything costs). Must never do: wait, but for news of what is loaded.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chat_proxy_core::ApiError;
use chat_proxy_core::chat::request::ChatRequest;
use chat_proxy_core::gpu::{Asker, Class};
use chat_proxy_core::registry::resident::RESIDENT;
use chat_proxy_core::registry::{Entry, Placement, Snapshot, Template};
use chat_proxy_core::relay::{self, Dialect};
use tokio::time::{sleep, timeout};

use super::Shared;
use super::answers::AnswerRules;
use super::cargo::{Outgoing, Relay};
use super::messages::{RequestBody, RequestMeta};
use super::patience;
use super::reply::{Interrupt, Reply};
use crate::transcript::Transcript;

/// What is known of a request before it goes upstream.
pub(super) struct Prepared {
    /// How the client speaks.
    pub(super) dialect: Dialect,
    /// The client wants a stream.
    pub(super) stream: bool,
    /// The client asked for the usage chunk itself.
    pub(super) wants_usage: bool,
    /// What becomes of its answer.
    pub(super) answer: AnswerRules,
    /// Its model.
    pub(super) found: Found,
    /// Who asks.
    pub(super) who: Asker,
    /// See [`RequestMeta::probes_vision`].
    pub(super) probes_vision: bool,
}

impl Prepared {
    /// Asked for whatever is loaded, and what was is not any more: waits a little until something
    /// else is.
    pub(super) async fn moves_on(
        &self,
        shared: &Shared,
        reply: &mut Reply,
        transcript: &mut Transcript,
    ) -> Result<Option<Found>, Interrupt> {
        let news = async {
            loop {
                if let Ok(found) = find(shared, RESIDENT)
                    && found.model != self.found.model
                {
                    return found;
                }
                sleep(LOOK).await;
            }
        };
        let state = "another model is loaded";
        let found = timeout(NEWS, news);
        let found = patience::wait(shared, self.stream, state, found, reply, transcript).await?;
        Ok(found.ok())
    }
}

/// What runs is known here this much later than it is so, at most.
const NEWS: Duration = Duration::from_millis(500);
const LOOK: Duration = Duration::from_millis(10);

/// What the registry says of a model.
pub(super) struct Found {
    /// The logical name.
    pub(super) model: String,
    /// The kind of its backend.
    pub(super) backend: String,
    /// What its backend calls it, by the registry.
    pub(super) served_id: String,
    /// Who answers for it.
    pub(super) placement: Placement,
    /// It is a server of somebody else's, on this GPU.
    pub(super) uses_gpu: bool,
    snapshot: Arc<Snapshot>,
    position: usize,
}

impl Found {
    /// Its entry, as it was when the request came.
    pub(super) fn entry(&self) -> &Entry {
        &self.snapshot.entries()[self.position]
    }

    /// How its entry comes by a chat template.
    pub(super) fn template(&self) -> &Template {
        self.snapshot.template(self.position)
    }

    /// What the log is told of it.
    pub(super) fn tell(&self, transcript: &mut Transcript) {
        let record = transcript.record();
        record.model_logical = Some(self.model.clone());
        record.backend = Some(self.backend.clone());
        record.model_backend_id = Some(self.served_id.clone());
        transcript.priced(self.entry().pricing);
    }
}

fn find(shared: &Shared, name: &str) -> Result<Found, ApiError> {
    let view = shared.registry.load();
    let snapshot = &view.snapshot;
    let position = match name {
        RESIDENT => snapshot.resident(&view.activity)?,
        name => view.position(name)?,
    };
    let (entry, placement) = (&snapshot.entries()[position], snapshot.placement(position));
    Ok(Found {
        model: entry.name.clone(),
        backend: entry.backend.clone(),
        served_id: entry.served_id().to_owned(),
        placement: placement.clone(),
        uses_gpu: entry.backend_config.uses_gpu == Some(true),
        snapshot: snapshot.clone(),
        position,
    })
}

/// Who asks, now that the whole request is known.
fn asker(shared: &Shared, meta: &RequestMeta, request: &Outgoing, name: &str) -> Asker {
    let rules = &shared.settings.class_rules;
    let by_metadata = || match request {
        Outgoing::Chat(chat) => chat.metadata().is_some_and(|m| rules.metadata_matches(&m)),
        Outgoing::Relay(relay) => {
            relay.found.metadata.as_ref().is_some_and(|m| rules.metadata_matches(m))
        }
        Outgoing::Native(_) => false,
    };
    let class = match meta.class {
        Some(class) => class,
        None if rules.look_at_metadata() && by_metadata() => Class::Background,
        None => Class::Interactive,
    };
    Asker { class, only_there: name == RESIDENT, ..meta.who.clone() }
}

/// The few things that a request says of itself.
struct Asked {
    dialect: Dialect,
    model: Option<String>,
    stream: bool,
    wants_usage: bool,
}

/// Reads the request and finds its model; the second part is what is to be sent.
pub(super) fn prepare(
    shared: &Shared,
    body: RequestBody,
    meta: &RequestMeta,
    transcript: &mut Transcript,
) -> Result<(Prepared, Outgoing), ApiError> {
    let (asked, request) = read(body)?;
    transcript.record().stream = asked.stream;
    let name = asked.model.as_deref().or(shared.settings.default_model.as_deref());
    let name = name.ok_or_else(|| {
        ApiError::invalid("model", "`model` is missing")
            .hint("name a model (GET /v1/models lists them), or set default_model")
    })?;
    // Control characters that JSON does not escape would reach whoever reads the log.
    let unescaped = |c: char| c >= '\u{7f}' && c.is_control();
    let plain = |c: char| if unescaped(c) { char::REPLACEMENT_CHARACTER } else { c };
    transcript.record().model_requested = Some(name.chars().take(200).map(plain).collect());
    let who = asker(shared, meta, &request, name);
    transcript.record().class = who.class;
    let found = find(shared, name)?;
    found.tell(transcript);
    let answers = shared.settings.answers;
    let answer = match &request {
        Outgoing::Chat(chat) => answers.of_chat(chat, found.entry()),
        _ => answers.of_others(),
    };
    let prepared = Prepared {
        answer,
        dialect: asked.dialect,
        stream: asked.stream,
        wants_usage: asked.wants_usage,
        found,
        who,
        probes_vision: meta.probes_vision,
    };
    Ok((prepared, request))
}

fn read(body: RequestBody) -> Result<(Asked, Outgoing), ApiError> {
    match body {
        RequestBody::Chat(bytes) => read_chat(bytes),
        RequestBody::Relay { dialect, found, content_type, content } => {
            let asked = Asked {
                dialect,
                model: found.model().map(str::to_owned),
                // What cannot be a stream is waited for whole, whatever was asked for.
                stream: found.stream && dialect.can_stream(),
                wants_usage: relay::Found::wants_usage(&found),
            };
            Ok((asked, Outgoing::Relay(Relay { dialect, found, content_type, content })))
        }
    }
}

fn read_chat(bytes: Bytes) -> Result<(Asked, Outgoing), ApiError> {
    let chat = ChatRequest::parse(bytes)?;
    let asked = Asked {
        dialect: Dialect::Chat,
        model: chat.model().map(str::to_owned),
        stream: chat.stream(),
        wants_usage: chat.wants_usage(),
    };
    Ok((asked, Outgoing::Chat(chat)))
}
