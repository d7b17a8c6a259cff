//! `active_vllm.json`: what is remembered of a running engine, so that a daemon, or an actor, that
//! comes later can prove whose it is (SPEC 6.1).
//!
//! Owns: its fields. Must never do: take a pid for a proof; a process is itself only together with
//! its start time and the machine's boot.

use serde::{Deserialize, Serialize};

use crate::ids::{Generation, ModelName};

/// How far the engine had come when it was last written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// It loads.
    Starting,
    /// It serves.
    Ready,
    /// It is being stopped.
    Stopping,
}

/// A process that cannot be mistaken for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Process {
    /// Its number, which the system uses again after its end.
    pub pid: i32,
    /// When it was started, in clock ticks since the boot (field 22 of `/proc/PID/stat`).
    pub start_time: u64,
}

/// The file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StateFile {
    /// The entry's logical name.
    pub logical_name: ModelName,
    /// The id that it is served by.
    pub served_model_id: String,
    /// The port that it listens at.
    pub port: u16,
    /// The leader's pid; the leader is also the leader of its process group.
    pub pid: i32,
    /// When it was started, Unix seconds.
    pub started_at: f64,
    /// Which start of an engine this is.
    pub generation: Generation,
    /// How far it had come.
    pub phase: Phase,
    /// The machine's boot, as `/proc/sys/kernel/random/boot_id` has it.
    pub boot_id: String,
    /// See [`Process::start_time`].
    pub start_time: u64,
    /// The process group.
    pub process_group: i32,
    /// Hash of the launch specification: tells whether the registry still wants this engine.
    pub spec_hash: String,
    /// The engine's log.
    pub log_path: String,
    /// The processes of its tree that are known.
    #[serde(default)]
    pub members: Vec<Process>,
    /// Its control group, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
}

impl StateFile {
    /// The leader.
    pub fn leader(&self) -> Process {
        Process { pid: self.pid, start_time: self.start_time }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_that_others_read_are_there() {
        let state = StateFile {
            logical_name: "a".into(),
            served_model_id: "s".into(),
            port: 24001,
            pid: 7,
            started_at: 1.5,
            generation: Generation(3),
            phase: Phase::Ready,
            boot_id: "b".into(),
            start_time: 9,
            process_group: 7,
            spec_hash: "h".into(),
            log_path: "l".into(),
            members: vec![Process { pid: 8, start_time: 10 }],
            cgroup: Some("/sys/fs/cgroup/x".into()),
        };
        let value = serde_json::to_value(&state).unwrap();
        // SPEC 6.1 and 12: readers of the Python original know these five.
        assert_eq!(value["logical_name"], "a");
        assert_eq!(value["served_model_id"], "s");
        assert_eq!(value["port"], 24001);
        assert_eq!(value["pid"], 7);
        assert_eq!(value["started_at"], 1.5);
        assert_eq!(serde_json::from_value::<StateFile>(value).unwrap(), state);
    }
}
