//! Owns the life of the leader: loading, serving, and the ends that it can come to.
//!
//! Each phase is a race of what may happen in it; what happened decides what comes next. The
//! requests learn of an end through [`Life`](crate::life::Life) alone. Must never answer one.

use std::io;
use std::os::fd::OwnedFd;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpListener;
use tokio::process::Child;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::family::{Family, until};
use super::follower::WORKER_DIED;
use super::habits::{Habits, Left, Role};
use super::journal::Journal;
use super::log;
use super::sigterm::Sigterm;
use crate::life::State;
use crate::routes::Core;
use crate::server;

/// How long is waited for the engine's processes, to come and to go.
const COMING: Duration = Duration::from_secs(10);
const GOING: Duration = Duration::from_millis(500);
/// How long the news of an engine's death may take to reach all clients.
const NEWS: Duration = Duration::from_secs(1);
/// How often a load that never ends is told of.
const STILL_LOADING: Duration = Duration::from_secs(1);

/// The process that serves.
#[derive(Debug)]
pub(super) struct Leader<'a> {
    core: Arc<Core>,
    habits: Habits,
    journal: &'a Journal,
    family: Family,
    sigterm: Sigterm<'a>,
    engine: Option<Child>,
}

/// What ends a phase.
enum Event {
    /// It listens.
    Ready,
    /// SIGTERM, and it is heeded.
    Asked,
    /// The order to exit while starting.
    Fails(u8),
    /// The order to crash.
    Crash,
    /// EngineCore ended by itself.
    EngineGone(Option<ExitStatus>),
}

impl<'a> Leader<'a> {
    pub(super) fn new(
        core: Arc<Core>,
        habits: Habits,
        journal: &'a Journal,
        family: Family,
        sigterm: Sigterm<'a>,
    ) -> Self {
        Self { core, habits, journal, family, sigterm, engine: None }
    }

    /// Lives a leader's life to its end, and gives its exit code.
    pub(super) async fn lead(mut self) -> io::Result<u8> {
        let code = self.live().await;
        if !matches!(code, Ok(0)) {
            self.family.kill_engine(GOING).await;
        }
        code
    }

    async fn live(&mut self) -> io::Result<u8> {
        // Bound early and not listening, as the real one is.
        let socket = server::bind(&self.core.options).await?;
        self.start_family().await?;
        match self.load().await {
            Event::Fails(code) => {
                // First, so that the last line is the leader's.
                self.family.kill_engine(GOING).await;
                log::failure(self.habits.exit_log, &self.core.options);
                Ok(code)
            }
            Event::Asked => {
                sleep(Duration::from_millis(self.habits.stop_ms())).await;
                Ok(0)
            }
            Event::EngineGone(_) => {
                let said = "RuntimeError: Engine core initialization failed. See root cause above.";
                log::say(&mut io::stderr(), said);
                Ok(1)
            }
            Event::Ready | Event::Crash => self.serve(server::listen(socket)?).await,
        }
    }

    async fn start_family(&mut self) -> io::Result<()> {
        if self.habits.has_engine() {
            self.engine = Some(self.family.start(Role::EngineCore, Stdio::null())?);
        }
        match self.habits.leave_child {
            Some(Left::Group) => drop(self.family.start(Role::Child, Stdio::null())?),
            Some(Left::Session | Left::Bare) => {
                drop(self.family.start(Role::Between, Stdio::null())?);
            }
            Some(Left::Daemon | Left::Stray) => {
                // Its child is to be nobody's before anybody can look.
                let mut between = self.family.start(Role::Between, Stdio::null())?;
                let _ = timeout(COMING, between.wait()).await;
            }
            None => {}
        }
        Ok(())
    }

    async fn load(&mut self) -> Event {
        let heeds = !self.habits.ignore_sigterm && !self.habits.like_vllm;
        tokio::select! {
            biased;
            () = self.sigterm.heard(heeds) => Event::Asked,
            status = death(&mut self.engine) => Event::EngineGone(status),
            code = failure(&self.habits) => Event::Fails(code),
            () = loading(&self.core, &self.habits, &self.family) => Event::Ready,
        }
    }

    async fn serve(&mut self, listener: TcpListener) -> io::Result<u8> {
        let held = match self.habits.hold_port_ms {
            Some(_) => Some(OwnedFd::from(SockRef::from(&listener).try_clone()?)),
            None => None,
        };
        let address = listener.local_addr()?;
        let serving = tokio::spawn(server::serve(listener, Arc::clone(&self.core)));
        log::say(&mut io::stdout(), &format!("listening on http://{address}"));
        if self.core.ollama.is_some() {
            log::ollama(&format!("Listening on {address} (version {})", crate::ollama::VERSION));
        } else {
            log::uvicorn(&["Application startup complete."]);
        }
        self.journal.note("ready");
        if let Some(ms) = self.habits.late_child_ms {
            tokio::spawn(late_child(self.family.clone(), ms));
        }
        match self.idle().await {
            Event::EngineGone(status) => {
                self.outlive(&serving, status).await;
                Ok(0)
            }
            Event::Crash => Ok(crash()),
            _ => {
                self.stop(&serving).await;
                if let Some(socket) = held {
                    drop(self.family.start(Role::Holder, Stdio::from(socket))?);
                }
                Ok(0)
            }
        }
    }

