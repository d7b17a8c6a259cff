//! Running the program: to its end, or beside the test.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::daemon::PROGRAM;
use crate::support::{BOUND, Daemon, eventually};

/// The program, in a daemon's directory and with its settings.
pub struct Models {
    dir: PathBuf,
    env: Vec<(String, String)>,
}

/// What it has said, and how it ended.
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// One that runs. Killed when dropped.
pub struct Running {
    child: Child,
    out: mpsc::Receiver<String>,
    err: mpsc::Receiver<String>,
}

impl Models {
    pub fn of(daemon: &Daemon) -> Self {
        Models::at(&daemon.path(""))
    }

    /// In any directory that has settings.
    pub fn at(dir: &Path) -> Self {
        Models { dir: dir.to_owned(), env: Vec::new() }
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    fn command(&self, program: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(args)
            .current_dir(&self.dir)
            .env_clear()
            .env("CHAT_PROXY_CONFIG_FILE", "chat_proxy.toml")
            .envs(self.env.iter().cloned())
            .stdin(Stdio::null());
        command
    }

    /// By its own name, which is a link to the daemon's.
    pub fn named(&self, args: &[&str]) -> Command {
        let link = self.dir.join("imageworks-models");
        if !link.exists() {
            symlink(PROGRAM, &link).expect("a link");
        }
        self.command(&link, args)
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        ran(self.named(args))
    }

    pub fn run_as_subcommand(&self, args: &[&str]) -> Ran {
        ran(self.command(Path::new(PROGRAM), &[&["models"], args].concat()))
    }

    pub fn begin(&self, args: &[&str]) -> Running {
        let mut command = self.named(args);
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program");
        let out = lines(child.stdout.take().expect("stdout"));
        let err = lines(child.stderr.take().expect("stderr"));
        Running { child, out, err }
    }
}

fn ran(mut command: Command) -> Ran {
    let output = command.output().expect("the program");
    let text = |bytes| String::from_utf8(bytes).expect("a text");
    Ran { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

fn lines(stream: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    lines
}

impl Ran {
    /// What it has said, where all went well.
    #[track_caller]
    pub fn out(&self) -> &str {
        assert_eq!(self.code, Some(0), "{}{}", self.stdout, self.stderr);
        &self.stdout
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(self.out()).unwrap_or_else(|e| panic!("{e}: {}", self.stdout))
    }

    /// It ended with this code, said so on stderr, and nothing on stdout.
    #[track_caller]
    pub fn failed(&self, code: i32, says: &str) {
        assert_eq!(self.code, Some(code), "{}{}", self.stdout, self.stderr);
        assert!(
            self.stderr.lines().any(|l| l.starts_with("error: ") && l.contains(says)),
            "{}",
            self.stderr
        );
        assert_eq!(self.stdout, "");
    }
}

impl Running {
    /// The next line on stdout that holds this text.
    #[track_caller]
    pub fn until(&self, text: &str) -> String {
        until(&self.out, text)
    }

    /// The same on stderr.
    #[track_caller]
    pub fn until_err(&self, text: &str) -> String {
        until(&self.err, text)
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        kill(Pid::from_raw(pid), signal).expect("a living program");
    }

    /// Its exit code when it has ended, and what else it has said on stdout.
    #[track_caller]
    pub fn end(mut self) -> (Option<i32>, Vec<String>) {
        let status = eventually("it ends", BOUND, || self.child.try_wait().expect("wait"));
        let mut rest = Vec::new();
        while let Ok(line) = self.out.recv_timeout(BOUND) {
            rest.push(line);
        }
        (status.code(), rest)
    }
}

#[track_caller]
fn until(lines: &mpsc::Receiver<String>, text: &str) -> String {
    let mut passed = Vec::new();
    loop {
        match lines.recv_timeout(BOUND) {
            Ok(line) if line.contains(text) => return line,
            Ok(line) => passed.push(line),
            Err(error) => panic!("{error}: {text:?} did not come; but {passed:#?}"),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Times, and the numbers of columns that differ each time, are left out.
pub fn masked(text: &str) -> String {
    let mut all = String::new();
    for line in text.lines() {
        let mut words: Vec<String> = Vec::new();
        for word in line.split_whitespace() {
            let is_number = word.trim_start_matches('(').parse::<f64>().is_ok();
            match word {
                "s" | "s)" if words.last().is_some_and(|last| last.contains('#')) => {
                    let last = words.pop().unwrap_or_default();
                    words.push(last.replace('#', "[time]") + word.trim_start_matches('s'));
                }
                _ if is_number && word.len() > 1 => {
                    words.push(if word.starts_with('(') { "(#" } else { "#" }.to_owned());
                }
                _ => words.push(word.to_owned()),
            }
        }
        all.push_str(&words.join(" "));
        all.push('\n');
    }
    all
}
