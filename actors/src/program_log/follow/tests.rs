use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::super::shorten::How;
use super::super::tests::{KIB, append, hammer, line, lines, place, place_that_can};
use super::super::{open, shorten};
use super::lines::LONGEST_TEXT;
use super::place::STEP;
use super::{Cursor, Excerpt, Follower, Kind, News};
use crate::rotation::{numbered, rotate};

mod cursors;
mod histories;
mod records;

fn following(path: &Path, lines: usize) -> Follower {
    Follower::new(path, Kind::Text, lines)
}

/// Everything that can be read now, and how often lines were missing.
fn news(follower: &mut Follower) -> Vec<News> {
    let mut news = Vec::new();
    loop {
        let step = follower.step().unwrap();
        news.extend(step.news);
        if !step.more {
            return news;
        }
    }
}

fn texts(news: Vec<News>) -> Vec<String> {
    let text = |news| match news {
        News::Line(text, _) => Some(text),
        News::Begin(_) => None,
        News::Gap => Some("[gap]".to_owned()),
    };
    news.into_iter().filter_map(text).collect()
}

fn all(follower: &mut Follower) -> Vec<String> {
    texts(news(follower))
}

fn text(follower: &mut Follower) -> String {
    all(follower).iter().flat_map(|line| [line.as_str(), "\n"]).collect()
}

fn write(path: &Path, text: &str) {
    append(path).write_all(text.as_bytes()).unwrap();
}

#[test]
fn the_last_lines_come_first_and_then_what_is_written() {
    for (lines, before) in [(0, &[][..]), (1, &["b"]), (2, &["a", "b"]), (9, &["a", "b"])] {
        let (_dir, path) = place();
        write(&path, "a\nb\n");
        let mut follower = following(&path, lines);
        assert_eq!(all(&mut follower), before, "{lines}");
        assert_eq!(all(&mut follower), [""; 0]);
        write(&path, "c\nd\n");
        assert_eq!(all(&mut follower), ["c", "d"]);
    }
}

#[test]
fn a_line_comes_when_it_is_whole() {
    let (_dir, path) = place();
    write(&path, "a\nhal");
    let mut follower = following(&path, 9);
    assert_eq!(all(&mut follower), ["a"]);
    write(&path, "f ");
    assert_eq!(all(&mut follower), [""; 0]);
    write(&path, "line\nnext");
    assert_eq!(all(&mut follower), ["half line"]);
    // The next start comes: nothing will end that line.
    rotate(&path, 3).unwrap();
    write(&path, "new\n");
    assert_eq!(all(&mut follower), ["next", "new"]);
}

#[test]
fn progress_bars_and_what_is_no_text_make_lines_too() {
    let (_dir, path) = place();
    let mut follower = following(&path, 9);
    let mut file = append(&path);
    for (written, told) in [
        (&b"a\r\nb\r\n"[..], &["a", "b"][..]),
        (b"\r 0 %\r 50 %", &[" 0 %"]),
        (b"\r", &[" 50 %"]),
        (b"\n\nc\r\r\n\r\n", &["", "c", ""]),
        (b"a\xff\xfeb\n", &["a\u{fffd}\u{fffd}b"]),
    ] {
        file.write_all(written).unwrap();
        assert_eq!(all(&mut follower), told, "{written:?}");
    }
}

#[test]
fn long_lines_come_in_pieces_and_a_step_has_its_bound() {
    let (_dir, path) = place();
    let mut follower = following(&path, 9);
    all(&mut follower);
    write(&path, &"x".repeat(3 * LONGEST_TEXT));
    let pieces = all(&mut follower);
    assert_eq!(pieces, ["x".repeat(LONGEST_TEXT), "x".repeat(LONGEST_TEXT)]);
    write(&path, "\n");
    assert_eq!(all(&mut follower), ["x".repeat(LONGEST_TEXT)]);
    write(&path, &"short\n".repeat(STEP));
    let mut steps = 0;
    loop {
        let step = follower.step().unwrap();
        assert!(step.news.len() <= STEP / "short\n".len() + 1);
        steps += 1;
        if !step.more {
            break;
        }
    }
    assert!(steps >= "short\n".len());
}

#[test]
fn a_log_that_is_not_there_yet_is_waited_for() {
    let (_dir, path) = place();
    let mut follower = following(&path, 0);
    assert_eq!(all(&mut follower), [""; 0]);
    write(&path, "a\nb\n");
    assert_eq!(all(&mut follower), ["a", "b"], "no line was there before");
    let (dir, path) = place();
    let mut nobody = following(&path.join("below/m.log"), 1);
    assert_eq!(all(&mut nobody), [""; 0]);
    fs::create_dir(&path).unwrap();
    following(&path, 1).step().unwrap_err();
    drop(dir);
}

