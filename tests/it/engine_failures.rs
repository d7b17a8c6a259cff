//! Engines that do not start, do not answer, or die (SPEC 6.1).

use std::net::TcpListener;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::engines::{families, greeting, hello, is_alive, kill_process, text_of};
use crate::support::{End, Engines, sse};

#[test]
fn an_engine_that_ends_while_it_starts_fails_its_requests_at_once_with_the_telling_line() {
    for (log, tells) in [
        ("oom", "CUDA out of memory"),
        ("bad-path", "Repo id must be in the form"),
        ("max-len", "User-specified max_model_len"),
        ("port", "Address already in use"),
    ] {
        let it =
            Engines::new().model("tiny-a", &["--sim-exit", "1", "--sim-exit-log", log]).start();
        let begun = Instant::now();
        let error = it.hello("tiny-a").error(502, "err_model_start_failed");
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
        assert!(error["hint"].as_str().unwrap().contains(tells), "{log}: {error}");
        assert!(error["message"].as_str().unwrap().contains("exit code 1"), "{error}");
        let engine = it.engine();
        assert_eq!(engine["state"], "failed");
        assert!(engine["last_error"].as_str().unwrap().contains(tells), "{engine}");
        it.assert_nothing_left();
    }
}

#[test]
fn all_who_wait_for_a_load_that_fails_are_told_and_the_others_are_served() {
    let it = Engines::new()
        .model("tiny-a", &["--sim-exit", "3", "--sim-exit-after-ms", "300"])
        .model("tiny-b", &[])
        .start();
    let mut waiting: Vec<_> =
        (0..5).map(|_| hello("tiny-a", false, json!({})).open(it.daemon.addr())).collect();
    it.wait_engine("starting");
    let mut other = hello("tiny-b", false, json!({})).open(it.daemon.addr());
    for client in &mut waiting {
        client.reply().error(502, "err_model_start_failed");
    }
    assert_eq!(text_of(&other.reply()), greeting("tiny-b"));
    assert_eq!(it.starts(), ["tiny-a", "tiny-b"]);
}

#[test]
fn a_start_after_a_failure_waits_longer_each_time() {
    let it = Engines::new()
        .model("tiny-a", &["--sim-exit", "1"])
        .set("vllm", "vllm_restart_backoff_s", 0.3)
        .start();
    let took: Vec<Duration> = (0..3)
        .map(|_| {
            let begun = Instant::now();
            it.hello("tiny-a").error(502, "err_model_start_failed");
            begun.elapsed()
        })
        .collect();
    assert!(took[1] >= Duration::from_millis(250), "{took:?}");
    assert!(took[2] >= Duration::from_millis(550), "{took:?}");
    assert_eq!(it.engine()["restarts"], 2);
}

#[test]
fn an_engine_that_is_never_ready_is_ended_by_its_deadline() {
    let it = Engines::new()
        .model_with(
            "tiny-a",
            &["--like-vllm", "--sim-never-ready"],
            json!({"start_timeout_s": 0.7}),
        )
        .set("vllm", "loading_stop_grace_s", 0.3)
        .start();
    let begun = Instant::now();
    it.hello("tiny-a").error(504, "err_model_start_timeout");
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(950) && took < Duration::from_secs(6), "{took:?}");
    it.assert_nothing_left();
}

#[test]
fn an_engine_that_loads_without_a_word_for_too_long_has_failed() {
    let it = Engines::new()
        .model("tiny-a", &["--sim-never-ready", "--sim-silent-load"])
        .set("vllm", "vllm_health_timeout_s", 0.5)
        .start();
    let error = it.hello("tiny-a").error(504, "err_model_start_timeout");
    assert!(error["hint"].as_str().unwrap().contains("vllm_health_timeout_s"), "{error}");
    it.assert_nothing_left();
}

#[test]
fn an_engine_that_serves_another_model_or_is_not_healthy_is_never_ready() {
    for flags in [["--sim-wrong-id", "other"], ["--sim-health", "503"]] {
        let it =
            Engines::new().model_with("tiny-a", &flags, json!({"start_timeout_s": 0.6})).start();
        it.hello("tiny-a").error(504, "err_model_start_timeout");
        it.assert_nothing_left();
    }
}

#[test]
fn a_program_that_does_not_exist_is_named() {
    let it = Engines::new()
        .model("tiny-a", &[])
        .set("vllm", "vllm_command", "[\"/no/such/vllm\", \"serve\"]")
        .start();
    let error = it.hello("tiny-a").error(502, "err_model_start_failed");
    assert!(error["message"].as_str().unwrap().contains("/no/such/vllm"), "{error}");
    assert!(error["hint"].as_str().unwrap().contains("vllm_command"), "{error}");
}

#[test]
fn a_stranger_on_the_port_is_named_and_left_alone() {
    let engines = Engines::new().model("tiny-a", &[]);
    let it = engines.start();
    let stranger = TcpListener::bind(("127.0.0.1", it.port)).unwrap();
    let error = it.hello("tiny-a").error(502, "err_model_start_failed");
    let me = format!("pid {}", std::process::id());
    assert!(error["message"].as_str().unwrap().contains(&me), "{error}");
    assert!(it.starts().is_empty());
    drop(stranger);
    it.assert_answers("tiny-a");
}

#[test]
fn an_engine_that_crashes_in_a_stream_ends_it_with_an_error_and_comes_back() {
    let it =
        Engines::new().model("tiny-a", &["--like-vllm", "--sim-crash-after-tokens", "20"]).start();
    let sim = json!({"tokens": 200, "delay_token_ms": 5});
    let reply = hello("tiny-a", true, sim).reply(it.daemon.addr());
    assert_eq!(reply.end, End::Whole);
    sse::broken(&reply.body(), "err_backend_unavailable", 502);
    it.assert_answers("tiny-a");
    assert_eq!(it.starts(), ["tiny-a", "tiny-a"]);
    let engine = it.engine();
    assert_eq!(engine["restarts"], 1, "{engine}");
    assert!(engine["last_error"].as_str().unwrap().contains("ended while it served"), "{engine}");
    assert_eq!(it.figure("imageworks_proxy_backend_restarts_total"), Some(1.0));
    assert_eq!(families(it.port).len(), 1);
}

#[test]
fn a_request_that_meets_a_dead_engine_is_served_by_the_next_one() {
    let it = Engines::two().start();
    it.assert_answers("tiny-a");
    for _ in 0..2 {
        let pid = it.pid();
        kill_process(pid, Signal::SIGKILL);
        it.assert_answers("tiny-a");
        assert!(!is_alive(pid));
    }
    assert_eq!(families(it.port).len(), 1, "orphans of a killed leader are swept");
}

#[test]
fn an_engine_whose_core_is_killed_ends_its_streams_with_an_error_and_is_replaced() {
    let it = Engines::two().start();
    it.assert_answers("tiny-a");
    let mut stream = it.stream("tiny-a", 100_000);
    let core = it.journal().into_iter().find(|l| l.role == "engine-core" && l.event == "start");
    kill_process(core.unwrap().pid, Signal::SIGKILL);
    let (pieces, end) = stream.rest();
    assert_eq!(end, End::Whole);
    let body: Vec<u8> = pieces.into_iter().flat_map(|piece| piece.data).collect();
    assert!(!body.ends_with(sse::DONE.as_bytes()), "an error must not look like a whole answer");
    it.wait_engine("failed");
    it.assert_answers("tiny-a");
    assert_eq!(families(it.port).len(), 1);
}
