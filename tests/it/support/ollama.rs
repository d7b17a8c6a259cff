//! A simulated Ollama as a process of its own, and entries that mean it.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use super::daemon::PROGRAM;
use super::engines::free_port;
use super::{Ask, BOUND, Reply, eventually};

/// A running Ollama; killed when dropped.
pub struct Ollama {
    child: Child,
    port: u16,
    args: Vec<String>,
}

impl Ollama {
    /// With these models, and further arguments.
    #[track_caller]
    pub fn start(models: &str, args: &[&str]) -> Self {
        let mut all = vec!["--sim-models", models];
        all.extend(args);
        Ollama::at(free_port(), &all)
    }

    /// At a port that is known before.
    #[track_caller]
    pub fn at(port: u16, args: &[&str]) -> Self {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let child = begin(port, &args);
        let ollama = Ollama { child, port, args };
        ollama.wait_answers();
        ollama
    }

    fn wait_answers(&self) {
        eventually("Ollama answers", BOUND, || std::net::TcpStream::connect(self.addr()).ok());
    }

    /// Ends it, and begins it again at the same port: with nothing loaded.
    #[track_caller]
    pub fn restart(&mut self) {
        self.kill();
        self.child = begin(self.port, &self.args);
        self.wait_answers();
    }

    pub fn kill(&mut self) {
        self.child.kill().expect("a living Ollama");
        self.child.wait().expect("its end");
    }

    pub fn addr(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    pub fn base(&self) -> String {
        format!("http://{}", self.addr())
    }

    /// An entry for one of its models.
    pub fn entry(&self, name: &str, tag: &str) -> Value {
        self.entry_with(name, tag, json!({}))
    }

    /// An entry with further fields of `backend_config`.
    pub fn entry_with(&self, name: &str, tag: &str, config: Value) -> Value {
        let mut all = json!({"base_url": self.base()});
        for (key, value) in config.as_object().expect("an object") {
            all[key] = value.clone();
        }
        json!({"name": name, "backend": "ollama", "served_model_id": tag, "backend_config": all})
    }

    /// Faults for the requests to come.
    pub fn order(&self, orders: Value) {
        let reply = Ask::post("/sim/fault", &orders).reply(self.addr());
        assert_eq!(reply.status(), 200, "{}", reply.text());
    }

    pub fn release(&self) {
        assert_eq!(Ask::post("/sim/release", &json!({})).reply(self.addr()).status(), 200);
    }

    pub fn stats(&self) -> Value {
        Ask::get("/sim/stats").reply(self.addr()).json()
    }

    /// What it has in memory.
    pub fn loaded(&self) -> Vec<String> {
        let stats = self.stats();
        let names = stats["loaded"].as_array().expect("names").iter();
        names.map(|name| name.as_str().expect("a name").to_owned()).collect()
    }

    /// What it was asked at a path, the oldest first.
    pub fn asked(&self, path: &str) -> Vec<Value> {
        let all = Ask::get("/sim/requests?last=32").reply(self.addr()).json();
        let all = all.as_array().or_else(|| all["requests"].as_array()).expect("requests").clone();
        all.into_iter().filter(|request| request["path"] == path).collect()
    }

    /// The chats that it was asked for, without loads and unloads.
    pub fn chats(&self) -> Vec<Value> {
        let is_chat = |request: &Value| {
            request["body"]["messages"].as_array().is_some_and(|messages| !messages.is_empty())
        };
        self.asked("/api/chat").into_iter().filter(is_chat).collect()
    }

    /// Has it load a model, as somebody else would.
    pub fn load(&self, tag: &str) {
        let reply = self.chat(&json!({"model": tag, "messages": [], "keep_alive": -1}));
        assert_eq!(reply.status(), 200, "{}", reply.text());
    }

    pub fn chat(&self, body: &Value) -> Reply {
        Ask::post("/api/chat", body).reply(self.addr())
    }
}

fn begin(port: u16, args: &[String]) -> Child {
    let mut command = Command::new(PROGRAM);
    command.args(["sim-engine", "serve", "--ollama", "--port"]).arg(port.to_string()).args(args);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("the program")
}

impl Drop for Ollama {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
