//! `current-model`: what is resident.

use serde_json::{Value, json};

use super::Tools;
use super::error::CliError;
use super::model::text;

/// Print the model that is resident: its name and nothing else, so that scripts can use it.
///
/// That is the model of the engine that serves, or what Ollama has loaded while it has the GPU.
/// Exit code 3: nothing is resident.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  imageworks-models current-model
  model=$(imageworks-models current-model) || echo 'nothing is loaded'")]
pub(super) struct Args {}

pub(super) async fn run(_: &Args, tools: &Tools) -> Result<(), CliError> {
    let shown = tools.daemon()?.get("/v1/backends").await?;
    let resident = resident(&shown)?;
    if tools.out.json {
        tools.out.value(&resident)
    } else {
        tools.out.line(&text(&resident["model"]))
    }
}

/// The model, and whose it is.
fn resident(shown: &Value) -> Result<Value, CliError> {
    let lines = shown["backends"].as_array().into_iter().flatten();
    let name = text(&shown["resident"]);
    let has = |line: &&Value| {
        let models = line["models"].as_array().into_iter().flatten();
        line["kind"] != "external"
            && (line["model"] == name.as_str() || models.into_iter().any(|model| *model == name))
    };
    match lines.clone().find(has) {
        Some(line) if !name.is_empty() => {
            Ok(json!({"model": name, "backend": line["kind"], "state": line["state"]}))
        }
        _ => {
            let coming = lines.clone().find(|line| line["state"] == "starting");
            let hint = match coming {
                Some(line) => format!("{} is being loaded", text(&line["model"])),
                None => "`imageworks-models activate-model NAME` loads one".to_owned(),
            };
            Err(CliError::not_found("nothing is resident", hint))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_resident_is_the_engines_or_ollamas() {
        let shown = |resident: Value, state: &str| {
            resident_of(&json!({"resident": resident, "backends": [
                {"kind": "vllm", "state": state, "model": "tiny-a"},
                {"kind": "ollama", "state": "ready", "model": "x:1", "models": ["x:1", "y:1"]},
                {"kind": "external", "state": "external", "model": "ollama"}]}))
        };
        assert_eq!(shown(json!("tiny-a"), "ready").unwrap(), "tiny-a of vllm");
        assert_eq!(shown(json!("y:1"), "stopped").unwrap(), "y:1 of ollama");
        assert_eq!(shown(json!("ollama"), "stopped").unwrap_err().exit_code(), 3, "nothing loaded");
        let error = shown(Value::Null, "starting").unwrap_err();
        assert_eq!(error.hint().as_deref(), Some("tiny-a is being loaded"));
    }

    fn resident_of(shown: &Value) -> Result<String, CliError> {
        resident(shown).map(|it| format!("{} of {}", text(&it["model"]), text(&it["backend"])))
    }
}
