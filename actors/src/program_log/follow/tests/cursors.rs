//! Readers that come again with the cursor of the last line they have.

use super::*;
use std::os::unix::fs::MetadataExt;

/// The cursor of each line, and of where it began.
fn cursors(news: &[News]) -> Vec<(String, Cursor)> {
    let of = |news: &News| match news {
        News::Line(text, cursor) => Some((text.clone(), cursor.unwrap())),
        News::Begin(cursor) => Some(("[begin]".to_owned(), *cursor)),
        News::Gap => None,
    };
    news.iter().filter_map(of).collect()
}

/// Whoever comes again behind any of these reads what was behind it, and then the rest.
#[track_caller]
fn assert_each_goes_on(path: &Path, kind: Kind, read: &[(String, Cursor)], rest: &[&str]) {
    for (place, (text, cursor)) in read.iter().enumerate() {
        let cursor: Cursor = cursor.to_string().parse().unwrap();
        let mut again = Follower::again(path, kind, cursor, 0);
        let behind = read[place + 1..].iter().map(|(text, _)| text.as_str());
        let want: Vec<&str> = behind.chain(rest.iter().copied()).collect();
        assert_eq!(all(&mut again), want, "behind {text:?}");
    }
}

#[test]
fn it_goes_on_behind_each_line_over_renames() {
    for kind in [Kind::Text, Kind::Records] {
        let (_dir, path) = place();
        write(&path, "0\n1\n2\n3\n");
        let mut follower = Follower::new(&path, kind, 3);
        let mut read = cursors(&news(&mut follower));
        assert_eq!(read[0].0, "[begin]", "before any line it has a place");
        write(&path, "4\nhal");
        read.extend(cursors(&news(&mut follower)));
        assert_each_goes_on(&path, kind, &read, &[]);
        for start in 5..8 {
            rotate(&path, 9).unwrap();
            write(&path, &format!("{start}\n"));
        }
        // Of a record that has no end there is nothing to be told.
        let torn = if kind == Kind::Text { &["hal", "5", "6", "7"][..] } else { &["5", "6", "7"] };
        assert_each_goes_on(&path, kind, &read, torn);
        read.extend(cursors(&news(&mut follower)));
        assert_each_goes_on(&path, kind, &read, &[]);
        // Nothing has been written since, and there is no file for a moment.
        rotate(&path, 9).unwrap();
        assert_each_goes_on(&path, kind, &read, &[]);
        write(&path, "8\n");
        assert_each_goes_on(&path, kind, &read, &["8"]);
    }
}

#[test]
fn what_is_not_kept_any_more_is_a_gap_and_a_new_beginning() {
    let (_dir, path) = place();
    write(&path, "1\n");
    let read = cursors(&news(&mut following(&path, 9)));
    for start in 2..6 {
        rotate(&path, 2).unwrap();
        write(&path, &format!("{start}a\n{start}b\n"));
    }
    let (_, cursor) = &read[0];
    let mut again = Follower::again(&path, Kind::Text, *cursor, 1);
    assert_eq!(all(&mut again), ["[gap]", "5b"]);
    let mut again = Follower::again(&path, Kind::Records, *cursor, 3);
    assert_eq!(all(&mut again), ["[gap]", "4b", "5a", "5b"]);
    // Of another log, of which nothing was written yet.
    let (_dir, other) = place();
    let mut again = Follower::again(&other, Kind::Text, *cursor, 9);
    assert_eq!(all(&mut again), ["[gap]"]);
    write(&other, "x\n");
    assert_eq!(all(&mut again), ["x"]);
}

#[test]
fn an_emptied_file_and_a_number_that_is_used_again_are_not_taken_for_the_old_one() {
    let (_dir, path) = place();
    let alike = "the same line again and again\n";
    write(&path, &alike.repeat(3));
    let (_, cursor) = cursors(&news(&mut following(&path, 9))).pop().unwrap();
    let inode = fs::metadata(&path).unwrap().ino();
    let again = || all(&mut Follower::again(&path, Kind::Text, cursor, 1));
    fs::write(&path, alike.repeat(2)).unwrap();
    assert_eq!(again(), ["[gap]", alike.trim_end()]);
    fs::write(&path, "something else ".repeat(100) + "\n").unwrap();
    assert_eq!(again()[0], "[gap]");
    // The file system gives its number to the next one.
    for _ in 0..100 {
        fs::remove_file(&path).unwrap();
        fs::write(&path, alike.repeat(9)).unwrap();
        if fs::metadata(&path).unwrap().ino() == inode {
            assert_eq!(again(), ["[gap]", alike.trim_end()]);
        }
    }
}

