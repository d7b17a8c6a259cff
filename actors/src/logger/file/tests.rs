//! The log's file, whatever was done to it.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;

use super::*;

struct Place {
    dir: tempfile::TempDir,
    settings: LogSettings,
}

fn place(max_bytes: u64) -> Place {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.jsonl");
    Place { dir, settings: LogSettings { path, max_bytes, max_files: 3, log_prompts: false } }
}

impl Place {
    fn open(&self) -> LogFile {
        LogFile::open(&self.settings.path).unwrap()
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.settings.path).unwrap()
    }

    fn part(&self, number: u32) -> PathBuf {
        self.dir.path().join(format!("x.jsonl.{number}"))
    }
}

#[test]
fn a_line_that_was_cut_is_taken_off_and_a_whole_one_gets_its_end() {
    let long = format!("{{\"b\":\"{}", "x".repeat(200_000));
    let whole = format!("{long}\"}}");
    for (before, after) in [
        ("", ""),
        ("{\"a\":1}\n", "{\"a\":1}\n"),
        ("{\"a\":1}\n{\"b\":", "{\"a\":1}\n"),
        ("{\"a\":1}\n{\"b\":2}", "{\"a\":1}\n{\"b\":2}\n"),
        ("{\"b\":", ""),
        ("{\"a\":1}\n12", "{\"a\":1}\n"), // the end of a line, which is JSON by chance
        (&format!("{{\"a\":1}}\n{long}"), "{\"a\":1}\n"),
        (&format!("{{\"a\":1}}\n{whole}"), &format!("{{\"a\":1}}\n{whole}\n")),
    ] {
        let place = place(1 << 20);
        fs::write(&place.settings.path, before).unwrap();
        let mut file = place.open();
        let shown = |text: &str| text.chars().take(40).collect::<String>();
        assert_eq!(shown(&place.text()), shown(after));
        assert_eq!(place.text().len(), after.len(), "{}", shown(before));
        file.append(b"{\"c\":3}\n", &place.settings).unwrap();
        assert_eq!(place.text(), format!("{after}{{\"c\":3}}\n"));
    }
}

#[test]
fn what_another_daemon_is_writing_is_not_cut() {
    let place = place(1 << 20);
    let first = place.open();
    (&first.file).write_all(b"{\"half\":").unwrap();
    let mut second = place.open();
    assert_eq!(place.text(), "{\"half\":");
    (&first.file).write_all(b"1}\n").unwrap();
    second.append(b"{}\n", &place.settings).unwrap();
    assert_eq!(place.text(), "{\"half\":1}\n{}\n");
    drop((first, second));
    // With nobody there it is nobody's.
    fs::write(&place.settings.path, "{\"half\":").unwrap();
    place.open();
    assert_eq!(place.text(), "");
}

#[test]
fn those_who_follow_a_log_may_lock_it_beside_its_writer() {
    let place = place(1 << 20);
    let log = place.open();
    // As those who follow a log do, for a moment.
    let reader = File::open(&place.settings.path).unwrap();
    assert!(reader.try_lock_shared().is_ok(), "the writer lets readers in");
    drop((reader, log));
}

#[test]
fn a_log_that_somebody_empties_or_moves_is_written_on() {
    let place = place(40);
    let mut file = place.open();
    let line = b"{\"a\":\"0123456789\"}\n"; // two of them fit
    let mut append = || file.append(line, &place.settings).unwrap();
    append();
    append();
    fs::write(&place.settings.path, "").unwrap(); // as `truncate -s 0` and logrotate's copytruncate
    append();
    assert_eq!(place.text().len(), line.len());
    assert!(!place.part(1).exists(), "it is not full");
    fs::remove_file(&place.settings.path).unwrap();
    append();
    assert_eq!(place.text().len(), line.len());
    append();
    append();
    assert_eq!(fs::read(place.part(1)).unwrap().len(), 2 * line.len());
}

#[test]
fn a_log_that_cannot_be_rotated_grows_on() {
    let place = place(40);
    let mut file = place.open();
    // Nothing can be renamed onto a directory that is not empty.
    for number in 1..=3 {
        fs::create_dir_all(place.part(number).join("in the way")).unwrap();
    }
    for _ in 0..4 {
        file.append(b"{\"a\":\"0123456789\"}\n", &place.settings).unwrap();
    }
    assert_eq!(place.text().lines().count(), 4);
    for number in 1..=3 {
        fs::remove_dir_all(place.part(number)).unwrap();
    }
    file.append(b"{}\n", &place.settings).unwrap();
    assert_eq!((place.text().as_str(), place.part(1).exists()), ("{}\n", true));
}

#[test]
fn a_device_is_written_to_and_never_renamed() {
    let settings = LogSettings { path: "/dev/null".into(), ..place(1).settings };
    let mut file = LogFile::open(&settings.path).unwrap();
    for _ in 0..3 {
        file.append(b"{}\n", &settings).unwrap();
    }
    assert!(Path::new("/dev/null").exists() && !Path::new("/dev/null.1").exists());
}
