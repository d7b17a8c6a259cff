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
mod tests {
    use super::*;
    use std::process::{Child, ChildStdin, Command, Stdio};
    use std::time::{Duration, Instant};

    const SERVICE: &str = "\
24 30 0:22 / /proc rw,nosuid,nodev,noexec,relatime shared:13 - proc proc rw
35 25 0:29 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate
36 25 0:30 / /sys/fs/pstore rw,nosuid shared:10 - pstore pstore rw
";
    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup ro,mode=755 shared:9 - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/unified rw,relatime shared:10 - cgroup2 cgroup2 rw
33 31 0:30 / /sys/fs/cgroup/cpu rw,relatime shared:14 - cgroup cgroup rw,cpu
";
    const BIND: &str = "\
612 611 0:29 /docker/0ab1 /a\\040b ro,relatime - cgroup2 cgroup rw
";

    #[test]
    fn our_own_group_is_found() {
        let own = |dir: &str, at_top| Some(Own { dir: dir.into(), at_top });
        let hybrid_groups = "5:cpu:/x\n1:name=systemd:/system.slice/s.service\n0::/\n";
        let unit = "/sys/fs/cgroup/system.slice/s.service";
        let both = format!("{BIND}{SERVICE}");
        for (mounts, groups, want) in [
            (SERVICE, "0::/system.slice/s.service\n", own(unit, false)),
            (SERVICE, "0::/\n", own("/sys/fs/cgroup", true)), // a container's namespace
            (SERVICE, "0::/../other\n", None),
            (SERVICE, "4:memory:/x\n", None),
            (HYBRID, hybrid_groups, own("/sys/fs/cgroup/unified", true)),
            (HYBRID, "0::/a\n", own("/sys/fs/cgroup/unified/a", false)),
            (BIND, "0::/docker/0ab1\n", own("/a b", true)),
            (BIND, "0::/docker/0ab1/c\n", own("/a b/c", false)),
            (BIND, "0::/docker/0ab12\n", None),
            (&both, "0::/docker/0ab1\n", own("/sys/fs/cgroup/docker/0ab1", false)),
            ("33 31 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n", "0::/\n", None),
            ("", "", None),
        ] {
            let own = own_in(groups).map(str::to_owned);
            let found = Surroundings { mounts: mounts_in(mounts), own }.own();
            assert_eq!(found, want, "{groups} in {mounts}");
        }
    }

    #[test]
    fn a_group_is_delegated_if_it_can_be_written_and_is_not_only_so_to_root() {
        for (writable, marked, root, at_top, want) in [
            (true, true, true, false, true),
            (true, false, true, false, false),
            (true, false, true, true, true),
            (true, false, false, false, true),
            (false, true, true, true, false),
            (false, true, false, true, false),
        ] {
            let standing = Standing { writable, marked, root, at_top };
            assert_eq!(standing.is_delegated(), want, "{standing:?}");
        }
    }

    #[test]
    fn only_paths_of_our_groups_are_taken() {
        let mounts = mounts_in(HYBRID);
        for (path, want) in [
            ("/sys/fs/cgroup/unified/imageworks-ab-7", true),
            ("/sys/fs/cgroup/unified/s.service/imageworks-ab-7", true),
            ("/sys/fs/cgroup/unified/imageworks-ab-7/other", false),
            ("/sys/fs/cgroup/unified/s.service", false),
            ("/sys/fs/cgroup/unified", false),
            ("/sys/fs/cgroup/unified/../imageworks-ab-7", false),
            ("/sys/fs/cgroup/unified/x/../imageworks-ab-7", false),
            ("/sys/fs/cgroup/unified/imageworks-ab-7/..", false),
            ("/sys/fs/cgroup/cpu/imageworks-ab-7", false),
            ("/sys/fs/cgroup/unifiedimageworks-ab-7", false),
            ("/tmp/imageworks-ab-7", false),
            ("imageworks-ab-7", false),
            ("", false),
        ] {
            assert_eq!(is_ours(Path::new(path), &mounts), want, "{path}");
        }
    }

