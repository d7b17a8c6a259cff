//! What every request goes through: its ids, the guard, the refusal while draining, CORS.

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{ConnectionType, StatusCode};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage, HttpResponse, web};
use chat_proxy_actors::transcript::Transcript;
use chat_proxy_core::relay::Dialect;
use chat_proxy_core::{ApiError, Code};
use tracing::Span;
use tracing_actix_web::RootSpanBuilder;
use uuid::Uuid;

use super::error;
use super::guard::{Passed, is_preflight};
use super::state::AppState;
use super::stream;
use super::successor;
use super::unread::Reader;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// W3C Trace Context.
pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Longest request id that is taken from a client.
const MAX_ID: usize = 128;

/// Who asks, and under which ids.
#[derive(Debug, Clone, Default)]
pub(super) struct Identity {
    /// The client's own id, or ours.
    pub(super) request_id: String,
    /// Always ours: what a client sends cannot collide at the backend. A bare UUID: llama.cpp's
    /// server answers 400 with an empty body to any other form.
    pub(super) upstream_id: String,
    /// The key's name, or the address.
    pub(super) client: String,
    /// May see details of the inside.
    pub(super) trusted: bool,
    /// See [`Passed::admin`].
    pub(super) admin: bool,
    /// It came with a key that is configured.
    pub(super) keyed: bool,
}

/// The outermost middleware.
pub(crate) async fn front<B: MessageBody + 'static>(
    mut request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let reader = Reader::of(&mut request);
    let mut response = stream::put_in_place(answered(request, next).await?);
    if is_crowded(&response) {
        response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
    }
    Ok(match reader {
        Some(reader) => reader.keep(response),
        None => response,
    })
}

/// While most places are taken no client keeps his: one that begins a second request and never ends
/// its head would not be given up (actix-http bounds the first one's time alone). So there is always
/// room for others.
fn is_crowded(response: &ServiceResponse<BoxBody>) -> bool {
    let state = response.request().app_data::<web::Data<AppState>>();
    state.is_some_and(|state| {
        let most = state.settings().server.max_connections as usize;
        state.life.connections() > most / 2
    })
}

async fn answered<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let request_id = request_id(request.headers());
    let life = request.app_data::<web::Data<AppState>>().map(|state| state.life.clone());
    if let Some(life) = &life
        && let Some(successor) = life.successor()
    {
        let mut response = successor::answer(request, successor, &request_id, life).await;
        to_the_successor(&mut response);
        // The successor says the same one; where we answer for it, nobody has yet.
        if let Ok(value) = HeaderValue::from_str(&request_id) {
            response.headers_mut().insert(REQUEST_ID, value);
        }
        return Ok(response);
    }
    let passed = admit(&request);
    let origin = listed_origin(&request);
    let mut response = match passed {
        Err(refusal) => {
            record_refusal(&request, &request_id, &refusal);
            let dialect = Dialect::of(request.path()).unwrap_or(Dialect::Chat);
            early(request, error::respond_in(dialect, &refusal))
        }
        Ok(_) if is_preflight(request.method(), request.headers()) => early(request, preflight()),
        Ok(passed) => {
            let identity = identify(&request, &request_id, passed);
            request.extensions_mut().insert(identity);
            next.call(request).await?.map_into_boxed_body()
        }
    };
    if life.is_some_and(|life| life.is_handed_over()) {
        to_the_successor(&mut response);
    }
    let headers = response.headers_mut();
    // The id is made of characters that every header takes.
    if let Ok(value) = HeaderValue::from_str(&request_id) {
        headers.insert(REQUEST_ID, value);
    }
    if let Some(origin) = origin.and_then(|origin| HeaderValue::from_str(&origin).ok()) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
        headers.insert(
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static(
                "x-request-id, x-imageworks-model, x-imageworks-policy, retry-after",
            ),
        );
    }
    Ok(response)
}

/// The next request shall come over a connection of its successor; who was refused may come at once.
fn to_the_successor(response: &mut ServiceResponse<BoxBody>) {
    response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
    if response.status() == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("0"));
    }
}

fn listed_origin(request: &ServiceRequest) -> Option<String> {
    request.app_data::<web::Data<AppState>>()?.guard().listed_origin(request.headers())
}

