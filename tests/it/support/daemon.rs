//! The real binary as a process, in a directory and an environment of its own.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use chat_proxy_actors::process::inherit;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{BOUND, Upstream, eventually};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_imageworks-chat-proxy");
const REGISTRY: &str = "registry/model_registry.curated.json";
const LOG: &str = "logs/chat.jsonl";

/// A daemon to be started.
pub struct Setup {
    dir: TempDir,
    settings: BTreeMap<String, BTreeMap<String, String>>,
    text: Option<String>,
    env: Vec<(String, OsString)>,
    entries: Vec<Value>,
    /// A program that runs the daemon.
    through: Vec<String>,
    /// Sockets that the service manager has opened.
    sockets: Vec<TcpListener>,
    /// The program, where it is called by a path of its own.
    program: String,
}

/// What a program that ended has left.
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub dir: TempDir,
}

/// An entry for an OpenAI-compatible backend at `upstream`.
pub fn entry(name: &str, upstream: &Upstream) -> Value {
    json!({
        "name": name,
        "backend": "openai",
        "backend_config": {"base_url": upstream.base_url()},
        "served_model_id": format!("served/{name}"),
    })
}

impl Setup {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let setup = Setup {
            dir,
            settings: BTreeMap::new(),
            text: None,
            env: Vec::new(),
            entries: Vec::new(),
            through: Vec::new(),
            sockets: Vec::new(),
            program: PROGRAM.to_owned(),
        };
        setup
            .set("server", "port", 0)
            .set("server", "registry_dir", "\"registry\"")
            .set("server", "log_path", format!("{LOG:?}"))
            // Never the Ollama that whoever runs the tests may have.
            .set("ollama", "ollama_base_url", "\"http://127.0.0.1:1\"")
    }

    /// A daemon with one model, `tiny-a`, at `upstream`.
    pub fn with(upstream: &Upstream) -> Self {
        Setup::new().entry(entry("tiny-a", upstream))
    }

    /// One setting, its value as TOML.
    pub fn set(mut self, section: &str, key: &str, value: impl ToString) -> Self {
        self.settings.entry(section.into()).or_default().insert(key.into(), value.to_string());
        self
    }

    /// The whole settings file, instead of single settings.
    pub fn text(mut self, text: &str) -> Self {
        self.text = Some(text.to_owned());
        self
    }

    pub fn env(self, name: &str, value: &str) -> Self {
        self.env_os(name, value.into())
    }

    pub fn env_os(mut self, name: &str, value: OsString) -> Self {
        self.env.push((name.into(), value));
        self
    }

    pub fn entry(mut self, entry: Value) -> Self {
        self.entries.push(entry);
        self
    }

    /// Has the daemon run by a program that becomes it: its arguments come behind these.
    pub fn through(mut self, program: &[&str]) -> Self {
        self.through = program.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Has the program called by this path.
    pub fn called(mut self, path: &Path) -> Self {
        self.program = path.display().to_string();
        self
    }

    /// A socket that was opened for the daemon, as systemd does for a unit with a socket.
    pub fn socket(mut self, socket: TcpListener) -> Self {
        self.sockets.push(socket);
        self
    }

    /// A path in the directory that the daemon will have.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        if self.sockets.is_empty() {
            return self.begun(args, &self.through);
        }
        // The number of the process is known to itself alone.
        let says = format!("LISTEN_FDS={} LISTEN_PID=$$ exec \"$@\"", self.sockets.len());
        let through = ["sh", "-c", &says, "sh"].map(str::to_owned);
        let mut command = self.begun(args, &[&through, &self.through[..]].concat());
        inherit::give(&mut command, &self.sockets).expect("descriptors");
        command
    }

    fn begun(&self, args: &[&str], through: &[String]) -> Command {
        let dir = self.dir.path();
        let mut text = String::new();
        for (section, keys) in &self.settings {
            text.push_str(&format!("[{section}]\n"));
            for (key, value) in keys {
                text.push_str(&format!("{key} = {value}\n"));
            }
        }
        fs::write(dir.join("chat_proxy.toml"), self.text.as_ref().unwrap_or(&text))
            .expect("settings");
        fs::create_dir_all(dir.join("registry")).expect("a directory");
        fs::write(dir.join(REGISTRY), Value::from(self.entries.clone()).to_string())
            .expect("registry");
        match through.split_first() {
            None => begun_in(&self.program, dir, args, &self.env),
            Some((program, more)) => {
                let more: Vec<&str> =
                    more.iter().map(String::as_str).chain([&*self.program]).collect();
                let mut command = begun_in(program, dir, &[&more, args].concat(), &self.env);
                command.env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin");
                command
            }
        }
    }

    /// Starts the daemon and waits until it listens.
    #[track_caller]
    pub fn start(self) -> Daemon {
        let (child, lines) = begin(self.command(&[]));
        let (dir, env) = (self.dir, self.env);
        let mut daemon = Daemon {
            child,
            addr: None,
            lines: Mutex::new(lines),
            dir,
            env,
            exit: None,
            heir: None,
        };
        daemon.wait_listens();
        daemon
    }

    /// Runs a program that is to end by itself.
    pub fn run(self, args: &[&str]) -> Ended {
        let stdout = File::create(self.dir.path().join("stdout")).expect("a file");
        let mut child = self.command(args).stdout(stdout).spawn().expect("the program");
        let status = eventually("the program ends", BOUND, || child.try_wait().expect("wait"));
        let read = |name: &str| fs::read_to_string(self.dir.path().join(name)).expect("output");
        let (stdout, stderr) = (read("stdout"), read("stderr"));
        Ended { code: status.code(), stdout, stderr, dir: self.dir }
    }
}

