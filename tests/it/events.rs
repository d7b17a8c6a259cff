//! `GET /v1/events`: what an operator hears of swaps, engines, leases, the registry and the end.

use serde_json::{Value, json};

use crate::support::engines::{Engined, hello};
use crate::support::{Ask, BOUND, Client, Daemon, Engines, Setup, Upstream, eventually};

/// Somebody who listens.
struct Listener {
    client: Client,
    text: String,
}

impl Listener {
    #[track_caller]
    fn of(daemon: &Daemon, path: &str, last: Option<u64>) -> Self {
        let mut ask = Ask::get(path);
        if let Some(last) = last {
            ask = ask.header("last-event-id", &last.to_string());
        }
        let mut client = ask.open(daemon.addr());
        let head = client.head();
        assert_eq!((head.status, head.get("content-type")), (200, Some("text/event-stream")));
        let text = String::from_utf8(client.read_until("retry: 2000\n\n")).expect("text");
        let text = text.split_once("retry: 2000\n\n").expect("the greeting").1.to_owned();
        Listener { client, text }
    }

    /// The next event; comments are passed over. `None`: the stream has ended.
    fn next(&mut self) -> Option<Value> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.text = rest;
                if let Some(data) = event.lines().find_map(|line| line.strip_prefix("data: ")) {
                    let data: Value = serde_json::from_str(data).expect("JSON");
                    let kind = data["type"].as_str().expect("a type");
                    assert!(event.contains(&format!("event: {kind}\n")), "{event}");
                    return Some(data);
                }
                continue;
            }
            let piece = self.client.piece().expect("an uncut body")?;
            self.text.push_str(&String::from_utf8(piece.data).expect("text"));
        }
    }

    /// The next one of that kind for which it holds.
    #[track_caller]
    fn until(&mut self, kind: &str, holds: impl Fn(&Value) -> bool) -> Value {
        loop {
            let event = self.next().expect("the stream goes on");
            if event["type"] == kind && holds(&event) {
                return event;
            }
        }
    }
}

fn listen(engined: &Engined) -> Listener {
    Listener::of(&engined.daemon, "/v1/events", None)
}

fn any(_: &Value) -> bool {
    true
}

#[test]
fn a_swap_is_told_with_its_reason_and_who_waits() {
    let engined = Engines::two().start();
    let mut listener = listen(&engined);
    let mut stream = engined.stream("tiny-a", 100);
    let first = listener.until("swap_begins", any);
    assert_eq!((&first["from"], &first["to"]), (&Value::Null, &json!("tiny-a")));
    assert_eq!(
        (&first["reason"], &first["because"]),
        (&json!("request"), &json!("nothing was loaded"))
    );
    let states = |listener: &mut Listener, kind: &str, wanted: &[&str]| {
        for state in wanted {
            listener.until(kind, |event| event["state"] == *state);
        }
    };
    let done = listener.until("swap_done", any);
    assert_eq!(done["to"], "tiny-a");
    assert!(done["took_ms"].as_u64() > Some(0), "{done}");
    let mut waiting = hello("tiny-b", false, json!({})).open(engined.daemon.addr());
    let queue = listener.until("queue", |event| event["waiting"][0]["model"] == "tiny-b");
    let waits = json!([{"model": "tiny-b", "class": "interactive", "requests": 1}]);
    assert_eq!(queue["waiting"], waits);
    stream.read_until("[DONE]");
    let second = listener.until("swap_begins", any);
    assert_eq!((&second["from"], &second["to"]), (&json!("tiny-a"), &json!("tiny-b")));
    assert_eq!(second["queue"], waits);
    assert!(second["because"].as_str().expect("a text").contains("nobody used"), "{second}");
    states(&mut listener, "resident", &["stopping", "loading"]);
    states(&mut listener, "engine", &["ready"]);
    assert_eq!(waiting.reply().status(), 200);
}

#[test]
fn an_engine_that_dies_is_told_with_what_it_died_of() {
    let engined = Engines::two().start();
    let mut listener = listen(&engined);
    engined.assert_answers("tiny-a");
    let ready = listener.until("engine", |event| event["state"] == "ready");
    assert_eq!(ready["model"], "tiny-a");
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(engined.pid()),
        nix::sys::signal::Signal::SIGKILL,
    )
    .expect("a living engine");
    let failed = listener.until("engine", |event| event["error"].is_string());
    assert!(failed["error"].as_str().expect("a text").contains("signal"), "{failed}");
}