/// A request for a model that is refused here gets its line in the request log all the same.
fn record_refusal(request: &ServiceRequest, request_id: &str, refusal: &ApiError) {
    let Some(state) = request.app_data::<web::Data<AppState>>() else { return };
    if let Some(dialect) = Dialect::of(request.path()) {
        let (audience, client) = (state.audience.clone(), address(request));
        let path = dialect.path();
        Transcript::begin(audience, request_id.to_owned(), client, path).failed(refusal);
    }
}

fn address(request: &ServiceRequest) -> String {
    request.peer_addr().map_or_else(String::new, |addr| addr.ip().to_string())
}

/// Answers without the handlers.
fn early(request: ServiceRequest, response: HttpResponse) -> ServiceResponse<BoxBody> {
    request.into_response(response)
}

fn admit(request: &ServiceRequest) -> Result<Passed, ApiError> {
    let Some(state) = request.app_data::<web::Data<AppState>>() else {
        return Err(ApiError::new(Code::Internal, "the daemon is not wired up"));
    };
    let passed = state.guard().check(request.method(), request.uri(), request.headers())?;
    let tells_state = matches!(request.path(), "/v1/healthz" | "/v1/health" | "/v1/readyz");
    if state.life.is_draining() && !tells_state {
        return Err(ApiError::new(Code::Draining, "the proxy is shutting down"));
    }
    Ok(passed)
}

fn identify(request: &ServiceRequest, request_id: &str, passed: Passed) -> Identity {
    Identity {
        request_id: request_id.to_owned(),
        upstream_id: Uuid::new_v4().simple().to_string(),
        keyed: passed.key.is_some(),
        client: passed.key.unwrap_or_else(|| address(request)),
        trusted: passed.trusted,
        admin: passed.admin,
    }
}

fn new_id() -> String {
    format!("req-{}", Uuid::new_v4().simple())
}

/// The client's own id if it is one (SPEC 2.1), else a new one.
fn request_id(headers: &HeaderMap) -> String {
    let sent = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    sent.filter(|id| is_id(id)).map_or_else(new_id, str::to_owned)
}

fn is_id(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-');
    (1..=MAX_ID).contains(&text.len()) && text.bytes().all(allowed)
}

/// A listed origin may send what our clients send.
fn preflight() -> HttpResponse {
    HttpResponse::NoContent()
        .insert_header((header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, PUT, OPTIONS"))
        .insert_header((header::ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED_HEADERS))
        .insert_header((header::ACCESS_CONTROL_MAX_AGE, "600"))
        .finish()
}

const ALLOWED_HEADERS: &str = "authorization, content-type, x-api-key, x-request-id, \
    x-request-class, x-gpu-lease-token, traceparent, x-stainless-arch, x-stainless-lang, \
    x-stainless-os, x-stainless-package-version, x-stainless-runtime, \
    x-stainless-runtime-version, x-stainless-retry-count, x-stainless-timeout";

/// The id of the trace that a request belongs to (W3C Trace Context, `traceparent`).
pub(super) fn trace_id(headers: &HeaderMap) -> Option<&str> {
    let sent = headers.get(TRACEPARENT)?.to_str().ok()?;
    let id = sent.split('-').nth(1)?;
    (id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())).then_some(id)
}

/// One span per request; it lasts until the body has ended.
pub(crate) struct RequestSpan;

impl RootSpanBuilder for RequestSpan {
    fn on_request_start(request: &ServiceRequest) -> Span {
        let extensions = request.extensions();
        let id = extensions.get::<Identity>().map_or("", |identity| identity.request_id.as_str());
        let (method, path) = (request.method(), request.path());
        match trace_id(request.headers()) {
            None => tracing::info_span!("request", id, %method, path),
            Some(trace_id) => tracing::info_span!("request", id, %method, path, trace_id),
        }
    }

    fn on_request_end<B: MessageBody>(_: Span, outcome: &Result<ServiceResponse<B>, Error>) {
        if let Ok(response) = outcome {
            tracing::debug!(status = response.status().as_u16(), "head sent");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_of_clients_are_taken_only_if_they_are_harmless() {
        assert!(is_id("a") && is_id("req_1.2:3-4") && is_id(&"x".repeat(128)));
        assert!(!is_id("") && !is_id("a b") && !is_id("a\"b") && !is_id("é"));
        assert!(!is_id(&"x".repeat(129)));
    }
}
