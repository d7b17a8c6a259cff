//! Clients that do not read (SPEC 2.2: `client_write_timeout_s`).

use std::time::{Duration, Instant};

use crate::support::{Ask, Client, Setup, Upstream, alone, vllm};

/// A client with a small receive buffer, so that little fits between it and the daemon.
fn narrow(ask: &Ask, addr: std::net::SocketAddr) -> Client {
    let mut client = Client::connect(addr);
    socket2::SockRef::from(&client.stream).set_recv_buffer_size(16 << 10).unwrap();
    client.send(&ask.bytes(addr));
    client
}

fn large_event() -> String {
    vllm::word(0, &"x".repeat(32 << 10))
}

#[test]
fn a_client_that_does_not_read_is_cut_and_so_is_its_backend() {
    let _alone = alone();
    let upstream = Upstream::start(|_, wire| {
        wire.stream_head();
        wire.flood(large_event().as_bytes());
    });
    let daemon = Setup::with(&upstream).set("server", "client_write_timeout_s", 1).start();
    let begun = Instant::now();
    let client = narrow(&Ask::chat(vllm::ask(true)), daemon.addr());
    upstream.wait_gone(1, Duration::from_secs(10));
    let took = begun.elapsed();
    eprintln!("cut after {took:?}");
    assert!(took >= Duration::from_millis(900), "not before its time: {took:?}");
    let line = daemon.log_line();
    assert_eq!((&line["status"], &line["cancelled"]), (&499.into(), &true.into()), "{line}");
    drop(client);
    daemon.assert_serves();
}

#[test]
fn a_client_that_reads_slowly_is_not_cut() {
    let _alone = alone();
    let events = 60;
    let upstream = Upstream::start(move |_, wire| {
        wire.stream_head();
        wire.chunk(vllm::role(0).as_bytes());
        for _ in 0..events {
            wire.chunk(large_event().as_bytes());
        }
        wire.chunk(vllm::finish(0).as_bytes());
        wire.chunk(vllm::DONE.as_bytes());
        wire.last_chunk();
    });
    let daemon = Setup::with(&upstream).set("server", "client_write_timeout_s", 1).start();
    let mut client = narrow(&Ask::chat(vllm::ask(true)), daemon.addr());
    assert_eq!(client.head().status, 200);
    let (begun, mut body) = (Instant::now(), Vec::new());
    while let Some(piece) = client.piece().expect("a stream that is not cut") {
        body.extend(piece.data);
        std::thread::sleep(Duration::from_millis(60)); // slow is what it is about
    }
    assert!(begun.elapsed() > Duration::from_secs(3));
    let whole =
        [vllm::role(0), large_event().repeat(events), vllm::finish(0), vllm::DONE.into()].concat();
    assert!(body == whole.as_bytes(), "{} of {} bytes", body.len(), whole.len());
}

#[test]
fn a_client_that_pauses_gets_everything_and_the_backend_is_slowed_down() {
    let sent = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = sent.clone();
    let events = 1500;
    let upstream = Upstream::start(move |_, wire| {
        wire.stream_head();
        for _ in 0..events {
            wire.chunk(large_event().as_bytes());
            counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
        wire.chunk(vllm::finish(0).as_bytes());
        wire.chunk(vllm::DONE.as_bytes());
        wire.last_chunk();
    });
    let daemon = Setup::with(&upstream).start();
    let mut client = narrow(&Ask::chat(vllm::ask(true)), daemon.addr());
    assert_eq!(client.head().status, 200);
    // The window in which a proxy without back-pressure would take everything in.
    std::thread::sleep(Duration::from_millis(500));
    let paused_at = sent.load(std::sync::atomic::Ordering::SeqCst);
    assert!(
        paused_at < events,
        "48 MB were taken from the backend for a client that does not read"
    );
    let (pieces, end) = client.rest();
    assert_eq!(end, crate::support::End::Whole);
    let length: usize = pieces.iter().map(|piece| piece.data.len()).sum();
    assert_eq!(length, large_event().len() * events + vllm::finish(0).len() + vllm::DONE.len());
}
