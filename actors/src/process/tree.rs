//! The processes of an engine: one definition for stopping, sweeping and proving (SPEC 6.1).
//!
//! Owns: finding them, and ending what is left of them with proof. Of an engine's tree are its
//! leader, the members of its process group, those that were seen in it before, their descendants,
//! those that carry its marker variable, all of its control group, and those that it left to us.
//! None of these alone is enough: engines make sessions of their own, write over their environment,
//! and outlive their leader. A service's tree is the same, but for what is left to us without any
//! sign: that counts as an engine's. Must never do: signal a process that only has the number of
//! one of ours.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

use chat_proxy_core::autostart::environment::SERVICE_MARKER;
use chat_proxy_core::engine::environment::MARKER;
use chat_proxy_core::engine::state_file::Process;
use chat_proxy_core::ids::Generation;
use tokio::time::{Instant, sleep, timeout_at};

use super::cgroup::{self, Cgroup};
use super::identity::Stat;
use super::{Handle, children, identity};

/// What belongs to one engine, or to one service.
#[derive(Debug, Clone)]
pub struct Tree {
    /// The leader, whose pid is the process group's number.
    pub leader: Process,
    /// Processes that were seen in it.
    pub listed: Vec<Process>,
    /// The value of the engine's marker variable; a service's mark as [`service_mark`] makes it.
    pub marker: String,
    /// Its control group, where there is one.
    pub cgroup: Option<Cgroup>,
}

/// The mark of a service whose marker variable has this value.
pub fn service_mark(value: &str) -> String {
    format!("{SERVICE_MARKER}={value}")
}

/// How closely is looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Everything: also the environment of every process of the machine.
    Whole,
    /// Without that, and cheaper by far: often, and only to know who is there.
    Light,
}

/// All processes at one moment.
struct Table(BTreeMap<i32, Stat>);

impl Table {
    fn read() -> Self {
        Table(
            identity::all()
                .into_iter()
                .filter_map(|pid| Some((pid, identity::stat(pid)?)))
                .collect(),
        )
    }

    /// Whether the process of that number is this very one, dead or alive.
    fn has(&self, process: Process) -> bool {
        self.0.get(&process.pid).is_some_and(|stat| stat.start_time == process.start_time)
    }

    fn lives(&self, pid: i32) -> bool {
        self.0.get(&pid).is_some_and(|stat| stat.lives())
    }

    /// Adds the descendants of those that are in.
    fn add_descendants(&self, found: &mut BTreeSet<i32>) {
        loop {
            let before = found.len();
            let parent_in =
                |(pid, stat): (&i32, &Stat)| found.contains(&stat.parent).then_some(*pid);
            let more: Vec<i32> = self.0.iter().filter_map(parent_in).collect();
            found.extend(more);
            if found.len() == before {
                return;
            }
        }
    }
}

impl Tree {
    /// The value of a service's marker variable; `None`: it is an engine's tree.
    fn service(&self) -> Option<&str> {
        self.marker.strip_prefix(SERVICE_MARKER)?.strip_prefix('=')
    }

    fn marks(&self, pid: i32) -> bool {
        let (name, value) = match self.service() {
            Some(value) => (SERVICE_MARKER, value),
            None => (MARKER, self.marker.as_str()),
        };
        identity::variable(pid, name).as_deref() == Some(value)
    }

    /// Its living processes. Blocking: reads all of `/proc`.
    pub fn members(&self) -> Vec<Process> {
        self.look(Look::Whole)
    }

    fn look(&self, look: Look) -> Vec<Process> {
        let table = Table::read();
        let listed = self.listed.iter().chain([&self.leader]).filter(|p| table.has(**p));
        let mut found: BTreeSet<i32> = listed.map(|process| process.pid).collect();
        if look == Look::Whole {
            found.extend(table.0.keys().filter(|pid| self.marks(**pid)));
        }
        // While one that is known to be of it is in the group, dead or alive, nobody else can have
        // that number.
        let group = self.leader.pid;
        if found.iter().any(|pid| table.0.get(pid).is_some_and(|stat| stat.group == group)) {
            found.extend(
                table.0.iter().filter(|(_, stat)| stat.group == group).map(|(pid, _)| *pid),
            );
        }
        if let Some(cgroup) = &self.cgroup {
            found.extend(cgroup.members().unwrap_or_else(|error| {
                tracing::warn!(%error, "an engine's control group cannot be read");
                Vec::new()
            }));
        }
        if self.service().is_none() {
            let since = |stray: &Process| stray.start_time >= self.leader.start_time;
            found.extend(children::strays().into_iter().filter(since).map(|stray| stray.pid));
        }
        table.add_descendants(&mut found);
        found.remove(&std::process::id().cast_signed());
        let process = |pid: i32| Some(Process { pid, start_time: table.0.get(&pid)?.start_time });
        found.into_iter().filter(|pid| table.lives(*pid)).filter_map(process).collect()
    }

