//! Backends that are hostile, or only broken: their clients get an error in bounded time and memory.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{Siege, at_once, hasty, statuses, talk_once};
use crate::support::{Ask, Daemon, Upstream, Wire, vllm};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
const EVENTS: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n";

/// What the backend does, by its name.
fn misbehave(what: &str, wire: &mut Wire) {
    let endless = |wire: &mut Wire, begin: &str, piece: &[u8]| {
        let mut open = wire.send(begin.as_bytes());
        while open {
            open = wire.send(piece);
        }
    };
    match what {
        "endless headers" => endless(wire, OK, b"x-a: bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\r\n"),
        "an endless header" => endless(wire, &format!("{OK}x-a: "), &[b'y'; 4096]),
        "an endless status line" => endless(wire, "HTTP/1.1 200 ", &[b'y'; 4096]),
        "interim answers" => endless(wire, "", "HTTP/1.1 100 C\r\n\r\n".repeat(400).as_bytes()),
        "early hints" => {
            endless(wire, "", "HTTP/1.1 103 E\r\nlink: x\r\n\r\n".repeat(400).as_bytes());
        }
        "an endless body" => endless(wire, &format!("{OK}\r\n"), &[b'x'; 16 << 10]),
        "an endless event" => endless(wire, &format!("{EVENTS}\r\n"), &[b'x'; 16 << 10]),
        "an event of 1 GB" => {
            wire.send(
                format!("{EVENTS}transfer-encoding: chunked\r\n\r\n40000000\r\ndata: ").as_bytes(),
            );
            endless(wire, "", &[b'x'; 16 << 10]);
        }
        "endless comments" => {
            endless(wire, &format!("{EVENTS}\r\n"), b": nothing\n\n".repeat(400).as_slice());
        }
        "a chunk that lies" => {
            wire.send(
                format!("{OK}transfer-encoding: chunked\r\n\r\nffffff\r\n{{\"choices\":[")
                    .as_bytes(),
            );
            wire.fin();
        }
        "a size that is none" => {
            wire.send(
                format!("{OK}transfer-encoding: chunked\r\n\r\n-5\r\n{{}}\r\n0\r\n\r\n").as_bytes(),
            );
            wire.fin();
        }
        "an endless size" => {
            endless(wire, &format!("{OK}transfer-encoding: chunked\r\n\r\n"), &[b'0'; 4096]);
        }
        "an endless extension" => {
            endless(wire, &format!("{EVENTS}transfer-encoding: chunked\r\n\r\n5;"), &[b'a'; 4096]);
        }
        "an endless trailer" => {
            let begin = format!("{OK}transfer-encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\nx: ");
            endless(wire, &begin, &[b'y'; 4096]);
        }
        "two lengths" => {
            wire.send(
                format!("{OK}content-length: 2\r\ncontent-length: 3\r\n\r\n{{}}x").as_bytes(),
            );
            wire.fin();
        }
        "gzip" => {
            wire.send(
                format!("{OK}content-encoding: gzip\r\ncontent-length: 4\r\n\r\n\x1f\x08\0\0")
                    .as_bytes(),
            );
        }
        "no HTTP" => {
            wire.send(b"SSH-2.0-OpenSSH_9.9\r\n\r\n");
            wire.fin();
        }
        "a new protocol" => endless(
            wire,
            "HTTP/1.1 101 S\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
            &[b'x'; 4096],
        ),
        "deep JSON" => {
            let body = "{\"choices\":[".repeat(1 << 20);
            wire.send(format!("{OK}transfer-encoding: chunked\r\n\r\n").as_bytes());
            wire.chunk(body.as_bytes());
            wire.last_chunk();
        }
        "NUL in a header" => {
            wire.send(format!("{OK}x-a: b\0c\r\ncontent-length: 2\r\n\r\n{{}}").as_bytes());
            wire.fin();
        }
        what => panic!("{what}?"),
    }
}

const FAULTS: [&str; 20] = [
    "endless headers",
    "an endless header",
    "an endless status line",
    "interim answers",
    "early hints",
    "an endless body",
    "an endless event",
    "an event of 1 GB",
    "endless comments",
    "a chunk that lies",
    "a size that is none",
    "an endless size",
    "an endless extension",
    "an endless trailer",
    "two lengths",
    "gzip",
    "no HTTP",
    "a new protocol",
    "deep JSON",
    "NUL in a header",
];

/// A backend that misbehaves as the request says.
fn hostile() -> Upstream {
    Upstream::start(|seen, wire| match seen.json()["fault"].as_str() {
        Some(fault) => misbehave(fault, wire),
        None => wire.answer("200 OK", "application/json", vllm::WHOLE.as_bytes()),
    })
}

fn ask(fault: &str, stream: bool) -> Ask {
    let messages = json!([{"role": "user", "content": "hello"}]);
    let body = json!({"model": "tiny-a", "messages": messages, "stream": stream, "fault": fault});
    Ask::chat(body.to_string())
}

