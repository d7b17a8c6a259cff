//! Interactive and background requests, `model: "resident"`, and how many a model answers at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::daemon::entry;
use crate::support::engines::{Engined, greeting, hello, text_of};
use crate::support::ollama::Ollama;
use crate::support::{Ask, BOUND, Client, Daemon, Engines, Gate, Setup, Upstream, eventually};

const CLASS: &str = "x-request-class";

fn background(model: &str) -> Ask {
    hello(model, false, json!({})).header(CLASS, "background")
}

/// The requests that wait, by model and class.
fn queue(engined: &Engined) -> Vec<(String, String)> {
    let queue = engined.backends()["queue"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    queue.iter().map(|waiting| (text(&waiting["model"]), text(&waiting["class"]))).collect()
}

#[test]
fn background_work_waits_while_somebody_works_with_the_model_and_takes_it_at_its_bound() {
    let engined = Engines::two()
        .set("scheduler", "background_swap_wait_s", 2.0)
        .set("scheduler", "background_idle_s", 60)
        .start();
    engined.assert_answers("tiny-a");
    let begun = Instant::now();
    let mut waiting = background("tiny-b").header("x-request-id", "bg").open(engined.daemon.addr());
    eventually("it waits", BOUND, || {
        (queue(&engined) == [("tiny-b".to_owned(), "background".to_owned())]).then_some(())
    });
    let story = Ask::get("/v1/scheduler/explain?request_id=bg").reply(engined.daemon.addr()).json();
    assert_eq!(story["class"], "background");
    engined.assert_answers("tiny-a"); // still there
    let reply = waiting.reply();
    assert_eq!((reply.status(), text_of(&reply)), (200, greeting("tiny-b")));
    assert!(begun.elapsed() >= Duration::from_millis(1500), "{:?}", begun.elapsed());
    let lines = engined.daemon.log_lines(3);
    let classes: Vec<&Value> = lines.iter().map(|line| &line["class"]).collect();
    assert_eq!(classes, ["interactive", "interactive", "background"]);
}

#[test]
fn the_first_interactive_request_takes_background_work_along() {
    let engined = Engines::two().set("scheduler", "background_idle_s", 60).start();
    engined.assert_answers("tiny-a");
    let mut waiting = background("tiny-b").open(engined.daemon.addr());
    eventually("it waits", BOUND, || (queue(&engined).len() == 1).then_some(()));
    engined.assert_answers("tiny-b");
    assert_eq!(waiting.reply().status(), 200);
    assert_eq!(engined.starts(), ["tiny-a", "tiny-b"]);
}

#[test]
fn rules_tell_background_work_and_the_header_beats_them() {
    let upstream = Upstream::answering("200 OK", "application/json", "{}");
    let rules = "[\"user-agent: *Batch*\", \"metadata.task: title_*\"]";
    let daemon = Setup::with(&upstream).set("scheduler", "background_rules", rules).start();
    let ask = |path: &str, metadata: Value| {
        Ask::post(
            path,
            &json!({"model": "tiny-a", "metadata": metadata, "prompt": "p",
                "messages": [{"role": "user", "content": "hello"}]}),
        )
    };
    let chat = "/v1/chat/completions";
    let title = json!({"task": "title_generation"});
    let asked = [
        (ask(chat, Value::Null).header("user-agent", "my-batch/1"), "background"),
        (ask(chat, Value::Null).header("user-agent", "openai"), "interactive"),
        (ask(chat, title.clone()), "background"),
        (ask("/v1/completions", title.clone()), "background"),
        (ask(chat, json!({"task": 7})), "interactive"),
        (ask(chat, title).header(CLASS, "Interactive"), "interactive"),
        (ask(chat, Value::Null).header(CLASS, "background"), "background"),
    ];
    for (number, (ask, class)) in (1..).zip(asked) {
        assert_eq!(ask.reply(daemon.addr()).status(), 200);
        let line = daemon.log_lines(number).pop().expect("a line");
        assert_eq!(line["class"], class, "request {number}");
    }
    let error = ask(chat, Value::Null)
        .header(CLASS, "urgent")
        .reply(daemon.addr())
        .error(400, "err_invalid_request");
    assert_eq!(error["param"], CLASS);
    assert_eq!(upstream.seen().len(), 7, "it went nowhere");
}

#[test]
fn a_rule_that_is_none_stops_the_start() {
    let ended = Setup::new().set("scheduler", "background_rules", "[\"batch\"]").run(&["serve"]);
    assert_eq!(ended.code, Some(78), "{}", ended.stderr);
    assert!(ended.stderr.contains("background_rules"), "{}", ended.stderr);
}

#[test]
fn whoever_asks_for_the_resident_is_answered_by_it_and_causes_no_swap() {
    let engined = Engines::two().start();
    engined.hello("resident").error(503, "err_no_resident");
    engined.assert_answers("tiny-b");
    let asked = |expected: &str| {
        let reply = background("resident").reply(engined.daemon.addr());
        assert_eq!((reply.status(), text_of(&reply)), (200, greeting(expected)));
        assert_eq!(reply.head.get("x-imageworks-model"), Some(expected));
    };
    asked("tiny-b");
    engined.assert_answers("tiny-a");
    asked("tiny-a");
    // Asked for in the middle of a swap, it is whatever comes.
    let mut stream = engined.stream("tiny-a", 50);
    let mut swapping = hello("tiny-b", false, json!({})).open(engined.daemon.addr());
    engined.wait_queue(1);
    let mut follows: Vec<_> =
        (0..8).map(|_| background("resident").open(engined.daemon.addr())).collect();
    stream.read_until("[DONE]");
    assert_eq!(swapping.reply().status(), 200);
    for follows in &mut follows {
        let reply = follows.reply();
        assert_eq!(reply.status(), 200, "{}", reply.text());
        let model = reply.head.get("x-imageworks-model").expect("a model").to_owned();
        assert_eq!(text_of(&reply), greeting(&model));
    }
    assert_eq!(engined.starts(), ["tiny-b", "tiny-a", "tiny-b"]);
}

#[test]
fn the_resident_may_be_at_ollama() {
    let ollama = Ollama::start("tiny-a", &[]);
    let engined = Engines::two().entry(ollama.entry("small", "tiny-a")).start();
    assert_eq!(engined.hello("small").status(), 200);
    let reply = eventually("it is known to be loaded", BOUND, || {
        Some(engined.hello("resident")).filter(|reply| reply.status() == 200)
    });
    assert_eq!(reply.head.get("x-imageworks-model"), Some("small"));
    assert!(engined.starts().is_empty());
}

/// A streamed request whose head has come.
fn stream(daemon: &Daemon, model: &str, sim: Value) -> Client {
    let mut client = hello(model, true, sim).open(daemon.addr());
    assert_eq!(client.head().status, 200);
    client
}

/// An upstream that holds each answer until the gate opens, and the most that it had at once.
fn holding(gate: &Gate) -> (Upstream, Arc<AtomicUsize>) {
    let (now, most) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let (gate, seen) = (gate.clone(), most.clone());
    let upstream = Upstream::start(move |_, wire| {
        seen.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        gate.pass();
        now.fetch_sub(1, Ordering::SeqCst);
        wire.answer("200 OK", "application/json", b"{}");
    });
    (upstream, most)
}

#[test]
fn a_model_of_somebody_elses_server_answers_no_more_at_once_than_is_allowed() {
    let gate = Gate::new();
    let (upstream, most) = holding(&gate);
    let daemon = Setup::with(&upstream)
        .entry(entry("other", &upstream))
        .set("scheduler", "max_concurrent_per_model", 2)
        .set("scheduler", "max_queue_depth", 3)
        .set("server", "heartbeat_ms", 50)
        .start();
    let ask = |model: &str| hello(model, false, json!({})).open(daemon.addr());
    let mut inside: Vec<_> = (0..2).map(|_| ask("tiny-a")).collect();
    upstream.wait_seen(2);
    let mut waits = stream(&daemon, "tiny-a", json!({}));
    waits.read_until(": waiting (position 1, waiting for a place at the model");
    let mut gone = stream(&daemon, "tiny-a", json!({}));
    gone.read_until("(position 2");
    let mut last = stream(&daemon, "tiny-a", json!({}));
    last.read_until("(position 3");
    hello("tiny-a", false, json!({})).reply(daemon.addr()).error(429, "err_queue_full");
    let shown = Ask::get("/v1/backends").reply(daemon.addr()).json();
    let depths: Vec<&Value> = shown["backends"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|line| line["kind"] == "external")
        .map(|line| &line["queue_depth"])
        .collect();
    assert_eq!(depths, [3, 0]);
    drop(gone);
    last.read_until(": waiting (position 2");
    let mut other = ask("other"); // has places of its own
    upstream.wait_seen(3);
    gate.open();
    for client in inside.iter_mut().chain([&mut other]) {
        assert_eq!(client.reply().status(), 200);
    }
    upstream.wait_seen(5);
    assert_eq!(most.load(Ordering::SeqCst), 3, "two of one model and one of the other");
}

#[test]
fn one_who_waits_too_long_for_a_place_is_told_when_to_come_again() {
    let gate = Gate::new();
    let (upstream, _) = holding(&gate);
    let daemon = Setup::with(&upstream)
        .set("scheduler", "max_concurrent_per_model", 1)
        .set("scheduler", "max_queue_wait_s", 0.3)
        .start();
    let mut inside = hello("tiny-a", false, json!({})).open(daemon.addr());
    upstream.wait_seen(1);
    let reply = hello("tiny-a", false, json!({})).reply(daemon.addr());
    reply.error(503, "err_queue_timeout");
    assert!(reply.head.get("retry-after").is_some());
    gate.open();
    assert_eq!(inside.reply().status(), 200);
    let waited = daemon.log_lines(2)[0]["queue_ms"].as_u64();
    assert!(waited >= Some(250), "{waited:?}");
}

#[test]
fn a_model_at_ollama_answers_no_more_at_once_than_is_allowed() {
    let ollama = Ollama::start("tiny-a", &[]);
    let daemon = Setup::new()
        .entry(ollama.entry("m", "tiny-a"))
        .set("scheduler", "max_concurrent_per_model", 1)
        .set("server", "heartbeat_ms", 50)
        .start();
    let slow = json!({"tokens": 40, "delay_token_ms": 10});
    ollama.order(json!({"on": "/api/chat", "fault": slow}));
    let mut first = stream(&daemon, "m", json!({}));
    first.read_until("tok0");
    let mut second = stream(&daemon, "m", json!({}));
    second.read_until(": waiting (position 1, waiting for a place");
    let rest = String::from_utf8(first.read_until("[DONE]")).expect("text");
    assert!(!rest.is_empty());
    second.read_until("[DONE]");
    assert_eq!(ollama.chats().len(), 2);
}

#[test]
fn while_the_gpu_is_leased_servers_that_use_it_are_refused_and_others_are_not() {
    let upstream = Upstream::answering("200 OK", "application/json", "{}");
    let mut local = entry("local", &upstream);
    local["backend_config"]["uses_gpu"] = json!(true);
    let start = |wait: bool| {
        Setup::with(&upstream)
            .entry(local.clone())
            .set("scheduler", "lease_wait", wait)
            .set("server", "heartbeat_ms", 50)
            .start()
    };
    let daemon = start(false);
    let post = |path: &str, body: Value| {
        Ask::post(&format!("/v1/gpu/{path}"), &body).reply(daemon.addr()).json()
    };
    let token =
        post("lease", json!({"owner": "judge"}))["token"].as_str().expect("a token").to_owned();
    let ask = |model: &str| hello(model, false, json!({}));
    let reply = ask("local").reply(daemon.addr());
    reply.error(423, "err_gpu_lease_active");
    assert!(reply.head.get("retry-after").is_some());
    let passes = ask("local").header("x-gpu-lease-token", &token).reply(daemon.addr());
    assert_eq!(passes.status(), 200);
    assert_eq!(ask("tiny-a").reply(daemon.addr()).status(), 200, "it uses no GPU here");
    post("release", json!({"token": token}));
    assert_eq!(ask("local").reply(daemon.addr()).status(), 200);

    let daemon = start(true);
    let leased = Ask::post("/v1/gpu/lease", &json!({"owner": "judge", "ttl_s": 1.0}));
    assert_eq!(leased.reply(daemon.addr()).status(), 200);
    let mut waits = stream(&daemon, "local", json!({}));
    waits.read_until(": waiting (position 0, the GPU is leased to judge");
    let before = upstream.seen().len();
    waits.read_until("}"); // the lease has died of age
    assert_eq!(upstream.seen().len(), before + 1);
}

/// An entry whose server uses this GPU.
fn on_the_gpu(upstream: &Upstream) -> Value {
    let mut local = entry("local", upstream);
    local["backend_config"]["uses_gpu"] = json!(true);
    local
}

fn leased(daemon: &Daemon, more: Value) -> Value {
    let mut body = json!({"owner": "judge"});
    for (key, value) in more.as_object().expect("an object") {
        body[key] = value.clone();
    }
    let reply = Ask::post("/v1/gpu/lease", &body).reply(daemon.addr());
    assert_eq!(reply.status(), 200, "{}", reply.text());
    reply.json()["token"].clone()
}

#[test]
fn nobody_is_told_to_stay_away_for_as_long_as_a_lease_may_last() {
    let upstream = Upstream::answering("200 OK", "application/json", "{}");
    let daemon = Setup::with(&upstream).entry(on_the_gpu(&upstream)).start();
    leased(&daemon, json!({"ttl_s": 900}));
    let reply = hello("local", false, json!({})).reply(daemon.addr());
    let wait: u64 = reply.head.get("retry-after").expect("advice").parse().expect("seconds");
    assert!(wait <= 30, "{wait}");
}

#[test]
fn whoever_stands_in_line_when_the_gpu_is_leased_is_refused_at_its_place() {
    let gate = Gate::new();
    let (upstream, _) = holding(&gate);
    let daemon = Setup::with(&upstream)
        .entry(on_the_gpu(&upstream))
        .set("scheduler", "max_concurrent_per_model", 1)
        .set("server", "heartbeat_ms", 50)
        .start();
    let mut first = hello("local", false, json!({})).open(daemon.addr());
    upstream.wait_seen(1);
    let mut second = stream(&daemon, "local", json!({}));
    second.read_until("waiting for a place");
    leased(&daemon, json!({}));
    gate.open();
    assert_eq!(first.reply().status(), 200);
    second.read_until("err_gpu_lease_active");
    assert_eq!(upstream.seen().len(), 1);
}

#[test]
fn both_waits_together_are_bounded_and_so_is_their_number() {
    let gate = Gate::new();
    let (upstream, _) = holding(&gate);
    let daemon = Setup::with(&upstream)
        .entry(on_the_gpu(&upstream))
        .set("scheduler", "max_concurrent_per_model", 1)
        .set("scheduler", "lease_wait", true)
        .set("scheduler", "max_queue_wait_s", 2.0)
        .set("scheduler", "max_queue_depth", 2)
        .set("server", "heartbeat_ms", 50)
        .start();
    let mut first = hello("local", false, json!({})).open(daemon.addr());
    upstream.wait_seen(1);
    leased(&daemon, json!({"ttl_s": 1.5}));
    let begun = Instant::now();
    let mut waits: Vec<_> = (0..2).map(|_| stream(&daemon, "local", json!({}))).collect();
    hello("local", false, json!({})).reply(daemon.addr()).error(429, "err_queue_full");
    for client in &mut waits {
        client.read_until("err_queue_timeout");
    }
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    gate.open();
    assert_eq!(first.reply().status(), 200);
    let lines = daemon.log_lines(4);
    let waited = lines.iter().filter(|line| line["error"]["code"] == "err_queue_timeout");
    for line in waited {
        let (queued, all) = (line["queue_ms"].as_u64(), line["duration_ms"].as_u64());
        assert!(queued >= Some(1500) && queued <= all, "{line}");
    }
}

#[test]
fn what_was_waited_is_counted_once() {
    let ollama = Ollama::start("tiny-a", &[]);
    let daemon = Setup::new()
        .entry(ollama.entry("m", "tiny-a"))
        .set("scheduler", "max_concurrent_per_model", 1)
        .start();
    ollama.order(json!({"on": "/api/chat", "fault": {"tokens": 60, "delay_token_ms": 10}}));
    let mut first = stream(&daemon, "m", json!({}));
    first.read_until("tok0");
    stream(&daemon, "m", json!({})).read_until("[DONE]");
    let second = &daemon.log_lines(2)[1];
    let (queued, all) = (second["queue_ms"].as_u64(), second["duration_ms"].as_u64());
    assert!(queued.expect("a number") * 4 <= all.expect("a number") * 3, "{second}");
}

#[test]
fn a_leases_holder_is_not_kept_out_by_those_who_wait_for_its_end() {
    let ollama = Ollama::start("tiny-a", &[]);
    let daemon = Setup::new()
        .entry(ollama.entry("m", "tiny-a"))
        .set("scheduler", "max_concurrent_per_model", 1)
        .set("scheduler", "lease_wait", true)
        .set("server", "heartbeat_ms", 50)
        .start();
    let token = leased(&daemon, json!({}));
    stream(&daemon, "m", json!({})).read_until("leased");
    let mut waits = stream(&daemon, "m", json!({}));
    waits.read_until("leased");
    let pass = token.as_str().expect("a text");
    let holder = hello("m", false, json!({})).header("x-gpu-lease-token", pass);
    assert_eq!(holder.reply(daemon.addr()).status(), 200);
}

#[test]
fn background_work_that_waits_for_the_gpu_keeps_nobody_from_the_model() {
    let ollama = Ollama::start("tiny-a", &[]);
    let engined = Engines::two()
        .entry(ollama.entry("m", "tiny-a"))
        .set("scheduler", "max_concurrent_per_model", 1)
        .set("scheduler", "background_idle_s", 600)
        .start();
    engined.assert_answers("tiny-a");
    let mut waiting = background("m").open(engined.daemon.addr());
    eventually("it waits", BOUND, || (queue(&engined).len() == 1).then_some(()));
    assert_eq!(engined.hello("m").status(), 200);
    assert_eq!(waiting.reply().status(), 200);
}