    /// The same as closely as is wanted, off this thread.
    pub async fn look_soon(&self, look: Look) -> Vec<Process> {
        let tree = self.clone();
        match tokio::task::spawn_blocking(move || tree.look(look)).await {
            Ok(members) => members,
            Err(error) => {
                tracing::error!(%error, "the processes of an engine or service could not be listed");
                vec![self.leader]
            }
        }
    }

    /// Its janitors, and the others.
    async fn by_office(&self) -> (Vec<Process>, Vec<Process>) {
        self.look_soon(Look::Whole).await.into_iter().partition(is_janitor)
    }

    /// SIGKILL to all that lives of it but for its janitors, who clean up when the others are gone.
    pub async fn kill(&self) {
        let (janitors, others) = self.by_office().await;
        kill_all(if others.is_empty() { &janitors } else { &others });
    }

    /// Ends what is left until nobody lives; the error names those who still do at the end. First
    /// they may end by themselves for `grace`: after an ordinary stop some still have to tidy up.
    pub async fn sweep(&self, grace: Duration, within: Duration) -> Result<(), String> {
        let until = Instant::now() + within;
        let members = self.look_soon(Look::Whole).await;
        // Whether all made it, and whom they started meanwhile, is seen by the next look.
        all_ended(&members, Instant::now() + grace).await;
        let mut again = false;
        loop {
            let (janitors, others) = self.by_office().await;
            if others.is_empty() {
                if janitors.is_empty() {
                    match self.unseen().as_slice() {
                        [] => return Ok(()),
                        left if Instant::now() >= until => return Err(named(left.iter().copied())),
                        _ => self.kill_all_at_once(),
                    }
                    sleep(UNSEEN_LOOK).await;
                    continue;
                }
                if all_ended(&janitors, Instant::now() + JANITOR).await {
                    continue; // with another look
                }
            }
            let met = if others.is_empty() { janitors } else { others };
            kill_all(&met);
            // Who is started faster than killed is not met one by one.
            if std::mem::replace(&mut again, true) {
                self.kill_all_at_once();
            }
            // Those who are replaced faster than they end are not waited for without an end.
            if !all_ended(&met, until).await || Instant::now() >= until {
                return Err(named(met.iter().map(|process| process.pid)));
            }
        }
    }

    /// Those that began behind a look and are gone, or others in their place, by the next one: only
    /// their control group knows of them.
    fn unseen(&self) -> Vec<i32> {
        self.cgroup.as_ref().and_then(|group| group.members().ok()).unwrap_or_default()
    }

    fn kill_all_at_once(&self) {
        if let Some(Err(error)) = self.cgroup.as_ref().map(Cgroup::kill) {
            tracing::warn!(%error, "an engine's control group cannot be killed");
        }
    }

    /// Nothing lives of it any more: its control group goes too.
    pub fn remove(&self) {
        if let Some(Err(error)) = self.cgroup.as_ref().map(Cgroup::remove) {
            tracing::warn!(%error, "an engine's control group cannot be removed");
        }
    }
}

/// What lives for shorter than a look is looked for again after this.
const UNSEEN_LOOK: Duration = Duration::from_millis(5);

fn named(pids: impl Iterator<Item = i32>) -> String {
    pids.map(identity::describe).collect::<Vec<_>>().join(", ")
}

/// Living processes that carry a marker with this hash or are in a control group of it, and of which
/// start they are. Blocking: reads the environment of every process.
pub fn left_by(hash: &str) -> Vec<(Generation, Process)> {
    let marked = |pid: i32| {
        let value = identity::variable(pid, MARKER)?;
        Some((value.strip_prefix(hash)?.strip_prefix(':')?.parse().ok()?, pid))
    };
    let mut found: BTreeSet<(u64, i32)> = identity::all().into_iter().filter_map(marked).collect();
    for (generation, group) in groups_of(hash) {
        let members = group.members().unwrap_or_default();
        found.extend(members.into_iter().map(|pid| (generation.0, pid)));
    }
    let us = std::process::id().cast_signed();
    let alive = |pid| identity::identify(pid).filter(|process| identity::is_alive(*process));
    let others = found.into_iter().filter(|(_, pid)| *pid != us);
    others.filter_map(|(of, pid)| Some((Generation(of), alive(pid)?))).collect()
}

/// Living processes that carry the marker of a service with this hash, and of which service they
/// are. Blocking: reads the environment of every process.
pub fn left_by_services(hash: &str) -> Vec<(String, Process)> {
    let marked = |pid: i32| {
        let value = identity::variable(pid, SERVICE_MARKER)?;
        let name = value.strip_prefix(hash)?.strip_prefix(':')?.to_owned();
        let process = identity::identify(pid).filter(|process| identity::is_alive(*process))?;
        Some((name, process))
    };
    let us = std::process::id().cast_signed();
    identity::all().into_iter().filter(|pid| *pid != us).filter_map(marked).collect()
}

