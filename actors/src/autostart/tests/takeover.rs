//! What an earlier actor or daemon left, and whose orphans are whose.

use super::super::runfiles::{Record, Runfiles, fingerprint};
use super::*;
use crate::process::tree::Tree;
use crate::process::{Handle, Spawning, children, hold};
use chat_proxy_core::autostart::Adapter;

/// The actor dies, and another one takes its place.
async fn rebuilt(house: House) -> House {
    assert!(house.actor.send(Die).await.is_ok());
    House { actor: start(&house.parts), ..house }
}

#[actix_rt::test]
async fn a_successor_takes_over_what_runs() {
    let house = house(sh(WITH_CHILD));
    house.request().await.unwrap();
    let (leader, child) = (house.leader().await, house.process_of("child").await);
    let house = rebuilt(house).await;
    house.by_hand().await.unwrap();
    assert_eq!((house.leader().await, house.status().await.starts), (leader, 0));
    // And hears of its end.
    signal(leader, Signal::SIGKILL);
    house.is("failed").await;
    assert!(is_no_more(leader) && !identity::is_alive(child));
}

#[actix_rt::test]
async fn one_that_was_starting_is_awaited_by_the_successor() {
    let house = house(sh("until [ -e go ]; do sleep 0.01; done; echo is up; exec sleep 600"));
    let first = house.asks(true, None);
    until("it does not start", || house.run_file("svc.pid").exists().then_some(())).await;
    let leader = house.leader().await;
    drop(first);
    let house = rebuilt(house).await;
    let asked = house.asks(true, None);
    assert_eq!(house.is("starting").await.pid, Some(leader.pid));
    fs::write(house.path("go"), "").unwrap();
    asked.await.unwrap();
    assert_eq!(house.leader().await, leader);
    house.stop_all().await;
}

#[actix_rt::test]
async fn services_are_left_to_the_next_daemon_where_that_is_wanted() {
    let house = house_with(sh(RUNS), |parts| parts.keep_on_exit = true);
    house.request().await.unwrap();
    let leader = house.leader().await;
    house.stop_all().await;
    assert!(identity::is_alive(leader) && house.run_file("svc.ready").exists());
    let mut house = rebuilt(house).await;
    house.parts.keep_on_exit = false;
    let house = rebuilt(house).await;
    assert_eq!(house.is("ready").await.pid, Some(leader.pid));
    house.stop_all().await;
    assert!(is_no_more(leader));
}

/// A process that is not our child, with this marker if any.
fn stranger(dir: &Path, mark: Option<&str>) -> Process {
    let script = "setsid -f sh -c 'echo $$ >pid.tmp; mv pid.tmp pid; exec sleep 600'";
    let mut command = std::process::Command::new("sh");
    command.args(["-c", script]).current_dir(dir);
    if let Some(mark) = mark {
        command.env("IMAGEWORKS_SERVICE", mark);
    }
    assert!(command.status().unwrap().success());
    loop {
        let text = fs::read_to_string(dir.join("pid")).unwrap_or_default();
        if let Ok(pid) = text.trim().parse() {
            fs::remove_file(dir.join("pid")).unwrap();
            return identity::identify(pid).unwrap();
        }
        std::thread::yield_now();
    }
}

fn record(leader: Process, spec: &str) -> Record {
    let boot = identity::boot_id().unwrap();
    let (spec, members) = (spec.to_owned(), vec![leader]);
    Record { leader, boot, spec, started_for: None, members }
}

#[actix_rt::test]
async fn a_new_daemon_takes_over_what_the_settings_still_want_and_ends_the_rest() {
    let house = house(sh(RUNS));
    house.status().await;
    let dir = house.dir.path();
    let spec = match &house.parts.plan.get(SVC).unwrap().adapter {
        Adapter::Shell(command) => fingerprint(command),
        Adapter::Entry => panic!("a program"),
    };
    let files = |name: &str| Runfiles::of(&house.parts.dir, name);
    let wanted = stranger(dir, Some(&files(SVC).marker()));
    let unwanted = stranger(dir, None);
    let nameless = stranger(dir, Some(&files("third").marker()));
    let others = stranger(dir, Some("other-directory:svc"));
    files(SVC).write(&record(wanted, &spec)).unwrap();
    files(SVC).write_ready(1.0).unwrap();
    files("gone").write(&record(unwanted, &spec)).unwrap();
    // The number of somebody else proves nothing.
    let later = Process { start_time: others.start_time + 1, ..others };
    files("reused").write(&record(later, &spec)).unwrap();
    let house = rebuilt(house).await;
    assert_eq!(house.is("ready").await.pid, Some(wanted.pid));
    assert!(!identity::is_alive(unwanted) && !identity::is_alive(nameless));
    assert!(identity::is_alive(others) && identity::is_alive(wanted));
    assert!(!house.run_file("gone.pid").exists() && !house.run_file("reused.pid").exists());
    signal(others, Signal::SIGKILL);
    house.stop_all().await;
    assert!(!identity::is_alive(wanted));
}

