//! What a swap costs beyond the engines' own stop and load, and whether 64 streams across two
//! swapping models all get their own model's answer.
//!
//! It owns a daemon whose two models are simulated engines that keep a journal of their lives. An
//! engine's own time is taken from that journal: from SIGTERM to its exit, from its start to ready.
//! All else of a request that causes a swap is ours. It must never count a wrong answer as one.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};

use crate::Fault;
use crate::peers::imageworks;
use crate::process::{Managed, float};
use crate::stats::Spread;

/// A swap may cost this much beyond the engines' own time, in milliseconds.
const BOUND_MS: f64 = 100.0;
/// No answer takes longer.
const PATIENCE: Duration = Duration::from_secs(60);
const MODELS: [&str; 2] = ["tiny-a", "tiny-b"];

#[derive(Args)]
pub(crate) struct Options {
    /// The daemon's program.
    #[arg(long)]
    daemon: PathBuf,
    /// Swaps to measure.
    #[arg(long, default_value_t = 30)]
    swaps: usize,
    /// How long an engine loads (ms).
    #[arg(long, default_value_t = 300)]
    load_ms: u64,
    /// How long an engine takes to stop (ms).
    #[arg(long, default_value_t = 100)]
    stop_ms: u64,
    /// Streams at once in the second part.
    #[arg(long, default_value_t = 64)]
    streams: usize,
}

/// `Ok(false)`: measured, and the bound is broken.
pub(crate) fn run(options: &Options) -> Result<bool, Fault> {
    let folder = tempfile::tempdir()?;
    let (addr, daemon) = start(options, folder.path())?;
    let measured = measure(options, addr, folder.path())?;
    let met = print(options, &measured)?;
    many_streams(options, addr, folder.path())?;
    drop(daemon);
    Ok(met)
}

fn start(options: &Options, folder: &Path) -> Result<(SocketAddr, Managed), Fault> {
    let program = fs::canonicalize(&options.daemon)?.display().to_string();
    let journal = folder.join("journal").display().to_string();
    let (load, stop) = (options.load_ms.to_string(), options.stop_ms.to_string());
    let entry = |model: &&str| {
        let args = [
            "--like-vllm",
            "--sim-load-ms",
            &load,
            "--sim-stop-ms",
            &stop,
            "--sim-journal",
            &journal,
        ];
        json!({"name": model, "backend": "vllm", "served_model_id": model,
            "chat_template": {"source": "embedded"}, "backend_config": {"model_path": format!("/models/{model}"), "extra_args": args}})
    };
    let entries: Vec<Value> = MODELS.iter().map(entry).collect();
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    // Before that bound the scheduler weighs a swap against what others would wait for it, which is a
    // decision and no cost; here each request shall get its model at once.
    let sections = format!(
        "[scheduler]\nmax_swap_wait_s = 0\n[vllm]\nvllm_port = {port}\n\
         vllm_command = [{program:?}, \"sim-engine\", \"serve\"]\n"
    );
    let settings = imageworks::settle(folder, &Value::from(entries), &sections)?;
    imageworks::launch(&options.daemon, &settings, folder)
}

/// One swap, in milliseconds.
struct Swap {
    /// From the request to the whole answer.
    total: f64,
    /// From SIGTERM to the old leader's end.
    stop: f64,
    /// From the new leader's start to ready.
    load: f64,
    /// From the request to SIGTERM.
    decide: f64,
    /// From the old leader's end to the new one's start.
    between: f64,
    /// From ready to the whole answer.
    answer: f64,
}

/// Reads one part of a swap.
type Part = fn(&Swap) -> f64;

impl Swap {
    fn ours(&self) -> f64 {
        self.total - self.stop - self.load
    }
}

fn measure(options: &Options, addr: SocketAddr, folder: &Path) -> Result<Vec<Swap>, Fault> {
    ask(addr, MODELS[0], false)?;
    let mut measured = Vec::new();
    for turn in 0..options.swaps {
        let (from, to) = (MODELS[turn % 2], MODELS[(turn + 1) % 2]);
        let asked_at = unix_us()?;
        let begun = Instant::now();
        ask(addr, to, false)?;
        let total = begun.elapsed().as_secs_f64() * 1000.0;
        let journal = Journal::read(&folder.join("journal"))?;
        let [sigterm, exit] = ["sigterm", "exit"].map(|event| journal.last(from, event));
        let [start, ready] = ["start", "ready"].map(|event| journal.last(to, event));
        let (sigterm, exit, start, ready) = (sigterm?, exit?, start?, ready?);
        if exit > start {
            return Err("two engines lived at once".into());
        }
        let answered_at = asked_at + total * 1000.0;
        measured.push(Swap {
            total,
            stop: (exit - sigterm) / 1000.0,
            load: (ready - start) / 1000.0,
            decide: (sigterm - asked_at) / 1000.0,
            between: (start - exit) / 1000.0,
            answer: (answered_at - ready) / 1000.0,
        });
    }
    Ok(measured)
}

