//! Settings that are read and changed while the daemon runs (SPEC 3.3, 12).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::daemon::Setup;
use crate::support::engines::{greeting, hello, text_of};
use crate::support::{Ask, BOUND, Daemon, End, Engines, Reply, Upstream, eventually, sse};

const PATH: &str = "/v1/config/chat-proxy";

fn settings(daemon: &Daemon) -> Value {
    Ask::get(PATH).reply(daemon.addr()).json()
}

fn put(daemon: &Daemon, body: &Value) -> Reply {
    Ask::new("PUT", PATH).json_body(body).reply(daemon.addr())
}

fn put_with(daemon: &Daemon, key: &str, body: &Value) -> Reply {
    Ask::new("PUT", PATH).json_body(body).header("x-api-key", key).reply(daemon.addr())
}

fn text(daemon: &Daemon) -> String {
    fs::read_to_string(daemon.path("chat_proxy.toml")).unwrap()
}

fn runtime_is(daemon: &Daemon, key: &str, value: &Value) {
    eventually(&format!("{key} is {value}"), BOUND, || {
        (settings(daemon)["runtime"][key] == *value).then_some(())
    });
}

const HAND_WRITTEN: &str = "\
# Our box.
[server]
port = 0   # any
registry_dir = \"registry\"
log_path = \"logs/chat.jsonl\"

[ollama]
ollama_base_url = \"http://me:hush@127.0.0.1:1\"  # nobody

# Ask Ann first.
[limits]
# Ann: large images are fine.
max_image_bytes = 7_000_000
[misc]
vllm_executor_workdir = \"/tmp\"
";

#[test]
fn the_settings_are_shown_flat_with_where_they_are_from_and_without_secrets() {
    let daemon = Setup::new()
        .text(HAND_WRITTEN)
        .env("CHAT_PROXY_HEARTBEAT_MS", "1234")
        .env("CHAT_PROXY_VLLM_ENV", "HF_TOKEN=hush")
        .start();
    let reply = Ask::get(PATH).reply(daemon.addr());
    assert!(!reply.text().contains("hush"), "{}", reply.text());
    let shown = reply.json();
    assert_eq!(shown["runtime"]["max_image_bytes"], 7_000_000);
    assert_eq!(shown["runtime"]["vllm_max_model_len"], Value::Null);
    assert_eq!(shown["runtime"]["ollama_base_url"], "http://me:***@127.0.0.1:1");
    assert_eq!(shown["file"]["max_image_bytes"], 7_000_000);
    assert_eq!(shown["file"].get("heartbeat_ms"), None);
    assert_eq!(shown["runtime"]["heartbeat_ms"], 1234);
    // The three older names beside the new ones.
    for place in ["runtime", "file"] {
        assert_eq!(shown[place]["vllm_executor_workdir"], "/tmp");
        assert_eq!(shown[place]["vllm_executor_cwd"], "/tmp");
    }
    assert_eq!(shown["runtime"].get("autostart_map_raw"), Some(&Value::Null));
    assert_eq!(shown["runtime"].get("vllm_remote_executor_url"), Some(&Value::Null));
    assert_eq!(
        shown["env_overrides"],
        json!({"CHAT_PROXY_HEARTBEAT_MS": 1234, "CHAT_PROXY_VLLM_ENV": {"HF_TOKEN": "***"}})
    );
    assert_eq!(shown["config_file_path"], "chat_proxy.toml");
    let precedence = shown["precedence"].as_array().unwrap();
    assert!(precedence.len() == 3 && precedence[0].as_str().unwrap().starts_with("environment"));
    Ask::new("POST", PATH).reply(daemon.addr()).error(405, "err_method_not_allowed");
}

