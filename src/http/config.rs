//! `GET`, `PUT /v1/config/chat-proxy`: the settings (SPEC 3.3), in the shapes that existing clients read
//! (SPEC 12).
//!
//! Owns: those shapes. Must never do: show a secret, or decide what is valid.

use actix_web::{HttpRequest, HttpResponse, web};
use chat_proxy_actors::config::{ChangeConfig, ConfigError, ConfigState, Outcome};
use chat_proxy_core::config::{LEGACY_NAMES, Problem};
use chat_proxy_core::{ApiError, Code};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

use super::state::AppState;
use super::{error, management};

/// Reading, checking and writing a file takes milliseconds, unless the disk hangs.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// What is in force, what file and environment say, and which goes first.
pub(super) async fn show(request: HttpRequest, state: web::Data<AppState>) -> HttpResponse {
    if let Err(refusal) = management::admin(&request) {
        return error::respond(&refusal);
    }
    HttpResponse::Ok().json(shown(&state.config.load(), &state))
}

/// Changes keys in the file and in force.
pub(super) async fn change(
    request: HttpRequest,
    mut payload: web::Payload,
    state: web::Data<AppState>,
) -> HttpResponse {
    match try_change(&request, &mut payload, &state).await {
        Ok(body) => HttpResponse::Ok().json(body),
        Err(refusal) => error::respond(&refusal),
    }
}

async fn try_change(
    request: &HttpRequest,
    payload: &mut web::Payload,
    state: &AppState,
) -> Result<Value, ApiError> {
    management::admin(request)?;
    let object: Map<String, Value> = management::order(request, payload, state).await?;
    let guarded = management::has_admin_key(request);
    let outcome = ask_for(state, ChangeConfig { object, guarded }).await?;
    let now = state.config.load();
    let mut body = shown(&now, state);
    for (key, value) in said(&outcome, &now, state) {
        body.insert(key, value);
    }
    Ok(Value::Object(body))
}

/// Has settings changed.
pub(super) async fn ask_for(state: &AppState, change: ChangeConfig) -> Result<Outcome, ApiError> {
    let port = state.directory.port(|book| book.config.clone());
    let answer = port.ask(change, PATIENCE).await.map_err(|error| {
        let message = format!("the settings were not changed: {error}");
        ApiError::new(Code::Internal, message).hint("look at them before you try again")
    })?;
    answer.map_err(|error| refusal(&error, &path(state)))
}

fn path(state: &AppState) -> String {
    state.config_path.display().to_string()
}

fn shown(now: &ConfigState, state: &AppState) -> Map<String, Value> {
    let loaded = &now.loaded;
    let precedence = [
        "environment (CHAT_PROXY_*)".to_owned(),
        format!("file ({})", path(state)),
        "defaults".to_owned(),
    ];
    let mut body = Map::new();
    let mut put = |key: &str, value: Value| drop(body.insert(key.to_owned(), value));
    put("runtime", flat(&loaded.values));
    put("file", flat(&loaded.file));
    put("config_file_path", path(state).into());
    put("env_overrides", json!(loaded.env_overrides));
    put("precedence", json!(precedence));
    put("requires_restart", (!now.pending.is_empty()).into());
    put("restart_keys", json!(now.pending));
    if !now.problems.is_empty() {
        let problems = now.problems.iter().map(ToString::to_string);
        put("problems", json!(problems.collect::<Vec<_>>()));
    }
    body
}

/// Key → value; names of the original beside the new ones.
fn flat(values: &BTreeMap<&'static str, Value>) -> Value {
    let mut object: Map<String, Value> =
        values.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    for (old, new) in LEGACY_NAMES {
        if let Some(value) = values.get(new) {
            object.insert((*old).to_owned(), value.clone());
        }
    }
    Value::Object(object)
}

fn said(outcome: &Outcome, now: &ConfigState, state: &AppState) -> Vec<(String, Value)> {
    let covered: Vec<&str> = now
        .loaded
        .env_overrides
        .keys()
        .filter(|variable| {
            let key = variable.trim_start_matches("CHAT_PROXY_").to_ascii_lowercase();
            outcome.written.contains(&key.as_str())
        })
        .map(String::as_str)
        .collect();
    let mut message = match outcome.written.as_slice() {
        [] => "nothing to change: the settings are so already".to_owned(),
        keys => format!("written to {}: {}", path(state), keys.join(", ")),
    };
    if !outcome.applied.is_empty() {
        message = format!("{message}; in force now: {}", outcome.applied.join(", "));
    }
    if !now.pending.is_empty() {
        message = format!("{message}; with the next start: {}", now.pending.join(", "));
    }
    if !covered.is_empty() {
        let covered = covered.join(", ");
        message = format!("{message}; these variables go before the file: {covered}");
    }
    vec![
        ("status".to_owned(), "written".into()),
        ("applied".to_owned(), json!(outcome.applied)),
        ("message".to_owned(), message.into()),
    ]
}

fn refusal(error: &ConfigError, path: &str) -> ApiError {
    match error {
        ConfigError::Wrong(problems) => {
            let field = problems.first().map_or("", |problem: &Problem| problem.place.as_str());
            // A place in the file is no field of the request.
            let field = if field.contains(':') { "" } else { field };
            let refusal = ApiError::invalid(field, error.to_string());
            refusal.hint("nothing was written; GET this address shows all keys and their values")
        }
        ConfigError::Guarded(_) => ApiError::new(Code::Forbidden, error.to_string()).hint(format!(
            "edit {path}, or configure an API key with rights = [\"chat\", \"admin\"]"
        )),
        ConfigError::Busy(_) | ConfigError::Io { .. } => {
            ApiError::new(Code::Internal, error.to_string()).hint("nothing was changed")
        }
    }
}
