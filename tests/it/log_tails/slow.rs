//! A client of a tail that does not read.

use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

use super::chat::{LOG, append, upstream};
use super::tail::{CHAT, Tail};
use crate::support::{Ask, Client, Daemon, Setup, alone};

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

const LINES: usize = 40_000;

fn numbers(from: usize) -> String {
    (from..from + LINES).fold(String::new(), |mut text, number| {
        writeln!(text, "{{\"n\":{number},\"x\":\"{}\"}}", "x".repeat(400)).expect("memory");
        text
    })
}

/// The next lines have these numbers.
#[track_caller]
fn assert_reads(tail: &mut Tail, numbers: std::ops::Range<usize>) {
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
    append(&daemon, &numbers(0));
    let slow = Ask::get(&format!("{CHAT}?follow=1&lines=10000"));
    let first = Ask::get(&format!("{CHAT}?follow=1&lines=0"));
    let begin = String::from_utf8(Tail::open(daemon.addr(), &first).client.read_until("\n\n"));
    let begin = begin.expect("text");
    let end = begin.trim().strip_prefix("id: ").expect("an id").to_owned();
    // What the allocator keeps for so many at a time is there from now on.
    let mut warm: Vec<Tail> = (0..8).map(|_| Tail::open(daemon.addr(), &slow)).collect();
    warm.iter_mut().for_each(|tail| assert_reads(tail, LINES - 10_000..LINES));
    drop(warm);
    let before = held(&daemon);
    // These would take 10 000 lines each: 4 MB.
    let clients: Vec<Client> = (0..8).map(|_| narrow(&slow, &daemon)).collect();
    let mut behind = Tail::of(narrow(&slow.clone().header("last-event-id", &end), &daemon));
    fs::rename(daemon.path(LOG), daemon.path(&format!("{LOG}.1"))).expect("a rename");
    fs::write(daemon.path(LOG), "").expect("a new log");
    append(&daemon, &numbers(LINES));
    // Somebody beside them reads all of it, and is not hindered.
    let begun = Instant::now();
    let mut quick = Tail::again(daemon.addr(), CHAT, Some(&end));
    assert_reads(&mut quick, LINES..2 * LINES);
    daemon.assert_serves();
    eprintln!("read beside them in {:?}", begun.elapsed());
    let more = held(&daemon).saturating_sub(before);
    eprintln!("{more} bytes more");
    assert!(more < 48 << 20, "{more} bytes for nine of whom each waits for 20 MB");
    // The slow ones read at last.
    assert_reads(&mut behind, LINES..2 * LINES);
    for client in clients {
        assert_reads(&mut Tail::of(client), LINES - 10_000..2 * LINES);
    }
    // And one who never reads goes without a trace.
    let gone = narrow(&slow, &daemon);
    let before = daemon.fd_count();
    drop(gone);
    crate::support::eventually("the connection is closed", Duration::from_secs(20), || {
        (daemon.fd_count() < before).then_some(())
    });
}
