//! Clients by the thousand, and clients that take their time.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::{Siege, at_once, backend, connect, hasty, statuses, talk};
use crate::support::{Ask, BOUND, Client, eventually, vllm};

/// So many connections a test opens, if it may.
const THOUSANDS: usize = 3000;

/// As many as this process, and the daemon, may have open.
fn as_many_as_may_be() -> usize {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap_or_default();
    let most = line.split_whitespace().nth(3).and_then(|n| n.parse().ok()).unwrap_or(1024);
    THOUSANDS.min(usize::saturating_sub(most, 300))
}

#[test]
fn thousands_of_connections_that_say_nothing_hinder_nobody_and_are_closed() {
    let upstream = backend();
    let daemon = hasty(&upstream).set("server", "client_header_timeout_s", 3).start();
    let siege = Siege::lay(&daemon);
    let many = as_many_as_may_be();
    let held = siege.attack(|| {
        let held: Vec<TcpStream> = (0..many).map(|_| connect(daemon.addr())).collect();
        eventually("all of them are open", BOUND, || (daemon.fd_count() >= many).then_some(()));
        assert_eq!(Ask::chat(vllm::ask(false)).reply(daemon.addr()).status(), 200);
        eventually("they are closed", BOUND, || (daemon.fd_count() < 200).then_some(()));
        held
    });
    drop(held);
    siege.lift();
}

#[test]
fn who_holds_all_places_loses_them_in_time() {
    const PLACES: usize = 16;
    let upstream = backend();
    let daemon = hasty(&upstream).set("server", "max_connections", PLACES).start();
    daemon.assert_serves();
    let held: Vec<TcpStream> = (0..4 * PLACES).map(|_| connect(daemon.addr())).collect();
    let begun = Instant::now();
    daemon.assert_serves();
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    drop(held);
}

/// A connection that has been used: nothing bounds how long its next head may take.
#[test]
fn who_begins_a_second_request_and_never_ends_it_leaves_room_for_others() {
    const PLACES: usize = 16;
    let upstream = backend();
    let daemon = hasty(&upstream).set("server", "max_connections", PLACES).start();
    let mut held = Vec::new();
    let mut kept = 0;
    for _ in 0..4 * PLACES {
        let mut client = Client::over(connect(daemon.addr()));
        client.send(&Ask::get("/v1/healthz").bytes(daemon.addr()));
        let reply = client.reply();
        assert_eq!(reply.status(), 200);
        kept += usize::from(reply.head.get("connection") != Some("close"));
        // It may have been closed.
        let _ = client.stream.write_all(b"GET /v1/mod");
        held.push(client);
    }
    assert!(kept > 0 && kept < PLACES, "{kept} connections are kept");
    let begun = Instant::now();
    for _ in 0..20 {
        daemon.assert_serves();
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

/// Sends pieces of `endless` at this pace until the daemon closes the connection; for how long.
fn drip(addr: SocketAddr, begin: &[u8], endless: &[u8], pace: Duration) -> Duration {
    let mut stream = connect(addr);
    stream.write_all(begin).expect("the daemon takes the beginning");
    let begun = Instant::now();
    stream.set_nonblocking(true).expect("a stream");
    loop {
        let mut byte = [0; 1024];
        match std::io::Read::read(&mut stream, &mut byte) {
            Ok(0) => return begun.elapsed(),
            Err(e) if e.kind() != std::io::ErrorKind::WouldBlock => return begun.elapsed(),
            _ => {}
        }
        assert!(begun.elapsed() < BOUND, "it is still listened to");
        // It is seen at the next look that it has been closed.
        let _ = stream.write(endless);
        std::thread::sleep(pace); // slow is what it is about
    }
}

#[test]
fn heads_and_sizes_of_chunks_that_come_byte_by_byte_are_given_up() {
    let upstream = backend();
    let daemon = hasty(&upstream).start();
    let siege = Siege::lay(&daemon);
    let chunked = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n";
    let head = b"GET /v1/healthz HTTP/1.1\r\nhost: localhost\r\nx-a: ";
    let cases: Vec<(&[u8], &[u8])> = vec![
        (b"", b"\n"),
        (b"G", b"E"),
        (head, b"y"),
        (chunked, b"0"),
        (b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n5;", b"x"),
    ];
    let many: Vec<(&[u8], &[u8])> = cases.iter().copied().cycle().take(60).collect();
    siege.attack(|| {
        at_once(&many, |(begin, endless)| {
            let took = drip(daemon.addr(), begin, endless, Duration::from_millis(50));
            assert!(took < Duration::from_secs(8), "{took:?}: {}", String::from_utf8_lossy(begin));
        });
    });
    siege.lift();
}

/// A body may take its time (SPEC 2): what it cannot do is to hinder others.
#[test]
fn bodies_that_come_byte_by_byte_hinder_nobody() {
    let upstream = backend();
    let daemon = hasty(&upstream).start();
    let siege = Siege::lay(&daemon);
    let head =
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 60000000\r\n\r\n";
    siege.attack(|| {
        let mut held: Vec<TcpStream> = (0..300)
            .map(|_| {
                let mut stream = connect(daemon.addr());
                stream.write_all(head.as_bytes()).expect("the daemon takes a head");
                stream
            })
            .collect();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(3) {
            for stream in &mut held {
                // Some may be refused: together they promise more than is taken.
                let _ = stream.write(b" ");
            }
            std::thread::sleep(Duration::from_millis(200)); // slow is what it is about
        }
        assert_eq!(Ask::chat(vllm::ask(false)).reply(daemon.addr()).status(), 200);
    });
    siege.lift();
}

#[test]
fn who_asks_and_asks_and_reads_nothing_is_cut_and_holds_little() {
    let upstream = backend();
    let daemon = hasty(&upstream).start();
    let siege = Siege::lay(&daemon);
    let one = Ask::get("/v1/models").bytes(daemon.addr()).repeat(200);
    siege.attack(|| {
        at_once(&[(); 4], |()| {
            let mut stream = connect(daemon.addr());
            socket2::SockRef::from(&stream).set_recv_buffer_size(4 << 10).expect("a small buffer");
            let begun = Instant::now();
            // It takes no more when nobody takes its answers, and then it hangs up.
            while begun.elapsed() < BOUND && stream.write_all(&one).is_ok() {}
            assert!(begun.elapsed() < BOUND, "it is still listened to");
            assert!(siege.memory() < siege.memory + (64 << 20), "{}", siege.memory());
        });
    });
    siege.lift();
}

#[test]
fn noise_is_answered_once_or_not_at_all() {
    let upstream = backend();
    let daemon = hasty(&upstream).start();
    let siege = Siege::lay(&daemon);
    let mut dice = crate::support::expected::Rng::new(0x0dd);
    let noise: Vec<Vec<u8>> = (0..200)
        .map(|_| {
            let length = dice.below(4000);
            (0..length).map(|_| u8::try_from(dice.below(256)).expect("a byte")).collect()
        })
        .collect();
    siege.attack(|| {
        at_once(&noise, |bytes| {
            let said = talk(daemon.addr(), bytes);
            assert!(matches!(statuses(&said)[..], [] | [400 | 408]), "{said}");
        });
    });
    siege.lift();
}
