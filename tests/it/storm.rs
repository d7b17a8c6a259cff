//! Five hundred requests of all kinds, clients that leave, engines that are killed: afterwards
//! everything is as it was before.

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::support::engines::{Engined, Sampler, greeting, hello, text_of};
use crate::support::expected::Rng;
use crate::support::{BOUND, Client, End, Engines, Reply, alone, eventually, sse};

const REQUESTS: usize = 500;
const CLIENTS: usize = 16;
/// An engine is killed whenever so many requests more have been made, of each model in turn: each
/// death of a model doubles the wait before its next start.
const PER_KILL: usize = 40;
const SEED: u64 = 0x5eed;

/// What a client does with its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    Whole,
    ToldOfAnError,
    LeftBeforeTheHead,
    LeftInTheMiddle,
}

/// What the engine makes of a request, if it lives.
#[derive(Debug)]
enum Want {
    Text(String),
    Error,
}

/// One request of the storm: its model, whether it is streamed, what is ordered and what follows.
struct Order {
    model: &'static str,
    stream: bool,
    sim: Value,
    want: Want,
}

impl Order {
    fn new(dice: &mut Rng) -> Self {
        let model = ["tiny-a", "tiny-b"][dice.below(2)];
        let stream = !dice.one_in(3);
        let says = || Want::Text(greeting(model));
        let many = |n: usize| {
            (0..n).flat_map(|n| ["tok".into(), n.to_string(), " ".into()]).collect::<String>()
        };
        // Only a stream has events and a last word.
        let breaks = || if stream { Want::Error } else { says() };
        let refusal = r#"{"error":{"message":"ordered"}}"#;
        let (sim, want) = match dice.below(12) {
            0 => (json!({"status": 500, "body": refusal}), Want::Error),
            1 => (json!({"cut": {"at_byte": 20 + dice.below(400), "how": "fin"}}), Want::Error),
            2 => (json!({"cut": {"at_byte": 20 + dice.below(400), "how": "rst"}}), Want::Error),
            3 => (json!({"error_after_events": 3}), breaks()),
            4 => (json!({"no_done": true, "no_finish": true}), breaks()),
            5 | 6 => {
                let n = 1 + dice.below(200);
                let sim = json!({"tokens": n, "delay_token_ms": 1});
                (sim, Want::Text(many(n).trim_end().to_owned()))
            }
            7 => (json!({"delay_head_ms": 20}), says()),
            8 => (json!({"split_writes": 7, "no_done": true}), says()),
            _ => (json!({}), says()),
        };
        Order { model, stream, sim, want }
    }

    /// An answer that was read to its end is whole and from the right model, or says that it is not.
    #[track_caller]
    fn judge(&self, reply: &Reply) -> Fate {
        assert_eq!(reply.end, End::Whole, "{}", reply.text());
        if reply.status() != 200 {
            assert!(reply.json()["error"]["message"].is_string(), "{}", reply.text());
            return Fate::ToldOfAnError;
        }
        if self.stream {
            let events = sse::without_comments(sse::events(&reply.body()));
            let last = events.last().expect("events");
            if sse::error_of(last).is_some() {
                assert!(!events.iter().any(|event| event == sse::DONE), "{events:?}");
                return Fate::ToldOfAnError;
            }
            assert_eq!(last, sse::DONE);
        }
        match &self.want {
            Want::Text(text) => assert_eq!(&text_of(reply), text),
            Want::Error => panic!("it looks like a whole answer: {}", reply.text()),
        }
        Fate::Whole
    }
}

/// One request of the storm: how it was left, or the status that it ended with.
fn ask(it: &Engined, nth: usize) -> (Fate, Option<u16>) {
    let mut dice = Rng::new(SEED.wrapping_add(nth as u64));
    let order = Order::new(&mut dice);
    let mut client = hello(order.model, order.stream, order.sim.clone()).open(it.daemon.addr());
    match dice.below(10) {
        0 => {
            // Some at once, others when they have waited; in order, for what is reset at once may
            // not have been received.
            let most = if dice.one_in(3) { 400 } else { 30 };
            thread::sleep(Duration::from_millis(dice.below(most) as u64));
            (Fate::LeftBeforeTheHead, None)
        }
        1 if order.stream => {
            let status = client.try_head().expect("a head").status;
            for _ in 0..=dice.below(4) {
                // It may have ended by itself.
                let _ = client.piece();
            }
            leave(client, dice.one_in(2));
            (Fate::LeftInTheMiddle, Some(status))
        }
        _ => {
            let reply = client.reply();
            (order.judge(&reply), Some(reply.status()))
        }
    }
}

/// With a reset, or in order.
fn leave(client: Client, reset: bool) {
    if reset {
        socket2::SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }
    drop(client);
}

/// The progress of the storm.
#[derive(Default)]
struct Storm {
    next: AtomicUsize,
    over: AtomicBool,
}

impl Storm {
    /// One client: request after request.
    fn client(&self, it: &Engined) -> Vec<(Fate, Option<u16>)> {
        let nth = || Some(self.next.fetch_add(1, Ordering::SeqCst)).filter(|nth| *nth < REQUESTS);
        std::iter::from_fn(nth)
            .map(|nth| {
                let seen = catch_unwind(AssertUnwindSafe(|| ask(it, nth)));
                seen.unwrap_or_else(|_| panic!("request {nth} of seed {SEED:#x}"))
            })
            .collect()
    }