/// The program in a directory that has its settings. What it says goes behind what was said there.
fn program_in(dir: &Path, args: &[&str], env: &[(String, OsString)]) -> Command {
    begun_in(PROGRAM, dir, args, env)
}

fn begun_in(program: &str, dir: &Path, args: &[&str], env: &[(String, OsString)]) -> Command {
    let mut options = File::options();
    let stderr = options.create(true).append(true).open(dir.join("stderr")).expect("a file");
    let mut command = Command::new(program);
    command
        .args(args)
        .current_dir(dir)
        .env_clear()
        .env("CHAT_PROXY_CONFIG_FILE", "chat_proxy.toml")
        .envs(env.iter().cloned())
        .stdin(Stdio::null())
        .stderr(stderr);
    command
}

/// Starts a daemon; its lines on stdout come as they are said.
fn begin(mut command: Command) -> (Child, mpsc::Receiver<String>) {
    let mut child = command.stdout(Stdio::piped()).spawn().expect("the program");
    let stdout = BufReader::new(child.stdout.take().expect("stdout"));
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in stdout.lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    (child, lines)
}

/// A running daemon; killed when dropped.
pub struct Daemon {
    child: Child,
    addr: Option<SocketAddr>,
    lines: Mutex<mpsc::Receiver<String>>,
    dir: TempDir,
    env: Vec<(String, OsString)>,
    exit: Option<ExitStatus>,
    /// The process that has taken over from the one that was started.
    heir: Option<Pid>,
}

impl Daemon {
    #[track_caller]
    fn wait_listens(&mut self) {
        let lines = self.lines.get_mut().expect("unpoisoned");
        let line = lines.recv_timeout(BOUND).expect("the daemon listens");
        let url = line.strip_prefix("listening on ");
        let addr = url.and_then(|url| url.split_once("://")?.1.parse().ok());
        self.addr = Some(addr.unwrap_or_else(|| panic!("the first line is {line:?}")));
    }

    /// SIGKILL: without a last word.
    pub fn kill(&mut self) {
        self.child.kill().expect("a living daemon");
        self.exit = Some(self.child.wait().expect("its end"));
    }

    /// Has the daemon hand over to a new one; gives the numbers of both processes. `heir` learns who that is.
    #[track_caller]
    pub fn upgrade(&mut self, heir: impl FnOnce() -> i32) -> (Pid, Pid) {
        let old = self.main();
        kill(old, Signal::SIGUSR2).expect("a living daemon");
        let new = Pid::from_raw(heir());
        assert_ne!(old, new, "nobody took over");
        self.heir = Some(new);
        (old, new)
    }

