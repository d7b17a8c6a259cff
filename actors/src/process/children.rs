//! Our children: those that we started, and those that were left to us.
//!
//! A process whose parent ends gets another one: the nearest ancestor that asked for such orphans
//! (a subreaper), in the end process 1. The daemon asks for them. So what an engine has started and
//! left behind in a session and with an environment of its own comes to us, and is known to be the
//! engine's: a stray. And whoever is our child and has ended must be waited for by us, or stays a
//! zombie.
//!
//! Services leave orphans too. Those are told by the service's own marker, or by having been seen in
//! it (themselves, or the leader of their group or session): no engine claims them. An orphan that
//! nothing tells of is an engine's; engines write over their environment, services hardly do.
//!
//! Owns: which children we started ourselves, which processes are services', and the reaping of all
//! others. Must never do: wait
//! for a child that somebody else waits for, or take a process for a stray that may have come from
//! anywhere else: where orphans of others can come to us too (we are process 1, or had children
//! before we began), nobody is one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chat_proxy_core::autostart::environment::SERVICE_MARKER;
use chat_proxy_core::engine::state_file::Process;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

use super::identity;

/// Children that we started: each has somebody who waits for it.
static KEPT: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());
/// Processes that were seen in services, by the services' marks.
static SERVED: Mutex<BTreeMap<String, Vec<Process>>> = Mutex::new(BTreeMap::new());
/// Children that are being made just now: nobody knows their numbers, they look like strays.
static FORKING: AtomicUsize = AtomicUsize::new(0);
/// How many have ever been.
static FORKS: AtomicUsize = AtomicUsize::new(0);
/// Whether all children that we did not start are strays.
static STRAYS_ARE_OURS: AtomicBool = AtomicBool::new(false);

/// A look that met a fork is made again after this.
const AGAIN: Duration = Duration::from_millis(10);
/// So often; a fork takes milliseconds.
const LOOKS: u32 = 100;

/// A child is being made, until its number is kept or it is known that there is none.
#[derive(Debug)]
pub(super) struct Forking(());

impl Forking {
    pub(super) fn begin() -> Self {
        FORKING.fetch_add(1, Ordering::SeqCst);
        FORKS.fetch_add(1, Ordering::SeqCst);
        Forking(())
    }
}

impl Drop for Forking {
    fn drop(&mut self) {
        FORKING.fetch_sub(1, Ordering::SeqCst);
    }
}

/// We started this one, and wait for it.
pub(super) fn keep(pid: i32) {
    kept().insert(pid);
}

/// It has been waited for: its number may be anybody's.
pub(super) fn forget(pid: i32) {
    kept().remove(&pid);
}

#[cfg(test)]
pub(super) fn is_kept(pid: i32) -> bool {
    kept().contains(&pid)
}

fn kept() -> MutexGuard<'static, BTreeSet<i32>> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// These belong to the service of that mark, and no others any more: no engine claims them.
pub fn claim(mark: &str, members: &[Process]) {
    served().insert(mark.to_owned(), members.to_vec());
}

/// Nobody of that service is left.
pub fn disclaim(mark: &str) {
    served().remove(mark);
}

fn served() -> MutexGuard<'static, BTreeMap<String, Vec<Process>>> {
    SERVED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether an orphan is a service's.
fn is_of_a_service(orphan: Process) -> bool {
    let known: BTreeMap<i32, u64> =
        served().values().flatten().map(|process| (process.pid, process.start_time)).collect();
    // That number is the member's own, or its group's that it has left behind: not a later process's.
    let is_known = |pid: i32| {
        known.get(&pid).is_some_and(|start_time| {
            identity::stat(pid).is_none_or(|stat| stat.start_time == *start_time)
        })
    };
    let leads = |stat: identity::Stat| is_known(stat.group) || is_known(stat.session);
    is_known(orphan.pid)
        || identity::stat(orphan.pid).is_some_and(leads)
        || identity::variable(orphan.pid, SERVICE_MARKER)
            // We may be a service ourselves: then everybody has inherited that.
            .is_some_and(|mark| std::env::var(SERVICE_MARKER).ok() != Some(mark))
}

/// Asks for the orphans of what we start, and waits for those that end, for as long as the daemon
/// runs. Needs the runtime of the control thread.
pub fn take_in() -> std::io::Result<()> {
    let mut ended = signal(SignalKind::child())?;
    let alone = std::process::id() != 1 && all().is_empty();
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    STRAYS_ARE_OURS.store(alone, Ordering::SeqCst);
    if !alone {
        tracing::info!(
            "orphans of others may come to this process: engines' are told by other marks"
        );
    }
    actix_rt::spawn(async move {
        while ended.recv().await.is_some() {
            while !reap_strays() {
                sleep(AGAIN).await;
            }
        }
    });
    Ok(())
}

