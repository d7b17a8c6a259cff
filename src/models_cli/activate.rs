//! `activate-model`: makes a model resident, or nothing; and shows how that goes.
//!
//! Owns: the order, and the wait for its outcome. Must never do: guess the outcome: the daemon
//! tells it, as the answer to the order itself; states and the engine's log are only shown.

use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use serde_json::{Value, json};

use super::daemon::{Daemon, in_path};
use super::error::CliError;
use super::model::text;
use super::progress::{BEAT, Progress, spoken};
use super::tail::Tail;
use super::{Tools, seconds};

/// How often states are asked for.
const LOOK: Duration = Duration::from_millis(400);

/// Load a model and wait until it serves; or stop what is resident.
///
/// For a model that runs at vLLM the daemon starts its engine, for one of Ollama it has it
/// loaded; whatever has the GPU makes room first, when its requests are done. Meanwhile the state
/// and the engine's log are shown. Ctrl-C ends the wait, not the load.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  imageworks-models activate-model qwen2.5vl_7b
  imageworks-models activate-model qwen2.5vl_7b --no-wait
  imageworks-models activate-model --stop")]
pub(super) struct Args {
    /// Any name of the model.
    #[arg(value_name = "NAME", required_unless_present = "stop", conflicts_with = "stop")]
    name: Option<String>,
    /// Stop the engine of vLLM, and unload what Ollama has on the same GPU.
    #[arg(long)]
    stop: bool,
    /// With --stop: end requests that are under way, instead of letting them finish.
    #[arg(long, requires = "stop")]
    force: bool,
    /// Give the order and do not wait.
    #[arg(long)]
    no_wait: bool,
    /// Wait at most so long, in seconds.
    #[arg(long, value_name = "SECONDS", default_value = "1800", value_parser = seconds)]
    max_wait: Duration,
}

pub(super) async fn run(args: &Args, tools: &Tools) -> Result<(), CliError> {
    let daemon = tools.daemon()?;
    match &args.name {
        Some(name) => activate(name, args, &daemon, tools).await,
        None => stop(args, &daemon, tools).await,
    }
}

async fn activate(name: &str, args: &Args, daemon: &Daemon, tools: &Tools) -> Result<(), CliError> {
    let item = daemon.get(&format!("/v1/models/{}", in_path(name))).await?;
    let name = text(&item["extensions"]["logical_id"]);
    if item["extensions"]["state"] == "external" {
        let message = format!("{name} is served by somebody else's server: it is loaded there");
        return Err(CliError::failed(message, "`backends` shows where that is"));
    }
    if args.no_wait {
        let given = order(daemon, &name, false, args.max_wait).await?;
        return told(tools, &given, &format!("{name}: {}", text(&given["state"])));
    }
    let mut progress = Progress::begin();
    let answer = wait_for(&name, args, daemon, &mut progress).await?;
    let took = progress.elapsed();
    drop(progress);
    let shown = json!({"model": name, "state": answer["state"], "seconds": took.as_secs_f64()});
    told(tools, &shown, &format!("{name} is ready ({})", spoken(took)))
}

fn told(tools: &Tools, value: &Value, sentence: &str) -> Result<(), CliError> {
    if tools.out.json { tools.out.value(value) } else { tools.out.line(sentence) }
}

/// The daemon knows whose model it is.
async fn order(
    daemon: &Daemon,
    name: &str,
    wait: bool,
    within: Duration,
) -> Result<Value, CliError> {
    let body = json!({"model": name, "wait": wait});
    match daemon.post("/v1/backends/vllm/activate", &body, within).await {
        Err(CliError::Refused(refusal)) if refusal.is_about("model") => {
            daemon.post("/v1/backends/ollama/load", &body, within).await
        }
        answer => answer,
    }
}

