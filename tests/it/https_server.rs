//! HTTPS on the daemon's own socket (SPEC 10).

mod bounds;
mod files;
mod reload;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustls::version::{TLS12, TLS13};

use crate::support::tls_client::{TlsStream, connect, offering, shake, shown};
use crate::support::{Ask, Client, Daemon, End, Setup, Upstream, alone, vllm};

/// A certificate and its key.
pub struct Pair {
    pub cert: &'static str,
    pub key: &'static str,
}

macro_rules! pem {
    ($name:literal) => {
        include_str!(concat!("support/tls/", $name))
    };
}

/// For `localhost` and 127.0.0.1, signed by an authority of its own.
pub const SERVER: Pair = Pair { cert: pem!("server.pem"), key: pem!("server.key") };
/// Self-signed, for `box.example`.
pub const OTHER: Pair = Pair { cert: pem!("other.pem"), key: pem!("other.key") };
/// Self-signed, for `localhost` and 127.0.0.1.
pub const RSA: Pair = Pair { cert: pem!("rsa.pem"), key: pem!("rsa.key") };
/// It ended in March 2024.
pub const ENDED: Pair = Pair { cert: pem!("ended.pem"), key: pem!("other.key") };

/// Puts a file in the place of another at once, as those who renew certificates do.
pub fn put(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    std::fs::write(&beside, text).unwrap();
    std::fs::set_permissions(&beside, PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::rename(beside, path).unwrap();
}

/// A daemon that has its certificate in `certs/`.
pub fn serving(setup: Setup, pair: &Pair) -> Setup {
    std::fs::create_dir_all(setup.path("certs")).unwrap();
    put(&setup.path("certs/tls.crt"), pair.cert);
    put(&setup.path("certs/tls.key"), pair.key);
    setup.set("security", "tls_cert_file", "\"certs/tls.crt\"").set(
        "security",
        "tls_key_file",
        "\"certs/tls.key\"",
    )
}

pub fn renew(daemon: &Daemon, pair: &Pair) {
    put(&daemon.path("certs/tls.crt"), pair.cert);
    put(&daemon.path("certs/tls.key"), pair.key);
}

#[test]
fn requests_are_answered_as_they_are_over_plain_http() {
    let upstream = Upstream::answering("200 OK", "application/json", vllm::WHOLE);
    let daemon = serving(Setup::with(&upstream), &SERVER).start();
    let mut client = connect(daemon.addr());
    // One connection for all of them.
    client.ask(&Ask::get("/v1/models"), daemon.addr());
    assert_eq!(client.reply().json()["data"][0]["id"], "tiny-a");
    client.ask(&Ask::chat(vllm::ask(false)), daemon.addr());
    let reply = client.reply();
    assert_eq!((reply.status(), reply.text().as_str()), (200, vllm::WHOLE));
    client.ask(&Ask::get("/v1/nope"), daemon.addr());
    client.reply().error(404, "err_not_found");
    client.ask(&Ask::get("/v1/models").header("host", "evil.example"), daemon.addr());
    client.reply().error(403, "err_forbidden");
    client.ask(&Ask::get("/v1/models").header("connection", "close"), daemon.addr());
    assert_eq!(client.reply().status(), 200);
    assert!(client.until_closed().is_empty());
    assert!(daemon.stderr().contains("listening"));
}

#[test]
fn a_stream_comes_whole_and_piece_by_piece() {
    let events = vllm::stream(&["a", "b", "€"]);
    let upstream = Upstream::streaming(events.clone());
    let daemon = serving(Setup::with(&upstream), &RSA).start();
    let body =
        r#"{"model":"tiny-a","stream":true,"messages":[],"stream_options":{"include_usage":true}}"#;
    let reply = Ask::chat(body).reply_tls(daemon.addr());
    assert_eq!((reply.status(), &reply.end), (200, &End::Whole));
    assert_eq!(reply.text(), events.concat());
    assert!(reply.pieces.len() > 1, "not held back to its end");
}

#[test]
fn both_versions_of_tls_are_spoken_and_http_1_1_alone() {
    let daemon = serving(Setup::new(), &SERVER).start();
    for version in [&TLS12, &TLS13] {
        for (alpn, agreed) in [
            (&["h2", "http/1.1"][..], Some("http/1.1")),
            (&["http/1.1"], Some("http/1.1")),
            (&[], None),
        ] {
            let client = shake(daemon.addr(), offering(&[version], alpn));
            let mut client = client.unwrap_or_else(|error| panic!("{version:?} {alpn:?}: {error}"));
            let connection = &client.stream.conn;
            assert_eq!(connection.protocol_version(), Some(version.version));
            assert_eq!(connection.alpn_protocol(), agreed.map(str::as_bytes));
            client.ask(&Ask::get("/v1/healthz"), daemon.addr());
            assert_eq!(client.reply().status(), 200);
        }
        shake(daemon.addr(), offering(&[version], &["h2"])).err().expect("nothing in common");
    }
}

/// How a client leaves.
fn leave(client: Client<TlsStream>, round: usize) {
    let mut stream = client.stream;
    match round % 3 {
        // By the book.
        0 => {
            stream.conn.send_close_notify();
            stream.conn.write_tls(&mut stream.sock).unwrap();
        }
        1 => {}
        _ => socket2::SockRef::from(&stream.sock).set_linger(Some(Duration::ZERO)).unwrap(),
    }
}

/// Lets clients leave one by one; the backend sees each within the bound of SPEC 2.2.
fn departures(upstream: &Upstream, open: impl Fn() -> Client<TlsStream>) {
    let mut times: Vec<Duration> = (0..21)
        .map(|round| {
            let client = open();
            let left = Instant::now();
            leave(client, round);
            let gone = upstream.wait_gone(round + 1, Duration::from_secs(5));
            gone[round].saturating_duration_since(left)
        })
        .collect();
    times.sort();
    eprintln!("median {:?}, worst {:?}", times[10], times[20]);
    assert!(times[10] <= Duration::from_millis(20), "{times:?}");
    assert!(times[20] <= Duration::from_millis(200), "{times:?}");
}

#[test]
fn a_client_that_leaves_before_the_head_is_noticed_upstream() {
    let _alone = alone();
    let upstream = Upstream::start(|_, wire| wire.until_gone());
    let daemon = serving(Setup::with(&upstream), &SERVER).start();
    departures(&upstream, || {
        let seen = upstream.seen().len();
        let client = Ask::chat(vllm::ask(false)).open_tls(daemon.addr());
        upstream.wait_seen(seen + 1);
        client
    });
    assert!(daemon.log_lines(21).iter().all(|line| line["status"] == 499));
}

#[test]
fn a_client_that_leaves_a_silent_stream_is_noticed_upstream() {
    let _alone = alone();
    let upstream = Upstream::start(|_, wire| {
        wire.stream_head();
        wire.chunk(vllm::role(0).as_bytes());
        wire.chunk(vllm::word(0, "a").as_bytes());
        wire.until_gone();
    });
    let daemon = serving(Setup::with(&upstream), &SERVER).start();
    departures(&upstream, || {
        let mut client = Ask::chat(vllm::ask(true)).open_tls(daemon.addr());
        assert_eq!(client.head().status, 200);
        client.read_until("\"a\"");
        client
    });
    assert!(daemon.log_lines(21).iter().all(|line| line["status"] == 499));
}

#[test]
fn the_operators_program_finds_it_and_knows_it_by_its_certificate() {
    // Neither the name nor who signed it would do for 127.0.0.1.
    let daemon = serving(Setup::new(), &OTHER).start();
    let here = format!("https://127.0.0.1:{}", daemon.addr().port());
    for args in [&["models", "--json", "list"][..], &["models", "--json", "--url", &here, "list"]] {
        let (code, said) = daemon.program(args);
        assert_eq!(code, Some(0), "{said}");
    }
    // Another certificate, also one that ended, is known only by name and signer.
    put(&daemon.path("elsewhere.crt"), RSA.cert);
    let env = [("CHAT_PROXY_TLS_CERT_FILE", "elsewhere.crt")];
    let (code, said) = daemon.program_with(&["models", "list"], &env);
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("ertificate"), "{said}");
    let plain = format!("http://127.0.0.1:{}", daemon.addr().port());
    let (code, said) = daemon.program(&["models", "--url", &plain, "list"]);
    assert_eq!(code, Some(4), "{said}");
}

#[test]
fn a_certificate_that_has_ended_is_served_told_and_shown_as_a_figure() {
    let setup = Setup::new().set("server", "enable_metrics", true);
    let daemon = serving(setup, &ENDED).start();
    let text = Ask::get("/metrics").reply_tls(daemon.addr()).text();
    let figure = "imageworks_proxy_tls_certificate_expires_timestamp_seconds 1709251200\n";
    assert!(text.contains(figure), "{text}");
    crate::support::eventually("the warning", Duration::from_secs(5), || {
        daemon.stderr().contains("the certificate has ended").then_some(())
    });
    // Whoever works here can still ask.
    let (code, said) = daemon.program(&["models", "list"]);
    assert_eq!(code, Some(0), "{said}");
    renew(&daemon, &SERVER);
    crate::support::eventually("the new certificate", Duration::from_secs(5), || {
        (shown(daemon.addr()) == crate::support::tls_client::certificate(SERVER.cert)).then_some(())
    });
    assert_eq!(daemon.stderr().matches("the certificate has ended").count(), 1);
    let text = Ask::get("/metrics").reply_tls(daemon.addr()).text();
    assert!(text.contains("_expires_timestamp_seconds 4949203365\n"), "{text}");
}
