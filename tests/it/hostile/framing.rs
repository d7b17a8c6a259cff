//! Where one request ends and the next begins: nobody can hide one in another.

use std::time::{Duration, Instant};

use super::{Siege, at_once, backend, hasty, statuses, talk};
use crate::support::vllm;

/// What must never be answered: it stands where a body is, or behind what cannot be read.
const HIDDEN: &str = "GET /v1/hidden HTTP/1.1\r\nhost: localhost\r\n\r\n";

/// A chat request with these headers and this body, and the hidden one behind it.
fn chat(headers: &str, body: &str) -> Vec<u8> {
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n";
    format!("{head}content-type: application/json\r\n{headers}\r\n{body}{HIDDEN}").into_bytes()
}

fn chunked(size: &str, rest: &str) -> Vec<u8> {
    chat("transfer-encoding: chunked\r\n", &format!("{size}\r\n{rest}"))
}

fn get(headers: &str) -> Vec<u8> {
    format!("GET /v1/models HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n\r\n{HIDDEN}").into_bytes()
}

/// What must be refused, and the connection closed: nobody knows where the next request begins.
fn unclear() -> Vec<(&'static str, Vec<u8>)> {
    let body = vllm::ask(false);
    let length = body.len();
    let one_chunk = format!("{length:x}\r\n{body}\r\n0\r\n\r\n");
    let both = format!("content-length: {length}\r\ntransfer-encoding: chunked\r\n");
    let coding = |coding: &str| chat(&format!("transfer-encoding: {coding}\r\n"), &one_chunk);
    let counted = |text: &str| chat(&format!("content-length: {text}\r\n"), &body);
    vec![
        ("a length and chunks", chat(&both, &one_chunk)),
        ("two lengths", chat(&format!("content-length: {length}\r\ncontent-length: 5\r\n"), &body)),
        ("one length twice", chat(&format!("content-length: {length}\r\n").repeat(2), &body)),
        ("a list of lengths", counted(&format!("{length}, {length}"))),
        ("xchunked", coding("xchunked")),
        ("chunked, identity", coding("chunked, identity")),
        ("identity, chunked", coding("identity, chunked")),
        ("chunked, chunked", coding("chunked, chunked")),
        ("identity", coding("identity")),
        ("a vertical tab", coding("\x0bchunked")),
        ("two codings", chat(&"transfer-encoding: chunked\r\n".repeat(2), &one_chunk)),
        ("a coding with a space", chat("transfer-encoding : chunked\r\n", &one_chunk)),
        ("a length with a space", chat(&format!("content-length : {length}\r\n"), &body)),
        ("a folded coding", chat("transfer-encoding:\r\n chunked\r\n", &one_chunk)),
        ("a folded header", get("x-a: b\r\n c: d")),
        ("a negative length", counted("-5")),
        ("a length with a sign", counted("+5")),
        ("a length in hex", counted("0x10")),
        ("a length with an exponent", counted("1e1")),
        ("a length that is no u64", counted("99999999999999999999999")),
        ("an empty length", counted("")),
        ("NUL in a value", get("x-a: b\0c")),
        ("CR in a value", get("x-a: b\rc: d")),
        ("NUL in a name", get("x\0a: b")),
        ("no name", get(": b")),
        ("no colon", get("x-a")),
        ("no host", b"GET /v1/models HTTP/1.1\r\n\r\n".to_vec()),
        ("two hosts", get("host: evil.example")),
        (
            "chunks of HTTP/1.0",
            String::from_utf8(coding("chunked")).unwrap().replace("/1.1", "/1.0").into(),
        ),
        ("HTTP/0.9", b"GET /v1/models\r\n".to_vec()),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec()),
        ("a URI of its own", b"GET \x01 HTTP/1.1\r\nhost: localhost\r\n\r\n".to_vec()),
    ]
}

#[test]
fn what_ends_nobody_knows_where_is_refused_and_the_connection_closed() {
    let upstream = backend();
    let daemon = hasty(&upstream).start();
    let siege = Siege::lay(&daemon);
    let before = upstream.seen().len();
    siege.attack(|| {
        at_once(&unclear(), |(what, bytes)| {
            let said = talk(daemon.addr(), bytes);
            let refused = statuses(&said);
            assert!(matches!(refused[..], [] | [400]), "{what}: {said}");
        });
    });
    assert_eq!(upstream.seen().len(), before, "nothing of it went upstream");
    siege.lift();
}

#[test]
fn chunks_that_lie_about_their_size_end_with_an_error() {
    let upstream = backend();
    let daemon = hasty(&upstream).start();
    let siege = Siege::lay(&daemon);
    let before = upstream.seen().len();
    let cases = [
        chunked("-1", "x\r\n0\r\n\r\n"),
        chunked("0x5", "hello\r\n0\r\n\r\n"),
        chunked("g", "hello\r\n0\r\n\r\n"),
        chunked("", "hello\r\n0\r\n\r\n"),
        chunked("fffffffffffffffff", "x\r\n0\r\n\r\n"),
        chunked("ffffffffffffffff", "x\r\n0\r\n\r\n"),
        chunked("7fffffff", "x\r\n0\r\n\r\n"),
        chunked("5", "hello, longer than it says\r\n0\r\n\r\n"),
        chunked("5 5", "hello\r\n0\r\n\r\n"),
        chunked("5;a=\x01", "hello\r\n0\r\n\r\n"),
        chunked(&format!("5;{}", "a".repeat(4 << 20)), "hello\r\n"),
        chunked(&"0".repeat(1 << 20), ""),
    ];
    siege.attack(|| {
        at_once(&cases, |bytes| {
            let said = talk(daemon.addr(), bytes);
            assert!(matches!(statuses(&said)[..], [] | [400]), "{said}");
        });
    });
    assert_eq!(upstream.seen().len(), before, "nothing of it went upstream");
    siege.lift();
}