async fn wait_for(
    name: &str,
    args: &Args,
    daemon: &Daemon,
    progress: &mut Progress,
) -> Result<Value, CliError> {
    // From before the start, so that none of its lines is missed; not everything has a log.
    let mut log = Tail::of(daemon, name, 0).await.ok();
    // Its bound is the one below; this one is for the case that it is missed.
    let answer = order(daemon, name, true, args.max_wait * 2);
    let states = states(daemon);
    let interrupt = tokio::signal::ctrl_c();
    tokio::pin!(answer, states, interrupt);
    let late = tokio::time::sleep(args.max_wait);
    tokio::pin!(late);
    let mut beat = tokio::time::interval(BEAT);
    loop {
        tokio::select! {
            biased;
            answer = &mut answer => return answer,
            _ = &mut interrupt => return Err(CliError::Interrupted {
                message: format!("not waited for any more: the load of {name} goes on"),
                hint: "`imageworks-models activate-model --stop` stops it".to_owned(),
            }),
            () = &mut late => return Err(CliError::failed(
                format!("{name} is not ready after {}; its load goes on", spoken(args.max_wait)),
                "`activate-model --stop` stops it, `backends` and `logs` tell how it is",
            )),
            line = next_line(&mut log) => progress.log(&line),
            Some(shown) = states.next() => progress.state(&describe(&shown, name)),
            _ = beat.tick() => progress.tick(),
        }
    }
}

/// The next line of a log; none ever, when it has ended.
async fn next_line(log: &mut Option<Tail>) -> String {
    if let Some(tail) = log
        && let Some(Ok(line)) = tail.next().await
    {
        return line;
    }
    *log = None;
    std::future::pending().await
}

/// What `GET /v1/backends` says, again and again; a time when it cannot be asked is passed over.
fn states(daemon: &Daemon) -> impl Stream<Item = Value> {
    stream::unfold((daemon.clone(), Duration::ZERO), |(daemon, pause)| async move {
        tokio::time::sleep(pause).await;
        let shown = daemon.get("/v1/backends").await;
        Some((shown.ok(), (daemon, LOOK)))
    })
    .filter_map(std::future::ready)
}

fn line_of<'a>(shown: &'a Value, kind: &str) -> Option<&'a Value> {
    shown["backends"].as_array()?.iter().find(|line| line["kind"] == kind)
}

/// How far a model has come.
fn describe(shown: &Value, name: &str) -> String {
    let engine = line_of(shown, "vllm").unwrap_or(&Value::Null);
    let (model, state) = (text(&engine["model"]), text(&engine["state"]));
    let waiting = shown["queue"].as_array().into_iter().flatten();
    let waiting = waiting.into_iter().find(|waiter| waiter["model"] == name);
    if model == name {
        return match state.as_str() {
            "starting" => format!("{name}: the engine is loading"),
            "ready" => format!("{name}: the engine is ready"),
            "backoff" => format!("{name}: the engine failed before; there is a pause first"),
            other => format!("{name}: the engine is {other}"),
        };
    }
    if let Some(why) = waiting.and_then(|waiter| waiter["waits_for"].as_str()) {
        return format!("{name} waits: {why}");
    }
    if !model.is_empty() && matches!(state.as_str(), "ready" | "starting" | "stopping") {
        return format!("{name} waits: the engine of {model} is {state}");
    }
    format!("{name} is being loaded")
}

async fn stop(args: &Args, daemon: &Daemon, tools: &Tools) -> Result<(), CliError> {
    let before = daemon.get("/v1/backends").await?;
    let mut progress = Progress::begin();
    let mut stopped: Vec<String> = Vec::new();
    let body = json!({"force": args.force});
    if let Some(engine) = line_of(&before, "vllm") {
        let met = daemon.order("/v1/backends/vllm/deactivate", &body).await?;
        if met["status"] != "idle" {
            let pid = engine["pid"].clone();
            stopped.push(text(&met["model"]));
            gone(args, daemon, &met, &mut progress, |now| engine_is_gone(now, &pid)).await?;
        }
    }
    if loaded_here(&before).next().is_some() {
        stopped.extend(loaded_here(&before).map(str::to_owned));
        let met = daemon.post("/v1/backends/ollama/unload", &body, args.max_wait).await?;
        if met["status"] != "unloaded" {
            gone(args, daemon, &met, &mut progress, |now| Ok(loaded_here(now).next().is_none()))
                .await?;
        }
    }
    drop(progress);
    let (key, word) =
        if args.no_wait { ("stopping", "being stopped") } else { ("stopped", "stopped") };
    let sentence = match stopped.as_slice() {
        [] => "nothing is resident".to_owned(),
        stopped => format!("{word}: {}", stopped.join(", ")),
    };
    told(tools, &json!({key: stopped}), &sentence)
}

