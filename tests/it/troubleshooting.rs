//! Each row of the operations guide's troubleshooting table: the symptom, what the user is told, and
//! that what he is told to do helps.

use std::fs;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::daemon::{Setup, entry};
use crate::support::engines::hello;
use crate::support::{Ask, BOUND, Daemon, Engines, Upstream, eventually, vllm};

fn chat(daemon: &Daemon, model: &str) -> crate::support::Reply {
    hello(model, false, json!({})).reply(daemon.addr())
}

fn answering() -> Upstream {
    Upstream::start(|_, wire| {
        let body = json!({"choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}]});
        wire.answer("200 OK", "application/json", body.to_string().as_bytes());
    })
}

fn hint(error: &Value) -> String {
    error["hint"].as_str().unwrap_or_default().to_owned()
}

fn put(daemon: &Daemon, path: &str, body: &Value) {
    let reply = Ask::new("PUT", path).json_body(body).reply(daemon.addr());
    assert_eq!(reply.status(), 200, "{}", reply.text());
}

/// `404 model not found`: the registry's view is stale.
#[test]
fn a_model_that_is_not_found_because_the_registry_could_not_be_read_anew() {
    let upstream = answering();
    let daemon = Setup::with(&upstream).start();
    let mut entries: Vec<Value> = serde_json::from_str(&daemon.registry()).unwrap();
    entries.push(entry("tiny-new", &upstream));
    let good = Value::from(entries).to_string();
    daemon.write_registry(&good[..good.len() - 1]);
    eventually("the error is known", BOUND, || {
        let shown = Ask::get("/v1/debug/registry").reply(daemon.addr()).json();
        shown["error"].is_string().then_some(())
    });
    let error = chat(&daemon, "tiny-new").error(404, "err_model_not_found");
    assert!(hint(&error).contains("could not be read anew, GET /v1/debug/registry"), "{error}");
    let shown = Ask::get("/v1/debug/registry").reply(daemon.addr()).json();
    assert!(shown["error"].as_str().unwrap().contains("model_registry.curated.json:1:"), "{shown}");
    daemon.write_registry(&good);
    eventually("the new model is there", BOUND, || {
        (chat(&daemon, "tiny-new").status() == 200).then_some(())
    });
    // `touch` alone reloads, as the guide has it.
    let loads =
        || Ask::get("/v1/debug/registry").reply(daemon.addr()).json()["loads"].as_u64().unwrap();
    let before = loads();
    let file = fs::File::options()
        .append(true)
        .open(daemon.path("registry/model_registry.curated.json"))
        .unwrap();
    file.set_modified(std::time::SystemTime::now() + std::time::Duration::from_secs(1)).unwrap();
    eventually("it was read again", BOUND, || (loads() > before).then_some(()));
}

/// `404 model not found`: the profile excludes it, or its entry is wrong.
#[test]
fn a_model_that_is_not_found_because_of_its_profile_or_its_entry() {
    let upstream = answering();
    let mut staged = entry("tiny-stage", &upstream);
    staged["metadata"] = json!({"profiles": ["staging"]});
    let wrong = json!({"name": "tiny-wrong", "backend": "openai", "backend_config": {"base_url": "ftp://x"}});
    let daemon = Setup::with(&upstream).entry(staged).entry(wrong).start();
    let error = chat(&daemon, "tiny-stage").error(404, "err_model_not_found");
    let told = hint(&error);
    assert!(told.contains("deployment staging") && told.contains("serves production"), "{error}");
    assert!(told.contains("PUT /v1/config/profile"), "{error}");
    put(&daemon, "/v1/config/profile", &json!({"name": "staging"}));
    eventually("it is there", BOUND, || {
        (chat(&daemon, "tiny-stage").status() == 200).then_some(())
    });
    let error = chat(&daemon, "tiny-wrong").error(404, "err_model_not_found");
    assert!(hint(&error).contains("skipped: GET /v1/debug/registry"), "{error}");
    let shown = Ask::get("/v1/debug/registry").reply(daemon.addr()).json();
    assert!(shown["skipped"].to_string().contains("ftp://x"), "{shown}");
    let error = chat(&daemon, "tiny-q").error(404, "err_model_not_found");
    assert!(hint(&error).contains("did you mean: tiny-a"), "{error}");
}

/// `409 capability mismatch`: the model cannot see.
#[test]
fn an_image_for_a_model_that_cannot_see() {
    let upstream = answering();
    let mut blind = entry("tiny-text", &upstream);
    blind["capabilities"] = json!({"vision": false});
    let mut sees = entry("tiny-vision", &upstream);
    sees["capabilities"] = json!({"vision": true});
    sees["role_priority"] = json!({"caption": 1});
    let daemon = Setup::new().entry(blind).entry(sees).start();
    let pixel = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
    let ask = |model: &str| {
        let content = json!([{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": pixel}}]);
        let body = json!({"model": model, "messages": [{"role": "user", "content": content}]});
        Ask::post("/v1/chat/completions", &body).reply(daemon.addr())
    };
    let error = ask("tiny-text").error(409, "err_capability_mismatch");
    assert!(error["message"].as_str().unwrap().contains("tiny-text cannot see images"), "{error}");
    assert!(hint(&error).contains("tiny-vision"), "{error}");
    assert_eq!(ask("tiny-vision").status(), 200);
    // Whoever doubts the entry tries it: `imageworks-models probe-vision` sends this.
    let content = json!([{"type": "image_url", "image_url": {"url": pixel}}]);
    let body = json!({"model": "tiny-text", "messages": [{"role": "user", "content": content}]});
    let probe = Ask::post("/v1/chat/completions", &body).header("x-imageworks-probe", "vision");
    assert_eq!(probe.reply(daemon.addr()).status(), 200);
    assert!(upstream.seen().last().unwrap().json().to_string().contains("data:image/"));
    // The role's model is one that does.
    assert_eq!(ask("role:caption").status(), 200);
}

/// vLLM never activates: nothing may be started.
#[test]
fn a_model_that_is_not_loaded_because_requests_start_nothing() {
    let it = Engines::two().set("autostart", "autostart_enabled", false).start();
    let error = it.hello("tiny-a").error(502, "err_backend_unavailable");
    assert!(hint(&error).contains("autostart_enabled = true"), "{error}");
    put(&it.daemon, "/v1/config/chat-proxy", &json!({"autostart_enabled": true}));
    it.assert_answers("tiny-a");
}

/// vLLM never activates: the map is wrong, or the command is.
#[test]
fn an_autostart_map_or_a_command_that_is_wrong() {
    let ended = Setup::new().env("CHAT_PROXY_AUTOSTART_MAP", "vllm").run(&[]);
    assert_eq!(ended.code, Some(78), "{}", ended.stderr);
    assert!(ended.stderr.contains("CHAT_PROXY_AUTOSTART_MAP"), "{}", ended.stderr);
    let failing = "[autostart]\nautostart_map = \"openai:color\"\n[autostart.services.color]\ncommand = [\"sh\", \"-c\", \"echo no such model >&2; exit 3\"]\nready_url = \"http://127.0.0.1:1/\"\n";
    let closed = json!({"name": "tiny-x", "backend": "openai", "backend_config": {"base_url": "http://127.0.0.1:1/v1"}});
    let settings = "[server]\nport = 0\nregistry_dir = \"registry\"\nlog_path = \"logs/chat.jsonl\"\n[ollama]\nollama_base_url = \"http://127.0.0.1:1\"\n";
    let daemon = Setup::new().text(&format!("{settings}{failing}")).entry(closed).start();
    let reply = chat(&daemon, "tiny-x");
    let error = reply.json()["error"].clone();
    assert!(reply.status() >= 500, "{error}");
    let said = error.to_string();
    assert!(
        said.contains("no such model") || said.contains("_staging/autostart/color.log"),
        "{said}"
    );
    let log = fs::read_to_string(daemon.path("_staging/autostart/color.log")).unwrap();
    assert!(log.contains("no such model"), "{log}");
}

/// Streams are cut abruptly: the limit of silence is too low. It is raised without a restart.
#[test]
fn a_stream_that_is_cut_names_the_limit_that_is_raised_without_a_restart() {
    let upstream = Upstream::start(|_, wire| {
        let events = vllm::stream(&["a", "b"]);
        wire.stream_head();
        for (n, event) in events.iter().enumerate() {
            if n == 2 {
                std::thread::sleep(std::time::Duration::from_millis(700)); // the slow backend itself
            }
            if !wire.chunk(event.as_bytes()) {
                return;
            }
        }
        wire.last_chunk();
    });
    let daemon = Setup::with(&upstream).set("timeouts", "stream_idle_timeout_ms", 200).start();
    let reply = hello("tiny-a", true, json!({})).reply(daemon.addr());
    let text = reply.text();
    assert!(
        text.contains("err_backend_timeout") && text.contains("stream_idle_timeout_ms"),
        "{text}"
    );
    assert!(!text.contains("[DONE]"), "{text}");
    put(&daemon, "/v1/config/chat-proxy", &json!({"stream_idle_timeout_ms": 20_000}));
    let reply = hello("tiny-a", true, json!({})).reply(daemon.addr());
    assert!(reply.text().ends_with("data: [DONE]\n\n"), "{}", reply.text());
}

/// The GUI shows "non installed": the path of the entry is not there.
#[test]
fn a_model_whose_files_are_missing_is_told_so_and_listed_when_they_are_there() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("model");
    let gone = json!({"name": "tiny-gone", "backend": "vllm", "download_path": path, "backend_config": {"model_path": path}});
    let daemon = Setup::new().entry(gone).start();
    let listed = || Ask::get("/v1/models").reply(daemon.addr()).text().contains("tiny-gone");
    assert!(!listed());
    let one = Ask::get("/v1/models/tiny-gone").reply(daemon.addr()).json();
    assert_eq!(one["extensions"]["installed"], false);
    let (code, said) = daemon.program(&["models", "show", "tiny-gone"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("normalize-formats"), "{said}");
    // All of it, for planning; at once.
    put(&daemon, "/v1/config/chat-proxy", &json!({"include_non_installed": true}));
    eventually("it is listed", BOUND, || listed().then_some(()));
    put(&daemon, "/v1/config/chat-proxy", &json!({"include_non_installed": false}));
    eventually("it is hidden", BOUND, || (!listed()).then_some(()));
    fs::create_dir(&path).unwrap();
    daemon.signal(Signal::SIGHUP);
    eventually("it is listed", BOUND, || listed().then_some(()));
}
