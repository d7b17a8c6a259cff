//! The HTTP server behind TLS.
//!
//! Owns: the way of a connection from its handshake to HTTP, and its bounds. Must never do: speak
//! HTTP/2. A request that is dropped has to end at the backend at once, and that is proved for
//! HTTP/1.1, one request per connection at a time. actix-web's own listeners offer h2 wherever any
//! crate of the build asks for that feature (awc does), so the server is put together here, from the
//! same parts and with the same rules as the plain one.

use std::any::Any;
use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use actix_http::body::MessageBody;
use actix_http::{HttpService, Request, Response};
use actix_service::{IntoServiceFactory, Service, ServiceFactory, ServiceFactoryExt, map_config};
use actix_tls::accept::rustls_0_23::{Acceptor, TlsStream};
use actix_tls::accept::{TlsError, max_concurrent_tls_connect};
use actix_web::Error;
use actix_web::dev::{AppConfig, Extensions, Server};
use actix_web::rt::net::TcpStream;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::server::NoServerSessionStorage;

use super::Tls;

/// What a closing connection may take, as with plain HTTP.
const DISCONNECT: Duration = Duration::from_secs(1);

/// The bounds that hold for plain HTTP too.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) workers: usize,
    /// Connections of one worker.
    pub(crate) connections: usize,
    /// For the handshake, and then for a request's head.
    pub(crate) header_timeout: Duration,
    pub(crate) keep_alive: Duration,
    /// For connections that are idle or still flushing when the server stops.
    pub(crate) close_grace_s: u64,
}

/// A server for these sockets.
pub(crate) fn server<F, C, I, S, B>(
    tls: &Tls,
    app: F,
    on_connect: C,
    listeners: Vec<TcpListener>,
    bounds: Bounds,
) -> std::io::Result<Server>
where
    F: Fn() -> I + Send + Clone + 'static,
    C: Fn(&dyn Any, &mut Extensions) + Send + Clone + 'static,
    I: IntoServiceFactory<S, Request>,
    S: ServiceFactory<Request, Config = AppConfig> + 'static,
    S::Error: Into<Error> + 'static,
    S::InitError: fmt::Debug,
    S::Response: Into<Response<B>> + 'static,
    <S::Service as Service<Request>>::Future: 'static,
    S::Service: 'static,
    B: MessageBody + 'static,
{
    // Handshakes are bounded as connections are: with a bound of their own, a few clients that never
    // end theirs would keep all others out.
    max_concurrent_tls_connect(bounds.connections);
    let config = config(tls).map_err(std::io::Error::other)?;
    let mut builder = Server::build()
        .workers(bounds.workers)
        .max_concurrent_connections(bounds.connections)
        .disable_signals()
        .shutdown_timeout(bounds.close_grace_s);
    let stopping = builder.graceful_shutdown_signal();
    for listener in listeners {
        let (app, config, stopping) = (app.clone(), config.clone(), stopping.clone());
        let on_connect = on_connect.clone();
        let name = listener.local_addr().map_or_else(|_| "https".into(), |a| format!("https-{a}"));
        builder = builder.listen(name, listener, move || {
            let (stopping, on_connect) = (stopping.clone(), on_connect.clone());
            // Who the app's configuration says we are, nothing of ours asks.
            let app = app().into_factory().map_err(|error| error.into().error_response());
            let app = map_config(app, |()| AppConfig::default());
            let http = HttpService::build()
                .graceful_shutdown_signal(move || {
                    let stopping = stopping.clone();
                    async move { stopping.notified().await }
                })
                .keep_alive(bounds.keep_alive)
                .client_request_timeout(bounds.header_timeout)
                .client_disconnect_timeout(DISCONNECT)
                .h1_allow_half_closed(false)
                // It gets the socket under the TLS, as it does where there is none.
                .on_connect_ext(move |io: &TlsStream<TcpStream>, extensions: &mut Extensions| {
                    on_connect(io.get_ref().0, extensions);
                })
                .h1(app);
            handshake(config.clone(), bounds.header_timeout)
                .and_then(http.map_err(TlsError::Service))
        })?;
    }
    Ok(builder.run())
}

/// What a connection becomes by its handshake.
type Shaken = (TlsStream<TcpStream>, Option<SocketAddr>);

fn handshake<E: 'static>(
    config: ServerConfig,
    timeout: Duration,
) -> impl ServiceFactory<
    TcpStream,
    Config = (),
    Response = Shaken,
    Error = TlsError<std::io::Error, E>,
    InitError = (),
> {
    let mut acceptor = Acceptor::new(config);
    acceptor.set_handshake_timeout(timeout);
    acceptor
        .map_err(|error| {
            // Whoever looks why a client gets no connection finds it; scanners are no news.
            match &error {
                TlsError::Tls(error) => tracing::debug!(%error, "no handshake"),
                error => tracing::debug!(%error, "no handshake"),
            }
            error.into_service_error()
        })
        .map(|io: TlsStream<TcpStream>| {
            let socket = io.get_ref().0;
            if let Err(error) = socket.set_nodelay(true) {
                tracing::debug!(%error, "TCP_NODELAY could not be set");
            }
            let peer = socket.peer_addr().ok();
            (io, peer)
        })
}

/// TLS 1.2 and 1.3. Sessions are not resumed: a key that was replaced is out of use at once.
fn config(tls: &Tls) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(tls.clone()));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}
