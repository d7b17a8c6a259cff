//! Any history of writes, renames, shortenings and readers that come again: what is read, put
//! together, is what was written.

use super::*;
use std::time::Instant;

/// Numbers by chance, the same ones for a seed (xorshift64*).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}

/// A log, whoever writes it, and whoever reads it.
struct History {
    chance: Chance,
    path: std::path::PathBuf,
    number: u64,
    written: String,
    read: String,
    last: Option<Cursor>,
    reader: Follower,
    done: Vec<&'static str>,
}

impl History {
    fn begin(path: &Path, seed: u64) -> Self {
        append(path);
        let chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut reader = following(path, 0);
        assert_eq!(all(&mut reader), [""; 0]);
        let (written, read) = (String::new(), String::new());
        let path = path.to_owned();
        History { chance, path, number: 0, written, read, last: None, reader, done: Vec::new() }
    }

    /// Whole lines, some of which come in pieces.
    fn write(&mut self, ends: &[&str]) {
        for _ in 0..=self.chance.below(400) {
            let mut text = match self.chance.below(500) {
                0 => format!("{} {}", self.number, "long ".repeat(30_000)),
                _ => line(self.number).trim_end().to_owned(),
            };
            self.number += 1;
            text.push_str(ends[usize::try_from(self.chance.below(ends.len() as u64)).unwrap()]);
            write(&self.path, &text);
            self.written.push_str(&text);
        }
    }

    /// Some steps; what is behind a line by chance is not heard, and the reader comes again.
    fn read(&mut self) {
        for _ in 0..=self.chance.below(4) {
            let step = self.reader.step().unwrap();
            let heard = usize::try_from(self.chance.below(step.news.len() as u64 * 2 + 1)).unwrap();
            // Whoever has heard nothing has no place to come again to.
            let heard = if self.last.is_none() { step.news.len() } else { heard };
            let cut = heard < step.news.len();
            for news in step.news.into_iter().take(heard) {
                self.hear(news);
            }
            if let Some(cursor) = self.last
                && (cut || self.chance.below(4) == 0)
            {
                let cursor = cursor.to_string().parse().unwrap();
                self.reader = Follower::again(&self.path, Kind::Text, cursor, 100);
            }
        }
    }

    fn hear(&mut self, news: News) {
        match news {
            News::Line(text, cursor) => {
                self.read.push_str(&text);
                self.last = cursor;
            }
            News::Begin(cursor) => self.last = Some(cursor),
            News::Gap => panic!("a gap; {:?}", self.done),
        }
    }

    fn go_on(&mut self, ends: &[&str]) {
        let done = match self.chance.below(8) {
            0..3 => {
                self.write(ends);
                "write"
            }
            3 => {
                rotate(&self.path, 999).unwrap();
                append(&self.path);
                "rename"
            }
            4 => {
                shorten(&self.path, 64 * KIB, 999).unwrap();
                "shorten"
            }
            _ => {
                self.read();
                "read"
            }
        };
        self.done.push(done);
    }

    fn end(mut self, seed: u64) {
        for news in news(&mut self.reader) {
            self.hear(news);
        }
        let written: String = self.written.chars().filter(|c| !"\r\n".contains(*c)).collect();
        assert!(
            self.read == written,
            "seed {seed}: {} of {} bytes, equal up to {:?}; {:?}",
            self.read.len(),
            written.len(),
            self.read.bytes().zip(written.bytes()).position(|(a, b)| a != b),
            self.done
        );
    }
}

fn histories(how: How, dir: &Path, ends: &[&str]) {
    let begun = Instant::now();
    let count = std::env::var("IMAGEWORKS_HISTORIES").map_or(25, |n| n.parse().unwrap());
    for seed in 1..=count {
        let Some((_dir, path)) = place_that_can(how, dir) else { return };
        let mut history = History::begin(&path, seed);
        for _ in 0..80 {
            history.go_on(ends);
        }
        history.end(seed);
        if begun.elapsed().as_secs() > 60 && std::env::var_os("IMAGEWORKS_HISTORIES").is_none() {
            break; // a slow machine
        }
    }
}

#[test]
fn what_is_read_is_what_was_written_where_heads_are_taken_out() {
    histories(How::Collapsed, &std::env::temp_dir(), &["\n"]);
}

#[test]
fn what_is_read_is_what_was_written_where_files_are_emptied() {
    histories(How::Truncated, Path::new("/dev/shm"), &["\n"]);
}

#[test]
fn what_is_read_is_what_was_written_with_all_ends_of_lines() {
    histories(How::Collapsed, &std::env::temp_dir(), &["\n", "\r\n", "\r"]);
}
