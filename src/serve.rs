//! The daemon put together: settings → actors → HTTP server → signals, and the order of its end.
//!
//! Start: listeners are bound and the log is opened before anything runs, so that a start that
//! cannot succeed leaves nothing behind. End (SPEC 11), each step with its own bound:
//! 1. refuse new requests (503), keep listening;
//! 2. wait for running requests, at most `drain_timeout_s` or until a second signal;
//! 3. cut the rest: each gets its error event;
//! 4. stop the HTTP server;
//! 5. flush the request log;
//! 6. stop the log writer's thread.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Addr, Arbiter};
use actix_web::dev::{Server, ServerHandle};
use actix_web::middleware::from_fn;
use actix_web::{App, HttpServer, web};
use chat_proxy_actors::forwarder::ForwarderFactory;
use chat_proxy_actors::logger::{Flush, LogHandle, LoggerActor};
use chat_proxy_actors::metrics::Metrics;
use chat_proxy_actors::registry::{RegistryActor, Reload};
use chat_proxy_core::config::Settings;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing_actix_web::TracingLogger;

use crate::http::{self, AppState};
use crate::life::Life;
use crate::listen::{self, ListenError};
use crate::settings;

/// actix-web measures this timeout by a clock that it reads twice a second.
const CLOCK_STEP: Duration = Duration::from_millis(500);
/// After a cut, requests get this long to send their error event.
const CUT_GRACE: Duration = Duration::from_secs(5);
/// Connections that are idle or still flushing get this long when the server stops.
const CLOSE_GRACE_S: u64 = 2;
/// The server's own stop, on top of the grace it was given.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// The log writer gets this long to write what it was handed.
const FLUSH_GRACE: Duration = Duration::from_secs(10);

/// Why the daemon did not start, or failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("cannot open the request log {path}: {error}")]
    Log { path: String, error: io::Error },
    #[error("{0}")]
    Keys(String),
    #[error("the HTTP server failed: {0}")]
    Server(io::Error),
    #[error("metrics cannot be set up: {0}")]
    Metrics(String),
    #[error("signals cannot be heard: {0}")]
    Signals(io::Error),
}

/// What the outside asks of a running daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// End; a second one cuts at once.
    Stop,
    /// Read the registry again.
    Reload,
}

/// What is known once the daemon serves.
#[derive(Debug, Clone)]
pub(crate) struct Ready {
    /// The addresses that it listens on.
    pub(crate) addrs: Vec<SocketAddr>,
}

struct Daemon {
    life: Arc<Life>,
    forwarders: ForwarderFactory,
    registry: Addr<RegistryActor>,
    log: LogHandle,
    log_thread: Arbiter,
    server: ServerHandle,
    drain_timeout: Duration,
}

/// Serves until told to stop. `orders` is started when everything is up.
pub(crate) async fn run<F>(settings: Settings, orders: F) -> Result<(), ServeError>
where
    F: FnOnce(Ready) -> Result<mpsc::Receiver<Order>, ServeError>,
{
    let any_port = settings.server.port == 0;
    let listeners = listen::bind(&settings.server.host, settings.server.port)?;
    let addrs: Vec<SocketAddr> = listeners.iter().filter_map(|l| l.local_addr().ok()).collect();
    let guard = http::Guard::new(&settings).map_err(ServeError::Keys)?;
    let log_thread = Arbiter::new();
    let log = LoggerActor::start(settings::log(&settings), &log_thread)
        .map_err(|error| ServeError::Log { path: settings.server.log_path.clone(), error })?;
    let metrics = Metrics::new().map_err(|error| ServeError::Metrics(error.to_string()))?;
    let (registry, view) = RegistryActor::new(settings::registry(&settings), metrics.clone());
    let registry = registry.start();
    let forwarders = ForwarderFactory::new(settings::forward(&settings), view.clone());
    let life = Life::begin();
    let drain_timeout = settings.server.drain_timeout_s.get();
    let (to_forwarders, to_log, to_life) = (forwarders.clone(), log.clone(), life.clone());
    let state = AppState::new(settings, guard, view, to_forwarders, to_log, to_life, metrics);
    let server = http_server(state, listeners)?;
    let daemon = Daemon {
        life,
        forwarders,
        registry,
        log,
        log_thread,
        server: server.handle(),
        drain_timeout,
    };
    // Signals are heard before anybody is told that we are there.
    let orders = orders(Ready { addrs: addrs.clone() })?;
    announce(&addrs, any_port)?;
    daemon.until_stopped(server, orders).await
}