#[test]
fn a_change_is_written_among_the_comments_and_in_force_at_once() {
    let upstream = Upstream::start(|seen, wire| {
        let large = seen.body.len() > 2000;
        wire.answer("200 OK", "application/json", if large { b"{\"x\":1}" } else { b"{\"x\":2}" });
    });
    let daemon = Setup::with(&upstream).text(HAND_WRITTEN).start();
    let path = daemon.path("chat_proxy.toml");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let reply = put(&daemon, &json!({"max_body_bytes": 1000, "log_prompts": true}));
    let said = reply.json();
    assert_eq!((reply.status(), said["status"].clone()), (200, json!("written")), "{said}");
    assert_eq!(said["applied"], json!(["max_body_bytes", "log_prompts"]));
    assert_eq!(
        (said["requires_restart"].clone(), said["restart_keys"].clone()),
        (json!(false), json!([]))
    );
    assert_eq!(said["runtime"]["max_body_bytes"], 1000);
    assert_eq!(said["file"]["log_prompts"], true);
    assert!(said["message"].as_str().unwrap().contains("max_body_bytes"));
    let want = HAND_WRITTEN.replace("7_000_000\n", "7_000_000\nmax_body_bytes = 1000\n")
        + "\n[logging]\nlog_prompts = true\n";
    assert_eq!(text(&daemon), want);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    let long =
        json!({"model": "tiny-a", "messages": [{"role": "user", "content": "x".repeat(3000)}]});
    Ask::post("/v1/chat/completions", &long)
        .reply(daemon.addr())
        .error(413, "err_payload_too_large");
    let short = json!({"model": "tiny-a", "messages": [{"role": "user", "content": "hi"}]});
    assert_eq!(Ask::post("/v1/chat/completions", &short).reply(daemon.addr()).status(), 200);
    let line = daemon.log_lines(2).remove(1);
    assert_eq!(line["messages"][0]["content"], "hi", "{line}");
    // Taken out again: the default is in force.
    let said = put(&daemon, &json!({"max_body_bytes": null})).json();
    assert_eq!(said["runtime"]["max_body_bytes"], 67_108_864);
    assert!(!text(&daemon).contains("max_body_bytes"));
}

#[test]
fn keys_that_need_a_restart_say_so_and_a_form_may_send_everything_back() {
    let mut daemon = Setup::new().text(HAND_WRITTEN).start();
    let said = put(&daemon, &json!({"keep_alive_s": 33, "max_image_bytes": 8_000_000})).json();
    assert_eq!(said["restart_keys"], json!(["keep_alive_s"]));
    assert_eq!(
        (said["requires_restart"].clone(), said["applied"].clone()),
        (json!(true), json!(["max_image_bytes"]))
    );
    assert_eq!(
        (said["runtime"]["keep_alive_s"].clone(), said["file"]["keep_alive_s"].clone()),
        (json!(75.0), json!(33.0))
    );
    // What a form was given it sends back; nothing of it is written.
    let before = text(&daemon);
    let said = put(&daemon, &said["file"]).json();
    assert_eq!(
        (said["status"].clone(), said["applied"].clone()),
        (json!("written"), json!([])),
        "{said}"
    );
    assert_eq!(text(&daemon), before);
    daemon.terminate();
    daemon.wait_exit(BOUND);
    daemon.restart();
    assert_eq!(settings(&daemon)["runtime"]["keep_alive_s"], 33.0);
}

#[test]
fn what_is_wrong_is_named_and_nothing_is_written() {
    let daemon = Setup::new().text(HAND_WRITTEN).start();
    for (body, names) in [
        (json!({"max_image_bites": 1, "log_prompts": true}), "did you mean max_image_bytes"),
        (json!({"max_image_bytes": "big"}), "expected a whole number"),
        (json!({"max_image_bytes": -1}), "found -1"),
        (json!({"reasoning_format": "loud"}), "one of keep, extract, strip"),
        (json!({"background_rules": ["nonsense"]}), "background_rules"),
        (json!({"schema_version": 2}), "schema_version"),
    ] {
        let error = put(&daemon, &body).error(400, "err_invalid_request");
        assert!(error["message"].as_str().unwrap().contains(names), "{error}");
        assert_eq!(text(&daemon), HAND_WRITTEN);
    }
    for (kind, body) in
        [("text/plain", "{}"), ("application/json", "[1]"), ("application/json", "{")]
    {
        let ask = Ask::new("PUT", PATH).body(body).header("content-type", kind);
        ask.reply(daemon.addr()).error(400, "err_invalid_request");
    }
    // A file that somebody is in the midst of breaking is not made worse.
    let broken = format!("{HAND_WRITTEN}[server");
    fs::write(daemon.path("chat_proxy.toml"), &broken).unwrap();
    let error = put(&daemon, &json!({"log_prompts": true})).error(400, "err_invalid_request");
    assert!(error["message"].as_str().unwrap().contains("chat_proxy.toml:1"), "{error}");
    assert_eq!(text(&daemon), broken);
}

