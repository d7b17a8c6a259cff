//! The actor with real processes. Nothing sleeps to let something happen: every wait is for a file,
//! a state or an answer, within a bound.
#![allow(clippy::unwrap_used, clippy::panic)]

mod askers;
mod ends;
mod entry;
mod starts;
mod takeover;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{Actor, ActorContext, Addr, Handler, Message};
use chat_proxy_core::autostart::Plan;
use chat_proxy_core::config::Service as Table;
use chat_proxy_core::engine::state_file::Process;
use chat_proxy_core::registry::Endpoint;
use chat_proxy_core::{ApiError, Code};
use futures_util::FutureExt;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::oneshot;

use super::messages::{EnsureStarted, GetServices, ServiceStatus, StopAll, StopService};
use super::{AutostartActor, AutostartParts};
use crate::guard::{Guard, Role};
use crate::process::identity;
use crate::registry::RegistryView;
use crate::testing::PATIENCE;

const SVC: &str = "svc";

/// The test's directory, in which its services run, and the actor.
struct House {
    dir: tempfile::TempDir,
    parts: AutostartParts,
    actor: Addr<AutostartActor>,
}

/// The actor dies.
#[derive(Message)]
#[rtype(result = "()")]
struct Die;

impl Handler<Die> for AutostartActor {
    type Result = ();

    fn handle(&mut self, _: Die, ctx: &mut Self::Context) {
        ctx.terminate();
    }
}

/// A service that is this shell script and says so when it is up.
fn sh(script: &str) -> Table {
    let command = ["sh", "-c", script].map(str::to_owned).to_vec();
    Table { command, ready_log: Some("is up".into()), ..Table::default() }
}

/// One that answers with the files of the test's directory.
fn server(port: u16) -> Table {
    let port = port.to_string();
    let line = ["python3", "-m", "http.server", &port, "--bind", "127.0.0.1"];
    Table { command: line.map(str::to_owned).to_vec(), ..Table::default() }
}

fn plan(dir: &Path, services: &[(&str, Table)]) -> Arc<Plan> {
    let here = |table: &Table| Table { cwd: Some(dir.display().to_string()), ..table.clone() };
    let tables: BTreeMap<String, Table> =
        services.iter().map(|(name, table)| ((*name).to_owned(), here(table))).collect();
    Arc::new(Plan::of(None, &tables, PATIENCE).unwrap())
}

fn house(table: Table) -> House {
    house_with(table, |_| {})
}

fn house_with(table: Table, change: impl Fn(&mut AutostartParts)) -> House {
    let dir = tempfile::tempdir().unwrap();
    let mut parts = AutostartParts {
        owns: true,
        plan: plan(dir.path(), &[(SVC, table)]),
        dir: dir.path().join("run"),
        enabled: true.into(),
        keep_on_exit: false,
        stop_timeout: PATIENCE,
        log_max_bytes: 1 << 20,
        keep_logs: 2,
        secrets: BTreeSet::new(),
        registry: RegistryView::default(),
        entries: Arc::new(|_| async { Ok(()) }.boxed_local()),
        preload: Vec::new().into(),
        events: Arc::default(),
    };
    change(&mut parts);
    House { actor: start(&parts), dir, parts }
}

fn start(parts: &AutostartParts) -> Addr<AutostartActor> {
    AutostartActor::new(parts.clone(), Guard::unwatched(Role::Autostart)).start()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Looks until it holds.
async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

impl House {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn run_file(&self, name: &str) -> PathBuf {
        self.parts.dir.join(name)
    }

    /// Asks; the answer comes by itself.
    fn asks(
        &self,
        by_request: bool,
        probe: Option<Endpoint>,
    ) -> impl Future<Output = Result<(), ApiError>> + use<> {
        let (reply, answer) = oneshot::channel();
        self.actor.do_send(EnsureStarted { service: SVC.into(), probe, by_request, reply });
        async move { tokio::time::timeout(2 * PATIENCE, answer).await.unwrap().unwrap() }
    }

    async fn request(&self) -> Result<(), ApiError> {
        self.asks(true, None).await
    }

    async fn by_hand(&self) -> Result<(), ApiError> {
        self.asks(false, None).await
    }

    async fn stop(&self) -> Result<(), ApiError> {
        let (reply, answer) = oneshot::channel();
        self.actor.do_send(StopService { service: SVC.into(), reply });
        answer.await.unwrap()
    }

    async fn stop_all(&self) {
        self.actor.send(StopAll { keep: false }).await.unwrap();
    }

    async fn status(&self) -> ServiceStatus {
        self.actor.send(GetServices).await.unwrap().services.remove(SVC).unwrap()
    }

    /// Waits until it is in that state.
    async fn is(&self, state: &str) -> ServiceStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status().await;
            if status.state == state {
                return status;
            }
            assert!(Instant::now() < deadline, "not {state}: {status:?}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// The process that runs.
    async fn leader(&self) -> Process {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(pid) = self.status().await.pid {
                return identity::identify(pid).unwrap();
            }
            assert!(Instant::now() < deadline, "nothing runs");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// The process whose number the script has written there.
    async fn process_of(&self, file: &str) -> Process {
        let path = self.path(file);
        let read = || fs::read_to_string(&path).ok()?.trim().parse().ok();
        let pid = until("no pid is written", read).await;
        identity::identify(pid).unwrap()
    }
}

fn signal(process: Process, signal: Signal) {
    kill(Pid::from_raw(process.pid), signal).unwrap();
}

/// Neither alive nor a zombie of ours.
fn is_no_more(process: Process) -> bool {
    identity::stat(process.pid).is_none_or(|stat| stat.start_time != process.start_time)
}

fn hint(error: &ApiError) -> &str {
    error.hint.as_deref().unwrap_or_default()
}

const RUNS: &str = "echo is up; exec sleep 600";
/// A child in a session of its own, whose number is in `child`.
const WITH_CHILD: &str =
    "setsid sh -c 'echo $$ >child.tmp; mv child.tmp child; exec sleep 600' & echo is up; wait";
