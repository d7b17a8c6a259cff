//! A disk that is full, and one that does not answer: lines are lost and counted, requests are not.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::dropped;
use crate::support::{Ask, BOUND, Daemon, Setup, Upstream, eventually, vllm};

fn backend() -> Upstream {
    Upstream::answering("200 OK", "application/json", vllm::WHOLE)
}

fn good(daemon: &Daemon) {
    assert_eq!(Ask::chat(vllm::ask(false)).reply(daemon.addr()).status(), 200);
}

/// A file system of the daemon's own, of 128 kB, over its logs.
fn on_a_small_disk(setup: Setup) -> Option<Daemon> {
    let able = std::process::Command::new("unshare").args(["-rm", "true"]).status();
    if !able.is_ok_and(|status| status.success()) {
        eprintln!("NOT TESTED: no file system can be mounted here (unshare -rm)");
        return None;
    }
    let mount = "mkdir -p logs && mount -t tmpfs -o size=128k tmpfs logs && exec \"$@\"";
    Some(setup.through(&["unshare", "-rm", "sh", "-c", mount, "sh"]).start())
}

/// A path as the daemon sees it.
fn inside(daemon: &Daemon, name: &str) -> PathBuf {
    let path = daemon.path(name);
    PathBuf::from(format!("/proc/{}/root{}", daemon.pid(), path.display()))
}

#[test]
fn a_full_disk_costs_lines_which_are_counted_and_said_once() {
    let upstream = backend();
    let setup = Setup::with(&upstream).set("server", "enable_metrics", true);
    let Some(daemon) = on_a_small_disk(setup) else { return };
    fs::write(inside(&daemon, "logs/filler"), vec![0; 64 << 10]).unwrap();
    let (mut requests, live) = (0, inside(&daemon, "logs/chat.jsonl"));
    while requests < 100 || dropped(&daemon) < 20 {
        good(&daemon);
        requests += 1;
        assert!(requests < 2000, "it never filled up");
    }
    // What the full disk took of a line is cut off at once, which is a moment after it was written.
    let full = eventually("no line stays torn", BOUND, || {
        Some(fs::read_to_string(&live).unwrap()).filter(|text| text.ends_with('\n'))
    });
    fs::remove_file(inside(&daemon, "logs/filler")).unwrap();
    for _ in 0..30 {
        good(&daemon);
    }
    requests += 30;
    let lines = eventually("what there is room for is written", BOUND, || {
        let text = fs::read_to_string(&live).unwrap();
        let lines: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("a whole line")).collect();
        let all = lines.len() + dropped(&daemon);
        (all == requests).then_some(lines)
    });
    assert!(lines.len() >= full.lines().count() + 30);
    let said = |what: &str| daemon.stderr().matches(what).count();
    eventually("it is said", BOUND, || {
        (said("the request log is written again") == 1).then_some(())
    });
    assert_eq!(said("requests go on without it"), 1);
}

/// A pipe that nobody reads is a disk that has stopped answering.
#[test]
fn a_disk_that_does_not_answer_keeps_no_request_waiting() {
    const TEXT: usize = 1_000_000;
    const REQUESTS: usize = 100; // more than may wait for the disk
    let upstream = backend();
    let setup = Setup::with(&upstream).set("server", "enable_metrics", true).set(
        "logging",
        "log_prompts",
        true,
    );
    let pipe = setup.path("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut daemon = setup.set("server", "log_path", "\"pipe\"").start();
    let message = json!({"role": "user", "content": "x".repeat(TEXT)});
    let body = json!({"model": "tiny-a", "messages": [message]}).to_string();
    let mut slowest = Duration::ZERO;
    for _ in 0..REQUESTS {
        let began = Instant::now();
        assert_eq!(Ask::chat(body.clone()).reply(daemon.addr()).status(), 200);
        slowest = slowest.max(began.elapsed());
    }
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    let lost =
        eventually("some are dropped", BOUND, || Some(dropped(&daemon)).filter(|count| *count > 0));
    let said = "does not take the request log in time";
    eventually("it is said", BOUND, || daemon.stderr().contains(said).then_some(()));
    // It answers again.
    let reader = BufReader::new(File::options().read(true).write(true).open(&pipe).unwrap());
    let kept = REQUESTS - lost;
    let lines: Vec<String> = reader.lines().take(kept).map(|line| line.unwrap()).collect();
    for line in &lines {
        let record: Value = serde_json::from_str(line).expect("a whole line");
        assert_eq!(record["status"], 200);
        assert_eq!(record["messages"][0]["content"].as_str().map(str::len), Some(TEXT));
    }
    assert_eq!(lines.len() + dropped(&daemon), REQUESTS);
    assert_eq!(daemon.stderr().matches(said).count(), 1, "{}", daemon.stderr());
    daemon.terminate();
    assert_eq!(daemon.wait_exit(BOUND).code(), Some(0));
}

/// The end of a daemon is not kept up either; what could not be written is said.
#[test]
fn a_disk_that_does_not_answer_does_not_hold_up_the_end() {
    let upstream = backend();
    let setup = Setup::with(&upstream).set("logging", "log_prompts", true);
    let pipe = setup.path("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut daemon = setup.set("server", "log_path", "\"pipe\"").start();
    let message = json!({"role": "user", "content": "x".repeat(100_000)});
    let body = json!({"model": "tiny-a", "messages": [message]}).to_string();
    // The pipe takes a part of the first one.
    for _ in 0..3 {
        assert_eq!(Ask::chat(body.clone()).reply(daemon.addr()).status(), 200);
    }
    daemon.terminate();
    assert_eq!(daemon.wait_exit(2 * BOUND).code(), Some(0));
    let said = daemon.stderr();
    let said = said.lines().find(|line| line.contains("did not take the rest of the request log"));
    let said: Value = serde_json::from_str(said.expect("a last word")).unwrap();
    assert_eq!(said["fields"]["lost"], 3);
}
