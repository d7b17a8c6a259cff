//! What the supervisor remembers on disk: the state file.
//!
//! Owns: reading and writing `active_vllm.json`, the hash of a launch. Must never do: block for
//! longer than a small file takes (a page written, then renamed: there is no flush to the disk, for
//! after a crash of the machine the file means nothing any more).

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use chat_proxy_core::engine::Launch;
use chat_proxy_core::engine::state_file::StateFile;
use chat_proxy_core::ids::Generation;

use crate::digest;
use crate::process::cgroup::Cgroup;
use crate::process::tree::Tree;

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Memory {
    path: PathBuf,
    /// Part of the marker: tells our engines from those of a daemon with another state file.
    hash: String,
}

impl Memory {
    pub(super) fn at(path: PathBuf) -> Self {
        let absolute = std::path::absolute(&path).unwrap_or_else(|_| path.clone());
        let hash = digest::short(absolute.display().to_string().as_bytes());
        Memory { path, hash }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What our markers begin with.
    pub(super) fn hash(&self) -> &str {
        &self.hash
    }

    /// The tree of the engine that the file names.
    pub(super) fn tree(&self, state: &StateFile) -> Tree {
        Tree {
            leader: state.leader(),
            listed: state.members.clone(),
            marker: self.marker(state.generation),
            cgroup: cgroup(state),
        }
    }

    /// The marker of one start.
    pub(super) fn marker(&self, generation: Generation) -> String {
        format!("{}:{generation}", self.hash)
    }

    /// What is remembered; `None`: nothing. A file that cannot be understood is an error.
    pub(super) fn read(&self) -> io::Result<Option<StateFile>> {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        serde_json::from_slice(&text).map(Some).map_err(io::Error::other)
    }

    /// Writes it whole or not at all.
    pub(super) fn write(&self, state: &StateFile) -> io::Result<()> {
        let dir = match self.path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        fs::create_dir_all(dir)?;
        // For tools of other users to read, as far as the umask lets them.
        let readable = fs::Permissions::from_mode(0o644);
        let mut builder = tempfile::Builder::new();
        let mut file = builder.prefix(".active_vllm-").permissions(readable).tempfile_in(dir)?;
        serde_json::to_writer_pretty(&mut file, state)?;
        file.write_all(b"\n")?;
        file.persist(&self.path).map(drop).map_err(|error| error.error)
    }

    pub(super) fn forget(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// The control group that the file names, if it is one of ours.
pub(super) fn cgroup(state: &StateFile) -> Option<Cgroup> {
    Cgroup::at(Path::new(state.cgroup.as_deref()?))
}

/// The hash of a launch: equal hashes mean that the registry still wants this very engine.
pub(super) fn spec_hash(launch: &Launch) -> String {
    launch.spec_hash()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let memory = Memory::at(dir.path().join("deep/active_vllm.json"));
        assert!(memory.read().unwrap().is_none());
        let state: StateFile = serde_json::from_str(
            r#"{"logical_name": "a", "served_model_id": "a", "port": 1, "pid": 2, "started_at": 3.0,
                "generation": 4, "phase": "ready", "boot_id": "b", "start_time": 5,
                "process_group": 2, "spec_hash": "h", "log_path": "l", "later_field": 1}"#,
        )
        .unwrap();
        memory.write(&state).unwrap();
        assert_eq!(memory.read().unwrap(), Some(state));
        let mode = fs::metadata(memory.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o400, 0o400);
        assert_eq!(mode & 0o022, 0, "nobody else writes it");
        memory.forget().unwrap();
        memory.forget().unwrap();
        assert!(memory.read().unwrap().is_none());
    }

    #[test]
    fn a_broken_file_is_an_error_and_not_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        let memory = Memory::at(dir.path().join("s.json"));
        fs::write(memory.path(), "{").unwrap();
        assert!(memory.read().is_err());
    }
}
