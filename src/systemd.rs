//! What we tell the service manager, and what it gives us (`sd_notify(3)`, `sd_listen_fds(3)`).
//!
//! Owns: READY, STATUS, RELOADING, STOPPING, the watchdog's ping, and sockets that were opened for us. Must
//! never do: say READY before the daemon can serve, or ping by a clock alone: a ping says that every
//! actor has just answered.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chat_proxy_actors::directory::Directory;
use chat_proxy_actors::events::EventBus;
use chat_proxy_actors::gpu_arbiter::messages::{GetStatus, Status};
use chat_proxy_actors::guard::Role;
use chat_proxy_actors::limits::Limits;
use chat_proxy_actors::metrics::Metrics;
use chat_proxy_actors::port::{NoAnswer, Port};
use chat_proxy_actors::process::inherit;
use chat_proxy_actors::root::{Alive, vital};
use chat_proxy_core::config::Settings;
use sd_notify::NotifyState;
use socket2::{SockRef, Type};
use tokio::time::{interval, sleep};

use crate::life::Life;
use crate::wiring::House;

/// A status that changes all the time is told so often at most.
const PACE: Duration = Duration::from_secs(1);
/// Whether it is decided what becomes of an engine that runs already is asked this often.
const LOOK: Duration = Duration::from_millis(10);
/// An actor answers within this, or does not live. Half of the shortest sensible watchdog.
const ANSWER: Duration = Duration::from_secs(5);

/// Sockets that the service manager has opened for us; none: we open our own.
pub(crate) fn listeners() -> io::Result<Vec<TcpListener>> {
    let given = inherit::take(sd_notify::listen_fds()?);
    let listener = |(number, fd): (usize, _)| {
        let socket = SockRef::from(&fd);
        let tcp = socket.local_addr()?.as_socket().is_some() && socket.r#type()? == Type::STREAM;
        if !(tcp && socket.is_listener()?) {
            let message =
                format!("descriptor {number} of LISTEN_FDS is no TCP socket that listens");
            return Err(io::Error::other(message));
        }
        Ok(TcpListener::from(fd))
    };
    (3..).zip(given).map(listener).collect()
}

/// Tells the service manager, if there is one.
pub(crate) fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}

/// The settings are being read again; [`Teller::reloaded`] says when that is done.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "no time can be told to the service manager"),
    }
}

/// No new requests any more.
pub(crate) fn stopping(running: i64) {
    let status = format!("draining: {running} running");
    tell(&[NotifyState::Stopping, NotifyState::Status(&status)]);
}

/// Another process is the daemon from now on.
pub(crate) fn succeeded_by(pid: u32) {
    tell(&[NotifyState::MainPid(pid)]);
}

/// What the service manager is told of a daemon that runs.
pub(crate) struct Teller {
    directory: Directory,
    events: Arc<EventBus>,
    metrics: Metrics,
    limits: Arc<Limits>,
    life: Arc<Life>,
}

impl Teller {
    pub(crate) fn of(house: &House, life: &Arc<Life>) -> Teller {
        Teller {
            directory: house.directory.clone(),
            events: house.events.clone(),
            metrics: house.metrics.clone(),
            limits: house.limits.clone(),
            life: life.clone(),
        }
    }

    /// Waits until it is decided what becomes of an engine that runs already, says READY, and from
    /// then on how things are, until the daemon ends.
    pub(crate) async fn run(self) {
        let status = self.in_words(self.decided().await.as_ref());
        tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
        tokio::join!(self.watchdog(), self.statuses(status));
    }

    /// Done with what RELOADING began.
    pub(crate) fn reloaded() {
        tell(&[NotifyState::Ready]);
    }

    async fn status(&self) -> Option<Status> {
        let arbiter = self.directory.port(|book| book.arbiter.clone());
        arbiter.ask(GetStatus, ANSWER).await.ok()
    }

    async fn decided(&self) -> Option<Status> {
        let began = Instant::now();
        let mut told = false;
        loop {
            let status = self.status().await;
            let decided = status.as_ref().is_some_and(|status| status.state != "unknown");
            if decided || self.life.is_draining() {
                return status;
            }
            if began.elapsed() > ANSWER && !std::mem::replace(&mut told, true) {
                tracing::warn!("it is not decided yet what holds the GPU; READY waits for that");
            }
            sleep(LOOK).await;
        }
    }

    fn in_words(&self, status: Option<&Status>) -> String {
        let model = status.and_then(|status| status.model.as_deref().map(|m| (m, status.state)));
        let resident = match model {
            Some((model, "ready")) => model.to_owned(),
            Some((model, state)) => format!("{model} ({state})"),
            None => "no model loaded".to_owned(),
        };
        let waiting = self.metrics.waiting(self.limits.waiting());
        format!("{resident}: {} running, {waiting} waiting", self.metrics.in_flight())
    }

    /// Tells each change, at a pace, after what was told already.
    async fn statuses(&self, mut last: String) {
        let mut news = self.events.watch();
        let mut counts = (0, 0);
        while !self.life.is_draining() {
            sleep(PACE).await;
            // Requests that come and go are no event.
            let now = (self.metrics.in_flight(), self.metrics.waiting(self.limits.waiting()));
            let changed = news.has_changed().unwrap_or(true) || now != counts;
            if !changed {
                continue;
            }
            news.borrow_and_update();
            counts = now;
            let status = self.in_words(self.status().await.as_ref());
            if status != last && !self.life.is_draining() {
                tell(&[NotifyState::Status(&status)]);
                last = status;
            }
        }
    }

    /// Pings for as long as every actor answers.
    async fn watchdog(&self) {
        let Some(period) = sd_notify::watchdog_enabled() else { return };
        let mut ticks = interval(period / 3);
        let mut silent = None;
        // A successor tells for itself.
        while !self.life.is_handed_over() {
            ticks.tick().await;
            match first_silent(&vital(&self.directory), ANSWER.min(period / 3)).await {
                None => {
                    tell(&[NotifyState::Watchdog]);
                    silent = None;
                }
                Some(role) if silent != Some(role) => {
                    let actor = role.as_str();
                    tracing::error!(actor, "an actor does not answer; the watchdog is not told");
                    silent = Some(role);
                }
                Some(_) => {}
            }
        }
    }
}

/// An actor that does not answer in time. One that is being rebuilt has that time as well.
async fn first_silent(all: &[(Role, Port<Alive>)], within: Duration) -> Option<Role> {
    let until = Instant::now() + within;
    for (role, port) in all {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match port.ask(Alive, left).await {
                Ok(()) => break,
                Err(NoAnswer::Gone) if !left.is_zero() => sleep(LOOK).await,
                Err(_) => return Some(*role),
            }
        }
    }
    None
}

/// A socket that needs keys, where there are none.
pub(crate) fn unguarded(settings: &Settings, open: Option<SocketAddr>) -> Option<SocketAddr> {
    let security = &settings.security;
    open.filter(|_| security.api_keys.is_empty() && !security.allow_unauthenticated)
}

/// An address that others than this machine can reach.
pub(crate) fn open_to_others(listeners: &[TcpListener]) -> Option<SocketAddr> {
    let addrs = listeners.iter().filter_map(|listener| listener.local_addr().ok());
    addrs.into_iter().find(|addr| !addr.ip().to_canonical().is_loopback())
}
