//! What is said while something takes its time.
//!
//! Owns: one line of a terminal that is written over, or plain lines where stderr is none. Must
//! never do: write to stdout, or let what an engine writes move the cursor.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use unicode_width::UnicodeWidthChar;

use super::output::is_screen;
use super::table::shown;
use crate::terminal::say;

/// The line is drawn anew this often.
pub(super) const BEAT: Duration = Duration::from_millis(125);
const TURNS: [char; 4] = ['|', '/', '-', '\\'];
/// Where a terminal does not say how wide it is.
const USUAL_WIDTH: usize = 80;

/// See the module.
pub(super) struct Progress {
    is_screen: bool,
    began: Instant,
    drawn: bool,
    turn: usize,
    state: String,
    last: String,
}

impl Progress {
    pub(super) fn begin() -> Self {
        Progress {
            is_screen: is_screen(&io::stderr()),
            began: Instant::now(),
            drawn: false,
            turn: 0,
            state: String::new(),
            last: String::new(),
        }
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// How things stand; said once on paper.
    pub(super) fn state(&mut self, text: &str) {
        if self.state == text {
            return;
        }
        text.clone_into(&mut self.state);
        if !self.is_screen {
            say(&mut io::stderr(), &format!("{:>8}  {}", spoken(self.elapsed()), shown(text)));
        }
    }

    /// A line that the engine has written.
    pub(super) fn log(&mut self, line: &str) {
        let line = shown(line);
        if line.trim().is_empty() {
            return;
        }
        if !self.is_screen {
            say(&mut io::stderr(), &format!("{:>8}  | {line}", spoken(self.elapsed())));
        }
        message(&line).clone_into(&mut self.last);
    }

    /// Draws the line anew.
    pub(super) fn tick(&mut self) {
        if !self.is_screen {
            return;
        }
        let width = terminal_size::terminal_size_of(io::stderr());
        let width = width.map_or(USUAL_WIDTH, |(width, _)| usize::from(width.0));
        self.turn += 1;
        let turn = TURNS[self.turn % TURNS.len()];
        let line = frame(turn, self.elapsed(), &self.state, &self.last, width);
        self.draw(&line);
        self.drawn = true;
    }

    /// Nothing of it stays.
    fn clear(&mut self) {
        if self.drawn {
            self.draw("");
            self.drawn = false;
        }
    }

    #[allow(clippy::unused_self)] // only who has the line draws on it
    fn draw(&self, line: &str) {
        let mut err = io::stderr().lock();
        // Whoever closed it does not want to see it.
        let _ = write!(err, "\r\x1b[K{line}").and_then(|()| err.flush());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

/// A line without what vLLM's logger writes before each: process, level, time, file.
fn message(line: &str) -> &str {
    let behind = line.starts_with('(').then(|| line.split_once("] ")).flatten();
    behind.map_or(line, |(_, message)| message)
}

/// The line; never as wide as the terminal, or it would be two.
fn frame(turn: char, elapsed: Duration, state: &str, last: &str, width: usize) -> String {
    let log = if last.is_empty() { String::new() } else { format!("  | {last}") };
    let line = format!("{turn} {}  {}{log}", spoken(elapsed), shown(state));
    let mut room = width.saturating_sub(1);
    let fits = |c: &char| {
        let wide = c.width().unwrap_or(0);
        let fits = wide <= room;
        room = room.saturating_sub(wide);
        fits
    };
    line.chars().take_while(fits).collect()
}

/// A time for people.
pub(super) fn spoken(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{}.{} s", seconds, time.subsec_millis() / 100),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_fits_into_the_terminal() {
        let after = Duration::from_millis(12_345);
        let line = |last, width| frame('/', after, "the engine of tiny-a loads", last, width);
        insta::assert_snapshot!(line("", 80), @"/ 12.3 s  the engine of tiny-a loads");
        insta::assert_snapshot!(line("INFO loading weights", 60), @"/ 12.3 s  the engine of tiny-a loads  | INFO loading weight");
        assert_eq!(line("大大大大大大", 45).chars().count(), 42, "none is cut in two");
        assert_eq!(line("x", 0), "");
    }

    #[test]
    fn what_stands_before_a_message_is_left_out() {
        let line = "(EngineCore pid=7) INFO 12-01 02:58:25 [core.py:133] Initializing [a] engine";
        assert_eq!(message(line), "Initializing [a] engine");
        for whole in ["INFO:     Started", "(a) b", "Loading shards: [00:01] 3"] {
            assert_eq!(message(whole), whole);
        }
    }

    #[test]
    fn times_are_spoken() {
        let spoken_of = |seconds| spoken(Duration::from_millis(seconds));
        let times = [0, 4_210, 59_999, 60_000, 3_599_000, 3_600_000, 90_061_000];
        let all: Vec<String> = times.into_iter().map(spoken_of).collect();
        insta::assert_snapshot!(all.join(", "), @"0.0 s, 4.2 s, 59.9 s, 1 min 0 s, 59 min 59 s, 1 h 0 min, 1 d 1 h");
    }
}
