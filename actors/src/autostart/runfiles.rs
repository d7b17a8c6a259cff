//! The runfiles of a service: `<service>.pid`, `<service>.ready`, `<service>.log` (SPEC 6.4).
//!
//! Owns: their names, reading and writing the first two. Must never do: take a pid for a proof; the
//! file also has the start time and the machine's boot. Names of services make good file names; the
//! plan has seen to that.
//!
//! `<service>.pid`: the pid alone in the first line, for tools; then `start`, `boot`, `spec`, `for` (the
//! backend that it was started for, if any) and a `member` for each further process, in a line each.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use chat_proxy_core::autostart::Command;
use chat_proxy_core::engine::state_file::Process;

use crate::digest;
use crate::process::tree;

/// What `<service>.pid` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) leader: Process,
    pub(super) boot: String,
    /// Which command it was.
    pub(super) spec: String,
    /// Address of the backend that it was started for.
    pub(super) started_for: Option<String>,
    pub(super) members: Vec<Process>,
}

impl Record {
    fn write(&self) -> String {
        let Record { leader, boot, spec, started_for, members } = self;
        let mut text =
            format!("{}\nstart {}\nboot {boot}\nspec {spec}\n", leader.pid, leader.start_time);
        if let Some(address) = started_for {
            let _ = writeln!(text, "for {address}");
        }
        for member in members {
            // Writing to a text cannot fail.
            let _ = writeln!(text, "member {} {}", member.pid, member.start_time);
        }
        text
    }

    fn read(text: &str) -> Option<Record> {
        let mut lines = text.lines();
        let pid = lines.next()?.trim().parse().ok()?;
        let (mut start_time, mut boot, mut spec) = (None, String::new(), String::new());
        let (mut started_for, mut members) = (None, Vec::new());
        for (key, value) in lines.filter_map(|line| line.split_once(' ')) {
            match key {
                "start" => start_time = value.parse().ok(),
                "boot" => value.clone_into(&mut boot),
                "spec" => value.clone_into(&mut spec),
                "for" => started_for = Some(value.to_owned()),
                "member" => members.extend(member(value)),
                _ => {} // of a later version
            }
        }
        let leader = Process { pid, start_time: start_time? };
        Some(Record { leader, boot, spec, started_for, members })
    }
}

fn member(text: &str) -> Option<Process> {
    let (pid, start_time) = text.split_once(' ')?;
    Some(Process { pid: pid.parse().ok()?, start_time: start_time.parse().ok()? })
}

/// The runfiles of one service.
#[derive(Debug, Clone)]
pub(super) struct Runfiles {
    dir: PathBuf,
    name: String,
}

impl Runfiles {
    pub(super) fn of(dir: &Path, name: &str) -> Self {
        Runfiles { dir: dir.to_owned(), name: name.to_owned() }
    }

    fn path(&self, kind: &str) -> PathBuf {
        self.dir.join(format!("{}.{kind}", self.name))
    }

    pub(super) fn log(&self) -> PathBuf {
        self.path("log")
    }

    pub(super) fn shown_log(&self) -> String {
        self.log().display().to_string()
    }

    /// The value of the marker variable of its processes.
    pub(super) fn marker(&self) -> String {
        format!("{}:{}", hash(&self.dir), self.name)
    }

    /// The mark by which its tree is found.
    pub(super) fn mark(&self) -> String {
        tree::service_mark(&self.marker())
    }

    pub(super) fn write(&self, record: &Record) -> io::Result<()> {
        self.put("pid", &record.write())
    }

    /// What is written; `None`: nothing that can be understood.
    pub(super) fn read(&self) -> Option<Record> {
        Record::read(&fs::read_to_string(self.path("pid")).ok()?)
    }

    /// Remembers when it became ready (Unix seconds).
    pub(super) fn write_ready(&self, at: f64) -> io::Result<()> {
        self.put("ready", &format!("{at:.3}\n"))
    }

    pub(super) fn is_ready(&self) -> bool {
        self.path("ready").exists()
    }

    pub(super) fn not_ready(&self) {
        remove(&self.path("ready"));
    }

    /// Nothing of it runs.
    pub(super) fn forget(&self) {
        self.not_ready();
        remove(&self.path("pid"));
    }

    /// Writes it whole or not at all.
    fn put(&self, kind: &str, text: &str) -> io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        // For tools of other users to read, as far as the umask lets them.
        let readable = fs::Permissions::from_mode(0o644);
        let mut builder = tempfile::Builder::new();
        let mut file = builder.prefix(".run-").permissions(readable).tempfile_in(&self.dir)?;
        file.write_all(text.as_bytes())?;
        file.persist(self.path(kind)).map(drop).map_err(|error| error.error)
    }
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::error!(path = %path.display(), %error, "a runfile cannot be removed");
    }
}

/// Services that have a `<service>.pid`.
pub(super) fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let name = |entry: fs::DirEntry| {
        let file = entry.file_name().into_string().ok()?;
        file.strip_suffix(".pid").filter(|name| !name.starts_with('.')).map(str::to_owned)
    };
    entries.flatten().filter_map(name).collect()
}

/// Tells our services from those of a daemon with another directory.
pub(super) fn hash(dir: &Path) -> String {
    let absolute = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    digest::short(absolute.display().to_string().as_bytes())
}

/// Equal ones mean that the settings still want this very process.
pub(super) fn fingerprint(command: &Command) -> String {
    digest::short(format!("{:?}", (&command.command, &command.cwd, &command.env)).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let files = Runfiles::of(&dir.path().join("deep"), "qwen3:8b");
        assert!(files.read().is_none() && !files.is_ready());
        let process = |pid| Process { pid, start_time: 12_345 };
        let record = Record {
            leader: process(7),
            boot: "b-1".into(),
            spec: "s".into(),
            started_for: Some("http://127.0.0.1:1/v1".into()),
            members: vec![process(7), process(8)],
        };
        files.write(&record).unwrap();
        files.write_ready(1.5).unwrap();
        assert_eq!((files.read(), files.is_ready()), (Some(record), true));
        assert_eq!(names(&dir.path().join("deep")), ["qwen3:8b"]);
        let text = fs::read_to_string(dir.path().join("deep/qwen3:8b.pid")).unwrap();
        assert_eq!(text.lines().next(), Some("7"));
        files.forget();
        assert!(files.read().is_none() && !files.is_ready());
    }

    #[test]
    fn a_pid_alone_proves_nothing() {
        assert_eq!(Record::read("7\n"), None);
        assert_eq!(Record::read(""), None);
        assert_eq!(Record::read("x\nstart 3\n"), None);
        assert!(Record::read("7\nstart 3\nlater field\n").is_some());
    }
}
