//! Settings from this process: the file that the environment names, and the environment itself.

use std::path::PathBuf;

use chat_proxy_actors::forwarder::ForwardSettings;
use chat_proxy_actors::logger::LogSettings;
use chat_proxy_actors::registry::RegistrySettings;
use chat_proxy_core::config::{self, Input, Loaded, Problem, Settings};
use chat_proxy_core::registry::listing::ListingRules;
use chat_proxy_core::registry::{EndpointRules, Rules};

/// Read if the variable names no other.
const DEFAULT_FILE: &str = "configs/chat_proxy.toml";
/// What the daemon remembers between starts.
const STATE_DIR: &str = "_staging";
const FILE_VARIABLE: &str = "CHAT_PROXY_CONFIG_FILE";

/// Reads file and environment. A file that the variable names must exist; the default one need not.
pub(crate) fn from_process() -> Result<Loaded, Vec<Problem>> {
    let named = std::env::var(FILE_VARIABLE).ok().filter(|name| !name.trim().is_empty());
    let path = named.clone().unwrap_or_else(|| DEFAULT_FILE.to_owned());
    let file = match std::fs::read_to_string(&path) {
        Ok(text) => Some((path, text)),
        Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => {
            let place = if named.is_some() { format!("{FILE_VARIABLE}={path}") } else { path };
            return Err(vec![Problem { place, message: format!("cannot be read: {error}") }]);
        }
    };
    let (env, mut problems) = environment();
    match config::load(&Input { file, env }) {
        Ok(loaded) if problems.is_empty() => Ok(loaded),
        Ok(_) => Err(problems),
        Err(more) => {
            problems.extend(more);
            Err(problems)
        }
    }
}

/// The environment as text; a variable of ours that is none is a problem, others do not matter.
fn environment() -> (Vec<(String, String)>, Vec<Problem>) {
    let (mut env, mut problems) = (Vec::new(), Vec::new());
    for (name, value) in std::env::vars_os() {
        let Ok(name) = name.into_string() else { continue };
        match value.into_string() {
            Ok(value) => env.push((name, value)),
            Err(_) if name.starts_with("CHAT_PROXY_") => {
                problems
                    .push(Problem { place: name, message: "its value is not UTF-8".to_owned() });
            }
            Err(_) => {}
        }
    }
    (env, problems)
}

/// The registry's part.
pub(crate) fn registry(settings: &Settings) -> RegistrySettings {
    let server = &settings.server;
    RegistrySettings {
        dir: PathBuf::from(&server.registry_dir),
        state_dir: PathBuf::from(STATE_DIR),
        rules: Rules {
            endpoints: EndpointRules {
                loopback_alias: settings.general.loopback_alias.clone(),
                vllm_single_port: settings.vllm.vllm_single_port,
            },
            deployment: settings.profiles.deployment.clone(),
        },
        listing: ListingRules {
            include_test_models: server.include_test_models,
            include_non_installed: settings.general.include_non_installed,
            suppress_decorations: settings.general.suppress_decorations,
            template_dir: PathBuf::from(&server.template_dir),
        },
    }
}

/// The log writer's part.
pub(crate) fn log(settings: &Settings) -> LogSettings {
    LogSettings {
        path: PathBuf::from(&settings.server.log_path),
        max_bytes: settings.server.max_log_bytes,
        max_files: settings.logging.max_log_files,
        log_prompts: settings.logging.log_prompts,
    }
}

/// The forwarders' part.
pub(crate) fn forward(settings: &Settings) -> ForwardSettings {
    ForwardSettings::of(settings)
}
