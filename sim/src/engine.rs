//! Owns an engine that is embedded in another program, on a thread of its own.
//!
//! Must never read a request, nor do anything to the process that it lives in.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

use crate::life::Life;
use crate::options::Options;
use crate::routes::Core;
use crate::server;
use crate::stats::Stats;

/// An engine that is embedded in another program.
#[derive(Debug, Clone, Copy)]
pub struct Engine;

impl Engine {
    /// Starts an engine on a thread of its own; it listens when this returns.
    pub fn start(options: Options) -> io::Result<Handle> {
        let core = server::core(options, Life::new(None), None);
        let (ready_tx, ready) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let shared = Arc::clone(&core);
        let thread = thread::Builder::new().name("sim-engine".to_owned()).spawn(move || {
            let told = ready_tx.clone();
            if let Err(e) = on_thread(shared, ready_tx, stopped) {
                // The starter waits for either news; it cannot have gone.
                let _ = told.send(Err(e));
            }
        })?;
        let addr = ready.recv().map_err(|_| io::Error::other("the engine's thread ended"))??;
        Ok(Handle { addr, core, stop: Some(stop), thread: Some(thread) })
    }
}

fn on_thread(
    core: Arc<Core>,
    ready: mpsc::Sender<io::Result<SocketAddr>>,
    stopped: oneshot::Receiver<()>,
) -> io::Result<()> {
    runtime()?.block_on(async {
        let listener = server::listen(server::bind(&core.options).await?)?;
        let _ = ready.send(Ok(listener.local_addr()?));
        drop(ready);
        tokio::select! {
            () = server::serve(listener, core) => {}
            _ = stopped => {}
        }
        Ok(())
    })
}

pub(crate) fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// An embedded engine that runs. Dropping it stops it.
#[derive(Debug)]
pub struct Handle {
    addr: SocketAddr,
    core: Arc<Core>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Handle {
    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What it has counted.
    pub fn stats(&self) -> Stats {
        self.core.stats()
    }

    /// Sets the counters to zero, as `POST /sim/reset` does.
    pub fn reset(&self) {
        self.core.reset();
    }

    /// Stops it and closes all its connections; returns when that is done.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // Either side may have ended already.
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