/// What Ollama has loaded on the GPU that it shares.
fn loaded_here(shown: &Value) -> impl Iterator<Item = &str> {
    let lines = shown["backends"].as_array().into_iter().flatten();
    let shared = lines.filter(|line| line["kind"] == "ollama" && line["shares_gpu"] == true);
    shared.flat_map(|line| super::model::words(&line["models"]))
}

/// Whether the engine with this pid is no more.
fn engine_is_gone(shown: &Value, pid: &Value) -> Result<bool, CliError> {
    let Some(engine) = line_of(shown, "vllm") else { return Ok(true) };
    let state = text(&engine["state"]);
    if state == "stuck" {
        let why = text(&engine["last_error"]);
        return Err(CliError::failed(
            format!("the engine of {} cannot be ended: {why}", text(&engine["model"])),
            "the daemon's own log tells more",
        ));
    }
    Ok(engine["pid"] != *pid || !matches!(state.as_str(), "ready" | "starting" | "stopping"))
}

/// Waits until what was told to stop has stopped.
async fn gone(
    args: &Args,
    daemon: &Daemon,
    met: &Value,
    progress: &mut Progress,
    is_gone: impl Fn(&Value) -> Result<bool, CliError>,
) -> Result<(), CliError> {
    if args.no_wait {
        return Ok(());
    }
    let model = text(&met["model"]);
    progress.state(&match met["waits_for"]["in_flight"].as_u64() {
        Some(count) if !args.force => format!("{model}: requests finish first ({count})"),
        _ => format!("{model} is stopping"),
    });
    let states = states(daemon);
    let interrupt = tokio::signal::ctrl_c();
    tokio::pin!(states, interrupt);
    let late = tokio::time::sleep(args.max_wait);
    tokio::pin!(late);
    let mut beat = tokio::time::interval(BEAT);
    loop {
        tokio::select! {
            biased;
            _ = &mut interrupt => return Err(CliError::Interrupted {
                message: format!("not waited for any more: {model} is still told to stop"),
                hint: "`imageworks-models backends` tells how it is".to_owned(),
            }),
            () = &mut late => return Err(CliError::failed(
                format!("{model} has not stopped after {}", spoken(args.max_wait)),
                "requests that are under way finish first; --force ends them",
            )),
            Some(shown) = states.next() => if is_gone(&shown)? { return Ok(()) },
            _ = beat.tick() => progress.tick(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(model: &Value, state: &str, queue: &Value) -> Value {
        json!({"queue": queue, "backends": [
            {"kind": "vllm", "model": model, "state": state, "pid": 7, "last_error": "why"},
            {"kind": "ollama", "models": ["x:1"], "shares_gpu": true},
            {"kind": "ollama", "models": ["y:1"], "shares_gpu": false}]})
    }

    #[test]
    fn it_is_told_what_a_load_waits_for() {
        let none = json!([]);
        let queue = json!([{"model": "a", "waits_for": "2 requests for b finish"}]);
        let told: Vec<String> = [
            shown(&json!("b"), "ready", &queue),
            shown(&json!("b"), "stopping", &none),
            shown(&Value::Null, "stopped", &none),
            shown(&json!("a"), "starting", &queue),
            shown(&json!("a"), "backoff", &none),
            shown(&json!("a"), "ready", &none),
            json!({}),
        ]
        .iter()
        .map(|shown| describe(shown, "a"))
        .collect();
        insta::assert_snapshot!(told.join("\n"), @"
        a waits: 2 requests for b finish
        a waits: the engine of b is stopping
        a is being loaded
        a: the engine is loading
        a: the engine failed before; there is a pause first
        a: the engine is ready
        a is being loaded
        ");
    }

    #[test]
    fn what_was_stopped_is_gone_when_another_one_runs_or_none() {
        let now = |state| shown(&json!("a"), state, &json!([]));
        let is_gone = |state, pid: u32| engine_is_gone(&now(state), &json!(pid));
        assert!(!is_gone("ready", 7).unwrap() && !is_gone("stopping", 7).unwrap());
        assert!(is_gone("starting", 6).unwrap() && is_gone("stopped", 7).unwrap());
        assert_eq!(
            is_gone("stuck", 7).unwrap_err().to_string(),
            "the engine of a cannot be ended: why"
        );
        assert_eq!(loaded_here(&now("ready")).collect::<Vec<_>>(), ["x:1"]);
    }
}
