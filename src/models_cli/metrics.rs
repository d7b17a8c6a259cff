//! `metrics`: the daemon's figures.

use serde_json::Value;

use super::Tools;
use super::error::CliError;
use super::model::text;
use super::progress::spoken;
use super::table::Table;

/// Show the figures of the last requests: times to the first token, swaps, errors.
///
/// The daemon must have metrics on: `server.enable_metrics` in the settings, or CHAT_PROXY_ENABLE_METRICS=1.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  imageworks-models metrics
  imageworks-models metrics --json | jq .rolling.p95_ttft_ms")]
pub(super) struct Args {}

pub(super) async fn run(_: &Args, tools: &Tools) -> Result<(), CliError> {
    let summary = tools.daemon()?.get("/v1/metrics").await?;
    if tools.out.json { tools.out.value(&summary) } else { tools.out.table(&table(&summary)) }
}

fn table(summary: &Value) -> Table {
    let up = summary["uptime_seconds"].as_f64();
    let up = up.and_then(|up| std::time::Duration::try_from_secs_f64(up).ok());
    let rolling = summary["rolling"].as_object();
    let mut pairs = vec![
        ("up for".to_owned(), up.map_or_else(String::new, spoken)),
        ("active model".to_owned(), text(&summary["active_model"])),
        ("in flight".to_owned(), figure(&summary["in_flight"])),
        ("queued".to_owned(), figure(&summary["queue_depth"])),
        ("swaps".to_owned(), counted(&summary["swaps"]["total"], &summary["swaps"]["by_reason"])),
        ("cost".to_owned(), figure(&summary["cost"])),
        ("requests by backend".to_owned(), counts(&summary["requests_by_backend"])),
        ("errors by code".to_owned(), counts(&summary["errors_by_code"])),
    ];
    let recent = rolling.into_iter().flatten();
    pairs.extend(
        recent.map(|(name, value)| (format!("recent {}", name.replace('_', " ")), figure(value))),
    );
    Table::of_pairs(pairs.iter().map(|(name, value)| (name.as_str(), value.clone())).collect())
}

/// A number with two digits behind the point, where it has any.
fn figure(value: &Value) -> String {
    match value.as_f64() {
        Some(_) if value.is_u64() || value.is_i64() => value.to_string(),
        Some(number) => format!("{number:.2}"),
        None => String::new(),
    }
}

fn counted(total: &Value, parts: &Value) -> String {
    match counts(parts) {
        none if none.is_empty() => figure(total),
        parts => format!("{} ({parts})", figure(total)),
    }
}

fn counts(value: &Value) -> String {
    let pairs = value.as_object().into_iter().flatten();
    pairs.map(|(name, count)| format!("{name} {}", figure(count))).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn figures_are_shown_with_their_names() {
        let summary = json!({"uptime_seconds": 3725.2, "active_model": null, "in_flight": 0,
            "queue_depth": 3, "cost": 0.25, "schema_version": 1,
            "requests_by_backend": {"vllm": 12, "ollama": 3}, "errors_by_code": {},
            "swaps": {"total": 4, "by_reason": {"request": 3, "manual": 1}},
            "rolling": {"count": 15, "avg_ttft_ms": 81.514_2, "p50_ttft_ms": null}});
        insta::assert_snapshot!(table(&summary).render(false), @"
        up for               1 h 2 min
        in flight            0
        queued               3
        swaps                4 (request 3, manual 1)
        cost                 0.25
        requests by backend  vllm 12, ollama 3
        recent count         15
        recent avg ttft ms   81.51
        ");
    }
}