    /// Serves until something happens.
    async fn idle(&mut self) -> Event {
        let heeds = !self.habits.ignore_sigterm;
        tokio::select! {
            biased;
            () = self.sigterm.heard(heeds) => Event::Asked,
            status = death(&mut self.engine) => Event::EngineGone(status),
            () = self.core.life.until(State::Crashing) => Event::Crash,
            () = after(self.habits.crash_idle_ms) => Event::Crash,
        }
    }

    /// Ends as it was told to.
    async fn stop(&mut self, serving: &JoinHandle<()>) {
        if self.habits.like_vllm {
            self.stop_like_vllm(serving).await;
        }
        sleep(Duration::from_millis(self.habits.stop_ms())).await;
    }

    /// The engine ends at once, or when it has drained; then the server waits for ever for
    /// requests that nobody will answer any more.
    async fn stop_like_vllm(&mut self, serving: &JoinHandle<()>) {
        let (core, limit) = (&self.core, self.habits.shutdown_timeout_s);
        let shutdown = |text| log::vllm("APIServer", "INFO", "launcher.py:254", &[text]);
        shutdown("[shutdown] API server: shutdown triggered");
        if limit > 0 {
            core.life.set(State::Draining);
            let drained = until(|| core.counters.running.load(Relaxed) == 0);
            let _ = timeout(Duration::from_secs(limit), drained).await;
        }
        core.life.set(State::Silent);
        self.family.end_engine(GOING).await;
        shutdown("[shutdown] API server: engine client stopped");
        serving.abort();
        log::uvicorn(&["Shutting down"]);
        if core.counters.in_flight() > 0 {
            log::uvicorn(&["Waiting for connections to close. (CTRL+C to force quit)"]);
        }
        until(|| core.counters.in_flight() == 0).await;
        log::uvicorn(&["Waiting for application shutdown.", "Application shutdown complete."]);
    }

    /// Tells the clients that the engine has died, and ends soon after it, with code 0.
    async fn outlive(&mut self, serving: &JoinHandle<()>, status: Option<ExitStatus>) {
        let core = &self.core;
        core.life.set(State::Dead);
        log::vllm(
            "APIServer",
            "ERROR",
            "async_llm.py:906",
            &[
                "AsyncLLM output_handler failed.",
                "vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue. See \
             stack trace (above) for the root cause.",
            ],
        );
        let worker = status.and_then(|s| s.code()) == Some(i32::from(WORKER_DIED));
        if worker {
            let stays = after(Some(self.habits.worker_exit_ms()));
            tokio::select! {
                () = self.sigterm.heard(!self.habits.ignore_sigterm) => {}
                () = stays => {}
            }
        }
        let _ = timeout(NEWS, until(|| core.counters.in_flight() == 0)).await;
        serving.abort();
        log::uvicorn(&["Shutting down", "Application shutdown complete."]);
        sleep(Duration::from_millis(self.habits.stop_ms())).await;
    }
}

/// Returns when EngineCore has ended, if there is one.
async fn death(engine: &mut Option<Child>) -> Option<ExitStatus> {
    match engine {
        Some(child) => child.wait().await.ok(),
        None => std::future::pending().await,
    }
}

/// Returns when it is time to exit while starting, with the code.
async fn failure(habits: &Habits) -> u8 {
    let Some(code) = habits.exit else { return std::future::pending().await };
    sleep(Duration::from_millis(habits.exit_after_ms)).await;
    code
}

/// Returns after so long, or never.
async fn after(ms: Option<u64>) {
    match ms {
        Some(ms) => sleep(Duration::from_millis(ms)).await,
        None => std::future::pending().await,
    }
}

/// Starts a child that nobody counted on: it may come while the leader is ending already.
async fn late_child(family: Family, ms: u64) {
    sleep(Duration::from_millis(ms)).await;
    if let Err(error) = family.start(Role::Child, Stdio::null()) {
        log::error(&error);
    }
}

/// Loads: tells of it, takes its time, and waits for the family.
async fn loading(core: &Core, habits: &Habits, family: &Family) {
    let time = Duration::from_millis(habits.load_ms);
    let lines = if habits.tells_of_loading() { log::loading(&core.options) } else { Vec::new() };
    let told = async {
        let pause = time / u32::try_from(lines.len()).unwrap_or(1).max(1);
        for line in &lines {
            log::loading_line(line);
            sleep(pause).await;
        }
    };
    tokio::join!(told, sleep(time));
    while habits.never_ready || habits.exit.is_some() {
        sleep(STILL_LOADING).await;
        if !habits.silent_load {
            log::vllm(
                "EngineCore",
                "INFO",
                "shm_broadcast.py:466",
                &["No available shared memory broadcast block found in 60 seconds."],
            );
        }
    }
    family.is_up(&habits.household(), COMING).await;
}

/// Dies as a broken engine does; the caller kills what belongs to it.
fn crash() -> u8 {
    log::vllm(
        "EngineCore",
        "ERROR",
        "core.py:1512",
        &[
            "EngineCore encountered a fatal error.",
            "torch.AcceleratorError: CUDA error: an illegal memory access was encountered",
        ],
    );
    1
}
