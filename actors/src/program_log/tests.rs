use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use chat_proxy_core::engine::telling::TAIL;
use nix::fcntl::{FallocateFlags, fallocate};
use tempfile::TempDir;

use super::shorten::{How, Shortened};
use super::{open, shorten, tail, why};
use crate::rotation::numbered;

pub(super) const KIB: u64 = 1 << 10;

/// A directory of this file system, and a log in it that is not there yet.
fn place_in(dir: &Path) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir_in(dir).unwrap();
    let path = dir.path().join("m.log");
    (dir, path)
}

pub(super) fn place() -> (TempDir, PathBuf) {
    place_in(&std::env::temp_dir())
}

/// One in which files get shorter this way, if this is so in `dir`.
#[expect(clippy::print_stderr, reason = "says that nothing was tested")]
pub(super) fn place_that_can(how: How, dir: &Path) -> Option<(TempDir, PathBuf)> {
    if dir.is_dir() {
        let (place, path) = place_in(dir);
        if how_in(place.path()) == how {
            return Some((place, path));
        }
    }
    eprintln!("not tested: files in {} do not get shorter this way: {how:?}", dir.display());
    None
}

/// What the file system of this directory can do, asked without our own code.
fn how_in(dir: &Path) -> How {
    let path = dir.join("probe");
    fs::write(&path, vec![b'x'; 256 << 10]).unwrap();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    let collapsed = fallocate(&file, FallocateFlags::FALLOC_FL_COLLAPSE_RANGE, 0, 64 << 10);
    fs::remove_file(&path).unwrap();
    if collapsed.is_ok() { How::Collapsed } else { How::Truncated }
}

pub(super) fn line(number: u64) -> String {
    let long = if number.is_multiple_of(97) { 9000 } else { number % 60 };
    format!("{number:010} {}\n", "x".repeat(usize::try_from(long).unwrap()))
}

pub(super) fn lines(numbers: std::ops::Range<u64>) -> String {
    numbers.map(line).collect()
}

pub(super) fn append(path: &Path) -> File {
    OpenOptions::new().create(true).append(true).open(path).unwrap()
}

/// All that is there, the oldest part first.
fn everything(path: &Path, keep: u32) -> String {
    let older = (1..=keep).rev().filter_map(|number| fs::read(numbered(path, number)).ok());
    let mut bytes: Vec<u8> = older.flatten().collect();
    bytes.extend(fs::read(path).unwrap());
    String::from_utf8(bytes).unwrap()
}

/// The numbers of the lines; each must be whole.
fn numbers(text: &str) -> Vec<u64> {
    let number = |text: &str| {
        let number = text[..10].parse().unwrap();
        assert_eq!(format!("{text}\n"), line(number));
        number
    };
    text.lines().map(number).collect()
}

/// Names beside the log.
fn beside(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path.parent().unwrap()).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Somebody writes without a pause while the log is shortened 40 times; how many lines he wrote.
pub(super) fn hammer(path: &Path, limit: u64, keep: u32) -> u64 {
    let enough = AtomicBool::new(false);
    let mut file = append(path);
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut number = 0;
            while !enough.load(Ordering::Relaxed) {
                file.write_all(line(number).as_bytes()).unwrap();
                number += 1;
            }
            number
        });
        let until = Instant::now() + Duration::from_secs(60);
        let (mut done, mut failed) = (0, None);
        while done < 40 && failed.is_none() && Instant::now() < until && !writer.is_finished() {
            match shorten(path, limit, keep) {
                Ok(shortened) => done += u32::from(shortened.is_some()),
                Err(error) => failed = Some(error),
            }
        }
        enough.store(true, Ordering::Relaxed); // before anything may panic: he is waited for
        assert!(done == 40, "{done} times, {failed:?}");
        writer.join().unwrap()
    })
}

#[test]
fn no_byte_is_lost_or_doubled_while_an_engine_writes() {
    let Some((_dir, path)) = place_that_can(How::Collapsed, &std::env::temp_dir()) else { return };
    let written = hammer(&path, 128 * KIB, 1000);
    assert!(everything(&path, 1000) == lines(0..written), "lines are missing, torn or doubled");
    assert_eq!(beside(&path).len(), 41);
}

