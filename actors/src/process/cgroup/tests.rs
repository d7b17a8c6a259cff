//! Texts as kernels write them, and real groups where they can be made.

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
