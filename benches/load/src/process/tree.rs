//! Which processes belong to a tree, and the CPU time of all of them. It must never measure memory.

use std::collections::BTreeMap;
use std::fs;

use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::{Pid, SysconfVar, sysconf};

use super::float;
use crate::Fault;

struct Row {
    parent: u32,
    own_ticks: u64,
    reaped_ticks: u64,
}

/// The process ids of the tree below and with `root`.
pub(super) fn members(root: u32) -> Result<Vec<u32>, Fault> {
    let rows = table()?;
    Ok(rows.keys().copied().filter(|pid| belongs(*pid, root, &rows)).collect())
}

/// User and system time of the tree so far, its reaped children's too, in seconds.
pub(crate) fn cpu_s(root: u32) -> Result<f64, Fault> {
    let (rows, hertz) = (table()?, constant(SysconfVar::CLK_TCK)?);
    let mut sum = 0.0;
    for (pid, row) in rows.iter().filter(|(pid, _)| belongs(**pid, root, &rows)) {
        sum += precise_s(*pid).unwrap_or_else(|| float(row.own_ticks) / hertz);
        sum += float(row.reaped_ticks) / hertz;
    }
    Ok(sum)
}

/// From the process's own clock: the ticks of its stat file are too coarse for a fifth of a second.
fn precise_s(pid: u32) -> Option<f64> {
    let clock = clock_getcpuclockid(Pid::from_raw(i32::try_from(pid).ok()?)).ok()?;
    Some(std::time::Duration::from(clock_gettime(clock).ok()?).as_secs_f64())
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
        own_ticks: number(11)? + number(12)?,
        reaped_ticks: number(13)? + number(14)?,
    })
}

/// A constant of the system.
pub(super) fn constant(name: SysconfVar) -> Result<f64, Fault> {
    let value = sysconf(name)?.ok_or("the system does not tell its constants")?;
    Ok(float(u64::try_from(value)?))
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::process::Managed;

    #[test]
    fn a_name_with_a_parenthesis_does_not_shift_the_fields() {
        let stat =
            "7 (a) b) S 3 7 7 0 -1 0 1 2 3 4 10 20 1 2 20 0 1 0 99 1000 55 18446744073709551615";
        let row = parse(stat);
        assert!(row.is_some_and(|r| (r.parent, r.own_ticks, r.reaped_ticks) == (3, 30, 3)));
    }

    #[test]
    fn a_child_counts_with_its_parent_and_dies_when_it_is_dropped() -> Result<(), Fault> {
        let child = Managed::start(Command::new("sleep").arg("60"))?;
        let pid = child.pid();
        assert!(members(std::process::id())?.contains(&pid));
        drop(child);
        assert!(!table()?.contains_key(&pid));
        Ok(())
    }

    #[test]
    fn time_that_a_tree_burns_is_counted_finer_than_a_tick() -> Result<(), Fault> {
        let own = std::process::id();
        let (before, begun) = (cpu_s(own)?, Instant::now());
        while begun.elapsed() < Duration::from_millis(3) {
            std::hint::spin_loop();
        }
        assert!(cpu_s(own)? > before);
        Ok(())
    }
}
