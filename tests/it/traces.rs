//! The published traces at 1/20 of their times, over real sockets before simulated engines, beside
//! the scheduler alone in virtual time: both must change hands as often.
//!
//! Owns: the replay and the comparison. Must never do: make a trace, or decide what is simulated;
//! both are `scheduler_traces`'.
//!
//! **What a change of hands costs** is more here than the engine's load: it stops, a process starts,
//! and its readiness is polled for. So each replay measures it, from the SIGTERM that the old engine
//! notes to the moment at which the daemon holds the new one for ready, and the simulation's loads
//! are what that leaves beside its stop. The daemon's own `swap_seconds` begin at the decision: what
//! still ran is in them, as it is in the simulation's waits, so they are printed beside it and not
//! used.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chat_proxy_core::gpu::Class;
use scheduler_traces::policy::{Done, Policy, Production, Told, rules};
use scheduler_traces::table::percentile;
use scheduler_traces::traces::{self, Request, Trace};
use scheduler_traces::world::{self, Outcome, STOP};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::support::engines::{Engined, hello};
use crate::support::{Engines, alone};

const FASTER: u32 = 20;
const SEED: u64 = 1;
/// A stop of the simulation's engines, that much faster.
const STOP_MS: u64 = STOP / FASTER as u64;
/// What a busy machine may add to a wait, in milliseconds.
const SLACK: u64 = 500;

#[test]
#[ignore = "7 minutes; run by .ci/full"]
fn two_models_without_a_pause_change_hands_as_often_as_in_the_simulation() {
    compare("two-saturated-20s");
}

#[test]
#[ignore = "7 minutes; run by .ci/full"]
fn background_work_beside_two_models_changes_hands_as_often_as_in_the_simulation() {
    compare("three-light-20s-bg");
}

/// What came of a trace over sockets.
struct Live {
    swaps: usize,
    statuses: Vec<u16>,
    /// As the client saw them, without the answers' own time.
    waits: Vec<u64>,
    /// From the old engine's SIGTERM to ready, each that is remembered, in milliseconds.
    changes: Vec<u64>,
    /// The mean of what the daemon tells, from its decision on, in milliseconds.
    decided: f64,
    /// Which models were started, and when.
    loads: Vec<(u64, usize)>,
}

fn name(model: usize) -> String {
    format!("model-{model}")
}

fn compare(which: &str) {
    let _alone = alone();
    let trace = traces::all(SEED).into_iter().find(|trace| trace.name == which).expect("a trace");
    let quick = trace.clone().faster(u64::from(FASTER));
    let live = replay(&quick);
    let failed: Vec<_> = live.statuses.iter().enumerate().filter(|(_, s)| **s != 200).collect();
    assert!(failed.is_empty(), "requests by number, and their statuses: {failed:?}");

    let (simulated, loads) = simulate(trace, mean(&live.changes));
    print(&quick, &live, &simulated);
    let alike = alike(&live.loads, &loads);
    eprintln!("the first {alike} of {} loads are as simulated", live.loads.len());

    let (real, wanted) = (live.swaps, simulated.swaps);
    assert!(real.abs_diff(wanted) <= (wanted / 10).max(1), "{real} swaps, {wanted} simulated");
    let most = limit(&quick, &live.changes);
    let longest = sorted(&quick, &live.waits, Class::Interactive).last().copied();
    assert!(longest <= Some(most), "the longest interactive wait is {longest:?} of {most} ms");
}

/// Nobody waits longer than his bound, what runs, and a change; where both other models are due,
/// each of them has such a turn before the last.
fn limit(trace: &Trace, changes: &[u64]) -> u64 {
    let bound = u64::try_from(rules(FASTER).swap_wait.as_millis()).expect("a short time");
    let drain = trace.requests.iter().map(|request| request.service).max().unwrap_or(0);
    let change = changes.iter().max().copied().unwrap_or(0);
    bound + (drain + change) * (trace.loads.len() as u64 - 1) + SLACK
}

