//! The supervisor with real processes and a recording arbiter. Nothing sleeps to let something
//! happen: every wait is for a report, a file or an answer, within a bound.
#![allow(clippy::unwrap_used, clippy::panic)]

mod takeover;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use super::messages::{Announce, Autopsy, GetEngine, Hurry, ShutDown};
use super::*;
use crate::guard::Role;
use crate::process::identity;
use crate::registry::View;
use crate::root::fault::Explode;
use crate::testing::{Inbox, PATIENCE, launch_of, recorder, snapshot};
use actix::{Addr, MailboxError};
use chat_proxy_core::engine::lifecycle::BreakerRules;
use chat_proxy_core::engine::state_file::{Phase as Written, StateFile};
use chat_proxy_core::engine::{Cause, EngineRules, Held, Launch};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const FIRST: Generation = Generation(1);

/// The test's directory, the supervisor in it, and what its arbiter hears.
struct House {
    dir: tempfile::TempDir,
    parts: SupervisorParts,
    launch: Arc<Launch>,
    supervisor: Addr<VllmSupervisor>,
    reports: Inbox<EngineChanged>,
}

fn rules() -> LifecycleRules {
    LifecycleRules {
        stop_timeout: PATIENCE,
        loading_stop_grace: PATIENCE,
        kill_grace: PATIENCE,
        backoff: Duration::ZERO,
        breaker: BreakerRules { failures: 100, window: PATIENCE, open: PATIENCE },
        adopt_timeout: PATIENCE,
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// An engine that is this shell script, run in the test's directory.
fn house(script: &str) -> House {
    house_with(script, rules())
}

fn house_with(script: &str, rules: LifecycleRules) -> House {
    let sh = ["sh", "-c", script].map(str::to_owned).to_vec();
    house_of(sh, rules)
}

fn house_of(command: Vec<String>, rules: LifecycleRules) -> House {
    let dir = tempfile::tempdir().unwrap();
    let (arbiter, reports) = recorder();
    let engine = EngineRules {
        command: Some(command),
        port: free_port(),
        cwd: Some(dir.path().to_owned()),
        log_dir: dir.path().join("logs"),
        ..EngineRules::default()
    };
    let port = engine.port;
    let snapshot = snapshot(&["a"], engine);
    let launch = launch_of(&snapshot, "a");
    let registry = RegistryView::default();
    registry.store(Arc::new(View { snapshot: Arc::new(snapshot), ..View::default() }));
    let parts = SupervisorParts {
        bounds: crate::live::Live::new(crate::vllm_supervisor::SupervisorBounds {
            rules,
            silence: None,
            probes: ProbeRules { interval: PATIENCE, timeout: PATIENCE, failures: 3 },
            keep_logs: 1,
            max_log_bytes: 1 << 20,
        }),
        state_path: dir.path().join("active_vllm.json"),
        port,
        pulse: Pulse::default(),
        templates: crate::templates::Templates::new(dir.path().join("chat_templates")),
        ends_all: false,
        secrets: BTreeSet::new(),
        registry,
        arbiter,
        metrics: Metrics::new().unwrap(),
        events: std::sync::Arc::default(),
    };
    House { supervisor: start(&parts), dir, parts, launch, reports }
}

fn start(parts: &SupervisorParts) -> Addr<VllmSupervisor> {
    VllmSupervisor::new(parts.clone(), false, Guard::unwatched(Role::Vllm)).start()
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
    fn run(&self, generation: Generation) {
        self.supervisor.do_send(SetGoal::Run(generation, self.launch.clone()));
    }

    fn written(&self) -> Option<StateFile> {
        serde_json::from_slice(&fs::read(&self.parts.state_path).ok()?).ok()
    }

    /// A running engine, and what is written of it.
    async fn started(&self) -> StateFile {
        self.run(FIRST);
        until("no state file", || self.written()).await
    }

    /// The same, once its script has made the file `ready`.
    async fn settled(&self) -> StateFile {
        let state = self.started().await;
        let ready = self.dir.path().join("ready");
        until("the script does nothing", || ready.exists().then_some(())).await;
        state
    }

    async fn held(&mut self, wanted: impl Fn(&Held) -> bool) -> Held {
        let pick = |changed: &EngineChanged| changed.report.held.clone().filter(|h| wanted(h));
        self.reports.until("such a report", pick).await
    }

    async fn failure(&mut self) -> Cause {
        match self.held(|held| matches!(held.phase, Phase::Failed(_))).await.phase {
            Phase::Failed(cause) => cause,
            other => panic!("{other:?}"),
        }
    }

    /// Waits for the report that nothing runs after something did.
    async fn gone(&mut self) {
        let pick = |changed: &EngineChanged| changed.report.held.is_none().then_some(());
        self.reports.until("the engine's end", pick).await;
    }

    fn stop(&self) {
        self.supervisor.do_send(SetGoal::Stop(FIRST));
    }
}

fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

/// Neither alive nor a zombie.
fn is_no_more(state: &StateFile) -> bool {
    identity::stat(state.pid).is_none_or(|stat| stat.start_time != state.start_time)
}

const RUNS: &str = ": >ready; exec sleep 600";

#[actix_rt::test]
async fn a_program_that_is_not_there_is_reported_with_its_name() {
    let mut house = house_of(vec!["no-such-program".to_owned()], rules());
    house.run(FIRST);
    let Cause::NotStarted { message } = house.failure().await else { panic!() };
    assert!(message.contains("no-such-program"), "{message}");
    assert!(house.written().is_none());
}

#[actix_rt::test]
async fn an_early_exit_is_reported_with_its_status_and_the_telling_line() {
    let mut house = house("echo 'ValueError: no model there' >&2; exit 3");
    house.run(FIRST);
    let Cause::EndedAtStart { status, telling } = house.failure().await else { panic!() };
    assert_eq!(status, "exit code 3");
    assert_eq!(telling.as_deref(), Some("ValueError: no model there"));
    assert!(house.written().is_none());
}

#[actix_rt::test]
async fn a_taken_port_is_reported_with_who_has_it() {
    let mut house = house(RUNS);
    let _stranger = TcpListener::bind(("127.0.0.1", house.parts.port)).unwrap();
    house.run(FIRST);
    let Cause::PortTaken { port, by } = house.failure().await else { panic!() };
    assert_eq!(port, house.parts.port);
    assert!(by.contains(&std::process::id().to_string()), "{by}");
}

#[actix_rt::test]
async fn a_process_that_is_killed_from_outside_is_reported_at_once() {
    let mut house = house(RUNS);
    let state = house.settled().await;
    let begin = Instant::now();
    signal(state.pid, Signal::SIGKILL);
    house.held(|held| held.phase == Phase::Leaving).await;
    assert!(begin.elapsed() < Duration::from_millis(100), "{:?}", begin.elapsed());
    let Cause::EndedAtStart { status, .. } = house.failure().await else { panic!() };
    assert_eq!(status, "signal SIGKILL");
    assert!(is_no_more(&state) && house.written().is_none());
}

#[actix_rt::test]
async fn an_engine_that_ignores_sigterm_is_killed_with_its_children_when_its_time_is_up() {
    let grace = Duration::from_millis(150);
    let rules = LifecycleRules { loading_stop_grace: grace, ..rules() };
    let script = "trap '' TERM; sleep 600 & echo $! >child; : >ready; wait";
    let mut house = house_with(script, rules);
    let state = house.settled().await;
    let child = fs::read_to_string(house.dir.path().join("child")).unwrap();
    let child = identity::identify(child.trim().parse().unwrap()).unwrap();
    let begin = Instant::now();
    house.stop();
    house.held(|held| held.phase == Phase::Leaving).await;
    assert_eq!(house.written().map(|state| state.phase), Some(Written::Stopping));
    house.gone().await;
    assert!(begin.elapsed() >= grace && begin.elapsed() < Duration::from_secs(5));
    assert!(is_no_more(&state) && !identity::is_alive(child));
    assert!(house.written().is_none());
}

#[actix_rt::test]
async fn no_patience_means_no_grace() {
    let mut house = house("trap '' TERM; sleep 600 & : >ready; wait");
    let state = house.settled().await;
    house.stop();
    house.supervisor.do_send(Hurry);
    let begin = Instant::now();
    house.held(|held| held.phase == Phase::Leaving).await;
    house.gone().await;
    assert!(begin.elapsed() < Duration::from_secs(5));
    assert!(is_no_more(&state));
}

#[actix_rt::test]
async fn the_state_file_proves_whose_the_engine_is_and_goes_with_it() {
    let mut house = house(RUNS);
    let state = house.settled().await;
    assert_eq!((state.generation, state.phase), (FIRST, Written::Starting));
    assert_eq!(state.boot_id, identity::boot_id().unwrap());
    assert!(identity::is_alive(state.leader()));
    assert_eq!((state.process_group, state.port), (state.pid, house.parts.port));
    let shown = house.supervisor.send(GetEngine).await.unwrap();
    assert_eq!((shown.state, shown.pid), ("starting", Some(state.pid)));
    house.stop();
    house.held(|held| held.phase == Phase::Leaving).await;
    house.gone().await;
    assert!(house.written().is_none() && is_no_more(&state));
    assert_eq!(house.supervisor.send(GetEngine).await.unwrap().pid, None);
}

#[actix_rt::test]
async fn an_engine_sees_its_marker_and_none_of_our_secrets() {
    let house = house("env >seen; : >ready; exec sleep 600");
    house.settled().await;
    let seen = fs::read_to_string(house.dir.path().join("seen")).unwrap();
    let marker = memory::Memory::at(house.parts.state_path.clone()).marker(FIRST);
    assert!(seen.contains(&format!("IMAGEWORKS_ENGINE={marker}")), "{seen}");
    assert!(!seen.contains("CHAT_PROXY_"));
    house.supervisor.send(ShutDown { keep: false }).await.unwrap();
}

#[actix_rt::test]
async fn a_shutdown_is_answered_at_once_when_nothing_runs() {
    let house = house(RUNS);
    assert_eq!(house.supervisor.send(ShutDown { keep: false }).await.unwrap(), Ended::Clean);
}

#[actix_rt::test]
async fn a_shutdown_is_answered_when_the_engine_is_gone_and_nothing_is_started_after_it() {
    let mut house = house(RUNS);
    let state = house.settled().await;
    assert_eq!(house.supervisor.send(ShutDown { keep: false }).await.unwrap(), Ended::Clean);
    assert!(is_no_more(&state) && house.written().is_none());
    house.reports.rest();
    house.run(Generation(2));
    house.supervisor.send(GetEngine).await.unwrap();
    assert_eq!(house.supervisor.send(GetEngine).await.unwrap().state, "stopped");
}

#[actix_rt::test]
async fn a_shutdown_whose_supervisor_dies_is_not_taken_for_an_answer() {
    let house = house("trap '' TERM; sleep 600 & : >ready; wait");
    let state = house.settled().await;
    let asked = house.supervisor.send(ShutDown { keep: false });
    house.supervisor.do_send(Explode);
    assert_eq!(asked.await, Err(MailboxError::Closed));
    let successor = start(&house.parts);
    let asked = successor.send(ShutDown { keep: false });
    successor.do_send(Hurry);
    assert_eq!(asked.await, Ok(Ended::Clean));
    assert!(is_no_more(&state));
}

#[actix_rt::test]
async fn every_goal_is_answered_by_a_report_changed_or_not() {
    let mut house = house(RUNS);
    assert!(house.reports.next().await.fresh);
    house.stop();
    let report = house.reports.next().await;
    assert!(!report.fresh && report.report.held.is_none());
    house.supervisor.do_send(Announce);
    assert!(!house.reports.next().await.fresh);
}

#[actix_rt::test]
async fn what_an_engine_died_of_is_told_to_who_asks_also_before_it_is_known() {
    let house = house(RUNS);
    let state = house.settled().await;
    let asked = house.supervisor.send(Autopsy(FIRST));
    let stale = house.supervisor.send(Autopsy(Generation(9)));
    signal(state.pid, Signal::SIGKILL);
    let Some(Cause::EndedAtStart { status, .. }) = asked.await.unwrap() else { panic!() };
    assert_eq!(status, "signal SIGKILL");
    assert_eq!(stale.await.unwrap(), None);
    assert!(house.supervisor.send(Autopsy(FIRST)).await.unwrap().is_some(), "also afterwards");
}

#[actix_rt::test]
async fn an_engine_is_kept_where_that_is_wanted_and_stays_in_the_file() {
    let mut house = house(RUNS);
    let state = house.settled().await;
    let ended = house.supervisor.send(ShutDown { keep: true }).await.unwrap();
    assert_eq!(ended, Ended::Kept("a".into(), state.pid));
    assert!(identity::is_alive(state.leader()));
    assert_eq!(house.written().unwrap().phase, Written::Starting);
    // The next daemon has it, and ends it.
    house.reports.rest();
    house.supervisor = start(&house.parts);
    house.held(|held| held.generation == FIRST).await;
    let ended = house.supervisor.send(ShutDown { keep: false }).await.unwrap();
    assert_eq!(ended, Ended::Clean);
    assert!(is_no_more(&state) && house.written().is_none());
}

#[actix_rt::test]
async fn an_order_to_stop_an_older_start_does_not_meet_the_newer_one() {
    let mut house = house(RUNS);
    house.run(Generation(2));
    house.supervisor.do_send(SetGoal::Stop(FIRST));
    house.held(|held| held.phase == Phase::Starting && held.generation == Generation(2)).await;
    let state = until("no state file", || house.written()).await;
    assert_eq!(house.supervisor.send(GetEngine).await.unwrap().pid, Some(state.pid));
    house.supervisor.do_send(SetGoal::Stop(Generation(2)));
    house.gone().await;
}

/// How the engine of the next test is told its port: the test's program is started again as one.
const PORT: &str = "TEST_ENGINE_PORT_FILE";

#[actix_rt::test]
async fn an_engine_that_answers_under_its_name_is_ready_and_its_death_is_a_crash() {
    let program = std::env::current_exe().unwrap();
    let script = format!(
        "{PORT}=\"$PWD/port\" exec '{}' --ignored --exact {}::an_engine",
        program.display(),
        module_path!().split_once("::").unwrap().1
    );
    let mut house = house(&script);
    fs::write(house.dir.path().join("port"), house.parts.port.to_string()).unwrap();
    let state = house.started().await;
    house.held(|held| held.phase == Phase::Ready).await;
    assert_eq!(house.parts.metrics.backend_up.with_label_values(&["vllm"]).get(), 1);
    let members = |state: StateFile| state.phase == Written::Ready && !state.members.is_empty();
    until("its members are not remembered", || house.written().filter(|s| members(s.clone())))
        .await;
    signal(state.pid, Signal::SIGKILL);
    let Cause::Crashed { status, .. } = house.failure().await else { panic!() };
    assert_eq!(status, "signal SIGKILL");
    assert_eq!(house.parts.metrics.backend_up.with_label_values(&["vllm"]).get(), 0);
    assert!(is_no_more(&state) && house.written().is_none());
}

/// Answers as vLLM does, when started by the test above; otherwise nothing.
#[test]
#[ignore = "an engine for another test"]
fn an_engine() {
    let Some(path) = std::env::var_os(PORT).map(PathBuf::from) else { return };
    let port: u16 = fs::read_to_string(path).unwrap().parse().unwrap();
    for connection in TcpListener::bind(("127.0.0.1", port)).unwrap().incoming() {
        let mut connection = connection.unwrap();
        let mut lines = BufReader::new(connection.try_clone().unwrap()).lines();
        while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
        let body = r#"{"data": [{"id": "a"}]}"#;
        let length = body.len();
        let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n");
        // Whoever has gone needs no answer.
        let _ = write!(connection, "{head}content-type: application/json\r\n\r\n{body}");
    }
}
