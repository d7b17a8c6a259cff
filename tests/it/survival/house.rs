//! One directory with a port, in which one daemon follows another, and all that runs there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::engines::{Engined, STATE, Sampler, families, is_alive};
pub(super) use crate::support::repeats;
use crate::support::{BOUND, Engines, eventually};

/// An engine that serves has answered this long after the next daemon listens.
const AT_ONCE: Duration = Duration::from_secs(1);

/// So many attempts that mostly wait are made side by side.
const AT_A_TIME: usize = 5;

pub(super) fn side_by_side<T: Sync>(cases: &[T], attempt: impl Fn(&T) + Sync) {
    for some in cases.chunks(AT_A_TIME) {
        thread::scope(|scope| {
            for case in some {
                scope.spawn(|| attempt(case));
            }
        });
    }
}

/// A model with vLLM's habits, which however ends quickly when it is idle.
pub(super) fn quick(engines: Engines, name: &str, habits: &[&str]) -> Engines {
    engines.model(name, &[&["--like-vllm", "--sim-stop-ms", "30"], habits].concat())
}

pub(super) fn two() -> Engines {
    quick(quick(Engines::new(), "tiny-a", &[]), "tiny-b", &[])
}

/// See the module. What is left of one that failed is swept away with it.
pub(super) struct House {
    pub(super) it: Engined,
    sampler: Sampler,
    /// When the daemon that runs now said that it listens.
    listens: Instant,
    broom: Broom,
}

impl House {
    pub(super) fn start(engines: Engines) -> Self {
        let it = engines.start();
        let dir = it.daemon.path("").canonicalize().expect("a directory");
        House {
            sampler: Sampler::of(it.port),
            listens: Instant::now(),
            broom: Broom { dir, groups: BTreeSet::new() },
            it,
        }
    }

    /// What the state file says now, if there is one.
    pub(super) fn state(&self) -> Option<Value> {
        let text = fs::read(self.it.daemon.path(STATE)).ok()?;
        Some(serde_json::from_slice(&text).expect("a state file is whole at any time"))
    }

    /// The process that the state file names.
    pub(super) fn named(&self) -> i32 {
        let pid = eventually("an engine is named", BOUND, || self.state()?["pid"].as_i64());
        pid.try_into().expect("a pid")
    }

    /// Waits until an engine has begun to load; gives its pid.
    pub(super) fn loading(&self) -> i32 {
        eventually("it loads", BOUND, || (!self.it.starts().is_empty()).then_some(()));
        self.named()
    }

    /// Waits until the state file names so many processes of the engine.
    pub(super) fn wait_members(&self, n: usize) {
        eventually("the members are named", BOUND, || {
            (self.state()?["members"].as_array()?.len() >= n).then_some(())
        });
    }

    /// Whether a leader has written that of itself.
    pub(super) fn has(&self, event: &str) -> bool {
        self.it.journal().iter().any(|life| life.role == "leader" && life.event == event)
    }

    /// Waits until the engine was told to end; it goes on nevertheless.
    pub(super) fn wait_told(&self) {
        eventually("it was told to end", BOUND, || self.has("sigterm").then_some(()));
    }

    pub(super) fn kill_daemon(&mut self) {
        self.it.daemon.kill();
        let state = self.state();
        let group = state.as_ref().and_then(|state| state["cgroup"].as_str()).map(PathBuf::from);
        self.broom.groups.extend(group);
    }

    pub(super) fn start_daemon(&mut self) {
        self.it.daemon.restart();
        self.listens = Instant::now();
    }

    /// Kills the daemon, and starts the next one.
    pub(super) fn next_daemon(&mut self) {
        self.kill_daemon();
        self.start_daemon();
    }

    /// `tiny-a` is still that process, was not loaded again, and answers at once. To be asked as the
    /// first thing of a new daemon.
    #[track_caller]
    pub(super) fn assert_adopted(&self, pid: i32) {
        self.it.assert_answers("tiny-a");
        let took = self.listens.elapsed();
        eprintln!("an engine that served answers {took:?} after the next daemon listens");
        assert!(took < AT_ONCE, "{took:?}");
        self.assert_same(pid);
    }

    /// `tiny-a` was started once, and is that process.
    #[track_caller]
    pub(super) fn assert_same(&self, pid: i32) {
        assert_eq!((self.it.pid(), self.named()), (pid, pid));
        assert_eq!(self.it.starts(), ["tiny-a"]);
    }

    /// The daemon is told to end, and does.
    #[track_caller]
    pub(super) fn end_daemon(&mut self) {
        self.it.daemon.terminate();
        assert!(self.it.daemon.wait_exit(BOUND).success());
    }

    /// No daemon runs, and nothing is left of any engine: no process, in whatever session, no file,
    /// no control group, and the port is free.
    #[track_caller]
    pub(super) fn assert_nothing_left(&self) {
        self.it.assert_nothing_left();
        assert_eq!(self.broom.met(), Vec::<String>::new());
        let groups: Vec<_> = self.broom.groups.iter().filter(|group| group.exists()).collect();
        assert!(groups.is_empty(), "{groups:?}");
    }

    /// The daemon ends in order and leaves nothing, and at no time were there two engines.
    #[track_caller]
    pub(super) fn end(mut self) {
        assert!(families(self.it.port).len() <= 1);
        self.end_daemon();
        self.assert_nothing_left();
        self.sampler.assert_never_two();
    }
}

/// Kills what was started in the daemon's directory, wherever it went; dropped after the daemon.
struct Broom {
    dir: PathBuf,
    /// Control groups of the engines that daemons were killed beside.
    groups: BTreeSet<PathBuf>,
}

impl Broom {
    /// All that lives there, a child that is held too.
    fn pids(&self) -> impl Iterator<Item = i32> {
        let entries = fs::read_dir("/proc").expect("/proc").flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|pid| is_alive(*pid) && lives_in(*pid, &self.dir))
    }

    fn met(&self) -> Vec<String> {
        let tell = |pid: i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            format!("pid {pid}: {}", String::from_utf8_lossy(&line).replace('\0', " "))
        };
        self.pids().map(tell).collect()
    }
}

fn lives_in(pid: i32, dir: &Path) -> bool {
    let cwd = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
    // Once the directory is gone there is a note behind its name.
    let gone = format!("{} (deleted)", dir.display());
    cwd == dir || cwd.as_os_str() == gone.as_str()
}

impl Drop for Broom {
    fn drop(&mut self) {
        for pid in self.pids() {
            // It may have ended in this moment.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        for group in &self.groups {
            // It is gone, if all is well.
            let _ = fs::remove_dir(group);
        }
    }
}
