//! A control group (cgroup v2) for an engine: the kernel's own list of all that it started.
//!
//! Owns: finding out whether groups may be made here, making one for an engine, listing and
//! killing its members, removing it. Must never do: wait; touch a group that does not bear our
//! name; limit anything: no controller is enabled, for then our own group could hold no process.
//!
//! Unlike a process group or an environment, a control group cannot be left without the right to
//! write into another one. Where none is to be had, nobody is told more than a line for debugging.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use nix::unistd::{AccessFlags, eaccess};

/// How our groups' names begin. What does not is not ours to kill.
const PREFIX: &str = "imageworks-";

/// The group of one engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    dir: PathBuf,
}

impl Cgroup {
    /// Makes the empty group `imageworks-<hash>-<generation>` within ours. `None`: groups cannot
    /// be made here, the name is none, or a group of that name has members.
    pub fn create(hash: &str, generation: &str) -> Option<Cgroup> {
        let Some(parent) = delegated() else {
            tracing::debug!("no control groups can be made here; engines are found without");
            return None;
        };
        if ![hash, generation].iter().all(|part| is_name(part)) {
            tracing::debug!(hash, generation, "this is no name for a control group");
            return None;
        }
        let group = Cgroup { dir: parent.join(format!("{PREFIX}{hash}-{generation}")) };
        match group.make_anew() {
            Ok(()) => Some(group),
            Err(error) => {
                let path = group.dir.display();
                tracing::debug!(%error, %path, "a control group cannot be made");
                None
            }
        }
    }

    /// The group at a path that somebody noted; `None` if there is none, or it is not one of ours.
    /// The path comes from a file, and all in the group may be killed.
    pub fn at(path: &Path) -> Option<Cgroup> {
        let surroundings = Surroundings::read();
        let named = is_ours(path, &surroundings.mounts);
        // Another file system may be mounted within.
        let there = statfs(path).is_ok_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC);
        let suicide = surroundings.own().is_some_and(|own| own.dir.starts_with(path));
        if named && there && !suicide {
            return Some(Cgroup { dir: path.to_owned() });
        }
        tracing::debug!(path = %path.display(), named, there, suicide, "no control group of ours");
        None
    }

    /// Where it is, for [`Cgroup::at`].
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Puts a process into it; whom it starts from now on is in it too.
    pub fn add(&self, pid: i32) -> io::Result<()> {
        write(&self.dir.join("cgroup.procs"), &pid.to_string())
    }

    /// The living processes in it and in groups below; none if it is gone.
    pub fn members(&self) -> io::Result<Vec<i32>> {
        let mut members = Vec::new();
        collect(&self.dir, &mut members)?;
        members.sort_unstable();
        members.dedup(); // one may have moved meanwhile
        Ok(members)
    }

    /// SIGKILL to all in it, also to those who are being started now. `false`: this kernel has no
    /// such thing (before 5.14), and nothing was done.
    pub fn kill(&self) -> io::Result<bool> {
        match write(&self.dir.join("cgroup.kill"), "1") {
            Ok(()) => Ok(true),
            Err(error) if is_gone(&error) => Ok(!self.dir.exists()),
            Err(error) => Err(error),
        }
    }

    /// Removes it with the groups below it. An error if one has members; no error if it is gone.
    pub fn remove(&self) -> io::Result<()> {
        remove(&self.dir)
    }

    /// A group of that name that is empty is a leftover.
    fn make_anew(&self) -> io::Result<()> {
        match fs::create_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.remove()?;
                fs::create_dir(&self.dir)
            }
            other => other,
        }
    }
}

/// The groups that were made with this hash, each with its generation.
pub fn made_with(hash: &str) -> Vec<(String, Cgroup)> {
    let Some(entries) = delegated().and_then(|parent| fs::read_dir(parent).ok()) else {
        return Vec::new();
    };
    let begins = format!("{PREFIX}{hash}-");
    let ours = |entry: fs::DirEntry| {
        let generation = entry.file_name().to_str()?.strip_prefix(&begins)?.to_owned();
        Some((generation, Cgroup { dir: entry.path() }))
    };
    entries.flatten().filter_map(ours).collect()
}

/// The group below which we may make others: our own, if it was delegated to us.
pub fn delegated() -> Option<PathBuf> {
    let own = Surroundings::read().own()?;
    let may_write = |path: &Path| eaccess(path, AccessFlags::W_OK).is_ok();
    let standing = Standing {
        // To move a process takes the right to write into the group that is above both places.
        writable: may_write(&own.dir) && may_write(&own.dir.join("cgroup.procs")),
        marked: is_marked(&own.dir),
        root: rustix::process::geteuid().is_root(),
        at_top: own.at_top,
    };
    standing.is_delegated().then_some(own.dir)
}

/// By what it is told whether a group is delegated.
#[derive(Debug, Clone, Copy)]
struct Standing {
    writable: bool,
    /// systemd says so.
    marked: bool,
    root: bool,
    /// There is nothing above it that we could see.
    at_top: bool,
}

