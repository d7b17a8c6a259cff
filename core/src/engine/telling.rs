//! The line of an engine's log that tells why it failed.
//!
//! Owns: the choice among lines. The last line is seldom the one: vLLM ends with a link to a
//! manual, a warning about leaked semaphores, or "see the root cause above" (seen with 0.32;
//! captures in `tests/fixtures/vllm/logs`). Must never do: read a file; its tail is handed in.

/// As much of a log's end is worth reading.
pub const TAIL: u64 = 64 << 10;
/// Longest line that is shown, in characters.
const MAX_SHOWN: usize = 300;

/// Words that name a root cause whatever surrounds them.
const ROOT_CAUSES: [&str; 9] = [
    "out of memory",
    "no available memory",
    "larger than the available kv cache memory",
    "less than desired gpu memory utilization",
    "address already in use",
    "cuda error",
    "no such file or directory",
    "permission denied",
    "modulenotfounderror",
];

/// Exceptions that only say that there was another one.
const WRAPPERS: [&str; 5] = [
    "see root cause above",
    "see stack trace",
    "engine core initialization failed",
    "enginedeaderror",
    "workerproc initialization failed",
];

/// Deaths that are reported without an exception.
const DEATHS: [&str; 3] = ["exited unexpectedly", "died unexpectedly", "killed by signal"];

/// Lines that never tell anything.
const NOISE: [&str; 6] = [
    "for further information visit",
    "resource_tracker",
    "warnings.warn(",
    "during handling of the above exception",
    "the above exception was the direct cause",
    "traceback (most recent call last)",
];

/// How telling a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// Something was printed.
    Plain,
    /// An exception that points to another one.
    Wrapper,
    /// A process of the engine died.
    Death,
    /// An exception.
    Exception,
    /// What a person would look for.
    RootCause,
}

/// The most telling line of a log's tail, the last one of several that are equally telling; where
/// none tells anything, the last that is one.
pub fn telling_line(tail: &str) -> Option<String> {
    most_telling(tail).map(|(_, line)| line)
}

/// The same of an engine that was killed by a signal: it had no time for a last word, so a line that
/// tells of no failure has nothing to do with it.
pub fn telling_line_of_the_killed(tail: &str) -> Option<String> {
    most_telling(tail).filter(|(rank, _)| *rank > Rank::Plain).map(|(_, line)| line)
}

fn most_telling(tail: &str) -> Option<(Rank, String)> {
    let lines: Vec<&str> = tail.lines().collect();
    let mut best: Option<(Rank, String)> = None;
    for (at, line) in lines.iter().enumerate() {
        let Some((rank, text)) = judge(line, &lines[at + 1..]) else { continue };
        if best.as_ref().is_none_or(|(found, _)| rank >= *found) {
            best = Some((rank, text));
        }
    }
    best.map(|(rank, text)| (rank, shorten(&text)))
}

fn judge(line: &str, behind: &[&str]) -> Option<(Rank, String)> {
    let (level, text) = strip_prefixes(line.trim());
    let lower = text.to_lowercase();
    let silent = text.chars().all(|c| !c.is_alphanumeric());
    if silent || NOISE.iter().any(|noise| lower.contains(noise)) || is_link(text) {
        return None;
    }
    let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    let rank = if matches!(level, Some("INFO" | "WARNING" | "DEBUG")) {
        if has(&DEATHS) { Rank::Death } else { Rank::Plain }
    } else if is_source(text) {
        return None;
    } else if has(&WRAPPERS) {
        Rank::Wrapper
    } else if has(&ROOT_CAUSES) {
        Rank::RootCause
    } else if is_exception(text) {
        Rank::Exception
    } else if has(&DEATHS) {
        Rank::Death
    } else {
        Rank::Plain
    };
    Some((rank, with_detail(text, behind)))
}

/// Without `(EngineCore pid=7)` and `ERROR 11-23 04:56:03 [core.py:1]`; the level apart.
fn strip_prefixes(line: &str) -> (Option<&str>, &str) {
    let text = match line.strip_prefix('(').and_then(|rest| rest.split_once(") ")) {
        Some((process, rest)) if process.contains("pid=") => rest,
        _ => line,
    };
    let Some((level, rest)) = text.split_once(' ') else { return (None, text) };
    let bare = level.trim_end_matches(':');
    if !matches!(bare, "INFO" | "WARNING" | "ERROR" | "DEBUG" | "CRITICAL") {
        return (None, text);
    }
    match rest.split_once("] ") {
        Some((place, message)) if place.contains('[') => (Some(bare), message.trim_end()),
        _ => (Some(bare), rest.trim()),
    }
}

/// `some.module.SomeError: what happened`.
fn is_exception(text: &str) -> bool {
    let name = text.split([':', ' ']).next().unwrap_or_default();
    let last = name.rsplit('.').next().unwrap_or_default();
    let named = ["Error", "Exception", "Exit", "Interrupt"].iter().any(|end| last.ends_with(end));
    let is_word = name.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '_'));
    named && is_word && (text.len() == name.len() || text[name.len()..].starts_with(':'))
}

