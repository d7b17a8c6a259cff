//! The daemon: settings → actors → HTTP server → signals, and the order of its end.
//!
//! Start: listeners are bound, the log is opened and the engine's lock is taken before anything
//! runs, so that a start that cannot succeed leaves nothing behind. End (SPEC 11), each step with
//! its own bound:
//! 1. refuse new requests (503), keep listening; refuse those that wait for a turn, a load or a service;
//! 2. wait for running requests, at most `drain_timeout_s` or until a second signal;
//! 3. cut the rest: each gets its error event;
//! 4. stop the HTTP server;
//! 5. stop the engine and the services, and prove them gone; a second signal kills them at once
//!    (with `keep_backends_on_exit`: leave them to the next daemon);
//! 6. flush the request log;
//! 7. stop the log writer's thread.

mod ending;

use std::any::Any;
use std::cell::RefCell;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Addr, Arbiter};
use actix_web::dev::{Extensions, Server, ServerHandle};
use actix_web::middleware::from_fn;
use actix_web::{App, HttpServer, web};
use chat_proxy_actors::autostart::left_over;
use chat_proxy_actors::config::ReloadConfig;
use chat_proxy_actors::directory::Directory;
use chat_proxy_actors::guard::Role;
use chat_proxy_actors::process::children;
use chat_proxy_actors::registry::Reload;
use chat_proxy_core::autostart::Adapter;
use chat_proxy_core::config::{Problem, Settings};
use chat_proxy_core::engine::lifecycle::LifecycleRules;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing_actix_web::TracingLogger;

use crate::handover::{self, Predecessor, Successor};
use crate::http::{self, AppState};
use crate::life::Life;
use crate::listen::{self, ListenError};
use crate::live::LiveSettings;
use crate::lock::{LockError, OwnerLock};
use crate::settings::{self, Profiled, Source};
use crate::systemd::{self, Teller};
use crate::tls::{self, Bounds, Keeper, Tls};
use crate::wiring::{self, House};

/// actix-web measures this timeout by a clock that it reads twice a second.
const CLOCK_STEP: Duration = Duration::from_millis(500);
/// After a cut, requests get this long to send their error event.
const CUT_GRACE: Duration = Duration::from_secs(5);
/// Connections that are idle or still flushing get this long when the server stops.
const CLOSE_GRACE_S: u64 = 2;
/// The server's own stop, on top of the grace it was given.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// Beyond its own bounds for asking and killing, an engine's end may take this long: its sweep, the
/// wait for its port.
const SWEEP_GRACE: Duration = Duration::from_secs(15);
/// An actor that died in the middle of a shutdown is asked again this often.
const LOOK: Duration = Duration::from_millis(50);
/// The log writer gets this long to write what it was handed.
const FLUSH_GRACE: Duration = Duration::from_secs(10);

/// Why the daemon did not start, or failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("the new daemon that took over does not serve: {0}")]
    Successor(io::Error),
    #[error("who hands over to us: {0}")]
    Predecessor(io::Error),
    #[error("LISTEN_FDS: {0}")]
    Inherited(io::Error),
    #[error(
        "the socket that was opened for us, {0}, can be reached from other machines and there is no API key: set [security] api_keys, or allow_unauthenticated = true if something else guards it"
    )]
    Open(SocketAddr),
    #[error("cannot open the request log {path}: {error}")]
    Log { path: String, error: io::Error },
    #[error("cannot open streams.lock beside {path}: {error}")]
    Streams { path: String, error: io::Error },
    #[error("{0}")]
    Keys(String),
    #[error("{0}")]
    Tls(Problem),
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Profiles(Vec<Problem>),
    #[error("the HTTP server failed: {0}")]
    Server(io::Error),
    #[error("metrics cannot be set up: {0}")]
    Metrics(String),
    #[error("signals cannot be heard: {0}")]
    Signals(io::Error),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error("the {} actor keeps dying", .0.as_str())]
    Hopeless(Role),
    #[error("nobody watches over the actors any more: a defect")]
    Unwatched,
}

/// Reading the settings again takes no longer.
const RELOAD: Duration = Duration::from_secs(30);

