//! JSON that is deep, long, ambiguous or no text.

use super::{Siege, at_once, backend, hasty, statuses, talk_once};
use crate::support::{Ask, Setup};

/// Deeper than what is taken (SPEC 10).
const TOO_DEEP: usize = 129;

fn with(more: &str) -> Vec<u8> {
    format!(r#"{{"model":"tiny-a","messages":[],"input":"x",{more}}}"#).into_bytes()
}

fn deep(depth: usize, open: &str, close: &str) -> Vec<u8> {
    // The object around it is the first level.
    with(&format!("\"x\":{}1{}", open.repeat(depth - 1), close.repeat(depth - 1)))
}

fn relay(body: &[u8]) -> Ask {
    let ask = Ask::new("POST", "/v1/embeddings").header("content-type", "application/json");
    ask.raw_body(body)
}

/// The statuses of the same body at the endpoint that reads it and at one that passes it on.
fn both(daemon: &crate::support::Daemon, body: &[u8]) -> [u16; 2] {
    [Ask::chat(body), relay(body)].map(|ask| {
        let said = talk_once(daemon.addr(), &ask);
        let statuses = statuses(&said);
        assert_eq!(statuses.len(), 1, "{said:.500}");
        if statuses[0] != 200 {
            assert!(said.contains("\"error\":{\"message\":"), "{said:.500}");
        }
        assert!(said.len() < 8000, "{} bytes", said.len());
        statuses[0]
    })
}

#[test]
fn json_may_nest_so_deep_and_no_deeper_wherever_it_stands() {
    let upstream = backend();
    let daemon = hasty(&upstream).start();
    let siege = Siege::lay(&daemon);
    siege.attack(|| {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            assert_eq!(both(&daemon, &deep(TOO_DEEP - 1, open, close)), [200, 200]);
            assert_eq!(both(&daemon, &deep(TOO_DEEP, open, close)), [400, 400]);
            assert_eq!(both(&daemon, &deep(1_000_000, open, close)), [400, 400]);
            assert_eq!(both(&daemon, open.repeat(1_000_000).as_bytes()), [400, 400]);
        }
        // Orders to the daemon itself.
        let order = format!("{{\"model\":{}", "[".repeat(60_000));
        let ask = Ask::new("POST", "/v1/backends/vllm/activate").body(&order);
        let said = talk_once(daemon.addr(), &ask.header("content-type", "application/json"));
        assert_eq!(statuses(&said), [400], "{said}");
    });
    siege.lift();
}

/// What is no JSON, or says two things at once.
#[test]
fn json_that_people_read_in_different_ways_is_refused() {
    let upstream = backend();
    let daemon = hasty(&upstream).start();
    let siege = Siege::lay(&daemon);
    let before = upstream.seen().len();
    let bodies: Vec<Vec<u8>> = vec![
        with(r#""model":"other""#),
        with(r#""mod\u0065l":"other""#),
        with(r#""stream":false,"stream":true"#),
        with(r#""stream":false,"s\u0074ream":true"#),
        [b"\xef\xbb\xbf", with("\"x\":1").as_slice()].concat(),
        [b"\xff\xfe", with("\"x\":1").as_slice()].concat(),
        [b"\0", with("\"x\":1").as_slice()].concat(),
        [with("\"x\":1").as_slice(), b"\0"].concat(),
        [with("\"x\":1").as_slice(), with("\"x\":1").as_slice()].concat(),
        with("\"x\":\"\0\""),
        with("\"x\":\"\n\""),
        br#"{"model":"\ud800","messages":[],"input":"x"}"#.to_vec(),
        br#"{"model":"tiny-a\ud800","messages":[],"input":"x"}"#.to_vec(),
        br#"{"model":1e400,"messages":[],"input":"x"}"#.to_vec(),
        br#"{"model":{"$ne":""},"messages":[],"input":"x"}"#.to_vec(),
        with(r#""stream_options":{"include_usage":1e400}"#),
    ];
    siege.attack(|| {
        at_once(&bodies, |body| {
            let shown = String::from_utf8_lossy(body);
            let statuses = both(&daemon, body);
            assert_eq!(statuses[0], 400, "chat: {shown}");
            // What a relay passes on it has not understood: the backend judges it.
            assert!(matches!(statuses[1], 200 | 400), "relay: {shown}");
        });
    });
    let seen = upstream.seen().split_off(before);
    for seen in seen {
        let body = String::from_utf8_lossy(&seen.body).into_owned();
        assert!(!body.contains("other"), "two models: {body}");
    }
    siege.lift();
}

/// All of it is JSON, and the backend's to judge: bytes that nobody asked us to change stay.
#[test]
fn json_that_is_only_strange_passes_as_it_is() {
    let upstream = backend();
    let daemon = hasty(&upstream).start();
    let siege = Siege::lay(&daemon);
    let long = "9".repeat(1_000_000);
    let bodies = [
        with("\"temperature\":1e400,\"top_p\":-0,\"seed\":-0.0"),
        with(&format!("\"seed\":{long},\"x\":-{long}.{long}e{long}")),
        with(r#""x":"\ud800","y":"\udfff\ud800 \u0000""#),
        with(r#""a":1,"a":2,"a":{"model":"x","model":"y"}"#),
        with(&format!("\"x\":[{}1]", "1,".repeat(1_000_000))),
        with(&format!("\"x\":[{}{{}}]", "[],".repeat(1_000_000))),
        with(&format!("\"{}\":1", "k".repeat(1_000_000))),
        with(&format!(
            "{}\"z\":1",
            (0..100_000).map(|n| format!("\"k{n}\":1,")).collect::<Vec<_>>().concat()
        )),
        format!(
            r#"{{"model":"tiny-a","input":"x","messages":[{}{{"role":"user","content":"x"}}]}}"#,
            r#"{"role":"user","content":"x"},"#.repeat(100_000)
        )
        .into_bytes(),
        format!("{}{}", " ".repeat(2_000_000), String::from_utf8_lossy(&with("\"x\":1"))).into(),
    ];
    siege.attack(|| {
        for body in &bodies {
            assert_eq!(both(&daemon, body), [200, 200], "{:.100}", String::from_utf8_lossy(body));
            let sent = upstream.seen().split_off(upstream.seen().len() - 2);
            let want = String::from_utf8_lossy(body).replace("\"tiny-a\"", "\"served/tiny-a\"");
            assert!(sent.iter().all(|sent| sent.body == want.as_bytes()), "{want:.100}");
        }
    });
    siege.lift();
}

/// A quarter of what a body may be by default, for this daemon may be one that is slow to debug.
#[test]
fn the_largest_bodies_hinder_nobody() {
    let upstream = backend();
    let daemon = Setup::with(&upstream).start();
    let siege = Siege::lay(&daemon);
    let fill = |text: &str| with(&format!("\"x\":[{}0]", text.repeat((16 << 20) / text.len())));
    let bodies = [fill("0,"), fill("[],"), fill("\"\\\\\","), fill("{\"a\":[0]},")];
    siege.attack(|| {
        for body in &bodies {
            assert_eq!(both(&daemon, body), [200, 200]);
        }
    });
    siege.lift();
}