    /// Kills a leader or an `EngineCore` now and then; answers how many.
    fn killer(&self, it: &Engined) -> usize {
        let (mut dice, mut kills, mut last) = (Rng::new(!SEED), 0, String::new());
        while !self.over.load(Ordering::SeqCst) {
            let due = self.next.load(Ordering::SeqCst) >= (kills + 1) * PER_KILL;
            if due && kill_one(it, &mut dice, &mut last) {
                kills += 1;
            }
            thread::sleep(Duration::from_millis(5)); // the pace of the looks
        }
        kills
    }
}

/// Kills one process of an engine that serves, if there is one and it is not of the `last` model.
fn kill_one(it: &Engined, dice: &mut Rng, last: &mut String) -> bool {
    let engine = it.engine();
    let Some(leader) = engine["pid"].as_i64().filter(|_| engine["state"] == "ready") else {
        return false;
    };
    let journal = it.journal();
    let core = journal.iter().rfind(|l| l.role == "engine-core" && l.event == "start");
    let Some(core) = core.filter(|core| core.model != *last) else {
        return false;
    };
    let leader = i32::try_from(leader).expect("a pid");
    let victim = if dice.one_in(2) { core.pid } else { leader };
    // It may just have ended.
    let killed = kill(Pid::from_raw(victim), Signal::SIGKILL).is_ok();
    if killed {
        last.clone_from(&core.model);
    }
    killed
}

/// However the storm ends, its killer is told.
struct Ends<'a>(&'a Storm);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::SeqCst);
    }
}

/// All requests; answers how many processes were killed and what became of the requests.
fn rage(it: &Engined) -> (usize, BTreeMap<(Fate, Option<u16>), usize>) {
    let storm = Storm::default();
    thread::scope(|scope| {
        let ends = Ends(&storm);
        let killing = scope.spawn(|| storm.killer(it));
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| storm.client(it))).collect();
        let mut fates = BTreeMap::new();
        for client in clients {
            for fate in client.join().expect("a client") {
                *fates.entry(fate).or_default() += 1;
            }
        }
        drop(ends);
        (killing.join().expect("the killer"), fates)
    })
}

/// Children of the daemon, those that have ended and were not waited for among them.
fn children(it: &Engined) -> usize {
    let tasks = fs::read_dir(format!("/proc/{}/task", it.daemon.pid())).unwrap().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists.map(|list| list.split_ascii_whitespace().count()).sum()
}

/// Nobody is served and nobody waits; then the engine is stopped: descriptors and children.
fn at_rest(it: &Engined) -> (usize, usize) {
    // Before the order: it would give back what was leaked.
    eventually("all turns are given back and the queue is empty", BOUND, || {
        let shown = it.backends();
        let nobody = shown["backends"][0]["in_flight"] == 0 && shown["queue"] == json!([]);
        nobody.then_some(())
    });
    assert!([200, 202].contains(&it.order("deactivate", json!({})).status()));
    it.wait_engine("stopped");
    (it.daemon.fd_count(), children(it))
}

#[test]
fn five_hundred_requests_departures_and_deaths_leave_nothing_behind() {
    let _alone = alone();
    let quick = ["--like-vllm", "--sim-stop-ms", "30", "--sim-linger-ms", "100"];
    let it = Engines::new()
        .model("tiny-a", &quick)
        .model("tiny-b", &quick)
        .set("vllm", "breaker_failures", 1000)
        .set("vllm", "vllm_restart_backoff_s", 0.02)
        .set("scheduler", "max_swap_wait_s", 0.8)
        .start();
    it.assert_answers("tiny-a");
    it.assert_answers("tiny-b");
    let baseline = at_rest(&it);
    let sampler = Sampler::of(it.port);
    let begun = Instant::now();
    let (kills, fates) = rage(&it);
    eprintln!("{kills} kills, {} starts, {:?}, {fates:?}", it.starts().len(), begun.elapsed());
    assert!(kills >= REQUESTS / PER_KILL / 2, "{kills} kills");
    let whole = fates.get(&(Fate::Whole, Some(200))).copied().unwrap_or_default();
    assert!(whole >= REQUESTS / 3, "{whole} whole answers");
    eventually("descriptors and children are back at their baseline", BOUND, || {
        let now = at_rest(&it);
        (now.0 <= baseline.0 && now.1 == baseline.1).then_some(())
    });
    // One line for each, of those who left too; the first two are the warm-up.
    let lines = it.daemon.log_lines(REQUESTS + 2);
    let ids: std::collections::BTreeSet<_> =
        lines.iter().filter_map(|line| line["request_id"].as_str()).collect();
    assert_eq!(ids.len(), lines.len(), "each has its own id");
    let queued = lines.iter().filter(|l| l["status"] == 499 && l["queue_ms"].as_u64() > Some(0));
    let queued = queued.count();
    eprintln!("{queued} left while they were queued");
    assert!(queued > 0, "nobody left while queued");
    it.assert_answers("tiny-a");
    // No line comes late.
    it.daemon.log_lines(REQUESTS + 3);
    sampler.assert_never_two();
}