#[test]
fn what_remains_of_a_hammered_log_goes_on_without_a_gap() {
    let Some((_dir, path)) = place_that_can(How::Collapsed, &std::env::temp_dir()) else { return };
    let written = hammer(&path, 128 * KIB, 2);
    let text = everything(&path, 2);
    assert!(lines(0..written).ends_with(&text));
    assert_eq!(beside(&path), ["m.log", "m.log.1", "m.log.2"]);
}

#[test]
fn as_many_parts_are_kept_as_wanted() {
    for keep in [0, 1, 3] {
        let (_dir, path) = place();
        let mut file = append(&path);
        let mut written = 0;
        for _ in 0..5 {
            while fs::metadata(&path).unwrap().len() <= 200 * KIB {
                file.write_all(line(written).as_bytes()).unwrap();
                written += 1;
            }
            let size = fs::metadata(&path).unwrap().len();
            let done = shorten(&path, 200 * KIB, keep).unwrap().unwrap();
            assert_eq!(done.moved + done.left, size);
            assert_eq!(fs::metadata(&path).unwrap().len(), done.left);
            assert!(done.how == How::Truncated || done.left >= TAIL, "{done:?}");
            assert_eq!(shorten(&path, 200 * KIB, keep).unwrap(), None);
        }
        let names = ["m.log", "m.log.1", "m.log.2", "m.log.3"];
        assert_eq!(beside(&path), names[..=usize::try_from(keep).unwrap()]);
        assert!(lines(0..written).ends_with(&everything(&path, keep)));
    }
}

#[test]
fn where_nothing_can_be_collapsed_a_pause_loses_nothing() {
    let Some((_dir, path)) = place_that_can(How::Truncated, Path::new("/dev/shm")) else { return };
    let mut file = append(&path);
    for round in 0..3 {
        file.write_all(lines(round * 1000..round * 1000 + 1000).as_bytes()).unwrap();
        let size = fs::metadata(&path).unwrap().len();
        let done = shorten(&path, 64 * KIB, 3).unwrap();
        assert_eq!(done, Some(Shortened { moved: size, left: 0, how: How::Truncated }));
    }
    file.write_all(lines(3000..3010).as_bytes()).unwrap();
    assert_eq!(everything(&path, 3), lines(0..3010));
}

#[test]
fn where_nothing_can_be_collapsed_the_order_of_lines_stays() {
    let Some((_dir, path)) = place_that_can(How::Truncated, Path::new("/dev/shm")) else { return };
    let written = hammer(&path, 64 * KIB, 1000);
    // What is lost leaves a gap, and at its edges lines that are torn, also in their numbers.
    let whole = |text: &str| {
        let number = text.get(..10)?.parse().ok()?;
        (line(number).trim_end_matches('\n') == text).then_some(number)
    };
    let text = everything(&path, 1000);
    let found: Vec<u64> = text.lines().filter_map(whole).collect();
    assert!(found.windows(2).all(|pair| pair[0] < pair[1]), "lines are doubled or out of order");
    assert!(found.iter().all(|number| *number < written));
    assert!(text.lines().count() - found.len() <= 2 * 40, "more is torn than edges of gaps");
}

#[test]
fn blocks_are_cut_exactly_at_their_borders() {
    for (size, moved) in [
        (200 * KIB, None),
        (200 * KIB + 1, Some(136 * KIB)),
        (204 * KIB - 1, Some(136 * KIB)),
        (204 * KIB, Some(140 * KIB)),
        (204 * KIB + 1, Some(140 * KIB)),
    ] {
        let (dir, path) = place();
        let text: Vec<u8> = (0..size).map(|at| b'a' + u8::try_from(at % 23).unwrap()).collect();
        fs::write(&path, &text).unwrap();
        let done = shorten(&path, 200 * KIB, 1).unwrap();
        if how_in(dir.path()) == How::Collapsed {
            let how = How::Collapsed;
            let want = moved.map(|moved| Shortened { moved, left: size - moved, how });
            assert_eq!(done, want, "{size}");
        }
        assert_eq!(everything(&path, 1).as_bytes(), text, "{size}");
    }
}

