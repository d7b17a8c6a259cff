//! Telemetry as a whole: no record is lost or torn, and no prompt is where it should not be (SPEC 7).

mod disk;
mod every_request;
mod figures;
mod own_log;
mod privacy;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::{Ask, Daemon};

/// All lines of a directory of logs; panics where one is no record.
#[track_caller]
fn records(dir: &Path) -> Vec<Value> {
    let mut records = Vec::new();
    for item in fs::read_dir(dir).expect("a directory of logs") {
        let path = item.expect("a file").path();
        let text = fs::read_to_string(&path).expect("a text");
        assert!(text.is_empty() || text.ends_with('\n'), "{}: a torn end", path.display());
        for line in text.lines() {
            let record = serde_json::from_str(line);
            records.push(record.unwrap_or_else(|e| panic!("{}: {e}: {line:?}", path.display())));
        }
    }
    records
}

/// How many records are of which status.
fn by_status(records: &[Value]) -> BTreeMap<u64, usize> {
    let mut counts = BTreeMap::new();
    for record in records {
        *counts.entry(record["status"].as_u64().expect("a status")).or_default() += 1;
    }
    counts
}

/// The samples of `/metrics`: name with labels → value.
fn samples(daemon: &Daemon) -> BTreeMap<String, f64> {
    let reply = Ask::get("/metrics").reply(daemon.addr());
    assert_eq!(reply.status(), 200, "{}", reply.text());
    let text = reply.text();
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ').expect("a sample");
        (name.to_owned(), value.parse().expect("a number"))
    };
    text.lines().filter(|line| !line.starts_with('#')).map(sample).collect()
}

/// A figure that is a count.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // small, and whole
fn count(daemon: &Daemon, name: &str) -> usize {
    samples(daemon).get(name).map_or(0, |value| *value as usize)
}

/// Records that the daemon says it dropped.
fn dropped(daemon: &Daemon) -> usize {
    count(daemon, "imageworks_proxy_log_records_total{outcome=\"dropped\"}")
}