#[test]
fn pieces_of_long_lines_and_carriage_returns_are_places_like_any_other() {
    let (_dir, path) = place();
    let long = "x".repeat(LONGEST_TEXT);
    let mut follower = following(&path, 9);
    let mut read = Vec::new();
    for text in [
        format!("{long}{long}y\n"),
        "a\r\nb\r\r\n 10 %\r 20 %\r".to_owned(),
        "\n\nc\r".to_owned(),
        format!("{long}\n{long}\r\n"),
    ] {
        write(&path, &text);
        read.extend(cursors(&news(&mut follower)));
        assert_each_goes_on(&path, Kind::Text, &read, &[]);
    }
    let texts: Vec<&str> = read.iter().map(|(text, _)| text.as_str()).collect();
    let want = [&long, &long, "y", "a", "b", " 10 %", " 20 %", "", "c", &long, &long];
    assert_eq!(texts, want);
    write(&path, "\n");
    assert_each_goes_on(&path, Kind::Text, &read, &[""]);
    // Within a line that still goes on.
    write(&path, &long.repeat(2));
    read.extend(cursors(&news(&mut follower)));
    write(&path, "z\n");
    assert_each_goes_on(&path, Kind::Text, &read, &[&long, "z"]);
}

/// Whoever was away while a log was shortened in one of these ways.
fn away(how: How, dir: &Path, keep: u32) {
    let Some((_dir, path)) = place_that_can(how, dir) else { return };
    write(&path, &lines(0..3000));
    let read = cursors(&news(&mut following(&path, 2000)));
    for round in 0..3 {
        let first = 3000 + round * 1000;
        shorten(&path, 64 * KIB, keep).unwrap().unwrap();
        write(&path, &lines(first..first + 1000));
    }
    rotate(&path, keep).unwrap();
    write(&path, &lines(6000..6010));
    for (_, cursor) in read.iter().step_by(97).chain(read.last()) {
        let mut again = Follower::again(&path, Kind::Text, *cursor, 0);
        let text = text(&mut again);
        let first: u64 = text[..10].parse().unwrap();
        assert!(text == lines(first..6010), "{how:?}");
        let number = |(text, cursor): &(String, Cursor)| {
            (text != "[begin]").then(|| (*cursor, text[..10].parse::<u64>().unwrap()))
        };
        let known = read.iter().filter_map(number).find(|(known, _)| known == cursor);
        assert_eq!(first, known.map_or(1000, |(_, number)| number + 1), "{how:?}");
    }
}

#[test]
fn whoever_was_away_while_the_log_was_shortened_misses_nothing() {
    away(How::Collapsed, &std::env::temp_dir(), 9);
    away(How::Truncated, Path::new("/dev/shm"), 9);
}

#[test]
fn a_place_is_found_again_although_older_parts_are_gone() {
    let Some((_dir, path)) = place_that_can(How::Collapsed, &std::env::temp_dir()) else { return };
    for start in 0..2 {
        write(&path, &format!("start {start}\n"));
        rotate(&path, 2).unwrap();
    }
    write(&path, &lines(0..3000));
    let read = cursors(&news(&mut following(&path, 100)));
    let (_, cursor) = read.last().unwrap();
    for round in 3..5 {
        shorten(&path, 64 * KIB, 2).unwrap().unwrap();
        write(&path, &lines(round * 1000..(round + 1) * 1000));
    }
    let mut again = Follower::again(&path, Kind::Text, *cursor, 0);
    assert!(text(&mut again) == lines(3000..5000));
    // Where no heads are kept, what stays is found in the file itself.
    let (_dir, path) = place();
    write(&path, &lines(0..3000));
    let read = cursors(&news(&mut following(&path, 100)));
    shorten(&path, 64 * KIB, 0).unwrap().unwrap();
    write(&path, &lines(3000..3010));
    let (_, cursor) = read.last().unwrap();
    let mut again = Follower::again(&path, Kind::Text, *cursor, 0);
    assert!(text(&mut again) == lines(3000..3010));
}

#[test]
fn somebody_slow_is_told_of_the_gap_and_gets_what_is_kept() {
    let Some((_dir, path)) = place_that_can(How::Collapsed, &std::env::temp_dir()) else { return };
    write(&path, &lines(0..3000));
    let mut slow = following(&path, 2990);
    slow.step().unwrap();
    for round in 3..6 {
        shorten(&path, 64 * KIB, 1).unwrap().unwrap();
        write(&path, &lines(round * 1000..(round + 1) * 1000));
    }
    let all = all(&mut slow);
    assert_eq!(all[0], "[gap]");
    let kept = [fs::read(numbered(&path, 1)).unwrap(), fs::read(&path).unwrap()].concat();
    let text: String = all[1..].iter().flat_map(|line| [line.as_str(), "\n"]).collect();
    assert!(text.as_bytes() == kept);
}
