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
            if stat.group != self.leader.pid || !stat.lives() {
                continue;
            }
            if ours || identity::has_variable(pid, MARKER, &self.marker) {
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

    /// SIGKILL to all that lives of it; answers whom it met.
    pub async fn kill(&self) -> Vec<Process> {
        let members = self.members_soon().await;
        for process in &members {
            if let Err(error) = kill(*process) {
                tracing::warn!(pid = process.pid, %error, "a process of an engine cannot be killed");
            }
        }
        members
    }

    /// Kills what is left until nobody lives; the error names those who still do at the end.
    pub async fn sweep(&self, within: Duration) -> Result<(), String> {
        let until = Instant::now() + within;
        loop {
            let members = self.kill().await;
            if members.is_empty() {
                return Ok(());
            }
            for process in &members {
                if let Ok(Some(handle)) = Handle::open(*process)
                    && timeout_at(until, handle.ended()).await.is_err()
                {
                    let left: Vec<String> =
                        members.iter().map(|process| identity::describe(process.pid)).collect();
                    return Err(left.join(", "));
                }
            }
        }
    }
}

fn kill(process: Process) -> io::Result<()> {
    match Handle::open(process)? {
        Some(handle) => handle.kill(),
        None => Ok(()),
    }
}
