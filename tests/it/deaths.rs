//! What the death of an actor costs: nothing that a client sees (DESIGN "When an actor dies").

use std::thread;

use serde_json::json;

use crate::support::engines::{Engined, Sampler, greeting, hello, text_of};
use crate::support::{Ask, BOUND, Client, End, Engines, alone, eventually, sse};

const ACTORS: [&str; 8] =
    ["arbiter", "vllm", "ollama", "autostart", "registry", "metrics", "logger", "forwarder"];

fn explode(it: &Engined, actor: &str) {
    let told = Ask::post(&format!("/v1/debug/panic/{actor}"), &json!({})).reply(it.daemon.addr());
    assert_eq!(told.status(), 204, "{}", told.text());
}

fn wait_rebuilt(it: &Engined, actor: &str, times: f64) {
    let figure = format!("imageworks_proxy_actor_restarts_total{{actor=\"{actor}\"}}");
    eventually("the actor is rebuilt", BOUND, || it.figure(&figure).filter(|n| *n >= times));
}

/// Eight streams of one model run, eight requests for the other wait; an actor dies; the streams
/// finish whole, then there is one swap, then each waiting request is answered once.
fn under_load(actor: &str) {
    let it = Engines::two().start();
    it.assert_answers("tiny-a");
    let sampler = Sampler::of(it.port);
    thread::scope(|scope| {
        let streams: Vec<_> = (0..8).map(|_| it.stream("tiny-a", 80)).collect();
        let finishing: Vec<_> =
            streams.into_iter().map(|mut s| scope.spawn(move || s.rest())).collect();
        let waiting: Vec<_> = (0..8)
            .map(|n| {
                let client = hello("tiny-b", n % 2 == 0, json!({})).open(it.daemon.addr());
                scope.spawn(move || {
                    let mut client = client;
                    client.reply()
                })
            })
            .collect();
        it.wait_queue(8);
        explode(&it, actor);
        if actor != "forwarder" {
            wait_rebuilt(&it, actor, 1.0);
        }
        for stream in finishing {
            let (pieces, end) = stream.join().unwrap();
            let body: Vec<u8> = pieces.into_iter().flat_map(|piece| piece.data).collect();
            assert_eq!(end, End::Whole, "{actor}");
            assert!(String::from_utf8_lossy(&body).contains("tok79"), "{actor}");
            assert!(body.ends_with(sse::DONE.as_bytes()), "{actor}");
        }
        for client in waiting {
            let reply = client.join().unwrap();
            assert_eq!(reply.status(), 200, "{actor}: {}", reply.text());
            assert_eq!(text_of(&reply), greeting("tiny-b"), "{actor}");
        }
    });
    sampler.assert_never_two();
    assert_eq!(it.starts(), ["tiny-a", "tiny-b"], "{actor}: one swap");
    // Each request has its one line; none is lost, none is told twice.
    let lines = it.daemon.log_lines(17);
    assert!(lines.iter().all(|line| line["status"] == 200), "{actor}");
    it.daemon.assert_serves();
}

#[test]
fn the_arbiters_death_loses_no_request() {
    let _alone = alone();
    under_load("arbiter");
}

#[test]
fn the_supervisors_death_loses_neither_the_engine_nor_a_request() {
    let _alone = alone();
    under_load("vllm");
}

#[test]
fn the_deaths_of_the_others_cost_nothing() {
    let _alone = alone();
    for actor in ["registry", "metrics", "logger", "forwarder"] {
        under_load(actor);
    }
}

#[test]
fn a_rebuilt_supervisor_keeps_the_engine_and_can_still_stop_it() {
    let mut it = Engines::two().start();
    it.assert_answers("tiny-a");
    let pid = it.pid();
    explode(&it, "vllm");
    wait_rebuilt(&it, "vllm", 1.0);
    it.wait_engine("ready");
    assert_eq!(it.pid(), pid);
    it.assert_answers("tiny-a");
    it.assert_answers("tiny-b");
    it.daemon.terminate();
    assert!(it.daemon.wait_exit(BOUND).success());
    it.assert_nothing_left();
}

#[test]
fn a_load_survives_the_deaths_of_its_supervisor_and_of_the_arbiter() {
    for actor in ["vllm", "arbiter"] {
        let it = Engines::new().model("tiny-a", &["--like-vllm", "--sim-load-ms", "700"]).start();
        let mut waiting: Vec<_> =
            (0..4).map(|_| hello("tiny-a", false, json!({})).open(it.daemon.addr())).collect();
        it.wait_engine("starting");
        explode(&it, actor);
        for client in &mut waiting {
            assert_eq!(text_of(&client.reply()), greeting("tiny-a"), "{actor}");
        }
        assert_eq!(it.starts(), ["tiny-a"], "{actor}: the load went on");
    }
}

#[test]
fn requests_that_outlive_their_forwarder_can_still_be_cut() {
    let mut it = Engines::two().set("server", "drain_timeout_s", 0.2).start();
    it.assert_answers("tiny-a");
    let streams: Vec<_> = (0..8).map(|_| it.stream("tiny-a", 100_000)).collect();
    // Each on a connection of its own: every worker's forwarder dies.
    for _ in 0..8 {
        explode(&it, "forwarder");
    }
    let ends: Vec<_> = thread::scope(|scope| {
        let rest = |mut stream: Client| scope.spawn(move || stream.rest());
        let ending: Vec<_> = streams.into_iter().map(rest).collect();
        it.daemon.terminate();
        ending.into_iter().map(|end| end.join().unwrap()).collect()
    });
    for (pieces, end) in ends {
        assert_eq!(end, End::Whole);
        let last = String::from_utf8_lossy(&pieces.last().unwrap().data).into_owned();
        assert!(last.contains("err_draining"), "{last}");
    }
    assert!(it.daemon.wait_exit(BOUND).success());
    it.assert_nothing_left();
}

#[test]
fn an_order_by_hand_survives_the_arbiter() {
    let it = Engines::new().model("tiny-a", &["--sim-load-ms", "700"]).start();
    thread::scope(|scope| {
        let it = &it;
        let ordered =
            scope.spawn(move || it.order("activate", json!({"model": "tiny-a", "wait": true})));
        it.wait_engine("starting");
        explode(it, "arbiter");
        let done = ordered.join().unwrap();
        assert_eq!(done.status(), 200, "{}", done.text());
    });
    assert_eq!(it.starts(), ["tiny-a"]);
}

#[test]
fn every_actor_can_die_and_the_daemon_goes_on() {
    let it = Engines::two().start();
    for actor in ACTORS {
        explode(&it, actor);
        it.assert_answers("tiny-a");
    }
    it.daemon.log_lines(ACTORS.len());
    it.assert_answers("tiny-b");
}

#[test]
fn an_actor_that_keeps_dying_ends_the_daemon_which_takes_its_engine_along() {
    let mut it = Engines::two().start();
    it.assert_answers("tiny-a");
    for times in 1..=5 {
        explode(&it, "metrics");
        wait_rebuilt(&it, "metrics", f64::from(times));
    }
    explode(&it, "metrics");
    assert_eq!(it.daemon.wait_exit(BOUND).code(), Some(1));
    assert!(it.daemon.stderr().contains("keeps dying"), "{}", it.daemon.stderr());
    it.assert_nothing_left();
}