#[actix_rt::test]
async fn a_name_that_a_process_claims_is_no_path() {
    let house = house(sh(RUNS));
    house.status().await;
    let dir = house.dir.path();
    for file in ["victim.pid", "victim.ready"] {
        fs::write(dir.join(file), "").unwrap();
    }
    fs::create_dir_all(&house.parts.dir).unwrap();
    let marker = Runfiles::of(&house.parts.dir, "../victim").marker();
    let bad = stranger(dir, Some(&marker));
    let house = rebuilt(house).await;
    house.by_hand().await.unwrap();
    assert!(!identity::is_alive(bad));
    assert!(house.path("victim.pid").exists() && house.path("victim.ready").exists());
    house.stop_all().await;
}

#[actix_rt::test]
async fn one_whose_command_was_changed_is_ended() {
    let house = house(sh(RUNS));
    house.request().await.unwrap();
    let leader = house.leader().await;
    let mut house = house;
    house.parts.plan = plan(house.dir.path(), &[(SVC, sh("echo is up; exec sleep 601"))]);
    let house = rebuilt(house).await;
    house.by_hand().await.unwrap();
    assert!(is_no_more(leader));
    assert_eq!(house.status().await.starts, 1);
    house.stop_all().await;
}

/// Set by the next test for itself, started as a process of its own: there it may take in orphans.
const ALONE: &str = "TEST_TAKES_IN_ORPHANS";

#[test]
fn an_engine_and_a_service_do_not_claim_each_others_orphans() {
    let name = format!("{}::whose_orphans", module_path!().split_once("::").unwrap().1);
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", &name])
        .env(ALONE, "1")
        .status()
        .unwrap();
    assert!(status.success());
}

/// A process whose parent ends, in a session and with an environment of its own: nothing tells
/// whose it is but that it was seen. It waits for the file `go` before its parent ends.
fn detached(file: &str) -> String {
    format!(
        "env -i setsid sh -c 'echo $$ >{file}.tmp; mv {file}.tmp {file}; exec sleep 600' & \
         until [ -e go ]; do sleep 0.01; done"
    )
}

#[actix_rt::test]
#[ignore = "for the test above, alone in its process"]
async fn whose_orphans() {
    if std::env::var_os(ALONE).is_none() {
        return;
    }
    children::take_in().unwrap();
    let house = house(sh(&format!(
        "({}) & {} (setsid sh -c 'echo $$ >marked; exec sleep 600' &) ; echo is up; exec sleep 600",
        detached("bare"),
        "until [ -e bare ]; do sleep 0.01; done;"
    )));
    let engine = engine(house.dir.path()).await;
    house.request().await.unwrap();
    let (bare, marked) = (house.process_of("bare").await, house.process_of("marked").await);
    let stray = house.process_of("stray").await;
    let seen = || {
        let record = Runfiles::of(&house.parts.dir, SVC).read()?;
        record.members.contains(&bare).then_some(())
    };
    until("its members are not listed", seen).await;
    fs::write(house.path("go"), "").unwrap();
    let us = std::process::id().cast_signed();
    for orphan in [bare, marked, stray] {
        let parent = || (identity::stat(orphan.pid)?.parent == us).then_some(());
        until("it does not come to us", parent).await;
    }
    engine.sweep(Duration::ZERO, PATIENCE).await.unwrap();
    assert!(!identity::is_alive(stray), "the engine's went with it");
    assert!(identity::is_alive(bare) && identity::is_alive(marked), "the service's did not");
    let stray = new_stray(&house).await;
    house.stop().await.unwrap();
    assert!(!identity::is_alive(bare) && !identity::is_alive(marked));
    assert!(identity::is_alive(stray), "no service claims what has no sign of it");
    signal(stray, Signal::SIGKILL);
}

/// An engine whose leader leaves something behind and lives on.
async fn engine(dir: &Path) -> Tree {
    let script = format!("({}) & exec sleep 600", detached("stray"));
    let spawning = Spawning {
        line: vec!["sh".into(), "-c".into(), script],
        environment: std::env::vars_os().collect(),
        cwd: Some(dir.to_owned()),
        log: fs::File::create(dir.join("engine.log")).unwrap(),
    };
    let held = hold(spawning).await.unwrap();
    let leader = held.process();
    held.release(PATIENCE).await.unwrap();
    assert!(Handle::open(leader).unwrap().is_some());
    Tree { leader, listed: Vec::new(), marker: "of-this-test:1".into(), cgroup: None }
}

/// An orphan that comes to us without any sign.
async fn new_stray(house: &House) -> Process {
    let script = "setsid sh -c 'echo $$ >new.tmp; mv new.tmp new; exec sleep 600' &";
    let mut parent = std::process::Command::new("sh")
        .args(["-c", script])
        .current_dir(house.dir.path())
        .spawn()
        .unwrap();
    let stray = house.process_of("new").await;
    // Whoever takes orphans in may have waited for it already.
    let _ = parent.wait();
    stray
}
