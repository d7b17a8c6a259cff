//! SIGTERM, SIGHUP and what clients see of them (SPEC 11, 4.3).

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::daemon::entry;
use crate::support::{
    Ask, BOUND, Client, Daemon, End, Gate, Setup, Upstream, eventually, sse, vllm,
};

/// Connections that are idle may hold the end up for this long.
const CLOSING: Duration = Duration::from_millis(3500);

/// Two events, then the rest when the gate opens.
fn gated(gate: &Gate) -> Upstream {
    let gate = gate.clone();
    Upstream::start(move |_, wire| {
        let events = vllm::stream(&["a", "b"]);
        wire.stream_head();
        wire.chunk(events[0].as_bytes());
        wire.chunk(events[1].as_bytes());
        gate.pass();
        for event in &events[2..] {
            wire.chunk(event.as_bytes());
        }
        wire.last_chunk();
    })
}

fn silent_after_first() -> Upstream {
    Upstream::start(|_, wire| {
        wire.stream_head();
        wire.chunk(vllm::role(0).as_bytes());
        wire.chunk(vllm::word(0, "a").as_bytes());
        wire.until_gone();
    })
}

/// A stream in flight: its first words have come.
fn in_flight(daemon: &Daemon) -> (Client, Vec<u8>) {
    let mut client = Ask::chat(vllm::ask(true)).open(daemon.addr());
    assert_eq!(client.head().status, 200);
    let body = client.read_until("\"a\"");
    (client, body)
}

fn finish(mut client: Client, mut body: Vec<u8>) -> (Vec<u8>, End) {
    let (pieces, end) = client.rest();
    body.extend(pieces.into_iter().flat_map(|piece| piece.data));
    (body, end)
}

/// Waits until the daemon says that it drains.
fn wait_draining(daemon: &Daemon) {
    eventually("readyz says 503", BOUND, || {
        (Ask::get("/v1/readyz").reply(daemon.addr()).status() == 503).then_some(())
    });
}

#[test]
fn a_drain_refuses_the_new_and_finishes_the_old() {
    let gate = Gate::new();
    let upstream = gated(&gate);
    let mut daemon = Setup::with(&upstream).start();
    let (client, body) = in_flight(&daemon);
    daemon.terminate();
    wait_draining(&daemon);
    let ready = Ask::get("/v1/readyz").reply(daemon.addr());
    assert!(ready.text().contains("draining"), "{}", ready.text());
    daemon.assert_serves();
    let reply = Ask::chat(vllm::ask(true)).reply(daemon.addr());
    let error = reply.error(503, "err_draining");
    assert_eq!(error["type"], "draining");
    assert_eq!(reply.head.get("retry-after"), Some("5"));
    Ask::get("/v1/models").reply(daemon.addr()).error(503, "err_draining");
    gate.open();
    let (body, end) = finish(client, body);
    let want = vllm::for_client(&vllm::stream(&["a", "b"])).concat();
    assert_eq!((String::from_utf8(body).unwrap(), end), (want, End::Whole));
    assert_eq!(daemon.wait_exit(CLOSING).code(), Some(0));
    let whole = daemon.log_lines(daemon_lines(&daemon));
    let streamed: Vec<_> = whole.iter().filter(|line| line["status"] == 200).collect();
    assert_eq!(streamed.len(), 1);
    assert_eq!(streamed[0]["finish_reason"], "stop");
}

/// Refusals while draining may be logged or not; the stream's line must be there.
fn daemon_lines(daemon: &Daemon) -> usize {
    let text = std::fs::read_to_string(daemon.path("logs/chat.jsonl")).unwrap();
    text.matches('\n').count()
}

