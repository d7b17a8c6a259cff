//! A child process and what its tree costs. It owns the children that it started, and must never
//! signal anything else.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, SysconfVar, sysconf};

use crate::Fault;

const GRACE: Duration = Duration::from_secs(5);

/// A started process; dropping it stops it.
pub(crate) struct Managed(Child);

impl Managed {
    /// Starts it.
    pub(crate) fn start(command: &mut Command) -> Result<Self, Fault> {
        match command.spawn() {
            Ok(child) => Ok(Self(child)),
            Err(error) => {
                Err(format!("{}: {error}", command.get_program().to_string_lossy()).into())
            }
        }
    }

    /// The child, for its pipes.
    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Has it ended by itself?
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.0.try_wait(), Ok(None))
    }
}

impl Drop for Managed {
    /// SIGTERM, a grace, SIGKILL, and the reaping.
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.0.id())
            && !self.has_ended()
        {
            // It may end between the two lines; it is not reaped yet, so the id is still its own.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let end = Instant::now() + GRACE;
        while !self.has_ended() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// CPU time and memory of a process with all its descendants.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Cost {
    /// User and system time so far, in seconds.
    pub(crate) cpu_s: f64,
    /// Resident memory; pages that a tree shares count once for each process.
    pub(crate) rss_mib: f64,
}

/// What the rest of the machine does while we measure.
pub(crate) struct Neighbours {
    since: Instant,
    others_s: f64,
}

impl Neighbours {
    /// From now on.
    pub(crate) fn watch() -> Result<Self, Fault> {
        Ok(Self { since: Instant::now(), others_s: others_s()? })
    }

    /// How many cores others kept busy on average, the hypervisor's other guests among them.
    pub(crate) fn cores(&self) -> Result<f64, Fault> {
        Ok(((others_s()? - self.others_s) / self.since.elapsed().as_secs_f64()).max(0.0))
    }
}

/// CPU seconds of the machine, stolen ones too, less those of our own tree.
fn others_s() -> Result<f64, Fault> {
    let stat = fs::read_to_string("/proc/stat")?;
    let fields = stat.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let ticks: Vec<u64> = fields.map(str::parse).collect::<Result<_, _>>()?;
    // user nice system idle iowait irq softirq steal; the guests behind them are in user.
    let busy: u64 = [0, 1, 2, 5, 6, 7].iter().filter_map(|at| ticks.get(*at)).sum();
    Ok(float(busy) / constant(SysconfVar::CLK_TCK)? - cost(std::process::id())?.cpu_s)
}

struct Row {
    parent: u32,
    ticks: u64,
    pages: u64,
}

/// Reads the cost of the tree below and with `root`.
pub(crate) fn cost(root: u32) -> Result<Cost, Fault> {
    let rows = table()?;
    let mut sum = (0_u64, 0_u64);
    for (pid, row) in &rows {
        if belongs(*pid, root, &rows) {
            sum = (sum.0 + row.ticks, sum.1 + row.pages);
        }
    }
    let (hertz, page) = (constant(SysconfVar::CLK_TCK)?, constant(SysconfVar::PAGE_SIZE)?);
    Ok(Cost { cpu_s: float(sum.0) / hertz, rss_mib: float(sum.1) * page / f64::from(1 << 20) })
}

fn belongs(mut pid: u32, root: u32, rows: &BTreeMap<u32, Row>) -> bool {
    while pid != root {
        match rows.get(&pid) {
            Some(row) if row.parent != 0 => pid = row.parent,
            _ => return false,
        }
    }
    true
}

fn table() -> Result<BTreeMap<u32, Row>, Fault> {
    let mut rows = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|n| n.parse::<u32>().ok()) else {
            continue;
        };
        // A process may end while the table is read.
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
            continue;
        };
        if let Some(row) = parse(&stat) {
            rows.insert(pid, row);
        }
    }
    Ok(rows)
}

/// The fields after the name, which may itself hold blanks and parentheses.
fn parse(stat: &str) -> Option<Row> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(Row {
        parent: u32::try_from(number(1)?).ok()?,
        ticks: number(11)? + number(12)? + number(13)? + number(14)?,
        pages: number(21)?,
    })
}

fn constant(name: SysconfVar) -> Result<f64, Fault> {
    let value = sysconf(name)?.ok_or("the system does not tell its constants")?;
    Ok(float(u64::try_from(value)?))
}

/// A count as a float; the counts here are far below the 2^52 where that would lose anything.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_a_parenthesis_does_not_shift_the_fields() {
        let stat =
            "7 (a) b) S 3 7 7 0 -1 0 1 2 3 4 10 20 1 2 20 0 1 0 99 1000 55 18446744073709551615";
        let row = parse(stat);
        assert!(row.is_some_and(|r| (r.parent, r.ticks, r.pages) == (3, 33, 55)));
    }

    #[test]
    fn a_child_counts_with_its_parent_and_dies_when_it_is_dropped() -> Result<(), Fault> {
        let child = Managed::start(Command::new("sleep").arg("60"))?;
        let pid = child.pid();
        assert!(belongs(pid, std::process::id(), &table()?));
        // It has no memory of its own before its program has begun.
        let until = Instant::now() + GRACE;
        while cost(pid)?.rss_mib <= 0.0 {
            assert!(Instant::now() < until, "a process without memory");
            std::thread::yield_now();
        }
        drop(child);
        assert!(!table()?.contains_key(&pid));
        Ok(())
    }
}