/// What the outside asks of a running daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Hand over to a new binary.
    Upgrade,
    /// End; a second one cuts, or kills, at once.
    Stop,
    /// Read settings and registry again.
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
    house: House,
    log_thread: Arbiter,
    server: ServerHandle,
    /// And that of services.
    services_budget: Duration,
    /// The engine is left to the next daemon.
    keep_engine: bool,
    /// The sockets are the service manager's: what comes to them while we end is for whoever comes next.
    managed: bool,
    /// Those that a successor gets; none any more once we end.
    sockets: RefCell<Vec<TcpListener>>,
    /// Who reads the certificate again, if HTTPS is served.
    certificate: Option<Addr<Keeper>>,
    /// Held to the very end: until then nobody else may start an engine. `None`: nor may we.
    lock: Option<OwnerLock>,
    /// The same for services; `None`: there are none, and another daemon may have some here.
    services: Option<OwnerLock>,
}

/// Serves until told to stop. `orders` is started when everything is up.
pub(crate) async fn run<F>(source: Source, orders: F) -> Result<(), ServeError>
where
    F: FnOnce(Ready) -> Result<mpsc::Receiver<Order>, ServeError>,
{
    let settings = source.loaded.settings.clone();
    let mut predecessor = Predecessor::of_this_process().map_err(ServeError::Predecessor)?;
    let tls = Tls::open(&settings).map_err(ServeError::Tls)?;
    let Listening { sockets: listeners, inherited, managed } = listeners(&settings)?;
    let open = inherited.then(|| systemd::open_to_others(&listeners)).flatten();
    if let Some(addr) = systemd::unguarded(&settings, open) {
        return Err(ServeError::Open(addr));
    }
    let any_port = inherited || settings.server.port == 0;
    let addrs: Vec<SocketAddr> = listeners.iter().filter_map(|l| l.local_addr().ok()).collect();
    let guard = http::Guard::new(&settings).map_err(ServeError::Keys)?;
    let directory = Directory::default();
    let profiled = profiled(&source).await?;
    let mut live = LiveSettings::new(&settings, guard, profiled);
    live.open = open;
    let log = wiring::open_log(&live, &directory)?;
    let sockets = listeners.iter().map(TcpListener::try_clone).collect::<io::Result<_>>();
    let sockets = sockets.map_err(ServeError::Inherited)?;
    if let Some(predecessor) = &mut predecessor {
        // From here on nothing but a defect can fail: everything below is its own until it says so.
        predecessor.release().await.map_err(ServeError::Predecessor)?;
    }
    let state_path = Path::new(&settings.vllm.vllm_state_path);
    let single_port = settings.vllm.vllm_single_port;
    let lock = single_port.then(|| OwnerLock::take(state_path)).transpose()?;
    let services = services_lock(&settings)?;
    if let Err(error) = children::take_in() {
        tracing::warn!(%error, "what engines leave behind may stay a zombie, or unknown");
    }
    let log_thread = Arbiter::new();
    let house = wiring::build(source, live, directory, log, &log_thread, services.is_some())?;
    let life = Life::begin();
    let keep_engine = settings.server.keep_backends_on_exit;
    let stop_timeout = settings.autostart.autostart_stop_timeout_s.get();
    let services_budget = stop_timeout + settings::KILL_GRACE + SWEEP_GRACE;
    let state = AppState::new(&settings, &house, life.clone(), tls.clone());
    let server = http_server(state, listeners, tls.as_ref())?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let certificate = tls.map(|tls| Keeper::new(tls, house.metrics.clone()).start());
    let daemon = Daemon {
        life,
        house,
        log_thread,
        server: server.handle(),
        services_budget,
        keep_engine,
        managed,
        sockets: RefCell::new(sockets),
        certificate,
        lock,
        services,
    };
    // Signals are heard before anybody is told that we are there.
    let orders = orders(Ready { addrs: addrs.clone() })?;
    announce(scheme, &addrs, any_port)?;
    if let Some(predecessor) = &mut predecessor
        && let Err(error) = predecessor.serves().await
    {
        tracing::warn!(%error, "who handed over to us is gone already");
    }
    actix_rt::spawn(Teller::of(&daemon.house, &daemon.life).run());
    daemon.until_stopped(server, orders).await
}

/// Where we listen.
struct Listening {
    sockets: Vec<TcpListener>,
    /// Somebody has opened them for us.
    inherited: bool,
    /// The service manager has, and keeps them open.
    managed: bool,
}

/// Those that were opened for us, else our own.
fn listeners(settings: &Settings) -> Result<Listening, ServeError> {
    let sockets = systemd::listeners().map_err(ServeError::Inherited)?;
    if sockets.is_empty() {
        let sockets = listen::bind(&settings.server.host, settings.server.port)?;
        return Ok(Listening { sockets, inherited: false, managed: false });
    }
    Ok(Listening { sockets, inherited: true, managed: handover::is_managed() })
}

