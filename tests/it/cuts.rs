//! Upstream connections that break off, at every byte (SPEC 2.1: a cut answer is never taken for
//! a whole one).

use std::sync::Mutex;
use std::thread;

use crate::support::{Ask, Client, End, Reply, Setup, Upstream, alone, sse, vllm};

const AT_ONCE: usize = 16;
const JSON: &str = r#"{"id":"c","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"Hi €"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"total_tokens":5,"completion_tokens":2}}"#;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Length,
    Chunked,
    Stream,
}

#[derive(Debug, Clone, Copy)]
struct Case {
    kind: Kind,
    reset: bool,
    at: usize,
}

/// A whole raw response, and for each of its bytes how much of the body has come with it.
struct Raw {
    bytes: Vec<u8>,
    body_at: Vec<usize>,
}

impl Raw {
    /// `pieces`: bytes, and whether they are body.
    fn new(pieces: &[(&[u8], bool)]) -> Self {
        let mut raw = Raw { bytes: Vec::new(), body_at: vec![0] };
        for (bytes, is_body) in pieces {
            for byte in *bytes {
                raw.bytes.push(*byte);
                let so_far = raw.body_at[raw.body_at.len() - 1];
                raw.body_at.push(so_far + usize::from(*is_body));
            }
        }
        raw
    }

    fn chunked(head: &str, chunks: &[&str]) -> Self {
        let sizes: Vec<String> =
            chunks.iter().map(|chunk| format!("{:x}\r\n", chunk.len())).collect();
        let mut pieces: Vec<(&[u8], bool)> = vec![(head.as_bytes(), false)];
        for (size, chunk) in sizes.iter().zip(chunks) {
            pieces.extend([
                (size.as_bytes(), false),
                (chunk.as_bytes(), true),
                (&b"\r\n"[..], false),
            ]);
        }
        pieces.push((b"0\r\n\r\n", false));
        Raw::new(&pieces)
    }
}

/// What a client may get of the stream when nothing is wrong.
fn events() -> Vec<String> {
    vec![vllm::role(0), vllm::word(0, "€"), vllm::finish(0), sse::DONE.to_owned()]
}

fn raw(kind: Kind) -> Raw {
    let json = "HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: application/json\r\n";
    match kind {
        Kind::Length => {
            let head = format!("{json}content-length: {}\r\n\r\n", JSON.len());
            Raw::new(&[(head.as_bytes(), false), (JSON.as_bytes(), true)])
        }
        Kind::Chunked => {
            let (first, second) = JSON.split_at(60);
            Raw::chunked(&format!("{json}transfer-encoding: chunked\r\n\r\n"), &[first, second])
        }
        Kind::Stream => {
            let events = events();
            let chunks: Vec<&str> = events.iter().map(String::as_str).collect();
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
            Raw::chunked(head, &chunks)
        }
    }
}

const KINDS: [Kind; 3] = [Kind::Length, Kind::Chunked, Kind::Stream];

fn cases() -> Vec<Case> {
    let of = |kind: Kind| {
        let last = raw(kind).bytes.len();
        [false, true]
            .into_iter()
            .flat_map(move |reset| (0..=last).map(move |at| Case { kind, reset, at }))
    };
    KINDS.into_iter().flat_map(of).collect()
}

fn backend() -> Upstream {
    let raws = KINDS.map(raw);
    Upstream::start(move |seen, wire| {
        let body = seen.json();
        let number = |name: &str| usize::try_from(body[name].as_u64().unwrap()).unwrap();
        let raw = &raws[number("kind")];
        wire.send(&raw.bytes[..number("at")]);
        if body["reset"] == true { wire.rst() } else { wire.fin() }
    })
}

fn body(case: Case) -> String {
    let (kind, stream) = (case.kind as usize, case.kind == Kind::Stream);
    let (reset, at) = (case.reset, case.at);
    format!(
        r#"{{"model":"tiny-a","messages":[],"stream":{stream},"kind":{kind},"reset":{reset},"at":{at}}}"#
    )
}