#[test]
fn orders_by_hand_are_told_as_such() {
    let engined = Engines::two().start();
    let mut listener = listen(&engined);
    engined.order("activate", json!({"model": "tiny-a", "wait": true}));
    assert_eq!(listener.until("swap_begins", any)["reason"], "manual");
    listener.until("swap_done", |done| done["reason"] == "manual");
    engined.order("deactivate", json!({}));
    let leaves = listener.until("swap_begins", any);
    assert_eq!((&leaves["reason"], &leaves["to"]), (&json!("manual"), &Value::Null));
    listener.until("resident", |event| event["state"] == "empty");
}

#[test]
fn leases_and_the_registry_are_told() {
    let engined = Engines::two().start();
    let mut listener = listen(&engined);
    let post = |path: &str, body: Value| {
        Ask::post(&format!("/v1/gpu/{path}"), &body).reply(engined.daemon.addr()).json()
    };
    engined.assert_answers("tiny-a");
    listener.until("swap_done", any);
    let token = post("lease", json!({"owner": "judge", "ttl_s": 60}))["token"].clone();
    let leaves = listener.until("swap_begins", any);
    assert_eq!((&leaves["from"], &leaves["to"]), (&json!("tiny-a"), &Value::Null));
    assert_eq!(leaves["reason"], "lease");
    let granted = listener.until("lease", any);
    assert_eq!((&granted["state"], &granted["owner"]), (&json!("granted"), &json!("judge")));
    assert!(granted["expires_at"].is_f64() && granted.get("token").is_none(), "{granted}");
    post("renew", json!({"token": token, "ttl_s": 1}));
    assert_eq!(listener.until("lease", any)["state"], "renewed");
    assert_eq!(listener.until("lease", any)["state"], "expired");
    engined.daemon.write_registry("[]");
    assert_eq!(listener.until("registry", any)["models"], 0);
    engined.daemon.write_registry("[{]");
    let bad = listener.until("registry", |event| event["error"].is_string());
    assert_eq!(bad["models"], 0);
}

#[test]
fn who_comes_back_gets_what_it_missed_and_who_was_too_slow_is_told() {
    let engined = Engines::two().start();
    let mut listener = listen(&engined);
    engined.assert_answers("tiny-a");
    let first = listener.until("swap_begins", any)["id"].as_u64().expect("a number");
    drop(listener);
    engined.assert_answers("tiny-b");
    let mut again = Listener::of(&engined.daemon, "/v1/events", Some(first));
    let next = again.next().expect("an event");
    assert_eq!(next["id"], first + 1, "none is left out");
    assert_eq!(again.until("swap_begins", any)["to"], "tiny-b");
    let mut stale = Listener::of(&engined.daemon, "/v1/events?last_event_id=7", None);
    assert_eq!(stale.next(), Some(json!({"type": "gap"})), "of a daemon that is no more");
    let error = Ask::get("/v1/events").header("last-event-id", "x").reply(engined.daemon.addr());
    error.error(400, "err_invalid_request");
}

#[test]
fn silence_is_broken_and_the_stream_ends_with_the_daemon() {
    let upstream = Upstream::answering("200 OK", "application/json", "{}");
    let mut daemon = Setup::with(&upstream).set("server", "heartbeat_ms", 50).start();
    let mut listener = Listener::of(&daemon, "/v1/events", None);
    listener.client.read_until(": still here\n\n");
    daemon.terminate();
    assert_eq!(listener.until("draining", any)["running"], 0);
    assert_eq!(listener.next(), None);
    assert!(daemon.wait_exit(BOUND).success());
}

#[test]
fn only_an_admin_may_listen() {
    let upstream = Upstream::answering("200 OK", "application/json", "{}");
    let keys = "[{ name = \"gui\", key = \"chat-key\" }, \
                 { name = \"op\", key = \"admin-key\", rights = [\"chat\", \"admin\"] }]";
    let daemon = Setup::with(&upstream).set("security", "api_keys", keys).start();
    let as_gui = Ask::get("/v1/events").header("x-api-key", "chat-key").reply(daemon.addr());
    as_gui.error(403, "err_forbidden");
    let mut client = Ask::get("/v1/events").header("x-api-key", "admin-key").open(daemon.addr());
    assert_eq!(client.head().status, 200);
    eventually("it listens", BOUND, || {
        let piece = client.piece().ok().flatten()?;
        String::from_utf8(piece.data).ok().filter(|text| text.contains("retry:"))
    });
}
