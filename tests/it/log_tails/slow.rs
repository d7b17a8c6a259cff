//! A client of a tail that does not read.

use std::fmt::Write as _;
use std::fs;
use std::ops::Range;
use std::time::Instant;

use super::chat::{LOG, append, upstream};
use super::tail::{CHAT, Tail};
use crate::support::{Ask, BOUND, Client, Daemon, Setup, alone, eventually};

/// A client with a small receive buffer, so that little fits between it and the daemon.
fn narrow(ask: &Ask, daemon: &Daemon) -> Client {
    let mut client = Client::connect(daemon.addr());
    socket2::SockRef::from(&client.stream).set_recv_buffer_size(16 << 10).expect("a small buffer");
    client.send(&ask.bytes(daemon.addr()));
    client
}

/// What the daemon holds in memory (bytes).
fn held(daemon: &Daemon) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("a daemon");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a figure");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") << 10
}

/// How often the daemon has the log open.
fn readers(daemon: &Daemon) -> usize {
    let open = fs::read_dir(format!("/proc/{}/fd", daemon.pid())).expect("a daemon");
    let open = open.filter_map(|item| fs::read_link(item.ok()?.path()).ok());
    open.filter(|path| path.to_string_lossy().contains("chat.jsonl")).count()
}

/// What is there before, and what comes while nobody reads: 26 MB.
const FIRST: usize = 20_000;
const ALL: usize = 80_000;

fn numbers(range: Range<usize>) -> String {
    range.fold(String::new(), |mut text, number| {
        writeln!(text, "{{\"n\":{number},\"x\":\"{}\"}}", "x".repeat(400)).expect("memory");
        text
    })
}

/// The next lines have these numbers.
#[track_caller]
fn assert_reads(tail: &mut Tail, numbers: Range<usize>) {
    for number in numbers {
        let line = tail.line();
        assert!(line.starts_with(&format!("{{\"n\":{number},")), "{number}: {line:.60}");
    }
}

#[test]
fn who_does_not_read_holds_little_hinders_nobody_and_gets_it_all_later() {
    let _alone = alone();
    let upstream = upstream();
    let daemon = Setup::with(&upstream).set("server", "client_write_timeout_s", 600).start();
    append(&daemon, &numbers(0..FIRST));
    let slow = Ask::get(&format!("{CHAT}?follow=1&lines=10000"));
    let first = Ask::get(&format!("{CHAT}?follow=1&lines=0"));
    let begin = String::from_utf8(Tail::open(daemon.addr(), &first).client.read_until("\n\n"));
    let begin = begin.expect("text");
    let end = begin.trim().strip_prefix("id: ").expect("an id").to_owned();
    // What the allocator keeps for so many at a time is there from now on.
    let mut warm: Vec<Tail> = (0..5).map(|_| Tail::open(daemon.addr(), &slow)).collect();
    for tail in &mut warm {
        assert_reads(tail, FIRST - 10_000..FIRST);
    }
    drop(warm);
    let before = held(&daemon);
    // One begins behind what is there, the others with 10 000 lines; then they do not read.
    let mut behind = Tail::of(narrow(&slow.clone().header("last-event-id", &end), &daemon));
    let begin_slow = |_| {
        let mut tail = Tail::of(narrow(&slow, &daemon));
        assert_reads(&mut tail, FIRST - 10_000..FIRST - 9_999);
        tail
    };
    let clients: Vec<Tail> = (0..4).map(begin_slow).collect();
    fs::rename(daemon.path(LOG), daemon.path(&format!("{LOG}.1"))).expect("a rename");
    fs::write(daemon.path(LOG), "").expect("a new log");
    append(&daemon, &numbers(FIRST..ALL));
    // Somebody beside them reads all of it, and is not hindered.
    let begun = Instant::now();
    let mut quick = Tail::again(daemon.addr(), CHAT, Some(&end));
    assert_reads(&mut quick, FIRST..ALL);
    daemon.assert_serves();
    eprintln!("read beside them in {:?}", begun.elapsed());
    assert!(readers(&daemon) >= 5);
    let more = held(&daemon).saturating_sub(before);
    eprintln!("{more} bytes more");
    assert!(more < 64 << 20, "{more} bytes for five of whom each waits for 26 MB or more");
    // The slow ones read at last.
    assert_reads(&mut behind, FIRST..ALL);
    for mut tail in clients {
        assert_reads(&mut tail, FIRST - 9_999..FIRST + 1_000);
    }
    // And those who never read go without a trace.
    let gone = narrow(&slow, &daemon);
    drop((gone, behind, quick));
    eventually("the log is not open any more", BOUND, || (readers(&daemon) == 0).then_some(()));
}