#[test]
fn keys_that_reach_outside_need_a_configured_admin_key() {
    let daemon = Setup::new().text(HAND_WRITTEN).start();
    for body in [
        json!({"vllm_command": ["sh", "-c", "evil"]}),
        json!({"api_keys": []})
            .as_object()
            .map(|_| json!({"allow_unauthenticated": true}))
            .unwrap(),
        json!({"log_path": "/etc/passwd", "log_prompts": true}),
        json!({"vllm_env": {"LD_PRELOAD": "/tmp/x.so"}}),
    ] {
        let error = put(&daemon, &body).error(403, "err_forbidden");
        assert!(error["hint"].as_str().unwrap().contains("edit chat_proxy.toml"), "{error}");
    }
    assert_eq!(text(&daemon), HAND_WRITTEN);
    // A form that sends them back unchanged changes nothing of them.
    let form = json!({"log_path": "logs/chat.jsonl", "vllm_command": "", "log_prompts": true});
    assert_eq!(put(&daemon, &form).status(), 200);
    let keys = "[security]\napi_keys = [{ name = \"ops\", key = \"adm\", rights = [\"chat\", \"admin\"] }, { name = \"gui\", key = \"chat\" }]\n";
    let daemon = Setup::new().text(&format!("{HAND_WRITTEN}{keys}")).start();
    put_with(&daemon, "chat", &json!({"log_prompts": true})).error(403, "err_forbidden");
    let reply = put_with(&daemon, "adm", &json!({"vllm_command": ["vllm", "serve"]}));
    assert_eq!(reply.status(), 200, "{}", reply.text());
    assert!(!reply.text().contains("\"adm\""));
    // Keys too, at once.
    let keys = json!([{"name": "ops", "key": "new", "rights": ["chat", "admin"]}]);
    let reply = put_with(&daemon, "adm", &json!({"api_keys": keys}));
    assert_eq!((reply.status(), reply.json()["applied"].clone()), (200, json!(["api_keys"])));
    Ask::get(PATH).header("x-api-key", "adm").reply(daemon.addr()).error(401, "err_unauthorized");
    assert_eq!(Ask::get(PATH).header("x-api-key", "new").reply(daemon.addr()).status(), 200);
}

#[test]
fn an_edit_of_the_file_and_sighup_are_read_and_a_broken_file_changes_nothing() {
    let daemon = Setup::new().text(HAND_WRITTEN).start();
    let path = daemon.path("chat_proxy.toml");
    // As editors do it: a new file takes the place of the old one.
    let edited = HAND_WRITTEN.replace("7_000_000", "7_000_001");
    fs::write(daemon.path("new.toml"), &edited).unwrap();
    fs::rename(daemon.path("new.toml"), &path).unwrap();
    runtime_is(&daemon, "max_image_bytes", &json!(7_000_001));
    fs::write(&path, edited.replace("7_000_001", "\"much\"")).unwrap();
    let problems = eventually("the problem is told", BOUND, || {
        Some(settings(&daemon)["problems"].clone()).filter(|problems| !problems.is_null())
    });
    assert!(
        problems[0].as_str().unwrap().starts_with("chat_proxy.toml:13: max_image_bytes: expected"),
        "{problems}"
    );
    assert_eq!(settings(&daemon)["runtime"]["max_image_bytes"], 7_000_001);
    let ready = Ask::get("/v1/readyz").reply(daemon.addr());
    assert_eq!(ready.status(), 200, "what is in force still serves");
    assert!(ready.text().contains("max_image_bytes"), "{}", ready.text());
    fs::write(&path, edited.replace("7_000_001", "7_000_002")).unwrap();
    daemon.signal(Signal::SIGHUP);
    runtime_is(&daemon, "max_image_bytes", &json!(7_000_002));
    assert_eq!(settings(&daemon).get("problems"), None);
    eventually("it is said", BOUND, || {
        daemon.stderr().contains("those in force stay").then_some(())
    });
}

#[test]
fn sighup_reads_key_files_again() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key");
    fs::write(&file, "first\n").unwrap();
    let keys = format!(
        "[security]\napi_keys = [{{ name = \"a\", key_file = {file:?}, rights = [\"chat\", \"admin\"] }}]\n"
    );
    let daemon = Setup::new().text(&format!("{HAND_WRITTEN}{keys}")).start();
    let status =
        |key: &str| Ask::get("/v1/models").header("x-api-key", key).reply(daemon.addr()).status();
    assert_eq!((status("first"), status("second")), (200, 401));
    fs::write(&file, "second\n").unwrap();
    daemon.signal(Signal::SIGHUP);
    eventually("the new key is good", BOUND, || (status("second") == 200).then_some(()));
    assert_eq!(status("first"), 401);
}

#[test]
fn a_change_survives_a_kill_at_any_moment_whole_or_not_at_all() {
    let mut daemon = Setup::new().text(HAND_WRITTEN).start();
    for round in 0..6_u64 {
        let changed = AtomicU64::new(0);
        thread::scope(|scope| {
            let (addr, changed) = (daemon.addr(), &changed);
            let writer = scope.spawn(move || {
                for n in 0_u64.. {
                    changed.store(n, Ordering::SeqCst);
                    let body = json!({"max_image_bytes": 1_000_000 + n, "max_decode_pixels": 1_000_000 + n});
                    let bytes = Ask::new("PUT", PATH).json_body(&body).bytes(addr);
                    if !send_and_wait(addr, &bytes) {
                        return;
                    }
                }
            });
            eventually("changes are made", BOUND, || {
                (changed.load(Ordering::SeqCst) > round).then_some(())
            });
            thread::sleep(Duration::from_micros(700 * round)); // another moment of a change each
            daemon.kill();
            writer.join().unwrap();
        });
        let text = text(&daemon);
        let read: toml_edit::DocumentMut = text.parse().unwrap();
        let limits = &read["limits"];
        assert_eq!(
            limits["max_image_bytes"].as_integer(),
            limits["max_decode_pixels"].as_integer(),
            "{text}"
        );
        assert!(text.contains("# Ann: large images are fine."), "{text}");
        daemon.restart();
    }
}

