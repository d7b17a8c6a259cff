//! The log writer on real files.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::directory::Directory;
use crate::guard::Role;
use actix::Arbiter;
use std::path::Path;

fn start(settings: &LogSettings, arbiter: &Arbiter) -> io::Result<LogHandle> {
    let directory = Directory::default();
    let log = handle(settings, &directory)?;
    start_writer(&log, &directory, arbiter);
    Ok(log)
}

fn handle(settings: &LogSettings, directory: &Directory) -> io::Result<LogHandle> {
    let logger = |book: &crate::directory::Book| book.logger.clone();
    let figures = crate::metrics::Metrics::new().unwrap().log.clone();
    let settings = Live::new(settings.clone());
    LogHandle::new(settings, figures, directory.port(logger), directory.port(logger))
}

fn start_writer(log: &LogHandle, directory: &Directory, arbiter: &Arbiter) {
    let writer = log.writer(Guard::unwatched(Role::Logger));
    let addr = LoggerActor::start_in_arbiter(&arbiter.handle(), |_| writer);
    directory.write(move |book| book.logger = Some(addr.clone()));
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    PathBuf::from(format!("{}.{number}", path.display()))
}

async fn flush(log: &LogHandle) -> FlushReport {
    log.flush(Duration::from_secs(10)).await.unwrap()
}

fn settings(dir: &Path, max_bytes: u64, max_files: u32) -> LogSettings {
    LogSettings { path: dir.join("log/x.jsonl"), max_bytes, max_files, log_prompts: false }
}

fn record(id: usize) -> Box<Record> {
    Box::new(Record { request_id: format!("r{id}"), ..Record::default() })
}

/// Waits for a condition that nobody tells of.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let bound = tokio::time::Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(tokio::time::Instant::now() < bound, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
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
    let log = start(&settings, &arbiter).unwrap();
    (0..200).for_each(|id| log.write(record(id)));
    let report = flush(&log).await;
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
    let log = start(&settings, &arbiter).unwrap();
    (0..50).for_each(|id| log.write(record(id)));
    flush(&log).await;
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
    let log = start(&settings, &arbiter).unwrap();
    log.write(record(1));
    flush(&log).await;
    std::fs::rename(&path, dir.path().join("away")).unwrap();
    log.write(record(2));
    flush(&log).await;
    assert_eq!(ids(&path), ["r2"]);
    arbiter.stop();
}

#[actix_rt::test]
async fn a_full_disk_costs_lines_and_nothing_else() {
    // /dev/full takes every open and refuses every write.
    let dir = tempfile::tempdir().unwrap();
    let settings = LogSettings { path: "/dev/full".into(), ..settings(dir.path(), 1 << 20, 2) };
    let arbiter = Arbiter::new();
    let log = start(&settings, &arbiter).unwrap();
    log.write(record(1));
    log.write(record(2));
    assert_eq!(flush(&log).await, FlushReport { written: 0, dropped: 2 });
    arbiter.stop();
}

#[actix_rt::test]
async fn a_path_that_cannot_be_opened_stops_the_start() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("log"), "a file, not a directory").unwrap();
    let arbiter = Arbiter::new();
    assert!(start(&settings(dir.path(), 1 << 20, 2), &arbiter).is_err());
    arbiter.stop();
}

#[actix_rt::test]
async fn the_death_of_the_writer_loses_no_line() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path(), 1 << 20, 2);
    let arbiter = Arbiter::new();
    let directory = Directory::default();
    let log = handle(&settings, &directory).unwrap();
    // Before there is a writer, with one, after its death, and with its successor.
    log.write(record(1));
    start_writer(&log, &directory, &arbiter);
    log.write(record(2));
    let writer = directory.book().logger.clone().unwrap();
    assert!(writer.send(crate::root::fault::Explode).await.is_err());
    (3..50).for_each(|id| log.write(record(id)));
    start_writer(&log, &directory, &arbiter);
    log.write(record(50));
    assert_eq!(flush(&log).await, FlushReport { written: 50, dropped: 0 });
    assert_eq!(ids(&settings.path), (1..=50).map(|id| format!("r{id}")).collect::<Vec<_>>());
    arbiter.stop();
}

#[actix_rt::test]
async fn a_line_that_comes_before_a_new_writer_can_be_found_is_written_with_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path(), 1 << 20, 2);
    let arbiter = Arbiter::new();
    let directory = Directory::default();
    let log = handle(&settings, &directory).unwrap();
    let writer = log.writer(Guard::unwatched(Role::Logger));
    let addr = LoggerActor::start_in_arbiter(&arbiter.handle(), |_| writer);
    // It has looked at the queue, and is not in the book yet.
    assert_eq!(addr.send(Flush).await.unwrap(), FlushReport { written: 0, dropped: 0 });
    log.write(record(1));
    directory.write(move |book| book.logger = Some(addr.clone()));
    log.write(record(2));
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while ids(&settings.path) != ["r1", "r2"] {
        assert!(std::time::Instant::now() < deadline, "{:?}", ids(&settings.path));
        std::thread::yield_now();
    }
    arbiter.stop();
}

/// The writer is woken only where it does not look by itself. However records come, the last of them is
/// written without anybody's help.
#[actix_rt::test]
async fn no_record_is_left_lying_however_they_come() {
    const THREADS: usize = 4;
    const EACH: usize = 300;
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path(), u64::MAX, 1);
    let arbiter = Arbiter::new();
    let log = start(&settings, &arbiter).unwrap();
    let threads = (0..THREADS).map(|thread| {
        let log = log.clone();
        std::thread::spawn(move || {
            for id in 0..EACH {
                log.write(record(id));
                // Around the moments at which the writer stops looking.
                if id % 7 == thread {
                    std::thread::sleep(LOOK + Duration::from_micros((id as u64 * 37) % 500));
                }
            }
        })
    });
    threads.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().unwrap());
    until("all are written", || log.waiting() == 0).await;
    assert_eq!(ids(&settings.path).len(), THREADS * EACH);
    arbiter.stop();
}

#[actix_rt::test]
async fn the_first_record_after_a_pause_is_written_at_once_and_the_next_ones_together() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path(), u64::MAX, 1);
    let (orders, mut woken) = tokio::sync::mpsc::unbounded_channel();
    let told = Recorder(orders).start();
    let figures = crate::metrics::Metrics::new().unwrap().log.clone();
    let live = Live::new(settings.clone());
    let log =
        LogHandle::new(live, figures, Port::fixed(told.clone().recipient()), Port::new(|| None));
    let log = log.unwrap();
    (0..50).for_each(|id| log.write(record(id)));
    woken.recv().await.unwrap();
    assert!(woken.try_recv().is_err(), "once for all of them");
    let writer = log.writer(Guard::unwatched(Role::Logger)).start();
    until("all are written", || log.waiting() == 0).await;
    // It goes on looking for a while, and then wants to be woken again.
    until("it rests", || !log.shared.looks.load(Ordering::SeqCst)).await;
    log.write(record(50));
    woken.recv().await.unwrap();
    assert_eq!(ids(&settings.path).len(), 50);
    writer.do_send(Wake);
    until("all are written", || log.waiting() == 0).await;
    assert_eq!(ids(&settings.path).len(), 51);
}

/// Notes that it is woken.
struct Recorder(tokio::sync::mpsc::UnboundedSender<()>);

impl Actor for Recorder {
    type Context = Context<Self>;
}

impl Handler<Wake> for Recorder {
    type Result = ();

    fn handle(&mut self, _: Wake, _: &mut Self::Context) {
        self.0.send(()).unwrap();
    }
}