/// The daemon lives through a trace.
fn replay(trace: &Trace) -> Live {
    let it = daemon(trace);
    let addr = it.daemon.addr();
    let begun = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_micros();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let answers = runtime.expect("a runtime").block_on(ask_all(trace, addr));
    let (statuses, waits) = answers.into_iter().unzip();

    // Requests alone have caused swaps; the first one was no swap but a load.
    let swaps = it.figure("imageworks_proxy_swaps_total{reason=\"request\"}").expect("a figure");
    let figure = |of: &str| it.figure(&format!("imageworks_proxy_swap_seconds_{of}"));
    let (sum, count) = (figure("sum").expect("a sum"), figure("count").expect("a count"));
    assert!((swaps - count).abs() < 0.5, "{swaps} of {count} for requests");
    let starts = it.journal().into_iter().filter(|l| l.role == "leader" && l.event == "start");
    let loads = starts.map(|life| {
        let after = u128::from(life.at_us).saturating_sub(begun) / 1000;
        let model = (0..trace.loads.len()).find(|model| name(*model) == life.model);
        (u64::try_from(after).expect("a time"), model.expect("one of ours"))
    });
    let loads: Vec<_> = loads.collect();
    assert_eq!(format!("{count}"), loads.len().to_string(), "loads, all of which became ready");
    let changes = changes(&it);
    Live { swaps: loads.len() - 1, statuses, waits, changes, decided: sum / count * 1000.0, loads }
}

/// With the bounds of the simulation, and engines that load as long as the trace says.
fn daemon(trace: &Trace) -> Engined {
    let rules = rules(FASTER);
    let mut engines = Engines::new()
        .set("scheduler", "max_swap_wait_s", rules.swap_wait.as_secs_f64())
        .set("scheduler", "background_swap_wait_s", rules.background_wait.as_secs_f64())
        .set("scheduler", "background_idle_s", rules.background_idle.as_secs_f64())
        .set("scheduler", "max_queue_wait_s", 0)
        .set("scheduler", "max_queue_depth", 100_000)
        .set("ollama", "ollama_shares_gpu", "\"never\"");
    for (model, load) in trace.loads.iter().enumerate() {
        let (load, stop) = (load.to_string(), STOP_MS.to_string());
        engines = engines.model(&name(model), &["--sim-load-ms", &load, "--sim-stop-ms", &stop]);
    }
    engines.start()
}

/// Each request at its moment; statuses and waits in milliseconds.
async fn ask_all(trace: &Trace, addr: SocketAddr) -> Vec<(u16, u64)> {
    let begun = Instant::now();
    let mut answers = Vec::new();
    for request in &trace.requests {
        tokio::time::sleep_until(begun + Duration::from_millis(request.at)).await;
        answers.push(tokio::spawn(ask(*request, addr)));
    }
    let mut all = Vec::new();
    for answer in answers {
        all.push(answer.await.expect("an answer"));
    }
    all
}

async fn ask(request: Request, addr: SocketAddr) -> (u16, u64) {
    let sim = json!({"delay_unary_ms": request.service});
    let mut ask = hello(&name(request.model), false, sim).header("connection", "close");
    if request.class == Class::Background {
        ask = ask.header("x-request-class", "background");
    }
    let begun = Instant::now();
    let mut stream = TcpStream::connect(addr).await.expect("the daemon accepts");
    stream.write_all(&ask.bytes(addr)).await.expect("the daemon takes the request");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("a whole answer");
    let took = u64::try_from(begun.elapsed().as_millis()).expect("a time");
    let status = answer.get(9..12).and_then(|code| str::from_utf8(code).ok()?.parse().ok());
    (status.unwrap_or(0), took.saturating_sub(request.service))
}

/// See the module.
fn changes(it: &Engined) -> Vec<u64> {
    let journal = it.journal();
    let goes: Vec<u64> = journal
        .iter()
        .filter(|life| life.role == "leader" && life.event == "sigterm")
        .map(|life| life.at_us)
        .collect();
    let backends = it.backends();
    let swaps = backends["swaps"].as_array().expect("swaps");
    // The newest first. One whose forerunner came to nothing is reckoned from that one's beginning.
    let ends = swaps.windows(2).filter_map(|pair| {
        pair[1]["took_ms"].as_u64()?;
        let at = Duration::try_from_secs_f64(pair[0]["at"].as_f64()?).ok()?;
        Some(at + Duration::from_millis(pair[0]["took_ms"].as_u64()?))
    });
    let since_last = |end: Duration| {
        let end = u64::try_from(end.as_micros()).expect("a time");
        Some((end - goes.iter().rfind(|go| **go <= end)?) / 1000)
    };
    ends.filter_map(since_last).collect()
}

