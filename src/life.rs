//! The daemon's life: since when it runs, whether it drains, how many requests run.
//!
//! Owns: three facts that every worker reads. Must never do: end anything itself.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// See the module.
pub(crate) struct Life {
    started: Instant,
    draining: AtomicBool,
    handed_over: AtomicBool,
    successor: OnceLock<SocketAddr>,
    /// The successor does not serve after all.
    bereft: CancellationToken,
    connections: AtomicUsize,
    running: AtomicUsize,
    changed: Notify,
    cut: CancellationToken,
}

/// One running request; dropping it says that it has ended.
pub(crate) struct Running(Arc<Life>);

/// One open connection; dropping it says that it has been closed.
pub(crate) struct Connected(Arc<Life>);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Life {
    pub(crate) fn begin() -> Arc<Life> {
        Arc::new(Life {
            started: Instant::now(),
            draining: AtomicBool::new(false),
            handed_over: AtomicBool::new(false),
            successor: OnceLock::new(),
            bereft: CancellationToken::new(),
            connections: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            changed: Notify::new(),
            cut: CancellationToken::new(),
        })
    }

    /// Time since the start.
    pub(crate) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// No new requests from now on.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    /// No new requests from now on: a successor takes them, and it can be asked at once; there, if it can be
    /// asked by us.
    pub(crate) fn hand_over(&self, successor: Option<SocketAddr>) {
        if let Some(successor) = successor {
            // There is one handover in a life.
            let _ = self.successor.set(successor);
        }
        self.handed_over.store(true, Ordering::SeqCst);
        self.drain();
    }

    /// Who takes requests that still come to us.
    pub(crate) fn successor(&self) -> Option<SocketAddr> {
        self.successor.get().copied().filter(|_| !self.bereft.is_cancelled())
    }

    /// The successor does not serve: nobody is sent there any more.
    pub(crate) fn lose_successor(&self) {
        self.bereft.cancel();
    }

    /// Waits for [`Life::lose_successor`].
    pub(crate) async fn until_bereft(&self) {
        self.bereft.cancelled().await;
    }

    /// Whether a successor takes requests.
    pub(crate) fn is_handed_over(&self) -> bool {
        self.handed_over.load(Ordering::SeqCst)
    }

    /// Whether new requests are refused.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// Requests that are still being read end now.
    pub(crate) fn cut(&self) {
        self.cut.cancel();
    }

    /// Waits for [`Life::cut`].
    pub(crate) async fn until_cut(&self) {
        self.cut.cancelled().await;
    }

    /// Counts a request in.
    pub(crate) fn enter(self: &Arc<Self>) -> Running {
        self.running.fetch_add(1, Ordering::SeqCst);
        Running(self.clone())
    }

    /// Counts a connection in.
    pub(crate) fn connect(self: &Arc<Self>) -> Connected {
        self.connections.fetch_add(1, Ordering::SeqCst);
        Connected(self.clone())
    }

    /// Connections that are open now.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Requests that run now, responses still being written among them.
    pub(crate) fn running(&self) -> usize {
        self.running.load(Ordering::SeqCst)
    }

    /// Waits until no request runs.
    pub(crate) async fn idle(&self) {
        loop {
            let changed = self.changed.notified();
            if self.running() == 0 {
                return;
            }
            changed.await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.0.running.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.changed.notify_waiters();
        }
    }
}
