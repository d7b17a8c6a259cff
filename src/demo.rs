//! The tour: the daemon on a sample registry with simulated engines, and real requests to it.
//!
//! Owns: a temporary directory, two embedded engines, the words on the screen. Must never do:
//! pretend; every line shown comes from a real HTTP exchange with the daemon, and a step that
//! fails makes `demo --once` exit 1.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use awc::{Client, ClientResponse};
use chat_proxy_core::chat::sse::{Found, Payload, Splitter};
use chat_proxy_core::config::{self, Input};
use futures_util::StreamExt;
use serde_json::{Value, json};
use sim_engine::{Engine, Handle, Options};
use tokio::sync::mpsc;

use crate::serve::{self, Order, Ready};
use crate::terminal::say;

/// No step of the tour takes longer on any machine.
const STEP: Duration = Duration::from_secs(20);

/// A step that failed.
#[derive(Debug, thiserror::Error)]
enum TourError {
    #[error("{what}: {message}")]
    Step { what: &'static str, message: String },
    #[error("{0}")]
    Io(#[from] io::Error),
}

#[allow(clippy::needless_pass_by_value)] // so that it fits `map_err(|e| failed(what, e))`
fn failed(what: &'static str, message: impl ToString) -> TourError {
    TourError::Step { what, message: message.to_string() }
}

/// Shows the tour; with `once` exits after it.
pub(crate) fn run(once: bool) -> ExitCode {
    match actix_rt::System::new().block_on(demo(once)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&mut io::stderr(), &format!("demo: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Whether the tour went well.
async fn demo(once: bool) -> Result<bool, Box<dyn std::error::Error>> {
    let home = tempfile::tempdir()?;
    let engines = [engine("tiny-a")?, engine("tiny-b")?];
    write_registry(home.path(), &engines)?;
    let settings = settings(home.path())?;
    let (outcome_in, mut outcome) = mpsc::channel(1);
    let log = home.path().join("chat_proxy.jsonl");
    let orders = move |ready: Ready| {
        let (stop, orders) = mpsc::channel(4);
        if !once {
            relay_signals(ready.clone(), stop.clone())?;
        }
        actix_rt::spawn(async move {
            let outcome = tour(&ready, &log, once).await;
            if let Err(error) = &outcome {
                say(&mut io::stderr(), &format!("\nThe tour failed: {error}"));
            }
            // Nobody reads these any more only if the daemon has ended by itself.
            let _ = outcome_in.try_send(outcome.is_ok());
            if once || outcome.is_err() {
                let _ = stop.try_send(Order::Stop);
            }
        });
        Ok(orders)
    };
    serve::run(settings, orders).await?;
    Ok(outcome.recv().await.unwrap_or(false))
}

fn relay_signals(ready: Ready, stop: mpsc::Sender<Order>) -> Result<(), serve::ServeError> {
    let mut signals = serve::signals(ready)?;
    actix_rt::spawn(async move {
        while let Some(order) = signals.recv().await {
            // A full queue holds this order already.
            let _ = stop.try_send(order);
        }
    });
    Ok(())
}

fn engine(name: &str) -> io::Result<Handle> {
    Engine::start(Options { port: 0, served: vec![name.to_owned()], ..Options::default() })
}

/// What a user would write by hand.
fn write_registry(home: &Path, engines: &[Handle; 2]) -> io::Result<()> {
    let [a, b] = engines.each_ref().map(Handle::addr);
    let registry = json!([
        {
            "name": "tiny-a", "display_name": "Tiny A", "backend": "vllm",
            "backend_config": {"base_url": format!("http://{a}/v1")}
        },
        {
            "name": "tiny-b", "display_name": "Tiny B", "backend": "gguf",
            "backend_config": {"host": b.ip().to_string(), "port": b.port()},
            "model_aliases": ["small"]
        }
    ]);
    std::fs::write(home.join("model_registry.curated.json"), format!("{registry:#}\n"))
}

fn settings(home: &Path) -> Result<config::Settings, TourError> {
    let home = home.display();
    let text = format!(
        "[server]\nport = 0\nregistry_dir = {:?}\nlog_path = {:?}\n",
        format!("{home}"),
        format!("{home}/chat_proxy.jsonl")
    );
    let input = Input { file: Some(("demo settings".to_owned(), text)), env: Vec::new() };
    let loaded = config::load(&input).map_err(|problems| {
        failed("settings", problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    })?;
    Ok(loaded.settings)
}

async fn tour(ready: &Ready, log: &Path, once: bool) -> Result<(), TourError> {
    let addr = *ready.addrs.first().ok_or_else(|| failed("start", "no address"))?;
    let client = Client::builder().timeout(STEP).finish();
    let out = &mut io::stdout();
    say(out, "\nThe chat proxy runs, with two simulated engines behind it.\n");
    step(out, 1, "Which models are there?  GET /v1/models");
    models(&client, addr, out).await?;
    step(out, 2, "A streamed chat with Tiny A, token by token as the engine makes them");
    streamed(&client, addr, out).await?;
    step(out, 3, "A chat in one piece with Tiny B, asked for by its alias `small`");
    unary(&client, addr, out).await?;
    step(out, 4, "A model that does not exist: the error says what to do");
    unknown(&client, addr, out).await?;
    step(out, 5, "What the request log says about it all");
    log_lines(log, out).await?;
    if !once {
        try_next(addr, log, out);
    }
    say(out, "\nThe tour went well.");
    Ok(())
}

fn step(out: &mut dyn Write, number: u32, what: &str) {
    say(out, &format!("\n{number}. {what}"));
}

async fn models(client: &Client, addr: SocketAddr, out: &mut dyn Write) -> Result<(), TourError> {
    let what = "GET /v1/models";
    let mut response =
        client.get(format!("http://{addr}/v1/models")).send().await.map_err(|e| failed(what, e))?;
    let list: Value = response.json().await.map_err(|e| failed(what, e))?;
    let ids: Vec<&str> =
        list["data"].as_array().into_iter().flatten().filter_map(|m| m["id"].as_str()).collect();
    say(out, &format!("   {}", ids.join(", ")));
    if ids == ["Tiny A", "Tiny B"] { Ok(()) } else { Err(failed(what, format!("got {ids:?}"))) }
}

async fn chat(
    client: &Client,
    addr: SocketAddr,
    what: &'static str,
    body: &Value,
) -> Result<ClientResponse, TourError> {
    client
        .post(format!("http://{addr}/v1/chat/completions"))
        .send_json(body)
        .await
        .map_err(|e| failed(what, e))
}

async fn streamed(client: &Client, addr: SocketAddr, out: &mut dyn Write) -> Result<(), TourError> {
    let what = "streamed chat";
    let body = json!({
        "model": "Tiny A", "stream": true, "messages": [{"role": "user", "content": "hello"}],
        "sim": {"delay_token_ms": 60}
    });
    let mut response = chat(client, addr, what, &body).await?;
    let (began, mut first) = (Instant::now(), None);
    let (mut splitter, mut text, mut done) = (Splitter::default(), String::new(), false);
    write!(out, "   ")?;
    while let Some(chunk) = response.next().await {
        let chunk = chunk.map_err(|e| failed(what, e))?;
        let mut at = 0;
        while let Some(found) = splitter.next(&chunk, &mut at).map_err(|e| failed(what, e))? {
            let event = match found {
                Found::InPlace(place) => chunk.slice(place),
                Found::Joined(event) => event,
            };
            let payload = Payload::of(&event);
            let data = payload.data(&event);
            done |= data == b"[DONE]";
            let value: Value = serde_json::from_slice(data).unwrap_or_default();
            if let Some(piece) = value["choices"][0]["delta"]["content"].as_str() {
                first.get_or_insert_with(|| began.elapsed());
                text.push_str(piece);
                write!(out, "{piece}")?;
                out.flush()?;
            }
        }
    }
    let first = first.unwrap_or_default().as_millis();
    say(
        out,
        &format!(
            "\n   (first token after {first} ms, all of it after {} ms)",
            began.elapsed().as_millis()
        ),
    );
    if done && text == "Hello! I am tiny-a, a tiny test model." {
        Ok(())
    } else {
        Err(failed(what, format!("got {text:?}, done: {done}")))
    }
}

async fn unary(client: &Client, addr: SocketAddr, out: &mut dyn Write) -> Result<(), TourError> {
    let what = "chat in one piece";
    let body = json!({"model": "small", "messages": [{"role": "user", "content": "hello"}]});
    let mut response = chat(client, addr, what, &body).await?;
    let answer: Value = response.json().await.map_err(|e| failed(what, e))?;
    let text = answer["choices"][0]["message"]["content"].as_str().unwrap_or_default();
    say(out, &format!("   {text}"));
    say(out, &format!("   usage: {}", answer["usage"]));
    if text == "Hello! I am tiny-b, a tiny test model." {
        Ok(())
    } else {
        Err(failed(what, answer))
    }
}

async fn unknown(client: &Client, addr: SocketAddr, out: &mut dyn Write) -> Result<(), TourError> {
    let what = "unknown model";
    let body = json!({"model": "tiny-c", "messages": [{"role": "user", "content": "hello"}]});
    let mut response = chat(client, addr, what, &body).await?;
    let status = response.status().as_u16();
    let answer: Value = response.json().await.map_err(|e| failed(what, e))?;
    let text = |field: &str| answer["error"][field].as_str().unwrap_or_default().to_owned();
    say(out, &format!("   HTTP {status} {}: {} ({})", text("code"), text("message"), text("hint")));
    let expected =
        status == 404 && text("code") == "err_model_not_found" && text("hint").contains("Tiny A");
    if expected { Ok(()) } else { Err(failed(what, answer)) }
}

/// The log writer runs beside the requests: its three lines are waited for.
async fn log_lines(log: &Path, out: &mut dyn Write) -> Result<(), TourError> {
    let deadline = Instant::now() + STEP;
    let text = loop {
        let text = std::fs::read_to_string(log).unwrap_or_default();
        if text.lines().count() >= 3 {
            break text;
        }
        if Instant::now() > deadline {
            return Err(failed(
                "request log",
                format!("{} lines instead of 3", text.lines().count()),
            ));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    for line in text.lines() {
        let record: Value = serde_json::from_str(line).map_err(|e| failed("request log", e))?;
        let fields =
            ["model_logical", "stream", "status", "ttft_ms", "duration_ms", "completion_tokens"];
        let shown: Vec<String> = fields.iter().map(|f| format!("{f}={}", record[*f])).collect();
        say(out, &format!("   {}", shown.join(" ")));
    }
    Ok(())
}

fn try_next(addr: SocketAddr, log: &Path, out: &mut dyn Write) {
    say(out, "\nIt stays up until Ctrl-C. Try:\n");
    say(out, &format!("  curl http://{addr}/v1/models"));
    for stream in ["true", "false"] {
        say(
            out,
            &format!(
                "  curl -N http://{addr}/v1/chat/completions -H 'content-type: application/json' \\\n    \
             -d '{{\"model\": \"Tiny A\", \"stream\": {stream}, \"messages\": [{{\"role\": \"user\", \"content\": \"count\"}}]}}'"
            ),
        );
    }
    say(out, &format!("  curl http://{addr}/v1/readyz"));
    say(out, &format!("  tail -f {}", log.display()));
}
