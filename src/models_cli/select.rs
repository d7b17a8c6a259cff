//! `select ROLE`: which models would be taken for a role, the best first (SPEC 8).

use chat_proxy_actors::registry;
use chat_proxy_core::ApiError;
use chat_proxy_core::profiles::roles::Ask;
use serde_json::Value;

use super::Tools;
use super::daemon::in_path;
use super::error::CliError;
use super::model::{FROM_FILES, number, text};
use super::table::Table;

/// Show which models would be taken for a role, the best first.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  imageworks-models select caption
  imageworks-models select caption --top-n 1 --json | jq -r '.models[0].name'
  imageworks-models select caption --explain")]
pub(super) struct Args {
    /// What the model is wanted for, such as caption.
    #[arg(value_name = "ROLE")]
    role: String,
    /// At most so many.
    #[arg(long, value_name = "N", default_value = "3")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1000))]
    top_n: u32,
    /// Also say why each candidate was taken or left.
    #[arg(long)]
    explain: bool,
}

pub(super) async fn run(args: &Args, tools: &Tools) -> Result<(), CliError> {
    let selected = match ask(args, tools).await {
        Err(absence) if absence.is_absence() && tools.place.is_here() => {
            offline_selection(args, tools)?
        }
        told => told?,
    };
    let none = selected["models"].as_array().is_none_or(Vec::is_empty);
    if tools.out.json {
        tools.out.value(&selected)?;
    } else if args.explain || !none {
        tools.out.text(&render(&selected))?;
    }
    if none {
        let message = format!("no model can be taken for the role {:?}", args.role);
        return Err(CliError::not_found(message, "`--explain` says why each was left"));
    }
    Ok(())
}

async fn ask(args: &Args, tools: &Tools) -> Result<Value, CliError> {
    let explain = if args.explain { "&explain=1" } else { "" };
    let (role, top_n) = (in_path(&args.role), args.top_n);
    let path = format!("/v1/models/select_by_role?role={role}&top_n={top_n}{explain}");
    tools.daemon()?.get(&path).await
}

/// The same from the registry's files, where no daemon runs here.
fn offline_selection(args: &Args, tools: &Tools) -> Result<Value, CliError> {
    let view = registry::inspect(&tools.place.registry()?)?;
    tools.out.note(FROM_FILES);
    let wanted =
        Ask { role: &args.role, needs: &[], top_n: args.top_n as usize, explain: args.explain };
    let selection = view.roles().select(&wanted).map_err(|unknown| {
        let refusal = ApiError::from(unknown);
        CliError::not_found(refusal.message, refusal.hint.unwrap_or_default())
    })?;
    serde_json::to_value(selection)
        .map_err(|error| CliError::failed(error.to_string(), "a defect; please report it"))
}

fn render(selected: &Value) -> String {
    let said = |key: &str| Some(text(&selected[key])).filter(|text| !text.is_empty());
    let mut head: Vec<String> = Vec::new();
    head.extend(said("role").map(|role| format!("role {role}")));
    head.extend(said("profile").map(|profile| format!("profile {profile}")));
    let vram = number(&selected["max_vram_mb"]);
    head.extend((!vram.is_empty()).then(|| format!("{vram} MB of GPU memory")));
    head.extend(said("model_selection_bias").map(|bias| format!("bias {bias}")));
    let mut all = format!("{}\n", head.join(", "));
    let mut table = Table::new(&["#", "NAME", "SHOWN AS", "BACKEND", "QUANT", "VRAM MB", "SCORE"]);
    let models = selected["models"].as_array();
    for (rank, model) in models.into_iter().flatten().enumerate() {
        let (name, id) = (text(&model["name"]), text(&model["id"]));
        table.row(vec![
            (rank + 1).to_string().into(),
            name.as_str().into(),
            if name == id { "".into() } else { id.into() },
            text(&model["backend"]).into(),
            text(&model["quantization"]).into(),
            number(&model["vram_estimate_mb"]).into(),
            number(&model["role_priority"]).into(),
        ]);
    }
    if models.is_some_and(|models| !models.is_empty()) {
        all.push_str(&table.render(false));
    }
    if let Some(reasons) = selected["explain"].as_array() {
        let mut table = Table::new(&["CANDIDATE", "TAKEN", "WHY"]);
        for reason in reasons {
            let taken = if reason["taken"] == true { "yes" } else { "no" };
            table.row(vec![
                text(&reason["name"]).into(),
                taken.into(),
                text(&reason["reason"]).into(),
            ]);
        }
        all.push('\n');
        all.push_str(&table.render(false));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_choice_is_shown_with_what_it_was_made_by() {
        let mut selected = json!({"role": "caption", "profile": "balanced_24gb",
            "max_vram_mb": 22000, "model_selection_bias": "balanced", "top_n": 2, "models": [
            {"id": "Qwen 7B", "name": "qwen-7b", "backend": "vllm", "quantization": "awq",
             "vram_estimate_mb": 9000, "role_priority": 90},
            {"id": "tiny-o", "name": "tiny-o", "backend": "ollama", "quantization": null,
             "vram_estimate_mb": null, "role_priority": 1.5}]});
        insta::assert_snapshot!(render(&selected), @"
        role caption, profile balanced_24gb, 22000 MB of GPU memory, bias balanced
        #  NAME     SHOWN AS  BACKEND  QUANT  VRAM MB  SCORE
        1  qwen-7b  Qwen 7B   vllm     awq    9000     90
        2  tiny-o   -         ollama   -      -        1.5
        ");
        selected["explain"] = json!([
            {"name": "qwen-7b", "taken": true, "reason": "best score"},
            {"name": "huge", "taken": false, "reason": "80000 MB do not fit into 22000 MB"}]);
        selected["models"] = json!([]);
        insta::assert_snapshot!(render(&selected), @"
        role caption, profile balanced_24gb, 22000 MB of GPU memory, bias balanced

        CANDIDATE  TAKEN  WHY
        qwen-7b    yes    best score
        huge       no     80000 MB do not fit into 22000 MB
        ");
    }
}
