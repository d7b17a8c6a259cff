//! The processes of an engine: its group, and what is known to belong to it.
//!
//! Owns: finding them, and ending what is left of them with proof. Must never do: signal a process
//! that only has the number of one of ours.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use chat_proxy_core::engine::environment::MARKER;
use chat_proxy_core::engine::state_file::Process;
use tokio::time::{Instant, timeout_at};

use super::{Handle, identity};

/// What belongs to one engine.
#[derive(Debug, Clone)]
pub struct Group {
    /// The leader, whose pid is the group's number.
    pub leader: Process,
    /// Processes that were seen in it.
    pub listed: Vec<Process>,
    /// The value of the marker variable.
    pub marker: String,
}

impl Group {
    /// Its living processes. Blocking: reads all of `/proc`.
    pub fn members(&self) -> Vec<Process> {
        // While the leader's number is its own, dead or alive, so is the group's.
        let ours = identity::stat(self.leader.pid)
            .is_some_and(|stat| stat.start_time == self.leader.start_time);
        let mut members: BTreeSet<Process> =
            self.listed.iter().copied().filter(|process| identity::is_alive(*process)).collect();
        for pid in identity::all() {
            let Some(stat) = identity::stat(pid) else { continue };
            let in_group = ours && stat.group == self.leader.pid;
            // One that left the group has its marker still, unless it wrote over it.
            if stat.lives() && (in_group || identity::has_variable(pid, MARKER, &self.marker)) {
                members.insert(Process { pid, start_time: stat.start_time });
            }
        }
        members.into_iter().collect()
    }

    /// The same, off this thread.
    pub async fn members_soon(&self) -> Vec<Process> {
        let group = self.clone();
        match tokio::task::spawn_blocking(move || group.members()).await {
            Ok(members) => members,
            Err(error) => {
                tracing::error!(%error, "the processes of an engine could not be listed");
                vec![self.leader]
            }
        }
    }

    /// Its janitors, and the others.
    async fn by_office(&self) -> (Vec<Process>, Vec<Process>) {
        self.members_soon().await.into_iter().partition(is_janitor)
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
        let members = self.members_soon().await;
        // Whether all made it, and whom they started meanwhile, is seen by the next look.
        all_ended(&members, Instant::now() + grace).await;
        loop {
            let (janitors, others) = self.by_office().await;
            if others.is_empty() {
                if janitors.is_empty() {
                    return Ok(());
                }
                if all_ended(&janitors, Instant::now() + JANITOR).await {
                    continue; // with another look
                }
            }
            let met = if others.is_empty() { janitors } else { others };
            kill_all(&met);
            // Those who are replaced faster than they end are not waited for without an end.
            if !all_ended(&met, until).await || Instant::now() >= until {
                let left: Vec<String> =
                    met.iter().map(|process| identity::describe(process.pid)).collect();
                return Err(left.join(", "));
            }
        }
    }
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
                tracing::error!(pid = process.pid, %error, "a process of an engine cannot be watched");
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
            tracing::warn!(pid = process.pid, %error, "a process of an engine cannot be killed");
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
    use crate::process::{Spawning, spawn};
    use std::collections::BTreeMap;
    use std::path::Path;

    /// A group whose leader has ended at once, and which has a member that needs this script.
    async fn orphaned(dir: &Path, member: &str) -> Group {
        let log = std::fs::File::create(dir.join("log")).unwrap();
        let script = format!("cd {} && ({member}) & exit 0", dir.display());
        let line = ["sh".to_owned(), "-c".to_owned(), script];
        let marker = dir.display().to_string();
        let mut environment: BTreeMap<_, _> = std::env::vars_os().collect();
        environment.insert(MARKER.into(), marker.clone().into());
        let leader =
            spawn(Spawning { line: &line, environment: &environment, cwd: None, log }).unwrap();
        let handle = Handle::open(leader).unwrap().unwrap();
        handle.ended().await.unwrap();
        assert_eq!(handle.status().as_deref(), Some("exit code 0"));
        Group { leader, listed: Vec::new(), marker }
    }

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
        while !dir.path().join("ready").exists() || group.members().is_empty() {
            assert!(Instant::now() < deadline, "it is not found");
            tokio::task::yield_now().await;
        }
        let members = group.members();
        let elsewhere = |m: &Process| identity::stat(m.pid).unwrap().group != group.leader.pid;
        assert!(members.len() == 1 && members.iter().all(elsewhere), "{members:?}");
        group.sweep(Duration::ZERO, Duration::from_secs(10)).await.unwrap();
        assert!(!identity::is_alive(members[0]));
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
