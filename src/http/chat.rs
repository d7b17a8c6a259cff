//! `POST /v1/chat/completions`, and what every request for a model goes through once its body is
//! there.
//!
//! Owns: the request's story from its arrival, handing it to the thread's forwarder, and the answer
//! as a response. Must never do: look into the body.

use std::any::Any;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::{HttpMessage, HttpRequest, HttpResponse, HttpResponseBuilder, web};
use chat_proxy_actors::forwarder::{
    Answer, Forward, Labels, RequestBody, RequestMeta, StreamAnswer, WholeAnswer,
};
use chat_proxy_actors::transcript::Transcript;
use chat_proxy_core::gpu::{Asker, Class, ClassRules, ClientId, LeaseToken};
use chat_proxy_core::relay::Dialect;
use chat_proxy_core::{ApiError, Code};
use send_wrapper::SendWrapper;
use tokio::sync::oneshot;

use super::body::NoBody;
use super::front::{Identity, TRACEPARENT, trace_id};
use super::state::AppState;
use super::stream::{self, StreamBody, WholeBody};
use super::{body, error};
use crate::life::Running;

/// Its path.
pub(super) const PATH: &str = "/v1/chat/completions";

/// Reads the body and forwards it. When the client goes, this future is dropped, and with it the
/// receiver that the forwarder watches.
pub(super) async fn completions(
    request: HttpRequest,
    mut payload: web::Payload,
    state: web::Data<AppState>,
) -> HttpResponse {
    let arrival = Arrival::of(&request, &state, Dialect::Chat);
    let max = state.settings().limits.max_body_bytes;
    let stall = state.settings().server.client_header_timeout_s.limit();
    let reading = body::read(&mut payload, request.headers(), max, stall, &state.budget);
    match arrival.read(&state, reading).await {
        Ok((arrival, (body, share))) => {
            arrival.forward(&state, RequestBody::Chat(body), Box::new(share)).await
        }
        Err(refused) => refused,
    }
}

/// A request for a model that has just arrived.
pub(super) struct Arrival {
    dialect: Dialect,
    meta: RequestMeta,
    transcript: Transcript,
    running: Running,
    /// Its head already shows that it cannot be answered.
    refused: Option<ApiError>,
}

impl Arrival {
    pub(super) fn of(request: &HttpRequest, state: &AppState, dialect: Dialect) -> Self {
        let identity = request.extensions().get::<Identity>().cloned().unwrap_or_default();
        let running = state.life.enter();
        let audience = state.audience.clone();
        let (class, refused) = match class(request.headers(), &state.class_rules()) {
            Ok(class) => (class, None),
            Err(error) => (None, Some(error)),
        };
        let meta = meta(request, &identity, class);
        let Identity { request_id, client, .. } = identity;
        let mut transcript = Transcript::begin(audience, request_id, client, dialect.path());
        transcript.record().class = class.unwrap_or_default();
        Arrival { dialect, meta, transcript, running, refused }
    }

    /// Waits for the body; what cannot be taken is answered here.
    pub(super) async fn read<T>(
        mut self,
        state: &AppState,
        reading: impl Future<Output = Result<T, NoBody>>,
    ) -> Result<(Self, T), HttpResponse> {
        if let Some(error) = self.refused.take() {
            self.transcript.failed(&error);
            return Err(error::respond_in(self.dialect, &error));
        }
        let read = tokio::select! {
            biased;
            read = reading => read,
            () = state.life.until_cut() => Err(NoBody::Refused(ApiError::new(
                Code::Draining,
                "the proxy is shutting down and did not wait for the rest of this request",
            ))),
        };
        match read {
            Ok(read) => Ok((self, read)),
            Err(NoBody::Refused(error)) => {
                self.transcript.failed(&error);
                Err(error::respond_in(self.dialect, &error))
            }
            Err(NoBody::Gone) => {
                self.transcript.cancelled();
                Err(HttpResponse::BadRequest().finish()) // nobody is there to read it
            }
        }
    }

