//! The daemon's end: the order of the steps, each with its bound.
//!
//! Owns: that order (docs/ARCHITECTURE.md). Must never do: wait without a bound, or end before its
//! engine is gone and its log written.

use std::time::{Duration, Instant};

use chat_proxy_actors::autostart::messages::{Hurry as HurryServices, StopAll};
use chat_proxy_actors::events::Event;
use chat_proxy_actors::gpu_arbiter::messages::Drain;
use chat_proxy_actors::logger::FlushReport;
use chat_proxy_actors::root::rest;
use chat_proxy_actors::vllm_supervisor::messages::{Ended, Hurry, ShutDown};
use tokio::sync::mpsc;

use super::{CUT_GRACE, Daemon, FLUSH_GRACE, LOOK, Order, STOP_GRACE, ServeError, second_stop};
use crate::handover::{STREAMS, Successor};
use crate::systemd;

/// Connections of clients that ask nothing stay open for so long after a handover.
const LINGER: Duration = Duration::from_secs(5);

impl Daemon {
    pub(super) async fn shut_down(&self, orders: &mut mpsc::Receiver<Order>) {
        if self.managed {
            self.server.pause().await;
        }
        self.life.drain();
        self.house.ledger.drain();
        let arbiter = self.house.directory.port(|book| book.arbiter.clone());
        // An arbiter that is being rebuilt finds the order in the ledger.
        let _ = arbiter.tell(Drain);
        self.house.forwarders.cut_waiting();
        let drain_timeout = self.house.live.all.load().server.drain_timeout_s.get();
        let running = self.life.running();
        tracing::info!(running, ?drain_timeout, "draining");
        systemd::stopping(self.house.metrics.in_flight());
        self.house.events.publish(&Event::Draining { running });
        self.finish_requests(orders).await;
        self.stop_serving().await;
        self.stop_backends(orders).await;
        self.close_log().await;
    }

    /// Waits for running requests: for as long as they may take, or until told again.
    async fn finish_requests(&self, orders: &mut mpsc::Receiver<Order>) {
        let drain_timeout = self.house.live.all.load().server.drain_timeout_s.get();
        tokio::select! {
            () = self.life.idle() => {}
            () = tokio::time::sleep(drain_timeout) => {
                tracing::warn!(running = self.life.running(), "drain timeout: cutting requests");
            }
            () = second_stop(orders) => {
                tracing::warn!(running = self.life.running(), "told twice: cutting requests");
            }
        }
    }

    /// Cuts what still runs, and closes all connections.
    async fn stop_serving(&self) {
        self.life.cut();
        self.house.forwarders.cut_all();
        if tokio::time::timeout(CUT_GRACE, self.life.idle()).await.is_err() {
            tracing::warn!(running = self.life.running(), "some clients did not take their end");
        }
        // Who comes now is told that nobody is there.
        self.sockets.borrow_mut().clear();
        let stop = self.server.stop(true);
        if tokio::time::timeout(STOP_GRACE, stop).await.is_err() {
            tracing::warn!("the HTTP server did not stop in time");
        }
    }

    /// Leaves everything to a successor that is prepared, finishes what runs, and ends. An error: the
    /// successor did not serve, and whoever started us has to start us again.
    pub(super) async fn hand_over(
        &mut self,
        mut successor: Successor,
        orders: &mut mpsc::Receiver<Order>,
    ) -> Result<(), ServeError> {
        let pid = successor.pid();
        tracing::info!(pid, running = self.life.running(), "handing over to a new daemon");
        let listening = self.sockets.borrow().first().and_then(|s| s.local_addr().ok());
        self.life.hand_over(listening.filter(|_| self.certificate.is_none()));
        self.server.pause().await;
        self.house.ledger.drain();
        // An arbiter that is being rebuilt finds the order in the ledger.
        let _ = self.house.directory.port(|book| book.arbiter.clone()).tell(Drain);
        self.house.forwarders.cut_waiting();
        self.keep_engine = true;
        tokio::join!(self.stop_engine(), self.stop_services());
        rest(&self.house.directory, &self.house.ending);
        (self.lock, self.services) = (None, None);
        let taken = successor.take_over().await;
        match &taken {
            Ok(()) => {
                systemd::succeeded_by(pid);
                tracing::info!(pid, "the new daemon serves");
            }
            Err(error) => {
                self.life.lose_successor();
                tracing::error!(%error, pid, "the new daemon took over and does not serve");
            }
        }
        // Streams take as long as they take: nobody waits for this process.
        tokio::select! {
            () = self.life.idle() => self.linger().await,
            () = second_stop(orders) => {
                tracing::warn!(running = self.life.running(), "told to end: cutting requests");
            }
            () = tokio::time::sleep(STREAMS) => {
                tracing::warn!(running = self.life.running(), "some never end: cutting requests");
            }
        }
        self.stop_serving().await;
        self.close_log().await;
        taken.map_err(ServeError::Successor)
    }