/// Waits for the dead among those that we did not start; `false`: not now, a child is being made.
fn reap_strays() -> bool {
    let Some(others) = others() else { return false };
    for pid in others {
        if identity::stat(pid).is_some_and(|stat| stat.state == 'Z') {
            let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
            match waitid(Id::Pid(Pid::from_raw(pid)), flags) {
                Ok(_) => tracing::debug!(pid, "an orphan that came to us has ended"),
                Err(error) => tracing::debug!(pid, %error, "an orphan cannot be waited for"),
            }
        }
    }
    true
}

/// Living processes that an engine left to us. Blocking.
pub(super) fn strays() -> Vec<Process> {
    if !STRAYS_ARE_OURS.load(Ordering::SeqCst) {
        return Vec::new();
    }
    let mut look = 0;
    let others = loop {
        match others() {
            Some(others) => break others,
            None if look == LOOKS => {
                tracing::warn!("a child takes long to be made; strays are not looked for");
                break Vec::new();
            }
            None => std::thread::sleep(AGAIN),
        }
        look += 1;
    };
    let stray = |process: &Process| identity::is_alive(*process) && !is_of_a_service(*process);
    others.into_iter().filter_map(identity::identify).filter(stray).collect()
}

/// Children that we did not start; `None`: that cannot be told now, one is being made.
fn others() -> Option<Vec<i32>> {
    let before = FORKS.load(Ordering::SeqCst);
    let busy = FORKING.load(Ordering::SeqCst) > 0;
    let all = all();
    let kept = kept();
    let still = FORKS.load(Ordering::SeqCst) == before;
    (still && !busy).then(|| all.into_iter().filter(|pid| !kept.contains(pid)).collect())
}

/// All our children, dead ones too.
fn all() -> Vec<i32> {
    let Ok(threads) = fs::read_dir("/proc/self/task") else { return Vec::new() };
    let of = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("children")).ok();
    let lists: Vec<String> = threads.flatten().filter_map(of).collect();
    if lists.is_empty() {
        // A kernel without these lists: whoever says that we are its parent.
        let us = std::process::id().cast_signed();
        let ours = |pid: &i32| identity::stat(*pid).is_some_and(|stat| stat.parent == us);
        return identity::all().into_iter().filter(ours).collect();
    }
    lists.iter().flat_map(|list| list.split_ascii_whitespace()).flat_map(str::parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_ours_until_it_has_been_waited_for() {
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let pid = child.id().cast_signed();
        // Other tests fork meanwhile.
        let others = || loop {
            if let Some(others) = others() {
                break others;
            }
            std::thread::yield_now();
        };
        assert!(all().contains(&pid) && others().contains(&pid));
        keep(pid);
        assert!(!others().contains(&pid));
        assert!(strays().is_empty(), "nobody asked for orphans here");
        forget(pid);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!all().contains(&pid));
    }

    /// A process that sleeps, with this variable if any.
    fn sleeper(mark: Option<&str>) -> (std::process::Child, Process) {
        let mut command = std::process::Command::new("sleep");
        command.arg("600").env_clear();
        if let Some(mark) = mark {
            command.env(SERVICE_MARKER, mark);
        }
        let child = command.spawn().unwrap();
        let process = identity::identify(child.id().cast_signed()).unwrap();
        (child, process)
    }

    #[test]
    fn an_orphan_is_a_services_by_its_marker_or_by_having_been_seen_there() {
        let (mut plain, unmarked) = sleeper(None);
        let (mut other, marked) = sleeper(Some("h:svc"));
        assert!(!is_of_a_service(unmarked) && is_of_a_service(marked));
        claim("of-this-test", &[unmarked]);
        assert!(is_of_a_service(unmarked));
        // One that only has its number is not meant.
        let later = Process { start_time: unmarked.start_time + 1, ..unmarked };
        claim("of-this-test", &[later]);
        assert!(!is_of_a_service(unmarked));
        disclaim("of-this-test");
        for child in [&mut plain, &mut other] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    #[test]
    fn who_is_in_the_session_of_one_that_was_seen_is_a_services_too() {
        let dir = tempfile::tempdir().unwrap();
        let script = "import os, subprocess; \
            apart = lambda: os.setpgid(0, 0); \
            child = subprocess.Popen(['sleep', '600'], preexec_fn=apart); \
            open('child', 'w').write(f'{child.pid}\\n'); child.wait()";
        let mut leader = std::process::Command::new("setsid")
            .args(["python3", "-c", script])
            .current_dir(&dir)
            .spawn()
            .unwrap();
        let pid = loop {
            let text = fs::read_to_string(dir.path().join("child")).unwrap_or_default();
            match text.trim().parse() {
                Ok(pid) => break pid,
                Err(_) => std::thread::yield_now(),
            }
        };
        let (child, process) = (identity::identify(pid).unwrap(), leader.id().cast_signed());
        assert_ne!(identity::stat(pid).unwrap().group, process);
        assert!(!is_of_a_service(child));
        claim("of-that-test", &[identity::identify(process).unwrap()]);
        assert!(is_of_a_service(child));
        disclaim("of-that-test");
        nix::sys::signal::kill(Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
        leader.kill().unwrap();
        leader.wait().unwrap();
    }
}