/// A line of a traceback: a place, or the program's text.
fn is_source(text: &str) -> bool {
    text.starts_with("File \"") || text.starts_with("raise ")
}

fn is_link(text: &str) -> bool {
    (text.starts_with("http://") || text.starts_with("https://")) && !text.contains(' ')
}

/// pydantic says "1 validation error for X" and tells in the next line what it is.
fn with_detail(text: &str, behind: &[&str]) -> String {
    let next = behind.first().map(|line| line.trim()).unwrap_or_default();
    if text.contains("validation error") && !next.is_empty() && !next.starts_with("For further") {
        return next.to_owned();
    }
    text.to_owned()
}

fn shorten(text: &str) -> String {
    if text.chars().count() <= MAX_SHOWN {
        return text.to_owned();
    }
    let cut: String = text.chars().take(MAX_SHOWN).collect();
    format!("{cut}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What real vLLM 0.32 wrote, and the line that a person would point at.
    #[test]
    fn real_logs_tell_what_a_person_would_point_at() {
        let cases = [
            (
                include_str!("../../../tests/fixtures/vllm/logs/failed_bad_model_path.log"),
                "huggingface_hub.errors.HFValidationError: Repo id must be in the form 'repo_name' or 'namespace/repo_name': '/srv/tiny/models/does-not-exist'.",
            ),
            (
                include_str!("../../../tests/fixtures/vllm/logs/failed_max_model_len.log"),
                "Value error, User-specified max_model_len (999999) is greater than the derived max_model_len",
            ),
            (
                include_str!("../../../tests/fixtures/vllm/logs/failed_port_in_use.log"),
                "OSError: [Errno 98] Address already in use",
            ),
            (
                include_str!("../../../tests/fixtures/vllm/logs/failed_sleep_mode_cpu.log"),
                "Value error, Sleep mode is not supported on current platform.",
            ),
            (
                include_str!(
                    "../../../tests/fixtures/vllm/logs/ok_start_eager_then_enginecore_sigkill.log"
                ),
                "[shutdown] MPClient: engine core exited unexpectedly; starting cleanup",
            ),
            (
                include_str!("../../../tests/real/vllm/logs/bad_model_path.log"),
                "huggingface_hub.errors.HFValidationError: Repo id must be in the form",
            ),
            (
                include_str!("../../../tests/real/vllm/logs/kv_cache_over_memory.log"),
                "RuntimeError: Worker failed with error 'Available memory on node 0",
            ),
            (
                include_str!("../../../tests/real/vllm/logs/kv_cache_too_small.log"),
                "ValueError: To serve at least one request",
            ),
            (
                include_str!("../../../tests/real/vllm/logs/memory_utilization.log"),
                "ValueError: Available memory on node 0",
            ),
        ];
        for (log, want) in cases {
            let found = telling_line(log).unwrap();
            assert!(found.starts_with(want), "found {found:?}\n want {want:?}");
        }
    }

    #[test]
    fn a_root_cause_goes_before_what_wraps_it_and_before_what_follows() {
        let log = "\
(EngineCore pid=9) ERROR 11-23 04:56:03 [core.py:1] torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.
(EngineCore pid=9) ERROR 11-23 04:56:03 [core.py:2] Traceback (most recent call last):
(APIServer pid=8) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
https://docs.vllm.ai/usage/troubleshooting.html
";
        assert_eq!(
            telling_line(log).unwrap(),
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
        );
    }

    #[test]
    fn without_an_exception_the_last_line_that_says_something_tells() {
        assert_eq!(
            telling_line("loading\nbash: vllm: not found\n\n").unwrap(),
            "bash: vllm: not found"
        );
        assert_eq!(telling_line("INFO:     Shutting down\n----\n").unwrap(), "Shutting down");
        assert_eq!(telling_line(""), None);
        assert_eq!(telling_line("\n  \n====\n"), None);
    }

    #[test]
    fn mentions_of_errors_in_warnings_are_no_exceptions() {
        let log = "WARNING 11-23 05:13:09 [x.py:1] This can cause errors like `OSError: [Errno 24] Too many open files`\nValueError: real\n";
        assert_eq!(telling_line(log).unwrap(), "ValueError: real");
    }

    #[test]
    fn long_lines_are_cut_at_a_character() {
        let line = format!("ValueError: {}", "ü".repeat(1000));
        assert_eq!(telling_line(&line).unwrap().chars().count(), MAX_SHOWN + 1);
    }

    #[test]
    fn the_last_ordinary_line_tells_nothing_of_a_kill() {
        let ready = "INFO:     Application startup complete.\n";
        assert_eq!(telling_line(ready).as_deref(), Some("Application startup complete."));
        assert_eq!(telling_line_of_the_killed(ready), None);
        let oom = format!("torch.OutOfMemoryError: CUDA out of memory.\n{ready}");
        let told = telling_line_of_the_killed(&oom).unwrap();
        assert!(told.contains("out of memory"), "{told}");
    }
}