    /// A group with a shell in it, which does what it reads.
    struct Real {
        group: Cgroup,
        shell: Child,
        orders: ChildStdin,
    }

    impl Real {
        #[expect(clippy::print_stderr, reason = "says that nothing was tested")]
        fn new(test: &str) -> Option<Real> {
            let hash = format!("test{}", std::process::id());
            let Some(group) = Cgroup::create(&hash, test) else {
                eprintln!("not tested: no control groups can be made here");
                return None;
            };
            let mut shell = Command::new("sh").stdin(Stdio::piped()).spawn().unwrap();
            let orders = shell.stdin.take().unwrap();
            let real = Real { group, shell, orders };
            real.group.add(real.shell.id().try_into().unwrap()).unwrap();
            Some(real)
        }

        fn order(&mut self, line: &str) {
            writeln!(self.orders, "{line}").unwrap();
        }

        fn wait_for_members(&self, number: usize) -> Vec<i32> {
            let until = Instant::now() + Duration::from_secs(20);
            loop {
                let members = self.group.members().unwrap();
                if members.len() == number {
                    return members;
                }
                assert!(Instant::now() < until, "{members:?} instead of {number}");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    impl Drop for Real {
        fn drop(&mut self) {
            let _ = self.group.kill();
            let _ = self.shell.kill();
            let _ = self.shell.wait();
            let _ = self.group.remove();
        }
    }

    #[test]
    fn all_that_an_engine_started_is_in_its_group_and_is_killed_with_it() {
        let Some(mut real) = Real::new("1") else { return };
        // The last two can be found neither by their process group nor by their environment.
        real.order("sleep 600 & env -i setsid sleep 600 & (env -i setsid -f sleep 600)");
        let members = real.wait_for_members(4);
        assert!(members.contains(&real.shell.id().try_into().unwrap()));
        real.group.remove().unwrap_err();
        // Another process finds it by its path.
        let found = Cgroup::at(real.group.path()).unwrap();
        if !found.kill().unwrap() {
            return; // on a kernel before 5.14
        }
        real.shell.wait().unwrap();
        real.wait_for_members(0);
        found.remove().unwrap();
        assert!(!real.group.path().exists());
        assert_eq!(Cgroup::at(real.group.path()), None);
        // What is gone has no members, and is no trouble.
        assert!(found.members().unwrap().is_empty());
        assert!(found.kill().unwrap());
        found.remove().unwrap();
    }

    #[test]
    fn groups_below_belong_to_it() {
        let Some(mut real) = Real::new("2") else { return };
        let below = real.group.path().join("a/b");
        fs::create_dir_all(&below).unwrap();
        real.order(&format!("echo $$ > {}/cgroup.procs; sleep 600 & :", below.display()));
        let members = real.wait_for_members(2);
        assert_eq!(Cgroup { dir: below }.members().unwrap(), members);
        // Whoever bears its name must not be met by what is meant for another engine's processes.
        let name = real.group.path().file_name().unwrap().to_str().unwrap().to_owned();
        let (hash, generation) = name[PREFIX.len()..].split_once('-').unwrap();
        assert_eq!(Cgroup::create(hash, generation), None);
        if real.group.kill().unwrap() {
            real.shell.wait().unwrap();
            real.wait_for_members(0);
            // A leftover without members is made anew.
            assert_eq!(Cgroup::create(hash, generation).as_ref(), Some(&real.group));
            assert!(!real.group.path().join("a").exists());
        }
    }

    #[test]
    fn a_mark_is_read_and_a_name_must_be_one() {
        let Some(real) = Real::new("3") else { return };
        let mark = |text: &[u8]| {
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(real.group.path(), "user.delegate", text, flags)
        };
        assert!(!is_marked(real.group.path()));
        if mark(b"1").is_ok() {
            assert!(is_marked(real.group.path()));
            mark(b"0").unwrap();
            assert!(!is_marked(real.group.path()));
        }
        for (hash, generation) in [("a/b", "1"), ("..", "1"), ("a", "../x"), ("", "1"), ("a", "")] {
            assert_eq!(Cgroup::create(hash, generation), None, "{hash} {generation}");
        }
    }
}
