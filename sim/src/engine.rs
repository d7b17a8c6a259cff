//! Owns the two ways to run an engine: on a thread of its own, and as a process.
//!
//! Must never read a request.

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

use crate::options::{Command, HELP, Options};
use crate::routes::Core;
use crate::server;
use crate::stats::Stats;

/// An engine that is embedded in another program.
#[derive(Debug, Clone, Copy)]
pub struct Engine;

impl Engine {
    /// Starts an engine on a thread of its own; it listens when this returns.
    pub fn start(options: Options) -> io::Result<Handle> {
        let core = server::core(options);
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
        let listener = server::bind(&core.options).await?;
        let _ = ready.send(Ok(listener.local_addr()?));
        drop(ready);
        tokio::select! {
            () = server::serve(listener, core) => {}
            _ = stopped => {}
        }
        Ok(())
    })
}

fn runtime() -> io::Result<Runtime> {
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
        self.core.counters.snapshot()
    }

    /// Sets the counters to zero, as `POST /sim/reset` does.
    pub fn reset(&self) {
        self.core.counters.reset();
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

/// Runs an engine as a process, with a command line that lacks the program's name.
///
/// It prints one line when it listens, and serves until the process is killed.
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    let options = match Options::from_args(args) {
        Ok(Command::Help) => return say(&mut io::stdout(), HELP.trim_end()),
        Ok(Command::Serve(options)) => *options,
        Err(error) => {
            say(&mut io::stderr(), &format!("error: {error}"));
            return ExitCode::from(2);
        }
    };
    match serve(server::core(options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&mut io::stderr(), &format!("OSError: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn serve(core: Arc<Core>) -> io::Result<()> {
    runtime()?.block_on(async {
        let listener = server::bind(&core.options).await?;
        say(&mut io::stdout(), &format!("listening on http://{}", listener.local_addr()?));
        server::serve(listener, core).await;
        Ok(())
    })
}

/// Writes a line. That nobody reads it is no reason to stop.
fn say(out: &mut dyn io::Write, line: &str) -> ExitCode {
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
