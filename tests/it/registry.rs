//! The registry as it is edited while it is served (SPEC 4).

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use crate::support::daemon::entry;
use crate::support::edits::{self, Editor, STABLE, VOLATILE, Want};
use crate::support::expected::{Rng, Shown};
use crate::support::{Ask, BOUND, Daemon, End, Setup, Upstream, alone, eventually, sse, vllm};

const EDITS: usize = 1000;
const CLIENTS: usize = 50;
/// Between two events of one stream, so that streams outlast loads.
const PACE: Duration = Duration::from_millis(15);
/// How long a state may take to be visible while both cores are busy with other tests too. The
/// regular look comes later than that: what the watch does not hear fails the test.
const VISIBLE: Duration = Duration::from_secs(15);
const REGULAR_LOOK_S: &str = "3600";

fn debug(daemon: &Daemon) -> Value {
    let reply = Ask::get("/v1/debug/registry").reply(daemon.addr());
    assert_eq!(reply.status(), 200, "{}", reply.text());
    reply.json()
}

fn shown(debug: &Value) -> Shown {
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let entries = debug["entries"].as_array().expect("entries");
    let shown: Shown =
        entries.iter().map(|e| (text(&e["name"]), text(&e["display_name"]))).collect();
    let names: BTreeSet<String> =
        debug["names"].as_array().expect("names").iter().map(text).collect();
    assert!(shown.keys().eq(&names), "{debug}");
    shown
}

fn chat(model: &str) -> Ask {
    Ask::chat(json!({"model": model, "messages": [], "stream": true}).to_string())
}

/// The clients' common state.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    streams: AtomicUsize,
    gone: AtomicUsize,
    faults: Mutex<Vec<String>>,
}

/// Ends the clients, however the test ends.
struct Stop<'a>(&'a Load);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::SeqCst);
    }
}

impl Load {
    fn faults(&self) -> Vec<String> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One client: streams of stable models, now and then one that comes and goes.
    fn client(&self, addr: SocketAddr, number: usize, want: &str) {
        for turn in number.. {
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            let may_be_gone = turn % 8 == 7;
            let model = if may_be_gone {
                edits::volatile(turn / 8 % VOLATILE)
            } else {
                edits::stable(turn % STABLE)
            };
            let reply = chat(&model).reply(addr);
            if may_be_gone && reply.status() == 404 {
                self.gone.fetch_add(1, Ordering::SeqCst);
            } else if (reply.status(), &reply.end) == (200, &End::Whole) && reply.text() == want {
                self.streams.fetch_add(1, Ordering::SeqCst);
            } else {
                let fault = format!("{model}: {:?} {}", reply.end, reply.text());
                self.faults.lock().unwrap_or_else(PoisonError::into_inner).push(fault);
                return;
            }
        }
    }
}

fn seed() -> u64 {
    let ordered = std::env::var("IMAGEWORKS_IT_SEED").ok().and_then(|text| text.parse().ok());
    ordered.unwrap_or_else(|| {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
        u64::from(since.subsec_nanos()) ^ since.as_secs()
    })
}