/// Looks for GPUs and reads the profiles, where that may block.
async fn profiled(source: &Source) -> Result<Profiled, ServeError> {
    let (loaded, path) = (source.loaded.clone(), source.path.clone());
    let work = move || settings::profiled(&loaded, &path, settings::gpus(&loaded.settings));
    let profiled = actix_rt::task::spawn_blocking(work).await;
    let profiled = profiled.map_err(|error| ServeError::Server(io::Error::other(error)))?;
    let profiled = profiled.map_err(ServeError::Profiles)?;
    let (profile, reason) = (&profiled.chosen.profile.name, &profiled.chosen.reason);
    tracing::info!(profile, reason, gpus = profiled.gpus.note, "hardware profile");
    Ok(profiled)
}

/// The right to the services of this directory. A daemon that has none itself leaves them to whoever
/// has it; it takes it only where something is left to be ended.
fn services_lock(settings: &Settings) -> Result<Option<OwnerLock>, LockError> {
    let dir = settings::services_dir();
    let programs = settings::autostart(settings);
    let has_some = programs.services().iter().any(|s| matches!(s.adapter, Adapter::Shell(_)));
    if !has_some && !dir.exists() {
        return Ok(None);
    }
    match OwnerLock::of_services(&dir) {
        // Nothing is left: the lock is given back, for a daemon that has services.
        Ok(_) if !has_some && left_over(&dir).is_empty() => Ok(None),
        Ok(lock) => Ok(Some(lock)),
        Err(LockError::ServicesTaken { owner, .. }) if !has_some => {
            tracing::info!(owner, "services of this directory are another daemon's");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// How long an engine's end may take.
pub(crate) fn engine_budget(rules: &LifecycleRules) -> Duration {
    rules.stop_timeout.max(rules.loading_stop_grace) + rules.kill_grace + SWEEP_GRACE
}

fn http_server(
    state: AppState,
    listeners: Vec<TcpListener>,
    tls: Option<&Tls>,
) -> Result<Server, ServeError> {
    let server_settings = state.settings().server.clone();
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let per_worker = (server_settings.max_connections as usize).div_ceil(workers);
    let write_timeout = server_settings.client_write_timeout_s.limit();
    let life = state.life.clone();
    let state = web::Data::new(state);
    let app = move || {
        App::new()
            .configure(http::routes(&state))
            .wrap(TracingLogger::<http::RequestSpan>::new())
            .wrap(from_fn(http::front))
    };
    let header_timeout = server_settings.client_header_timeout_s.get() + CLOCK_STEP;
    let keep_alive = server_settings.keep_alive_s.get();
    // The same for plain connections and for those that came through a handshake.
    let on_connect = move |connection: &dyn Any, data: &mut Extensions| {
        data.insert(life.connect());
        http::on_connect(connection, write_timeout);
    };
    if let Some(tls) = tls {
        let (connections, close_grace_s) = (per_worker, CLOSE_GRACE_S);
        let bounds = Bounds { workers, connections, header_timeout, keep_alive, close_grace_s };
        return tls::server(tls, app, on_connect, listeners, bounds).map_err(ServeError::Server);
    }
    let mut server = HttpServer::new(app)
        .workers(workers)
        .max_connections(per_worker)
        .client_request_timeout(header_timeout)
        .keep_alive(keep_alive)
        .tcp_nodelay(true)
        .h1_allow_half_closed(false)
        .on_connect(on_connect)
        .disable_signals()
        .shutdown_timeout(CLOSE_GRACE_S);
    for listener in listeners {
        server = server.listen(listener).map_err(ServeError::Server)?;
    }
    Ok(server.run())
}

/// The one line on stdout; who reads it may have gone.
fn announce(scheme: &str, addrs: &[SocketAddr], any_port: bool) -> Result<(), ListenError> {
    if let Some(addr) = addrs.first() {
        match listen::write_port_file(addr.port()) {
            // Others would not find us.
            Err(error) if any_port => return Err(error),
            // Only a help where the settings get another port.
            Err(error) => tracing::debug!(%error, "the port was not written down"),
            Ok(()) => {}
        }
    }
    let mut out = io::stdout();
    for addr in addrs {
        tracing::info!(%addr, "listening");
        let _ = writeln!(out, "listening on {scheme}://{addr}").and_then(|()| out.flush());
    }
    Ok(())
}

impl Daemon {
    async fn until_stopped(
        mut self,
        server: Server,
        mut orders: mpsc::Receiver<Order>,
    ) -> Result<(), ServeError> {
        let server = actix_rt::spawn(server);
        tokio::pin!(server);
        let mut successor: Option<Successor> = None;
        let outcome = loop {
            tokio::select! {
                ended = &mut server => {
                    let error = match ended {
                        Ok(Ok(())) => io::Error::other("it ended by itself"),
                        Ok(Err(error)) => error,
                        Err(panic) => io::Error::other(panic),
                    };
                    self.house.ledger.drain();
                    self.stop_backends(&mut orders).await;
                    self.close_log().await;
                    return Err(ServeError::Server(error));
                }
                hopeless = self.house.hopeless.recv() => {
                    break Err(hopeless.map_or(ServeError::Unwatched, ServeError::Hopeless));
                }
                prepared = prepared(&mut successor) => match (prepared, successor.take()) {
                    (Ok(()), Some(successor)) => break self.hand_over(successor, &mut orders).await,
                    (Err(error), Some(successor)) => {
                        tracing::error!(%error, "the new daemon cannot take over; this one goes on");
                        successor.give_up();
                    }
                    (_, None) => {}
                },
                order = orders.recv() => match order {
                    Some(Order::Upgrade) => successor = successor.or_else(|| self.upgrade()),
                    Some(Order::Reload) => self.reload(),
                    Some(Order::Stop) | None => break Ok(()),
                }
            }
        };
        if let Some(successor) = successor {
            successor.give_up();
        }
        if !self.life.is_handed_over() {
            self.shut_down(&mut orders).await;
        }
        // Resolves once the server has stopped; bounded, because a wedged worker must not keep us.
        if tokio::time::timeout(STOP_GRACE, server).await.is_err() {
            tracing::warn!("the HTTP server did not stop in time");
        }
        outcome
    }

    /// Starts a successor.
    fn upgrade(&self) -> Option<Successor> {
        match Successor::start(&self.sockets.borrow(), self.managed) {
            Ok(successor) => {
                tracing::info!(pid = successor.pid(), "a new daemon is started, to take over");
                Some(successor)
            }
            Err(error) => {
                tracing::error!(%error, "no new daemon can be started; this one goes on");
                None
            }
        }
    }

    /// How long the engine's end may take.
    fn engine_budget(&self) -> Duration {
        engine_budget(&settings::lifecycle(&self.house.live.all.load()))
    }

    /// Settings, and with them the registry, which is read again in any case.
    fn reload(&self) {
        if let Some(certificate) = &self.certificate {
            certificate.do_send(tls::Look);
        }
        let config = self.house.directory.port(|book| book.config.clone());
        let registry = self.house.directory.port(|book| book.registry.clone());
        systemd::reloading();
        actix_rt::spawn(async move {
            let again = match config.ask(ReloadConfig, RELOAD).await {
                // It has been told, and the registry with it.
                Ok(Ok(_)) => Ok(()),
                // Told by whoever read them.
                Ok(Err(_)) => registry.tell(Reload),
                Err(error) => {
                    tracing::warn!(%error, "the settings were not read again");
                    registry.tell(Reload)
                }
            };
            if let Err(error) = again {
                // Its successor reads the files in any case.
                tracing::warn!(%error, "the registry's reader is being rebuilt");
            }
            Teller::reloaded();
        });
    }
}

/// Waits for the successor, if one has been started, to be able to take over.
async fn prepared(successor: &mut Option<Successor>) -> io::Result<()> {
    match successor {
        Some(successor) => successor.prepared().await,
        None => std::future::pending().await,
    }
}

async fn second_stop(orders: &mut mpsc::Receiver<Order>) {
    loop {
        match orders.recv().await {
            Some(Order::Stop) => return,
            Some(Order::Reload | Order::Upgrade) => {}
            None => std::future::pending().await,
        }
    }
}

/// Orders from signals: SIGTERM and SIGINT stop, SIGHUP reloads, SIGUSR2 hands over.
pub(crate) fn signals(_: Ready) -> Result<mpsc::Receiver<Order>, ServeError> {
    let (sender, orders) = mpsc::channel(4);
    let kinds = [
        (SignalKind::terminate(), Order::Stop),
        (SignalKind::interrupt(), Order::Stop),
        (SignalKind::hangup(), Order::Reload),
        (SignalKind::user_defined2(), Order::Upgrade),
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
