//! Our children: those that we started, and those that were left to us.
//!
//! A process whose parent ends gets another one: the nearest ancestor that asked for such orphans
//! (a subreaper), in the end process 1. The daemon asks for them. So what an engine has started and
//! left behind in a session and with an environment of its own comes to us, and is known to be the
//! engine's: a stray. And whoever is our child and has ended must be waited for by us, or stays a
//! zombie.
//!
//! Owns: which children we started ourselves, and the reaping of all others. Must never do: wait
//! for a child that somebody else waits for, or take a process for a stray that may have come from
//! anywhere else: where orphans of others can come to us too (we are process 1, or had children
//! before we began), nobody is one.

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chat_proxy_core::engine::state_file::Process;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

use super::identity;

/// Children that we started: each has somebody who waits for it.
static KEPT: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());
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

fn kept() -> MutexGuard<'static, BTreeSet<i32>> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
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
    let alive = |process: &Process| identity::is_alive(*process);
    others.into_iter().filter_map(identity::identify).filter(alive).collect()
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
}