impl Standing {
    /// root may write everywhere, also where a service manager has the say: that proves nothing.
    fn is_delegated(self) -> bool {
        self.writable && (self.marked || !self.root || self.at_top)
    }
}

/// systemd's mark of delegated groups; which of the two it sets depends on its version.
fn is_marked(dir: &Path) -> bool {
    ["user.delegate", "trusted.delegate"].iter().any(|name| {
        let mut value = [0; 8];
        rustix::fs::getxattr(dir, *name, &mut value[..]).is_ok_and(|size| value[..size] == *b"1")
    })
}

/// What `/proc` says of groups.
struct Surroundings {
    mounts: Vec<Mount>,
    own: Option<String>,
}

/// A place where the tree of groups can be seen.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    /// The group that is seen there.
    root: PathBuf,
    at: PathBuf,
}

/// Our own group.
#[derive(Debug, PartialEq, Eq)]
struct Own {
    dir: PathBuf,
    at_top: bool,
}

impl Surroundings {
    fn read() -> Surroundings {
        // Other file systems' mount points may be no UTF-8.
        let read = |path| fs::read(path).unwrap_or_default();
        let mounts = read("/proc/self/mountinfo");
        let groups = read("/proc/self/cgroup");
        Surroundings {
            mounts: mounts_in(&String::from_utf8_lossy(&mounts)),
            own: own_in(&String::from_utf8_lossy(&groups)).map(str::to_owned),
        }
    }

    /// Where our own group is, if it can be seen: in the mount that shows most.
    fn own(&self) -> Option<Own> {
        let path = Path::new(self.own.as_deref()?);
        let below = |mount: &Mount| Some((mount.at.clone(), path.strip_prefix(&mount.root).ok()?));
        let all = self.mounts.iter().filter_map(below);
        let (at, below) = all.max_by_key(|(_, below)| below.components().count())?;
        // `..`: above the root of our namespace.
        let plain = below.components().all(|part| matches!(part, Component::Normal(_)));
        let at_top = below.as_os_str().is_empty();
        plain.then(|| Own { dir: at.join(below).components().collect(), at_top })
    }
}

/// The mounts of cgroup2 among the lines of `/proc/self/mountinfo`:
/// `41 31 0:38 ROOT AT rw,relatime [tag:value …] - cgroup2 cgroup2 rw`.
fn mounts_in(mountinfo: &str) -> Vec<Mount> {
    let mount = |line: &str| {
        let (place, kind) = line.split_once(" - ")?;
        if kind.split(' ').next() != Some("cgroup2") {
            return None;
        }
        let mut fields = place.split(' ').skip(3);
        let (root, at) = (fields.next()?, fields.next()?);
        Some(Mount { root: unescaped(root).into(), at: unescaped(at).into() })
    };
    mountinfo.lines().filter_map(mount).collect()
}

/// Blanks and backslashes are written as octal numbers.
fn unescaped(field: &str) -> String {
    let plain = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    plain.iter().fold(field.to_owned(), |field, (code, plain)| field.replace(code, plain))
}

/// The path of our group in the lines of `/proc/self/cgroup`, of which version 2 has number 0.
fn own_in(groups: &str) -> Option<&str> {
    groups.lines().find_map(|line| line.strip_prefix("0::")).filter(|path| path.starts_with('/'))
}

/// Whether the path is that of a group which we could have made.
fn is_ours(path: &Path, mounts: &[Mount]) -> bool {
    let plain = path.components().skip(1).all(|part| matches!(part, Component::Normal(_)));
    let below = mounts.iter().any(|mount| path.starts_with(&mount.at) && path != mount.at);
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    path.is_absolute() && plain && below && name.starts_with(PREFIX)
}

fn is_name(part: &str) -> bool {
    !part.is_empty() && !part.starts_with('.') && !part.contains(['/', '\0', '\n'])
}

/// Only into what is there: the kernel makes these files.
fn write(path: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes())
}

fn collect(dir: &Path, members: &mut Vec<i32>) -> io::Result<()> {
    let listed = or_gone(fs::read_to_string(dir.join("cgroup.procs")))?;
    // 0: a process that has no number in our namespace.
    members
        .extend(listed.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
    below(dir)?.iter().try_for_each(|dir| collect(dir, members))
}

fn remove(dir: &Path) -> io::Result<()> {
    below(dir)?.iter().try_for_each(|dir| remove(dir))?;
    or_gone(fs::remove_dir(dir))
}

/// The groups directly below.
fn below(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let Some(entries) = or_gone(fs::read_dir(dir).map(Some))? else { return Ok(Vec::new()) };
    let mut dirs = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            dirs.push(entry.path());
        }
    }
    Ok(dirs)
}

/// What is gone holds nothing.
fn or_gone<T: Default>(result: io::Result<T>) -> io::Result<T> {
    result.or_else(|error| if is_gone(&error) { Ok(T::default()) } else { Err(error) })
}

/// A file that was opened before its group was removed says that there is no such device.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::ENODEV as i32)
}

#[cfg(test)]
mod tests;