/// A daemon that waits for nobody for long.
fn impatient(upstream: &Upstream) -> Daemon {
    hasty(upstream)
        .set("timeouts", "backend_timeout_ms", 3000)
        .set("timeouts", "first_token_timeout_ms", 3000)
        .set("timeouts", "stream_idle_timeout_ms", 3000)
        .set("timeouts", "unary_timeout_ms", 5000)
        .start()
}

#[test]
fn whatever_a_backend_sends_its_client_gets_an_error_in_time() {
    let upstream = hostile();
    let daemon = impatient(&upstream);
    let siege = Siege::lay(&daemon);
    siege.attack(|| {
        for stream in [false, true] {
            at_once(&FAULTS, |fault| {
                let begun = Instant::now();
                let said = talk_once(daemon.addr(), &ask(fault, stream));
                let status = statuses(said.split("\r\n\r\n").next().unwrap_or_default());
                assert!(matches!(status[..], [200 | 502 | 504]), "{fault}: {said:.600}");
                assert!(said.contains("\"error\":{"), "{fault} {stream}: {said:.600}");
                assert!(!said.contains("[DONE]"), "{fault}: {said:.600}");
                assert!(
                    begun.elapsed() < Duration::from_secs(15),
                    "{fault}: {:?}",
                    begun.elapsed()
                );
            });
        }
    });
    siege.lift();
}

/// What a backend writes into a head is not ours to say.
#[test]
fn heads_of_backends_put_nothing_into_ours() {
    let upstream = Upstream::start(|seen, wire| {
        let hostile = seen.json()["header"].as_str().unwrap_or_default().to_owned();
        let status = if seen.json()["moved"] == true { "302 Found" } else { "429 Too Many" };
        let body = r#"{"error":{"message":"no"}}"#;
        let length = body.len();
        wire.send(
            format!("HTTP/1.1 {status}\r\n{hostile}\r\ncontent-length: {length}\r\n\r\n{body}")
                .as_bytes(),
        );
    });
    let daemon = hasty(&upstream).start();
    let headers = [
        "content-type: text/html\r\nset-cookie: evil=1\r\nx-evil: 1",
        "content-type: application/json\rx-evil: 1",
        "content-type: application/json\n x-evil: 1",
        "content-type: a\u{e9}\u{9b}",
        "retry-after: 5\r\naccess-control-allow-origin: *\r\nx-evil: 1",
        "retry-after: 5\rx-evil: 1",
        "retry-after: \u{e9}",
        "location: http://x/\r\nx-evil: 1\r\nstrict-transport-security: max-age=1",
        "location: http://user:secret@x/?secret\rx-evil: 1",
        "connection: close, x-evil\r\nx-evil: 1\r\nkeep-alive: x-evil",
        "x-request-id: evil\r\nx-imageworks-model: evil\r\nserver: evil\r\nx-evil: 1",
    ];
    for header in headers {
        for moved in [false, true] {
            let body = json!({"model": "tiny-a", "messages": [], "header": header, "moved": moved});
            let said = talk_once(daemon.addr(), &Ask::chat(body.to_string()));
            let (head, _) = said.split_once("\r\n\r\n").expect("a head");
            let lower = head.to_lowercase();
            for told in ["evil", "set-cookie", "access-control", "strict-transport", "secret"] {
                assert!(!lower.contains(told), "{header:?}: {head}");
            }
        }
    }
}

/// An answer that nobody has asked for yet belongs to nobody.
#[test]
fn answers_that_come_before_their_request_are_nobodys() {
    let twice = Upstream::start(|seen, wire| {
        let own = seen.json()["user"].clone();
        let body = json!({"id": own, "choices": []}).to_string();
        let answer = |body: &str| format!("{OK}content-length: {}\r\n\r\n{body}", body.len());
        let forged = json!({"id": "forged", "choices": []}).to_string();
        wire.send(format!("{}{}", answer(&body), answer(&forged)).as_bytes());
    });
    let daemon = hasty(&twice).start();
    for n in 0..50 {
        let body = json!({"model": "tiny-a", "messages": [], "user": n});
        let reply = Ask::chat(body.to_string()).reply(daemon.addr());
        assert_eq!((reply.status(), reply.json()["id"].clone()), (200, json!(n)));
    }
    // One that speaks first, and closes at once.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("an address");
    let early = json!({"name": "early", "backend": "openai",
        "backend_config": {"base_url": format!("http://{addr}/v1")}});
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let answer = format!("{OK}content-length: 14\r\n\r\n{{\"choices\":[]}}");
                let _ = stream.write_all(answer.as_bytes());
                let _ = stream.shutdown(Shutdown::Write);
                let _ = stream.read_to_end(&mut Vec::new());
            });
        }
    });
    let upstream = super::backend();
    let daemon = hasty(&upstream).entry(early).start();
    for _ in 0..20 {
        let ask = Ask::chat(json!({"model": "early", "messages": []}).to_string());
        let said = talk_once(daemon.addr(), &ask);
        assert!(matches!(statuses(&said)[..], [200 | 502]), "{said}");
    }
    daemon.assert_serves();
}