/// Removes the control groups of this hash that are empty, but for that of one start. Blocking.
pub fn remove_empty_groups(hash: &str, but: Option<Generation>) {
    for (generation, group) in groups_of(hash) {
        if Some(generation) != but
            && let Err(error) = group.remove()
        {
            tracing::debug!(%error, path = %group.path().display(), "a control group stays");
        }
    }
}

fn groups_of(hash: &str) -> impl Iterator<Item = (Generation, Cgroup)> {
    let numbered =
        |(generation, group): (String, Cgroup)| Some((Generation(generation.parse().ok()?), group));
    cgroup::made_with(hash).into_iter().filter_map(numbered)
}

/// How long a janitor may take when there is nobody left but him.
const JANITOR: Duration = Duration::from_secs(1);

/// Python's resource tracker unlinks the shared memory and semaphores that killed processes left
/// in `/dev/shm`, and ends when they are gone. Killed with them, it leaves them there for ever
/// (seen with vLLM 0.32: 400 MB of names after a fast stop).
fn is_janitor(process: &Process) -> bool {
    let line = identity::command_line(process.pid);
    line.iter().any(|word| word.starts_with("from multiprocessing.resource_tracker import main"))
}

/// Whether all of them have ended by then; the kernel tells.
async fn all_ended(processes: &[Process], until: Instant) -> bool {
    for process in processes {
        let ended = match Handle::open(*process) {
            Ok(Some(handle)) => timeout_at(until, handle.ended()).await.is_ok(),
            Ok(None) => true,
            Err(error) => {
                tracing::error!(pid = process.pid, %error, "a process of an engine or service cannot be watched");
                false
            }
        };
        if !ended {
            return false;
        }
    }
    true
}

fn kill_all(processes: &[Process]) {
    for process in processes {
        if let Err(error) = kill(*process) {
            tracing::warn!(pid = process.pid, %error, "a process of an engine or service cannot be killed");
        }
    }
}

