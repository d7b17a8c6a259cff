//! Clients that leave: the upstream request is dropped within 100 ms (SPEC 2.2).

use std::time::{Duration, Instant};

use crate::support::{Ask, Client, Daemon, Setup, Upstream, Wire, alone, vllm};

const ROUNDS: usize = 20;
/// The bound of SPEC 2.2.
const EACH: Duration = Duration::from_millis(100);
const MEDIAN: Duration = Duration::from_millis(20);

/// Lets clients leave one by one; gives how long each time took until upstream saw it.
fn departures(upstream: &Upstream, open: impl Fn() -> Client) -> Vec<Duration> {
    let before = upstream.wait_gone(0, Duration::ZERO).len();
    (1..=ROUNDS)
        .map(|round| {
            let client = open();
            if round % 2 == 0 {
                // Every other one leaves with a reset.
                socket2::SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)).unwrap();
            }
            let left = Instant::now();
            drop(client);
            let gone = upstream.wait_gone(before + round, Duration::from_secs(5));
            gone[before + round - 1].saturating_duration_since(left)
        })
        .collect()
}

fn median(times: &[Duration]) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort();
    sorted[sorted.len() / 2]
}

/// What this machine takes for the same without a proxy between: threads have to wake up.
fn control() -> Duration {
    let upstream = Upstream::start(|_, wire| wire.until_gone());
    let times = departures(&upstream, || {
        let seen = upstream.seen().len();
        let client = Ask::chat("{}").open(upstream.addr());
        upstream.wait_seen(seen + 1);
        client
    });
    times.into_iter().max().unwrap_or_default()
}

#[track_caller]
fn judge(what: &str, times: &[Duration], daemon: &Daemon) {
    let (median, worst, control) = (median(times), *times.iter().max().unwrap(), control());
    eprintln!("{what}: median {median:?}, worst {worst:?}; worst without a proxy {control:?}");
    assert!(median <= MEDIAN, "{what}: median {median:?} of {times:?}");
    assert!(worst <= EACH + control, "{what}: {times:?}");
    for line in daemon.log_lines(ROUNDS) {
        assert_eq!(line["status"], 499, "{line}");
        assert_eq!(line["cancelled"], true, "{line}");
    }
    daemon.assert_serves();
}

fn first_events(wire: &mut Wire) {
    wire.stream_head();
    wire.chunk(vllm::role(0).as_bytes());
    wire.chunk(vllm::word(0, "a").as_bytes());
}

#[test]
fn a_client_that_leaves_before_the_head_is_noticed_upstream() {
    let _alone = alone();
    let upstream = Upstream::start(|_, wire| wire.until_gone());
    let daemon = Setup::with(&upstream).start();
    let times = departures(&upstream, || {
        let seen = upstream.seen().len();
        let client = Ask::chat(vllm::ask(true)).open(daemon.addr());
        upstream.wait_seen(seen + 1);
        client
    });
    judge("before the head", &times, &daemon);
}

#[test]
fn a_client_that_leaves_a_silent_stream_is_noticed_upstream() {
    let _alone = alone();
    let upstream = Upstream::start(|_, wire| {
        first_events(wire);
        wire.until_gone();
    });
    let daemon = Setup::with(&upstream).start();
    let times = departures(&upstream, || {
        let mut client = Ask::chat(vllm::ask(true)).open(daemon.addr());
        assert_eq!(client.head().status, 200);
        client.read_until("\"a\"");
        client
    });
    judge("in a silent stream", &times, &daemon);
}

#[test]
fn a_client_that_leaves_while_heartbeats_come_is_noticed_upstream() {
    let _alone = alone();
    let upstream = Upstream::start(|_, wire| wire.until_gone());
    let daemon = Setup::with(&upstream).set("server", "heartbeat_ms", 20).start();
    let times = departures(&upstream, || {
        let mut client = Ask::chat(vllm::ask(true)).open(daemon.addr());
        assert_eq!(client.head().status, 200);
        client.read_until(": waiting");
        client
    });
    judge("between heartbeats", &times, &daemon);
}

#[test]
fn a_client_that_leaves_a_unary_request_is_noticed_upstream() {
    let _alone = alone();
    let upstream = Upstream::start(|_, wire| wire.until_gone());
    let daemon = Setup::with(&upstream).start();
    let times = departures(&upstream, || {
        let seen = upstream.seen().len();
        let client = Ask::chat(vllm::ask(false)).open(daemon.addr());
        upstream.wait_seen(seen + 1);
        client
    });
    judge("not streamed", &times, &daemon);
}

#[test]
fn a_client_that_leaves_a_flowing_stream_is_noticed_upstream() {
    let upstream = Upstream::start(|_, wire| {
        first_events(wire);
        wire.flood(vllm::word(0, "more").as_bytes());
    });
    let daemon = Setup::with(&upstream).start();
    let mut client = Ask::chat(vllm::ask(true)).open(daemon.addr());
    assert_eq!(client.head().status, 200);
    client.read_until("more");
    drop(client);
    upstream.wait_gone(1, Duration::from_secs(2));
    assert_eq!(daemon.log_line()["status"], 499);
    daemon.assert_serves();
}

#[test]
fn a_client_that_leaves_in_the_middle_of_its_body_disturbs_nobody() {
    let upstream = Upstream::answering("200 OK", "application/json", vllm::WHOLE);
    let daemon = Setup::with(&upstream).start();
    for _ in 0..5 {
        let mut client = Client::connect(daemon.addr());
        let whole = Ask::chat(vllm::ask(false)).bytes(daemon.addr());
        client.send(&whole[..whole.len() - 10]);
        drop(client);
    }
    assert_eq!(Ask::chat(vllm::ask(false)).reply(daemon.addr()).status(), 200);
    assert_eq!(upstream.seen().len(), 1);
}
