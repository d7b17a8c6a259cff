//! `POST /v1/chat/completions`.

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpMessage, HttpRequest, HttpResponse, web};
use chat_proxy_actors::forwarder::{Answer, Forward, RequestMeta, StreamAnswer, WholeAnswer};
use chat_proxy_actors::transcript::Transcript;
use chat_proxy_core::{ApiError, Code};
use send_wrapper::SendWrapper;
use tokio::sync::oneshot;

use super::body::NoBody;
use super::front::Identity;
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
    let identity = request.extensions().get::<Identity>().cloned().unwrap_or_default();
    let running = state.life.enter();
    let (audience, client) = (state.audience.clone(), identity.client.clone());
    let mut transcript =
        Transcript::begin(audience, identity.request_id.clone(), client, request.path());
    let limits = &state.settings.limits;
    let stall = state.settings.server.client_header_timeout_s.limit();
    let headers = request.headers();
    let max = limits.max_body_bytes;
    let read = tokio::select! {
        biased;
        read = body::read(&mut payload, headers, max, stall, &state.budget) => read,
        () = state.life.until_cut() => Err(NoBody::Refused(ApiError::new(
            Code::Draining,
            "the proxy is shutting down and did not wait for the rest of this request",
        ))),
    };
    let (body, share) = match read {
        Ok(read) => read,
        Err(NoBody::Refused(error)) => {
            transcript.failed(&error);
            return error::respond(&error);
        }
        Err(NoBody::Gone) => {
            transcript.cancelled();
            return HttpResponse::BadRequest().finish(); // nobody is there to read it
        }
    };
    let (reply, answer) = oneshot::channel();
    state.forwarders.local().do_send(Forward {
        body,
        share: Box::new(share),
        meta: meta(&request, &identity),
        transcript,
        running: Box::new(state.life.enter()),
        reply,
        span: tracing::Span::current(),
    });
    match answer.await.map(SendWrapper::take) {
        Ok(Answer::Whole(answer)) => whole(answer, running),
        Ok(Answer::Stream(answer)) => streamed(answer, running),
        Ok(Answer::Refused(refusal)) => error::respond(&refusal),
        // The request's task died; its transcript has told the log.
        Err(_) => {
            error::respond(&ApiError::new(Code::Internal, "the proxy failed on this request"))
        }
    }
}

fn meta(request: &HttpRequest, identity: &Identity) -> RequestMeta {
    let text = |name: &str| request.headers().get(name)?.to_str().ok().map(str::to_owned);
    RequestMeta {
        upstream_id: identity.upstream_id.clone(),
        user_agent: text("user-agent"),
        traceparent: text("traceparent"),
    }
}

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
    name_model(&mut builder, &answer.model);
    // A small answer leaves with its head in one piece, before anything could ask for it.
    if answer.body.len() <= stream::PIECE {
        return builder.body(answer.body);
    }
    builder.body(WholeBody::new(answer.body, running))
}

fn streamed(answer: StreamAnswer, running: Running) -> HttpResponse {
    let mut builder = HttpResponse::Ok();
    builder
        .content_type("text/event-stream")
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .insert_header(("x-accel-buffering", "no"));
    name_model(&mut builder, &answer.model);
    builder.body(StreamBody::new(answer.frames, running))
}

/// Names may hold any character; those that no header can carry go without it.
fn name_model(builder: &mut actix_web::HttpResponseBuilder, model: &str) {
    if let Ok(value) = HeaderValue::from_bytes(model.as_bytes()) {
        builder.insert_header(("x-imageworks-model", value));
    }
}