#[test]
fn a_new_start_is_followed_when_the_old_one_was_read_to_its_end() {
    let (_dir, path) = place();
    let mut old = open(&path, 3).unwrap();
    old.write_all(b"a\n").unwrap();
    let mut follower = following(&path, 9);
    assert_eq!(all(&mut follower), ["a"]);
    old.write_all(b"b\n").unwrap();
    let mut new = open(&path, 3).unwrap();
    old.write_all(b"last\n").unwrap();
    new.write_all(b"first\n").unwrap();
    assert_eq!(all(&mut follower), ["b", "last", "first"]);
    // For a moment there is no file.
    rotate(&path, 3).unwrap();
    assert_eq!(all(&mut follower), [""; 0]);
    write(&path, "again\n");
    assert_eq!(all(&mut follower), ["again"]);
}

#[test]
fn starts_that_nobody_looked_at_are_told_in_their_order() {
    let (_dir, path) = place();
    write(&path, "1\n");
    let mut follower = following(&path, 9);
    assert_eq!(all(&mut follower), ["1"]);
    for start in 2..6 {
        rotate(&path, 9).unwrap();
        write(&path, &format!("{start}\n"));
    }
    assert_eq!(all(&mut follower), ["2", "3", "4", "5"]);
    // Without older parts it goes on with what is there.
    for start in 6..9 {
        rotate(&path, 1).unwrap();
        write(&path, &format!("{start}\n"));
    }
    assert_eq!(all(&mut follower), ["[gap]", "7", "8"]);
}

#[test]
fn a_file_that_was_emptied_by_hand_is_read_from_its_beginning() {
    let (_dir, path) = place();
    // It must not be taken for the head of the live one.
    write(&path.with_file_name("m.log.1"), &"another log\n".repeat(100));
    write(&path, "a\nb\n");
    let mut follower = following(&path, 9);
    all(&mut follower);
    OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
    assert_eq!(all(&mut follower), ["[gap]"]);
    write(&path, "c\n");
    assert_eq!(all(&mut follower), ["c"]);
    // And when more was written than was there before.
    fs::write(&path, "another beginning\n").unwrap();
    assert_eq!(all(&mut follower), ["[gap]", "another beginning"]);
}

/// What a follower finds that reads while a log is shortened in each of these ways.
fn shortened(how: How, dir: &Path, keep: u32) {
    let Some((_dir, path)) = place_that_can(how, dir) else { return };
    write(&path, &lines(0..3000));
    let mut follower = following(&path, 0);
    all(&mut follower);
    let mut behind = following(&path, 2990);
    behind.step().unwrap();
    write(&path, &lines(3000..3010));
    for round in 0..3 {
        shorten(&path, 64 * KIB, keep).unwrap().unwrap();
        let first = 3010 + round * 1000;
        write(&path, &lines(first..first + 1000));
    }
    assert!(text(&mut follower) == lines(3000..6010), "{how:?}, {keep} kept");
    assert!(text(&mut behind) == lines(10..6010), "{how:?}, {keep} kept");
}

#[test]
fn nothing_is_missed_or_doubled_when_the_log_is_shortened() {
    shortened(How::Collapsed, &std::env::temp_dir(), 9);
    shortened(How::Truncated, Path::new("/dev/shm"), 9);
}

#[test]
fn where_no_head_is_kept_it_goes_on_behind_what_it_has_read() {
    let Some((_dir, path)) = place_that_can(How::Collapsed, &std::env::temp_dir()) else { return };
    write(&path, &lines(0..3000));
    let mut follower = following(&path, 0);
    all(&mut follower);
    shorten(&path, 64 * KIB, 0).unwrap().unwrap();
    write(&path, &lines(3000..3010));
    assert!(text(&mut follower) == lines(3000..3010));
}

#[test]
fn whoever_shortens_it_is_let_go_first() {
    let (_dir, path) = place();
    write(&path, "a\n");
    let mut follower = following(&path, 9);
    let other = File::open(&path).unwrap();
    other.lock().unwrap();
    assert_eq!(all(&mut follower), [""; 0]);
    other.unlock().unwrap();
    assert_eq!(all(&mut follower), ["a"]);
    other.lock().unwrap();
    write(&path, "b\n");
    assert_eq!(all(&mut follower), [""; 0]);
    other.unlock().unwrap();
    assert_eq!(all(&mut follower), ["b"]);
}

#[test]
fn every_line_comes_once_while_an_engine_writes_and_its_log_is_shortened() {
    let Some((_dir, path)) = place_that_can(How::Collapsed, &std::env::temp_dir()) else { return };
    append(&path); // so that it is there before anything is moved
    let done = AtomicBool::new(false);
    let (mut follower, mut read) = (following(&path, 0), String::new());
    all(&mut follower);
    thread::scope(|scope| {
        let hammering = scope.spawn(|| {
            let written = hammer(&path, 128 * KIB, 1000);
            done.store(true, Ordering::Relaxed);
            written
        });
        while !done.load(Ordering::Relaxed) && !hammering.is_finished() {
            read.push_str(&text(&mut follower));
        }
        read.push_str(&text(&mut follower));
        let written = hammering.join().unwrap();
        assert!(read == lines(0..written), "lines are missing, torn or doubled");
    });
}
