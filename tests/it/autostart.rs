//! Services that are started when a request needs them, as their users see it.

mod harm;
mod survival;

use std::fs;
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::support::daemon::PROGRAM;
use crate::support::engines::{
    families, free_port, greeting, hello, is_alive, kill_process, text_of,
};
use crate::support::{Ask, BOUND, Daemon, Engines, Reply, Setup, eventually};

const JOURNAL: &str = "journal.jsonl";

/// A service with a model of its own, which takes its time to come up.
struct Service {
    port: u16,
    args: Vec<String>,
}

impl Service {
    fn new(args: &[&str]) -> Self {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        Service { port: free_port(), args }
    }

    fn command(&self) -> String {
        let port = self.port.to_string();
        let mut all = vec![PROGRAM, "sim-engine", "serve", "--port", &port];
        all.extend(["--served-model-name", "tiny-c", "--sim-journal", JOURNAL]);
        all.extend(self.args.iter().map(String::as_str));
        format!("{all:?}")
    }

    /// A daemon that knows it, with more settings in its table.
    fn setup(&self, more: &str) -> Setup {
        let table = format!("{{ command = {}{more} }}", self.command());
        Setup::new()
            .set("autostart", "autostart_map", "\"gguf:llama\"")
            .set("autostart", "services", format!("{{ llama = {table} }}"))
            .set("server", "heartbeat_ms", 100)
            .entry(json!({"name": "tiny-c", "backend": "gguf", "chat_template": {"source": "embedded"}, 
                "backend_config": {"host": "127.0.0.1", "port": self.port}}))
    }

    /// How often it was started.
    fn starts(daemon: &Daemon) -> usize {
        let journal = fs::read_to_string(daemon.path(JOURNAL)).unwrap_or_default();
        let lives = journal.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        lives.filter(|life| life["role"] == "leader" && life["event"] == "start").count()
    }

    #[track_caller]
    fn assert_gone(&self) {
        eventually("the port is free", BOUND, || TcpListener::bind(("127.0.0.1", self.port)).ok());
    }
}

