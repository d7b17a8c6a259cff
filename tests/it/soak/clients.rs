//! Who asks, each in its own way.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use serde_json::json;

use super::{Dice, Soak};
use crate::support::engines::hello;
use crate::support::{Ask, Client, End};

type Ask1 = fn(&Soak, &mut Dice);

/// Each is a client of its own.
pub(super) const KINDS: [(&str, Ask1); 8] = [
    ("streams of engines", engine_streams),
    ("answers of engines", engine_answers),
    ("streams of others", other_streams),
    ("left in the middle", leaves),
    ("nonsense", nonsense),
    ("slow readers", reads_slowly),
    ("pictures", pictures),
    ("unreachable", unreachable),
];

/// What became of all requests.
#[derive(Default)]
pub(super) struct Counts {
    sent: AtomicUsize,
    /// Left at once: such a request has arrived, or is none.
    perhaps: AtomicUsize,
    by_status: Mutex<BTreeMap<String, usize>>,
    lost: Mutex<Vec<String>>,
}

impl Counts {
    /// Requests for a model.
    pub(super) fn sent(&self) -> usize {
        self.sent.load(Ordering::SeqCst)
    }

    /// Requests of which nobody knows whether they arrived.
    pub(super) fn perhaps(&self) -> usize {
        self.perhaps.load(Ordering::SeqCst)
    }

    /// Those that were not answered, and not left.
    pub(super) fn lost(&self) -> Vec<String> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn ended(&self, how: impl Into<String>) {
        let mut counts = self.by_status.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(how.into()).or_default() += 1;
    }

    fn lose(&self, what: String) {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.by_status.lock().unwrap_or_else(PoisonError::into_inner);
        write!(f, "{} requests: {counts:?}", self.sent())
    }
}

/// An engine that is killed again and again is not started at once: a minute's pause, and its load.
const PATIENCE: Duration = Duration::from_secs(150);

fn open(soak: &Soak, ask: &Ask) -> Client {
    soak.counts.sent.fetch_add(1, Ordering::SeqCst);
    let client = ask.open(soak.addr);
    client.stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    client
}

/// Reads to the end; a stream that broke has told so.
fn read(soak: &Soak, mut client: Client) {
    match client.try_head() {
        Err(why) => soak.counts.lose(format!("no head: {why}")),
        Ok(head) => match client.rest() {
            (pieces, End::Whole) => {
                let broke =
                    pieces.iter().any(|piece| piece.data.windows(9).any(|w| w == b"{\"error\":"));
                let how = if broke && head.status == 200 { "200, broken" } else { "" };
                soak.counts.ended(if how.is_empty() {
                    head.status.to_string()
                } else {
                    how.to_owned()
                });
            }
            (_, End::Cut(why)) => soak.counts.lose(format!("{} cut: {why}", head.status)),
        },
    }
}

fn pause(dice: &mut Dice) {
    thread::sleep(Duration::from_millis(20 + dice.below(60))); // the pace is the load
}

fn model(dice: &mut Dice) -> &'static str {
    // Mostly the one, so that there is something to be resident.
    if dice.below(20) == 0 { "tiny-b" } else { "tiny-a" }
}

fn engine_streams(soak: &Soak, dice: &mut Dice) {
    let sim = json!({"tokens": 5 + dice.below(30), "delay_token_ms": 3});
    read(soak, open(soak, &hello(model(dice), true, sim)));
    pause(dice);
}

fn engine_answers(soak: &Soak, dice: &mut Dice) {
    read(soak, open(soak, &hello(model(dice), false, json!({}))));
    pause(dice);
}

fn chat(model: &str, content: &serde_json::Value, stream: bool) -> Ask {
    let messages = json!([{"role": "user", "content": content}]);
    Ask::chat(json!({"model": model, "stream": stream, "messages": messages}).to_string())
}

fn other_streams(soak: &Soak, dice: &mut Dice) {
    read(soak, open(soak, &chat("ext", &json!("hi"), true)));
    pause(dice);
}

fn leaves(soak: &Soak, dice: &mut Dice) {
    let ask = match dice.below(2) {
        0 => chat("ext", &json!("hi"), true),
        _ => hello("tiny-a", true, json!({"tokens": 400, "delay_token_ms": 5})),
    };
    let mut client = open(soak, &ask);
    if dice.below(3) > 0 && client.try_head().is_ok() {
        // Broken before it could be left, perhaps.
        let _ = client.piece();
    } else {
        soak.counts.perhaps.fetch_add(1, Ordering::SeqCst);
    }
    soak.counts.ended("left");
    drop(client);
    pause(dice);
}

fn nonsense(soak: &Soak, dice: &mut Dice) {
    let ask = match dice.below(4) {
        0 => Ask::chat("{"),
        1 => Ask::chat(format!("{}1{}", "[".repeat(5000), "]".repeat(5000))),
        2 => chat(&format!("junk-{}", dice.below(1_000_000)), &json!("x"), false),
        _ => chat("../../etc/passwd\u{1b}[31m", &json!({"x": 1e300}), true),
    };
    read(soak, open(soak, &ask));
    pause(dice);
}

fn reads_slowly(soak: &Soak, dice: &mut Dice) {
    let mut client = open(soak, &hello("tiny-a", true, json!({"tokens": 60})));
    if client.try_head().is_ok() {
        for _ in 0..5 {
            thread::sleep(Duration::from_millis(50)); // that is what it is
            if !matches!(client.piece(), Ok(Some(_))) {
                break;
            }
        }
        match client.rest() {
            (_, End::Whole) => soak.counts.ended("200, slowly"),
            (_, End::Cut(why)) => soak.counts.lose(format!("slow reader cut: {why}")),
        }
    } else {
        soak.counts.lose("slow reader: no head".to_owned());
    }
    pause(dice);
}

/// A white picture of one pixel, and one that is none.
const PIXEL: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg==";

fn pictures(soak: &Soak, dice: &mut Dice) {
    let data = if dice.below(4) == 0 { "AAAA" } else { PIXEL };
    let url = format!("data:image/png;base64,{data}");
    let content =
        json!([{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": url}}]);
    read(soak, open(soak, &chat("ext", &content, false)));
    pause(dice);
}

fn unreachable(soak: &Soak, dice: &mut Dice) {
    read(soak, open(soak, &chat("gone", &json!("x"), dice.below(2) == 0)));
    pause(dice);
}
