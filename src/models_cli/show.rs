//! `show NAME`: one model.

use serde_json::json;

use super::Tools;
use super::error::CliError;
use super::model::{self, Model};
use super::table::Table;

/// Show one model, by any of its names.
///
/// Hidden models (deprecated ones, test models) are shown too. Where no daemon runs here, the
/// registry's files are read instead.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  imageworks-models show qwen2.5vl_7b
  imageworks-models show \"Qwen 2.5 VL 7B\" --json")]
pub(super) struct Args {
    /// Its logical name, an alias, the served id or the display name.
    #[arg(value_name = "NAME")]
    name: String,
}

pub(super) async fn run(args: &Args, tools: &Tools) -> Result<(), CliError> {
    let models = model::one(tools, &args.name).await?;
    let Some(model) = models.models().next() else {
        return Err(CliError::not_found(
            format!("there is no model {:?}", args.name),
            "see `list`",
        ));
    };
    if tools.out.json {
        let mut item = model.item.clone();
        item["source"] = json!(models.source);
        return tools.out.value(&item);
    }
    tools.out.table(&table(&model))
}

/// What is to be done where the files are not there.
const NOT_INSTALLED: &str = "no: its files are not where its entry says; correct download_path or \
    model_path, or run `normalize-formats --rebuild` when they are there";

fn table(model: &Model<'_>) -> Table {
    let installed = match model.item["extensions"]["installed"].as_bool() {
        Some(true) => "yes",
        Some(false) => NOT_INSTALLED,
        None => "",
    };
    let templates = match model.list("templates") {
        none if none.is_empty() => "none was found".to_owned(),
        some => some,
    };
    Table::of_pairs(vec![
        ("name", model.name()),
        ("shown as", model.id()),
        ("also", model.list("aliases")),
        ("served as", model.text("served_model_id")),
        ("backend", model.backend()),
        ("layers", model.layers()),
        ("state", model.state()),
        ("installed", installed.to_owned()),
        ("format", model.text("format")),
        ("quantization", model.text("quantization")),
        ("size", model.size()),
        ("context", model.context()),
        ("can", model.capabilities()),
        ("reads", model.list("modalities")),
        ("roles", model.list("roles")),
        ("templates", templates),
    ])
}

#[cfg(test)]
mod tests {
    use super::super::list::tests::{item, models};
    use super::*;

    #[test]
    fn one_model_is_told_line_by_line() {
        let more = json!({"aliases": ["q", "r"], "state": "ready", "format": "awq",
            "size_bytes": 12_000, "capabilities": {"vision": true}, "modalities": ["text", "image"],
            "templates": ["/t/q.jinja"], "context_window": 4096});
        let models = models(vec![item("q", "Q", &more)]);
        insta::assert_snapshot!(table(&models.models().next().unwrap()).render(false), @"
        name       q
        shown as   Q
        also       q, r
        served as  q
        state      ready
        installed  yes
        format     awq
        size       12.0 kB
        context    4096
        can        vision
        reads      text, image
        templates  /t/q.jinja
        ");
    }
}