/// What came of the trace in virtual time where a change takes so many quick milliseconds, its waits
/// in such too; and what was loaded when.
fn simulate(mut trace: Trace, change: u64) -> (Outcome, Vec<(u64, usize)>) {
    let change = change * u64::from(FASTER);
    assert!(change > STOP, "an engine that stops in {STOP} ms is not there again in {change} ms");
    trace.loads.fill(change - STOP);
    let mut policy = Quick::new(trace.loads.len());
    let mut outcome = world::run(&trace, &mut policy);
    let waits = outcome.waits.iter_mut().flatten();
    waits.for_each(|wait| *wait /= u64::from(FASTER));
    (outcome, policy.loads)
}

/// The scheduler by a clock that is so many times slower than the simulated world's: it hears of the
/// same times as in the daemon. Times that no setting changes (how far back it remembers) weigh as
/// they do there, and the simulation's stop, which is a constant, is scaled like all else.
struct Quick {
    production: Production,
    loads: Vec<(u64, usize)>,
}

impl Quick {
    fn new(models: usize) -> Self {
        let production = Production::new(models, rules(FASTER)).expect("a registry");
        Quick { production, loads: Vec::new() }
    }
}

impl Policy for Quick {
    fn name(&self) -> &'static str {
        self.production.name()
    }

    fn on(&mut self, told: Told<'_>, now: u64) -> Vec<Done> {
        let now = now / u64::from(FASTER);
        let done = self.production.on(told, now);
        self.loads.extend(done.iter().filter_map(|done| match done {
            Done::Load(model) => Some((now, *model)),
            _ => None,
        }));
        done
    }

    fn next_tick(&self) -> Option<u64> {
        self.production.next_tick().map(|at| at * u64::from(FASTER))
    }
}

/// How many loads, from the first on, are of the same models at about the same moments.
fn alike(live: &[(u64, usize)], simulated: &[(u64, usize)]) -> usize {
    let same = |one: (u64, usize), other: (u64, usize)| {
        one.1 == other.1 && one.0.abs_diff(other.0) <= SLACK
    };
    let mut pairs = live.iter().zip(simulated);
    let Some(at) = pairs.position(|(live, simulated)| !same(*live, *simulated)) else {
        return live.len().min(simulated.len());
    };
    let told = |(at, model): (u64, usize)| format!("model {model} at {at} ms");
    eprintln!("the first that differs: {}, simulated {}", told(live[at]), told(simulated[at]));
    at
}

fn mean(values: &[u64]) -> u64 {
    values.iter().sum::<u64>() / (values.len() as u64).max(1)
}

fn sorted(trace: &Trace, waits: &[u64], class: Class) -> Vec<u64> {
    let of = trace.requests.iter().zip(waits).filter(|(request, _)| request.class == class);
    let mut waits: Vec<u64> = of.map(|(_, wait)| *wait).collect();
    waits.sort_unstable();
    waits
}

fn print(trace: &Trace, live: &Live, simulated: &Outcome) {
    let waits = |class| {
        let told = |waits: &[u64]| {
            let max = waits.last().copied().unwrap_or(0);
            format!("{} / {} / {max}", mean(waits), percentile(waits, 95))
        };
        let real = sorted(trace, &live.waits, class);
        if real.is_empty() {
            return "—".to_owned();
        }
        format!("{}, simulated {}", told(&real), told(&simulated.waits_of(trace, class)))
    };
    eprintln!(
        "\n| trace | swaps | change (from the decision) ms | interactive: mean / p95 / max wait (ms) \
         | background |\n|---|---|---|---|---|\n| {} at 1/{FASTER} | {}, simulated {} | {} ({:.0}) \
         | {} | {} |",
        trace.name,
        live.swaps,
        simulated.swaps,
        mean(&live.changes),
        live.decided,
        waits(Class::Interactive),
        waits(Class::Background),
    );
}
