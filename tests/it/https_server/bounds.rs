//! Clients that do not do what TLS wants, or not in time.

use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use super::{SERVER, serving};
use crate::support::tls_client::{connect, offering};
use crate::support::{Ask, Client, Daemon, End, Setup, Upstream, alone, vllm};

fn assert_serves(daemon: &Daemon) {
    assert_eq!(Ask::get("/v1/healthz").reply_tls(daemon.addr()).status(), 200);
}

/// The first message of a handshake.
fn hello() -> Vec<u8> {
    let name = ServerName::try_from("localhost").unwrap();
    let config: Arc<_> = offering(rustls::DEFAULT_VERSIONS, &[]);
    let mut bytes = Vec::new();
    ClientConnection::new(config, name).unwrap().write_tls(&mut bytes).unwrap();
    bytes
}

#[test]
fn whoever_speaks_no_tls_is_sent_away_and_harms_nobody() {
    let daemon = serving(Setup::new(), &SERVER).start();
    let plain = Ask::get("/v1/healthz").bytes(daemon.addr());
    for noise in [&plain[..], b"\0\0\0\0\0\0", b"SSH-2.0-x\r\n", &[0x16, 3, 1, 0xff, 0xff, 1][..]] {
        let mut client = Client::connect(daemon.addr());
        client.send(noise);
        if noise != plain {
            client.stream.shutdown(std::net::Shutdown::Write).unwrap();
        }
        let answer = client.until_closed();
        // An alert at the most, and nothing that was meant for others.
        assert!(answer.len() <= 7 && !answer.starts_with(b"HTTP"), "{answer:?}");
    }
    // Whoever ends its handshake with noise.
    let mut client = Client::connect(daemon.addr());
    client.send(&[hello(), vec![0; 100]].concat());
    client.until_closed();
    // And whoever sends noise in the middle of a connection.
    let mut client = connect(daemon.addr());
    std::io::Write::write_all(&mut client.stream.sock, b"GET / HTTP/1.1\r\n\r\n").unwrap();
    client.until_closed();
    assert_serves(&daemon);
}

#[test]
fn a_handshake_that_never_ends_is_cut() {
    let _alone = alone();
    let daemon = serving(Setup::new(), &SERVER).set("server", "client_header_timeout_s", 1).start();
    let hello = hello();
    for part in [&[][..], &hello[..1], &hello[..hello.len() / 2], &hello] {
        let mut client = Client::connect(daemon.addr());
        client.send(part);
        let begun = Instant::now();
        client.until_closed();
        let took = begun.elapsed();
        assert!((Duration::from_millis(900)..Duration::from_secs(4)).contains(&took), "{took:?}");
    }
    // As is one that ended, when no request follows.
    let mut client = connect(daemon.addr());
    let begun = Instant::now();
    client.until_closed();
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_serves(&daemon);
}

#[test]
fn a_crowd_that_never_ends_its_handshakes_keeps_nobody_out() {
    let _alone = alone();
    let daemon = serving(Setup::new(), &SERVER).start();
    assert_serves(&daemon);
    let before = daemon.fd_count();
    // More than the 256 handshakes at once that actix takes by itself for each of two workers.
    let crowd: Vec<TcpStream> =
        (0..700).map(|_| TcpStream::connect(daemon.addr()).unwrap()).collect();
    let begun = Instant::now();
    assert_serves(&daemon);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    drop(crowd);
    crate::support::eventually("the crowd is gone", Duration::from_secs(10), || {
        (daemon.fd_count() <= before + 2).then_some(())
    });
}

#[test]
fn a_client_that_does_not_read_is_cut_and_so_is_its_backend() {
    let _alone = alone();
    let large = vllm::word(0, &"x".repeat(32 << 10));
    let upstream = Upstream::start(move |_, wire| {
        wire.stream_head();
        wire.flood(large.as_bytes());
    });
    let setup = Setup::with(&upstream).set("server", "client_write_timeout_s", 1);
    let daemon = serving(setup, &SERVER).start();
    let client = Ask::chat(vllm::ask(true)).open_tls(daemon.addr());
    upstream.wait_gone(1, Duration::from_secs(10));
    assert_eq!(daemon.log_line()["status"], 499);
    drop(client);
    assert_serves(&daemon);
}

#[test]
fn a_stop_lets_streams_end_over_tls_too() {
    let gate = crate::support::Gate::default();
    let waits = gate.clone();
    let upstream = Upstream::start(move |_, wire| {
        wire.stream_head();
        wire.chunk(vllm::role(0).as_bytes());
        wire.chunk(vllm::word(0, "a").as_bytes());
        waits.pass();
        wire.chunk(vllm::finish(0).as_bytes());
        wire.chunk(vllm::DONE.as_bytes());
        wire.last_chunk();
    });
    let mut daemon = serving(Setup::with(&upstream), &SERVER).start();
    let mut client = Ask::chat(vllm::ask(true)).open_tls(daemon.addr());
    assert_eq!(client.head().status, 200);
    client.read_until("\"a\"");
    daemon.terminate();
    crate::support::eventually("it drains", Duration::from_secs(5), || {
        let reply = Ask::get("/v1/readyz").reply_tls(daemon.addr());
        (reply.status() == 503).then_some(())
    });
    Ask::chat(vllm::ask(false)).reply_tls(daemon.addr()).error(503, "err_draining");
    gate.open();
    client.read_until("[DONE]");
    assert_eq!(client.rest().1, End::Whole);
    assert!(daemon.wait_exit(Duration::from_secs(10)).success());
}
