//! A daemon whose engines are simulated ones, started by it as it would start vLLM; and what can be
//! seen of them from outside: their journal, their processes.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::daemon::{Daemon, PROGRAM, Setup};
use super::{Ask, BOUND, Client, Reply, eventually};

pub const STATE: &str = "_staging/active_vllm.json";
const JOURNAL: &str = "journal.jsonl";

/// A daemon to be started, with vLLM models.
pub struct Engines {
    setup: Setup,
    port: u16,
}

/// A daemon with vLLM models.
pub struct Engined {
    pub daemon: Daemon,
    pub port: u16,
}

/// One line of the engines' journal.
#[derive(Debug, Clone)]
pub struct Life {
    pub at_us: u64,
    pub pid: i32,
    pub role: String,
    pub model: String,
    pub event: String,
}

/// The ports of engines begin here.
const FIRST_PORT: u16 = 10_000;

/// A port that nobody has now, each once. It is from below those that the system gives to whoever
/// asks for any: a daemon that listens at port 0, or a connection, would get it now and then.
pub fn free_port() -> u16 {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let given_out = range.split_whitespace().next().and_then(|port| port.parse::<u16>().ok());
    let end = given_out.filter(|end| *end > FIRST_PORT + 1000).unwrap_or(32_768);
    // Tests that run beside these begin elsewhere.
    let begin = std::process::id() as usize * 61;
    loop {
        let nth = begin + NEXT.fetch_add(1, Ordering::Relaxed);
        let nth = nth % usize::from(end - FIRST_PORT);
        let port = FIRST_PORT + u16::try_from(nth).expect("below a port's number");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

impl Engines {
    pub fn new() -> Self {
        let port = free_port();
        let command = format!("[{PROGRAM:?}, \"sim-engine\", \"serve\"]");
        let setup = Setup::new()
            .set("vllm", "vllm_port", port)
            .set("vllm", "vllm_command", command)
            .set("vllm", "vllm_restart_backoff_s", 0.2)
            .set("server", "enable_metrics", true);
        Engines { setup, port }
    }

    /// `tiny-a` and `tiny-b`, with vLLM's habits and its tree of processes.
    pub fn two() -> Self {
        Engines::new().model("tiny-a", &["--like-vllm"]).model("tiny-b", &["--like-vllm"])
    }

    /// A model whose engine has these arguments on top.
    pub fn model(self, name: &str, args: &[&str]) -> Self {
        self.model_with(name, args, json!({}))
    }

    /// A model with further fields of `backend_config`.
    pub fn model_with(mut self, name: &str, args: &[&str], more: Value) -> Self {
        let mut extra = vec!["--sim-journal", JOURNAL];
        extra.extend(args);
        let mut config = json!({"model_path": format!("/models/{name}"), "extra_args": extra});
        for (key, value) in more.as_object().expect("an object") {
            config[key] = value.clone();
        }
        self.setup = self.setup.entry(json!({
            "name": name, "backend": "vllm", "served_model_id": name,
            "chat_template": {"source": "embedded"}, "backend_config": config,
        }));
        self
    }

    pub fn set(mut self, section: &str, key: &str, value: impl ToString) -> Self {
        self.setup = self.setup.set(section, key, value);
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.setup = self.setup.env(name, value);
        self
    }

    pub fn entry(mut self, entry: Value) -> Self {
        self.setup = self.setup.entry(entry);
        self
    }

    /// Has the program called by this path.
    pub fn called(mut self, path: &Path) -> Self {
        self.setup = self.setup.called(path);
        self
    }

    /// What it is made from.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    #[track_caller]
    pub fn start(self) -> Engined {
        Engined { daemon: self.setup.start(), port: self.port }
    }
}

/// A chat request that a simulated engine answers by its name.
pub fn hello(model: &str, stream: bool, sim: Value) -> Ask {
    let body = json!({
        "model": model, "stream": stream, "messages": [{"role": "user", "content": "hello"}],
        "sim": sim,
    });
    Ask::chat(body.to_string())
}

/// What an engine says to `hello`.
pub fn greeting(model: &str) -> String {
    format!("Hello! I am {model}, a tiny test model.")
}

/// The text of a streamed or whole answer.
pub fn text_of(reply: &Reply) -> String {
    let body = reply.text();
    if !body.starts_with("data:") && !body.starts_with(':') {
        return reply.json()["choices"][0]["message"]["content"].as_str().unwrap_or("").to_owned();
    }
    let data = body.split("\n\n").filter_map(|event| event.strip_prefix("data: "));
    let chunks = data.filter_map(|data| serde_json::from_str::<Value>(data).ok());
    chunks.filter_map(|c| c["choices"][0]["delta"]["content"].as_str().map(str::to_owned)).collect()
}

impl Engined {
    #[track_caller]
    pub fn hello(&self, model: &str) -> Reply {
        hello(model, false, json!({})).reply(self.daemon.addr())
    }

    /// Says hello and asserts that the right model answers.
    #[track_caller]
    pub fn assert_answers(&self, model: &str) {
        let reply = self.hello(model);
        assert_eq!(reply.status(), 200, "{}", reply.text());
        assert_eq!(text_of(&reply), greeting(model));
        assert_eq!(reply.head.get("x-imageworks-model"), Some(model));
    }

    /// A stream of that model that is in flight: its first word has come. It has so many tokens,
    /// one every 10 ms.
    #[track_caller]
    pub fn stream(&self, model: &str, tokens: u64) -> Client {
        let sim = json!({"tokens": tokens, "delay_token_ms": 10});
        let mut client = hello(model, true, sim).open(self.daemon.addr());
        assert_eq!(client.head().status, 200);
        client.read_until("tok0");
        client
    }

    /// `GET /v1/backends`.
    pub fn backends(&self) -> Value {
        Ask::get("/v1/backends").reply(self.daemon.addr()).json()
    }

    /// The supervised one of them.
    pub fn engine(&self) -> Value {
        self.backends()["backends"][0].clone()
    }

    #[track_caller]
    pub fn wait_engine(&self, state: &str) -> Value {
        eventually(&format!("the engine is {state}"), BOUND, || {
            Some(self.engine()).filter(|engine| engine["state"] == state)
        })
    }

    #[track_caller]
    pub fn wait_queue(&self, length: usize) {
        eventually("a queue of that length", BOUND, || {
            let queue = self.backends()["queue"].as_array().map_or(0, Vec::len);
            (queue == length).then_some(())
        });
    }

    pub fn pid(&self) -> i32 {
        let pid = self.engine()["pid"].as_i64().expect("a running engine");
        i32::try_from(pid).expect("a pid")
    }

    pub fn order(&self, path: &str, body: Value) -> Reply {
        Ask::post(&format!("/v1/backends/vllm/{path}"), &body).reply(self.daemon.addr())
    }

    /// A request to the engine itself.
    pub fn ask_engine(&self, path: &str) -> Value {
        Ask::get(path).reply(([127, 0, 0, 1], self.port).into()).json()
    }

    /// The value of a figure of `/metrics` whose line begins so.
    pub fn figure(&self, begins: &str) -> Option<f64> {
        let text = Ask::get("/metrics").reply(self.daemon.addr()).text();
        let line = text.lines().find(|line| line.starts_with(begins))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    /// What the engines have written down of their lives.
    pub fn journal(&self) -> Vec<Life> {
        let text = fs::read_to_string(self.daemon.path(JOURNAL)).unwrap_or_default();
        let life = |line: &str| {
            let value: Value = serde_json::from_str(line).expect("a line of the journal");
            let text = |key: &str| value[key].as_str().expect("a text").to_owned();
            Life {
                at_us: value["at_us"].as_u64().expect("a time"),
                pid: value["pid"].as_i64().and_then(|pid| pid.try_into().ok()).expect("a pid"),
                role: text("role"),
                model: text("model"),
                event: text("event"),
            }
        };
        text.lines().map(life).collect()
    }

    /// The models whose engines were started, in order.
    pub fn starts(&self) -> Vec<String> {
        let journal = self.journal().into_iter();
        let leaders = journal.filter(|life| life.role == "leader" && life.event == "start");
        leaders.map(|life| life.model).collect()
    }

    /// No engine lives, and nothing is left of one.
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        assert_eq!(families(self.port), BTreeSet::new(), "process groups of engines");
        assert!(!self.daemon.path(STATE).exists(), "the state file");
        TcpListener::bind(("127.0.0.1", self.port)).expect("the port is free");
    }
}

/// The process groups that have a living process of an engine at this port.
pub fn families(port: u16) -> BTreeSet<i32> {
    let mut groups = BTreeSet::new();
    let wanted = port.to_string();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let path = entry.path();
        let Ok(line) = fs::read(path.join("cmdline")) else { continue };
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        if !words.windows(2).any(|w| w == [b"--port".as_slice(), wanted.as_bytes()]) {
            continue;
        }
        let Ok(stat) = fs::read_to_string(path.join("stat")) else { continue };
        let Some((_, rest)) = stat.rsplit_once(')') else { continue };
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        if fields[0] != "Z" {
            groups.insert(fields[2].parse().expect("a group"));
        }
    }
    groups
}

/// Looks at the processes all the time; says at the end how often it saw engines of two families.
pub struct Sampler {
    stop: Arc<AtomicBool>,
    overlaps: Arc<AtomicUsize>,
    thread: Option<thread::JoinHandle<usize>>,
}

impl Sampler {
    pub fn of(port: u16) -> Self {
        let (stop, overlaps) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, seen) = (stop.clone(), overlaps.clone());
        let thread = thread::spawn(move || {
            let mut looks = 0;
            while !stopped.load(Ordering::SeqCst) {
                looks += 1;
                if families(port).len() > 1 {
                    seen.fetch_add(1, Ordering::SeqCst);
                }
                thread::sleep(Duration::from_millis(2)); // the pace of the looks
            }
            looks
        });
        Sampler { stop, overlaps, thread: Some(thread) }
    }

    #[track_caller]
    pub fn assert_never_two(mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let looks = self.thread.take().expect("once").join().expect("a sampler");
        assert!(looks > 5, "only {looks} looks");
        assert_eq!(self.overlaps.load(Ordering::SeqCst), 0, "engines of two families at once");
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// Ends the engine that a daemon's state file names; a test that failed leaves none behind.
pub fn kill_remembered(state: &Path) {
    let Ok(text) = fs::read(state) else { return };
    let Ok(value) = serde_json::from_slice::<Value>(&text) else { return };
    if let Some(pid) = value["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()) {
        let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
    }
    if let Some(group) = value["cgroup"].as_str() {
        // Those that were just killed are in it for a moment more.
        for _ in 0..100 {
            match fs::remove_dir(group) {
                Err(error) if error.kind() == ErrorKind::ResourceBusy => {
                    thread::sleep(Duration::from_millis(1)); // the pace of the tries
                }
                _ => break,
            }
        }
    }
}

pub fn kill_process(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).expect("a living process");
}

pub fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}
