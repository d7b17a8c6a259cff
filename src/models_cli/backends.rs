//! `backends`: every engine and server, who waits, what went wrong.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::Tools;
use super::error::CliError;
use super::model::{number, text};
use super::progress::spoken;
use super::table::{Cell, Table, shown};

/// Show every engine and server with its state, and who waits for which.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  imageworks-models backends
  imageworks-models backends --json | jq '.backends[] | select(.state != \"ready\")'")]
pub(super) struct Args {}

pub(super) async fn run(_: &Args, tools: &Tools) -> Result<(), CliError> {
    let answer = tools.daemon()?.get("/v1/backends").await?;
    if tools.out.json {
        return tools.out.value(&answer);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    tools.out.table(&table(&answer, now))?;
    tools.out.text(&beside(&answer))
}

fn table(answer: &Value, now: Duration) -> Table {
    let head =
        ["NAME", "KIND", "STATE", "MODEL", "PID", "PORT", "IN FLIGHT", "QUEUED", "UP", "RESTARTS"];
    let mut table = Table::new(&head);
    for line in answer["backends"].as_array().into_iter().flatten() {
        let (name, model) = (text(&line["name"]), text(&line["model"]));
        let up = line["since"].as_f64().and_then(|since| Duration::try_from_secs_f64(since).ok());
        let restarts = number(&line["restarts"]);
        table.row(vec![
            name.as_str().into(),
            text(&line["kind"]).into(),
            Cell::state(&text(&line["state"])),
            // Somebody else's server is named as its model is.
            if model == name { "".into() } else { model.into() },
            number(&line["pid"]).into(),
            number(&line["port"]).into(),
            number(&line["in_flight"]).into(),
            number(&line["queue_depth"]).into(),
            up.map_or_else(String::new, |since| spoken(now.saturating_sub(since))).into(),
            if restarts == "0" { "".into() } else { restarts.into() },
        ]);
    }
    table
}

/// What is no line of the table.
fn beside(answer: &Value) -> String {
    let mut all = match answer["resident"].as_str() {
        Some(model) => format!("resident: {}\n", shown(model)),
        None => "resident: nothing\n".to_owned(),
    };
    for waiter in answer["queue"].as_array().into_iter().flatten() {
        let waited = Duration::from_millis(waiter["waiting_ms"].as_u64().unwrap_or_default());
        let (model, class) = (text(&waiter["model"]), text(&waiter["class"]));
        let why = waiter["waits_for"].as_str().map_or_else(String::new, |why| format!(": {why}"));
        all = format!("{all}waiting: {model} ({class}, {}){}\n", spoken(waited), shown(&why));
    }
    for line in answer["backends"].as_array().into_iter().flatten() {
        if let Some(error) = line["last_error"].as_str() {
            all = format!("{all}last error of {}: {}\n", text(&line["name"]), shown(error));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn engines_servers_and_those_who_wait_are_shown() {
        let answer = json!({"resident": "tiny-a", "queue": [
                {"model": "tiny-b", "purpose": "request", "class": "interactive",
                 "waits_for": "2 requests for tiny-a finish", "waiting_ms": 4200}],
            "backends": [
                {"name": "vllm", "kind": "vllm", "state": "ready", "model": "tiny-a", "pid": 4711,
                 "port": 24001, "since": 1000.5, "restarts": 2, "last_error": null,
                 "in_flight": 2, "queue_depth": 1},
                {"name": "ollama", "kind": "ollama", "state": "unreachable", "model": null,
                 "models": [], "pid": null, "port": 11434, "since": null, "restarts": 0,
                 "last_error": "connection refused", "in_flight": 0, "queue_depth": 0},
                {"name": "there", "kind": "external", "state": "external", "model": "there",
                 "pid": null, "port": 8000, "since": null, "restarts": 0, "last_error": null,
                 "in_flight": 0, "queue_depth": 0}]});
        let now = Duration::from_secs(8_261);
        insta::assert_snapshot!(table(&answer, now).render(false), @"
        NAME    KIND      STATE        MODEL   PID   PORT   IN FLIGHT  QUEUED  UP         RESTARTS
        vllm    vllm      ready        tiny-a  4711  24001  2          1       2 h 1 min  2
        ollama  ollama    unreachable  -       -     11434  0          0       -          -
        there   external  external     -       -     8000   0          0       -          -
        ");
        insta::assert_snapshot!(beside(&answer), @"
        resident: tiny-a
        waiting: tiny-b (interactive, 4.2 s): 2 requests for tiny-a finish
        last error of ollama: connection refused
        ");
    }
}