#[test]
fn a_request_that_is_not_streamed_finishes_in_a_drain_too() {
    let gate = Gate::new();
    let script_gate = gate.clone();
    let upstream = Upstream::start(move |_, wire| {
        script_gate.pass();
        wire.answer("200 OK", "application/json", vllm::WHOLE.as_bytes());
    });
    let mut daemon = Setup::with(&upstream).start();
    let mut client = Ask::chat(vllm::ask(false)).open(daemon.addr());
    upstream.wait_seen(1);
    daemon.terminate();
    wait_draining(&daemon);
    gate.open();
    let reply = client.reply();
    assert_eq!((reply.status(), reply.text()), (200, vllm::WHOLE.to_owned()));
    assert_eq!(daemon.wait_exit(CLOSING).code(), Some(0));
    assert_eq!(daemon.log_line()["status"], 200);
}

#[test]
fn what_outlasts_the_drain_gets_the_error_event() {
    let upstream = silent_after_first();
    let mut daemon = Setup::with(&upstream).set("server", "drain_timeout_s", "0.5").start();
    let (client, body) = in_flight(&daemon);
    // Not streamed, and streamed without a head: these get their real status.
    let quiet = Upstream::start(|_, wire| wire.until_gone());
    daemon.write_registry(&json!([entry("tiny-a", &upstream), entry("quiet", &quiet)]).to_string());
    daemon.signal(Signal::SIGHUP);
    let ask = |stream: bool| format!(r#"{{"model":"quiet","messages":[],"stream":{stream}}}"#);
    eventually("the second model is there", BOUND, || {
        Ask::get("/v1/models").reply(daemon.addr()).text().contains("quiet").then_some(())
    });
    let mut unary = Ask::chat(ask(false)).open(daemon.addr());
    let mut held = Ask::chat(ask(true)).open(daemon.addr());
    quiet.wait_seen(2);
    let told = Instant::now();
    daemon.terminate();
    let (body, end) = finish(client, body);
    assert!(told.elapsed() >= Duration::from_millis(500), "{:?}", told.elapsed());
    assert_eq!(end, End::Whole);
    let (_, before) = sse::broken(&body, "err_draining", 503);
    assert_eq!(before.len(), 2);
    for client in [&mut unary, &mut held] {
        let reply = client.reply();
        reply.error(503, "err_draining");
        assert_eq!(reply.head.get("retry-after"), Some("5"));
    }
    upstream.wait_gone(1, Duration::from_secs(1));
    quiet.wait_gone(2, Duration::from_secs(1));
    drop((unary, held));
    assert_eq!(daemon.wait_exit(CLOSING).code(), Some(0));
    for line in daemon.log_lines(3) {
        assert_eq!(line["error"]["code"], "err_draining", "{line}");
    }
}

#[test]
fn a_second_signal_cuts_at_once() {
    for second in [Signal::SIGTERM, Signal::SIGINT] {
        let upstream = silent_after_first();
        let mut daemon = Setup::with(&upstream).start();
        let (client, body) = in_flight(&daemon);
        daemon.terminate();
        wait_draining(&daemon);
        let told = Instant::now();
        daemon.signal(second);
        let (body, end) = finish(client, body);
        assert!(told.elapsed() < Duration::from_secs(1), "{:?}", told.elapsed());
        assert_eq!(end, End::Whole);
        sse::broken(&body, "err_draining", 503);
        assert_eq!(daemon.wait_exit(CLOSING).code(), Some(0));
        assert_eq!(daemon.log_line()["error"]["code"], "err_draining");
    }
}

#[test]
fn an_idle_connection_does_not_hold_up_the_end() {
    let upstream = Upstream::answering("200 OK", "application/json", vllm::WHOLE);
    let mut daemon = Setup::with(&upstream).start();
    let mut used = Client::connect(daemon.addr());
    used.send(&Ask::chat(vllm::ask(false)).bytes(daemon.addr()));
    assert_eq!(used.reply().status(), 200);
    let mut unused = Client::connect(daemon.addr());
    daemon.assert_serves();
    let told = Instant::now();
    daemon.terminate();
    assert_eq!(daemon.wait_exit(CLOSING).code(), Some(0));
    eprintln!("ended after {:?}", told.elapsed());
    used.until_closed();
    unused.until_closed();
    assert_eq!(daemon.log_line()["status"], 200);
}

#[test]
fn nothing_in_flight_means_a_quick_end() {
    let upstream = Upstream::answering("200 OK", "application/json", vllm::WHOLE);
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut daemon = Setup::with(&upstream).start();
        daemon.assert_serves();
        let told = Instant::now();
        daemon.signal(signal);
        assert_eq!(daemon.wait_exit(CLOSING).code(), Some(0));
        eprintln!("ended after {:?}", told.elapsed());
    }
}