/// RFC 9112, 7.1.1 and 7.1.2: a recipient takes both and may leave them out.
#[test]
fn extensions_and_trailers_of_chunks_go_nowhere() {
    let upstream = backend();
    let daemon = hasty(&upstream).start();
    let siege = Siege::lay(&daemon);
    let before = upstream.seen().len();
    let (body, coding) = (vllm::ask(false), "transfer-encoding: chunked\r\n");
    let size = format!("{:x}", body.len());
    let long = "a".repeat(1 << 20);
    let trailer = "content-length: 3\r\nhost: evil.example\r\nx-evil: 1\r\n";
    let cases = [
        chat(coding, &format!("{size};{long}=\"{long}\"\r\n{body}\r\n0\r\n\r\n")),
        chat(coding, &format!("{size}\r\n{body}\r\n0\r\n{trailer}\r\n")),
    ];
    siege.attack(|| {
        for bytes in &cases {
            // The request behind it is one of its own: it begins where both sides say.
            let said = talk(daemon.addr(), bytes);
            assert_eq!(statuses(&said), [200, 404], "{said}");
        }
    });
    let seen = upstream.seen().split_off(before);
    assert_eq!(seen.len(), cases.len());
    assert!(seen.iter().all(|seen| !seen.head.contains("evil") && seen.body.len() > 20));
    siege.lift();
}

#[test]
fn a_trailer_without_an_end_is_given_up() {
    let upstream = backend();
    let daemon = hasty(&upstream).start();
    let siege = Siege::lay(&daemon);
    let body = vllm::ask(false);
    let endless = format!("{:x}\r\n{body}\r\n0\r\nx: {}", body.len(), "y".repeat(8 << 20));
    let mut bytes = chat("transfer-encoding: chunked\r\n", &endless);
    bytes.truncate(bytes.len() - HIDDEN.len());
    siege.attack(|| {
        let said = talk(daemon.addr(), &bytes);
        assert!(matches!(statuses(&said)[..], [] | [400]), "{said}");
    });
    siege.lift();
}

/// Refused before anybody looks at the body, which never ends: the connection is not kept for it.
#[test]
fn the_rest_of_a_refused_body_is_not_waited_for() {
    let upstream = backend();
    let daemon = hasty(&upstream).set("limits", "max_body_bytes", 2000).start();
    let siege = Siege::lay(&daemon);
    let long = "x".repeat(3000);
    let cases = [
        ("POST /v1/nope", "transfer-encoding: chunked", "5\r\nhel", 404),
        ("DELETE /v1/models", "transfer-encoding: chunked", "5\r\nhel", 405),
        ("GET /v1/healthz", "transfer-encoding: chunked", "5\r\nhel", 200),
        ("POST /v1/completions", "origin: null\r\ntransfer-encoding: chunked", "5\r\nhel", 403),
        (
            "POST /v1/chat/completions",
            "transfer-encoding: chunked",
            &format!("bb8\r\n{long}\r\n5"),
            413,
        ),
        ("POST /v1/chat/completions", "content-length: 1000000", &long, 413),
        ("POST /v1/nope", "content-length: 1000000", &long, 404),
    ];
    siege.attack(|| {
        at_once(&cases, |(line, headers, body, wanted)| {
            let head = format!("{line} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n\r\n");
            let begun = Instant::now();
            let said = talk(daemon.addr(), format!("{head}{body}").as_bytes());
            assert_eq!(statuses(&said), [*wanted], "{line}: {said}");
            assert!(begun.elapsed() < Duration::from_secs(8), "{line}: {:?}", begun.elapsed());
        });
    });
    siege.lift();
}

#[test]
fn thousands_of_requests_in_one_piece_are_answered_in_their_order() {
    const MANY: usize = 3000;
    let upstream = backend();
    let daemon = hasty(&upstream).start();
    let siege = Siege::lay(&daemon);
    let one = |n: usize| {
        let path = if n.is_multiple_of(100) { "/v1/hidden" } else { "/v1/healthz" };
        format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nx-request-id: n{n}\r\n\r\n")
    };
    let all: String = (0..MANY).map(one).collect();
    siege.attack(|| {
        let said = talk(daemon.addr(), all.as_bytes());
        let ids = said.split("x-request-id: n").skip(1).filter_map(|rest| rest.split('\r').next());
        let ids: Vec<usize> = ids.map(|id| id.parse().expect("a number")).collect();
        assert_eq!(ids, (0..MANY).collect::<Vec<_>>());
        assert_eq!(statuses(&said).iter().filter(|status| **status == 404).count(), MANY / 100);
    });
    siege.lift();
}
