//! What the daemon is like, slice by slice: a minute each, or less where it does not last so long.
#![allow(clippy::cast_precision_loss)] // figures for people

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use super::Soak;
use crate::support::Ask;
use crate::support::Client;

/// So many slices at least; at most a minute each.
const SLICES: u32 = 12;

/// Of one slice: means, but for the slowest.
pub(super) struct Slice {
    seconds: f64,
    requests: usize,
    p50: f64,
    p99: f64,
    rss_mb: f64,
    descriptors: f64,
    threads: f64,
}

impl Slice {
    pub(super) fn row(&self) -> String {
        let Slice { seconds, requests, p50, p99, rss_mb, descriptors, threads } = self;
        format!(
            "| {seconds:.0} | {requests} | {p50:.2} | {p99:.2} | {rss_mb:.1} | {descriptors:.0} | {threads:.0} |"
        )
    }
}

/// Samples every second, with twenty requests whose time is taken.
pub(super) fn until(end: Instant, pid: u32, soak: &Soak) -> Vec<Slice> {
    let mut slices = Vec::new();
    let length =
        (end.saturating_duration_since(Instant::now()) / SLICES).min(Duration::from_secs(60));
    let mut client = Client::connect(soak.addr);
    let probe = Ask::get("/v1/models").bytes(soak.addr);
    while Instant::now() < end {
        let begun = Instant::now();
        let (before, mut times, mut looks) = (soak.counts.sent(), Vec::new(), Vec::new());
        while begun.elapsed() < length && Instant::now() < end {
            for _ in 0..20 {
                let sent = Instant::now();
                client.send(&probe);
                assert_eq!(client.reply().status(), 200);
                times.push(sent.elapsed().as_secs_f64() * 1000.0);
                thread::sleep(Duration::from_millis(45));
            }
            looks.push(look(pid));
        }
        times.sort_by(f64::total_cmp);
        let mean =
            |pick: fn(&[f64; 3]) -> f64| looks.iter().map(pick).sum::<f64>() / looks.len() as f64;
        slices.push(Slice {
            seconds: begun.elapsed().as_secs_f64(),
            requests: soak.counts.sent() - before,
            p50: times[times.len() / 2],
            p99: times[times.len() * 99 / 100],
            rss_mb: mean(|look| look[0]),
            descriptors: mean(|look| look[1]),
            threads: mean(|look| look[2]),
        });
    }
    slices
}

/// RSS in megabytes, descriptors, threads.
fn look(pid: u32) -> [f64; 3] {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a living daemon");
    let value = |name: &str| -> f64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line");
        line.split_whitespace().next().expect("a figure").parse().expect("a number")
    };
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).expect("a living daemon").count();
    [value("VmRSS:") / 1024.0, descriptors as f64, value("Threads:")]
}

/// The last third is like the second one; the first warms up.
pub(super) fn assert_flat(slices: &[Slice]) {
    let third = (slices.len() / 3).max(1);
    let last = &slices[slices.len() - third..];
    let second =
        &slices[(slices.len() - 2 * third).min(slices.len() - third)..slices.len() - third];
    if second.is_empty() {
        return eprintln!("too short to say what is flat");
    }
    let mean =
        |of: &[Slice], pick: fn(&Slice) -> f64| of.iter().map(pick).sum::<f64>() / of.len() as f64;
    // In a few minutes the slowest of some hundred requests is the machine's noise, and caches still fill.
    let long = slices.iter().map(|slice| slice.seconds).sum::<f64>() > 600.0;
    for (what, pick, factor, more, in_short) in [
        (
            "RSS in MB",
            (|m| m.rss_mb) as fn(&Slice) -> f64,
            1.15,
            if long { 4.0 } else { 16.0 },
            true,
        ),
        ("descriptors", |m| m.descriptors, 1.0, 10.0, true),
        ("threads", |m| m.threads, 1.0, 6.0, true),
        ("p99 in ms", |m| m.p99, 2.0, 5.0, false),
    ] {
        let (before, after) = (mean(second, pick), mean(last, pick));
        eprintln!("{what}: {before:.1} in the second third, {after:.1} in the last");
        let flat = after <= before * factor + more;
        assert!(flat || !(long || in_short), "{what} grows: {before:.1} to {after:.1}");
    }
}
