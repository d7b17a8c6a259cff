//! `list`: the models that clients can ask for.

use serde_json::json;

use super::error::CliError;
use super::model::{self, Models};
use super::table::{Cell, Table};
use super::{Tools, output::Output};

/// Show the models that clients can ask for.
///
/// Asks the daemon; where none runs here, the registry's files are read instead, and then nobody
/// knows what is loaded.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  imageworks-models list
  imageworks-models list --role caption
  imageworks-models list --json | jq -r '.data[].id'")]
pub(super) struct Args {
    /// Only those that have this role.
    #[arg(long, value_name = "ROLE")]
    role: Option<String>,
}

pub(super) async fn run(args: &Args, tools: &Tools) -> Result<(), CliError> {
    let mut models = model::all(tools).await?;
    if let Some(role) = &args.role {
        keep_role(&mut models, role)?;
    }
    show(&models, &tools.out)
}

fn show(models: &Models, out: &Output) -> Result<(), CliError> {
    if out.json {
        let (source, data) = (models.source, &models.items);
        return out.value(&json!({"object": "list", "source": source, "data": data}));
    }
    if models.items.is_empty() {
        out.note("no model is listed; `imageworks-chat-proxy check-config` tells what is there");
        return Ok(());
    }
    out.table(&table(models))
}

fn keep_role(models: &mut Models, role: &str) -> Result<(), CliError> {
    let mut roles: Vec<String> = models
        .items
        .iter()
        .flat_map(|item| model::words(&item["extensions"]["roles"]))
        .map(str::to_owned)
        .collect();
    if !roles.iter().any(|known| known == role) {
        roles.sort();
        roles.dedup();
        let hint = match roles.join(", ") {
            none if none.is_empty() => "no model of the registry has a role".to_owned(),
            roles => format!("roles: {roles}"),
        };
        return Err(CliError::not_found(format!("no model has the role {role:?}"), hint));
    }
    let has: Vec<bool> = models.models().map(|model| model.has_role(role)).collect();
    let mut has = has.into_iter();
    models.items.retain(|_| has.next().unwrap_or(false));
    Ok(())
}

fn table(models: &Models) -> Table {
    let head = ["NAME", "SHOWN AS", "BACKEND", "STATE", "QUANT", "SIZE", "CONTEXT", "CAN", "ROLES"];
    let mut table = Table::new(&head);
    for model in models.models() {
        let (name, id) = (model.name(), model.id());
        table.row(vec![
            name.as_str().into(),
            if name == id { "".into() } else { id.into() },
            model.backend().into(),
            Cell::state(&model.state()),
            model.text("quantization").into(),
            model.size().into(),
            model.context().into(),
            model.capabilities().into(),
            model.list("roles").into(),
        ]);
    }
    table
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::Value;

    /// A line of the list.
    pub(in super::super) fn item(name: &str, id: &str, more: &Value) -> Value {
        let mut item = json!({"id": id, "object": "model", "created": 1, "owned_by": "imageworks",
            "extensions": {"display_id": id, "display_name": id, "logical_id": name,
                "served_model_id": name, "aliases": [], "backend": null, "format": null,
                "quantization": null, "size_bytes": null, "installed": true, "active": false,
                "state": "stopped", "capabilities": {}, "modalities": ["text"],
                "context_window": null, "roles": [], "has_chat_template": false, "templates": [],
                "primary_template": null, "schema_version": 1}});
        for (key, value) in more.as_object().unwrap() {
            item["extensions"][key] = value.clone();
        }
        item
    }

    pub(in super::super) fn models(items: Vec<Value>) -> Models {
        Models::of_items(items)
    }

    fn three() -> Models {
        models(vec![
            item(
                "qwen2.5vl_7b",
                "Qwen 2.5 VL 7B",
                &json!({"state": "ready", "active": true, "size_bytes": 4_661_224_676_u64,
                    "capabilities": {"vision": true, "tools": false, "reasoning": true},
                    "context_window": 32768, "roles": ["caption", "judge"], "quantization": "awq"}),
            ),
            item("tiny-o", "tiny-o", &json!({"state": "unknown", "roles": ["caption"]})),
            item("there", "there", &json!({"state": "external"})),
        ])
    }

    #[test]
    fn the_list_is_for_people() {
        insta::assert_snapshot!(table(&three()).render(false), @"
        NAME          SHOWN AS        STATE     QUANT  SIZE    CONTEXT  CAN                ROLES
        qwen2.5vl_7b  Qwen 2.5 VL 7B  ready     awq    4.6 GB  32768    vision, reasoning  caption, judge
        tiny-o        -               -         -      -       -        -                  caption
        there         -               external  -      -       -        -                  -
        ");
    }

    #[test]
    fn a_role_filters_and_an_unknown_one_is_not_found() {
        let mut caption = three();
        keep_role(&mut caption, "caption").unwrap();
        assert_eq!(
            caption.models().map(|m| m.name()).collect::<Vec<_>>(),
            ["qwen2.5vl_7b", "tiny-o"]
        );
        let error = keep_role(&mut three(), "captoin").unwrap_err();
        assert_eq!(
            (error.exit_code(), error.hint().as_deref()),
            (3, Some("roles: caption, judge"))
        );
        let error = keep_role(&mut models(Vec::new()), "x").unwrap_err();
        assert_eq!(error.hint().as_deref(), Some("no model of the registry has a role"));
    }
}