    /// A client with an idle connection may just be sending over it: it is told where to go instead of being cut off.
    async fn linger(&self) {
        let until = Instant::now() + LINGER;
        while self.life.connections() > 0 && Instant::now() < until {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Stops the engine and the services, both at once: neither needs the other. A second signal has
    /// them killed at once.
    pub(super) async fn stop_backends(&self, orders: &mut mpsc::Receiver<Order>) {
        let stopping = async { tokio::join!(self.stop_engine(), self.stop_services()) };
        tokio::pin!(stopping);
        tokio::select! {
            _ = &mut stopping => {}
            () = second_stop(orders) => {
                self.hurry();
                stopping.await;
            }
        }
    }

    fn hurry(&self) {
        tracing::warn!("told twice: engine and services are killed");
        let services = self.house.directory.port(|book| book.autostart.clone());
        if let Err(error) = services.tell(HurryServices) {
            tracing::warn!(%error, "who has the services did not hear it");
        }
        if self.lock.is_none() {
            return;
        }
        let supervisor = self.house.directory.port(|book| book.vllm.clone());
        if let Err(error) = supervisor.tell(Hurry) {
            tracing::warn!(%error, "the supervisor did not hear it");
        }
    }

    /// Stops the services that we started, unless they are to run on.
    async fn stop_services(&self) {
        let services = self.house.directory.port(|book| book.autostart.clone());
        let until = Instant::now() + self.services_budget;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match services.ask(StopAll { keep: self.life.is_handed_over() }, left).await {
                Ok(()) => return,
                Err(_) if Instant::now() >= until => {
                    return tracing::error!("a service did not end in time and was left behind");
                }
                // It died over it: its successor is asked.
                Err(_) => tokio::time::sleep(LOOK).await,
            }
        }
    }

    /// Stops the engine, unless it is to run on.
    async fn stop_engine(&self) {
        if self.lock.is_none() {
            return;
        }
        match tokio::time::timeout(self.engine_budget(), self.ask_for_end()).await {
            Ok(Ended::Clean) => {}
            Ok(Ended::Kept(model, pid)) => {
                tracing::info!(%model, pid, "the engine runs on, for the next daemon; `sweep` ends it");
            }
            Ok(Ended::Left(what)) => tracing::error!(what, "an engine was left behind"),
            Err(_) => tracing::error!("the engine did not end in time and was left behind"),
        }
    }

    /// Asks until somebody answers: a supervisor that dies now is rebuilt and takes the engine over.
    async fn ask_for_end(&self) -> Ended {
        let supervisor = self.house.directory.port(|book| book.vllm.clone());
        let mut told = false;
        loop {
            match supervisor.ask(ShutDown { keep: self.keep_engine }, self.engine_budget()).await {
                Ok(ended) => return ended,
                Err(error) if !std::mem::replace(&mut told, true) => {
                    tracing::warn!(%error, "the supervisor does not answer");
                }
                Err(_) => {}
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Asks until somebody answers: a writer that dies now is rebuilt and goes on with the queue.
    async fn flush_log(&self) -> FlushReport {
        loop {
            match self.house.audience.log.flush(FLUSH_GRACE).await {
                Ok(report) => return report,
                Err(error) => tracing::debug!(%error, "the log's writer does not answer"),
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    pub(super) async fn close_log(&self) {
        let flushed = tokio::time::timeout(FLUSH_GRACE, self.flush_log()).await;
        if let Ok(FlushReport { written, dropped }) = flushed {
            tracing::info!(written, dropped, "request log closed");
        } else {
            let lost = self.house.audience.log.waiting();
            tracing::error!(lost, "the disk did not take the rest of the request log in time");
        }
        self.house.ending.begin();
        self.log_thread.stop();
    }
}
