//! Heads of requests: too many headers, too long ones, other hosts, other protocols.

use super::{Siege, at_once, backend, hasty, statuses, talk};
use crate::support::{Ask, vllm};

fn get(target: &str, headers: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\n{headers}\r\n").into_bytes()
}

#[test]
fn heads_that_are_too_large_are_refused_however_they_are() {
    let upstream = backend();
    let daemon = hasty(&upstream).start();
    let siege = Siege::lay(&daemon);
    let host = "host: localhost\r\n";
    let cases = [
        ("many headers", get("/v1/healthz", &(host.to_owned() + &"x-many: 1\r\n".repeat(20_000)))),
        ("97 of them", get("/v1/healthz", &(host.to_owned() + &"x-many: 1\r\n".repeat(97)))),
        ("a long header", get("/v1/healthz", &format!("{host}x: {}\r\n", "y".repeat(1 << 20)))),
        ("a long name", get("/v1/healthz", &format!("{host}{}: y\r\n", "x".repeat(1 << 20)))),
        ("a long path", get(&format!("/v1/models/{}", "x".repeat(1 << 20)), host)),
        ("a long query", get(&format!("/v1/models?{}", "x=1&".repeat(1 << 18)), host)),
        ("a long method", format!("{} / HTTP/1.1\r\n{host}\r\n", "G".repeat(1 << 20)).into()),
        ("a long version", format!("GET / HTTP/{}\r\n{host}\r\n", "1".repeat(1 << 20)).into()),
        ("line ends", "\r\n".repeat(1 << 19).into()),
        ("no end", get("/", &"x".repeat(300 << 10)).split_off(2)),
    ];
    siege.attack(|| {
        at_once(&cases, |(what, bytes)| {
            let said = talk(daemon.addr(), bytes);
            let refused = matches!(statuses(&said)[..], [] | [400 | 408 | 414 | 431]);
            assert!(refused, "{what}: {said:.300}");
        });
    });
    siege.lift();
}

#[test]
fn another_host_is_refused_in_whatever_form_it_comes() {
    let upstream = backend();
    let daemon = hasty(&upstream).start();
    let siege = Siege::lay(&daemon);
    let (own, other) = ("host: localhost\r\n", "host: evil.example\r\n");
    let cases = [
        get("http://evil.example/v1/models", own),
        get("http://evil.example/v1/models", other),
        get("http://localhost/v1/models", other),
        get("https://evil.example:443/v1/healthz", own),
        get("/v1/models", "host: [::1].evil.example\r\n"),
        get("/v1/models", "host: [::1]:80.evil.example\r\n"),
        get("/v1/models", "host: [evil.example]\r\n"),
        get("/v1/models", "host: localhost:80@evil.example\r\n"),
        get("/v1/models", "host: evil.example:80:80\r\n"),
        get("/v1/models", "host: evil.example.:80\r\n"),
        get("/v1/models", "host: localhost, evil.example\r\n"),
        get("/v1/models", "host: localhost/evil.example\r\n"),
        get("/v1/models", "host: 127.0.0.1.evil.example\r\n"),
        get("/v1/models", "host: evil.example#.local\t\r\nx-forwarded-host: localhost\r\n"),
        b"CONNECT evil.example:443 HTTP/1.1\r\nhost: evil.example:443\r\n\r\n".to_vec(),
        b"CONNECT evil.example:443 HTTP/1.1\r\nhost: localhost\r\n\r\n".to_vec(),
    ];
    siege.attack(|| {
        at_once(&cases, |bytes| {
            let said = talk(daemon.addr(), bytes);
            let shown = String::from_utf8_lossy(bytes);
            assert!(matches!(statuses(&said)[..], [400 | 403]), "{shown}: {said}");
        });
    });
    siege.lift();
}

