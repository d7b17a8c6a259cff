//! `GET`, `PUT /v1/config/profile`: deployment and hardware profiles (SPEC 8).
//!
//! Owns: the endpoint's shape. Must never do: choose; a switch is a change of the settings.

use actix_web::{HttpRequest, HttpResponse, web};
use chat_proxy_actors::config::ChangeConfig;
use chat_proxy_core::ApiError;
use chat_proxy_core::profiles::{AUTO, Axis};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::state::AppState;
use super::{config, error, management};

/// Which profiles hold, which there are, and the GPUs.
pub(super) async fn show(request: HttpRequest, state: web::Data<AppState>) -> HttpResponse {
    match management::admin(&request) {
        Ok(()) => HttpResponse::Ok().json(shown(&state)),
        Err(refusal) => error::respond(&refusal),
    }
}

fn shown(state: &AppState) -> Value {
    let (profiled, settings) = (state.profiled(), state.settings());
    let (profiles, chosen) = (&profiled.profiles, &profiled.chosen);
    let hardware: Vec<&str> = profiles.hardware.keys().map(String::as_str).collect();
    let deployments: Vec<&str> = profiles.deployments.keys().map(String::as_str).collect();
    let available = [vec![AUTO], hardware.clone(), deployments.clone()].concat();
    json!({
        "active_profile": chosen.profile.name,
        "deployment": settings.profiles.deployment,
        "detected_gpus": profiled.gpus.gpus,
        "available_profiles": available,
        "total_usable_vram_mb": chosen.total_usable_vram_mb,
        "manual_override": chosen.manual_override,
        "profile": chosen.profile,
        "reason": chosen.reason,
        "detected_by": profiled.gpus.by,
        "detection_note": profiled.gpus.note,
        "hardware_profiles": hardware,
        "deployment_profiles": deployments,
        "roles": state.registry.load().roles().known(),
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    name: String,
}

/// Switches to a profile of either kind, in the settings file and at once; `auto`: by the GPUs.
pub(super) async fn switch(
    request: HttpRequest,
    mut payload: web::Payload,
    state: web::Data<AppState>,
) -> HttpResponse {
    match try_switch(&request, &mut payload, &state).await {
        Ok(body) => HttpResponse::Ok().json(body),
        Err(refusal) => error::respond(&refusal),
    }
}

async fn try_switch(
    request: &HttpRequest,
    payload: &mut web::Payload,
    state: &AppState,
) -> Result<Value, ApiError> {
    management::admin(request)?;
    let Order { name } = management::order(request, payload, state).await?;
    let name = name.trim().to_ascii_lowercase();
    let axis = state.profiled().profiles.axis(&name).map_err(|unknown| {
        ApiError::invalid("name", unknown.to_string())
            .hint("GET /v1/config/profile lists them; deployment_profiles.toml defines more")
    })?;
    let key = match axis {
        Axis::Deployment => "deployment",
        Axis::Hardware => "profile",
    };
    not_covered(state, key)?;
    let object = Map::from_iter([(key.to_owned(), Value::from(name))]);
    config::ask_for(state, ChangeConfig { object, guarded: false }).await?;
    Ok(shown(state))
}

/// What the environment says goes before the file: a switch there would do nothing.
fn not_covered(state: &AppState, key: &str) -> Result<(), ApiError> {
    let config = state.config.load();
    match config.loaded.origins.get(key) {
        Some(chat_proxy_core::config::Origin::Env(variable)) => {
            let message = format!("the variable {variable} says which profile holds");
            Err(ApiError::invalid("name", message).hint(format!("unset {variable}, or change it")))
        }
        _ => Ok(()),
    }
}