fn kill(process: Process) -> io::Result<()> {
    match Handle::open(process)? {
        Some(handle) => handle.kill(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{Spawning, hold};
    use std::collections::BTreeMap;
    use std::path::Path;

    /// A tree whose leader runs this script.
    async fn tree(dir: &Path, script: &str) -> Tree {
        let log = std::fs::File::create(dir.join("log")).unwrap();
        let marker = dir.display().to_string();
        let mut environment: BTreeMap<_, _> = std::env::vars_os().collect();
        environment.insert(MARKER.into(), marker.clone().into());
        let line = ["sh", "-c", script].map(str::to_owned).to_vec();
        let spawning = Spawning { line, environment, cwd: Some(dir.to_owned()), log };
        let held = hold(spawning).await.unwrap();
        let leader = held.process();
        held.release(Duration::from_secs(10)).await.unwrap();
        Tree { leader, listed: Vec::new(), marker, cgroup: None }
    }

    /// One whose leader has ended at once, and which has a member that needs this script.
    async fn orphaned(dir: &Path, member: &str) -> Tree {
        let tree = tree(dir, &format!("({member}) & exit 0")).await;
        let handle = Handle::open(tree.leader).unwrap().unwrap();
        handle.ended().await.unwrap();
        assert_eq!(handle.status().as_deref(), Some("exit code 0"));
        tree
    }

    /// Looks until a file is there.
    async fn until_there(path: &Path) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !path.exists() {
            assert!(Instant::now() < deadline, "{} does not come", path.display());
            tokio::task::yield_now().await;
        }
    }

    /// In a session of its own, with an environment of its own: neither group nor marker tells.
    const APART: &str = "env -i /bin/sh -c 'exec setsid sh -c \": >ready; exec sleep 600\"'";

    #[actix_rt::test]
    async fn those_who_end_by_themselves_within_the_grace_are_not_killed() {
        let dir = tempfile::tempdir().unwrap();
        let group = orphaned(dir.path(), "sleep 0.3; touch tidied").await;
        assert!(!group.members().is_empty());
        group.sweep(Duration::from_secs(10), Duration::from_secs(10)).await.unwrap();
        assert!(dir.path().join("tidied").exists());
        assert!(group.members().is_empty());
    }

    #[actix_rt::test]
    async fn without_a_grace_everybody_is_killed_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let group = orphaned(dir.path(), "trap '' TERM; sleep 600; touch tidied").await;
        group.sweep(Duration::ZERO, Duration::from_secs(10)).await.unwrap();
        assert!(group.members().is_empty());
        assert!(!dir.path().join("tidied").exists());
    }

    #[actix_rt::test]
    async fn one_that_left_the_group_is_known_by_its_marker() {
        let dir = tempfile::tempdir().unwrap();
        let group = orphaned(dir.path(), "exec setsid sh -c ': >ready; exec sleep 600'").await;
        let deadline = Instant::now() + Duration::from_secs(10);
        // While a program takes another one's place its environment cannot be read.
        let members = loop {
            let members = group.members();
            if dir.path().join("ready").exists() && !members.is_empty() {
                break members;
            }
            assert!(Instant::now() < deadline, "it is not found");
            tokio::task::yield_now().await;
        };
        let elsewhere = |m: &Process| identity::stat(m.pid).unwrap().group != group.leader.pid;
        assert!(members.len() == 1 && members.iter().all(elsewhere), "{members:?}");
        group.sweep(Duration::ZERO, Duration::from_secs(10)).await.unwrap();
        assert!(!identity::is_alive(members[0]));
    }

    #[actix_rt::test]
    async fn one_that_left_group_and_environment_is_known_by_its_parents_and_then_by_the_list() {
        let dir = tempfile::tempdir().unwrap();
        let mut tree = tree(dir.path(), &format!("{APART} & wait")).await;
        until_there(&dir.path().join("ready")).await;
        for members in [tree.members(), tree.look_soon(Look::Light).await] {
            assert_eq!(members.len(), 2, "{members:?}");
        }
        tree.listed = tree.members();
        let leader = Handle::open(tree.leader).unwrap().unwrap();
        leader.kill().unwrap();
        leader.ended().await.unwrap();
        let left = tree.members();
        assert!(left.len() == 1 && left[0] != tree.leader, "{left:?}");
        tree.sweep(Duration::ZERO, Duration::from_secs(10)).await.unwrap();
        assert!(!identity::is_alive(left[0]));
    }

    #[actix_rt::test]
    async fn the_group_is_ours_while_one_that_we_know_is_in_it_also_when_its_leader_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let script = "env -i sleep 600 & env -i sh -c ': >one; exec sleep 600' & wait";
        let mut tree = tree(dir.path(), script).await;
        until_there(&dir.path().join("one")).await;
        let one = tree.members().into_iter().find(|member| *member != tree.leader).unwrap();
        let leader = Handle::open(tree.leader).unwrap().unwrap();
        leader.kill().unwrap();
        leader.ended().await.unwrap();
        leader.reap();
        tree.listed = vec![one];
        assert_eq!(tree.members().len(), 2);
        tree.sweep(Duration::ZERO, Duration::from_secs(10)).await.unwrap();
        assert!(tree.members().is_empty());
    }

    #[actix_rt::test]
    async fn what_starts_others_faster_than_it_is_killed_is_met_by_its_control_group() {
        let Some(cgroup) = Cgroup::create("test", &format!("{}", std::process::id())) else {
            return; // none can be made on this machine
        };
        let dir = tempfile::tempdir().unwrap();
        // Each ends at once, having started the next one in a session of its own.
        let hare = "f() { : >ready; setsid -f env -i sh run; }; f";
        std::fs::write(dir.path().join("run"), hare).unwrap();
        let mut tree = tree(dir.path(), "mkfifo go; read line <go; exec sh run").await;
        until_there(&dir.path().join("go")).await;
        cgroup.add(tree.leader.pid).unwrap();
        tree.cgroup = Some(cgroup.clone());
        std::fs::write(dir.path().join("go"), "").unwrap();
        until_there(&dir.path().join("ready")).await;
        tree.sweep(Duration::ZERO, Duration::from_secs(10)).await.unwrap();
        assert_eq!(cgroup.members().unwrap(), Vec::<i32>::new());
        tree.remove();
        assert!(!cgroup.path().exists());
    }

    #[actix_rt::test]
    async fn a_janitor_tidies_up_after_those_who_were_killed() {
        let dir = tempfile::tempdir().unwrap();
        // It ends when the pipe to the other one closes, as Python's resource tracker does.
        let tracker = "sh -c ': >ready; read line; : >tidied' \
            'from multiprocessing.resource_tracker import main'";
        let group = orphaned(dir.path(), &format!("sleep 600 | {tracker}")).await;
        let is_up = || {
            let members = group.members();
            let sleeps = members.iter().any(|m| identity::command_line(m.pid) == ["sleep", "600"]);
            sleeps && dir.path().join("ready").exists()
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        while !is_up() {
            assert!(Instant::now() < deadline, "{:?}", group.members());
            tokio::task::yield_now().await;
        }
        group.sweep(Duration::ZERO, Duration::from_secs(10)).await.unwrap();
        assert!(group.members().is_empty());
        assert!(dir.path().join("tidied").exists());
    }
}