#[test]
fn other_protocols_and_methods_get_an_answer_and_nothing_else() {
    let upstream = backend();
    let daemon = hasty(&upstream).start();
    let siege = Siege::lay(&daemon);
    let own = "host: localhost\r\n";
    let upgrade =
        |to: &str| format!("{own}connection: upgrade, http2-settings\r\nupgrade: {to}\r\n");
    let cases: [(&str, Vec<u8>, &[u16]); 7] = [
        ("h2c", get("/v1/models", &(upgrade("h2c") + "http2-settings: AAMAAABk\r\n")), &[200]),
        ("a websocket", get("/v1/models", &upgrade("websocket")), &[200]),
        ("both", get("/v1/events", &(upgrade("websocket, h2c") + "origin: null\r\n")), &[403]),
        (
            "TRACE",
            format!("TRACE /v1/models HTTP/1.1\r\n{own}cookie: secret\r\n\r\n").into(),
            &[405],
        ),
        (
            "CONNECT",
            b"CONNECT localhost:1 HTTP/1.1\r\nhost: localhost:1\r\n\r\nGET /".to_vec(),
            &[404],
        ),
        ("a method", format!("GE@T /v1/models HTTP/1.1\r\n{own}\r\n").into(), &[400]),
        ("all of it", format!("OPTIONS * HTTP/1.1\r\n{own}\r\n").into(), &[404]),
    ];
    siege.attack(|| {
        at_once(&cases, |(what, bytes, wanted)| {
            let said = talk(daemon.addr(), bytes);
            assert_eq!(statuses(&said), *wanted, "{what}: {said}");
            assert!(!said.contains("secret"), "{said}");
        });
    });
    siege.lift();
}

/// RFC 9110, 10.1.1.
#[test]
fn who_asks_whether_he_may_send_and_then_does_not_is_given_up() {
    let upstream = backend();
    let daemon = hasty(&upstream).start();
    let siege = Siege::lay(&daemon);
    let before = upstream.seen().len();
    let post = |headers: &str| {
        let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n";
        format!("{head}content-type: application/json\r\n{headers}\r\n").into_bytes()
    };
    let cases = [
        post("expect: 100-continue\r\ncontent-length: 50000000\r\n"),
        post("expect: 100-continue\r\ntransfer-encoding: chunked\r\n"),
        post("expect: 100-continue\r\nexpect: 100-continue\r\ncontent-length: 5\r\n"),
        post("expect: 100-continue, 200-ok\r\ncontent-length: 900000000000\r\n"),
        post(&format!("expect: {}\r\ncontent-length: 5\r\n", "100-continue,".repeat(5000))),
        post("expect: the-unexpected\r\ncontent-length: 5\r\n"),
    ];
    siege.attack(|| {
        at_once(&cases, |bytes| {
            let said = talk(daemon.addr(), bytes);
            let statuses = statuses(&said);
            let last = statuses.iter().filter(|status| **status != 100).collect::<Vec<_>>();
            assert!(matches!(last[..], [400 | 413 | 417]), "{said}");
        });
    });
    assert_eq!(upstream.seen().len(), before);
    siege.lift();
}

/// What clients send along is passed on or told only where it is what it should be.
#[test]
fn huge_ids_and_tokens_go_nowhere() {
    let upstream = backend();
    let daemon = hasty(&upstream).start();
    let siege = Siege::lay(&daemon);
    let huge = "A1".repeat(20 << 10);
    let names = ["x-request-id", "traceparent", "tracestate", "x-gpu-lease-token", "user-agent"];
    siege.attack(|| {
        for name in names {
            for value in [huge.as_str(), "\x1b[31m", "a\u{202e}b\u{9b}31m", "%0d%0ax-evil:1", ""] {
                let ask = Ask::chat(vllm::ask(false)).header(name, value);
                let reply = super::talk_once(daemon.addr(), &ask);
                let head = reply.split("\r\n\r\n").next().unwrap_or_default();
                assert!(matches!(statuses(head)[..], [200 | 400]), "{name} {value:.20}: {head}");
                assert!(head.len() < 2000 && !head.contains("\nx-evil"), "{head:.3000}");
            }
        }
        for word in [huge.as_str(), "background\u{1b}", "../x"] {
            let ask = Ask::chat(vllm::ask(false)).header("x-request-class", word);
            let said = super::talk_once(daemon.addr(), &ask);
            assert_eq!(statuses(&said), [400], "{said:.300}");
            assert!(said.len() < 2000, "{}", said.len());
        }
    });
    for seen in upstream.seen() {
        assert!(seen.head.len() < 2000, "{} bytes of a head went upstream", seen.head.len());
        assert!(!seen.head.contains('\x1b') && !seen.head.contains("\nx-evil"), "{}", seen.head);
    }
    siege.lift();
}
