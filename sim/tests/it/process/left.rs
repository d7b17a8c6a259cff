//! Children that an engine leaves behind, and one that comes late.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal::{SIGKILL, SIGTERM};
use nix::sys::signal::kill;
use nix::unistd::Pid;

use super::{Engine, command_line, group, is_alive, parent, session, stays, until, until_gone};

/// The variables that a process was started with.
fn environment(pid: i32) -> String {
    String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/environ")).unwrap()).into_owned()
}

/// A child in the leader's group that has come so far that it ignores SIGTERM.
fn child_in_group(engine: &Engine) -> Option<i32> {
    let mut pids = engine.journal().into_iter().map(|(pid, _, _)| pid);
    pids.find(|&pid| {
        command_line(pid).contains("\0--sim-role=child\0") && group(pid) == engine.pid()
    })
}

#[test]
fn a_child_stays_in_the_group_when_its_leader_goes() {
    let mut engine = Engine::ready("--sim-leave-child");
    let child = engine.child_pid("child");
    assert_eq!((parent(child), group(child)), (engine.pid(), engine.pid()));
    engine.signal_group(SIGTERM);
    assert_eq!(engine.exit(), Some(0));
    until("it was told", || engine.events("child").contains(&"sigterm".to_owned()).then_some(()));
    assert!(stays(Duration::from_millis(200), || is_alive(child)));
    engine.signal_group(SIGKILL);
    until_gone(child);
}

#[test]
fn a_grandchild_in_a_session_of_its_own_outlives_its_group() {
    for how in ["session", "daemon"] {
        let mut engine = Engine::ready(&format!("--sim-leave-child={how}"));
        let child = engine.child_pid("child");
        assert_eq!((session(child), group(child)), (child, child));
        if how == "session" {
            assert_eq!(parent(parent(child)), engine.pid());
        } else {
            assert_ne!(parent(child), engine.pid());
            assert_ne!(group(parent(child)), engine.pid(), "there is nobody between them");
        }
        engine.signal_group(SIGKILL);
        assert_eq!(engine.exit(), None);
        assert!(stays(Duration::from_millis(200), || is_alive(child)));
    }
}

#[test]
fn a_stray_has_nothing_but_its_command_line_to_be_known_by() {
    let mut engine = Engine::ready("--sim-leave-child=stray");
    let child = engine.child_pid("child");
    assert_eq!(environment(child), "");
    assert!(command_line(child).contains("\0--port=0\0"));
    assert_eq!((session(child), group(child)), (child, child));
    assert_ne!(group(parent(child)), engine.pid(), "there is nobody between them");
    kill(Pid::from_raw(child), SIGTERM).unwrap();
    until("it was told", || engine.events("child").contains(&"sigterm".to_owned()).then_some(()));
    engine.signal_group(SIGKILL);
    assert_eq!(engine.exit(), None);
    assert!(stays(Duration::from_millis(200), || is_alive(child)));
}

#[test]
fn a_bare_grandchild_is_reached_through_its_parents_until_the_leader_is_killed() {
    let mut engine = Engine::ready("--sim-leave-child=bare");
    let (child, between) = (engine.child_pid("child"), engine.child_pid("between"));
    assert_eq!((parent(child), parent(between)), (between, engine.pid()));
    assert_eq!((session(child), group(child), group(between)), (child, child, engine.pid()));
    assert_eq!(environment(child), "");
    assert!(environment(between).contains("SIM_TEST_SECRET=s3cret"));
    engine.signal(SIGKILL);
    assert_eq!(engine.exit(), None);
    assert!(stays(Duration::from_millis(200), || is_alive(child) && is_alive(between)));
    assert_eq!(parent(child), between);
    engine.signal_group(SIGTERM);
    until_gone(between);
    assert!(stays(Duration::from_millis(200), || is_alive(child)));
}

#[test]
fn a_child_comes_late_and_ignores_sigterm() {
    let mut engine = Engine::ready("--sim-late-child-ms 300 --sim-leave-child=session");
    let ready = Instant::now();
    let before = engine.child_pid("child");
    let child = until("there is another", || child_in_group(&engine));
    assert!(ready.elapsed() >= Duration::from_millis(250));
    assert!(child != before && parent(child) == engine.pid());
    engine.signal_group(SIGTERM);
    assert_eq!(engine.exit(), Some(0));
    assert!(stays(Duration::from_millis(200), || is_alive(child)));
    engine.signal_group(SIGKILL);
    until_gone(child);
}

#[test]
fn a_child_may_come_when_its_leader_is_ending_already() {
    let mut engine = Engine::ready("--sim-late-child-ms 300 --sim-stop-ms 900");
    engine.signal(SIGTERM);
    engine.await_event("leader", "sigterm");
    engine.await_event("child", "start");
    assert_eq!(engine.exit(), Some(0));
    assert!(child_in_group(&engine).is_some());
}