    /// The same, where the daemon's log tells who that is.
    #[track_caller]
    pub fn upgrade_by_its_log(&mut self) -> (Pid, Pid) {
        let heirs = |text: &str| -> Vec<i32> {
            let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let serves = lines.filter(|line| line["fields"]["message"] == "the new daemon serves");
            serves.filter_map(|line| line["fields"]["pid"].as_i64()?.try_into().ok()).collect()
        };
        let (log, before) = (self.path("stderr"), heirs(&self.stderr()).len());
        self.upgrade(|| {
            eventually("a new daemon serves", BOUND, || {
                heirs(&fs::read_to_string(&log).unwrap_or_default()).get(before).copied()
            })
        })
    }

    /// The process that serves.
    pub fn main(&self) -> Pid {
        self.heir.unwrap_or_else(|| Pid::from_raw(i32::try_from(self.child.id()).expect("a pid")))
    }

    /// The next daemon in the same directory, when the one before has ended. Faults that were
    /// ordered by variables were for that one.
    #[track_caller]
    pub fn restart(&mut self) {
        assert!(self.exit.is_some(), "the daemon before has not ended");
        self.env.retain(|(name, _)| !name.starts_with("IMAGEWORKS_TEST_"));
        let (child, lines) = begin(program_in(self.dir.path(), &[], &self.env));
        (self.child, self.lines, self.exit) = (child, Mutex::new(lines), None);
        self.wait_listens();
    }

    /// Runs another program in the daemon's directory to its end: exit code, and what it says.
    pub fn program(&self, args: &[&str]) -> (Option<i32>, String) {
        self.program_with(args, &[])
    }

    /// The same, with further variables.
    pub fn program_with(&self, args: &[&str], env: &[(&str, &str)]) -> (Option<i32>, String) {
        let mut command = program_in(self.dir.path(), args, &self.env);
        command.envs(env.iter().copied());
        let output = command.stderr(Stdio::piped()).output().expect("the program");
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).expect("a text"))
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr.expect("a daemon that listens")
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn stderr(&self) -> String {
        fs::read_to_string(self.path("stderr")).unwrap_or_default()
    }

    /// Lines that followed the first one on stdout, so far.
    pub fn more_stdout(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).try_iter().collect()
    }

    /// The registry's text.
    pub fn registry(&self) -> String {
        fs::read_to_string(self.path(REGISTRY)).expect("registry")
    }

    /// Replaces the registry's text.
    pub fn write_registry(&self, text: &str) {
        fs::write(self.path(REGISTRY), text).expect("registry");
    }

    fn raw_log(&self) -> String {
        fs::read_to_string(self.path(LOG)).unwrap_or_default()
    }

    /// The request log once it has `n` lines; panics if there are more, or if one is no JSON.
    #[track_caller]
    pub fn log_lines(&self, n: usize) -> Vec<Value> {
        let text = eventually("lines in the request log", BOUND, || {
            Some(self.raw_log()).filter(|text| text.matches('\n').count() >= n)
        });
        let lines: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line:?}")))
            .collect();
        assert_eq!(lines.len(), n, "lines in the request log");
        lines
    }

    /// The only line of the request log.
    #[track_caller]
    pub fn log_line(&self) -> Value {
        self.log_lines(1).remove(0)
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).expect("a pid");
        kill(Pid::from_raw(pid), signal).expect("a living daemon");
    }

    pub fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// Waits for the daemon's own end.
    #[track_caller]
    pub fn wait_exit(&mut self, within: Duration) -> ExitStatus {
        let status = eventually("the daemon ends", within, || self.child.try_wait().expect("wait"));
        self.exit = Some(status);
        status
    }

    pub fn fd_count(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("a living daemon").count()
    }

    /// The daemon is alive and answers.
    #[track_caller]
    pub fn assert_serves(&self) {
        let reply = super::Ask::get("/v1/healthz").reply(self.addr());
        assert_eq!(reply.status(), 200);
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(heir) = self.heir {
            let _ = kill(heir, Signal::SIGKILL);
        }
        if self.exit.is_none() || self.heir.is_some() {
            // One that has ended by itself cannot be killed.
            let _ = self.child.kill();
            let _ = self.child.wait();
            super::engines::kill_remembered(&self.path(super::engines::STATE));
        }
        if thread::panicking() {
            eprintln!("--- the daemon's stderr ---\n{}---", self.stderr());
        }
    }
}