/// Prints the table; whether the bound holds.
fn print(options: &Options, measured: &[Swap]) -> Result<bool, Fault> {
    let mut out = std::io::stdout();
    writeln!(
        out,
        "{} swaps, engines that load {} ms and stop in {} ms, milliseconds:\n",
        measured.len(),
        options.load_ms,
        options.stop_ms
    )?;
    writeln!(out, "| part | median | least | most |\n|---|---|---|---|")?;
    let rows: [(&str, Part); 7] = [
        ("request to answer", |s| s.total),
        ("the old engine's own stop", |s| s.stop),
        ("the new engine's own load", |s| s.load),
        ("**ours: all the rest**", Swap::ours),
        ("ours: request to SIGTERM", |s| s.decide),
        ("ours: old engine's end to new engine's start", |s| s.between),
        ("ours: ready to answer", |s| s.answer),
    ];
    for (name, of) in rows {
        let spread = Spread::of(measured.iter().map(of)).ok_or("no swap was measured")?;
        writeln!(
            out,
            "| {name} | {:.1} | {:.1} | {:.1} |",
            spread.median, spread.low, spread.high
        )?;
    }
    let ours = Spread::of(measured.iter().map(Swap::ours)).ok_or("no swap was measured")?.median;
    let met = ours <= BOUND_MS;
    let verdict = if met { "holds" } else { "does not hold" };
    writeln!(out, "\n- {verdict}: a swap, ours: at most {BOUND_MS} ms; measured {ours:.1} ms")?;
    Ok(met)
}

fn many_streams(options: &Options, addr: SocketAddr, folder: &Path) -> Result<(), Fault> {
    let begun = Instant::now();
    let before = Journal::read(&folder.join("journal"))?.starts();
    let clients: Vec<_> = (0..options.streams)
        .map(|n| thread::spawn(move || ask(addr, MODELS[n % 2], true)))
        .collect();
    for client in clients {
        client.join().map_err(|_| "a client panicked")??;
    }
    let swaps = Journal::read(&folder.join("journal"))?.starts() - before;
    let mut out = std::io::stdout();
    writeln!(
        out,
        "\n{} streams at once across two models: all whole, each from its own model, {swaps} swaps, {:.1} s",
        options.streams,
        begun.elapsed().as_secs_f64()
    )?;
    Ok(())
}

fn unix_us() -> Result<f64, Fault> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    Ok(now.as_secs_f64() * 1e6)
}

/// Asks a model for its name and checks that it answers by it, whole.
fn ask(addr: SocketAddr, model: &str, stream: bool) -> Result<(), Fault> {
    let body = json!({"model": model, "stream": stream,
        "messages": [{"role": "user", "content": "hello"}]})
    .to_string();
    let mut connection = TcpStream::connect(addr)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    write!(
        connection,
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    let whole = answer.starts_with("HTTP/1.1 200") && (!stream || answer.contains("data: [DONE]"));
    if whole && said(&answer, stream).contains(&format!("I am {model},")) {
        return Ok(());
    }
    Err(format!("{model} answered: {answer}").into())
}

/// The text of an answer.
fn said(answer: &str, stream: bool) -> String {
    if !stream {
        return answer.to_owned();
    }
    let chunks = answer.lines().filter_map(|line| line.strip_prefix("data: "));
    let chunks = chunks.filter_map(|data| serde_json::from_str::<Value>(data).ok());
    chunks.filter_map(|c| c["choices"][0]["delta"]["content"].as_str().map(str::to_owned)).collect()
}

/// What the engines wrote down of their lives.
struct Journal(Vec<Value>);

impl Journal {
    fn read(path: &Path) -> Result<Self, Fault> {
        let text = fs::read_to_string(path)?;
        let lines: Result<Vec<Value>, _> = text.lines().map(serde_json::from_str).collect();
        Ok(Self(lines?))
    }

    /// When a model's leader last had this event, in microseconds.
    fn last(&self, model: &str, event: &str) -> Result<f64, Fault> {
        let found = self.0.iter().rev().find(|life| {
            life["role"] == "leader" && life["model"] == model && life["event"] == event
        });
        let at = found.and_then(|life| life["at_us"].as_u64());
        at.map(float).ok_or_else(|| format!("{model} has no {event} in the journal").into())
    }

    fn starts(&self) -> usize {
        let start = |life: &&Value| life["role"] == "leader" && life["event"] == "start";
        self.0.iter().filter(start).count()
    }
}