/// What is wrong with an answer; `came`: how much of the body upstream had sent.
fn judge(case: Case, came: usize, reply: &Reply) -> Result<(), String> {
    let say =
        |what: &str| Err(format!("{what}: {} {:?} {:?}", reply.status(), reply.text(), reply.end));
    if reply.end != End::Whole {
        return say("the response itself was cut");
    }
    if reply.status() == 502 {
        let code = reply.json()["error"]["code"].clone();
        if code != "err_backend_unavailable" || reply.head.get("retry-after") != Some("2") {
            return say("the wrong error");
        }
        let complete = match case.kind {
            Kind::Length | Kind::Chunked => came == JSON.len(),
            Kind::Stream => came >= events()[0].len(),
        };
        return if complete && !case.reset { say("there was an answer") } else { Ok(()) };
    }
    if reply.status() != 200 {
        return say("the wrong status");
    }
    if case.kind != Kind::Stream {
        return if came == JSON.len() && reply.text() == JSON {
            Ok(())
        } else {
            say("a cut answer")
        };
    }
    judge_stream(case, came, &reply.text()).or_else(|what| say(&what))
}

fn judge_stream(case: Case, came: usize, text: &str) -> Result<(), String> {
    let (good, mut got) = (events().concat(), sse::events(text.as_bytes()));
    let finished = events()[..3].concat().len();
    if text.ends_with(sse::DONE) {
        // An event whose blank line is missing counts.
        return if text == good && came + 2 >= finished {
            Ok(())
        } else {
            Err("a wrong end".into())
        };
    }
    if came >= finished && !case.reset {
        return Err("every choice had finished".into());
    }
    let last = got.pop().unwrap_or_default();
    let error = sse::error_of(&last).ok_or("no error event at the end")?;
    if error["code"] != "err_backend_unavailable" || error["status"] != 502 {
        return Err("the wrong error event".into());
    }
    let before = got.concat();
    if before.is_empty() || !good.starts_with(&before) || before.contains("[DONE]") {
        return Err("no prefix of the good answer".into());
    }
    Ok(())
}

#[test]
fn an_upstream_cut_at_any_byte_is_never_taken_for_a_whole_answer() {
    let _alone = alone();
    let upstream = backend();
    let daemon = Setup::with(&upstream).start();
    let (cases, wrong) = (cases(), Mutex::new(Vec::new()));
    let (todo, raws) = (Mutex::new(cases.iter()), KINDS.map(raw));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                let mut client = Client::connect(daemon.addr());
                loop {
                    let Some(&case) = todo.lock().unwrap().next() else { return };
                    client.send(&Ask::chat(body(case)).bytes(daemon.addr()));
                    let reply = client.reply();
                    let came = raws[case.kind as usize].body_at[case.at];
                    if let Err(what) = judge(case, came, &reply) {
                        wrong.lock().unwrap().push(format!("{case:?}: {what}"));
                    }
                    if reply.end != End::Whole {
                        client = Client::connect(daemon.addr());
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        cases.len(),
        wrong[..wrong.len().min(10)].join("\n")
    );
    eprintln!("{} cuts", cases.len());
    daemon.log_lines(cases.len());
    daemon.assert_serves();
}

#[test]
fn one_unfinished_choice_makes_a_stream_without_done_a_cut_one() {
    let mut events = vec![vllm::role(0), vllm::role(1), vllm::word(0, "a"), vllm::finish(0)];
    let upstream = Upstream::streaming(events.clone());
    let daemon = Setup::with(&upstream).start();
    let reply = Ask::chat(vllm::ask(true)).reply(daemon.addr());
    assert_eq!((reply.status(), &reply.end), (200, &End::Whole));
    let (_, before) = sse::broken(&reply.body(), "err_backend_unavailable", 502);
    assert_eq!(before, events);
    events.push(vllm::finish(1));
    let upstream = Upstream::streaming(events.clone());
    let daemon = Setup::with(&upstream).start();
    assert_eq!(Ask::chat(vllm::ask(true)).reply(daemon.addr()).text(), events.concat() + sse::DONE);
}

#[test]
fn a_stream_that_ends_properly_but_too_early_is_a_cut_one() {
    let upstream = Upstream::streaming(vec![vllm::role(0), vllm::word(0, "a")]);
    let daemon = Setup::with(&upstream).start();
    let reply = Ask::chat(vllm::ask(true)).reply(daemon.addr());
    assert_eq!((reply.status(), &reply.end), (200, &End::Whole));
    sse::broken(&reply.body(), "err_backend_unavailable", 502);
    let line = daemon.log_line();
    assert_eq!(line["status"], 200);
    assert_eq!(line["error"]["code"], "err_backend_unavailable");
    assert_eq!(line["cancelled"], false);
}