/// Whether an answer came.
fn send_and_wait(addr: std::net::SocketAddr, bytes: &[u8]) -> bool {
    use std::io::{Read, Write};
    let Ok(mut stream) = std::net::TcpStream::connect(addr) else { return false };
    let mut answer = [0; 15];
    stream.write_all(bytes).is_ok()
        && stream.read_exact(&mut answer).is_ok()
        && answer.starts_with(b"HTTP/1.1 200")
}

#[test]
fn changes_under_fifty_streams_lose_none() {
    let it = Engines::two().set("profiles", "deployment", "\"production\"").start();
    it.assert_answers("tiny-a");
    thread::scope(|scope| {
        let streams: Vec<_> = (0..50)
            .map(|_| {
                let addr = it.daemon.addr();
                let ask = hello("tiny-a", true, json!({"delay_token_ms": 40}));
                scope.spawn(move || ask.reply(addr))
            })
            .collect();
        let mut n = 0;
        while streams.iter().any(|stream| !stream.is_finished()) {
            n += 1;
            let body = json!({
                "stream_idle_timeout_ms": 60_000 + n, "max_queue_wait_s": 500 + n, "heartbeat_ms": 1000 + n,
                "vllm_stop_timeout_s": 20 + n, "max_image_bytes": 5_000_000 + n, "idle_unload_s": 1000 + n,
                "vllm_gpu_memory_utilization": 0.5 + f64::from(n % 7) / 100.0,
                "deployment": if n % 2 == 0 { "production" } else { "testing" },
            });
            let reply = put(&it.daemon, &body);
            assert_eq!(reply.status(), 200, "{}", reply.text());
        }
        assert!(n > 3, "{n} changes");
        for stream in streams {
            let reply = stream.join().unwrap();
            assert_eq!((reply.status(), &reply.end), (200, &End::Whole), "{}", reply.text());
            assert_eq!(text_of(&reply), greeting("tiny-a"));
            assert!(reply.text().ends_with(sse::DONE));
        }
    });
    // The engine of the last settings is there in the end, and serves.
    eventually("the engine is started as the settings say", BOUND, || {
        let shown = settings(&it.daemon)["runtime"]["vllm_gpu_memory_utilization"].clone();
        let engine = it.engine();
        let line = fs::read_to_string(format!("/proc/{}/cmdline", engine["pid"])).ok()?;
        (engine["state"] == "ready" && line.contains(&format!("\0{shown}\0"))).then_some(())
    });
    it.assert_answers("tiny-a");
}

#[test]
fn the_schema_of_the_settings_is_printed() {
    let ended = Setup::new().run(&["config-schema"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let schema: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(schema["properties"]["server"]["properties"]["port"]["default"], 8100);
}

#[test]
fn the_command_line_finds_a_daemon_whose_settings_have_another_port_by_now() {
    let it = Engines::two().start();
    assert_eq!(put(&it.daemon, &json!({"port": 1})).json()["restart_keys"], json!(["port"]));
    let (code, said) = it.daemon.program(&["models", "current-model"]);
    assert_eq!(code, Some(3), "{said}");
}

#[test]
fn a_file_that_is_emptied_or_moved_away_is_no_wish_until_it_is_ordered() {
    let daemon = Setup::new().text(HAND_WRITTEN).start();
    let path = daemon.path("chat_proxy.toml");
    for removed in [false, true] {
        if removed { fs::remove_file(&path) } else { fs::write(&path, "") }.unwrap();
        eventually("it is told", BOUND, || {
            settings(&daemon)["problems"].to_string().contains("gone or empty").then_some(())
        });
        assert_eq!(settings(&daemon)["runtime"]["max_image_bytes"], 7_000_000);
        fs::write(&path, HAND_WRITTEN).unwrap();
        eventually("it is good again", BOUND, || {
            settings(&daemon).get("problems").is_none().then_some(())
        });
    }
    fs::write(&path, "").unwrap();
    daemon.signal(Signal::SIGHUP);
    runtime_is(&daemon, "max_image_bytes", &json!(6_000_000));
}
