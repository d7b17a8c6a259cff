//! One line for each request, whatever becomes of it.

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::{by_status, records};
use crate::support::daemon::entry;
use crate::support::{Ask, BOUND, Client, End, Setup, Upstream, alone, eventually, vllm};

/// Answers by what the request says: whole, as a stream, with an error, or never to its end.
fn backend() -> Upstream {
    let events = vllm::stream(&["a", " b", " c"]);
    Upstream::start(move |seen, wire| {
        let body = seen.json();
        match body["messages"][0]["content"].as_str() {
            Some("fail") => wire.answer("500 Internal Server Error", "text/plain", b"no"),
            Some("break") => {
                wire.stream_head();
                wire.chunk(events[0].as_bytes());
                wire.chunk(events[1].as_bytes());
                wire.fin();
            }
            Some("stay") => {
                wire.stream_head();
                wire.chunk(events[0].as_bytes());
                wire.chunk(events[1].as_bytes());
                wire.until_gone();
            }
            _ if body["stream"] == true => wire.stream(&events),
            _ => wire.answer("200 OK", "application/json", vllm::WHOLE.as_bytes()),
        }
    })
}

fn ask(id: usize, model: &str, content: &str, stream: bool) -> Ask {
    let message = json!({"role": "user", "content": content});
    let body = json!({"model": model, "messages": [message], "stream": stream});
    Ask::chat(body.to_string()).header("x-request-id", &format!("n-{id}"))
}

/// The `id`th of the requests; each tenth kind is one that goes wrong in its own way.
fn one(daemon: std::net::SocketAddr, client: &mut Client, id: usize) {
    let (content, stream, status) = match id % 10 {
        0 => ("fail", true, 500),
        1 => ("break", true, 200),
        2 => {
            let mut leaving = ask(id, "tiny-a", "stay", true).open(daemon);
            leaving.head();
            leaving.read_until("data: ");
            return;
        }
        3 => {
            let junk = format!("junk-{id}");
            client.send(&ask(id, &junk, "x", false).bytes(daemon));
            assert_eq!(client.reply().status(), 404);
            return;
        }
        n => ("x", n % 2 == 0, 200),
    };
    client.send(&ask(id, "tiny-a", content, stream).bytes(daemon));
    let reply = client.reply();
    assert_eq!((reply.status(), reply.end), (status, End::Whole));
}

/// 10,000 of them at full speed, from four clients, while the log is rotated by its size and somebody
/// moves it away every second as well.
#[test]
fn ten_thousand_requests_are_ten_thousand_lines() {
    const REQUESTS: usize = 10_000;
    const CLIENTS: usize = 4;
    let _alone = alone();
    let upstream = backend();
    let mut daemon = Setup::new()
        .entry(entry("tiny-a", &upstream))
        .set("server", "max_log_bytes", 500_000)
        .set("logging", "max_log_files", 1000)
        .start();
    let (addr, logs) = (daemon.addr(), daemon.path("logs"));
    let over = AtomicBool::new(false);
    let moved = thread::scope(|scope| {
        let mover = scope.spawn(|| {
            let mut moved = 0;
            while !over.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_secs(1)); // its pace is what is tested
                let away = logs.join(format!("moved.{moved}"));
                moved += usize::from(fs::rename(logs.join("chat.jsonl"), away).is_ok());
            }
            moved
        });
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                scope.spawn(move || {
                    let mut client = Client::connect(addr);
                    (number..REQUESTS).step_by(CLIENTS).for_each(|id| one(addr, &mut client, id));
                })
            })
            .collect();
        for client in clients {
            client.join().expect("a client that found no fault");
        }
        over.store(true, Ordering::SeqCst);
        mover.join().expect("somebody who moves")
    });
    daemon.terminate();
    assert_eq!(daemon.wait_exit(BOUND).code(), Some(0));
    let records = records(&logs);
    let mut ids: Vec<usize> = records.iter().map(id).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..REQUESTS).collect::<Vec<_>>());
    let tenth = REQUESTS / 10;
    let want = [(200, tenth * 7), (404, tenth), (499, tenth), (500, tenth)];
    assert_eq!(by_status(&records).into_iter().collect::<Vec<_>>(), want);
    let broken = |record: &&Value| record["status"] == 200 && record.get("error").is_some();
    assert_eq!(records.iter().filter(broken).count(), tenth);
    let files = fs::read_dir(&logs).unwrap().count();
    assert!(moved > 0 && files > moved + 3, "{files} files, {moved} of them moved away");
}

fn id(record: &Value) -> usize {
    let id = record["request_id"].as_str().and_then(|id| id.strip_prefix("n-"));
    id.and_then(|id| id.parse().ok()).unwrap_or_else(|| panic!("{record}"))
}

/// A daemon that is killed in the middle of its work, and of a rotation: what was written stays whole
/// and is continued, and only what had not reached the writer is missing.
#[test]
fn a_kill_during_rotation_tears_and_loses_no_line_that_was_written() {
    let upstream = Upstream::answering("200 OK", "application/json", vllm::WHOLE);
    let mut daemon = Setup::with(&upstream)
        .set("server", "max_log_bytes", 12_000) // every second line rotates
        .set("logging", "max_log_files", 1000)
        .set("logging", "log_prompts", true)
        .start();
    let logs = daemon.path("logs");
    let (mut sent, mut before, mut rounds) = (0, 0, Vec::new());
    for round in 0..12 {
        let addr = daemon.addr();
        thread::scope(|scope| {
            let work = scope.spawn(move || {
                let mut client = Client::connect(addr);
                let mut answered = 0;
                // Records of a few pages: such a write can be cut by a kill.
                let text = "x".repeat(5_000);
                loop {
                    let bytes = ask(sent + answered, "tiny-a", &text, false).bytes(addr);
                    if std::io::Write::write_all(&mut client.stream, &bytes).is_err() {
                        return answered;
                    }
                    match client.try_head() {
                        Ok(head) => assert_eq!(head.status, 200),
                        Err(_) => return answered,
                    }
                    if client.rest().1 != End::Whole {
                        return answered;
                    }
                    answered += 1;
                }
            });
            // Some lines of this round are written, and then it ends at another moment each time.
            eventually("lines", BOUND, || {
                let count = fs::read_dir(&logs).map_or(0, Iterator::count);
                (count > before + 5 + round).then_some(())
            });
            daemon.kill();
            rounds.push(sent);
            sent += work.join().expect("a client that found no fault") + 1;
        });
        daemon.restart();
        let mut ids: Vec<usize> = records(&logs).iter().map(id).collect();
        ids.sort_unstable();
        let unique = ids.len();
        ids.dedup();
        assert_eq!(ids.len(), unique, "a line was written twice");
        before = fs::read_dir(&logs).map_or(0, Iterator::count);
    }
    // A client asks one after the other: of each round the first ones are there, without a hole.
    let ids: BTreeSet<usize> = records(&logs).iter().map(id).collect();
    rounds.push(sent);
    for (begin, end) in rounds.windows(2).map(|pair| (pair[0], pair[1])) {
        let written = ids.range(begin..end).count();
        let last = ids.range(begin..end).next_back();
        eprintln!("{} sent, {written} written", end - begin);
        assert_eq!(last, Some(&(begin + written - 1)), "{ids:?}");
    }
}