/// Waits for what must be visible and gives it.
fn see(daemon: &Daemon, editor: &Editor, before: &Shown, within: Duration) -> Shown {
    let begun = Instant::now();
    loop {
        let state = debug(daemon);
        let (now, error) = (shown(&state), state["error"].as_str());
        let (fits, wanted) = match editor.want() {
            Want::Good(want) => (now == want && error.is_none(), format!("{want:?}")),
            Want::Bad(part) => (error.is_some_and(|e| e.contains(part)), part.to_owned()),
        };
        if fits {
            let good = matches!(editor.want(), Want::Good(_));
            assert!(good || now == *before || editor.may_have_shown(&now), "{now:?} was never so");
            return now;
        }
        let late = begun.elapsed() > within;
        assert!(!late, "not within {within:?}: {wanted}\nbut {now:?}, error {error:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_thousand_random_edits_under_load_lose_no_request() {
    let _alone = alone();
    let seed = seed();
    eprintln!("IMAGEWORKS_IT_SEED={seed}");
    let events = vllm::stream(&["a", " b", " c", " d", " e", " f", " g", " h"]);
    let want = vllm::for_client(&events).concat();
    assert!(want.ends_with(sse::DONE));
    let upstream = Upstream::start(move |_, wire| {
        wire.stream_head();
        for event in &events {
            thread::sleep(PACE); // the pace is the load
            wire.chunk(event.as_bytes());
        }
        wire.last_chunk();
    });
    let base_url = upstream.base_url();
    let setup = Setup::new().env("IMAGEWORKS_TEST_REGULAR_LOOK_S", REGULAR_LOOK_S);
    let daemon = edits::first(&base_url).into_iter().fold(setup, Setup::entry).start();
    let mut editor = Editor::new(daemon.path("registry"), &base_url, Rng::new(seed));
    let (begun, load) = (Instant::now(), Load::default());
    thread::scope(|scope| {
        let _stop = Stop(&load);
        for number in 0..CLIENTS {
            let (load, want, addr) = (&load, &want, daemon.addr());
            scope.spawn(move || load.client(addr, number, want));
        }
        edit_all(&daemon, &mut editor, &load, seed);
    });
    assert_eq!(load.faults(), Vec::<String>::new());
    let loads = debug(&daemon)["loads"].clone();
    let (streams, gone) = (load.streams.into_inner(), load.gone.into_inner());
    eprintln!("{:?}: {streams} streams, {gone} removed, {loads} loads", begun.elapsed());
    eprintln!("{:?}", editor.made);
    assert!(streams > CLIENTS, "{streams}");
    nothing_loads_by_itself(&daemon);
    still_watched(&daemon, &mut editor);
    let want = Value::Array(editor.merged());
    eventually("the merged file is that of the last layers", VISIBLE, || {
        let text = fs::read_to_string(daemon.path("registry/model_registry.json")).ok()?;
        let merged: Value = serde_json::from_str(&text).expect("JSON, never half of it");
        (merged == want).then_some(())
    });
    assert!(!daemon.stderr().contains("panicked"), "{}", daemon.stderr());
}

fn edit_all(daemon: &Daemon, editor: &mut Editor, load: &Load, seed: u64) {
    let mut rng = Rng::new(seed ^ 1);
    let (mut made, mut slowest, mut bad) = (0, Duration::ZERO, 0);
    let mut visible = shown(&debug(daemon));
    while made < EDITS {
        let burst = (5 + rng.below(16)).min(EDITS - made);
        for _ in 0..burst {
            editor.edit();
        }
        made += burst;
        let waiting = Instant::now();
        visible = see(daemon, editor, &visible, VISIBLE);
        slowest = slowest.max(waiting.elapsed());
        match editor.want() {
            Want::Good(_) => editor.settled(),
            Want::Bad(_) => bad += 1,
        }
        assert_eq!(load.faults(), Vec::<String>::new(), "after {made} edits");
    }
    editor.mend();
    see(daemon, editor, &visible, VISIBLE);
    eprintln!("{made} edits, visible after {slowest:?} at most; {bad} bursts ended in a bad state");
}

/// Nobody edits: no load may follow from our own writing or reading.
fn nothing_loads_by_itself(daemon: &Daemon) {
    let loads = || debug(daemon)["loads"].clone();
    thread::sleep(Duration::from_secs(1)); // what is under way ends
    let before = loads();
    thread::sleep(Duration::from_secs(1));
    assert_eq!(loads(), before, "it loads without end");
}

/// Sooner than the regular look would find it: three times, that it is no accident.
fn still_watched(daemon: &Daemon, editor: &mut Editor) {
    for _ in 0..3 {
        editor.mend();
        see(daemon, editor, &Shown::new(), Duration::from_secs(1));
    }
}

fn readyz_error(daemon: &Daemon) -> Option<String> {
    let ready = Ask::get("/v1/readyz").reply(daemon.addr());
    assert_eq!(ready.status(), 200, "the last good registry serves on: {}", ready.text());
    ready.json()["details"]["registry_error"].as_str().map(str::to_owned)
}

#[test]
fn the_error_of_a_broken_registry_is_told_with_its_place() {
    let upstream = Upstream::streaming(vllm::stream(&["a"]));
    let daemon = Setup::with(&upstream).start();
    let good = format!("[\n{}\n]", entry("tiny-a", &upstream));
    let broken = good.replace("\n]", ",\n{\n  \"name\": \"b\",\n  \"backend\": oops\n}]");
    let line = 1 + broken[..broken.find("oops").expect("it is broken")].matches('\n').count();
    daemon.write_registry(&broken);
    let told = eventually("readyz has the error", BOUND, || readyz_error(&daemon));
    let place = format!("model_registry.curated.json:{line}:");
    assert!(told.contains(&place) && told.contains("\"b\""), "{told}");
    assert_eq!(debug(&daemon)["error"], told);
    let log = eventually("the log has the error", BOUND, || {
        Some(daemon.stderr()).filter(|log| log.contains(&place))
    });
    assert!(log.contains("cannot be loaded"), "{log}");
    assert!(Ask::chat(vllm::ask(true)).reply(daemon.addr()).text().ends_with(sse::DONE));
    daemon.write_registry(&good);
    eventually("the error is gone", BOUND, || readyz_error(&daemon).is_none().then_some(()));
    assert_eq!(debug(&daemon)["error"], Value::Null);
    daemon.write_registry(&good.replace(
        "\n]",
        ",\n{\"name\": \"b\", \"backend\": \"openai\", \"backend_config\": {\"port\": \"x\"}}]",
    ));
    let skipped = eventually("one entry is skipped", BOUND, || {
        Some(debug(&daemon)["skipped"].clone()).filter(|skipped| skipped[0].is_object())
    });
    assert_eq!((&skipped[0]["name"], &skipped[0]["place"]["line"]), (&json!("b"), &json!(3)));
    assert_eq!(readyz_error(&daemon), None);
    assert_eq!(Ask::chat(vllm::ask(true)).reply(daemon.addr()).status(), 200);
}

/// One request over a connection that stays; the harness's client is too careful to be fast.
fn fetch(stream: &mut TcpStream, request: &[u8], bytes: &mut Vec<u8>) -> usize {
    stream.write_all(request).expect("a request");
    let mut got = 0;
    loop {
        got += stream.read(&mut bytes[got..]).expect("an answer");
        let Some(end) = bytes[..got.min(4096)].windows(4).position(|w| w == b"\r\n\r\n") else {
            continue;
        };
        let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 200"), "{head}");
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
        let whole = end + 4 + length.expect("a length").parse::<usize>().expect("a number");
        bytes.resize(bytes.len().max(whole), 0);
        stream.read_exact(&mut bytes[got..whole]).expect("the rest");
        bytes.copy_within(end + 4..whole, 0);
        return whole - end - 4;
    }
}

#[test]
fn models_answer_in_milliseconds_with_five_thousand_entries() {
    let _alone = alone();
    let upstream = Upstream::answering("200 OK", "application/json", vllm::WHOLE);
    let model = |n: usize| entry(&format!("model-{:04}", n * 7919 % 5000), &upstream);
    let daemon = (0..5000).map(model).fold(Setup::new(), Setup::entry).start();
    let mut stream = TcpStream::connect(daemon.addr()).expect("the daemon accepts");
    stream.set_nodelay(true).expect("nodelay");
    stream.set_read_timeout(Some(BOUND)).expect("a read timeout");
    let request = Ask::get("/v1/models").bytes(daemon.addr());
    let mut bytes = vec![0; 8 << 20];
    let mut length = 0;
    let mut times: Vec<Duration> = (0..200)
        .map(|_| {
            let begun = Instant::now();
            length = fetch(&mut stream, &request, &mut bytes);
            begun.elapsed()
        })
        .collect();
    times.sort();
    let (p50, p99) = (times[100], times[198]);
    eprintln!("GET /v1/models, 5,000 entries, {length} bytes: p50 {p50:?}, p99 {p99:?}");
    let bound = Duration::from_millis(50);
    eprintln!("bound {bound:?} here, 5 ms in release builds");
    assert!(p99 < bound, "{p99:?}");
    let body: Value = serde_json::from_slice(&bytes[..length]).expect("JSON");
    let ids: Vec<&str> =
        body["data"].as_array().expect("a list").iter().filter_map(|m| m["id"].as_str()).collect();
    assert_eq!(ids.len(), 5000);
    assert!(ids.is_sorted());
}

#[test]
fn one_model_answers_by_any_name() {
    let upstream = Upstream::answering("200 OK", "application/json", vllm::WHOLE);
    let mut named = entry("logical-a", &upstream);
    named["display_name"] = "Shown As This".into();
    named["model_aliases"] = json!(["nick-a"]);
    let mut hidden = entry("hidden-one", &upstream);
    hidden["deprecated"] = true.into();
    let setup = Setup::new().entry(named).entry(hidden).entry(entry("org/with-slash", &upstream));
    let daemon = setup.start();
    let get = |id: &str| Ask::get(&format!("/v1/models/{id}")).reply(daemon.addr());
    for (id, logical) in [
        ("logical-a", "logical-a"),
        ("nick-a", "logical-a"),
        ("Shown%20As%20This", "logical-a"),
        ("hidden-one", "hidden-one"),
        ("org/with-slash", "org/with-slash"),
        ("org%2Fwith-slash", "org/with-slash"),
    ] {
        let reply = get(id);
        assert_eq!(reply.status(), 200, "{id}: {}", reply.text());
        let model = reply.json();
        assert_eq!(model["extensions"]["logical_id"], logical, "{id}");
        assert_eq!(model["object"], "model");
    }
    let error = get("logical-b").error(404, "err_model_not_found");
    assert!(error["hint"].as_str().is_some_and(|hint| hint.contains("logical-a")), "{error}");
    let list = Ask::get("/v1/models").reply(daemon.addr()).json();
    assert_eq!(list["data"].as_array().map(Vec::len), Some(2), "{list}");
}

#[test]
fn debug_needs_the_admin_right() {
    let upstream = Upstream::answering("200 OK", "application/json", vllm::WHOLE);
    let keys = r#"[{ name = "a", key = "for-chat" }, { name = "b", key = "for-all", rights = ["chat", "admin"] }]"#;
    let daemon = Setup::with(&upstream).set("security", "api_keys", keys).start();
    let ask = Ask::get("/v1/debug/registry");
    let with = |key: &str| ask.clone().header("authorization", &format!("Bearer {key}"));
    with("for-chat").reply(daemon.addr()).error(403, "err_forbidden");
    assert_eq!(ask.reply(daemon.addr()).status(), 401);
    let reply = with("for-all").reply(daemon.addr());
    assert_eq!((reply.status(), &reply.json()["names"]), (200, &json!(["tiny-a"])));
}

#[test]
fn a_deployment_hides_what_it_does_not_name() {
    let upstream = Upstream::streaming(vllm::stream(&["a"]));
    let setup = || {
        let mut only = entry("tiny-a", &upstream);
        only["metadata"] = json!({"profiles": ["testing"]});
        Setup::new().entry(only).entry(entry("everywhere", &upstream))
    };
    let listed = |daemon: &Daemon| {
        let list = Ask::get("/v1/models").reply(daemon.addr()).json();
        let ids = list["data"].as_array().expect("a list").iter().map(|m| m["id"].clone());
        ids.collect::<Vec<_>>()
    };
    let production = setup().start();
    assert_eq!(listed(&production), ["everywhere"]);
    let reply = Ask::chat(vllm::ask(true)).reply(production.addr());
    reply.error(404, "err_model_not_found");
    let testing = setup().set("profiles", "deployment", "\"testing\"").start();
    assert_eq!(listed(&testing), ["everywhere", "tiny-a"]);
    let reply = Ask::chat(vllm::ask(true)).reply(testing.addr());
    assert_eq!((reply.status(), &reply.end), (200, &End::Whole));
}
