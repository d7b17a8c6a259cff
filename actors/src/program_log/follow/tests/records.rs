//! The request log: JSON lines, rotated by renaming, read as a whole and on.

use super::*;
use std::thread::scope;

fn excerpt(path: &Path, lines: usize) -> std::io::Result<Vec<String>> {
    let (mut excerpt, mut all) = (Excerpt::new(path, Kind::Records, lines), Vec::new());
    while let Some(lines) = excerpt.step()? {
        all.extend(lines);
    }
    Ok(all)
}

#[test]
fn the_last_lines_come_from_all_parts() {
    let (_dir, path) = place();
    assert_eq!(excerpt(&path, 9).unwrap_err().kind(), std::io::ErrorKind::NotFound);
    append(&path);
    assert_eq!(excerpt(&path, 9).unwrap_err().kind(), std::io::ErrorKind::NotFound);
    for part in 0..4 {
        write(&path, &format!("{{\"n\":{part}0}}\n{{\"n\":{part}1}}\n"));
        rotate(&path, 9).unwrap();
    }
    let numbers = |lines| {
        let numbers = excerpt(&path, lines).unwrap();
        numbers.iter().map(|line| line[5..line.len() - 1].to_owned()).collect::<Vec<_>>().join(" ")
    };
    let all = "00 01 10 11 20 21 30 31";
    for (lines, want) in
        [(0, ""), (1, "31"), (2, "30 31"), (3, "21 30 31"), (7, &all[3..]), (99, all)]
    {
        assert_eq!(numbers(lines), want, "where the newest is about to be made, {lines}");
    }
    write(&path, "{\"n\":40}\n{\"n\":4");
    for (lines, want) in [(0, ""), (1, "40"), (2, "31 40"), (99, &format!("{all} 40"))] {
        assert_eq!(numbers(lines), want, "{lines}");
    }
    let mut follower = Follower::new(&path, Kind::Records, 2);
    assert_eq!(all_of(&mut follower), "{\"n\":31} {\"n\":40}");
    write(&path, "1}\n");
    assert_eq!(all_of(&mut follower), "{\"n\":41}");
}

fn all_of(follower: &mut Follower) -> String {
    all(follower).join(" ")
}

#[test]
fn an_excerpt_ends_where_the_log_ended_when_it_began() {
    let (_dir, path) = place();
    let line = format!("{{\"text\":\"{}\"}}\n", "x".repeat(STEP / 3));
    write(&path, &line.repeat(9));
    let mut excerpt = Excerpt::new(&path, Kind::Records, 9);
    let mut count = excerpt.step().unwrap().unwrap().len();
    for _ in 0..3 {
        write(&path, &line);
        rotate(&path, 9).unwrap();
    }
    while let Some(lines) = excerpt.step().unwrap() {
        count += lines.len();
        write(&path, &line);
    }
    assert_eq!(count, 9);
}

#[test]
fn a_part_of_a_line_that_was_taken_back_is_not_told() {
    let (_dir, path) = place();
    write(&path, "{\"n\":1}\n");
    let mut follower = Follower::new(&path, Kind::Records, 9);
    assert_eq!(all_of(&mut follower), "{\"n\":1}");
    write(&path, "{\"n\":2,\"lo");
    assert_eq!(all_of(&mut follower), "");
    append(&path).set_len(8).unwrap();
    assert_eq!(all_of(&mut follower), "");
    write(&path, "{\"n\":3}\n{\"n\":4}\n");
    assert_eq!(all_of(&mut follower), "{\"n\":3} {\"n\":4}");
    // And when it is longer again before anybody looks.
    write(&path, "{\"n\":5,\"lo");
    all(&mut follower);
    append(&path).set_len(24).unwrap();
    write(&path, &"{\"n\":6}\n".repeat(9));
    assert_eq!(all(&mut follower), ["{\"n\":6}"; 9]);
}

#[test]
fn whoever_writes_it_may_lock_it() {
    let (_dir, path) = place();
    write(&path, "1\n2\n");
    let writer = File::open(&path).unwrap();
    writer.lock().unwrap();
    assert_eq!(excerpt(&path, 1).unwrap(), ["2"]);
    assert_eq!(all(&mut Follower::new(&path, Kind::Records, 1)), ["2"]);
    // Nor does a reader keep him from it.
    writer.unlock().unwrap();
    let mut follower = Follower::new(&path, Kind::Records, 9);
    follower.step().unwrap();
    writer.try_lock().unwrap();
}

#[test]
fn somebody_slow_gets_all_that_is_kept_in_its_order() {
    let (_dir, path) = place();
    write(&path, "0\n");
    let mut slow = Follower::new(&path, Kind::Records, 9);
    assert_eq!(all(&mut slow), ["0"]);
    write(&path, "rest\n");
    // What an earlier, larger number has left is none of it.
    write(&numbered(&path, 5), "stale\n");
    let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(9);
    append(&numbered(&path, 5)).set_modified(old).unwrap();
    for start in 1..9 {
        rotate(&path, 4).unwrap();
        write(&path, &format!("{start}\n"));
    }
    assert_eq!(all(&mut slow), ["rest", "[gap]", "4", "5", "6", "7", "8"]);
    assert_eq!(all(&mut slow), [""; 0]);
}

#[test]
fn none_is_missed_while_files_move_all_the_time() {
    let (_dir, path) = place();
    append(&path);
    let mut follower = Follower::new(&path, Kind::Records, 0);
    assert_eq!(all(&mut follower), [""; 0], "all of it is new");
    let done = AtomicBool::new(false);
    scope(|scope| {
        let writing = scope.spawn(|| {
            for number in 0..4000 {
                if number % 5 == 0 && number > 0 {
                    rotate(&path, 900).unwrap();
                }
                write(&path, &format!("{number}\n"));
            }
            done.store(true, Ordering::Relaxed);
        });
        let (mut next, mut cuts) = (0, 0);
        while next < 4000 {
            assert!(!writing.is_finished() || done.load(Ordering::Relaxed), "the writer failed");
            for news in follower.step().unwrap().news {
                let News::Line(text, cursor) = news else {
                    assert!(!matches!(news, News::Gap), "a gap at {next}");
                    continue;
                };
                assert_eq!(text, next.to_string());
                next += 1;
                if next % 7 == 0 {
                    // What else has come is not heard.
                    follower = Follower::again(&path, Kind::Records, cursor.unwrap(), 0);
                    cuts += 1;
                    break;
                }
            }
        }
        assert_eq!(cuts, 4000 / 7);
    });
}