#[test]
fn a_signal_while_a_body_arrives_does_not_wedge_the_end() {
    let upstream = Upstream::answering("200 OK", "application/json", vllm::WHOLE);
    let mut daemon = Setup::with(&upstream).set("server", "drain_timeout_s", "0.5").start();
    let mut client = Client::connect(daemon.addr());
    let request = Ask::chat(vllm::ask(false)).bytes(daemon.addr());
    client.send(&request[..request.len() - 5]);
    daemon.assert_serves();
    daemon.terminate();
    assert_eq!(daemon.wait_exit(Duration::from_secs(12)).code(), Some(0));
}

#[test]
fn sighup_reloads_the_registry_and_a_broken_file_keeps_the_old_one() {
    let (one, two) = (silent_after_first(), silent_after_first());
    let daemon = Setup::with(&one).start();
    let ids = || {
        let list = Ask::get("/v1/models").reply(daemon.addr()).json();
        list["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| m["id"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(), ["tiny-a"]);
    daemon.write_registry(&json!([entry("tiny-a", &one), entry("tiny-b", &two)]).to_string());
    daemon.signal(Signal::SIGHUP);
    eventually("the new model is listed", BOUND, || (ids() == ["tiny-a", "tiny-b"]).then_some(()));
    daemon.write_registry("[{\"name\": \"x\",\n  oops");
    daemon.signal(Signal::SIGHUP);
    let ready = eventually("readyz shows the error", BOUND, || {
        let ready = Ask::get("/v1/readyz").reply(daemon.addr());
        ready.json()["details"]["registry_error"].is_string().then_some(ready)
    });
    let error = ready.json()["details"]["registry_error"].as_str().unwrap().to_owned();
    assert!(
        error.contains("model_registry.curated.json") && error.contains('2'),
        "file and line: {error}"
    );
    assert_eq!(ready.status(), 200, "the last good registry serves on");
    assert_eq!(ids(), ["tiny-a", "tiny-b"]);
    daemon.write_registry(&json!([entry("tiny-b", &two)]).to_string());
    daemon.signal(Signal::SIGHUP);
    eventually("the file is good again", BOUND, || (ids() == ["tiny-b"]).then_some(()));
    let ready = Ask::get("/v1/readyz").reply(daemon.addr()).json();
    assert!(ready["details"]["registry_error"].is_null(), "{ready}");
}

#[test]
fn a_request_in_flight_keeps_its_model_through_a_reload() {
    let gate = Gate::new();
    let upstream = gated(&gate);
    let daemon = Setup::with(&upstream).start();
    let (client, body) = in_flight(&daemon);
    daemon.write_registry("[]");
    daemon.signal(Signal::SIGHUP);
    eventually("the model is gone", BOUND, || {
        let list = Ask::get("/v1/models").reply(daemon.addr()).json();
        list["data"].as_array().unwrap().is_empty().then_some(())
    });
    Ask::chat(vllm::ask(true)).reply(daemon.addr()).error(404, "err_model_not_found");
    gate.open();
    let (body, end) = finish(client, body);
    assert_eq!(end, End::Whole);
    assert!(body.ends_with(sse::DONE.as_bytes()));
}
