//! The log writer on real files.
#![allow(clippy::unwrap_used)]

use super::*;

fn settings(dir: &Path, max_bytes: u64, max_files: u32) -> LogSettings {
    LogSettings { path: dir.join("log/x.jsonl"), max_bytes, max_files, log_prompts: false }
}

fn record(id: usize) -> Record {
    Record { request_id: format!("r{id}"), ..Record::default() }
}

fn ids(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .map(|line| {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            value["request_id"].as_str().unwrap().to_owned()
        })
        .collect()
}

#[actix_rt::test]
async fn lines_are_whole_in_order_and_none_is_lost_over_rotations() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path(), 4000, 100);
    let path = settings.path.clone();
    let arbiter = Arbiter::new();
    let log = LoggerActor::start(settings, &arbiter).unwrap();
    (0..200).for_each(|id| log.write(record(id)));
    let report = log.addr().send(Flush).await.unwrap();
    assert_eq!(report, FlushReport { written: 200, dropped: 0 });
    let mut all = Vec::new();
    for number in (1..100).rev() {
        let old = numbered(&path, number);
        assert!(std::fs::metadata(&old).map_or(0, |m| m.len()) <= 4000);
        all.extend(ids(&old));
    }
    all.extend(ids(&path));
    assert_eq!(all, (0..200).map(|id| format!("r{id}")).collect::<Vec<_>>());
    arbiter.stop();
}

#[actix_rt::test]
async fn only_so_many_old_files_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path(), 1024, 2);
    let path = settings.path.clone();
    let arbiter = Arbiter::new();
    let log = LoggerActor::start(settings, &arbiter).unwrap();
    (0..50).for_each(|id| log.write(record(id)));
    log.addr().send(Flush).await.unwrap();
    assert!(numbered(&path, 2).exists());
    assert!(!numbered(&path, 3).exists());
    arbiter.stop();
}

#[actix_rt::test]
async fn a_file_that_was_moved_away_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path(), 1 << 20, 2);
    let path = settings.path.clone();
    let arbiter = Arbiter::new();
    let log = LoggerActor::start(settings, &arbiter).unwrap();
    log.write(record(1));
    log.addr().send(Flush).await.unwrap();
    std::fs::rename(&path, dir.path().join("away")).unwrap();
    log.write(record(2));
    log.addr().send(Flush).await.unwrap();
    assert_eq!(ids(&path), ["r2"]);
    arbiter.stop();
}

#[actix_rt::test]
async fn a_full_disk_costs_lines_and_nothing_else() {
    // /dev/full takes every open and refuses every write.
    let live = open(Path::new("/dev/full")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let settings = LogSettings { path: "/dev/full".into(), ..settings(dir.path(), 1 << 20, 2) };
    let arbiter = Arbiter::new();
    drop(live);
    let log = LoggerActor::start(settings, &arbiter).unwrap();
    log.write(record(1));
    log.write(record(2));
    assert_eq!(log.addr().send(Flush).await.unwrap(), FlushReport { written: 0, dropped: 2 });
    arbiter.stop();
}

#[actix_rt::test]
async fn a_path_that_cannot_be_opened_stops_the_start() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("log"), "a file, not a directory").unwrap();
    let arbiter = Arbiter::new();
    assert!(LoggerActor::start(settings(dir.path(), 1 << 20, 2), &arbiter).is_err());
    arbiter.stop();
}
