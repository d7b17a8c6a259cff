//! `normalize-formats`: looks at the downloads, and tells the registry what they are.

use chat_proxy_actors::artifacts::look_at;
use chat_proxy_actors::clock::rfc3339;
use chat_proxy_actors::registry::edit::{Edits, Opened};
use chat_proxy_core::artifacts::normalize::{Looks, Paths, Plan, Rules, plan, shown};
use serde_json::{Value, json};

use super::Tools;
use super::error::CliError;
use super::files::Registry;
use super::table::Table;

/// Look at the downloads, and write down what they are.
///
/// Format, quantization, size, files and chat template of every entry with a download path or a
/// model path are filled in, in the discovered layer; what is curated stands, and locked entries are
/// left alone. Entries of the discovered layer whose files are gone are dropped, and kept in
/// model_registry.ghosts.json. A running daemon hears of it by itself.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  imageworks-models normalize-formats --dry-run
  imageworks-models normalize-formats --rebuild
  imageworks-models normalize-formats --json | jq '.dropped[].name'")]
pub(super) struct Args {
    /// Also overwrite what tools have written before.
    #[arg(long)]
    rebuild: bool,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(args: &Args, tools: &Tools) -> Result<(), CliError> {
    let registry = Registry::of(tools)?;
    let rules = Rules { rebuild: args.rebuild };
    let opened = registry.open(tools)?;
    let looks = look_at(paths(&opened), &registry.places());
    let plan = if args.dry_run {
        plan(&opened.layers, &looks, rules)
    } else {
        registry.change(|opened| decide(opened, &looks, rules))?.1
    };
    for note in &plan.notes {
        tools.out.note(&format!("{}: {}", note.name, note.message));
    }
    if tools.out.json {
        return tools.out.value(&to_json(&plan, args.dry_run));
    }
    if !plan.fields.is_empty() || !plan.ghosts.is_empty() {
        tools.out.table(&table(&plan))?;
    }
    tools.out.line(&summary(&plan, args.dry_run, &registry.ghosts().display().to_string()))
}

fn paths(opened: &Opened) -> Vec<Paths> {
    let names = opened.layers.names();
    names.iter().filter_map(|name| Paths::of(&opened.layers.merged(name)?)).collect()
}

fn decide(opened: &Opened, looks: &Looks, rules: Rules) -> (Edits, Plan) {
    let plan = plan(&opened.layers, looks, rules);
    let at = rfc3339();
    let dropped = plan.ghosts.iter().map(|ghost| ghost.record("its files are gone", &at)).collect();
    (Edits { changes: plan.changes.clone(), dropped }, plan)
}

fn table(plan: &Plan) -> Table {
    let mut table = Table::new(&["NAME", "FIELD", "WAS", "NOW"]);
    for field in &plan.fields {
        let (was, now) = (shown(Some(&field.was)), shown(Some(&field.now)));
        table.row(vec![(&field.name).into(), field.field.into(), was.into(), now.into()]);
    }
    for ghost in &plan.ghosts {
        let was = ghost.path.as_str();
        table.row(vec![(&ghost.name).into(), "(entry)".into(), was.into(), "dropped".into()]);
    }
    table
}

fn changed_entries(plan: &Plan) -> usize {
    plan.changes.len() - plan.ghosts.len()
}

fn summary(plan: &Plan, dry_run: bool, ghosts: &str) -> String {
    let entries =
        |many: usize| if many == 1 { "1 entry".to_owned() } else { format!("{many} entries") };
    let mut parts = vec![format!("{} looked at", entries(plan.looked_at))];
    match changed_entries(plan) {
        0 => parts.push("nothing to fill in".to_owned()),
        many => parts.push(format!("{} changed", entries(many))),
    }
    if !plan.ghosts.is_empty() {
        parts.push(format!("{} dropped (kept in {ghosts})", entries(plan.ghosts.len())));
    }
    let told = parts.join(", ");
    if dry_run { format!("{told} (not written: --dry-run)") } else { told }
}

fn to_json(plan: &Plan, dry_run: bool) -> Value {
    let changed: Vec<Value> = plan
        .fields
        .iter()
        .map(|f| json!({"name": f.name, "field": f.field, "was": f.was, "now": f.now}))
        .collect();
    let dropped: Vec<Value> =
        plan.ghosts.iter().map(|ghost| json!({"name": ghost.name, "path": ghost.path})).collect();
    let notes: Vec<Value> = plan
        .notes
        .iter()
        .map(|note| json!({"name": note.name, "kind": note.kind, "message": note.message}))
        .collect();
    json!({"dry_run": dry_run, "looked_at": plan.looked_at, "changed": changed,
        "dropped": dropped, "notes": notes})
}

#[cfg(test)]
mod tests {
    use super::*;
    use chat_proxy_core::artifacts::normalize::{FieldChange, Ghost};
    use chat_proxy_core::registry::edit::Change;
    use serde_json::Map;

    fn some() -> Plan {
        let field =
            |field, was: Value, now: Value| FieldChange { name: "tiny".into(), field, was, now };
        let ghost = Ghost { name: "old".into(), path: "/m/old".into(), entry: Map::new() };
        Plan {
            changes: vec![
                Change::Set { name: "tiny".into(), fields: Map::new() },
                Change::Remove { name: "old".into() },
            ],
            fields: vec![
                field("download_format", json!(null), json!("gguf")),
                field("quantization", json!("q4"), json!("Q4_K_M")),
                field("download_files", json!(null), json!(["a", "b"])),
                field("chat_template", json!(null), json!({"source": "embedded"})),
            ],
            ghosts: vec![ghost],
            notes: Vec::new(),
            looked_at: 2,
        }
    }

    #[test]
    fn what_has_changed_is_told_field_by_field() {
        let plan = some();
        insta::assert_snapshot!(table(&plan).render(false), @"
        NAME  FIELD            WAS     NOW
        tiny  download_format  -       gguf
        tiny  quantization     q4      Q4_K_M
        tiny  download_files   -       2 files
        tiny  chat_template    -       embedded
        old   (entry)          /m/old  dropped
        ");
        insta::assert_snapshot!(summary(&plan, false, "r/ghosts.json"), @"2 entries looked at, 1 entry changed, 1 entry dropped (kept in r/ghosts.json)");
        insta::assert_snapshot!(summary(&Plan { looked_at: 1, ..Plan::default() }, true, ""), @"1 entry looked at, nothing to fill in (not written: --dry-run)");
    }
}
