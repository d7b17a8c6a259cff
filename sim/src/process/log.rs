//! Owns the engine's log: lines in vLLM's manner on the standard error.
//!
//! The texts are those of the captured logs. Must never write to the standard output, whose
//! one line others read.

use std::io::{self, Write};
use std::time::SystemTime;

use super::habits::Failure;
use crate::calendar::Civil;
use crate::options::Options;

/// What is told from the first moment to the last before an engine is ready.
const LOADING: &str = include_str!("logs/loading.txt");
const OOM: &str = include_str!("logs/oom.txt");
const BAD_PATH: &str = include_str!("logs/bad_path.txt");
const MAX_LEN: &str = include_str!("logs/max_len.txt");
const PORT: &str = include_str!("logs/port.txt");

/// Writes a line. That nobody reads it is no reason to stop.
pub(super) fn say(out: &mut dyn Write, line: &str) {
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Writes lines of vLLM's own logger.
pub(super) fn vllm(process: &str, level: &str, place: &str, lines: &[&str]) {
    let head = format!("({process} pid={}) {level} {} [{place}]", std::process::id(), stamp());
    for line in lines {
        say(&mut io::stderr(), &format!("{head} {line}"));
    }
}

/// Writes lines of the web server.
pub(super) fn uvicorn(lines: &[&str]) {
    for line in lines {
        say(&mut io::stderr(), &format!("INFO:     {line}"));
    }
}

/// Writes a line as an Ollama does.
pub(super) fn ollama(message: &str) {
    let time = crate::ollama::now();
    say(&mut io::stderr(), &format!("time={time} level=INFO source=routes.go msg={message:?}"));
}

/// Writes the last line of a failure of the system.
pub(super) fn error(error: &io::Error) {
    let text = error.to_string();
    let line = match (error.raw_os_error(), text.split_once(" (os error")) {
        (Some(number), Some((text, _))) => format!("OSError: [Errno {number}] {text}"),
        _ => format!("OSError: {text}"),
    };
    say(&mut io::stderr(), &line);
}

/// The lines of a start, in their order.
pub(super) fn loading(options: &Options) -> Vec<String> {
    LOADING.lines().map(|line| filled(line, options)).collect()
}

/// Writes a line of a start. Its time is now.
pub(super) fn loading_line(line: &str) {
    say(&mut io::stderr(), &line.replace("{time}", &stamp()));
}

/// Writes the log of a start that fails.
pub(super) fn failure(failure: Failure, options: &Options) {
    let text = match failure {
        Failure::Oom => OOM,
        Failure::BadPath => BAD_PATH,
        Failure::MaxLen => MAX_LEN,
        Failure::Port => PORT,
    };
    for line in text.lines() {
        loading_line(&filled(line, options));
    }
}

/// A line with what is known before it is written.
fn filled(line: &str, options: &Options) -> String {
    let served = options.served.first().map_or("", String::as_str);
    line.replace("{pid}", &std::process::id().to_string())
        .replace("{model}", &options.root)
        .replace("{served}", served)
        .replace("{host}", &options.host)
        .replace("{port}", &options.port.to_string())
        .replace("{len}", &options.max_model_len.to_string())
}

/// The time as vLLM's logger writes it: `11-23 05:13:09`.
fn stamp() -> String {
    let Civil { month, day, hour, minute, second, .. } = Civil::at(SystemTime::now());
    format!("{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_place_in_a_text_stays_empty() {
        let options = Options::default();
        for text in [LOADING, OOM, BAD_PATH, MAX_LEN, PORT] {
            for line in text.lines() {
                let line = filled(line, &options).replace("{time}", &stamp());
                for place in ["{pid}", "{model}", "{served}", "{port}", "{len}", "{time}"] {
                    assert!(!line.contains(place), "{line}");
                }
            }
        }
    }
}