fn http_server(state: AppState, listeners: Vec<TcpListener>) -> Result<Server, ServeError> {
    let server_settings = state.settings.server.clone();
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let per_worker = (server_settings.max_connections as usize).div_ceil(workers);
    let write_timeout = server_settings.client_write_timeout_s.limit();
    let state = web::Data::new(state);
    let mut server = HttpServer::new(move || {
        App::new()
            .configure(http::routes(&state))
            .wrap(TracingLogger::<http::RequestSpan>::new())
            .wrap(from_fn(http::front))
    })
    .workers(workers)
    .max_connections(per_worker)
    .client_request_timeout(server_settings.client_header_timeout_s.get() + CLOCK_STEP)
    .keep_alive(server_settings.keep_alive_s.get())
    .tcp_nodelay(true)
    .h1_allow_half_closed(false)
    .on_connect(move |connection, _| http::on_connect(connection, write_timeout))
    .disable_signals()
    .shutdown_timeout(CLOSE_GRACE_S);
    for listener in listeners {
        server = server.listen(listener).map_err(ServeError::Server)?;
    }
    Ok(server.run())
}

/// The one line on stdout; who reads it may have gone.
fn announce(addrs: &[SocketAddr], any_port: bool) -> Result<(), ListenError> {
    if let (true, Some(addr)) = (any_port, addrs.first()) {
        listen::write_port_file(addr.port())?;
    }
    let mut out = io::stdout();
    for addr in addrs {
        tracing::info!(%addr, "listening");
        let _ = writeln!(out, "listening on http://{addr}").and_then(|()| out.flush());
    }
    Ok(())
}

impl Daemon {
    async fn until_stopped(
        self,
        server: Server,
        mut orders: mpsc::Receiver<Order>,
    ) -> Result<(), ServeError> {
        let server = actix_rt::spawn(server);
        tokio::pin!(server);
        loop {
            tokio::select! {
                ended = &mut server => {
                    let error = match ended {
                        Ok(Ok(())) => io::Error::other("it ended by itself"),
                        Ok(Err(error)) => error,
                        Err(panic) => io::Error::other(panic),
                    };
                    self.close_log().await;
                    return Err(ServeError::Server(error));
                }
                order = orders.recv() => match order {
                    Some(Order::Reload) => self.registry.do_send(Reload),
                    Some(Order::Stop) | None => break,
                }
            }
        }
        self.shut_down(&mut orders).await;
        // Resolves once the server has stopped; bounded, because a wedged worker must not keep us.
        if tokio::time::timeout(STOP_GRACE, server).await.is_err() {
            tracing::warn!("the HTTP server did not stop in time");
        }
        Ok(())
    }

    async fn shut_down(&self, orders: &mut mpsc::Receiver<Order>) {
        self.life.drain();
        let running = self.life.running();
        tracing::info!(running, drain_timeout = ?self.drain_timeout, "draining");
        tokio::select! {
            () = self.life.idle() => {}
            () = tokio::time::sleep(self.drain_timeout) => {
                tracing::warn!(running = self.life.running(), "drain timeout: cutting requests");
            }
            () = second_stop(orders) => {
                tracing::warn!(running = self.life.running(), "told twice: cutting requests");
            }
        }
        self.life.cut();
        self.forwarders.cut_all();
        if tokio::time::timeout(CUT_GRACE, self.life.idle()).await.is_err() {
            tracing::warn!(running = self.life.running(), "some clients did not take their end");
        }
        let stop = self.server.stop(true);
        if tokio::time::timeout(STOP_GRACE, stop).await.is_err() {
            tracing::warn!("the HTTP server did not stop in time");
        }
        self.close_log().await;
    }

    async fn close_log(&self) {
        match self.log.addr().send(Flush).timeout(FLUSH_GRACE).await {
            Ok(report) => tracing::info!(
                written = report.written,
                dropped = report.dropped,
                "request log closed"
            ),
            Err(error) => tracing::error!(%error, "the request log was not flushed"),
        }
        self.log_thread.stop();
    }
}

async fn second_stop(orders: &mut mpsc::Receiver<Order>) {
    loop {
        match orders.recv().await {
            Some(Order::Stop) => return,
            Some(Order::Reload) => {}
            None => std::future::pending().await,
        }
    }
}

/// Orders from signals: SIGTERM and SIGINT stop, SIGHUP reloads.
pub(crate) fn signals(_: Ready) -> Result<mpsc::Receiver<Order>, ServeError> {
    let (sender, orders) = mpsc::channel(4);
    let kinds = [
        (SignalKind::terminate(), Order::Stop),
        (SignalKind::interrupt(), Order::Stop),
        (SignalKind::hangup(), Order::Reload),
    ];
    for (kind, order) in kinds {
        let mut stream = signal(kind).map_err(ServeError::Signals)?;
        let sender = sender.clone();
        actix_rt::spawn(async move {
            while stream.recv().await.is_some() {
                // A full queue holds this order already; a closed one means the end.
                let _ = sender.try_send(order);
            }
        });
    }
    Ok(orders)
}
