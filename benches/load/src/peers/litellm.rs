//! LiteLLM's proxy with one model of kind `openai`, without its key, its log lines and its look at
//! the network. It must never leave this machine.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use super::{free_port, serve};
use crate::Fault;
use crate::client::Target;
use crate::process::Managed;

/// Starts it.
pub(super) fn start(
    program: &Path,
    engine: SocketAddr,
    folder: &Path,
) -> Result<(Target, Managed), Fault> {
    let address = free_port()?;
    let (file, log) = (folder.join("config.yaml"), folder.join("log.json"));
    fs::write(&file, configuration(engine))?;
    fs::write(&log, quiet().to_string())?;
    let mut command = Command::new(program);
    command
        .arg("--config")
        .arg(&file)
        .arg("--log_config")
        .arg(&log)
        .args(["--host", "127.0.0.1", "--port", &address.port().to_string()])
        // As many as the daemon has threads for requests on the two cores of our tables.
        .args(["--num_workers", "2", "--telemetry", "False"])
        // No connection is closed for its age: new ones would be measured instead of requests.
        .args(["--keepalive_timeout", "3600"])
        .env("LITELLM_LOG", "ERROR")
        // Else it asks the network for the prices of models before it starts.
        .env("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        .env("LITELLM_MODE", "PRODUCTION")
        // Else it takes a hundred equal events for a model that has gone mad.
        .env("REPEATED_STREAMING_CHUNK_LIMIT", "1000000000");
    Ok((Target::plain(address), serve(&mut command, folder)?))
}

fn configuration(engine: SocketAddr) -> String {
    format!(
        "model_list:
  - model_name: bench
    litellm_params:
      model: openai/bench
      api_base: http://{engine}/v1
      api_key: bench
litellm_settings:
  # A retry would be counted as one slow answer; what goes wrong shall be seen.
  num_retries: 0
  request_timeout: 3600
  set_verbose: false
general_settings:
  # It listens on loopback, before an engine that invents nothing: no key to check, the quickest way.
  dangerously_permit_weak_or_unset_master_key: true
"
    )
}

/// No line per request: the other peers write none either.
fn quiet() -> serde_json::Value {
    json!({
        "version": 1,
        "disable_existing_loggers": false,
        "handlers": {"stderr": {"class": "logging.StreamHandler"}},
        "loggers": {
            "uvicorn": {"level": "ERROR", "handlers": ["stderr"], "propagate": false},
            "uvicorn.access": {"level": "ERROR", "handlers": [], "propagate": false},
        },
    })
}