    /// Hands the request to the thread's forwarder and waits for its answer. `share`: held until
    /// the backend has the body.
    pub(super) async fn forward(
        self,
        state: &AppState,
        body: RequestBody,
        share: Box<dyn Any + Send>,
    ) -> HttpResponse {
        let Arrival { dialect, meta, transcript, running, .. } = self;
        let (reply, answer) = oneshot::channel();
        state.forwarders.local().do_send(Forward {
            body,
            share,
            meta,
            transcript,
            running: Box::new(state.life.enter()),
            reply,
            span: tracing::Span::current(),
        });
        match answer.await.map(SendWrapper::take) {
            Ok(Answer::Whole(answer)) => whole(answer, running),
            Ok(Answer::Stream(answer)) => streamed(answer, dialect, running),
            Ok(Answer::Refused(refusal)) => error::respond_in(dialect, &refusal),
            // The request's task died; its transcript has told the log.
            Err(_) => {
                let error = ApiError::new(Code::Internal, "the proxy failed on this request");
                error::respond_in(dialect, &error)
            }
        }
    }
}

/// A client's header that is longer is not passed on.
const MAX_PASSED_ON: usize = 512;

fn meta(request: &HttpRequest, identity: &Identity, class: Option<Class>) -> RequestMeta {
    let text = |name: HeaderName| request.headers().get(name)?.to_str().ok().map(str::to_owned);
    // What is passed on must leave the backend's own limit of a head to us.
    let short = |name: HeaderName| text(name).filter(|value| value.len() <= MAX_PASSED_ON);
    RequestMeta {
        request_id: identity.request_id.clone(),
        who: Asker {
            client: ClientId::named(&identity.client),
            pass: text(LEASE_TOKEN).as_deref().map(LeaseToken::from),
            ..Asker::default()
        },
        class,
        upstream_id: identity.upstream_id.clone(),
        user_agent: short(header::USER_AGENT),
        traceparent: short(TRACEPARENT).filter(|_| trace_id(request.headers()).is_some()),
        // Somebody tries whether the model sees, whatever its entry says.
        probes_vision: text(PROBE).is_some_and(|what| what == "vision"),
    }
}

/// What the request's head says of its class; an error: a word that is none.
fn class(headers: &HeaderMap, rules: &ClassRules) -> Result<Option<Class>, ApiError> {
    if let Some(value) = headers.get(CLASS) {
        let word = String::from_utf8_lossy(value.as_bytes());
        return Class::from_word(&word).map(Some).ok_or_else(|| {
            let shown: String = word.chars().take(100).collect();
            ApiError::invalid(CLASS.as_str(), format!("{CLASS} {shown:?} is no class"))
                .hint("send interactive or background, or leave the header out")
        });
    }
    let values = |name: &str| {
        let all: Vec<&str> = headers.get_all(name).filter_map(|v| v.to_str().ok()).collect();
        all.into_iter()
    };
    Ok(rules.head_matches(values).then_some(Class::Background))
}

/// The header by which a request says its class.
const CLASS: HeaderName = HeaderName::from_static("x-request-class");
/// The header that lets a request pass a lease of the GPU.
const LEASE_TOKEN: HeaderName = HeaderName::from_static("x-gpu-lease-token");
/// The header of our own tools that try what a model can do.
const PROBE: HeaderName = HeaderName::from_static("x-imageworks-probe");

fn whole(answer: WholeAnswer, running: Running) -> HttpResponse {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::BAD_GATEWAY);
    let mut builder = HttpResponse::build(status);
    error::advise(&mut builder, &answer.retry);
    if let Some(seconds) = answer.retry_after {
        builder.insert_header((header::RETRY_AFTER, seconds));
    }
    if !answer.content_type.is_empty() {
        builder.content_type(answer.content_type);
    }
    label(&mut builder, &answer.labels);
    // A small answer leaves with its head in one piece, before anything could ask for it.
    if answer.body.len() <= stream::PIECE {
        return builder.body(answer.body);
    }
    builder.body(WholeBody::new(answer.body, running))
}

fn streamed(answer: StreamAnswer, dialect: Dialect, running: Running) -> HttpResponse {
    let mut builder = HttpResponse::Ok();
    builder
        .content_type("text/event-stream")
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .insert_header(("x-accel-buffering", "no"));
    label(&mut builder, &answer.labels);
    StreamBody::new(answer.frames, dialect, running).send(builder)
}

const MODEL: HeaderName = HeaderName::from_static("x-imageworks-model");
const POLICY: HeaderName = HeaderName::from_static("x-imageworks-policy");

/// Names may hold any character; those that no header can carry go without it.
fn label(builder: &mut HttpResponseBuilder, labels: &Labels) {
    let mut say = |name: HeaderName, text: &str| {
        if let Ok(value) = HeaderValue::from_bytes(text.as_bytes()) {
            builder.insert_header((name, value));
        }
    };
    say(MODEL, &labels.model);
    if let Some(policy) = &labels.policy {
        say(POLICY, policy);
    }
}
