//! Owns the listening socket and the connections: one task each, requests one after the other.
//!
//! Each answer races against the news that its client went. Must never build an answer.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};
use tokio::sync::watch;

use crate::head::Face;
use crate::http::{BadRequest, Head, Reader};
use crate::life::Life;
use crate::ollama::{self, Daemon};
use crate::options::Options;
use crate::orders::Health;
use crate::process::Family;
use crate::routes::{self, Core};
use crate::stats::{Counters, End, Going};
use crate::wire::{self, Reply, Stop, Wire};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 2048;

/// Binds the address that the options name. Nothing listens yet: connections are refused.
pub(crate) async fn bind(options: &Options) -> io::Result<TcpSocket> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for addr in lookup_host((options.host.as_str(), options.port)).await? {
        match bind_to(addr) {
            Ok(socket) => return Ok(socket),
            Err(e) => last = e,
        }
    }
    Err(last)
}

fn bind_to(addr: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    Ok(socket)
}

/// Listens at an address that was bound.
pub(crate) fn listen(socket: TcpSocket) -> io::Result<TcpListener> {
    socket.listen(BACKLOG)
}

/// Makes an engine of its options; `family` is there if it is a process.
pub(crate) fn core(mut options: Options, life: Life, family: Option<Family>) -> Arc<Core> {
    if options.served.is_empty() {
        options.served = Options::default().served;
    }
    let sleep = watch::Sender::new(0);
    let health = watch::Sender::new(Health::Status(options.health));
    let ollama = options.ollama.as_ref().map(|settings| Daemon::new(settings, &options.fault));
    let counters = Counters::default();
    Arc::new(Core { options, counters, sleep, health, life, family, ollama })
}

/// Serves for ever.
pub(crate) async fn serve(listener: TcpListener, core: Arc<Core>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                core.counters
                    .connections_accepted
                    .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                tokio::spawn(connection(Arc::new(stream), Arc::clone(&core)));
            }
            // Out of descriptors, most likely: some connection has to end first.
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
        }
    }
}

async fn connection(stream: Arc<TcpStream>, core: Arc<Core>) {
    let _open = Going::on(&core.counters.connections_open);
    // Fails only on a socket that is gone already.
    let _ = SockRef::from(&*stream).set_tcp_nodelay(true);
    let mut reader = Reader::new(Arc::clone(&stream));
    let face = if core.ollama.is_some() { Face::Ollama } else { Face::Vllm };
    let mut wire = Wire::new(Arc::clone(&stream), face);
    loop {
        match one(&core, &mut reader, &mut wire).await {
            Ok(()) if !wire.must_close() => {}
            Ok(()) | Err(Ending::Cut { reset: false }) => return wire::linger(&stream).await,
            Err(Ending::Bad(bad)) => {
                refuse(&mut wire, bad).await;
                return wire::linger(&stream).await;
            }
            // After a reset was ordered the socket only has to be closed.
            Err(Ending::Cut { reset: true } | Ending::Gone) => return,
        }
    }
}

/// Why a connection ends.
enum Ending {
    Gone,
    Bad(BadRequest),
    Cut { reset: bool },
}

/// Reads one request and answers it.
async fn one(core: &Core, reader: &mut Reader, wire: &mut Wire) -> Result<(), Ending> {
    let head = reader.head().await.map_err(bad)?;
    if head.expects_go_on && head.has_body() && !reader.has_bytes() {
        wire.go_on().await.map_err(|_| Ending::Gone)?;
    }
    let body = reader.body(&head).await.map_err(bad)?;
    wire.begin(head.keep_alive, head.http_1_0, head.method == "HEAD");
    if head.path.starts_with("/sim/") {
        return dispatch(core, &head, &body, wire).await.map_err(|_| Ending::Gone);
    }
    let post = (head.method == "POST").then(|| (head.raw.clone(), body.clone()));
    let _in_flight = core.counters.request(post);
    let answered = answer(core, &head, &body, reader, wire).await;
    core.counters.ended(match answered {
        Ok(()) | Err(Stop::Ended) => End::Completed,
        Err(Stop::Gone) => End::Aborted,
        Err(Stop::Cut) => End::Cut,
    });
    match answered {
        Ok(()) | Err(Stop::Ended) => Ok(()),
        Err(Stop::Gone) => Err(Ending::Gone),
        Err(Stop::Cut) => Err(Ending::Cut { reset: wire.is_reset() }),
    }
}

async fn answer(
    core: &Core,
    head: &Head,
    body: &bytes::Bytes,
    reader: &mut Reader,
    wire: &mut Wire,
) -> Result<(), Stop> {
    tokio::select! {
        biased;
        result = dispatch(core, head, body, wire) => result,
        () = reader.departure() => Err(Stop::Gone),
    }
}

/// Lets the face answer that the engine has.
async fn dispatch(
    core: &Core,
    head: &Head,
    body: &bytes::Bytes,
    wire: &mut Wire,
) -> Result<(), Stop> {
    match &core.ollama {
        Some(daemon) => ollama::answer(core, daemon, head, body, wire).await,
        None => routes::answer(core, head, body, wire).await,
    }
}

fn bad(bad: BadRequest) -> Ending {
    if bad == BadRequest::Gone { Ending::Gone } else { Ending::Bad(bad) }
}

async fn refuse(wire: &mut Wire, bad: BadRequest) {
    let (status, text) = match bad {
        BadRequest::TooLarge => (413, "Request Entity Too Large"),
        _ => (400, "Invalid HTTP request received."),
    };
    wire.begin(false, false, false);
    let kind = Some("text/plain; charset=utf-8".to_owned());
    let reply = Reply { content_type: kind, vary: false, ..Reply::json(status, text) };
    // The connection ends in any case.
    let _ = wire.reply(&reply).await;
}
