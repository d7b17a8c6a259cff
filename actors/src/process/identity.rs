//! Which process is which.
//!
//! Owns: reading `/proc/PID/stat`, command lines and environments. Must never do: wait, signal.

use std::fs;
use std::io;

use chat_proxy_core::engine::state_file::Process;

/// What `/proc/PID/stat` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// `R`, `S`, `D`, `Z`, …
    pub state: char,
    /// Its parent.
    pub parent: i32,
    /// Its process group.
    pub group: i32,
    /// Its session.
    pub session: i32,
    /// Clock ticks since the boot at which it was started.
    pub start_time: u64,
}

impl Stat {
    /// Neither a zombie nor on its way out.
    pub fn lives(self) -> bool {
        !matches!(self.state, 'Z' | 'X' | 'x')
    }
}

/// The process now; `None` if there is none of that number.
pub fn stat(pid: i32) -> Option<Stat> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Fields are counted behind the last `)`: a program's name may hold anything, brackets too.
fn parse(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?; // field 3
    let parent = fields.next()?.parse().ok()?; // field 4
    let group = fields.next()?.parse().ok()?; // field 5
    let session = fields.next()?.parse().ok()?; // field 6
    let start_time = fields.nth(15)?.parse().ok()?; // field 22
    Some(Stat { state, parent, group, session, start_time })
}

/// The process of that number as one that cannot be mistaken for a later one.
pub fn identify(pid: i32) -> Option<Process> {
    stat(pid).map(|stat| Process { pid, start_time: stat.start_time })
}

/// Whether this very process still lives.
pub fn is_alive(process: Process) -> bool {
    stat(process.pid).is_some_and(|stat| stat.start_time == process.start_time && stat.lives())
}

/// The machine's boot: start times of another one mean nothing.
pub fn boot_id() -> io::Result<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|text| text.trim().to_owned())
}

/// The words of a process's command line, as it shows them.
pub fn command_line(pid: i32) -> Vec<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect()
}

/// A process for people: pid and command line, without what looks like a secret.
pub fn describe(pid: i32) -> String {
    let line: String = without_secrets(command_line(pid)).join(" ").chars().take(200).collect();
    if line.is_empty() { format!("pid {pid}") } else { format!("pid {pid} ({line})") }
}

/// Words of flags whose values are nobody's business.
const SECRETS: [&str; 5] = ["key", "token", "secret", "password", "auth"];

/// `--api-key sk-1` and `--api-key=sk-1` without the key: clients read of strangers on our port.
fn without_secrets(words: Vec<String>) -> Vec<String> {
    let secret = |flag: &str| {
        let flag = flag.to_ascii_lowercase();
        flag.starts_with('-') && SECRETS.iter().any(|word| flag.contains(word))
    };
    let mut behind_secret = false;
    let hide = |word: String| match word.split_once('=') {
        Some((flag, _)) if secret(flag) => format!("{flag}=…"),
        _ => {
            let hidden = behind_secret && !word.starts_with('-');
            behind_secret = secret(&word) && !word.contains('=');
            if hidden { "…".to_owned() } else { word }
        }
    };
    words.into_iter().map(hide).collect()
}

/// A variable of the environment that the process was started with. Engines may overwrite theirs,
/// so a `None` proves nothing.
pub fn variable(pid: i32, name: &str) -> Option<String> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let value =
        |pair: &[u8]| Some(pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?.to_vec());
    let value = environment.split(|byte| *byte == 0).find_map(value)?;
    String::from_utf8(value).ok()
}

/// All processes there are.
pub fn all() -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        let text = "7 (a) b (x)) S 1 42 41 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2 3";
        assert_eq!(
            parse(text),
            Some(Stat { state: 'S', parent: 1, group: 42, session: 41, start_time: 987_654 })
        );
        assert_eq!(parse("7 (a"), None);
    }

    #[test]
    fn secrets_on_a_command_line_are_not_repeated() {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let line = "vllm serve m --api-key sk-1 --port 8 --HF-Token=x --max-tokens 9 --key --flag";
        let shown = without_secrets(words(line)).join(" ");
        assert_eq!(
            shown,
            "vllm serve m --api-key … --port 8 --HF-Token=… --max-tokens … --key --flag"
        );
    }

    #[test]
    fn we_know_ourselves() {
        let me = i32::try_from(std::process::id()).unwrap();
        let process = identify(me).unwrap();
        assert!(is_alive(process));
        assert!(!is_alive(Process { start_time: process.start_time + 1, ..process }));
        assert!(all().contains(&me));
        assert!(describe(me).starts_with(&format!("pid {me} (")));
        assert!(!boot_id().unwrap().is_empty());
    }
}