impl Drop for Service {
    /// It outlives a daemon that is killed, as at the end of a test.
    fn drop(&mut self) {
        for group in families(self.port) {
            // It may have ended by now.
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
    }
}

fn status(daemon: &Daemon) -> Value {
    Ask::get("/v1/autostart/status").reply(daemon.addr()).json()
}

fn order(daemon: &Daemon, what: &str, body: &Value) -> Reply {
    Ask::post(&format!("/v1/autostart/{what}"), body).reply(daemon.addr())
}

#[track_caller]
fn assert_answers(daemon: &Daemon) {
    let reply = hello("tiny-c", false, json!({})).reply(daemon.addr());
    assert_eq!(reply.status(), 200, "{}", reply.text());
    assert_eq!(text_of(&reply), greeting("tiny-c"));
}

fn pid(daemon: &Daemon) -> i32 {
    let pid = status(daemon)["services"]["llama"]["pid"].as_i64().expect("a running service");
    i32::try_from(pid).expect("a pid")
}

#[test]
fn twenty_first_requests_start_it_once_and_all_are_answered() {
    let service = Service::new(&["--sim-load-ms", "1500"]);
    let mut daemon = service.setup("").start();
    assert_eq!(status(&daemon)["services"]["llama"]["state"], "stopped");
    let addr = daemon.addr();
    thread::scope(|scope| {
        for number in 0..20 {
            scope.spawn(move || {
                let stream = number % 2 == 0;
                let reply = hello("tiny-c", stream, json!({})).reply(addr);
                assert_eq!(reply.status(), 200, "{}", reply.text());
                assert_eq!(text_of(&reply), greeting("tiny-c"));
                if stream {
                    let told = reply.text();
                    assert!(
                        told.starts_with(": waiting (position 0, the service llama is starting)"),
                        "{told}"
                    );
                }
            });
        }
    });
    assert_eq!(Service::starts(&daemon), 1);
    let shown = status(&daemon);
    let llama = &shown["services"]["llama"];
    assert_eq!((&llama["state"], &llama["starts"]), (&json!("ready"), &json!(1)));
    assert!(
        daemon
            .log_lines(20)
            .iter()
            .all(|line| line["status"] == 200 && line["activate_ms"].as_u64() > Some(500))
    );

    // It is killed: the next request starts it again.
    let first = pid(&daemon);
    kill_process(first, Signal::SIGKILL);
    eventually("its death is seen", BOUND, || {
        (status(&daemon)["services"]["llama"]["state"] == "failed").then_some(())
    });
    let error = status(&daemon)["services"]["llama"]["last_error"].to_string();
    assert!(error.contains("SIGKILL"), "{error}");
    assert_answers(&daemon);
    assert_eq!(Service::starts(&daemon), 2);
    assert_ne!(pid(&daemon), first);

    // And it ends with the daemon.
    let last = pid(&daemon);
    daemon.terminate();
    assert_eq!(daemon.wait_exit(BOUND).code(), Some(0));
    assert!(!is_alive(last));
    service.assert_gone();
    assert!(!daemon.path("_staging/autostart/llama.pid").exists());
}

#[test]
fn ready_is_what_its_table_says() {
    for more in [
        |port: u16| format!(", ready_url = \"http://127.0.0.1:{port}/health\""),
        |_| ", ready_log = \"Application startup complete\"".to_owned(),
    ] {
        let service = Service::new(&["--sim-load-ms", "300"]);
        let daemon = service.setup(&more(service.port)).start();
        assert_answers(&daemon);
        assert!(daemon.path("_staging/autostart/llama.ready").exists());
        let pid_file =
            fs::read_to_string(daemon.path("_staging/autostart/llama.pid")).expect("a file");
        assert_eq!(pid_file.lines().next(), Some(pid(&daemon).to_string().as_str()));
    }
    // And nothing else: its backend answers, but not its sign.
    let nowhere = free_port();
    for more in [
        format!(", ready_url = \"http://127.0.0.1:{nowhere}/health\""),
        ", ready_log = \"what it never says\"".to_owned(),
    ] {
        let service = Service::new(&[]);
        let daemon = service.setup(&format!("{more}, grace_period_s = 2.0")).start();
        let reply = hello("tiny-c", false, json!({})).reply(daemon.addr());
        reply.error(504, "err_model_start_timeout");
        assert!(!daemon.path("_staging/autostart/llama.ready").exists());
    }
}

#[test]
fn one_that_ends_while_it_starts_tells_its_line_and_one_that_is_too_slow_is_ended() {
    let service = Service::new(&["--sim-exit", "1", "--sim-exit-log", "oom"]);
    let daemon = service.setup("").start();
    let error =
        hello("tiny-c", false, json!({})).reply(daemon.addr()).error(502, "err_model_start_failed");
    assert!(error["hint"].as_str().expect("a text").to_lowercase().contains("memory"), "{error}");
    let log = Ask::get("/v1/logs/backends/llama").reply(daemon.addr());
    assert!(log.text().to_lowercase().contains("memory"), "{}", log.text());

    let service = Service::new(&["--sim-never-ready"]);
    let daemon = service.setup(", grace_period_s = 0.5").start();
    let begun = Instant::now();
    let error = hello("tiny-c", false, json!({}))
        .reply(daemon.addr())
        .error(504, "err_model_start_timeout");
    assert!(error["hint"].as_str().expect("a text").contains("grace_period_s"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(10));
    service.assert_gone();
}

#[test]
fn the_switch_is_for_requests_and_not_for_people() {
    let service = Service::new(&[]);
    let daemon = service.setup("").set("autostart", "autostart_enabled", false).start();
    let error = hello("tiny-c", false, json!({}))
        .reply(daemon.addr())
        .error(502, "err_backend_unavailable");
    assert!(error["hint"].as_str().expect("a text").contains("autostart_enabled"), "{error}");
    assert_eq!(Service::starts(&daemon), 0);
    let reply = order(&daemon, "start", &json!({"service": "llama"}));
    assert_eq!(
        (reply.status(), &reply.json()["state"]),
        (200, &json!("ready")),
        "{}",
        reply.text()
    );
    assert_answers(&daemon);
    let reply = order(&daemon, "stop", &json!({"service": "llama"}));
    assert_eq!((reply.status(), &reply.json()["state"]), (200, &json!("stopped")));
    service.assert_gone();

    let put = Ask::new("PUT", "/v1/autostart/enabled")
        .header("content-type", "application/json")
        .body("{\"enabled\": true}");
    assert_eq!(put.reply(daemon.addr()).json(), json!({"enabled": true}));
    assert_eq!(status(&daemon)["enabled"], true);
    assert_answers(&daemon);
    assert_eq!(Service::starts(&daemon), 2);
    let error = order(&daemon, "start", &json!({"service": "nobody"})).error(404, "err_not_found");
    assert!(error["hint"].as_str().expect("a text").contains("llama"), "{error}");
}

#[test]
fn the_switch_is_for_engines_too() {
    let engined = Engines::two().set("autostart", "autostart_enabled", false).start();
    engined.hello("tiny-a").error(502, "err_backend_unavailable");
    let put = |on: bool| {
        Ask::new("PUT", "/v1/autostart/enabled")
            .header("content-type", "application/json")
            .body(&json!({"enabled": on}).to_string())
            .reply(engined.daemon.addr())
    };
    assert_eq!(put(true).status(), 200);
    engined.assert_answers("tiny-a");
    assert_eq!(put(false).status(), 200);
    engined.assert_answers("tiny-a");
    engined.hello("tiny-b").error(502, "err_backend_unavailable");
}

#[test]
fn an_ollama_that_is_not_there_is_started() {
    let port = free_port();
    let command = format!(
        "{:?}",
        [
            PROGRAM,
            "sim-engine",
            "serve",
            "--ollama",
            "--port",
            &port.to_string(),
            "--sim-models",
            "tiny-o"
        ]
    );
    let mut daemon = Setup::new()
        .set("autostart", "services", format!("{{ my-ollama = {{ command = {command} }} }}"))
        .set("autostart", "autostart_map", "\"ollama=my-ollama\"")
        .set("ollama", "ollama_base_url", format!("\"http://127.0.0.1:{port}\""))
        .entry(json!({"name": "o", "backend": "ollama", "served_model_id": "tiny-o"}))
        .start();
    for stream in [true, false] {
        let reply = hello("o", stream, json!({})).reply(daemon.addr());
        assert_eq!(reply.status(), 200, "{}", reply.text());
        assert_eq!(text_of(&reply), greeting("tiny-o"));
    }
    daemon.terminate();
    daemon.wait_exit(BOUND);
}

#[test]
fn relays_start_services_too_and_the_json_form_names_models() {
    let service = Service::new(&[]);
    let map = json!({"tiny-c": {"command": serde_json::from_str::<Value>(&service.command()).expect("a list")}});
    let daemon = Setup::new()
        .env("CHAT_PROXY_AUTOSTART_MAP", &map.to_string())
        .entry(
            json!({"name": "tiny-c", "backend": "gguf", "chat_template": {"source": "embedded"}, 
            "backend_config": {"host": "127.0.0.1", "port": service.port}}),
        )
        .start();
    let body = json!({"model": "tiny-c", "prompt": "hello", "max_tokens": 3});
    let reply = Ask::post("/v1/completions", &body).reply(daemon.addr());
    assert_eq!(reply.status(), 200, "{}", reply.text());
    assert_eq!(status(&daemon)["services"]["tiny-c"]["state"], "ready");
}

#[test]
fn what_is_to_be_loaded_at_the_start_is() {
    let engined = Engines::two().set("scheduler", "preload", "[\"tiny-b\"]").start();
    engined.wait_engine("ready");
    assert_eq!(engined.starts(), ["tiny-b"]);
    let service = Service::new(&[]);
    let daemon = service.setup("").set("scheduler", "preload", "[\"llama\", \"nobody\"]").start();
    eventually("the service is ready", BOUND, || {
        (status(&daemon)["services"]["llama"]["state"] == "ready").then_some(())
    });
    eventually("what is not there is said", BOUND, || {
        daemon.stderr().contains("nobody").then_some(())
    });
}

#[test]
fn mistakes_in_the_map_stop_the_start_by_name() {
    for (key, value, told) in [
        ("autostart_map", "\"gguf\"".to_owned(), "autostart_map"),
        ("services", "{ x = { command = [] } }".to_owned(), "command is empty"),
    ] {
        let ended = Setup::new().set("autostart", key, value).run(&["check-config"]);
        assert_ne!(ended.code, Some(0));
        assert!(
            ended.stderr.contains(told) && ended.stderr.contains("chat_proxy.toml"),
            "{}",
            ended.stderr
        );
    }
}
