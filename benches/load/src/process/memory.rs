//! The memory, descriptors and threads of a process tree. It must never know whose tree it is.

use std::fs;

use super::tree::members;
use super::{Managed, float};
use crate::Fault;

const BYTES_PER_KIB: f64 = 1024.0;
const KIB_PER_MIB: f64 = 1024.0;
/// What the kernel calls this: "reset the peak resident set size to the current value".
const RESET_PEAK: &str = "5";

/// What a tree holds at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Held {
    /// Resident memory; pages that a tree shares count once for each process.
    pub(crate) rss_bytes: f64,
    /// Open descriptors.
    pub(crate) descriptors: f64,
    /// Threads.
    pub(crate) threads: f64,
}

/// Looks at the tree of `root`. A member that ends meanwhile counts for nothing.
pub(crate) fn held(root: &Managed) -> Result<Held, Fault> {
    let mut sum = Held::default();
    for pid in members(root.pid())? {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        sum.rss_bytes += field(&status, "VmRSS:").unwrap_or(0.0) * BYTES_PER_KIB;
        sum.threads += field(&status, "Threads:").unwrap_or(0.0);
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
        sum.descriptors += float(descriptors as u64);
    }
    Ok(sum)
}

/// The tree's share of its resident memory: pages are divided among all who share them. `None` where
/// the kernel does not let us read it. It walks all pages, so it is nothing for a busy process.
pub(crate) fn pss_bytes(root: &Managed) -> Result<Option<f64>, Fault> {
    let mut sum = 0.0;
    for pid in members(root.pid())? {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let Some(kib) = field(&rollup, "Pss:") else {
            return Ok(None);
        };
        sum += kib * BYTES_PER_KIB;
    }
    Ok(Some(sum))
}

/// Lets the peak of every process of the tree begin anew. Where the kernel refuses, the peak is that
/// since the process began, which never flatters.
pub(crate) fn reset_peak(root: &Managed) -> Result<(), Fault> {
    for pid in members(root.pid())? {
        let _ = fs::write(format!("/proc/{pid}/clear_refs"), RESET_PEAK);
    }
    Ok(())
}

/// The most resident memory since then, in MiB. The kernel keeps it for each process, so nothing has
/// to be sampled while we measure; for a tree of several it is the sum of their peaks, which need
/// not have come at the same moment.
pub(crate) fn peak_mib(root: &Managed) -> Result<f64, Fault> {
    let mut sum = 0.0;
    for pid in members(root.pid())? {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        sum += field(&status, "VmHWM:").unwrap_or(0.0) / KIB_PER_MIB;
    }
    Ok(sum)
}

/// The number behind `name` at the start of a line.
fn field(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn fields_are_found_by_their_name() {
        let text = "Name:\tx\nVmHWM:\t   2048 kB\nVmRSS:\t   1024 kB\nThreads:\t3\n";
        assert_eq!(field(text, "VmRSS:"), Some(1024.0));
        assert_eq!(field(text, "Threads:"), Some(3.0));
        assert_eq!(field(text, "VmSwap:"), None);
    }

    #[test]
    fn a_process_holds_something_and_its_peak_is_no_less() -> Result<(), Fault> {
        let child = Managed::start(Command::new("sleep").arg("60"))?;
        // It has no memory of its own before its program has begun.
        let until = Instant::now() + Duration::from_secs(5);
        while held(&child)?.rss_bytes <= 0.0 {
            assert!(Instant::now() < until, "a process without memory");
            std::thread::yield_now();
        }
        reset_peak(&child)?;
        let now = held(&child)?;
        assert!((now.threads - 1.0).abs() < 0.1 && now.descriptors > 0.0);
        assert!(peak_mib(&child)? > 0.0);
        assert!(pss_bytes(&child)?.is_none_or(|pss| pss <= now.rss_bytes));
        Ok(())
    }
}
