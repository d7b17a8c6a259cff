//! The HTTP front: one file per resource, and what every request goes through.
//!
//! Owns: routes, the guard, request ids, errors as responses. Must never do: decide what a request
//! means; it reads the body and hands it to the thread's forwarder.

mod autostart;
mod backends;
mod body;
mod chat;
mod config;
mod debug;
mod error;
mod events;
mod front;
mod gpu;
mod guard;
mod health;
mod listeners;
mod logs;
mod management;
mod metrics;
mod models;
mod ollama;
mod profile;
mod relay;
mod scheduler;
mod state;
mod stream;
mod successor;
mod unread;

use std::any::Any;
use std::time::Duration;

use actix_web::http::Method;
use actix_web::rt::net::TcpStream;
use actix_web::{HttpRequest, HttpResponse, web};
use chat_proxy_core::relay::Dialect;
use chat_proxy_core::{ApiError, Code};

pub(crate) use front::{RequestSpan, front};
pub(crate) use guard::{Guard, secret_of};
pub(crate) use state::AppState;

/// All endpoints.
pub(crate) fn routes(state: &web::Data<AppState>) -> impl FnOnce(&mut web::ServiceConfig) {
    let state = state.clone();
    move |config| {
        config
            .app_data(state)
            .service(resource(chat::PATH, Method::POST, web::post().to(chat::completions)))
            .configure(relay::routes)
            .service(resource("/metrics", Method::GET, web::get().to(metrics::prometheus)))
            .service(resource("/v1/metrics", Method::GET, web::get().to(metrics::summary)))
            .service(resource("/v1/events", Method::GET, web::get().to(events::stream)))
            .service(resource("/v1/backends", Method::GET, web::get().to(backends::list)))
            .service(resource(
                "/v1/backends/vllm/activate",
                Method::POST,
                web::post().to(backends::activate),
            ))
            .service(resource(
                "/v1/backends/vllm/deactivate",
                Method::POST,
                web::post().to(backends::deactivate),
            ))
            .service(resource(
                "/v1/backends/ollama/load",
                Method::POST,
                web::post().to(ollama::load),
            ))
            .service(resource(
                "/v1/backends/ollama/unload",
                Method::POST,
                web::post().to(ollama::unload),
            ))
            .service(resource("/v1/logs/chat", Method::GET, web::get().to(logs::chat)))
            .service(resource(
                "/v1/logs/backends/{model:.+}",
                Method::GET,
                web::get().to(logs::engine),
            ))
            .service(
                resource("/v1/config/chat-proxy", "GET, PUT", web::get().to(config::show))
                    .route(web::put().to(config::change)),
            )
            .service(
                resource("/v1/config/profile", "GET, PUT", web::get().to(profile::show))
                    .route(web::put().to(profile::switch)),
            )
            .service(resource(
                "/v1/autostart/status",
                Method::GET,
                web::get().to(autostart::status),
            ))
            .service(resource(
                "/v1/autostart/start",
                Method::POST,
                web::post().to(autostart::start),
            ))
            .service(resource("/v1/autostart/stop", Method::POST, web::post().to(autostart::stop)))
            .service(resource(
                "/v1/autostart/enabled",
                Method::PUT,
                web::put().to(autostart::enabled),
            ))
            .service(resource(
                "/v1/scheduler/explain",
                Method::GET,
                web::get().to(scheduler::explain),
            ))
            .service(resource("/v1/gpu/status", Method::GET, web::get().to(gpu::status)))
            .service(resource("/v1/gpu/lease", Method::POST, web::post().to(gpu::lease)))
            .service(resource("/v1/gpu/renew", Method::POST, web::post().to(gpu::renew)))
            .service(resource("/v1/gpu/release", Method::POST, web::post().to(gpu::release)))
            .service(resource(
                "/v1/gpu/force_release",
                Method::POST,
                web::post().to(gpu::force_release),
            ))
            .service(resource("/v1/gpu/unload_all", Method::POST, web::post().to(gpu::unload_all)))
            .configure(debug::fault_routes)
            .service(resource(
                "/v1/models/select_by_role",
                Method::GET,
                web::get().to(models::select),
            ))
            .service(resource("/v1/models/{id:.+}", Method::GET, web::get().to(models::one)))
            .service(resource("/v1/debug/registry", Method::GET, web::get().to(debug::registry)))
            .service(resource("/v1/models", Method::GET, web::get().to(models::list)))
            .service(resource("/v1/healthz", Method::GET, web::get().to(health::healthz)))
            .service(resource("/v1/health", Method::GET, web::get().to(health::healthz)))
            .service(resource("/v1/readyz", Method::GET, web::get().to(health::readyz)))
            .default_service(web::to(not_found));
    }
}

/// One endpoint; other methods get 405 with `Allow`.
fn resource(
    path: &'static str,
    allowed: impl Into<Allowed>,
    route: actix_web::Route,
) -> actix_web::Resource {
    let Allowed(allowed) = allowed.into();
    let refuse = move |request: HttpRequest| {
        let allowed = allowed.clone();
        async move { method_not_allowed(&request, &allowed) }
    };
    web::resource(path).route(route).default_service(web::to(refuse))
}

async fn not_found(request: HttpRequest) -> HttpResponse {
    let shown: String = request.path().chars().take(200).collect();
    let error = ApiError::new(Code::NotFound, format!("there is no endpoint {shown}"));
    error::respond(&error.hint("chat requests go to POST /v1/chat/completions"))
}

/// The methods of an endpoint, as `Allow` names them.
struct Allowed(String);

impl From<Method> for Allowed {
    fn from(method: Method) -> Self {
        Allowed(method.to_string())
    }
}

impl From<&str> for Allowed {
    fn from(methods: &str) -> Self {
        Allowed(methods.to_owned())
    }
}

fn method_not_allowed(request: &HttpRequest, allowed: &str) -> HttpResponse {
    let message = format!("{} does not take {}", request.path(), request.method());
    let error = ApiError::new(Code::MethodNotAllowed, message).hint(format!("use {allowed}"));
    let dialect = Dialect::of(request.path()).unwrap_or(Dialect::Chat);
    let mut response = error::respond_in(dialect, &error);
    if let Ok(value) = allowed.parse() {
        response.headers_mut().insert(actix_web::http::header::ALLOW, value);
    }
    response
}

/// A client that stays connected and does not read is cut by the kernel: while a write blocks,
/// nothing of ours is polled that could notice.
pub(crate) fn on_connect(connection: &dyn Any, write_timeout: Option<Duration>) {
    let (Some(stream), Some(timeout)) = (connection.downcast_ref::<TcpStream>(), write_timeout)
    else {
        return;
    };
    if let Err(error) = socket2::SockRef::from(stream).set_tcp_user_timeout(Some(timeout)) {
        tracing::warn!(%error, "a slow reader of this connection will not be cut");
    }
}