#[test]
fn a_copy_that_fails_changes_nothing() {
    let (_dir, path) = place();
    let text = lines(0..10_000);
    fs::write(&path, &text).unwrap();
    fs::write(numbered(&path, 1), "older").unwrap();
    let part = path.with_file_name("m.log.1.part");
    fs::create_dir(&part).unwrap();
    shorten(&path, 64 * KIB, 3).unwrap_err();
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
    assert_eq!(beside(&path), ["m.log", "m.log.1", "m.log.1.part"]);
    // Without the obstacle it is done, and a leftover of a crash does no harm.
    fs::remove_dir(&part).unwrap();
    fs::write(&part, "x".repeat(1 << 20)).unwrap();
    shorten(&path, 64 * KIB, 3).unwrap().unwrap();
    assert_eq!(everything(&path, 3), format!("older{text}"));
    assert_eq!(beside(&path), ["m.log", "m.log.1", "m.log.2"]);
}

#[test]
fn a_place_that_cannot_be_taken_leaves_the_log_whole() {
    let (_dir, path) = place();
    let text = lines(0..10_000);
    fs::write(&path, &text).unwrap();
    fs::create_dir(numbered(&path, 1)).unwrap();
    shorten(&path, 64 * KIB, 1).unwrap_err();
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
    assert_eq!(beside(&path), ["m.log", "m.log.1"]);
}

#[test]
fn two_at_once_do_not_meet() {
    let (_dir, path) = place();
    fs::write(&path, lines(0..10_000)).unwrap();
    let other = File::open(&path).unwrap();
    other.lock().unwrap();
    assert_eq!(shorten(&path, 64 * KIB, 1).unwrap(), None);
    drop(other);
    assert!(shorten(&path, 64 * KIB, 1).unwrap().is_some());
}

#[test]
fn after_a_collapse_the_tail_and_the_telling_line_are_there() {
    let Some((_dir, path)) = place_that_can(How::Collapsed, &std::env::temp_dir()) else { return };
    let mut file = open(&path, 3).unwrap();
    file.write_all(lines(0..3000).as_bytes()).unwrap();
    file.write_all(b"ValueError: too large\n").unwrap();
    file.write_all(lines(3000..3100).as_bytes()).unwrap();
    shorten(&path, 128 * KIB, 3).unwrap().unwrap();
    assert_eq!(why(&path, false).as_deref(), Some("ValueError: too large"));
    let last = tail(&path, 3101, 1 << 30).unwrap();
    assert_eq!(last.len(), 3101);
    assert_eq!(numbers(&last[..3000].join("\n")), (0..3000).collect::<Vec<_>>());
    assert_eq!(last[3000], "ValueError: too large");
}

#[test]
fn the_tail_is_right_while_the_border_moves() {
    let Some((_dir, path)) = place_that_can(How::Collapsed, &std::env::temp_dir()) else { return };
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let hammering = scope.spawn(|| {
            hammer(&path, 128 * KIB, 1);
            done.store(true, Ordering::Relaxed);
        });
        while !done.load(Ordering::Relaxed) && !hammering.is_finished() {
            // More than stays in the live file.
            let Ok(last) = tail(&path, 700, 1 << 20) else { continue };
            let Some((_, whole)) = last.split_last() else { continue };
            let found = numbers(&whole.join("\n"));
            assert!(found.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{found:?}");
        }
    });
}

#[test]
fn the_tail_waits_for_whoever_shortens_the_file() {
    let (_dir, path) = place();
    fs::write(&path, "a\nb\nc\n").unwrap();
    let live = OpenOptions::new().write(true).open(&path).unwrap();
    live.lock().unwrap();
    thread::scope(|scope| {
        let reader = scope.spawn(|| tail(&path, 9, 99));
        // The head is in both for a moment.
        fs::write(numbered(&path, 1), "a\nb\n").unwrap();
        thread::sleep(Duration::from_millis(100)); // he would see it
        assert!(!reader.is_finished());
        fs::write(&path, "c\n").unwrap();
        live.unlock().unwrap();
        assert_eq!(reader.join().unwrap().unwrap(), ["a", "b", "c"]);
    });
}
